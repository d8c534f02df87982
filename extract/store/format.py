"""What the HDF5 file consists of: its objects, made all at once, and the check that they are there.

Safe against a kill at any moment: everything is allocated when the file is made (beside its final
name, then linked to it), and nothing is created, grown or deleted later. The default ``libver``
stays: with ``latest`` a killed writer left a flag set that kept the file from being opened.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.core.atomic import move_into_place, publish, temporary_path
from extract.core.errors import StoreError
from extract.images.digests import DIGEST_BYTES
from extract.images.item import SPLITS, Item

FORMAT = "headstart"
FORMAT_VERSION = 1
# What a file says of itself alone; all other attributes are how its rows came about.
OWN_ATTRIBUTES = ("format", "format_version", "complete")
REASON_BYTES = 120
CHUNK_BYTES = 2**20
# What a file needs beside its features and keys, and each of its rows: 13 kB and 189 bytes of it
# were found. HDF5 crashes when the process ends if a disk is full while a file is being made.
_FILE_BYTES, _ROW_BYTES = 2**16, 240

_SPLIT_TYPE = h5py.enum_dtype({name: i for i, name in enumerate(SPLITS)}, basetype="i1")
_KEY_TYPE = h5py.string_dtype("utf-8")
_REASON_TYPE = h5py.string_dtype("utf-8", REASON_BYTES)
# What has one entry a row, and of which type.
COLUMN_TYPES: Mapping[str, np.dtype] = {
    "keys": _KEY_TYPE,
    "labels": np.dtype(np.int64),
    "split": _SPLIT_TYPE,
    "status": np.dtype(np.uint8),
    "reason": _REASON_TYPE,
    "digest": np.dtype(np.uint8),
    "groups": _KEY_TYPE,
    "checksum": np.dtype(np.uint32),
}
# What the system says of a file that is none of its own faults, and what helps.
CURES: Mapping[int, str] = {
    errno.ENOLCK: "its file system gives no locks: set HDF5_USE_FILE_LOCKING=FALSE, let nothing "
    "else use the file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "let other programs close files",
}
# Not where there are no groups, and not in files made before there were checksums.
_OPTIONAL = ("groups", "checksum")


def create_store(
    path: Path,
    items: Sequence[Item],
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
    replace: bool = False,
) -> None:
    """Make a store with every row still to do, under its name only once it is whole.

    Args:
        path: The file to make.
        items: The rows, in order.
        shapes: Shape of one row's features, by layer.
        attributes: ``class_names``, ``dtype``, the fields of the TrunkSpec and what else is to be
            remembered; None values are left out.
        replace: Take the place of an existing file.

    Raises:
        StoreError: The file exists, its folder does not, or the disk has no room.
    """
    check_disk_space(path, items, shapes, attributes)
    with wrap_write_errors(path), temporary_path(path) as made:
        write_store(made, items, shapes, attributes)
        move_into_place(made, path) if replace else publish(made, path)


def write_store(
    path: Path,
    items: Sequence[Item],
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
) -> None:
    """Make a store under a name that nobody knows yet; see ``create_store``."""
    with h5py.File(path, "w") as file:
        _allocate(file, items, shapes, attributes)
        _describe(file, attributes)


def training_rows(items: Sequence[Item]) -> np.ndarray:
    """Return the rows of the training split, the only ones that have augmented views, int64."""
    return np.array([row for row, item in enumerate(items) if item.split == 0], np.int64)


def count_views(items: Sequence[Item], views: int) -> int:
    """Return how many views there are in all, the plain ones included."""
    return len(items) + views * len(training_rows(items))


def check_disk_space(
    path: Path,
    items: Sequence[Item],
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
    files: int = 1,
) -> None:
    """Raise StoreError when the disk has no room for a store in files; see ``create_store``."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected one to write {path.name} into")
    values = sum(int(np.prod(shape)) for shape in shapes.values())
    rows = count_views(items, attributes.get("views", 0))
    texts = sum(len(f"{item.key}{item.group}".encode("utf-8", "replace")) for item in items)
    needed = rows * values * np.dtype(attributes["dtype"]).itemsize
    needed += texts + files * _FILE_BYTES + len(items) * _ROW_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{path}: {needed / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free; use --pooling avg, "
            "--dtype float16, or another disk"
        )


