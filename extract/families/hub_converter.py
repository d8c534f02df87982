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
        image_size: Height and width; None for any, or if the trunk says it.
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
    config = converter.get("config", {})
    pad = "pad" if config.get("pad_to_aspect_ratio") else "stretch"
    resize = "crop" if config.get("crop_to_aspect_ratio", True) else pad
    size, interpolation, scale, offset = None, spec.interpolation, [1.0] * 3, [0.0] * 3
    expected, remedy = "", ""
    try:
        if spec.preprocess in ("", "auto"):
            expected = "scale and offset of an ImageConverter of KerasHub"
            remedy = "--preprocess rescale (1/255) or none (0..255)"
            _check_settings(converter)
            scale, offset = _read_scale(config)
        if not any(spec.image_size):
            expected, remedy = "a height and width of 1 to 4096", "--image-size"
            size = _read_size(config)
        if not interpolation:
            expected, remedy = ", ".join(_FILTERS), "--interpolation"
            interpolation = _read_filter(config)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        problem = f"image_converter.json: {error}; expected {expected}; give {remedy}"
        raise TrunkError(f"{spec.trunk}: {problem}") from error
    return Converter(size, resize, interpolation, scale, offset)


def _check_settings(converter: Mapping[str, Any]) -> None:
    """Raise ValueError for a class or a setting that can do more to pixels than scale them."""
    kind = str(converter.get("registered_name"))
    if not re.fullmatch(r"keras_(hub|nlp)>\w*ImageConverter", kind):
        raise ValueError(f"found the class {kind}")
    if unknown := sorted(converter["config"].keys() - _KNOWN):
        raise ValueError(f"found the setting {unknown[0]}")


def _read_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    size = config.get("image_size") or [config.get("height"), config.get("width")]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"found the size {size}")
    if not all(side is None or (type(side) is int and 0 < side <= 4096) for side in size):
        raise ValueError(f"found the size {size}")
    return None if None in size else (size[0], size[1])


def _read_filter(config: Mapping[str, Any]) -> str:
    name = str(config.get("interpolation", "bilinear"))
    if name not in _FILTERS:
        raise ValueError(f"found the interpolation {name}")
    return _FILTERS[name]


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
