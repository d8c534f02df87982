"""Pseudo-values: one per row, whose mean is a metric.

A pseudo-value is the metric plus the influence of the row, as the delete-one jackknife gives it.
Intervals and comparisons need nothing else.

Source: B. Efron and R. J. Tibshirani, An introduction to the bootstrap (1993), chapter 11.
"""

import numpy as np

from classify.data.preprocessing import Floats
from classify.scores.metrics import LOWEST
from classify.stored.out_of_core import Labels


def reduce_scores(y: Labels, scores: Floats) -> tuple[Labels, Floats]:
    """Reduce (N, K) scores to the values that most metrics need.

    Returns:
        (N,) classes with the highest score, and (N,) scores of the true classes with six decimals.
    """
    # A head whose loss became NaN has NaN scores: it ranks last.
    true_scores = np.nan_to_num(scores[np.arange(len(y)), y].astype(np.float64))
    return scores.argmax(axis=1).astype(np.int64), np.maximum(true_scores.round(6), LOWEST)


def pseudo_values(
    metric: str, y: Labels, classes: int, answers: Labels, true_scores: Floats
) -> Floats:
    """Return the pseudo-values of a metric that needs no scores of other classes.

    Args:
        metric: ``accuracy``, ``balanced_accuracy``, ``macro_f1`` or ``loss``.
        y: (N,) true classes.
        classes: K.
        answers: (N,) classes with the highest score.
        true_scores: (N,) scores of the true classes, above 0.

    Returns:
        (N,) float64; their mean is the metric.
    """
    hits = (answers == y).astype(np.float64)
    if metric in ("accuracy", "loss"):
        return hits if metric == "accuracy" else -np.log(true_scores)
    rows, found = np.bincount(y, minlength=classes), np.bincount(y, hits, classes)
    if metric == "balanced_accuracy":
        value = found / np.maximum(rows, 1)
        weight = len(y) / ((rows > 0).sum() * np.maximum(rows, 1))
        return np.asarray(value[rows > 0].mean() + weight[y] * (hits - value[y]))
    both = rows + np.bincount(answers, minlength=classes)
    value = 2 * found / np.maximum(both, 1)
    weight = len(y) / ((both > 0).sum() * np.maximum(both, 1))
    influence = weight[y] * (2 * hits - value[y]) - weight[answers] * value[answers]
    return np.asarray(value[both > 0].mean() + influence)


def design_weights(metric: str, y: Labels, classes: int, positive: int | None) -> Floats:
    """Return the weight of each row in a metric, (N,): in a mean over classes, one over its class.

    Of two classes, only rows of the positive class limit the average precision.
    """
    if metric in ("accuracy", "loss"):
        return np.ones(len(y))
    weights = 1 / np.bincount(y, minlength=classes)[y]
    if metric == "average_precision" and positive is not None and (y == positive).any():
        weights = weights * (y == positive)
    return np.asarray(weights)
