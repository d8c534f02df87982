"""Features along their strongest directions, and the most similar rows, in float64.

So no digit that is shown depends on the number of threads.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.samples import sample
from classify.stored.out_of_core import Features, Labels, iter_chunks
from extract.similarity.directions import to_units

# Directions of the features; of 32 to 256 these found the most planted wrong labels.
WIDTH = 128
# Rows and values that the directions are computed from, at most.
_MOST_ROWS, _MOST_VALUES = 20_000, 1 << 25

Double = NDArray[np.float64]


def strongest_directions(X: Features, rows: Labels, seed: int) -> Double:
    """Return (N, d) standardised features along about the strongest directions of some rows.

    Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", algorithm 4.4
    with one iteration, https://arxiv.org/abs/0909.4061
    """
    width = math.prod(X.shape[1:])
    drawn = sample(rows, max(2 * WIDTH, min(_MOST_ROWS, _MOST_VALUES // width)), seed)
    chosen = _vectors(_read(X[drawn]))
    mean, scale = chosen.mean(axis=0), chosen.std(axis=0)
    scale[scale <= 1e-6 * scale.max()] = np.inf  # a feature that does not vary
    chosen = (chosen - mean) / scale
    random = np.random.default_rng(seed).standard_normal((width, min(WIDTH, *chosen.shape)))
    directions = np.linalg.qr(chosen.T @ np.linalg.qr(chosen @ random)[0])[0]
    projection = directions / scale[:, None]
    reduced = np.empty((len(X), projection.shape[1]))
    for part, values in iter_chunks(X, width):
        reduced[part] = (_vectors(values) - mean) @ projection
    return reduced


def _read(X: Features) -> Any:
    """Return rows that may be in the file."""
    return np.concatenate([values for _, values in iter_chunks(X)])


def _vectors(values: Any) -> Double:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def nearest_rows(X: Features, queries: Labels, rows: Labels) -> tuple[Labels, Double]:
    """Return the most similar of some rows to each query, other than the query itself."""
    nearest, highest = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf)
    if not len(queries):
        return nearest, highest
    among = np.isin(np.arange(len(X)), rows)
    order = np.argsort(queries)
    wanted = _unit(_read(X[queries[order]]))[np.argsort(order)]
    width = max(len(queries), math.prod(X.shape[1:]))
    for part, values in iter_chunks(X, width):
        numbers, vectors = np.arange(part.start, part.stop), _unit(values)
        cosines = wanted @ vectors.T
        cosines[(queries[:, None] == numbers) | ~among[numbers]] = -np.inf
        place = cosines.argmax(axis=1)
        found = cosines[np.arange(len(queries)), place]
        closer = found > highest
        nearest[closer], highest[closer] = numbers[place[closer]], found[closer]
    return nearest, highest.clip(-1, 1)


def _unit(values: Any) -> Double:
    """Return the vectors of similar images in float64; zeros of rows that have no direction."""
    return np.nan_to_num(to_units(np.asarray(values))).astype(np.float64)
