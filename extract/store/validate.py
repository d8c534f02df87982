"""Open a file, and check that it is a valid store before any of it is used.

A store may come from a stranger. HDF5 can make one file read others (external links, virtual
datasets, external storage), and a few bytes look like terabytes (chunks that were never written,
filters). A store has none, so they are refused by the name of the object.
"""

import math
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from extract.core.config import DTYPES, PRECISIONS, TrunkSpec
from extract.core.errors import StoreError, nearest_path
from extract.core.flags import check_choice
from extract.images.remote import check_local
from extract.limits.hdf5 import find_trap
from extract.limits.locks import locked
from extract.store.format import (
    CHUNK_BYTES,
    COLUMN_TYPES,
    CURES,
    FOREIGN_VERSION,
    FORMAT,
    FORMAT_VERSION,
    WIDTHS,
    to_plain,
    wrap_write_errors,
)

_TEXTS = [field.name for field in fields(TrunkSpec) if field.type is str]
_TEXTS += ["weights_sha256", "dtype", "precision", "calibration_sha256"]
_TEXTS += ["source", "command", "engine", "columns", "root", "shards"]
_REQUIRED = ("class_names", "layer", "dtype")
# Absent in format 3, of features that another program made.
_OF_TRUNK = ("trunk", "precision", "weights_sha256")
# Absent without groups, and in files that are older than checksums and stamps.
_OPTIONAL = ("groups", "checksum", "stamp")
_LISTS = ("class_names", "layer", "versions", "calibration_keys")
# Of what a message says about a file.
_MOST_CHARACTERS = 500
# Texts that are read at once: a stranger's may all be the same one, which is as large as the file.
_PIECE = 64
# One chunk is about 1 MB, more than HDF5's default cache of 1 MB holds.
READ_CACHE = 16 * CHUNK_BYTES
# Files that may hold features of another program.
_FEATURE_FILES = (".npz", ".npy", ".parquet", ".arrow", ".feather", ".csv", ".tsv")
_EXPECTED = "expected a file of extract-features"


