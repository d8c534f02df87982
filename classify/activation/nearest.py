"""The training images that are most similar to some other images, by the features of the head."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Features, Labels, Rows, StoredRows

NEAREST, _CANDIDATES = 3, 8
# Values of features that are compared at a time, and bytes that are read from the file at most.
_VALUES, _MOST_READ = 2**24, 2**32


class Neighbour(NamedTuple):
    """A training image: its row in the dataset, and the cosine of its features, -1 to 1."""

    row: int
    cosine: float


def find_nearest(
    X: Features, rows: Sequence[int], trained: Sequence[Labels]
) -> list[list[Neighbour]]:
    """Return the training images that are most similar to each of some rows, the first one first.

    All features are read once, however many heads there are.

    Args:
        X: (N, *shape) features of the head.
        rows: Rows of images.
        trained: For each the rows of the training images; one array for all rows of a head.

    Returns:
        ``NEAREST`` neighbours of each row, or fewer where there are no more; none where the
        features would have to be read from a very large file.
    """
    if not rows or (isinstance(X, StoredRows) and 4 * np.prod(X.shape[1:]) * len(X) > _MOST_READ):
        return [[] for _ in rows]
    order, places = np.unique(np.asarray(rows), return_inverse=True)
    units = _units(_read(X, order), np.float32)[places]
    masks, heads = _masks(len(X), trained)
    best = np.full((len(rows), _CANDIDATES), -1, np.int64)
    cosines = np.full((len(rows), _CANDIDATES), -np.inf, np.float32)
    for part, features in _blocks(X, np.flatnonzero(masks.any(axis=0))):
        near = units @ _units(features, np.float32).T
        near[~masks[:, part][heads]] = -np.inf
        cosines, known = np.hstack([cosines, near]), np.broadcast_to(part, near.shape)
        chosen = np.argsort(-cosines, axis=1, kind="stable")[:, :_CANDIDATES]
        best = np.take_along_axis(np.hstack([best, known]), chosen, axis=1)
        cosines = np.take_along_axis(cosines, chosen, axis=1)
    return [
        _measure(X, row, candidates[values > -np.inf])
        for row, candidates, values in zip(rows, best, cosines, strict=True)
    ]


def _masks(count: int, trained: Sequence[Labels]) -> tuple[NDArray[np.bool_], list[int]]:
    """Return the training rows of each head as a mask, and the number of each row's head."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(map(id, trained)))}
    masks = np.zeros((len(numbers), count), bool)
    for own in trained:
        masks[numbers[id(own)], own] = True
    return masks, [numbers[id(own)] for own in trained]


def _measure(X: Features, row: int, candidates: Labels) -> list[Neighbour]:
    """Return the nearest of a few rows, by cosines that do not depend on the number of threads."""
    candidates = np.sort(candidates)
    (own,), units = (_units(_read(X, r), np.float64) for r in (np.array([row]), candidates))
    cosines = (units @ own).round(6)
    order = np.argsort(-cosines, kind="stable")[:NEAREST]
    return [Neighbour(int(candidates[at]), float(cosines[at])) for at in order]


def _read(X: Features, rows: Labels) -> Rows:
    """Return the features of increasing rows."""
    return X.read(rows) if isinstance(X, StoredRows) else np.asarray(X[rows])


def _blocks(X: Features, trained: Labels) -> Iterator[tuple[Labels, Rows]]:
    """Yield training rows and their features, a part at a time."""
    step = max(1, _VALUES // int(np.prod(X.shape[1:])))
    for start in range(0, len(trained), step):
        part = trained[start : start + step]
        yield part, _read(X, part)


def _units(features: Rows, dtype: type[np.floating]) -> Rows:
    """Return rows as vectors of length 1; a row of zeros stays one."""
    flat = features.reshape(len(features), -1).astype(dtype, copy=False)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.where(lengths > 0, lengths, 1))
