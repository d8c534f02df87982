"""The images worth labelling next: the least certain ones that differ from each other.

With a head, the images with the lowest margins (best score minus second) are a pool of some times
as many as wanted. K-means divides the pool into as many clusters as wanted, each image weighted by
1 minus its margin, and the image nearest to the centre of each cluster is chosen. The weights keep
away from what is labelled: the head is sure of what resembles it.
Source: Zhdanov, Diverse mini-batch active learning, 2019, https://arxiv.org/abs/1901.05954

Without a head, the same clusters are of all images, without weights: the first labels then cover
what there is, and typical images are better than odd ones for few labels.
Source: Hacohen, Dekel and Weinshall, Active learning on a budget: opposite strategies suit high and
low budgets, 2022, https://arxiv.org/abs/2202.02794

K-means takes time as rows times clusters. More than ``PART`` are chosen in parts: a first
k-means divides the rows, and each part gets clusters by its weight.

``benchmarks/labelling.py`` compares these rules with random choice and others.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.similarity.directions import to_units

# The least sure images among which are chosen, for each one that is wanted.
POOL = 10
# Clusters of one k-means, at most.
PART = 100
_STEPS = 30
# Rows, and bytes of them, among which the first images to label are chosen.
_MOST_ROWS, _MOST_BYTES = 20_000, 2**28
# The share of rows in one part from which on they are divided by their order.
_MOST_IN_A_PART = 0.9
# Rows whose distances are computed at a time.
_ROWS = 4096

Rows = NDArray[np.float32]
Places = NDArray[np.int64]
Weights = NDArray[np.float64]


def least_sure(margins: NDArray[np.floating], count: int) -> Places:
    """Return the places of ``POOL`` times ``count`` lowest margins, increasing; of many fewer."""
    order = np.argsort(margins, kind="stable")
    return np.sort(order[: max(count, min(POOL * count, _MOST_ROWS))])


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
    rows = unit_rows(X)
    weights = np.ones(len(rows)) if margins is None else 1 - np.asarray(margins, np.float64)
    weights = np.maximum(weights, 1e-6)
    random = np.random.default_rng(seed)
    places, sizes = _choose(rows, weights, min(count, len(rows)), random)
    places = places[np.argsort(-sizes, kind="stable")]
    return places if margins is None else places[np.argsort(margins[places], kind="stable")]


def unit_rows(X: NDArray[np.floating]) -> Rows:
    """Return features as vectors of length 1; of zeros if they have no direction."""
    return np.nan_to_num(to_units(X), copy=False)


def _choose(
    rows: Rows, weights: Weights, count: int, random: np.random.Generator
) -> tuple[Places, Weights]:
    """Return the places of ``count`` rows that stand for all, and the weight of their clusters."""
    if count <= PART:
        return _choose_central(rows, weights, count, random)
    parts = math.ceil(count / PART)
    labels = _cluster(rows, weights, parts, random)[1]
    if np.bincount(labels).max() > _MOST_IN_A_PART * len(rows):  # many copies
        labels = np.arange(len(rows)) * parts // len(rows)
    places, sizes = list[Places](), list[Weights]()
    for part, share in enumerate(_shares(labels, weights, count)):
        own = np.flatnonzero(labels == part)
        chosen, size = _choose(rows[own], weights[own], share, random)
        places.append(own[chosen])
        sizes.append(size)
    return np.concatenate(places), np.concatenate(sizes)


def _shares(labels: Places, weights: Weights, count: int) -> list[int]:
    """Divide a number among parts by their weights; none gets more than its rows.

    Each goes to the part with the most weight for one more, as seats in D'Hondt's method.
    """
    rows, sums = np.bincount(labels), np.bincount(labels, weights)
    shares = np.zeros(len(rows), np.int64)
    for _ in range(count):
        shares[np.where(shares < rows, sums / (shares + 1), -1).argmax()] += 1
    return shares.tolist()


def _choose_central(
    rows: Rows, weights: Weights, count: int, random: np.random.Generator
) -> tuple[Places, Weights]:
    """Return the row nearest to the centre of each cluster, and its weight, the largest first."""
    if not count:
        return np.zeros(0, np.int64), np.zeros(0)
    centres, labels = _cluster(rows, weights, count, random)
    sizes = np.bincount(labels, weights, minlength=count).astype(np.float64)
    order = np.argsort(-sizes, kind="stable")
    chosen, left = list[int](), np.ones(len(rows), bool)
    for cluster in order.tolist():
        own = np.flatnonzero(left & (labels == cluster))
        if not len(own):  # a centre that lost its rows takes the nearest one that is left
            own = np.flatnonzero(left)
        near = _distances(rows[own], _squares(rows[own]), centres[cluster : cluster + 1])
        chosen.append(int(own[near[:, 0].argmin()]))
        left[chosen[-1]] = False
    return np.array(chosen, np.int64), sizes[order]


def _cluster(
    rows: Rows, weights: Weights, count: int, random: np.random.Generator
) -> tuple[Rows, Places]:
    """Return the centres of weighted k-means, and the cluster of each row."""
    squares = _squares(rows)
    centres = _first_centres(rows, squares, weights, random, count)
    labels = np.full(len(rows), -1)
    for _ in range(_STEPS):
        nearest = np.concatenate(
            [
                _distances(
                    rows[start : start + _ROWS], squares[start : start + _ROWS], centres
                ).argmin(axis=1)
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
    rows: Rows, squares: Rows, weights: Weights, random: np.random.Generator, count: int
) -> Rows:
    """Draw rows as centres, with probabilities as their squared distances to those before.

    Of a few draws the one is kept that brings all rows nearest to a centre, as scikit-learn does.
    Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007
    """
    chosen = [int(random.choice(len(rows), p=weights / weights.sum()))]
    nearest = _distances(rows, squares, rows[chosen])[:, 0]
    tries = 2 + int(np.log(count))
    while len(chosen) < count:
        chances = nearest * weights
        chances[chosen] = 0
        if not chances.any():  # the rest are copies
            chances = weights.copy()
            chances[chosen] = 0
        drawn = random.choice(len(rows), tries, p=chances / chances.sum())
        reached = np.minimum(nearest[:, None], _distances(rows, squares, rows[drawn]))
        best = int((weights @ reached).argmin())
        chosen.append(int(drawn[best]))
        nearest = reached[:, best]
    return rows[chosen].copy()


def _squares(rows: Rows) -> Rows:
    return np.asarray(np.einsum("nd,nd->n", rows, rows))


def _distances(rows: Rows, squares: Rows, centres: Rows) -> Weights:
    """Return (N, K) squared distances of rows with their (N,) squared lengths to centres."""
    sums = squares[:, None] + _squares(centres)
    return np.asarray(np.maximum(sums - rows @ (2 * centres).T, 0), np.float64)
