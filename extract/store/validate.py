"""Opening a file, and whether it is a store through and through, before anything in it is believed.

A store may come from a stranger. HDF5 can make one file read others (external links, virtual
datasets, external storage), and can make a few bytes look like terabytes (chunks that were never
written, filters). A store has none of these, so they are refused by the name of the object.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.core.config import DTYPES, PRECISIONS
from extract.core.errors import StoreError
from extract.core.flags import check_choice
from extract.images.digests import DIGEST_BYTES
from extract.store.format import CHUNK_BYTES, COLUMN_TYPES, CURES

_TEXTS = (
    *("trunk", "weights", "pooling", "resize", "interpolation", "preprocess"),
    *("weights_sha256", "dtype", "precision", "calibration_sha256", "source", "command", "engine"),
)
_LISTS = ("class_names", "layer", "versions", "calibration_keys")
# One chunk is about 1 MB, which HDF5's own cache of that size does not hold.
READ_CACHE = 16 * CHUNK_BYTES
_ELSEWHERE = "is a link to somewhere else"
_DO = "restore it, or remove it and run extract-features again"


@contextmanager
def wrap_read_errors(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 and h5py raise over a damaged file into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:
        raise StoreError(f"{path}: needs more memory than there is") from error
    except Exception as error:  # h5py raises a dozen kinds over hostile metadata
        said = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(
            f"{path}: damaged ({said[:200]}); expected a store of extract-features; {_DO}"
        ) from error


def is_in_use(path: Path) -> bool:
    """Say whether another process is writing to the file."""
    try:
        h5py.File(path, "r").close()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def check_there(path: Path) -> None:
    """Raise StoreError unless there is a file of this name."""
    if path.is_dir():
        raise StoreError(
            f"{path}: a folder; expected a file that extract-features makes, such as out.h5"
        )
    if not path.is_file():
        raise StoreError(f"{path}: no such file; make it with extract-features SOURCE {path.name}")


def open_file(path: Path, write: bool = False, cache: int = READ_CACHE) -> h5py.File:
    """Open an HDF5 file in which nothing leads to another one.

    Raises:
        StoreError: It cannot be opened, or is of a stranger's making.
    """
    # Rows are written straight to the disk: what waits in a cache when a disk is full can neither
    # be written nor dropped, and HDF5 crashes over it when the process ends.
    mode, cache = ("r+", 0) if write else ("r", cache)
    check_there(path)
    try:
        file = h5py.File(path, mode, rdcc_nbytes=cache)
    except BlockingIOError:
        raise StoreError(
            f"{path}: another process has it open; wait for it, or stop it, and run this again"
        ) from None
    except PermissionError as error:
        raise StoreError(f"{path}: {error.strerror}; expected a file that can be opened") from None
    except Exception as error:
        if number := getattr(error, "errno", None):
            do = CURES.get(number, "look after the disk")
            raise StoreError(
                f"{path}: cannot be opened: {os.strerror(number)}; {do} and run this again"
            ) from error
        if not h5py.is_hdf5(path):  # perhaps an image: nothing that we should have removed
            raise StoreError(
                f"{path}: not an HDF5 file; expected a store of extract-features; name another file"
            ) from error
        what = "truncated" if "truncated file" in str(error) else "not a readable HDF5 file"
        raise StoreError(
            f"{path}: {what}; expected a store of extract-features; remove it and run "
            "extract-features again"
        ) from error
    try:
        with wrap_read_errors(path):
            check_foreign(path, file)
    except StoreError:
        file.close()
        raise
    return file


def check_foreign(path: Path, file: h5py.File) -> None:
    """Raise StoreError unless every object lies in this file, whole and as it is.

    To be called first: an external link is followed by merely asking whether its name is there.
    """
    size = path.stat().st_size
    # The walk ends at the first answer; an exception would not pass through it.
    found = file.visititems_links(
        lambda name, link: None if isinstance(link, h5py.HardLink) else (name, _ELSEWHERE)
    ) or file.visititems(lambda name, found: _find_foreign(name, found, size))
    # Before one is read: HDF5 may crash over a list of nothing in particular.
    for name in file.attrs:
        kind = file.attrs.get_id(name).dtype
        if kind.kind not in "biufS" and not h5py.check_string_dtype(kind):
            found = name, "is no text or number"
    if found:
        _refuse(path, *found)


def _find_foreign(name: str, found: Any, size: int) -> tuple[str, str] | None:
    """Return the name of an object that is not stored in this file byte for byte, and why."""
    if not isinstance(found, h5py.Dataset):
        return None
    made = found.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        return name, "is kept in another file"
    if made.get_nfilters():
        return name, "is compressed or filtered"
    stored = min(found.id.get_storage_size(), size)
    if math.prod(found.shape or ()) * found.dtype.itemsize > stored:
        return name, f"has the shape {found.shape}, and {stored:,} bytes"
    return None


def check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError unless the attributes have the types, and those of choice the values."""
    for name, value in attributes.items():
        many = value if isinstance(value, list) else [value]
        # h5py gives a name that is not UTF-8 as bytes.
        if not isinstance(name, str):
            _refuse(path, str(name), "is no name in UTF-8")
        if not all(isinstance(entry, str | int | float) for entry in many):
            _refuse(path, name, "is no text or number")
        texts = [entry for entry in many if isinstance(entry, str)]
        "".join(texts).encode()  # what is not UTF-8 raises, and could not be printed
        if (name in _TEXTS and not isinstance(value, str)) or (
            name in _LISTS and not (isinstance(value, list) and len(texts) == len(value))
        ):
            _refuse(path, name, f"is {value!r:.80}")
    if [type(side) for side in attributes["image_size"]] != [int, int]:
        _refuse(path, "image_size", f"is {attributes['image_size']}")
    for name, known in (("dtype", DTYPES), ("precision", PRECISIONS)):
        check_choice(name, attributes[name], known)
    if len(set(attributes["class_names"])) != len(attributes["class_names"]):
        _refuse(path, "class_names", "has a name twice")


