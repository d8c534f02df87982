"""The objects of a store's HDF5 file: create them all at once, and check that they exist.

A kill at any moment is safe: the file is allocated under a temporary name and then linked to its
own, and nothing is created, grown or deleted later. ``libver`` keeps its default: with ``latest``,
a killed writer left a flag that kept the file from being opened.
"""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from extract.core.atomic import move_into_place, publish, temporary_path
from extract.core.config import BEFORE, TrunkSpec
from extract.core.errors import StoreError, show_bytes
from extract.images.digests import DIGEST_BYTES
from extract.images.item import SPLITS, Item

FORMAT = "headstart"
FORMAT_VERSION = 3
# Files of features that another program made have no trunk, and are of this format.
FOREIGN_VERSION = 3
# Attributes of the file itself; all others say how its rows were computed.
OWN_ATTRIBUTES = ("format", "format_version", "complete")
# A list of more texts is a dataset instead of an attribute, which makes the file one of format 2.
# HDF5 gives an attribute 64 kB, and a text takes 16 bytes of them, whatever its length.
MOST_TEXTS = 4090
REASON_BYTES = 120
CHUNK_BYTES = 2**20
# Room for a file, each row and each text of an attribute, on top of features and texts: 13 kB, 189
# and 36 bytes were measured.
# HDF5 crashes at the end of the process if the disk is full while a file is created.
_FILE_BYTES, _ROW_BYTES, _TEXT_BYTES = 2**16, 240, 40

_TEXT = h5py.string_dtype("utf-8")
# Datasets with one entry a row.
COLUMN_TYPES: Mapping[str, np.dtype] = {
    "keys": _TEXT,
    "labels": np.dtype(np.int64),
    "split": h5py.enum_dtype({name: i for i, name in enumerate(SPLITS)}, basetype="i1"),
    "status": np.dtype(np.uint8),
    "reason": h5py.string_dtype("utf-8", REASON_BYTES),
    "digest": np.dtype(np.uint8),
    "groups": _TEXT,
    "checksum": np.dtype(np.uint32),
    "stamp": np.dtype(np.int64),
}
# Values of a row in the columns that have several.
WIDTHS = {"digest": DIGEST_BYTES, "stamp": 2}
# Errors of the system that are no fault of the file, and their remedy.
CURES: Mapping[int, str] = {
    errno.ENOLCK: "its file system gives no locks: set HDF5_USE_FILE_LOCKING=FALSE, let nothing "
    "else use the file",
    errno.EACCES: "change its permissions",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "let other programs close files",
}


def read_trunk(attributes: Mapping[str, Any]) -> TrunkSpec:
    """Return the trunk of a store; features of another program have one with an empty name."""
    if attributes.get("trunk"):
        return TrunkSpec.from_dict(BEFORE | dict(attributes))
    spec = object.__new__(TrunkSpec)  # the checks would refuse it, as they do for a user
    empty = {field.name: "" for field in fields(TrunkSpec)}
    for name, value in {**empty, "layer": tuple(attributes["layer"]), "image_size": (0, 0)}.items():
        object.__setattr__(spec, name, value)
    return spec


def training_rows(items: Sequence[Item]) -> np.ndarray:
    """Return the rows of the training split, the only ones with augmented views, as int64."""
    return np.array([row for row, item in enumerate(items) if item.split == 0], np.int64)


