"""Diagnostics of one head, computed from its scores and the true classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.search.intervals import share_interval, units_of
from classify.search.metrics import calibration_bins, calibration_error, class_areas, reduce_scores

# A drawn curve has at most this many points; more cannot be seen.
_MOST_POINTS = 101
# More curves would make the figure harder to read.
_WORST_CLASSES = 3

Labels = NDArray[np.int64]
Scores = NDArray[np.floating]
Line = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class Proportion(NamedTuple):
    """A proportion of images, 0 to 1, and its 95 % interval.

    All are None where there are no images, and the ends where there are few groups.
    """

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
    """A named curve: equally long lists of x, y and the least score that counts as the class.

    A mean over classes has no thresholds; the first point of a ROC curve has none either.
    """

    name: str
    x: list[float]
    y: list[float]
    thresholds: list[float | None]


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


class Positive(NamedTuple):
    """The positive class of two.

    Attributes:
        name: The class.
        sensitivity: Its recall.
        specificity: The recall of the other class.
    """

    name: str
    sensitivity: Proportion
    specificity: Proportion


class GroupScore(NamedTuple):
    """Accuracy and mean loss of the ``rows`` images of a group."""

    name: str
    rows: int
    accuracy: float
    loss: float


class ConfusedPair(NamedTuple):
    """``rows`` of the ``of`` images of the class ``truth`` are predicted as ``answer``."""

    truth: str
    answer: str
    rows: int
    of: int


def proportion(hits: NDArray[np.bool_], units: Labels) -> Proportion:
    """Return the share of the rows that are hits, and its interval.

    Args:
        hits: (N,) whether each row counts.
        units: (N,) unit of each row.

    Returns:
        None three times without rows; no ends of fewer than ten groups.
    """
    if not len(hits):
        return Proportion(None, None, None)
    values = hits.astype(np.float64)
    interval = share_interval(values, units_of(units), np.ones(len(values)))
    return Proportion(float(values.mean()), *interval)


def class_metrics(
    y: Labels, scores: Scores, names: tuple[str, ...], units: Labels
) -> list[ClassMetrics]:
    """Compute the metrics of each class against all others.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        names: K names.
        units: (N,) unit of each row: its group, or itself.

    Returns:
        One per class, in the order of ``names``.
    """
    answers, classes = scores.argmax(axis=1), []
    for label, name in enumerate(names):
        truth, answered = y == label, answers == label
        rows, hits = truth | answered, truth & answered
        # F1 = 2 J / (1 + J), where J = hits / (true or predicted) is a proportion.
        jaccard = proportion(hits[rows], units[rows])
        f1 = Proportion(*(part and 2 * part / (1 + part) for part in jaccard))
        areas: tuple[float | None, ...] = (None, None)
        if 0 < truth.sum() < len(y):
            areas = tuple(class_areas(truth, scores[:, label]).mean(axis=1).tolist())
        precision, recall = (proportion(hits[part], units[part]) for part in (answered, truth))
        counts = int(truth.sum()), int(answered.sum())
        classes.append(ClassMetrics(name, *counts, precision, recall, f1, *areas))
    return classes


def positive_metrics(classes: list[ClassMetrics], positive: int | None) -> Positive | None:
    """Return the metrics of the positive class of two; None of more classes."""
    if positive is None:
        return None
    return Positive(classes[positive].name, classes[positive].recall, classes[1 - positive].recall)


def roc(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return false positive rates, true positive rates and thresholds, from (0, 0) to (1, 1).

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class.
    """
    from sklearn.metrics import roc_curve

    false_rate, true_rate, thresholds = roc_curve(truth, score, drop_intermediate=False)
    return false_rate, true_rate, thresholds


def precision_recall(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return recall (increasing), precision and thresholds, a point per distinct score.

    Args:
        truth: (N,) whether a row is of the class; True occurs.
        score: (N,) scores of the class.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, score)
    # Without scikit-learn's added last point.
    return recall[-2::-1], precision[-2::-1], thresholds[::-1]


