"""Presets of KerasHub: the files of a backbone, read and checked without Keras.

A folder is read without any network. What a name stands for is fetched by KerasHub's own packages
and is a folder, too.
"""

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.config import HUB, TrunkSpec
from extract.core.errors import TrunkError, WeightsUnavailableError, quoted, unknown_name
from extract.families.hub_converter import read_converter
from extract.images.remote import check_local
from extract.limits.unpacked import read_json

CONFIG, CONVERTER, WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
EXPECTED = "expected an image backbone of KerasHub, as backbone.save_to_preset writes it"
# What is said of a model, and not of its numbers.
_NO_NUMBERS = ("name", "trainable")
# Levels of the configuration, and pixels of a side.
_MOST_LEVELS, _MOST_PIXELS = 32, 4096

Find = Callable[[str], Path | None]


class Preset(NamedTuple):
    """The files of a preset.

    Attributes:
        trunk: Its name or folder, as the settings have it.
        kind: Name of the backbone's class.
        config: Configuration of the backbone, without types.
        converter: Configuration of its image converter; None without one.
        files: The paths of all of them; the last one is that of the weights.
    """

    trunk: str
    kind: str
    config: dict[str, Any]
    converter: dict[str, Any] | None
    files: tuple[Path, ...]

    @property
    def image_config(self) -> dict[str, Any]:
        """The part of the configuration that is about images."""
        encoder: dict[str, Any] = self.config.get("vision_encoder", {}).get("config", self.config)
        return encoder

    @property
    def shape_name(self) -> str:
        """The name that the size of the images has in the configuration."""
        return "input_shape" if "input_shape" in self.image_config else "image_shape"

    def with_size(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return a copy of the configuration for images of a height and width."""
        config = json.loads(json.dumps(self.config))
        copied = self._replace(config=config)
        copied.image_config[self.shape_name] = [*size, 3]
        return copied.config


def is_name(trunk: str) -> bool:
    """Return whether a trunk is a preset by name, which KerasHub fetches."""
    path = Path(trunk.removeprefix(HUB))
    return path.name == str(path) != "" and not path.exists()


def read_preset(trunk: str) -> Preset:
    """Read and check the files of a preset but its weights.

    Args:
        trunk: ``hub:`` and a folder, or a name; for a name, Keras is loaded already.

    Raises:
        WeightsUnavailableError: The host of a name cannot be reached.
        TrunkError: The folder is missing or is no backbone of images, or KerasHub is not installed.
    """
    find = _find_named(trunk) if is_name(trunk) else _find_in_folder(trunk)
    path = find(CONFIG)
    if not path:
        raise TrunkError(f"{trunk}: found no {CONFIG}; {EXPECTED}")
    config = _read(trunk, path)
    kind, files = _check_classes(trunk, config), [path]
    preset = Preset(trunk, kind, _without_types(trunk, config["config"]), None, ())
    _check_shape(preset)
    if path := find(CONVERTER):
        files.append(path)
        preset = preset._replace(converter=_read(trunk, path))
    path = find(WEIGHTS)
    if not path:
        raise TrunkError(f"{trunk}: found no {WEIGHTS}, and several files are not read; {EXPECTED}")
    return preset._replace(files=(*files, path))


def settle(spec: TrunkSpec) -> TrunkSpec:
    """Complete a spec by what its preset says: the size of its images, and how they become pixels.

    Raises:
        TrunkError: See ``read_preset``; or the preset does not say it.
    """
    preset = read_preset(spec.trunk)
    size = preset.image_config[preset.shape_name][:2]
    resize, interpolation = "stretch", "bilinear"
    if preset.converter:
        converter = read_converter(spec, preset.converter)
        size, resize = converter.image_size or size, converter.resize
        interpolation = converter.interpolation
    elif spec.preprocess in ("", "auto"):
        problem = f"found no {CONVERTER}, so how pixels enter it is not known"
        remedy = "give --preprocess rescale (1/255) or none (0..255), or save its ImageConverter"
        raise TrunkError(f"{spec.trunk}: {problem}; {remedy} into the folder")
    size = spec.image_size if any(spec.image_size) else tuple(size)
    if not all(size):
        raise TrunkError(f"{spec.trunk}: takes images of any size; give --image-size")
    return replace(
        spec,
        image_size=size,
        resize=spec.resize or resize,
        interpolation=spec.interpolation or interpolation,
        preprocess=spec.preprocess or "auto",
    )


def rescaling(spec: TrunkSpec) -> dict[str, Any]:
    """Return ``scale`` and ``offset`` of a preset's pixels: x * scale + offset for x of 0..255."""
    converter = read_converter(spec, read_preset(spec.trunk).converter or {})
    return {"scale": converter.scale, "offset": converter.offset}


def digest_preset(spec: TrunkSpec, weights_sha256: str) -> str:
    """Return the SHA-256, as hex digits, of all that decides numbers: where it is does not."""
    preset = read_preset(spec.trunk)
    config = {k: v for k, v in preset.config.items() if k not in _NO_NUMBERS}
    pixels = rescaling(spec) if spec.preprocess == "auto" else None
    text = json.dumps([preset.kind, config, pixels, weights_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _find_in_folder(trunk: str) -> Find:
    folder = Path(trunk.removeprefix(HUB))
    check_local(folder, TrunkError)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise TrunkError(f"{trunk}: {problem}; {EXPECTED}; check --trunk")

    def find(name: str) -> Path | None:
        path = folder / name
        if path.resolve().parent != folder.resolve():
            problem = f"{name} is a link to {quoted(str(path.resolve()))}, out of the folder"
            raise TrunkError(f"{trunk}: {problem}; {EXPECTED}; copy the file into it")
        return path if path.is_file() else None

    return find


def _find_named(trunk: str) -> Find:
    name = trunk.removeprefix(HUB)
    keras_hub = load_keras_hub(trunk)
    import kagglehub

    known = keras_hub.models.Backbone.presets
    if name not in known:
        unknown = unknown_name("preset", name, known)
        raise TrunkError(f"{trunk}: no such folder, and {unknown}; check --trunk")
    handle = known[name]["kaggle_handle"].removeprefix("kaggle://")

    def find(file: str) -> Path | None:
        try:
            # A download is reported on stderr, whatever a version of the package does.
            with contextlib.redirect_stdout(sys.stderr):
                return Path(kagglehub.model_download(handle, file))
        except Exception as error:  # of any of the packages that it asks
            if re.search("404 Client Error|is not present in the model files", str(error)):
                return None
            raise WeightsUnavailableError(_describe_unavailable(trunk, error)) from error

    return find


def _describe_unavailable(trunk: str, error: Exception) -> str:
    name = trunk.removeprefix(HUB)
    text = " ".join(str(error).split()) or type(error).__name__
    cause = match[0] if (match := re.search(r"\[Errno[^)'\"]*", text)) else text[:200]
    save = f'.from_preset("{name}").save_to_preset("DIR")'
    return (
        f"{trunk}: not on this machine, and its host cannot be reached ({cause}); on another one "
        f"run keras_hub.models.Backbone{save} and keras_hub.layers.ImageConverter{save}, copy DIR "
        f"to this machine and give --trunk hub:DIR"
    )


def load_keras_hub(trunk: str) -> Any:
    """Import ``keras_hub``, whose import needs Keras to be loaded.

    Raises:
        TrunkError: It is not installed, or something that it needs is not.
    """
    try:
        import keras_hub
    except ImportError as error:
        where = "no such folder, and " if is_name(trunk) else ""
        problem = f"{where}presets of KerasHub need the package keras-hub ({error})"
        raise TrunkError(f'{trunk}: {problem}; pip install "headstart[hub]"') from error
    return keras_hub


def _read(trunk: str, path: Path) -> dict[str, Any]:
    """Read a configuration, which is a class and its settings."""
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise TrunkError(f"{trunk}: {path.name}: {error}; {EXPECTED}") from error
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        raise TrunkError(f"{trunk}: {path.name}: found no class with a config; {EXPECTED}")
    return value


def _check_classes(trunk: str, config: dict[str, Any]) -> str:
    """Return the class of a configuration, all of whose classes are backbones of KerasHub."""
    for entry in _entries(trunk, config):
        if {"class_name", "registered_name"} & entry.keys():
            kind = entry.get("class_name")
            is_known = re.fullmatch(r"\w+(Backbone|Encoder)", str(kind), re.ASCII)
            names = (f"keras_hub>{kind}", f"keras_nlp>{kind}")  # the latter is its former name
            if not is_known or entry.get("registered_name") not in names:
                found = f"found the class {quoted(str(kind))}, which is no backbone of KerasHub"
                raise TrunkError(f"{trunk}: {CONFIG}: {found}; {EXPECTED}")
    return str(config.get("class_name"))


def _entries(trunk: str, value: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings in a value of JSON but those of types."""
    pending = [(0, value)]
    while pending:
        depth, value = pending.pop()
        if depth > _MOST_LEVELS:
            raise TrunkError(
                f"{trunk}: {CONFIG}: found more than {_MOST_LEVELS} levels; {EXPECTED}"
            )
        if isinstance(value, dict):
            yield value
            value = [entry for name, entry in value.items() if name != "dtype"]
        if isinstance(value, list):
            pending += [(depth + 1, entry) for entry in value]


def _without_types(trunk: str, value: Any) -> Any:
    """Return a value of JSON without the types that a model was saved in."""
    if isinstance(value, list):
        return [_without_types(trunk, entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if re.search("Quantized|PolicyMap", json.dumps(value.get("dtype"))):
        raise TrunkError(f"{trunk}: found quantized weights; expected float ones; save it before")
    return {k: _without_types(trunk, entry) for k, entry in value.items() if k != "dtype"}


def _check_shape(preset: Preset) -> None:
    """Raise TrunkError unless a backbone takes colour images."""
    try:
        height, width, channels = preset.image_config[preset.shape_name]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TrunkError(f"{preset.trunk}: found a {preset.kind}; {EXPECTED}") from error
    is_side = [s is None or (type(s) is int and 0 < s <= _MOST_PIXELS) for s in (height, width)]
    if channels != 3 or not all(is_side):
        found = f"found images of {height} x {width} x {channels}"
        expected = f"expected a height and width of at most {_MOST_PIXELS}, and 3 colours"
        raise TrunkError(f"{preset.trunk}: {found}; {expected}")
