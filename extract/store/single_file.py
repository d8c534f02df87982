"""One HDF5 file of features: read by row, filled row by row, continued.

Rows are written before the ``status`` that counts them, so that a stop at any moment loses at most
the last second and never leaves a wrong row.
"""

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from extract.core.atomic import fsync_handle
from extract.core.row_block import DONE, FAILED, PENDING, RowBlock
from extract.core.views import ViewSpec
from extract.images.item import SPLITS
from extract.store.format import REASON_BYTES, read_trunk, wrap_write_errors
from extract.store.validate import check_layout, open_file, refuse, wrap_read_errors

# A power cut harms no row that counts: all objects stay where they were allocated, and rows,
# digests, checksums, status and ``complete`` are overwritten in place. Between two fsyncs a disk
# may write any sectors, in any order, and lose the rest. So rows are synced before their status,
# and the status before ``complete``, which is cleared first when rows become pending again. A cut
# costs rows that do not count; each byte of the status is the old or the new one, both right. Of
# HDF5's own data only the attributes, with one byte changed, and the superblock's write flags,
# which this format ignores, are written again.

# Seconds of work that a kill may cost.
COMMIT_SECONDS = 1.0


class StoreFile:
    """An open HDF5 file of a store: columns are in memory, features are read by row.

    Attributes are those of ``Store``, for the rows of this file.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.attributes = check_layout(path, file)
        self.dtype = str(self.attributes["dtype"])
        self.spec = read_trunk(self.attributes)
        self.view_spec = ViewSpec.from_dict(self.attributes)
        self.keys: list[str] = list(file["keys"].asstr()[:])
        self.groups = list(file["groups"].asstr()[:]) if "groups" in file else None
        self.labels: np.ndarray = file["labels"][:]
        self.split: np.ndarray = file["split"][:]
        self.status: np.ndarray = file["status"][:]
        self.digests: np.ndarray = file["digest"][:]
        summed = "checksum" in file
        self.checksums = file["checksum"][:] if summed else np.zeros(len(self.keys), np.uint32)
        stamped = "stamp" in file
        self.stamps = file["stamp"][:] if stamped else np.zeros((len(self.keys), 2), np.int64)
        views = self.spec.layer if self.view_spec.views else ()
        self._has_views = (self.split == 0) & bool(views)
        self._view_rows = np.flatnonzero(self._has_views)
        self._check_columns()
        if views and not np.array_equal(file["views/row"][:], self._view_rows):
            refuse(path, "views are not those of the training split")
        self._features = feature_sets(file, self.spec.layer)
        self._views = {layer: file[f"views/{layer}"] for layer in views}
        self.shapes = {layer: dataset.shape[1:] for layer, dataset in self._features.items()}
        self._uncommitted: list[tuple[np.ndarray, int]] = []
        self._committed_at = time.monotonic()
        self._said_complete = bool(self.attributes.get("complete"))

    def _check_columns(self) -> None:
        """Raise StoreError unless each column is within its range and every key is unique."""
        classes = len(self.attributes["class_names"])
        for name, column, low, high in (
            ("labels", self.labels, -1, classes - 1),
            ("split", self.split, 0, len(SPLITS) - 1),
            ("status", self.status, PENDING, FAILED),
        ):
            if outside := int(((column < low) | (column > high)).sum()):
                refuse(self.path, f"{name} has {outside} values outside {low} to {high}")
        if duplicates := len(self.keys) - len(set(self.keys)):
            refuse(self.path, f"keys has {duplicates} names twice")

    @property
    def complete(self) -> bool:
        """Whether every row was tried."""
        return bool((self.status != PENDING).all())

    def read(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), *shape) features of increasing rows."""
        return self._read(self._features[layer], rows)

    def read_views(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), V, *shape) augmented views of increasing rows that have them."""
        return self._read(self._views[layer], np.searchsorted(self._view_rows, rows))

    def read_reasons(self, rows: np.ndarray) -> list[str]:
        """Return why each row failed."""
        reasons = self._read(self._file["reason"], rows)
        return [text.decode("utf-8", "replace") for text in reasons]

    def _read(self, dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
        """Read increasing rows, range by range: HDF5 is slow on long lists of rows."""
        with wrap_read_errors(self.path):
            runs = _runs(rows)
            if len(runs) == 1:
                return np.asarray(dataset[rows[0] : rows[-1] + 1])
            values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
            for run in runs:
                values[run] = dataset[rows[run][0] : rows[run][-1] + 1]
            return values

    def find_changed(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the features of increasing rows differ from what was written.

        Files that are older than checksums differ nowhere.
        """
        if "checksum" not in self._file:
            return np.zeros(len(rows), bool)
        viewed = rows[self._has_views[rows]]
        features = {layer: self.read(layer, rows) for layer in self.shapes}
        views = {layer: self.read_views(layer, viewed) for layer in self._views}
        written = self._read(self._file["checksum"], rows)
        return np.asarray(self._checksums(rows, features, views) != written)

    def _checksums(
        self, rows: np.ndarray, features: Mapping[str, np.ndarray], views: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return (b,) uint32 CRC-32 of each row's stored bytes, layer by layer, views last."""
        sums = [0] * len(rows)
        viewed = np.flatnonzero(self._has_views[rows])
        for places, values in ((np.arange(len(rows)), features), (viewed, views)):
            for layer in self.shapes if len(places) else ():
                stored = np.ascontiguousarray(values[layer], self.dtype)
                for place, row in zip(places.tolist(), stored, strict=True):
                    sums[place] = zlib.crc32(row, sums[place])
        return np.array(sums, np.uint32)

    def write(self, block: RowBlock) -> None:
        """Write finished rows; they count from the next commit on, at most a second later.

        Raises:
            StoreError: The disk is full or failing.
        """
        order = np.argsort(block.rows)
        rows = block.rows[order]
        viewed = rows[self._has_views[rows]]
        view_order = np.argsort(block.rows[self._has_views[block.rows]])
        features = {layer: values[order] for layer, values in block.features.items()}
        views = {layer: block.views[layer][view_order] for layer in self._views if len(viewed)}
        self.digests[rows] = block.digests[order]
        with wrap_write_errors(self.path):
            for layer, values in features.items():
                _write(self._features[layer], rows, values)
            for layer, values in views.items():
                _write(self._views[layer], np.searchsorted(self._view_rows, viewed), values)
            _write(self._file["digest"], rows, self.digests[rows])
            if "checksum" in self._file:
                _write(self._file["checksum"], rows, self._checksums(rows, features, views))
            if "stamp" in self._file:
                stamps = np.zeros((len(rows), 2)) if block.stamps is None else block.stamps[order]
                _write(self._file["stamp"], rows, stamps)
            for row, reason, digest in block.failed:
                self._write_failure(row, reason, digest)
        failed = np.array([failure.row for failure in block.failed], np.int64)
        self._uncommitted += [(rows, DONE), (failed, FAILED)]
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def _write_failure(self, row: int, reason: str, digest: bytes) -> None:
        for dataset in self._features.values():
            dataset[row] = np.nan
        for dataset in self._views.values() if self._has_views[row] else ():
            dataset[np.searchsorted(self._view_rows, row)] = np.nan
        text = reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        self._file["reason"][row] = text.encode()
        self.digests[row] = np.frombuffer(digest, np.uint8)
        self._file["digest"][row] = self.digests[row]

    def commit(self) -> None:
        """Make the written rows count: sync the rows first, their status after them.

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
        fsync_handle(self._file.id.get_vfd_handle())


@contextmanager
def open_store_file(path: Path, write: bool = False) -> Iterator[StoreFile]:
    """Open one file of a store; only its ``commit`` makes written rows count."""
    with open_file(path, write) as file:
        yield read_store_file(path, file)


def read_store_file(path: Path, file: h5py.File) -> StoreFile:
    """Check an open file and read its columns.

    Raises:
        StoreError: It is damaged, newer, or not a store.
    """
    with wrap_read_errors(path):
        return StoreFile(path, file)


def feature_sets(file: h5py.File, layers: tuple[str, ...]) -> dict[str, h5py.Dataset]:
    """Return the dataset of each layer."""
    features = file["features"]
    several = isinstance(features, h5py.Group)
    return {layer: features[layer] if several else features for layer in layers}


def _write(dataset: h5py.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write increasing rows."""
    for run in _runs(rows):
        dataset[rows[run][0] : rows[run][-1] + 1] = values[run]


def _runs(rows: np.ndarray) -> list[slice]:
    """Cut increasing row numbers into slices of neighbours."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]
