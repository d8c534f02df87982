"""The seam between the stages: a store of one file, or an index of several, used alike."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import numpy as np

from extract.core.row_block import DONE, FAILED, PENDING, Failure, RowBlock
from extract.images.digests import DIGEST_BYTES
from extract.store.shards import Shard, damaged, find_shards, open_shard, read_index
from extract.store.single_file import SingleStore, read_single, store_in
from extract.store.validate import open_file


class ShardedStore:
    """Several stores that are read and written like one; see ``SingleStore`` for its attributes.

    No shard stays open while it is read, and one of those that are written to.
    """

    def __init__(self, path: Path, shards: Sequence[Shard]) -> None:
        self.path, self.shards = path, shards
        self._starts = np.array([shard.rows.start for shard in shards])
        self._writing: tuple[Shard, SingleStore] | None = None
        self.opened = ExitStack()
        self._take_first()
        self.keys: list[str] = []
        groups: list[str] = []
        labels, split, status, view_rows = [], [], [], []
        for shard in shards:
            with open_shard(shard) as store:
                self._check_same(shard, store)
                self.keys += store.keys
                groups += store.groups or [""] * len(store.keys)
                labels.append(store.labels)
                split.append(store.split)
                status.append(store.status)
                view_rows.append(store.view_rows + shard.rows.start)
        self.groups = groups if any(groups) else None
        self.labels, self.split = np.concatenate(labels), np.concatenate(split)
        self.status, self.view_rows = np.concatenate(status), np.concatenate(view_rows)
        if len(set(self.keys)) < len(self.keys):
            raise damaged(path, "its shards share keys")
        self.attributes["complete"] = int(self.complete)

    def _take_first(self) -> None:
        """Take from the first shard what all have in common."""
        with open_shard(self.shards[0]) as store:
            self.attributes, self.spec, self.view_spec = (
                store.attributes,
                store.spec,
                store.view_spec,
            )
            self.class_names, self.shapes, self.dtype = store.class_names, store.shapes, store.dtype

    def _check_same(self, shard: Shard, store: SingleStore) -> None:
        """Raise StoreError unless a shard was made together with the first one."""
        names = sorted((self.attributes.keys() | store.attributes.keys()) - {"complete"})
        other = [n for n in names if self.attributes.get(n) != store.attributes.get(n)]
        if store.shapes != self.shapes:
            other.append("shape of features")
        if other:
            raise damaged(shard.path, f"has another {', '.join(other)} than the first shard")

    @property
    def complete(self) -> bool:
        """Whether every row was tried."""
        return bool((self.status != PENDING).all())

    def has_views(self, rows: np.ndarray) -> np.ndarray:
        """Say of each row whether it has augmented views: those of the training split do."""
        return np.asarray((self.split[rows] == 0) & (self.view_spec.views > 0))

    @property
    def size(self) -> int:
        """Bytes of the index and its shards."""
        return sum(path.stat().st_size for path in (self.path, *(s.path for s in self.shards)))

    def read(self, layer: str, rows: np.ndarray | slice) -> np.ndarray:
        """Read features, see ``SingleStore.read``."""
        numbers = np.arange(len(self.keys))[rows] if isinstance(rows, slice) else rows
        found = np.empty((len(numbers), *self.shapes[layer]), self.dtype)
        for shard, part in self._divide(numbers):
            with open_shard(shard) as store:
                found[part] = store.read(layer, numbers[part] - shard.rows.start)
        return found

    def read_views(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Read augmented views, see ``SingleStore.read_views``."""
        found = np.empty((len(rows), self.view_spec.views, *self.shapes[layer]), self.dtype)
        for shard, part in self._divide(rows):
            with open_shard(shard) as store:
                found[part] = store.read_views(layer, rows[part] - shard.rows.start)
        return found

    def view_counts(self) -> dict[str, tuple[int, int]]:
        """Return how many rows, and views of each, every layer has."""
        views = self.view_spec.views
        return {layer: (len(self.view_rows), views) for layer in self.shapes} if views else {}

    def failures(self) -> list[Failure]:
        """Return the rows that could not be read, with the reasons."""
        found = []
        for shard in self.shards:
            with open_shard(shard) as store:
                found += [f._replace(row=f.row + shard.rows.start) for f in store.failures()]
        return found

    def digests(self) -> np.ndarray:
        """Return the (N, 16) uint8 BLAKE2b-128 digests of the image files."""
        found = np.empty((len(self.keys), DIGEST_BYTES), np.uint8)
        for shard in self.shards:
            with open_shard(shard) as store:
                found[shard.rows.start : shard.rows.stop] = store.digests()
        return found

    def find_changed(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some increasing rows whose features are not what was written, int64."""
        found = [np.empty(0, np.int64)]
        for shard, part in self._divide(rows):
            with open_shard(shard) as store:
                start = shard.rows.start
                found.append(store.find_changed(rows[part] - start) + start)
        return np.concatenate(found)

    def _divide(self, rows: np.ndarray) -> Iterator[tuple[Shard, slice]]:
        """Yield the shards of increasing rows, each with which of these are its own."""
        bounds = np.searchsorted(rows, [*self._starts, len(self.keys)]).tolist()
        for shard, start, stop in zip(self.shards, bounds, bounds[1:], strict=False):
            if start < stop:
                yield shard, slice(start, stop)

    def write(self, block: RowBlock) -> None:
        """Write finished rows, see ``SingleStore.write``."""
        numbers = self._number(block.rows)
        failed = self._number(np.array([failure.row for failure in block.failed], np.int64))
        viewed = numbers[self.has_views(block.rows)]
        for number in np.unique(np.concatenate([numbers, failed])).tolist():
            shard, own = self.shards[number], numbers == number
            part = RowBlock(
                block.rows[own],
                {layer: values[own] for layer, values in block.features.items()},
                block.digests[own],
                [f for f, of in zip(block.failed, failed, strict=True) if of == number],
                {layer: values[viewed == number] for layer, values in block.views.items()},
            )
            self._writer(shard).write(localise(part, shard))

    def _number(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of each row's shard."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _writer(self, shard: Shard) -> SingleStore:
        """Return a shard that is open for writing; what the one before it has counts from now on.

        Rows come nearly in order, and a kill costs no more than the last second of one shard.
        """
        if not self._writing or self._writing[0] != shard:
            self.commit()
            self._writing = shard, self.opened.enter_context(open_shard(shard, write=True))
        return self._writing[1]

    def forget(self, rows: np.ndarray) -> None:
        """Make increasing rows count as not yet done."""
        for shard, part in self._divide(rows):
            self._writer(shard).forget(rows[part] - shard.rows.start)
        self.commit()

    def note(self, block: RowBlock) -> None:
        """Count rows that another process has written."""
        self.status[block.rows] = DONE
        self.status[[failure.row for failure in block.failed]] = FAILED

    def commit(self) -> None:
        """Make the written rows count, and close their shard."""
        self.opened.close()
        if self._writing:
            shard, store = self._writing
            self.status[shard.rows.start : shard.rows.stop] = store.status
            self._writing = None


Store: TypeAlias = SingleStore | ShardedStore


@contextmanager
def open_store(path: str | os.PathLike[str], write: bool = False) -> Iterator[Store]:
    """Open a store; on leaving, written rows are committed and its files are closed.

    Args:
        path: The file, or the index of several.
        write: Open it for writing, which one process at a time can.

    Yields:
        The store.

    Raises:
        StoreError: There is no such file, it or a shard is damaged, of another program, newer, or
            in use.
    """
    path = Path(path)
    with open_file(path, write) as file:
        shards = read_index(path, file)
        if not shards:
            with store_in(path, file, write) as single:
                yield single
            return
        # The lock of the index, which is open until the end, is that of its shards.
        store = ShardedStore(path, shards)
        with store.opened:
            yield store


def localise(block: RowBlock, shard: Shard) -> RowBlock:
    """Return a block of one shard's rows, numbered as they are in it."""
    start = shard.rows.start
    failed = [failure._replace(row=failure.row - start) for failure in block.failed]
    return block._replace(rows=block.rows - start, failed=failed)


def read_features(
    path: Path, layers: Sequence[str], ranges: Iterable[slice]
) -> Iterator[list[np.ndarray]]:
    """Read ranges of rows and nothing else: to open a whole store of many rows takes seconds.

    Args:
        path: A store.
        layers: Whose features.
        ranges: Of neighbouring rows.

    Yields:
        For each range (rows, *shape) of each layer, in the stored type.

    Raises:
        StoreError: A file cannot be read.
    """
    shards = _recall(path, path.stat().st_mtime_ns if path.exists() else 0)
    if not shards:
        yield from read_single(path, layers, ranges)
        return
    pieces = [(rows, *piece) for rows in ranges for piece in _divide(shards, rows)]
    held: list[list[np.ndarray]] = []
    for shard, own in groupby(pieces, key=itemgetter(1)):
        wanted = list(own)
        parts = read_single(shard.path, layers, [local for _, _, local in wanted])
        for (rows, _, local), part in zip(wanted, parts, strict=True):
            held.append(part)
            if local.stop + shard.rows.start == rows.stop:
                yield [np.concatenate(found) for found in zip(*held, strict=True)]
                held = []


@lru_cache(maxsize=1)
def _recall(path: Path, _changed: int) -> list[Shard]:
    """Return the shards of an index, which training asks for every few megabytes."""
    return find_shards(path)


def _divide(shards: Sequence[Shard], rows: slice) -> Iterator[tuple[Shard, slice]]:
    """Yield the shards that a range of rows reaches into, each with the part in it."""
    first = bisect_right(shards, rows.start, key=lambda shard: shard.rows.start) - 1
    for shard in islice(shards, first, None):
        own = shard.rows
        if own.start >= rows.stop:
            return
        start, stop = max(rows.start, own.start), min(rows.stop, own.stop)
        yield shard, slice(start - own.start, stop - own.start)