class Layout(NamedTuple):
    """A store to create.

    Attributes:
        items: The rows, in order.
        shapes: Shape of one row's features, by layer.
        attributes: ``class_names``, ``dtype``, the fields of the TrunkSpec and all other
            attributes; None values are left out.
    """

    items: Sequence[Item]
    shapes: Mapping[str, tuple[int, ...]]
    attributes: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all features, views included."""
        values = sum(map(math.prod, self.shapes.values()))
        rows = self.attributes.get("views", 0) * len(training_rows(self.items)) + len(self.items)
        return int(rows * values * np.dtype(self.attributes["dtype"]).itemsize)

    def check_disk_space(self, path: Path, files: int = 1) -> None:
        """Raise StoreError when the disk has no room for a store in files."""
        folder = path.absolute().parent
        if not folder.is_dir():
            raise StoreError(f"{folder}: no such folder; expected one to write {path.name} into")
        texts = sum(_size(f"{i.key}{i.group}") for i in self.items)
        listed = [text for value in self.attributes.values() if _are_texts(value) for text in value]
        file_bytes = _FILE_BYTES + sum(_size(text) + _TEXT_BYTES for text in listed)
        needed = self.size + texts + files * file_bytes + len(self.items) * _ROW_BYTES
        free = shutil.disk_usage(folder).free
        if needed > free:
            found = f"found {show_bytes(free)} of free disk space; expected {show_bytes(needed)}"
            are_maps = "trunk" in self.attributes and any(len(s) > 1 for s in self.shapes.values())
            smaller = "--pooling avg, " * are_maps
            smaller += "--dtype float16, " * (self.attributes["dtype"] != "float16")
            raise StoreError(f"{path}: {found}; make room, use {smaller}or name another disk")

    def write(self, path: Path) -> None:
        """Write an empty store to a temporary path."""
        items, shapes, attributes = self
        count, views, dtype = len(items), attributes.get("views", 0), np.dtype(attributes["dtype"])
        keys, _, labels, splits, groups, _ = zip(*items, strict=True)
        columns = {"keys": keys, "labels": labels, "split": splits}
        columns |= {"groups": groups} if any(groups) else {}
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file.create_dataset(name, data=values, dtype=COLUMN_TYPES[name])
            for name in ("status", "reason", "digest", "checksum", "stamp"):
                width = [WIDTHS[name]] if name in WIDTHS else []
                file.create_dataset(name, data=np.zeros([count, *width], COLUMN_TYPES[name]))
            rows = training_rows(items)
            for layer, shape in shapes.items():
                name = "features" if len(shapes) == 1 else f"features/{layer}"
                _allocate(file, name, (count, *shape), dtype)
                if views:
                    _allocate(file, f"views/{layer}", (len(rows), views, *shape), dtype)
            if views:
                file.create_dataset("views/row", data=rows)
            version = 1 if "trunk" in attributes else FOREIGN_VERSION
            file.attrs.update(format=FORMAT, format_version=version, complete=np.uint8(0))
            for name, value in attributes.items():
                if _are_texts(value) and len(value) > MOST_TEXTS:
                    file.attrs["format_version"] = max(2, version)
                    file.create_dataset(name, data=list(value), dtype=_TEXT)
                elif _are_texts(value):
                    file.attrs.create(name, list(value), shape=(len(value),), dtype=_TEXT)
                elif value is not None:
                    file.attrs[name] = value


def _are_texts(value: Any) -> bool:
    """Return whether the value of an attribute is a list of texts."""
    return isinstance(value, list | tuple) and not (value and isinstance(value[0], int | float))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def create_store(path: Path, layout: Layout, replace: bool = False) -> None:
    """Create a store with every row still to do; it gets its name once it is complete.

    Args:
        path: The file to create.
        layout: Rows, shapes and attributes.
        replace: Replace an existing file.

    Raises:
        StoreError: The file exists, its folder does not, or the disk has no room.
    """
    layout.check_disk_space(path)
    with wrap_write_errors(path), temporary_path(path) as temporary:
        layout.write(temporary)
        move_into_place(temporary, path) if replace else publish(temporary, path)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Reserve the space of a dataset without writing it, in chunks of complete rows."""
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    chunk = (min(shape[0], max(1, CHUNK_BYTES // row_bytes)), *shape[1:])
    # A shard may have no row with views.
    file.create_dataset(name, shape, dtype, chunks=chunk if shape[0] else None, dcpl=plist)


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a failed write into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        # HDF5 writes its own data when a file is closed; h5py gives no number for such an error.
        if isinstance(error, RuntimeError) and not full:
            raise
        # HDF5's message is long, and a temporary name says nothing: keep the message only for a
        # file that the user knows.
        name = os.path.basename(os.fsdecode(getattr(error, "filename", None) or "."))
        reason = os.strerror(number) if number and name.startswith(".") else error
        what = "the disk is full" if full else f"cannot be written: {reason}"
        do = "make room" if full else CURES.get(number or 0, "look after the disk")
        raise StoreError(
            f"{path}: {what}; {do} and run the same command again: finished rows are kept"
        ) from error


def to_plain(value: Any) -> Any:
    """Turn an attribute's value into str, int, float, bool or a list of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [to_plain(entry) for entry in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
