"""Calibration: whether scores are probabilities, and the scale of logits that makes them so."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from classify.data.preprocessing import Floats
from classify.stored.out_of_core import Labels

BINS = 10
# Folds of training rows to fit the scale of the logits.
FOLDS = 3
# The scale is fitted on at most so many logits, 134 MB; more of them hardly change it.
_MOST_LOGITS = 2**24
# A standard deviation of logits below this is a rounding error.
_NO_LOGITS = 1e-10

Double = NDArray[np.float64]


def calibration_bins(y: Labels, scores: Floats) -> tuple[Labels, Labels, Floats, Floats]:
    """Put rows into ten bins of equal width by the score of the predicted class.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.

    Returns:
        (N,) bin of each row; then for each of ten bins its rows, the sum of their highest scores,
        and the number that is right.
    """
    highest, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == y
    # The bins of sklearn.calibration.calibration_curve, which returns no counts, as the weights
    # need them, and refuses a score that rounding puts above 1.
    places = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], highest)
    sums = [np.bincount(places, weights, BINS) for weights in (None, highest, right)]
    return places, *sums


def calibration_error(y: Labels, scores: Floats) -> float:
    """Return the expected calibration error (ECE), 0 to 1.

    It is the mean distance between score and accuracy in ten bins, weighted by their rows.
    """
    _, _, highest, right = calibration_bins(y, scores)
    return float(np.abs(highest - right).sum() / len(y))


def probabilities(z: Double, scale: float = 1.0) -> Double:
    """Return the softmax, (N, K), of scaled logits (N, K), or (N, 1) for class 1 of 2."""
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    powers = np.exp(scale * (z - z.max(axis=1, keepdims=True)))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def deal_folds(y: Labels, groups: Labels | None = None, folds: int = FOLDS) -> Labels:
    """Deal training rows to folds that are left out in turn, to fit the scale of the logits.

    A fold holds all rows of an image, and all rows of a group that have one class. A class with
    one group is never left out: each fit needs every class.

    Args:
        y: (n,) classes 0 to K - 1.
        groups: (n,) the image, or the group of images, of each row; None if all differ.
        folds: Their number.

    Returns:
        (n,) 0 to ``folds`` - 1, or -1.
    """
    fold = np.full(len(y), -1)
    for label in range(int(y.max()) + 1):
        members = np.flatnonzero(y == label)
        own = members if groups is None else groups[members]
        numbers = np.unique(own, return_inverse=True)[1]
        if numbers.max() > 0:
            fold[members] = numbers % folds
    return fold


def scale_sample(groups: Labels, classes: int) -> Labels:
    """Return the rows that the scale of the scores is fitted on: of thousands of classes fewer.

    Args:
        groups: (N,) whole numbers; all rows of a group are taken, or none.
        classes: K.
    """
    return np.flatnonzero(groups % math.ceil(len(groups) * classes / _MOST_LOGITS) == 0)


def left_out_folds(
    y: Labels, groups: Labels | None = None, folds: int = FOLDS
) -> Iterator[tuple[Labels, Labels]]:
    """Yield for each fold the rows to train on, and the left-out rows that the scale is fitted on.

    Args: see ``deal_folds``.
    """
    fold = deal_folds(y, groups, folds)
    kept = scale_sample(np.arange(len(y)) if groups is None else groups, int(y.max()) + 1)
    for k in range(folds):
        if len(rows := kept[fold[kept] == k]):
            yield np.flatnonzero(fold != k), rows


def fit_logit_scale(z: Double, y: Labels) -> float:
    """Fit the factor of the logits with the highest likelihood (temperature scaling).

    It is one over the temperature. It changes the confidence of the answers, not the answers. One
    row more, which is of every class alike, keeps it finite where all answers are right.

    Args:
        z: (N, K) or (N, 1) logits of rows that the head was not fitted on. Where there are none,
            those of training rows: nothing is known about errors, and scores become nearly even.
        y: (N,) their classes; empty where there are none.
    """
    from scipy.optimize import minimize_scalar

    spread = max(float(z.std()), _NO_LOGITS)
    if not len(y):
        return 0.1 / spread
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    z = (z - z.max(axis=1, keepdims=True)) / spread

    def loss(log_scale: float) -> float:
        scaled = np.exp(log_scale) * z
        log_scores = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return -float(log_scores[np.arange(len(y)), y].sum() + log_scores.mean())

    # From nearly even scores to scores of nearly 0 and 1, even if a few logits are far out.
    return float(np.exp(minimize_scalar(loss, bounds=(-8, 10)).x) / spread)
