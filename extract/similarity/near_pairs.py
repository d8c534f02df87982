"""Exact pairs of unit vectors above a cosine, without computing most of the products.

Vectors of a high cosine are close to each other, and so are their projections. A projection onto a
few directions, with the length of the rest as one more coordinate, is never farther apart than the
vectors. So only the pairs whose projections are close enough are compared in full, and none is
missed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.core.errors import SettingError
from extract.similarity.directions import Directions, Numbers, Vectors

# Up to so many vectors all products are computed.
_FEW = 2**12
# Directions of the projection, chosen on so many vectors.
_WIDTH, _SAMPLE = 64, 2**12
# Rows by columns of the products at a time, and vectors of pairs that are compared (32 MB).
_ROWS, _COLUMNS, _VALUES = 2**10, 2**12, 2**22
# More than rounding errors of float32.
ROUNDING = 1e-6
_SLACK = 1e-5
# A larger share of pairs of a block is faster compared by a product of matrices.
_DENSE = 0.002
MOST_PAIRS = 5_000_000


class Pairs(NamedTuple):
    """Pairs of positions, the first below the second, with their cosines."""

    first: Numbers
    second: Numbers
    cosine: NDArray[np.float64]


def find_pairs(directions: Directions, threshold: float) -> Pairs:
    """Return every pair of different vectors whose cosine is ``threshold`` or more.

    Exact copies of a vector are left out; each is at ``directions.firsts``.

    Raises:
        SettingError: There are more than five million pairs.
    """
    distinct = np.flatnonzero(directions.firsts == np.arange(len(directions)))
    found, count = list[Pairs](), 0
    sketch, is_exact = _project(directions, distinct)
    limit = threshold - 1 - (ROUNDING if is_exact else _SLACK)
    full = None if is_exact else partial(_are_near, directions, distinct, threshold)
    for first, second, values in _close_pairs(sketch, limit, full):
        if count + len(first) > MOST_PAIRS and is_exact:
            _refuse(threshold)
        pairs = Pairs(distinct[first], distinct[second], 1 + values.astype(np.float64))
        if not is_exact:
            pairs = _compare(directions, pairs, threshold)
        found.append(pairs)
        count += len(pairs.first)
        if count > MOST_PAIRS:
            _refuse(threshold)
    empty = Pairs(distinct[:0], distinct[:0], np.empty(0))
    first, second, cosine = map(np.concatenate, zip(empty, *found, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], np.minimum(cosine[order], 1.0))


def _refuse(threshold: float) -> None:
    found = f"found more than {MOST_PAIRS:,} pairs with a cosine of {threshold:g} or more"
    raise SettingError(f"near: {found}; expected few; name a higher one, up to 1")


def _project(directions: Directions, distinct: Numbers) -> tuple[Vectors, bool]:
    """Return coordinates whose distances are at most those of the vectors, and if they are equal.

    The main directions are those of a sample, by two steps of subspace iteration: any orthonormal
    ones would be correct, and these leave the shortest rest.
    """
    if len(distinct) <= _FEW:
        return directions.read(distinct), True
    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(distinct, _SAMPLE, replace=False))
    sample = directions.read(chosen)
    if sample.shape[1] <= 2 * _WIDTH:
        return directions.read(distinct), True
    sample = sample - sample.mean(axis=0)
    basis = random.standard_normal((sample.shape[1], _WIDTH)).astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    parts = []
    step = max(1, _VALUES // len(basis))
    for start in range(0, len(distinct), step):
        vectors = directions.read(distinct[start : start + step])
        projected = vectors @ basis
        rest = np.linalg.norm(vectors - projected @ basis.T, axis=1, keepdims=True)
        parts.append(np.hstack([projected, rest]))
    return np.concatenate(parts), False


def _close_pairs(
    sketch: Vectors, limit: float, full: Callable[[int, int], NDArray[np.bool_]] | None
) -> Iterator[tuple[Numbers, Numbers, NDArray[np.float32]]]:
    """Yield the pairs whose half squared distance, negated, is at least ``limit``; with it.

    Where the sketch leaves many pairs of a block, ``full`` says which of them may be near.
    """
    half = np.einsum("nd,nd->n", sketch, sketch)[:, None] / 2
    ones = np.ones_like(half)
    left, right = np.hstack([sketch, -half, ones]), np.hstack([sketch, ones, -half])
    for start in range(0, len(sketch), _ROWS):
        rows = left[start : start + _ROWS]
        for begin in range(start - start % _COLUMNS, len(sketch), _COLUMNS):
            values = rows @ right[begin : begin + _COLUMNS].T
            close = values >= limit
            if full and np.count_nonzero(close) > _DENSE * close.size:
                close &= full(start, begin)
            places = np.flatnonzero(close)
            first, second = places // values.shape[1] + start, places % values.shape[1] + begin
            kept = first < second
            if kept.any():
                yield first[kept], second[kept], values.ravel()[places[kept]]


def _are_near(
    directions: Directions, distinct: Numbers, threshold: float, start: int, begin: int
) -> NDArray[np.bool_]:
    """Return for a block of pairs whether their product, rounded, may reach the threshold."""
    rows = directions.read(distinct[start : start + _ROWS])
    columns, width = distinct[begin : begin + _COLUMNS], rows.shape[1]
    # No rounding error of a product of unit vectors is larger.
    limit = threshold - ROUNDING - width * np.finfo(np.float32).eps
    step, near = max(1, _VALUES // width), np.empty((len(rows), len(columns)), np.bool_)
    for first in range(0, len(columns), step):
        part = slice(first, first + step)
        near[:, part] = rows @ directions.read(columns[part]).T >= limit
    return near


def _compare(directions: Directions, pairs: Pairs, threshold: float) -> Pairs:
    """Return those of some pairs whose cosine is high enough."""
    width = directions.read(pairs.first[:1]).shape[1]
    step, cosine = max(1, _VALUES // width), np.empty(len(pairs.first))
    for start in range(0, len(cosine), step):
        part = slice(start, start + step)
        one, other = directions.read(pairs.first[part]), directions.read(pairs.second[part])
        cosine[part] = np.einsum("nd,nd->n", one, other, dtype=np.float64)
    kept = cosine >= threshold - ROUNDING
    return Pairs(pairs.first[kept], pairs.second[kept], cosine[kept])
