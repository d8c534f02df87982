"""Whether training and validation images look different, within their classes.

Ridge regression learns to tell the validation images of a class from its training images, in folds.
Its ROC area counts pairs of a training and a validation image of one class and one fold. Features
and splits are centred by class, so that other shares of the classes alone change nothing. By chance
the area is about 0.5; how far it strays is measured by exchanging training and validation images at
random within each class. This is exact where images are divided at random within classes: of such
divisions at most one in a hundred is said to look different.

Sources: D. Lopez-Paz and M. Oquab, Revisiting classifier two-sample tests (2017); P. I. Good,
Permutation, parametric and bootstrap tests of hypotheses (2005), on exchanges within blocks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.near_duplicates import describe_all_leaks
from classify.data.splits import Split
from classify.stored.out_of_core import Labels, StoredRows

# Images of each split, in all and of a class, and features, at most: about 0.3 s.
_MOST_ROWS, _MOST_BYTES, _MOST_FEATURES, _DIRECTIONS = 1000, 2**27, 512, 64
# Fewer images of a split say nothing.
_FEWEST_ROWS = 20
_FOLDS = 5
# Divisions at random; with the one that was seen, 200, of which the two highest are 1 %.
_EXCHANGES, _HIGHEST = 199, 2
# The penalty per image; features have a variance of 1 in all.
_PENALTY = 1e-3
# A smaller area may be real, but is of no consequence.
NOTABLE = 0.6

Double = NDArray[np.float64]


class Shift(NamedTuple):
    """How well training and validation images of one class are told apart.

    Attributes:
        area: ROC area, 0 to 1; about 0.5 where they look alike.
        chance: The area that one in a hundred divisions at random exceeds.
        training: Training images that were compared.
        validation: Validation images that were compared.
    """

    area: float
    chance: float
    training: int
    validation: int

    @property
    def is_notable(self) -> bool:
        """Whether the images look different: more than by chance, and enough to matter."""
        return self.area > max(self.chance, NOTABLE)


def compare_splits(dataset: Dataset, split: Split, seed: int = 0) -> Shift | None:
    """Compare the training and the validation images of a file that has both.

    Args:
        dataset: The rows that were trained on.
        split: The division that heads were compared on.
        seed: Decides folds, exchanges, and the images of large files.

    Returns:
        The result; None of a hold-out or folds, which are random, and of few images.
    """
    if split.origin != "store":
        return None
    random = np.random.default_rng(seed)
    rows, sides = _choose(dataset, split, random)
    counts = np.bincount(sides, minlength=2)
    if min(counts) < _FEWEST_ROWS:
        return None
    classes = np.unique(dataset.y[rows], return_inverse=True)[1]
    folds = _deal(classes, random)
    many = np.stack([sides, *(_exchange(sides, classes, random) for _ in range(_EXCHANGES))], 1)
    scores = _predict(_centre(_read(dataset, rows), classes), _centre(many, classes), folds)
    areas = _areas(scores, many == 1, classes * _FOLDS + folds).round(6)
    if np.isnan(areas).any():
        return None
    chance = float(np.sort(areas)[-_HIGHEST - 1])
    return Shift(float(areas[0]), chance, *counts.tolist())


def find_leaks(dataset: Dataset, splits: Sequence[Split]) -> list[str]:
    """Describe images with a copy, or a near-duplicate, on another side of the division."""
    sides = np.full(len(dataset.y), -1)
    sides[splits[0].train], sides[splits[0].test] = 0, -2
    first = [split for split in splits if not split.repeat]
    for number, split in enumerate(first, 1):
        sides[split.validation] = number
    noun, near = "folds" if splits[0].origin == "fold" else "splits", not dataset.near_joined
    found = describe_all_leaks(
        dataset.X, dataset.digests, dataset.keys, (sides, sides), noun, near=near
    )
    return [line.partition("; expected")[0] for line in found]


def _choose(
    dataset: Dataset, split: Split, random: np.random.Generator
) -> tuple[Labels, NDArray[np.int64]]:
    """Return rows of classes that both splits have, and the split of each: 0 or 1.

    Of a group one image counts, since those of a group are not independent. Of many images some are
    drawn: of each class in turn, so that also the images of small classes are compared.
    """
    width = 4 * int(np.prod(dataset.X.shape[1:]))
    most = min(_MOST_ROWS, _MOST_BYTES // width // 2)
    parts = [_one_per_group(dataset, rows, random) for rows in (split.train, split.validation)]
    shared = np.intersect1d(dataset.y[parts[0]], dataset.y[parts[1]])
    shared = random.permutation(shared)[: max(1, most // _FOLDS)]
    parts = [rows[np.isin(dataset.y[rows], shared)] for rows in parts]
    chosen = [r[np.argsort(_turns(dataset.y[r]), kind="stable")[:most]] for r in parts]
    sides = np.repeat([0, 1], [len(rows) for rows in chosen])
    # At random, so that images of equal scores are in no order.
    order = random.permutation(len(sides))
    return np.concatenate(chosen)[order], sides[order]


def _one_per_group(dataset: Dataset, rows: Labels, random: np.random.Generator) -> Labels:
    shuffled = random.permutation(rows)
    firsts = np.unique(dataset.grouping.numbers[shuffled], return_index=True)[1]
    return np.asarray(random.permutation(shuffled[firsts]))


def _turns(y: Labels) -> Labels:
    """Return how many rows of its class come before each row."""
    order = np.argsort(y, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(y[order])) + 1]
    turns = np.empty(len(y), np.int64)
    turns[order] = np.arange(len(y)) - np.repeat(starts, np.diff(np.r_[starts, len(y)]))
    return turns


def _deal(classes: Labels, random: np.random.Generator) -> Labels:
    """Return the fold of each row: as many of each class, at random, whatever their split."""
    order = random.permutation(len(classes))
    folds = np.empty(len(classes), np.int64)
    folds[order] = _turns(classes[order]) % _FOLDS
    return folds


def _exchange(sides: Labels, classes: Labels, random: np.random.Generator) -> Labels:
    """Return the splits, exchanged at random among the rows of each class."""
    exchanged = np.empty_like(sides)
    shuffled = np.lexsort((random.random(len(sides)), classes))
    exchanged[np.argsort(classes, kind="stable")] = sides[shuffled]
    return exchanged


def _read(dataset: Dataset, rows: Labels) -> Double:
    """Return (n, d) features along the strongest directions, with a variance of 1 in all.

    Feature maps are averaged over their positions.
    """
    order = np.argsort(rows)
    X = dataset.X.read(rows[order]) if isinstance(dataset.X, StoredRows) else dataset.X[rows[order]]
    X = X[np.argsort(order)]
    flat = X.mean(axis=(1, 2)) if X.ndim == 4 else X.reshape(len(X), -1)
    spaced = np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _MOST_FEATURES))
    flat = flat[:, spaced.round().astype(np.int64)].astype(np.float64)
    flat -= flat.mean(axis=0)
    scale = flat.std(axis=0)
    flat /= np.where(scale > 1e-6 * scale.max(initial=0), scale, np.inf)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    return np.asarray(flat @ vectors[:, -_DIRECTIONS:] / np.sqrt(max(values.sum(), 1e-12)))


def _centre(values: NDArray[Any], classes: Labels) -> Double:
    """Subtract from each column the mean of the class."""
    sums = np.zeros((int(classes.max()) + 1, values.shape[1]))
    np.add.at(sums, classes, values)
    return np.asarray(values - (sums / np.bincount(classes)[:, None])[classes])


def _predict(X: Double, sides: Double, folds: Labels) -> Double:
    """Return the score of each row, for each division, by ridge regression on the other folds."""
    scores = np.empty_like(sides)
    gram, products = X.T @ X, X.T @ sides
    penalty = _PENALTY * len(X) * np.eye(X.shape[1])
    for fold in range(_FOLDS):
        own = folds == fold
        part = X[own]
        weights = np.linalg.solve(gram - part.T @ part + penalty, products - part.T @ sides[own])
        scores[own] = part @ weights
    return scores


def _areas(scores: Double, validation: NDArray[np.bool_], cells: Labels) -> Double:
    """Return the ROC area of each division, of pairs within a cell."""
    order = np.argsort(scores, axis=0, kind="stable")
    # Sorted by cell, and within it by score.
    order = np.take_along_axis(order, np.argsort(cells[order], axis=0, kind="stable"), axis=0)
    held = np.take_along_axis(validation, order, axis=0)
    sizes = np.bincount(cells)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    below = np.vstack([np.zeros(held.shape[1]), np.cumsum(~held, axis=0)])
    right = (held * (below[1:] - below[starts])).sum(axis=0)
    hits = np.stack([np.bincount(cells, own, len(sizes)) for own in validation.T.astype(float)])
    pairs = (hits * (sizes - hits)).sum(axis=1)
    return np.asarray(np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
