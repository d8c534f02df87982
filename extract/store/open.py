"""The seam between the stages: a store of one file, or of several behind an index."""

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.config import BEFORE
from extract.core.errors import listed, quoted
from extract.core.row_block import DONE, FAILED, PENDING, Failure, RowBlock
from extract.display.tables import Described
from extract.store.format import to_plain
from extract.store.shards import Shard, check_same, find_shards, open_shard, read_index
from extract.store.single_file import StoreFile, feature_sets, read_store_file
from extract.store.validate import open_file, refuse, wrap_read_errors


class Store(Described):
    """A store of one file, or of several behind an index, read and written alike.

    All but the features is in memory, and stays there when the store is closed. Of the files behind
    an index none stays open while it is read, and one while it is written.

    Attributes:
        path: Where the file or the index is.
        shards: Its files, each with the rows that it holds; one without an index.
        worker_shards: The files that the workers of a cluster write to; none without an index.
        attributes: Every attribute, as plain Python values.
        spec: The trunk that made the features; its name is empty if another program made them.
        view_spec: How the augmented views were made.
        view_rows: (M,) int64, the rows that have augmented views, increasing.
        class_names: K names; a label is an index into them.
        keys: N keys, in row order.
        labels: (N,) int64, -1 without a label.
        split: (N,) int8, an index into ``SPLITS``.
        groups: N names of groups, or None.
        status: (N,) uint8: 0 pending, 1 done, 2 failed.
        checksums: (N,) uint32, of each row's features when the store was opened; 0 in old files.
        stamps: (N, 2) int64, size and modification time in nanoseconds of each image file when the
            store was opened; 0 where they are not known.
        shapes: Shape of one row's features, by layer.
        dtype: Type of the stored features.
    """

    def __init__(self, path: Path, shards: Sequence[Shard], file: StoreFile | None = None) -> None:
        self.path, self.shards = path, shards
        self.worker_shards = () if file else shards
        self.opened = ExitStack()
        # The file that is open now, and the rows that it holds.
        self._current = (shards[0], file) if file else None
        self._starts = np.array([shard.rows.start for shard in shards])
        files = [file for file, _ in self._files(self._starts)]
        first = files[0]
        self.attributes = (BEFORE if first.spec.trunk else {}) | first.attributes
        self.spec, self.view_spec = first.spec, first.view_spec
        self.class_names = tuple(self.attributes["class_names"])
        self.shapes, self.dtype = first.shapes, first.dtype
        check_same(files)
        self.keys = list(chain.from_iterable(part.keys for part in files))
        groups = (part.groups or [""] * len(part.keys) for part in files)
        named = any(part.groups for part in files)
        self.groups = list(chain.from_iterable(groups)) if named else None
        self.labels = _join([part.labels for part in files])
        self.split = _join([part.split for part in files])
        self.status = _join([part.status for part in files])
        self._digests = _join([part.digests for part in files])
        self.checksums = _join([part.checksums for part in files])
        self.stamps = _join([part.stamps for part in files])
        self._has_views = (self.split == 0) & (self.view_spec.views > 0)
        self.view_rows = np.flatnonzero(self._has_views)
        if len(shards) > 1 and len(set(self.keys)) < len(self.keys):
            refuse(path, "its shards share keys")
        self.attributes["complete"] = int(self.complete)

    def _facts(self) -> dict[str, Any]:
        pending = int((self.status == PENDING).sum())
        height, width = self.spec.image_size
        trunk = f"{quoted(self.spec.trunk)} at {width} x {height} pixels"
        return {
            "file": quoted(str(self.path)),
            "images": f"{len(self.keys):,}, " + (f"{pending:,} to do" if pending else "complete"),
            "classes": listed(self.class_names, "name"),
            "trunk": trunk if self.spec.trunk else "none: features of another program",
            **{quoted(layer): f"{shape} {self.dtype}" for layer, shape in self.shapes.items()},
        }

    @property
    def complete(self) -> bool:
        """Whether every row was tried."""
        return bool((self.status != PENDING).all())

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's features and views."""
        values = sum(map(math.prod, self.shapes.values())) * (1 + self.view_spec.views)
        return int(values * np.dtype(self.dtype).itemsize)

    def read(self, layer: str, rows: np.ndarray | slice) -> np.ndarray:
        """Read features.

        Args:
            layer: One of ``shapes``.
            rows: Increasing row numbers, or a slice.

        Returns:
            (len(rows), *shape) in the stored type.
        """
        numbers = np.arange(len(self.keys))[rows]
        parts = [file.read(layer, own) for file, own in self._files(numbers)]
        return _join(parts, np.empty((0, *self.shapes[layer]), self.dtype))

    def read_views(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Read augmented views.

        Args:
            layer: One of ``shapes``.
            rows: Increasing row numbers, all in ``view_rows``.

        Returns:
            (len(rows), V, *shape) in the stored type.
        """
        parts = [file.read_views(layer, own) for file, own in self._files(rows)]
        empty = np.empty((0, self.view_spec.views, *self.shapes[layer]), self.dtype)
        return _join(parts, empty)

    def failures(self) -> list[Failure]:
        """Return the rows that could not be read, with the reasons."""
        rows = np.flatnonzero(self.status == FAILED)
        reasons = [text for file, own in self._files(rows) for text in file.read_reasons(own)]
        return [
            Failure(row, reason, self._digests[row].tobytes())
            for row, reason in zip(rows.tolist(), reasons, strict=True)
        ]

    def digests(self) -> np.ndarray:
        """Return the (N, 16) uint8 BLAKE2b-128 digests of the image files."""
        return self._digests

    def find_changed(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some increasing rows whose features changed since they were written."""
        changed = [file.find_changed(own) for file, own in self._files(rows)]
        return np.asarray(rows[_join(changed, np.empty(0, bool))])

    def write(self, block: RowBlock) -> None:
        """Write finished rows; they count from the next commit on, at most a second later."""
        rows = [*block.rows.tolist(), *(failure.row for failure in block.failed)]
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            shard = self.shards[number]
            self._writer(shard).write(block.part(shard.rows, self._has_views[block.rows]))

    def note(self, block: RowBlock) -> None:
        """Count rows that a worker has written to ``worker_shards``."""
        self.status[block.rows], self._digests[block.rows] = DONE, block.digests
        for row, _, digest in block.failed:
            self.status[row], self._digests[row] = FAILED, np.frombuffer(digest, np.uint8)

    def forget(self, rows: np.ndarray) -> None:
        """Mark increasing rows as still to do; raise StoreError for a full disk."""
        for shard, own in self._divide(rows):
            self._writer(shard).status[own] = PENDING
        self.commit()

    def commit(self) -> None:
        """Make the written rows count, and close their shard; raise StoreError for a full disk."""
        if self._current:
            shard, file = self._current
            file.commit()
            part = slice(shard.rows.start, shard.rows.stop)
            self.status[part], self._digests[part] = file.status, file.digests
            if self.worker_shards:
                self._current = None
                self.opened.close()

    def _divide(self, rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
        """Yield each shard of increasing rows, and their numbers in it."""
        bounds = np.searchsorted(rows, [*self._starts, self.shards[-1].rows.stop]).tolist()
        for shard, start, stop in zip(self.shards, bounds, bounds[1:], strict=False):
            if start < stop:
                yield shard, rows[start:stop] - shard.rows.start

    def _files(self, rows: np.ndarray) -> Iterator[tuple[StoreFile, np.ndarray]]:
        """Yield each open file of increasing rows, and their numbers in it."""
        for shard, own in self._divide(rows):
            if self._current and self._current[0] == shard:
                yield self._current[1], own
            else:
                with open_shard(shard) as file:
                    yield file, own

    def _writer(self, shard: Shard) -> StoreFile:
        """Return the file of a shard, open for writing; commit and close the one before it.

        Rows come nearly in order, and a kill costs no more than the last second of one shard.
        """
        if not self._current or self._current[0] != shard:
            self.commit()
            self._current = shard, self.opened.enter_context(open_shard(shard, write=True))
        return self._current[1]


@contextmanager
def open_store(path: str | os.PathLike[str], write: bool = False) -> Iterator[Store]:
    """Open a store; on exit, written rows are committed and its files are closed.

    Args:
        path: The file, or the index of several.
        write: Open it for writing, which one process at a time can.

    Yields:
        The store.

    Raises:
        StoreError: A file is missing, damaged, of another program, newer, or in use.
    """
    path = Path(path)
    with open_file(path, write) as file:
        # An index stays open, so that its lock covers the shards.
        shards = read_index(path, file)
        single = None if shards else read_store_file(path, file)
        store = Store(path, shards or [Shard(path, range(file["keys"].size))], single)
        with store.opened:
            try:
                yield store
            except KeyboardInterrupt:
                if write:
                    store.commit()
                raise
            if write:
                store.commit()


def read_attribute(path: Path, name: str) -> Any:
    """Return an attribute of a store, None without it; raise StoreError if it cannot be read."""
    with open_file(path) as file:
        return to_plain(file.attrs.get(name))


def read_features(
    path: Path, layers: Sequence[str], ranges: Iterable[slice]
) -> Iterator[list[np.ndarray]]:
    """Read ranges of rows and no column: opening a store of many rows takes seconds.

    Args:
        path: A store.
        layers: The layers to read.
        ranges: Slices of neighbouring rows.

    Yields:
        For each range (rows, *shape) of each layer, in the stored type.
    """
    shards = _recall(path, path.stat().st_mtime_ns if path.exists() else 0)
    starts = [shard.rows.start for shard in shards]
    current = None
    with ExitStack() as opened:
        for rows in ranges:
            first, stop = bisect_right(starts, rows.start) - 1, bisect_left(starts, rows.stop)
            parts = []
            for shard in shards[first:stop]:
                if shard is not current:
                    opened.close()
                    # Without a cache a range is read straight into its array.
                    file = opened.enter_context(open_file(shard.path, cache=0))
                    current = shard
                start = shard.rows.start
                own = slice(max(rows.start - start, 0), min(rows.stop - start, len(shard.rows)))
                with wrap_read_errors(shard.path):
                    datasets = feature_sets(file, tuple(layers))
                    parts.append([datasets[layer][own] for layer in layers])
            yield [_join(values) for values in zip(*parts, strict=True)]


@lru_cache(maxsize=8)
def _recall(path: Path, _changed: int) -> list[Shard]:
    """Return the files of a store, which training asks for every few megabytes."""
    return find_shards(path) or [Shard(path, range(2**62))]


def _join(parts: Sequence[np.ndarray], *empty: np.ndarray) -> np.ndarray:
    """Return the only part as it is, or all parts one behind the other."""
    return parts[0] if len(parts) == 1 else np.concatenate([*empty, *parts])
