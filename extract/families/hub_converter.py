"""How KerasHub turns an image into a backbone's input: the settings of an image converter."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError

# Its filters; here images are smoothed before they shrink, whatever ``antialias`` says.
_FILTERS = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic"}
_FILTERS |= {"lanczos3": "lanczos"}
_KNOWN = {
    *("name", "trainable", "dtype", "bounding_box_format", "data_format", "antialias"),
    *("image_size", "height", "width", "interpolation"),
    *("crop_to_aspect_ratio", "pad_to_aspect_ratio", "scale", "offset", "mean", "variance"),
}


class Converter(NamedTuple):
    """The settings of an image converter.

    Attributes:
        image_size: Height and width; None for any.
        resize: ``stretch``, ``crop`` or ``pad``.
        interpolation: The filter.
        scale: Factor of values of 0..255, for each of R, G and B.
        offset: Added after that.
    """

    image_size: tuple[int, int] | None
    resize: str
    interpolation: str
    scale: list[float]
    offset: list[float]


def read_converter(spec: TrunkSpec, converter: Mapping[str, Any]) -> Converter:
    """Read the configuration of an image converter.

    Args:
        spec: The trunk; what it says itself is not needed from the converter.
        converter: The configuration.

    Raises:
        TrunkError: The converter does something that is not known here.
    """
    config, kind = converter.get("config", {}), str(converter.get("registered_name"))
    try:
        if not re.fullmatch(r"keras_(hub|nlp)>\w*ImageConverter", kind):
            raise ValueError(f"found the class {kind}")
        if spec.preprocess in ("", "auto") and (unknown := sorted(config.keys() - _KNOWN)):
            raise ValueError(f"found the setting {unknown[0]}")
        name = config.get("interpolation", "bilinear")
        if name not in _FILTERS and not spec.interpolation:
            raise ValueError(f"found the interpolation {name}; give --interpolation")
        scale, offset = _read_scale(config)
        size = config.get("image_size") or (config.get("height"), config.get("width"))
        if not all(side is None or (type(side) is int and 0 < side <= 4096) for side in size):
            raise ValueError(f"found the size {size}")
        pad = "pad" if config.get("pad_to_aspect_ratio") else "stretch"
        return Converter(
            (size[0], size[1]) if size[0] and size[1] else None,
            "crop" if config.get("crop_to_aspect_ratio", True) else pad,
            _FILTERS.get(name, ""),
            scale,
            offset,
        )
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        expected = "expected scale, offset and size of an ImageConverter of KerasHub"
        remedy = "give --preprocess rescale (1/255) or none (0..255)"
        raise TrunkError(
            f"{spec.trunk}: image_converter.json: {error}; {expected}; {remedy}"
        ) from error


def _read_scale(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return scale and offset of each colour; old presets have mean and variance instead."""
    scale, offset = config.get("scale"), config.get("offset")
    scale = _colours(1.0 if scale is None else scale)
    if "variance" in config:
        deviations = [math.sqrt(value) for value in _colours(config["variance"])]
        means = zip(_colours(config["mean"]), deviations, strict=True)
        scale = [value / std for value, std in zip(scale, deviations, strict=True)]
        return scale, [-mean / std for mean, std in means]
    return scale, _colours(0.0 if offset is None else offset)


def _colours(value: Any) -> list[float]:
    values = [float(entry) for entry in (value if isinstance(value, list) else [value] * 3)]
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"found {value} for the three colours")
    return values