def _allocate(
    file: h5py.File,
    items: Sequence[Item],
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
) -> None:
    count, views, dtype = len(items), attributes.get("views", 0), np.dtype(attributes["dtype"])
    file.create_dataset("keys", data=[item.key for item in items], dtype=_KEY_TYPE)
    file.create_dataset("labels", data=np.array([item.label for item in items], np.int64))
    split = np.array([item.split for item in items], _SPLIT_TYPE)
    file.create_dataset("split", data=split)
    if any(item.group for item in items):
        file.create_dataset("groups", data=[item.group for item in items], dtype=_KEY_TYPE)
    file.create_dataset("status", data=np.zeros(count, np.uint8))
    file.create_dataset("reason", data=np.zeros(count, _REASON_TYPE))
    file.create_dataset("digest", data=np.zeros((count, DIGEST_BYTES), np.uint8))
    file.create_dataset("checksum", data=np.zeros(count, np.uint32))
    for layer, shape in shapes.items():
        name = "features" if len(shapes) == 1 else f"features/{layer}"
        _allocate_features(file, name, (count, *shape), dtype)
    if views:
        rows = training_rows(items)
        file.create_dataset("views/row", data=rows)
        for layer, shape in shapes.items():
            _allocate_features(file, f"views/{layer}", (len(rows), views, *shape), dtype)


def _allocate_features(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Reserve the space of a dataset without writing it, in chunks of whole rows."""
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if shape[0]:  # a shard may have no row with views
        plist.set_chunk((min(shape[0], max(1, CHUNK_BYTES // row_bytes)), *shape[1:]))
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    parents = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    parents.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(
        file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, plist, parents
    )


def _describe(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["complete"] = np.uint8(0)
    for name, value in attributes.items():
        if isinstance(value, list | tuple) and not all(isinstance(v, int) for v in value):
            file.attrs.create(name, list(value), dtype=_KEY_TYPE)
        elif isinstance(value, list | tuple) and not value:
            file.attrs.create(name, [], shape=(0,), dtype=_KEY_TYPE)
        elif value is not None:
            file.attrs[name] = value


def check_layout(path: Path, file: h5py.File) -> None:
    """Raise StoreError unless the file is a store that this version can read."""
    if to_plain(file.attrs.get("format")) != FORMAT:
        raise StoreError(
            f"{path}: an HDF5 file of another program; expected a store of extract-features"
        )
    check_version(path, file)
    wanted = [name for name in (*COLUMN_TYPES, "features") if name not in _OPTIONAL]
    if file.attrs.get("views", 0):
        wanted += ["views/row", *(f"views/{layer}" for layer in to_plain(file.attrs["layer"]))]
    missing = [name for name in wanted if name not in file]
    missing += [
        name
        for name in ("class_names", "trunk", "layer", "dtype", "precision", "weights_sha256")
        if name not in file.attrs
    ]
    if missing:
        raise StoreError(
            f"{path}: lacks {', '.join(missing)}; expected a whole store; remove it and run "
            "extract-features again"
        )


def check_version(path: Path, file: h5py.File) -> None:
    """Raise StoreError where the file is of a format that this version does not know."""
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format {version}; expected {FORMAT_VERSION} or lower; upgrade headstart"
        )


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Turn what HDF5 and the system say of a failed write into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        # What HDF5 keeps for itself it writes when a file is closed; h5py has no number for that.
        if isinstance(error, RuntimeError) and not full:
            raise
        # HDF5 says it in its own words, at length, and a name not yet given says nothing: of what
        # names a file, only the system's word on one that people know is passed on.
        named = os.fsdecode(getattr(error, "filename", None) or ".")
        known = not os.path.basename(named).startswith(".")
        said = os.strerror(number) if number and not known else error
        what = "the disk is full" if full else f"cannot be written: {said}"
        do = "make room" if full else CURES.get(number or 0, "look after the disk")
        raise StoreError(
            f"{path}: {what}; {do} and run the same command again: finished rows are kept"
        ) from error


def to_plain(value: Any) -> Any:
    """Turn what h5py gives for an attribute into str, int, float, bool or lists of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [to_plain(entry) for entry in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
