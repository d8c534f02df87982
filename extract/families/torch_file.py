"""Tensors in PyTorch's file format from before 2020, without PyTorch.

Such a file is five pickles (a number, a version, the system, the tensors' shapes, the keys of their
storages) and then, in the order of the keys, the values of each storage. A pickle can call whatever
it names, so this reader knows four names, and is given only files whose digest is known.
"""

import pickle
from collections import OrderedDict
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np


class _Tensor(NamedTuple):
    """Where the values of a tensor are; offset and strides count values."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(key, offset, shape, strides)


# Everything that a pickle may name, and what takes its place. The types are no functions, so that
# a pickle cannot call them.
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Unpickler(pickle.Unpickler):
    """A reader of pickles that knows the four names only."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.types: dict[str, str] = {}  # of the storages, by key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"found the name {module}.{name}, which is not read")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> str:
        """Return the key of a storage: ("storage", type, key, device, size, view)."""
        self.types[pid[2]] = pid[1]
        return str(pid[2])


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Read the tensors of a file by name, in its order.

    Args:
        content: The whole file, whose digest the caller has checked.

    Raises:
        pickle.UnpicklingError: It names anything else than the four names.
    """
    file = BytesIO(content)
    for _ in range(3):
        _Unpickler(file).load()
    reader = _Unpickler(file)
    tensors = reader.load()
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        kind = np.dtype(reader.types[key])
        storages[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    return {name: _view(storages[tensor.key], tensor) for name, tensor in tensors.items()}


def _view(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Return the values of a tensor in a storage; NumPy checks that they lie within it."""
    strides = tuple(storage.itemsize * stride for stride in tensor.strides)
    return np.ndarray(
        tensor.shape, storage.dtype, storage, tensor.offset * storage.itemsize, strides
    )
