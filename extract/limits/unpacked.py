"""Archives of arrays, models and JSON: what they become in memory, before they take it.

A zip, an array and JSON declare or hold far more than their bytes if a stranger wants it: a few
kilobytes can become gigabytes.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from extract.limits.hdf5 import bytes_of_arrays, find_trap, read_floats

# Bytes that a file may become: real weights shrink to a quarter at most.
_FLOOR, _TIMES = 2**28, 16
# The weights in a file of Keras.
_WEIGHTS = "model.weights.h5"
# JSON: bytes of a text, and commas and brackets in it, each of a value of about 100 bytes.
_MOST_TEXT, _MOST_MARKS = 2**28, 10**7


def most_bytes(size: int, times: int = _TIMES) -> int:
    """Return how many bytes a file of ``size`` bytes may become."""
    return _FLOOR + times * size


def check_bytes(declared: int, size: int, most: int) -> None:
    """Raise ValueError if a file of ``size`` bytes declares more than ``most`` of them."""
    if declared > most:
        found = f"found {declared:,} bytes in a file of {size:,}"
        raise ValueError(f"{found}; at most {most:,} are read")


def check_zip(
    file: str | Path | BinaryIO, names: Iterable[str] | None = None, times: int = _TIMES
) -> None:
    """Raise ValueError if the members of a zip are far larger than the zip.

    Args:
        file: The zip; no member of it becomes larger than it declares.
        names: The members that are read, each as often as it is; all by default, once.
        times: How many times the size of the zip they may have.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist() if names is None else map(archive.getinfo, names)
        declared = sum(member.file_size for member in members)
    size = os.path.getsize(file) if isinstance(file, str | Path) else file.seek(0, os.SEEK_END)
    check_bytes(declared, size, most_bytes(size, times))


def read_arrays(path: str | Path, times: int = _TIMES) -> dict[str, np.ndarray]:
    """Return the arrays of a file of ``numpy.savez``; only plain arrays are read.

    Args:
        path: The file.
        times: How many times its size they may have.

    Raises:
        ValueError: They are far larger than the file, or hold values without bytes.
    """
    check_zip(path, times=times)
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = dict(file)
    if empty := [name for name, array in arrays.items() if array.size > array.nbytes]:
        raise ValueError(f"found {empty[0]} of {arrays[empty[0]].size:,} empty texts")
    return arrays


def check_weights(path: Path, most: int | None = None) -> None:
    """Raise ValueError if the arrays in an HDF5 or Keras file are far larger than the file.

    Args:
        path: The file.
        most: Bytes that all of its arrays together may have.
    """
    with _checked_weights(path, most):
        pass


def least_bytes(path: Path) -> int:
    """Return the bytes that a weight counts at least, so that a model has few more than a file.

    Where a number in a configuration makes any number of layers, so small that their weights are
    no sign of it.
    """
    return most_bytes(path.stat().st_size) // (2 * len(bytes_of_arrays(path)) + 2)


def read_weights(path: Path, most: int) -> dict[str, np.ndarray]:
    """Return the float32 arrays in an HDF5 or Keras file by name; see ``check_weights``."""
    with _checked_weights(path, most) as weights:
        return read_floats(weights)


@contextmanager
def _checked_weights(path: Path, most: int | None) -> Iterator[Path]:
    """Yield the HDF5 file of weights that a file is or has, after its check."""
    size = path.stat().st_size
    limit = most_bytes(size) if most is None else most
    if not zipfile.is_zipfile(path):
        yield _check_arrays(path, size, limit)
        return
    check_zip(path)
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        yield _check_arrays(Path(archive.extract(_WEIGHTS, folder)), size, limit)


def _check_arrays(path: Path, size: int, most: int) -> Path:
    if trap := find_trap(path):
        raise ValueError(trap)
    check_bytes(sum(bytes_of_arrays(path)), size, most)
    return path


def read_json(path: Path, member: str = "") -> Any:
    """Return the value in a JSON file, or in a member of a zip.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or is too large.
        OSError: The file cannot be read.
    """
    if not member:
        _check_text(path.stat().st_size)
        return parse_json(path.read_bytes())
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        _check_text(archive.getinfo(member).file_size)
        return parse_json(archive.read(member))


def parse_json(text: bytes) -> Any:
    """Return the value that a JSON text holds.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or is too large.
    """
    _check_text(len(text))
    marks = sum(map(text.count, (b",", b"[", b"{")))
    if marks > _MOST_MARKS:
        found = f"found {marks:,} commas and brackets in JSON"
        raise ValueError(f"{found}; at most {_MOST_MARKS:,} are read")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("found JSON that is nested too deeply") from error


def _check_text(size: int) -> None:
    if size > _MOST_TEXT:
        raise ValueError(f"found {size:,} bytes of JSON; at most {_MOST_TEXT:,} are read")
