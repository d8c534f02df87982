"""The HDF5 file between the two stages: made, filled row by row, continued, read and verified.

Safe against a kill at any moment: everything is allocated when the file is made (beside its final
name, then linked to it), rows are written before the ``status`` that counts them, and nothing is
created, grown or deleted while rows are being written. The default ``libver`` stays: with
``latest`` a killed writer left a flag set that kept the file from being opened.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from extract.config import TrunkSpec
from extract.errors import StoreError
from extract.source import SPLITS, Item

FORMAT = "headstart"
FORMAT_VERSION = 1
NOT_YET, DONE, FAILED = 0, 1, 2
DIGEST_BYTES = 16
REASON_BYTES = 120
CHUNK_BYTES = 2**20
# A second of work is what a kill may cost.
COMMIT_SECONDS = 1.0

_SPLIT_TYPE = h5py.enum_dtype({name: i for i, name in enumerate(SPLITS)}, basetype="i1")
_KEY_TYPE = h5py.string_dtype("utf-8")
_REASON_TYPE = h5py.string_dtype("utf-8", REASON_BYTES)
_COLUMNS = ("keys", "labels", "split", "status", "reason", "digest")


class Failure(NamedTuple):
    """A picture that could not be read: its row, why, and the digest of what was read."""

    row: int
    reason: str
    digest: bytes


class Block(NamedTuple):
    """Some finished rows, in any order; either part may be empty.

    ``rows`` is (b,) int64, ``features`` holds (b, *shape) by layer, ``digests`` is (b, 16) uint8.
    """

    rows: np.ndarray
    features: dict[str, np.ndarray]
    digests: np.ndarray
    failed: list[Failure]


class Store:
    """An open store: everything but the features is in memory, features are read by row.

    Attributes:
        path: Where the file is.
        attributes: Every attribute, as plain Python values.
        spec: The trunk that made the features.
        class_names: K names; a label is an index into them.
        keys: N keys, in row order.
        labels: (N,) int64, -1 without a label.
        split: (N,) int8, an index into ``SPLITS``.
        groups: N names of groups, or None.
        status: (N,) uint8: 0 not yet, 1 done, 2 failed.
        shapes: Shape of one row's features, by layer.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
        self.spec = TrunkSpec.from_dict(self.attributes)
        self.class_names = tuple(self.attributes["class_names"])
        self.keys: list[str] = list(file["keys"].asstr()[:])
        self.labels: np.ndarray = file["labels"][:]
        self.split: np.ndarray = file["split"][:]
        self.groups: list[str] | None = (
            list(file["groups"].asstr()[:]) if "groups" in file else None
        )
        self.status: np.ndarray = file["status"][:]
        self._features = _feature_sets(file, self.spec.layer)
        self.shapes = {layer: found.shape[1:] for layer, found in self._features.items()}
        self._uncommitted: list[tuple[np.ndarray, int]] = []
        self._committed_at = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every row was tried."""
        return bool((self.status != NOT_YET).all())

    @property
    def dtype(self) -> str:
        """Type of the stored features."""
        return str(self.attributes["dtype"])

    def read(self, layer: str, rows: np.ndarray | slice) -> np.ndarray:
        """Read features.

        Args:
            layer: One of ``shapes``.
            rows: Increasing row numbers, or a slice.

        Returns:
            (len(rows), *shape) in the stored type.
        """
        found = self._features[layer]
        if isinstance(rows, slice):
            return np.asarray(found[rows])
        values = np.empty((len(rows), *found.shape[1:]), found.dtype)
        for part in _runs(rows):
            # Ranges of rows, because HDF5 is slow on long lists of them.
            values[part] = found[rows[part][0] : rows[part][-1] + 1]
        return values

    def row_counts(self) -> dict[str, int]:
        """Return how many rows each layer's dataset has."""
        return {layer: int(found.shape[0]) for layer, found in self._features.items()}

    def failures(self) -> list[Failure]:
        """Return the rows that could not be read, with the reasons."""
        rows = np.flatnonzero(self.status == FAILED)
        if not len(rows):
            return []
        reasons, digests = self._file["reason"][:], self._file["digest"][:]
        return [
            Failure(int(row), reasons[row].decode("utf-8", "replace"), digests[row].tobytes())
            for row in rows
        ]

    def digests(self) -> np.ndarray:
        """Return the (N, 16) uint8 BLAKE2b-128 digests of the image files."""
        return np.asarray(self._file["digest"][:])

    def write(self, block: Block) -> None:
        """Write finished rows; they count from the next commit on, at most a second later.

        Raises:
            StoreError: The disk is full or failing.
        """
        order = np.argsort(block.rows)
        with _explained(self.path):
            for part in _runs(block.rows[order]):
                first, last = block.rows[order[part]][[0, -1]]
                for layer, values in block.features.items():
                    self._features[layer][first : last + 1] = values[order[part]]
                self._file["digest"][first : last + 1] = block.digests[order[part]]
            for failure in block.failed:
                self._write_failure(failure)
        self._uncommitted.append((block.rows, DONE))
        self._uncommitted.append((np.array([f.row for f in block.failed], np.int64), FAILED))
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def _write_failure(self, failure: Failure) -> None:
        for found in self._features.values():
            found[failure.row] = np.nan
        reason = failure.reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        self._file["reason"][failure.row] = reason.encode()
        self._file["digest"][failure.row] = np.frombuffer(failure.digest, np.uint8)

    def commit(self) -> None:
        """Make the written rows count: rows reach the disk first, their status after them.

        Raises:
            StoreError: The disk is full or failing.
        """
        with _explained(self.path):
            self._sync()
            for rows, status in self._uncommitted:
                self.status[rows] = status
            self._uncommitted.clear()
            self._file["status"][:] = self.status
            self._file.attrs.modify("complete", np.uint8(self.complete))
            self._sync()
        self._committed_at = time.monotonic()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())


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
    row_bytes = (
        sum(int(np.prod(shape)) for shape in shapes.values())
        * np.dtype(attributes["dtype"]).itemsize
    )
    check_room(path, len(items), row_bytes)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _explained(path):
            with h5py.File(beside, "w") as file:
                _allocate(file, items, shapes, attributes["dtype"])
                _describe(file, attributes)
            if replace:
                os.replace(beside, path)
            else:
                _link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_room(path: Path, rows: int, row_bytes: int) -> None:
    """Raise StoreError when the disk has no room for so many rows of features."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected one to write {path.name} into")
    needed, free = rows * row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{path}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; use --pooling avg, "
            "--dtype float16, an earlier row of smaller maps, or another disk"
        )


def _link(beside: Path, path: Path) -> None:
    """Give a finished file its name, unless another run has just taken that name."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise StoreError(
            f"{path}: another run has just made it; run the same command again"
        ) from None
    except OSError:
        # A file system without hard links.
        os.rename(beside, path)


