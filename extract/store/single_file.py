"""One HDF5 file of features: filled row by row, continued and read.

Rows are written before the ``status`` that counts them, so that a stop at any moment loses at most
the last second and never leaves a wrong row.
"""

import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.core.config import TrunkSpec, ViewSpec
from extract.core.errors import StoreError
from extract.core.row_block import DONE, FAILED, PENDING, Failure, RowBlock
from extract.images.item import SPLITS
from extract.store.format import REASON_BYTES, check_layout, to_plain, wrap_write_errors
from extract.store.validate import (
    check_attributes,
    check_columns,
    check_objects,
    open_file,
    wrap_read_errors,
)

# Why a power cut harms nothing that counts: all objects lie where they lay when the file was made,
# and rows, digests, checksums, status and ``complete`` are written over in place. Between two
# fsyncs a disk may write any sectors, in any order, and lose the rest. So what a row is goes first,
# behind an fsync its status, behind another ``complete``, which goes first where it ends. A cut
# costs rows that do not count; of the status each byte is the old or the new one, both right. Of
# HDF5's own data the attributes are written again, with one byte changed, and the superblock's
# flags for writing, which this format ignores.

# A second of work is what a kill may cost.
COMMIT_SECONDS = 1.0


class SingleStore:
    """An open store of one file: all but the features is in memory, features are read by row.

    Attributes:
        path: Where the file is.
        attributes: Every attribute, as plain Python values.
        spec: The trunk that made the features.
        view_spec: How the augmented views came about.
        view_rows: (M,) int64, the rows that have such views, increasing.
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
        self.attributes = {name: to_plain(value) for name, value in file.attrs.items()}
        check_attributes(path, self.attributes)
        check_objects(path, file, self.attributes)
        self.spec = TrunkSpec.from_dict(self.attributes)
        self.class_names = tuple(self.attributes["class_names"])
        self.keys: list[str] = list(file["keys"].asstr()[:])
        self.labels: np.ndarray = file["labels"][:]
        self.split: np.ndarray = file["split"][:]
        self.groups: list[str] | None = (
            list(file["groups"].asstr()[:]) if "groups" in file else None
        )
        self.status: np.ndarray = file["status"][:]
        self.view_spec = ViewSpec.from_dict(self.attributes)
        self._features = _feature_sets(file, self.spec.layer)
        views = self.spec.layer if self.view_spec.views else ()
        self._views = {layer: file[f"views/{layer}"] for layer in views}
        self.view_rows: np.ndarray = file["views/row"][:] if views else np.empty(0, np.int64)
        self.shapes = {layer: found.shape[1:] for layer, found in self._features.items()}
        self._check_columns()
        self._uncommitted: list[tuple[np.ndarray, int]] = []
        self._committed_at = time.monotonic()
        self._said_complete = bool(self.attributes.get("complete"))

    def _check_columns(self) -> None:
        columns = {
            "labels": (self.labels, -1, len(self.class_names) - 1),
            "split": (self.split, 0, len(SPLITS) - 1),
            "status": (self.status, PENDING, FAILED),
        }
        check_columns(self.path, columns, self.keys)
        viewed = np.flatnonzero((self.split == 0) & (self.view_spec.views > 0))
        if not np.array_equal(self.view_rows, viewed):
            raise StoreError(f"{self.path}: views are not those of the training split")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def has_views(self, rows: np.ndarray) -> np.ndarray:
        """Say of each row whether it has augmented views: those of the training split do."""
        return np.asarray((self.split[rows] == 0) & (self.view_spec.views > 0))

    @property
    def complete(self) -> bool:
        """Whether every row was tried."""
        return bool((self.status != PENDING).all())

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
        with wrap_read_errors(self.path):
            return np.asarray(found[rows]) if isinstance(rows, slice) else _read(found, rows)

    def read_views(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Read augmented views.

        Args:
            layer: One of ``shapes``.
            rows: Increasing row numbers, all in ``view_rows``.

        Returns:
            (len(rows), V, *shape) in the stored type.
        """
        with wrap_read_errors(self.path):
            return _read(self._views[layer], np.searchsorted(self.view_rows, rows))

    def view_counts(self) -> dict[str, tuple[int, int]]:
        """Return how many rows, and views of each, every layer's dataset of views has."""
        return {layer: found.shape[:2] for layer, found in self._views.items()}

    def failures(self) -> list[Failure]:
        """Return the rows that could not be read, with the reasons."""
        rows = np.flatnonzero(self.status == FAILED)
        if not len(rows):
            return []
        with wrap_read_errors(self.path):
            reasons = self._file["reason"][:]
        digests = self.digests()
        return [
            Failure(int(row), reasons[row].decode("utf-8", "replace"), digests[row].tobytes())
            for row in rows
        ]

    def digests(self) -> np.ndarray:
        """Return the (N, 16) uint8 BLAKE2b-128 digests of the image files."""
        with wrap_read_errors(self.path):
            return np.asarray(self._file["digest"][:])

    def write(self, block: RowBlock) -> None:
        """Write finished rows; they count from the next commit on, at most a second later.

        Raises:
            StoreError: The disk is full or failing.
        """
        order = np.argsort(block.rows)
        rows = block.rows[order]
        with wrap_write_errors(self.path):
            for layer, values in block.features.items():
                _write(self._features[layer], rows, values[order])
            self._write_views(block)
            _write(self._file["digest"], rows, block.digests[order])
            if "checksum" in self._file:
                sums = self._checksums(block.rows, block.features, block.views)
                _write(self._file["checksum"], rows, sums[order])
            for failure in block.failed:
                self._write_failure(failure)
        self._uncommitted.append((block.rows, DONE))
        self._uncommitted.append((np.array([f.row for f in block.failed], np.int64), FAILED))
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def _checksums(
        self, rows: np.ndarray, features: Mapping[str, np.ndarray], views: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return (b,) uint32 CRC-32 of what is stored of each row, layer by layer, views last."""
        sums = [0] * len(rows)
        viewed = np.flatnonzero(self.has_views(rows))
        for places, parts in ((np.arange(len(rows)), features), (viewed, views)):
            for layer in self.shapes if len(places) and parts else ():
                stored = np.ascontiguousarray(parts[layer], self.dtype)
                for place, values in zip(places.tolist(), stored, strict=True):
                    sums[place] = zlib.crc32(values, sums[place])
        return np.array(sums, np.uint32)

    def find_changed(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some increasing rows whose features are not what was written, int64.

        None in a file that was made before there were checksums.
        """
        if "checksum" not in self._file or not len(rows):
            return np.empty(0, np.int64)
        viewed = rows[self.has_views(rows)]
        now = self._checksums(
            rows,
            {layer: self.read(layer, rows) for layer in self.shapes},
            {layer: self.read_views(layer, viewed) for layer in self._views},
        )
        with wrap_read_errors(self.path):
            written = self._file["checksum"][:][rows]
        return np.asarray(rows[now != written])

    def forget(self, rows: np.ndarray) -> None:
        """Make rows count as not yet done.

        Raises:
            StoreError: The disk is full or failing.
        """
        self.status[rows] = PENDING
        self.commit()

    def _write_views(self, block: RowBlock) -> None:
        viewed = block.rows[self.has_views(block.rows)]
        order = np.argsort(viewed)
        places = np.searchsorted(self.view_rows, viewed[order])
        if len(viewed):
            for layer, found in self._views.items():
                _write(found, places, block.views[layer][order])

    def _write_failure(self, failure: Failure) -> None:
        for found in self._features.values():
            found[failure.row] = np.nan
        for place in np.flatnonzero(self.view_rows == failure.row):
            for found in self._views.values():
                found[place] = np.nan
        reason = failure.reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        self._file["reason"][failure.row] = reason.encode()
        self._file["digest"][failure.row] = np.frombuffer(failure.digest, np.uint8)

    def commit(self) -> None:
        """Make the written rows count: rows reach the disk first, their status after them.

        Raises:
            StoreError: The disk is full or failing.
        """
        with wrap_write_errors(self.path):
            self._sync()
            for rows, status in self._uncommitted:
                self.status[rows] = status
            self._uncommitted.clear()
            if self._said_complete and not self.complete:
                self._say_complete()
            self._file["status"][:] = self.status
            self._sync()
            if self._said_complete != self.complete:
                self._say_complete()
        self._committed_at = time.monotonic()

    def _say_complete(self) -> None:
        self._file.attrs.modify("complete", np.uint8(self.complete))
        self._sync()
        self._said_complete = self.complete

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())


