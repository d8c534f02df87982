"""Diagnostics of one head, computed from its scores and the true classes."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.report.ranks import Labels, Line, Scores, iter_classes, rank_class
from classify.search.metrics import confusion_matrix

# Half the width, in standard deviations, of a 95 % interval of the normal distribution.
_QUANTILE = 1.959964
BINS = 10
# A drawn curve has at most this many points; more cannot be seen.
_MOST_POINTS = 101


class Proportion(NamedTuple):
    """A proportion of images, 0 to 1, and its 95 % interval; all None where there are no images."""

    value: float | None
    low: float | None
    high: float | None


class ClassMetrics(NamedTuple):
    """How well one class is told from all others.

    Attributes:
        name: The class.
        rows: Validation images of the class.
        answered: Images that the head predicts as the class.
        precision: Proportion of ``answered`` that are of the class.
        recall: Proportion of ``rows`` that are predicted as the class.
        f1: Harmonic mean of precision and recall.
        roc_area: Area under the ROC curve of the class against all others; None unless some images
            are of the class and some are not.
        average_precision: Average precision of the class; None in the same cases.
    """

    name: str
    rows: int
    answered: int
    precision: Proportion
    recall: Proportion
    f1: Proportion
    roc_area: float | None
    average_precision: float | None


class Curve(NamedTuple):
    """A named curve: equally long lists of x and y."""

    name: str
    x: list[float]
    y: list[float]


class CalibrationBin(NamedTuple):
    """Images whose highest score lies in one tenth of 0 to 1.

    Attributes:
        rows: Number of images, 1 or more.
        score: Mean of their highest scores.
        accuracy: Proportion of them that are classified correctly.
    """

    rows: int
    score: float
    accuracy: Proportion


class ConfusedPair(NamedTuple):
    """``rows`` of the ``of`` images of the class ``truth`` are predicted as ``answer``."""

    truth: str
    answer: str
    rows: int
    of: int


def proportion(hits: float, count: float, independent: float = 1.0) -> Proportion:
    """Return a proportion and its Wilson interval, which stays useful at 0, at 1 and for few rows.

    SciPy has the interval for whole numbers only; groups make ``count * independent`` a fraction.

    Args:
        hits: Rows that count, 0 to ``count``.
        count: All rows.
        independent: Share of the rows that are independent: with groups, groups / rows.

    Returns:
        The proportion; None three times where ``count`` is 0.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference
    (1927).
    """
    if not count:
        return Proportion(None, None, None)
    value, n = hits / count, count * independent
    z = _QUANTILE**2 / n
    middle = (value + z / 2) / (1 + z)
    half = float(np.sqrt(z * value * (1 - value) + z * z / 4)) / (1 + z)
    return Proportion(value, max(0.0, middle - half), min(1.0, middle + half))


def class_metrics(
    y: Labels, scores: Scores, names: tuple[str, ...], independent: float = 1.0
) -> list[ClassMetrics]:
    """Compute the metrics of each class against all others.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        names: K names.
        independent: See ``proportion``.

    Returns:
        One per class, in the order of ``names``.
    """
    # Precision, recall and F1 come from counts, which their intervals need.
    confusion = confusion_matrix(y, scores.argmax(axis=1), len(names))
    counts = np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)], axis=1)
    classes = []
    columns = zip(counts.tolist(), iter_classes(y, scores), strict=True)
    for (hits, rows, answered), (label, truth, score) in columns:
        share = partial(proportion, hits, independent=independent)
        # F1 = 2 J / (1 + J), where J = hits / (true or predicted) is a proportion.
        jaccard = share(rows + answered - hits)
        f1 = Proportion(*(part and 2 * part / (1 + part) for part in jaccard))
        areas: tuple[float | None, ...] = (None, None)
        if 0 < rows < len(y):
            areas = rank_class(truth, score).areas()
        shares = share(answered), share(rows), f1
        classes.append(ClassMetrics(names[label], rows, answered, *shares, *areas))
    return classes


def roc(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return false and true positive rates, from (0, 0) to (1, 1), a point per distinct score.

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class.
    """
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(truth, score, drop_intermediate=False)
    return false_rate, true_rate


