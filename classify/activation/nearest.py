"""The training images that are most similar to some other images, by the features of the head."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from classify.stored.out_of_core import Features, Labels, Rows, StoredRows

NEAREST = 3
# Values of features that are compared at a time, and bytes that are read from the file at most.
_VALUES, _MOST_READ = 2**24, 2**32


class Neighbour(NamedTuple):
    """A training image: its row in the dataset, and the cosine of its features, -1 to 1."""

    row: int
    cosine: float


def find_nearest(X: Features, rows: Sequence[int], trained: Labels) -> list[list[Neighbour]]:
    """Return the training images that are most similar to each of some rows, the first one first.

    Args:
        X: (N, *shape) features of the head.
        rows: Rows of images.
        trained: (A,) rows of the training images.

    Returns:
        ``NEAREST`` neighbours of each row, or fewer where there are no more; none where the
        features would have to be read from a very large file.
    """
    if not rows or (isinstance(X, StoredRows) and 4 * np.prod(X.shape[1:]) * len(X) > _MOST_READ):
        return [[] for _ in rows]
    order, places = np.unique(np.asarray(rows), return_inverse=True)
    own = _units(X.read(order) if isinstance(X, StoredRows) else X[order])
    best = np.full((len(order), NEAREST), -1, np.int64)
    cosines = np.full((len(order), NEAREST), -np.inf)
    for part, features in _blocks(X, trained):
        found = np.hstack([cosines, (own @ _units(features).T).astype(np.float64).round(6)])
        known = np.hstack([best, np.broadcast_to(part, (len(order), len(part)))])
        # Earlier rows first where cosines are equal.
        chosen = np.argsort(-found, axis=1, kind="stable")[:, :NEAREST]
        cosines = np.take_along_axis(found, chosen, axis=1)
        best = np.take_along_axis(known, chosen, axis=1)
    neighbours = [
        [Neighbour(int(row), float(cosine)) for row, cosine in zip(*pair, strict=True) if row >= 0]
        for pair in zip(best, cosines, strict=True)
    ]
    return [neighbours[place] for place in places]


def _blocks(X: Features, trained: Labels) -> Iterator[tuple[Labels, Rows]]:
    """Yield training rows and their features, a part at a time."""
    step = max(1, _VALUES // int(np.prod(X.shape[1:])))
    for start in range(0, len(trained), step):
        part = trained[start : start + step]
        yield part, X.read(part) if isinstance(X, StoredRows) else X[part]


def _units(features: Rows) -> Rows:
    """Return rows as vectors of length 1; a row of zeros stays one."""
    flat = features.reshape(len(features), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.where(lengths > 0, lengths, 1))