@contextmanager
def open_single(path: str | os.PathLike[str], write: bool = False) -> Iterator[SingleStore]:
    """Open a store of one file; on leaving, written rows are committed and the file is closed.

    Args:
        path: The file.
        write: Open it for writing, which one process at a time can.

    Yields:
        The store.

    Raises:
        StoreError: There is no such file, it is damaged, of another program, newer, or in use.
    """
    path = Path(path)
    with store_in(path, open_file(path, write), write) as store:
        yield store


@contextmanager
def store_in(path: Path, file: h5py.File, write: bool) -> Iterator[SingleStore]:
    """Give the store in a file that ``open_file`` has opened, and close the file in the end."""
    try:
        with wrap_read_errors(path):
            check_layout(path, file)
            store = SingleStore(path, file)
        try:
            yield store
        except KeyboardInterrupt:
            if write:
                store.commit()
            raise
        if write:
            store.commit()
    finally:
        with wrap_read_errors(path), wrap_write_errors(path):
            file.close()


def read_single(
    path: Path, layers: Sequence[str], ranges: Iterable[slice]
) -> Iterator[list[np.ndarray]]:
    """Read ranges of rows of one file; see ``store.read_features``."""
    # Without a cache a range is read straight to where it goes, and not its chunks first.
    file = open_file(path, cache=0)
    try:
        with wrap_read_errors(path):
            found = _feature_sets(file, tuple(layers))
        for rows in ranges:
            with wrap_read_errors(path):
                read = [np.asarray(found[layer][rows]) for layer in layers]
            yield read
    finally:
        file.close()


def _feature_sets(file: h5py.File, layers: tuple[str, ...]) -> dict[str, Any]:
    found = file["features"]
    if isinstance(found, h5py.Dataset):
        return {layers[0]: found}
    return {layer: found[layer] for layer in layers}


def _read(found: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Read increasing rows: in ranges, because HDF5 is slow on long lists of them."""
    values = np.empty((len(rows), *found.shape[1:]), found.dtype)
    for part in _runs(rows):
        values[part] = found[rows[part][0] : rows[part][-1] + 1]
    return values


def _write(found: h5py.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write increasing rows."""
    for part in _runs(rows):
        found[rows[part][0] : rows[part][-1] + 1] = values[part]


def _runs(rows: np.ndarray) -> list[slice]:
    """Cut increasing row numbers into slices of neighbours."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]