@contextmanager
def wrap_read_errors(path: Path) -> Iterator[None]:
    """Turn every error of HDF5 and h5py over a damaged file into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:
        raise StoreError(f"{path}: needs more memory than there is") from error
    except Exception as error:  # h5py raises a dozen kinds over hostile metadata
        reason = " ".join(str(error).split()) or type(error).__name__
        refuse(path, f"damaged ({reason[:200]})")


def is_in_use(path: Path) -> bool:
    """Return whether another process is writing to the file."""
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def check_there(path: Path) -> None:
    """Raise StoreError unless the file exists."""
    if path.is_dir():
        raise StoreError(f"{path}: a folder; expected a file of extract-features, such as out.h5")
    check_local(path, StoreError)
    if not path.is_file():
        make = f"extract-features SOURCE {shlex.quote(path.name)}"
        raise StoreError(f"{path}: no such file{nearest_path(path)}; make it with {make}")


@contextmanager
def open_file(path: Path, write: bool = False, cache: int = READ_CACHE) -> Iterator[h5py.File]:
    """Open an HDF5 file that reads no other file.

    Raises:
        StoreError: It cannot be opened or closed, or is a stranger's trap.
    """
    check_there(path)
    with _one_writer(path) if write else nullcontext(), _open(path, write, cache) as file:
        yield file


def _one_writer(path: Path) -> AbstractContextManager[None]:
    """Lock a file where HDF5 does not: its locks do nothing on Windows."""
    return nullcontext() if find_spec("fcntl") else locked(path, StoreError, "extract-features")


@contextmanager
def _open(path: Path, write: bool, cache: int) -> Iterator[h5py.File]:
    """Open an HDF5 file, see ``open_file``."""
    try:
        if trap := find_trap(path):
            refuse(path, trap)
        # No cache for writing: HDF5 can neither write nor drop it when the disk is full, and
        # crashes over it when the process ends.
        file = h5py.File(path, "r+" if write else "r", rdcc_nbytes=0 if write else cache)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{path}: {_explain(path, error)}") from error
    try:
        with wrap_read_errors(path):
            _check_foreign(path, file)
        yield file
    finally:
        # A full disk may be found out here only; RuntimeError is how HDF5 says it.
        with wrap_read_errors(path), wrap_write_errors(path):
            file.close()


def _explain(path: Path, error: Exception) -> str:
    """Say why a file cannot be opened, and what to do."""
    number = getattr(error, "errno", None)
    if isinstance(error, BlockingIOError):
        return "another process has it open; wait for it, or stop it, and run this again"
    if number:
        remedy = CURES.get(number, "look after the disk")
        return f"cannot be opened: {os.strerror(number)}; {remedy} and run this again"
    if not h5py.is_hdf5(path):  # perhaps an image: do not tell the user to remove it
        given = f"if it holds features: extract-features {path.name} OUT.h5"
        remedy = given if path.suffix.lower() in _FEATURE_FILES else "name another file"
        return f"not an HDF5 file; {_EXPECTED}; {remedy}"
    reason = "truncated" if "truncated file" in str(error) else "not a readable HDF5 file"
    return f"{reason}; {_EXPECTED}; remove it and run extract-features again"


def _check_foreign(path: Path, file: h5py.File) -> None:
    """Raise StoreError unless every object is stored in this file, byte for byte.

    This check comes first: asking whether a name exists already follows an external link.
    """
    size = path.stat().st_size
    # The walk ends at the first answer; an exception would not pass through it.
    problem = file.visititems_links(_find_link) or file.visititems(
        lambda name, node: _find_foreign(name, node, size)
    )
    # HDF5 may crash when it reads an attribute of another type.
    for name in file.attrs:
        dtype = file.attrs.get_id(name).dtype
        if dtype.kind not in "biufS" and not h5py.check_string_dtype(dtype):
            problem = f"{name} is neither text nor a number"
    if problem:
        refuse(path, problem)


def _find_link(name: str, link: Any) -> str | None:
    return None if isinstance(link, h5py.HardLink) else f"{name} is a link to somewhere else"


def _find_foreign(name: str, node: Any, size: int) -> str | None:
    """Say why a dataset is not stored in this file byte for byte."""
    if not isinstance(node, h5py.Dataset):
        return None
    creation = node.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        return f"{name} is kept in another file"
    if creation.get_nfilters():
        return f"{name} is compressed or filtered"
    stored = min(node.id.get_storage_size(), size)
    if math.prod(node.shape or ()) * node.dtype.itemsize > stored:
        return f"{name} has the shape {node.shape}, and {stored:,} bytes"
    return None


def check_version(path: Path, file: h5py.File) -> None:
    """Raise StoreError for a file of a newer format."""
    if (version := int(file.attrs.get("format_version", 0))) > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format {version}; expected {FORMAT_VERSION} or lower; upgrade headstart"
        )


def check_layout(path: Path, file: h5py.File) -> dict[str, Any]:
    """Return the attributes; raise StoreError unless the file is a store that can be read."""
    attributes = {name: to_plain(value) for name, value in file.attrs.items()}
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{path}: an HDF5 file of another program; {_EXPECTED}")
    check_version(path, file)
    long = [name for name in _LISTS if name not in attributes and name in file]
    attributes |= {name: _read_texts(path, name, file[name]) for name in long}
    wanted = [name for name in (*COLUMN_TYPES, "features") if name not in _OPTIONAL]
    if attributes.get("views", 0):
        wanted += ["views/row", *(f"views/{layer}" for layer in attributes["layer"])]
    missing = [name for name in wanted if name not in file]
    foreign = attributes.get("format_version") == FOREIGN_VERSION
    required = _REQUIRED if foreign else (*_REQUIRED, *_OF_TRUNK)
    missing += [name for name in required if name not in attributes]
    if missing:
        refuse(path, f"lacks {', '.join(missing)}")
    if foreign and (strange := [n for n in (*_OF_TRUNK, "views") if attributes.get(n)]):
        refuse(path, f"has {', '.join(strange)}, and features without a trunk")
    _check_attributes(path, attributes)
    _check_objects(path, file, attributes)
    return attributes


def _read_texts(path: Path, name: str, dataset: Any) -> list[str]:
    """Read a list that is too long for an attribute."""
    kind = getattr(dataset, "dtype", None)
    if getattr(dataset, "ndim", None) != 1 or not h5py.check_string_dtype(kind):
        refuse(path, f"{name} is {kind} {getattr(dataset, 'shape', '')}, expected a list of texts")
    texts: list[str] = []
    size, most = 0, path.stat().st_size
    for start in range(0, len(dataset), _PIECE):
        texts += dataset.asstr()[start : start + _PIECE].tolist()
        size += sum(len(text) for text in texts[start:])
        if size > most:
            refuse(path, f"{name} has more text than the file has bytes")
    return texts


def _check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError unless the attributes have their types, and known values."""
    for name, value in attributes.items():
        entries = value if isinstance(value, list) else [value]
        # h5py gives a name that is not UTF-8 as bytes.
        if not isinstance(name, str):
            refuse(path, f"{name!r} is not a UTF-8 name")
        if not all(isinstance(entry, str | int | float) for entry in entries):
            refuse(path, f"{name} is neither text nor a number")
        texts = [entry for entry in entries if isinstance(entry, str)]
        "".join(texts).encode()  # raises for text that is not UTF-8, which could not be printed
        expected = [value] if name in _TEXTS else value if name in _LISTS else texts
        if expected != texts:
            refuse(path, f"{name} is {value!r:.80}")
    # It is written again in place.
    if type(complete := attributes.get("complete", 0)) is not int:
        refuse(path, f"complete is {complete!r}")
    if "trunk" in attributes:
        if [type(side) for side in attributes["image_size"]] != [int, int]:
            refuse(path, f"image_size is {attributes['image_size']}")
        check_choice("precision", attributes["precision"], PRECISIONS)
    check_choice("dtype", attributes["dtype"], DTYPES)
    if len(set(attributes["class_names"])) != len(attributes["class_names"]):
        refuse(path, "class_names has a name twice")