def precision_recall(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return recall (increasing) and precision, a point per distinct score.

    Args:
        truth: (N,) whether a row is of the class; True occurs.
        score: (N,) scores of the class.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, score)
    return recall[-2::-1], precision[-2::-1]  # without scikit-learn's added last point


def class_curves(
    y: Labels, scores: Scores, classes: list[ClassMetrics], kind: str, most: int
) -> list[Curve]:
    """Return the curves to draw: of two classes the second, of more their mean and the worst.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        classes: From ``class_metrics``.
        kind: ``roc_area`` or ``average_precision``, the area under the curves.
        most: Number of the worst classes.

    Returns:
        The curves; the mean has no name. Empty where no class has a curve. The mean precision at a
        recall is that of the best precisions at this recall or a higher one.
    """
    line = roc if kind == "roc_area" else precision_recall
    areas = {label: getattr(metrics, kind) for label, metrics in enumerate(classes)}
    known = [label for label, area in areas.items() if area is not None]
    worst = known[1:] if len(classes) == 2 else sorted(known, key=areas.__getitem__)[:most]
    drawn = [_curve(classes[i].name, line(y == i, scores[:, i])) for i in worst]
    if len(classes) == 2 or not known:
        return drawn
    grid, total = np.linspace(0, 1, _MOST_POINTS), np.zeros(_MOST_POINTS)
    for label, truth, score in iter_classes(y, scores):
        if areas[label] is not None:
            ranked = rank_class(truth, score)
            if kind == "roc_area":
                total += np.interp(grid, *ranked.roc())
            else:
                total += _interpolated_precision(grid, *ranked.precision_recall())
    return [_curve("", (grid, total / len(known))), *drawn]


def _interpolated_precision(
    grid: NDArray[np.float64], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # The last recall and the last grid point are both 1, up to rounding.
    return np.asarray(best[np.minimum(np.searchsorted(recall, grid), len(best) - 1)])


def _curve(name: str, line: Line) -> Curve:
    """Keep at most ``_MOST_POINTS`` points of a line, the ends among them."""
    kept = np.unique(np.linspace(0, len(line[0]) - 1, _MOST_POINTS).round().astype(int))
    return Curve(name, *(values[kept].round(6).tolist() for values in line))


def calibration(
    y: Labels, scores: Scores, independent: float = 1.0
) -> tuple[list[CalibrationBin], float]:
    """Compare the scores of the predicted classes with the accuracy, in ten bins.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        independent: See ``proportion``.

    Returns:
        The bins that have rows, and the expected calibration error (ECE), 0 to 1: the mean distance
        between score and accuracy, each bin weighted by its rows.
    """
    highest, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == y
    # The bins of sklearn.calibration.calibration_curve, which returns no counts, as the intervals
    # and the weights need them, and refuses a score that rounding puts above 1.
    places = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], highest)
    counts, sums, hits = (np.bincount(places, weights) for weights in (None, highest, right))
    bins = [
        CalibrationBin(int(rows), float(total / rows), proportion(int(hit), int(rows), independent))
        for rows, total, hit in zip(counts, sums, hits, strict=True)
        if rows
    ]
    distances = [abs(part.score - (part.accuracy.value or 0)) * part.rows for part in bins]
    return bins, sum(distances) / len(y)


def confused_pairs(confusion: Any, names: tuple[str, ...], most: int) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often.

    Args:
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        names: K names.
        most: Largest number of pairs.

    Returns:
        The pairs that occur, most rows first.
    """
    cells, rows = confusion.tocoo(), confusion.sum(axis=1).tolist()
    pairs = np.stack([cells.row, cells.col, cells.data], axis=1)[cells.row != cells.col]
    order = np.argsort(-pairs[:, 2], kind="stable")[:most]
    return [
        ConfusedPair(names[truth], names[answer], count, rows[truth])
        for truth, answer, count in pairs[order].tolist()
    ]


def confident_mistakes(y: Labels, scores: Scores, most: int) -> NDArray[np.int64]:
    """Return the positions of at most ``most`` wrong predictions, the highest score first."""
    wrong = np.flatnonzero(scores.argmax(axis=1) != y)
    return wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")][:most]