def class_curves(
    y: Labels, scores: Scores, classes: list[ClassMetrics], kind: str, shown: int | None
) -> list[Curve]:
    """Return the curves to draw: of two classes the positive one, of more their mean and the worst.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        classes: From ``class_metrics``.
        kind: ``roc_area`` or ``average_precision``, the area under the curves.
        shown: The positive class of two; None of more.

    Returns:
        The curves; the mean has no name. Empty where no class has a curve. The mean precision at a
        recall is that of the best precisions at this recall or a higher one.
    """
    line, on_grid = (
        (roc, np.interp) if kind == "roc_area" else (precision_recall, _interpolated_precision)
    )
    areas = {label: getattr(metrics, kind) for label, metrics in enumerate(classes)}
    known = [label for label, area in areas.items() if area is not None]
    lines = {label: line(y == label, scores[:, label]) for label in known}
    if shown is not None or not known:
        return [_curve(classes[label].name, lines[label]) for label in known if label == shown]
    grid = np.linspace(0, 1, _MOST_POINTS)
    mean = np.mean([on_grid(grid, *points[:2]) for points in lines.values()], axis=0)
    worst = sorted(known, key=lambda label: areas[label])[:_WORST_CLASSES]
    named = [_curve(classes[label].name, lines[label]) for label in worst]
    return [Curve("", _rounded(grid), _rounded(mean), []), *named]


def _interpolated_precision(
    grid: NDArray[np.float64], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # The last recall and the last grid point are both 1, up to rounding.
    return np.asarray(best[np.minimum(np.searchsorted(recall, grid), len(best) - 1)])


def _curve(name: str, line: Line) -> Curve:
    """Keep at most ``_MOST_POINTS`` points of a line, the ends among them."""
    kept = np.unique(np.linspace(0, len(line[0]) - 1, _MOST_POINTS).round().astype(int))
    x, y, thresholds = (_rounded(values[kept]) for values in line)
    return Curve(name, x, y, [score if np.isfinite(score) else None for score in thresholds])


def _rounded(values: NDArray[np.float64]) -> list[float]:
    rounded: list[float] = values.round(6).tolist()
    return rounded


def calibration(y: Labels, scores: Scores, units: Labels) -> tuple[list[CalibrationBin], float]:
    """Compare the scores of the predicted classes with the accuracy, in ten bins.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        units: (N,) unit of each row.

    Returns:
        The bins that have rows, and the expected calibration error.
    """
    places, counts, sums, _ = calibration_bins(y, scores)
    right = scores.argmax(axis=1) == y
    bins = []
    for place in np.flatnonzero(counts):
        rows = places == place
        accuracy = proportion(right[rows], units[rows])
        bins.append(CalibrationBin(int(rows.sum()), float(sums[place] / rows.sum()), accuracy))
    return bins, calibration_error(y, scores)


def group_scores(y: Labels, scores: Scores, groups: NDArray[np.object_]) -> list[GroupScore]:
    """Score the images of each group, the lowest accuracy first, then the highest loss.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        groups: (N,) names of groups.
    """
    names, units = np.unique(groups.astype(str), return_inverse=True)
    answers, true_scores = reduce_scores(y, scores)
    rows = np.bincount(units)
    accuracy = np.bincount(units, answers == y) / rows
    loss = np.bincount(units, -np.log(true_scores)) / rows
    lines = zip(names.tolist(), rows.tolist(), accuracy.tolist(), loss.tolist(), strict=True)
    return sorted((GroupScore(*line) for line in lines), key=lambda g: (g.accuracy, -g.loss))


def confused_pairs(
    confusion: NDArray[np.int64], names: tuple[str, ...], most: int
) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often.

    Args:
        confusion: (K, K) counts, truth on the first axis.
        names: K names.
        most: Largest number of pairs.

    Returns:
        The pairs that occur, most rows first.
    """
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = confusion.sum(axis=1).tolist()
    return [
        ConfusedPair(names[truth], names[answer], int(wrong[truth, answer]), rows[truth])
        for truth, answer in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[truth, answer]
    ]


def confident_mistakes(y: Labels, scores: Scores, most: int) -> NDArray[np.int64]:
    """Return the positions of at most ``most`` wrong predictions, the highest score first."""
    wrong = np.flatnonzero(scores.argmax(axis=1) != y)
    return wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")][:most]
