"""Nearest neighbours: exact ones, found with products in float32.

A product in float32 gives a lower bound of each distance. Few rows have one below the distance of
the k-th neighbour; only the distances of these are computed in float64.
"""

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Labels, Rows

# Lower bounds at a time (64 MB), and features of pairs of rows whose distance is computed (32 MB).
_BOUNDS, _VALUES = 1 << 24, 1 << 22
# Rows of which the nearest one represents the others until there are k distances.
_GROUP = 64

Double = NDArray[np.float64]


def vote(X: Rows, fitted: Rows, y: Labels, classes: int, k: int) -> Double:
    """Let the nearest neighbours vote, each weighted by one over its distance.

    Where some are at a distance of zero, they alone vote.

    Args:
        X: (N, D) rows.
        fitted: (A, D) rows that vote.
        y: (A,) their classes, 0 to K - 1.
        classes: K.
        k: The number of neighbours, at most A.

    Returns:
        (N, K) shares of the votes.
    """
    distances, neighbours = nearest(X, fitted, k)
    with np.errstate(divide="ignore"):
        weights = 1 / distances
    same = distances == 0
    weights = np.where(same.any(axis=1, keepdims=True), same, weights)
    weights /= weights.sum(axis=1, keepdims=True)
    places = np.arange(len(X))[:, None] * classes + y[neighbours]
    shares = np.bincount(places.ravel(), weights.ravel(), len(X) * classes)
    return np.asarray(shares, np.float64).reshape(len(X), classes)


def nearest(X: Rows, fitted: Rows, k: int) -> tuple[Double, Labels]:
    """Find the nearest rows; of rows at the same distance the first ones.

    Args:
        X: (N, D) rows.
        fitted: (A, D) rows to choose from.
        k: The number of neighbours, at most A.

    Returns:
        (N, k) distances in increasing order, and the positions of the rows.
    """
    # With these columns one product gives the bounds, see ``_lower_bounds``.
    squares, error = _squares(fitted), _relative_error(X)
    columns = np.stack([np.sqrt(squares), squares * (1 - error)], axis=1)
    with np.errstate(over="ignore"):
        extended = np.hstack([fitted, columns], dtype=np.float32, casting="unsafe")
    step = max(1, _BOUNDS // len(fitted))
    starts = range(0, len(X), step)
    parts = [_nearest(X[start : start + step], fitted, extended, k) for start in starts]
    distances, neighbours = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(neighbours)


def _nearest(X: Rows, fitted: Rows, extended: Rows, k: int) -> tuple[Double, Labels]:
    """Find the neighbours of a few rows."""
    own, group = _squares(X), max(1, min(_GROUP, len(fitted) // k))
    # Overflows give bounds that are no numbers, which exclude nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        bounds = _lower_bounds(X, own, extended, -(-len(fitted) // group) * group)
        bounds = bounds.reshape(len(X), group, -1)
        rows, columns = _candidates(bounds, X, own, fitted, k)
    distances = _distances(X, fitted, rows, columns)
    order = np.lexsort((columns, distances, rows))
    chosen = order[np.searchsorted(rows, np.arange(len(X)))[:, None] + np.arange(k)]
    return np.sqrt(distances[chosen]), columns[chosen]


def _lower_bounds(X: Rows, own: Double, extended: Rows, width: int) -> NDArray[np.float32]:
    """Return what each squared distance, less the square of the row, is at least; then infinity.

    The square of the other row, less twice the product, less the largest error of both.
    """
    columns = np.stack([-_relative_error(X) * np.sqrt(own), np.ones(len(X))], axis=1)
    rows = np.hstack([-2 * X, columns], dtype=np.float32, casting="unsafe")
    bounds = np.full((len(X), width), np.inf, np.float32)
    np.matmul(rows, extended.T, out=bounds[:, : len(extended)])
    return bounds


def _relative_error(X: Rows) -> float:
    """Return the largest error of a product in float32 as a share of both lengths.

    It is twice the number of features times 2^-24; twice that is enough for the other roundings.
    """
    return float((X.shape[1] + 4) * 2.0**-22)


def _candidates(
    bounds: NDArray[np.float32], X: Rows, own: Double, fitted: Rows, k: int
) -> tuple[Labels, Labels]:
    """Return the pairs of rows whose lower bound is not above the distance of k other rows.

    Args:
        bounds: (N, members, groups) of ``_lower_bounds``.
        X: (N, D) rows.
        own: (N,) their squares.
        fitted: The other rows.
        k: At most the number of groups.

    Returns:
        Rows of ``X``, increasing, and rows of ``fitted``.
    """
    groups, lowest = bounds.shape[2], bounds.min(axis=1)
    # The lowest bounds of k groups are those of k rows nearby: the k-th neighbour is no farther.
    chosen = np.argpartition(lowest, k - 1, axis=1)[:, :k]
    every = np.arange(len(X))[:, None]
    nearby = bounds[every, :, chosen].argmin(axis=2) * groups + chosen
    distances = _distances(X, fitted, np.repeat(every, k), nearby.ravel())
    limits = (distances.reshape(-1, k).max(axis=1) - own).astype(np.float32)
    limits = np.nextafter(limits, np.float32(np.inf))[:, None]
    rows, chosen = np.nonzero(~(lowest > limits))
    pairs, members = np.nonzero(~(bounds[rows, :, chosen] > limits[rows]))
    columns = members * groups + chosen[pairs]
    return rows[pairs[columns < len(fitted)]], columns[columns < len(fitted)]


def _distances(X: Rows, fitted: Rows, rows: Labels, columns: Labels) -> Double:
    """Return the squared distance of each pair, in float64."""
    distances, step = np.empty(len(rows)), max(1, _VALUES // X.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        apart = X[rows[part]].astype(np.float64) - fitted[columns[part]]
        distances[part] = np.einsum("nd,nd->n", apart, apart)
    return distances


def _squares(X: Rows) -> Double:
    """Return the square of the length of each row, in float64."""
    step = max(1, _VALUES // X.shape[1])
    chunks = (X[start : start + step].astype(np.float64) for start in range(0, len(X), step))
    return np.concatenate([np.einsum("nd,nd->n", chunk, chunk) for chunk in chunks])