def _check_objects(path: Path, file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError unless each object has its type and a shape that fits the others."""
    count, dtype, layers = len(file["keys"]), np.dtype(attributes["dtype"]), attributes["layer"]
    present = [name for name in COLUMN_TYPES if name in file]
    expected: dict[str, Any] = {name: (COLUMN_TYPES[name], (count,)) for name in present}
    expected |= {
        name: (COLUMN_TYPES[name], (count, WIDTHS[name])) for name in WIDTHS if name in file
    }
    several = isinstance(file["features"], h5py.Group)
    for layer in layers:
        name = f"features/{layer}" if several else "features"
        shape = getattr(file[name], "shape", None) or ()
        if len(shape) < 2 or 0 in shape[1:]:
            refuse(path, f"{name} has the shape {shape}")
        expected[name] = dtype, (count, *shape[1:])
        if views := attributes.get("views", 0):
            rows = file["views/row"].shape
            expected["views/row"] = np.dtype(np.int64), rows[:1]
            expected[f"views/{layer}"] = dtype, (*rows, views, *shape[1:])
    if not count:
        refuse(path, "keys is empty")
    if several != (len(layers) > 1):
        refuse(path, f"features does not fit the layers {', '.join(layers)}")
    # For NumPy all texts are objects and an enum is a number: h5py tells them apart.
    kinds = (np.dtype, h5py.check_string_dtype, h5py.check_enum_dtype)
    for name, (dtype, shape) in expected.items():
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            refuse(path, f"{name} is not a dataset")
        if any(kind(dataset.dtype) != kind(dtype) for kind in kinds) or dataset.shape != shape:
            refuse(path, f"{name} is {dataset.dtype} {dataset.shape}, expected {dtype} {shape}")
        # HDF5 reads numbers whose bits lie otherwise, and h5py gives them the same type.
        is_number = dtype.kind in "fiu" and not h5py.check_enum_dtype(dtype)
        if is_number and dataset.id.get_type() != h5py.h5t.py_create(dtype):
            refuse(path, f"{name} has other bits than {dtype}")


def refuse(path: Path, problem: str) -> NoReturn:
    """Raise the StoreError for a damaged file, whose names may be of any length."""
    problem = problem[:_MOST_CHARACTERS] + "..." * (len(problem) > _MOST_CHARACTERS)
    remedy = "restore it, or remove it and run extract-features again"
    raise StoreError(f"{path}: {problem}; {_EXPECTED}; {remedy}")
