"""Areas under the ROC curve and under the curve of precision against recall, as pseudo-values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats

# They need the scores of all classes.
AREAS = ("roc_auc", "average_precision")


def area_values(y: Labels, scores: Floats, positive: int | None = None) -> Floats:
    """Return the pseudo-values of ``roc_auc`` and of ``average_precision``.

    Of two classes the areas are those of the positive class; of more, the means over the classes,
    each against all others, that some rows are of and some are not.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        positive: The positive class of two; None of more.

    Returns:
        (2, N) with nine decimals; NaN where no class has an area.
    """
    rows = np.bincount(y, minlength=scores.shape[1])
    labels = np.flatnonzero((rows > 0) & (rows < len(y)))
    labels = labels if positive is None else labels[labels == positive]
    if not len(labels):
        return np.full((2, len(y)), np.nan)
    total = np.zeros((2, len(y)))
    for label in labels:
        total += class_areas(y == label, scores[:, label])
    return np.asarray((total / len(labels)).round(9))


def class_areas(truth: NDArray[np.bool_], score: Floats) -> Floats:
    """Return the pseudo-values of the ROC area and the average precision of one class.

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class.

    Returns:
        (2, N). Equal scores count as in scikit-learn: as one threshold.
    """
    # Thresholds from the highest score to the lowest, and the threshold of each row.
    place = np.unique(-np.nan_to_num(score), return_inverse=True)[1]
    count = np.bincount(place)
    positives: NDArray[Any] = np.bincount(place, truth)
    above, hits = np.cumsum(count), np.cumsum(positives)
    rows, true = len(truth), hits[-1]
    false = rows - true
    negatives = count - positives
    # The share of the negatives below a positive, and of the positives above a negative.
    beaten = (false - np.cumsum(negatives) + negatives / 2) / false
    beating = (hits - positives / 2) / true
    area = float(positives @ beaten) / true
    roc = area + np.where(
        truth, rows / true * (beaten[place] - area), rows / false * (beating[place] - area)
    )
    precision = float((positives * hits / above).sum()) / true
    influence = (rows - 1) * (precision - _precision_without(truth, place, count, positives))
    return np.stack([roc, precision + influence - influence.mean()])


def _precision_without(
    truth: NDArray[np.bool_], place: Labels, count: Labels, positives: NDArray[Any]
) -> Floats:
    """Return the average precision without each row, in one pass over the thresholds."""
    above, hits = np.cumsum(count), np.cumsum(positives)
    less = np.maximum(above - 1, 1)

    def from_here(terms: Floats) -> Floats:
        return np.append(np.cumsum(terms[::-1])[::-1], 0.0)

    before = np.append(0.0, np.cumsum(positives * hits / above))[place]
    without_false = before + from_here(positives * hits / less)[place]
    own = ((positives - 1) * (hits - 1) / less)[place]
    without_true = before + own + from_here(positives * (hits - 1) / less)[place + 1]
    true = hits[-1]
    return np.asarray(np.where(truth, without_true / max(true - 1, 1), without_false / true))
