"""Rows of features that memory does not hold, read from the store when they are needed.

HDF5 is fast on ranges of rows alone. So rows are read in blocks, each a range, and a background
thread reads what comes next while the model trains. In an epoch the blocks come in a seeded order,
a window of them at a time, and the rows of a window are mixed: each row comes once, and no more
than three windows are in memory. That is not the order of rows in memory, which are all mixed.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from extract.store.open import read_features

# One read from the file: as long as a chunk. Of a quarter of that reading took 1.6 times as long.
BLOCK_BYTES = 2**20
# Rows that are mixed with each other, and rows that are read in order, as float32.
WINDOW_BYTES = 2**27
PIECE_BYTES = 2**24

Places: TypeAlias = NDArray[np.int64]


class StoredRows:
    """(N, *shape) float32 rows of a store: what an array is to others, without holding them.

    Attributes:
        shape: (N, *shape).
        identity: Digest of the images that all the rows come from.
    """

    def __init__(
        self, path: Path, layers: Sequence[str], rows: Places, shape: tuple[int, ...], identity: str
    ) -> None:
        self.shape = (len(rows), *shape)
        self.identity = identity
        self._path, self._layers, self._rows = path, list(layers), rows
        self._row_bytes = 4 * int(np.prod(shape))
        self._steps: list[Callable[[NDArray[np.float32]], NDArray[np.float32]]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Places | slice) -> "StoredRows":
        """Return some of the rows, in increasing order; nothing is read."""
        rows = self._rows[places]
        some = StoredRows(self._path, self._layers, rows, self.shape[1:], self.identity)
        some._row_bytes, some._steps = self._row_bytes, self._steps
        return some

    def behind(
        self,
        step: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        shape: tuple[int, ...],
    ) -> "StoredRows":
        """Return the rows as a step makes them of each, ``shape`` being that of one row then."""
        changed = self[:]
        changed.shape = (len(self), *shape)
        changed._steps = [*self._steps, step]
        return changed

    def read(self, places: Places) -> NDArray[np.float32]:
        """Read rows.

        Args:
            places: Increasing positions.

        Returns:
            (len(places), *shape) float32.
        """
        rows, done = self._rows[places], 0
        found = np.empty((len(rows), *self.shape[1:]), np.float32)
        blocks = np.split(rows, self._edges(rows))
        ranges = [slice(int(block[0]), int(block[-1]) + 1) for block in blocks if len(block)]
        values = read_features(self._path, self._layers, ranges)
        for block, parts in zip(blocks, values, strict=bool(ranges)):
            if len(block) < len(parts[0]):
                parts = [part[block - block[0]] for part in parts]  # noqa: PLW2901
            made = join_layers(parts)
            for step in self._steps:
                made = step(made)
            found[done : done + len(block)] = made
            done += len(block)
        return found

    def _edges(self, rows: Places) -> Places:
        """Return where blocks begin in increasing rows, but for the first."""
        return np.flatnonzero(np.diff(rows // max(1, BLOCK_BYTES // self._row_bytes))) + 1

    def windows(self, size: int, order: np.random.Generator | None = None) -> list[Places]:
        """Divide all positions into windows of whole blocks.

        Args:
            size: Bytes of a window; a block may reach beyond.
            order: Shuffles the blocks first; None leaves them in order.

        Returns:
            Increasing positions of each window; each position is in one.
        """
        blocks = np.split(np.arange(len(self)), self._edges(self._rows))
        if order:
            blocks = [blocks[i] for i in order.permutation(len(blocks))]
        lengths = np.array([len(block) for block in blocks])
        window = (np.cumsum(lengths) - lengths) * self._row_bytes // size
        starts = [0, *(np.flatnonzero(np.diff(window)) + 1).tolist(), len(blocks)]
        return [np.sort(np.concatenate(blocks[a:b])) for a, b in pairwise(starts)]


# Rows in memory, or rows in a store.
Features: TypeAlias = NDArray[np.float32] | StoredRows


class Epoch:
    """All rows in the order of one epoch, read window by window.

    Attributes:
        order: (N,) int64 positions, each once.
    """

    def __init__(self, X: StoredRows, seed: Sequence[int] | None = None) -> None:
        self._X = X
        if seed is None:
            # What fits into one window is read once, and stays for the next epoch.
            small = len(X) * X._row_bytes <= WINDOW_BYTES
            self._windows = X.windows(WINDOW_BYTES if small else PIECE_BYTES)
            self.order = np.arange(len(X))
        else:
            random = np.random.default_rng(seed)
            self._windows = X.windows(WINDOW_BYTES, random)
            self.order = np.concatenate([random.permutation(w) for w in self._windows])
        self._ends = np.cumsum([len(window) for window in self._windows])
        self._held: dict[int, NDArray[np.float32]] = {}
        self._next, self._coming = 0, read_ahead(X, self._windows)

    def take(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the rows from one place in the order to another; quick when asked in turn."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        self._held = {w: rows for w, rows in self._held.items() if w >= first}
        found = []
        for window in range(first, last + 1):
            end = int(self._ends[window])
            begin = end - len(self._windows[window])
            wanted = self.order[max(start, begin) : min(stop, end)]
            found.append(self._window(window)[np.searchsorted(self._windows[window], wanted)])
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _window(self, window: int) -> NDArray[np.float32]:
        if window not in self._held:
            if window != self._next:
                self._coming.close()
                self._coming = read_ahead(self._X, self._windows[window:])
            self._held[window], self._next = next(self._coming), window + 1
        return self._held[window]


def read_ahead(
    X: StoredRows, parts: Sequence[Places]
) -> Generator[NDArray[np.float32], None, None]:
    """Read parts of the rows in turn, each while the one before it is in use.

    Args:
        X: The rows.
        parts: Increasing positions of each part.

    Yields:
        The rows of each part.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(X.read, parts[0])
        for part in parts[1:]:
            found, coming = coming.result(), thread.submit(X.read, part)
            yield found
            del found
        yield coming.result()


def iter_chunks(X: Features) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Go through rows in order: all at once where they are in memory, else in bounded pieces.

    Args:
        X: (N, *shape), N above 0.

    Yields:
        Which rows, and the rows.
    """
    if not isinstance(X, StoredRows):
        yield slice(0, len(X)), X
        return
    windows, start = X.windows(PIECE_BYTES), 0
    for rows in read_ahead(X, windows):
        yield slice(start, start + len(rows)), rows
        start += len(rows)


def flatten(X: Features) -> Any:
    """Return feature maps as vectors, (N, D)."""
    if not isinstance(X, StoredRows):
        return X.reshape(len(X), -1)
    if len(X.shape) == 2:
        return X
    return X.behind(lambda rows: rows.reshape(len(rows), -1), (int(np.prod(X.shape[1:])),))


def join_layers(features: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return one layer's rows as they are, or those of several flattened and side by side.

    Args:
        features: (N, *shape) of each layer.

    Returns:
        (N, *shape) or (N, D) float32.
    """
    if len(features) == 1:
        return features[0].astype(np.float32, copy=False)
    flattened = [part.reshape(len(part), -1) for part in features]
    return np.concatenate(flattened, axis=1, dtype=np.float32)
