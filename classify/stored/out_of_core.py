"""Out-of-core features: rows that do not fit into memory and are read from the store when needed.

HDF5 reads ranges of rows fast and scattered rows slowly. So rows are read in blocks, each a range,
and a background thread reads the next block while the model trains. In an epoch the blocks come in
a seeded order, one window of blocks at a time, and the rows of a window are shuffled: each row
comes once, and at most three windows are in memory. Rows in memory are all shuffled together, so
the two orders differ.
"""

import copy
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import reduce
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from classify.stored.same_store import SameStore
from extract.store.open import read_features

# One read from the file, as long as a chunk. Blocks of a quarter took 1.6 times as long.
BLOCK_BYTES = 2**20
# Rows that are shuffled together, and rows that are read at once in order, as float32.
WINDOW_BYTES = 2**27
PIECE_BYTES = 2**24
# Scores that are computed at once, as float64; most heads need a few times as much for them.
SCORE_BYTES = 2**26
_FIRST_ROWS = 256  # in ``rough_mean``

Rows: TypeAlias = NDArray[np.float32]  # features in memory, (N, *shape)
Labels: TypeAlias = NDArray[np.int64]  # (N,) classes, groups or positions


class Member(NamedTuple):
    """Layers of a store, and the rows of it that are used.

    Attributes:
        same: The store, which must not change.
        layers: The layers, joined.
        rows: (N,) int64 row of each image, in any order.
    """

    same: SameStore
    layers: list[str]
    rows: Labels

    def is_in_order(self, positions: Labels) -> bool:
        """Return whether the rows at some positions lie in the store one after the other."""
        return bool((np.diff(self.rows[positions]) >= 0).all())

    def read(self, blocks: Sequence[Labels]) -> Iterator[Sequence[NDArray[np.floating]]]:
        """Yield the rows of each block of positions, by layer, in the stored type."""
        rows = [self.rows[block] for block in blocks]
        ranges = [slice(int(block.min()), int(block.max()) + 1) for block in rows]
        values = read_features(self.same.path, self.layers, ranges)
        for block, within, parts in zip(rows, ranges, values, strict=bool(blocks)):
            if len(block) == within.stop - within.start and (np.diff(block) == 1).all():
                yield parts
            else:
                yield [part[block - within.start] for part in parts]