def check_objects(path: Path, file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError unless each object has its type and a shape that fits the others."""
    count, dtype, layers = len(file["keys"]), np.dtype(attributes["dtype"]), attributes["layer"]
    for name, wanted in COLUMN_TYPES.items():
        if name in file:  # some need not be
            tail = (DIGEST_BYTES,) if name == "digest" else ()
            _check_object(path, file, name, wanted, (count, *tail))
    if not count:
        _refuse(path, "keys", "is empty")
    several = isinstance(file["features"], h5py.Group)
    for layer in layers:
        name = f"features/{layer}" if several else "features"
        shape = getattr(file[name], "shape", None) or ()
        if len(shape) < 2 or 0 in shape:
            _refuse(path, name, f"has the shape {shape}")
        _check_object(path, file, name, dtype, (count, *shape[1:]))
        if views := attributes.get("views", 0):
            rows = file["views/row"].shape
            _check_object(path, file, "views/row", np.dtype(np.int64), rows[:1])
            _check_object(path, file, f"views/{layer}", dtype, (*rows, views, *shape[1:]))
    if several != (len(layers) > 1):
        _refuse(path, "features", f"does not fit the layers {', '.join(layers)}")


def _check_object(
    path: Path, file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        _refuse(path, name, "is no dataset")
    # For NumPy all texts are objects and an enum is a number: h5py keeps the rest beside.
    kinds = (np.dtype, h5py.check_string_dtype, h5py.check_enum_dtype)
    if any(kind(found.dtype) != kind(dtype) for kind in kinds) or found.shape != shape:
        _refuse(path, name, f"is {found.dtype} {found.shape}, expected {dtype} {shape}")


def check_columns(
    path: Path, columns: Mapping[str, tuple[np.ndarray, int, int]], keys: Sequence[str]
) -> None:
    """Raise StoreError unless the columns lie between two values each and keys are there once."""
    for name, (column, low, high) in columns.items():
        outside = int(((column < low) | (column > high)).sum())
        if outside:
            _refuse(path, name, f"has {outside} values outside {low} to {high}")
    twice = len(keys) - len(set(keys))
    if twice:
        _refuse(path, "keys", f"has {twice} names twice")


def _refuse(path: Path, name: str, found: str) -> None:
    raise StoreError(f"{path}: {name} {found}; expected a store of extract-features; {_DO}")
