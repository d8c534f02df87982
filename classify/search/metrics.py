"""Metrics of scores against true classes; independent of heads and files.

Each metric is also the mean of pseudo-values, one per row: its value plus the influence of the row,
as the delete-one jackknife gives it. Intervals and comparisons need nothing else.

Source: B. Efron and R. J. Tibshirani, An introduction to the bootstrap (1993), chapter 11.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats
from extract.core.errors import count_of

# Lower bound of the score of the true class in every loss.
LOWEST = 1e-7
BINS = 10
# Areas under curves, which need the scores of all classes.
AREAS = ("roc_auc", "average_precision")
# A confusion matrix of more classes is listed cell by cell: nearly all of them are zero.
MATRIX_CLASSES = 200


class Metrics(NamedTuple):
    """Metrics of scores against true classes.

    Attributes:
        rows: Number of rows.
        accuracy: Share of rows whose true class has the highest score, 0 to 1.
        loss: Mean negative natural logarithm of the score of the true class; 0 is best.
        macro_f1: Mean F1 of the classes that occur as true class or as answer, 0 to 1.
        confusion: Rows by class and answer, as ``list_confusion`` returns them.
    """

    rows: int
    accuracy: float
    loss: float
    macro_f1: float
    confusion: list[list[int]]

    def __repr__(self) -> str:
        shown = {"accuracy": self.accuracy, "loss": self.loss, "macro F1": self.macro_f1}
        scores = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        return f"{scores} ({count_of(self.rows, 'image')})"


def measure(y: Labels, scores: NDArray[np.floating]) -> Metrics:
    """Measure scores against the true classes.

    Args:
        y: (N,) true classes, 0 to K - 1; at least one row.
        scores: (N, K) scores, 0 to 1, each row summing to 1.

    Returns:
        The metrics. Of equal scores the lower class is the answer, as in ``argmax``.
    """
    confusion = confusion_matrix(y, scores.argmax(axis=1), scores.shape[1])
    accuracy = float(confusion.trace() / len(y))
    counts = list_confusion(confusion)
    return Metrics(len(y), accuracy, log_loss(y, scores), macro_f1(confusion), counts)


def confusion_matrix(y: Labels, answers: Labels, classes: int) -> Any:
    """Count the rows by true class (first axis) and answer (second axis).

    Args:
        y: (N,) true classes, 0 to ``classes`` - 1.
        answers: (N,) classes that are answered, likewise.
        classes: K.

    Returns:
        (K, K) int64 counts, a sparse array: of 10,000 classes a dense one has 800 MB.
    """
    from scipy.sparse import coo_array

    counts = coo_array((np.ones(len(y), np.int64), (y, answers)), shape=(classes, classes))
    return counts.tocsr()


def list_confusion(confusion: Any) -> list[list[int]]:
    """Return a confusion matrix for JSON.

    Args:
        confusion: From ``confusion_matrix``.

    Returns:
        K rows of K counts; of more than ``MATRIX_CLASSES`` classes the cells that are not zero,
        each as [true class, answer, count].
    """
    if confusion.shape[0] <= MATRIX_CLASSES:
        return list(confusion.toarray().tolist())
    cells = confusion.tocoo()
    return list(np.stack([cells.row, cells.col, cells.data], axis=1).tolist())


def log_loss(y: Labels, scores: NDArray[np.floating]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    Scores below ``LOWEST`` count as ``LOWEST``: one row costs at most 16 nats.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.

    Returns:
        0 or more.
    """
    true = scores[np.arange(len(y)), y].clip(LOWEST, 1)
    return float(-np.log(true, dtype=np.float64).mean())


def macro_f1(confusion: Any) -> float:
    """Return the mean F1 of the classes that occur as true class or as answer.

    Args:
        confusion: From ``confusion_matrix``.

    Returns:
        0 to 1.
    """
    # F1 = 2 TP / (2 TP + FP + FN); a row and a column of a class sum to the denominator.
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = occurs > 0
    return float((2 * confusion.diagonal()[seen] / occurs[seen]).mean())


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
