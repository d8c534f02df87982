"""The images worth labelling next: the least sure ones, and of these different ones.

With a head, the images with the lowest margins (best score minus second) are a pool of some times
as many as wanted. K-means divides the pool into as many clusters as wanted, each image weighted by
1 minus its margin, and the image nearest to the centre of each cluster is chosen. The weights keep
away from what is labelled: the head is sure of what resembles it.
Source: Zhdanov, Diverse mini-batch active learning, 2019, https://arxiv.org/abs/1901.05954

Without a head, the same clusters are of all images, without weights: the first labels then cover
what there is, and typical images are better than odd ones for few labels.
Source: Hacohen, Dekel and Weinshall, Active learning on a budget: opposite strategies suit high and
low budgets, 2022, https://arxiv.org/abs/2202.02794

``benchmarks/labelling.py`` compares these rules with random choice and others.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The least sure images among which are chosen, for each one that is wanted.
POOL = 10
_STEPS = 30
# Rows, and bytes of them, among which the first images to label are chosen.
_MOST_ROWS, _MOST_BYTES = 20_000, 2**28
# Rows whose distances are computed at a time.
_ROWS = 4096

Rows = NDArray[np.float32]
Places = NDArray[np.int64]


def least_sure(margins: NDArray[np.floating], count: int) -> Places:
    """Return the places of ``POOL`` times ``count`` lowest margins, increasing."""
    order = np.argsort(margins, kind="stable")
    return np.sort(order[: POOL * count])


def sample(shape: Sequence[int], count: int) -> Places:
    """Return the places of (N, *shape) rows to choose from, increasing: all, or a random sample."""
    most = max(count, min(_MOST_ROWS, _MOST_BYTES // (4 * math.prod(shape[1:]))))
    if shape[0] <= most:
        return np.arange(shape[0])
    return np.sort(np.random.default_rng(0).choice(shape[0], most, replace=False))


def choose_different(
    X: NDArray[np.floating], count: int, margins: NDArray[np.floating] | None = None, seed: int = 0
) -> Places:
    """Return the places of ``count`` different rows that stand for all.

    Args:
        X: (N, *shape) features.
        count: How many are wanted; N where there are fewer.
        margins: (N,) margins: 1 minus them are weights; None weighs all the same.
        seed: Decides the first centres.

    Returns:
        The places, those of the lowest margins first; without margins those of the largest
        clusters.
    """
    rows = normalise(X)
    weights = np.ones(len(rows)) if margins is None else 1 - np.asarray(margins, np.float64)
    weights = np.maximum(weights, 1e-6)
    count = min(count, len(rows))
    centres, labels = _cluster(rows, weights, count, np.random.default_rng(seed))
    sizes = np.bincount(labels, weights, minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable").tolist():
        distances = _distances(rows, centres[cluster : cluster + 1])[:, 0]
        # A centre that lost its rows takes the nearest one that is left.
        distances[labels != cluster] += 4 * (labels == cluster).any()
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    places = np.array(chosen, np.int64)
    return places if margins is None else places[np.argsort(margins[places], kind="stable")]


def normalise(X: NDArray[np.floating]) -> Rows:
    """Return features as vectors of length 1."""
    rows = X.reshape(len(X), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _cluster(
    rows: Rows, weights: NDArray[np.float64], count: int, random: np.random.Generator
) -> tuple[Rows, Places]:
    """Return the centres of weighted k-means, and the cluster of each row."""
    centres = _first_centres(rows, weights, count, random)
    labels = np.full(len(rows), -1)
    for _ in range(_STEPS):
        nearest = np.concatenate(
            [
                _distances(rows[start : start + _ROWS], centres).argmin(axis=1)
                for start in range(0, len(rows), _ROWS)
            ]
        )
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        sums = np.bincount(labels, weights, minlength=count)
        for cluster in np.flatnonzero(sums).tolist():
            own = labels == cluster
            centres[cluster] = weights[own] @ rows[own] / sums[cluster]
    return centres, labels


def _first_centres(
    rows: Rows, weights: NDArray[np.float64], count: int, random: np.random.Generator
) -> Rows:
    """Draw rows as centres, with probabilities as their squared distances to those before.

    Of a few draws the one is kept that brings all rows nearest to a centre, as scikit-learn does.
    Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007
    """
    chosen = [int(random.choice(len(rows), p=weights / weights.sum()))]
    nearest = _distances(rows, rows[chosen])[:, 0]
    tries = 2 + int(np.log(count))
    while len(chosen) < count:
        chances = nearest * weights
        chances[chosen] = 0
        if not chances.any():  # the rest are copies
            chances = weights.copy()
            chances[chosen] = 0
        drawn = random.choice(len(rows), tries, p=chances / chances.sum())
        reached = np.minimum(nearest[:, None], _distances(rows, rows[drawn]))
        best = int((weights @ reached).argmin())
        chosen.append(int(drawn[best]))
        nearest = reached[:, best]
    return rows[chosen].copy()


def _distances(rows: Rows, centres: Rows) -> NDArray[np.float64]:
    """Return (N, K) squared distances of rows of length 1, or 0, to centres."""
    squares = np.einsum("nd,nd->n", rows, rows)[:, None] + np.einsum("kd,kd->k", centres, centres)
    return np.asarray(np.maximum(squares - 2 * rows @ centres.T, 0), np.float64)