def _allocate(
    file: h5py.File, items: Sequence[Item], shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> None:
    count = len(items)
    file.create_dataset("keys", data=[item.key for item in items], dtype=_KEY_TYPE)
    file.create_dataset("labels", data=np.array([item.label for item in items], np.int64))
    split = np.array([item.split for item in items], _SPLIT_TYPE)
    file.create_dataset("split", data=split)
    if any(item.group for item in items):
        file.create_dataset("groups", data=[item.group for item in items], dtype=_KEY_TYPE)
    file.create_dataset("status", data=np.zeros(count, np.uint8))
    file.create_dataset("reason", data=np.zeros(count, _REASON_TYPE))
    file.create_dataset("digest", data=np.zeros((count, DIGEST_BYTES), np.uint8))
    for layer, shape in shapes.items():
        name = "features" if len(shapes) == 1 else f"features/{layer}"
        _allocate_features(file, name, (count, *shape), np.dtype(dtype))


def _allocate_features(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Reserve the space of a dataset without writing it, in chunks of whole rows."""
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
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


@contextmanager
def open_store(path: str | os.PathLike[str], write: bool = False) -> Iterator[Store]:
    """Open a store; on leaving, written rows are committed and the file is closed.

    Args:
        path: The file.
        write: Open it for writing, which one process at a time can.

    Yields:
        The store.

    Raises:
        StoreError: There is no such file, it is damaged, of another program, newer, or in use.
    """
    path = Path(path)
    file = _open(path, write)
    try:
        _check_layout(path, file)
        store = Store(path, file)
        try:
            yield store
        except KeyboardInterrupt:
            if write:
                store.commit()
            raise
        if write:
            store.commit()
    finally:
        with _explained(path):
            file.close()


def is_in_use(path: Path) -> bool:
    """Say whether another process is writing to the file."""
    try:
        h5py.File(path, "r+").close()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _open(path: Path, write: bool) -> h5py.File:
    if not path.is_file():
        raise StoreError(f"{path}: no such file; make it with extract-features SOURCE {path.name}")
    try:
        # One chunk is about 1 MB, which the default cache of that size does not hold.
        return h5py.File(path, "r+" if write else "r", rdcc_nbytes=16 * CHUNK_BYTES)
    except BlockingIOError:
        raise StoreError(
            f"{path}: another process has it open; wait for it, or stop it, and run this again"
        ) from None
    except PermissionError as error:
        raise StoreError(f"{path}: {error.strerror}; expected a file that can be opened") from None
    except OSError as error:
        what = "truncated" if "truncated file" in str(error) else "not a readable HDF5 file"
        raise StoreError(
            f"{path}: {what}; expected a store of extract-features; remove it and run "
            "extract-features again"
        ) from error


def _check_layout(path: Path, file: h5py.File) -> None:
    """Raise StoreError unless the file is a store that this version can read."""
    if _plain(file.attrs.get("format")) != FORMAT:
        raise StoreError(
            f"{path}: an HDF5 file of another program; expected a store of extract-features"
        )
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format {version}; expected {FORMAT_VERSION} or lower; upgrade headstart"
        )
    missing = [name for name in (*_COLUMNS, "features") if name not in file]
    missing += [
        name for name in ("class_names", "trunk", "layer", "dtype") if name not in file.attrs
    ]
    if missing:
        raise StoreError(
            f"{path}: lacks {', '.join(missing)}; expected a whole store; run extract-features "
            "again with --overwrite"
        )


def _feature_sets(file: h5py.File, layers: tuple[str, ...]) -> dict[str, Any]:
    found = file["features"]
    if isinstance(found, h5py.Dataset):
        return {layers[0]: found}
    return {layer: found[layer] for layer in layers}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what HDF5 and the system say of a failed write into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno == 28 or "No space left" in str(error)
        what = "the disk is full" if full else f"cannot be written: {error}"
        do = "make room" if full else "look after the disk"
        raise StoreError(
            f"{path}: {what}; {do} and run the same command again: finished rows are kept"
        ) from error


def _runs(rows: np.ndarray) -> list[slice]:
    """Cut increasing row numbers into slices of neighbours."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]


def _plain(value: Any) -> Any:
    """Turn what h5py gives for an attribute into str, int, float, bool or lists of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