class StoredRows:
    """(N, *shape) float32 rows of a store, or of several joined, read when they are needed.

    Attributes:
        shape: (N, *shape).
        identity: Digest of the images of all the rows.
    """

    def __init__(self, members: Sequence[Member], shape: tuple[int, ...], identity: str) -> None:
        self.shape = (len(members[0].rows), *shape)
        self.identity = identity
        self._row_shape = shape  # before any step
        self._members = list(members)
        self._row_bytes = 4 * math.prod(shape)
        self._steps: list[Callable[[Rows], Rows]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Labels | slice) -> "StoredRows":
        """Select rows, in increasing order, without reading them."""
        selected = copy.copy(self)
        selected._members = [m._replace(rows=m.rows[positions]) for m in self._members]
        selected.shape = (len(selected._members[0].rows), *self.shape[1:])
        return selected

    def map(self, step: Callable[[Rows], Rows], shape: tuple[int, ...]) -> "StoredRows":
        """Apply a step to each row that is read; ``shape`` is the shape of a row after it."""
        mapped = self[:]
        mapped.shape = (len(self), *shape)
        mapped._steps = [*self._steps, step]
        return mapped

    def read(self, positions: Labels) -> Rows:
        """Read rows.

        Args:
            positions: Increasing positions.

        Returns:
            (len(positions), *shape) float32.

        Raises:
            StoreError: A store cannot be read, or has changed.
        """
        with ExitStack() as stack:
            for member in self._members:
                stack.enter_context(member.same.unchanged())
            return self._read(positions)

    def _read(self, positions: Labels) -> Rows:
        in_order = all(member.is_in_order(positions) for member in self._members)
        if not (in_order or self._steps):
            return self._gather(positions)
        done, out = 0, np.empty((len(positions), *self.shape[1:]), np.float32)
        blocks = [block for block in self._blocks(positions) if len(block)]
        for rows in self._joined(blocks) if in_order else self._gathered(positions):
            features = reduce(lambda value, step: step(value), self._steps, rows)
            out[done : done + len(features)] = features
            done += len(features)
        return out

    def _joined(self, blocks: Sequence[Labels]) -> Iterator[Rows]:
        """Yield the rows of each block; the stores are read side by side."""
        for parts in zip(*(member.read(blocks) for member in self._members), strict=True):
            yield join_layers(list(chain.from_iterable(parts)))

    def _gathered(self, positions: Labels) -> Iterator[Rows]:
        """Yield the rows window by window."""
        most = max(1, WINDOW_BYTES // self._row_bytes)
        for start in range(0, len(positions), most):
            yield self._gather(positions[start : start + most])

    def _gather(self, positions: Labels) -> Rows:
        """Read each store in its own order, so that no block is read twice."""
        out = np.empty((len(positions), *self._row_shape), np.float32)
        flat, begin, end = out.reshape(len(out), -1), 0, 0
        for member in self._members:
            rows = member.rows[positions]
            order = np.argsort(rows, kind="stable")
            places = np.split(order, np.flatnonzero(np.diff(rows[order] // self._most)) + 1)
            values = member.read([positions[block] for block in places])
            for block, parts in zip(places, values, strict=True):
                joined = join_layers(parts).reshape(len(block), -1)
                end = begin + joined.shape[1]
                flat[block, begin:end] = joined
            begin = end
        return out

    @property
    def _most(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // self._row_bytes)

    def _blocks(self, positions: Labels) -> list[Labels]:
        """Divide positions where a store that has them in order begins another block of rows."""
        ordered = [m.rows[positions] for m in self._members if m.is_in_order(positions)]
        numbers = np.stack(ordered or [np.arange(len(positions))]) // self._most
        return np.split(positions, np.flatnonzero(np.diff(numbers).any(axis=0)) + 1)

    def windows(self, size: int, random: np.random.Generator | None = None) -> list[Labels]:
        """Divide all positions into windows of complete blocks.

        Args:
            size: Bytes of a window; its last block may exceed them.
            random: Shuffles the blocks first; None leaves them in order.

        Returns:
            Increasing positions of each window; each position is in one.
        """
        every = np.arange(len(self))
        blocks = self._blocks(every)
        if not all(member.is_in_order(every) for member in self._members):
            size = max(size, WINDOW_BYTES)  # each window may read the whole of such a store
        if random:
            blocks = [blocks[i] for i in random.permutation(len(blocks))]
        lengths = np.array([len(block) for block in blocks])
        window = (np.cumsum(lengths) - lengths) * self._row_bytes // size
        starts = [0, *(np.flatnonzero(np.diff(window)) + 1).tolist(), len(blocks)]
        return [np.sort(np.concatenate(blocks[a:b])) for a, b in pairwise(starts)]


# Rows in memory, or rows in a store.
Features: TypeAlias = Rows | StoredRows


class Epoch:
    """All rows in the order of one epoch, read window by window.

    Attributes:
        order: (N,) int64 positions, each once.
    """

    def __init__(self, X: StoredRows, seed: Sequence[int] | None = None) -> None:
        self._X = X
        random = None if seed is None else np.random.default_rng(seed)
        # Without a seed, rows that fit into one window are read once and stay for the next epoch.
        small = len(X) * X._row_bytes <= WINDOW_BYTES
        self._windows = X.windows(WINDOW_BYTES if random or small else PIECE_BYTES, random)
        self.order = np.concatenate([random.permutation(w) if random else w for w in self._windows])
        self._ends = np.cumsum([len(window) for window in self._windows])
        self._loaded: dict[int, Rows] = {}
        self._next, self._reader = 0, read_ahead(X, self._windows)

    def take(self, start: int, stop: int) -> Rows:
        """Return rows ``start`` to ``stop`` of the order; fast when called in sequence."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        self._loaded = {w: rows for w, rows in self._loaded.items() if w >= first}
        parts = []
        for window in range(first, last + 1):
            end = int(self._ends[window])
            begin = end - len(self._windows[window])
            wanted = self.order[max(start, begin) : min(stop, end)]
            parts.append(self._window(window)[np.searchsorted(self._windows[window], wanted)])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _window(self, window: int) -> Rows:
        if window not in self._loaded:
            if window != self._next:
                self._reader.close()
                self._reader = read_ahead(self._X, self._windows[window:])
            self._loaded[window], self._next = next(self._reader), window + 1
        return self._loaded[window]


def read_ahead(X: StoredRows, parts: Sequence[Labels]) -> Generator[Rows, None, None]:
    """Read parts of the rows in sequence, each while the previous one is in use.

    Args:
        X: The rows.
        parts: Increasing positions of each part.

    Yields:
        The rows of each part.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(X.read, parts[0])
        for part in parts[1:]:
            rows, pending = pending.result(), thread.submit(X.read, part)
            yield rows
            del rows
        yield pending.result()


def iter_chunks(X: Features, classes: int = 0) -> Iterator[tuple[slice, Rows]]:
    """Iterate over rows in order: in one chunk if they are in memory, else in bounded chunks.

    Args:
        X: (N, *shape), N above 0.
        classes: Scores of each row that will be computed; they bound the chunks, too.

    Yields:
        The positions and the rows of each chunk.
    """
    start, most = 0, max(1, SCORE_BYTES // (8 * classes)) if classes else len(X)
    for rows in read_ahead(X, X.windows(PIECE_BYTES)) if isinstance(X, StoredRows) else [X]:
        for begin in range(0, len(rows), most):
            part = rows[begin : begin + most]
            yield slice(start, start + len(part)), part
            start += len(part)


def flatten(X: Features) -> Any:
    """Return feature maps as vectors, (N, D)."""
    if not isinstance(X, StoredRows):
        return X.reshape(len(X), -1)
    return X if len(X.shape) == 2 else X.map(flatten, (math.prod(X.shape[1:]),))


def rough_mean(X: Features) -> NDArray[np.float64]:
    """Return the mean of the first rows: sums of squares of differences to it lose no digits."""
    first = np.arange(min(_FIRST_ROWS, len(X)))
    rows = X.read(first) if isinstance(X, StoredRows) else X[first]
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


def all_finite(X: Rows) -> bool:
    """Return whether no number is NaN or infinite; unlike isfinite, min and max need no copy."""
    return bool(np.isfinite([X.min(), X.max()]).all())


def join_layers(features: Sequence[NDArray[np.floating]]) -> Rows:
    """Return the rows of one layer unchanged, or those of several layers flattened and joined.

    Args:
        features: (N, *shape) of each layer.

    Returns:
        (N, *shape) or (N, D) float32.
    """
    if len(features) == 1:
        return features[0].astype(np.float32, copy=False)
    flattened = [part.reshape(len(part), -1) for part in features]
    return np.concatenate(flattened, axis=1, dtype=np.float32)
