"""The scores of one head and the truth -> what a single number hides. Pure, like ``metrics``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The normal deviate with 95 % of the distribution within it.
_DEVIATE = 1.959964
BINS = 10
# Points of a curve that is drawn; more are not seen.
_MOST_POINTS = 101

Labels = NDArray[np.int64]
Scores = NDArray[np.floating]
Line = tuple[NDArray[np.float64], NDArray[np.float64]]


class Share(NamedTuple):
    """A share of rows, 0 to 1, and its 95 % interval; None where there is no row to count."""

    value: float | None
    low: float | None
    high: float | None


class ClassQuality(NamedTuple):
    """How well one class is told from the others.

    Attributes:
        name: The class.
        rows: Judging rows of the class.
        answered: Rows that were taken for it.
        precision: Share of ``answered`` that are of the class.
        recall: Share of ``rows`` that were taken for it.
        f1: Harmonic mean of both.
        roc_area: Area under its ROC curve against all others; None without rows on both sides.
        average_precision: Mean precision over its recall; None likewise.
    """

    name: str
    rows: int
    answered: int
    precision: Share
    recall: Share
    f1: Share
    roc_area: float | None
    average_precision: float | None


class Curve(NamedTuple):
    """A line to draw: equally long lists of x and y, and what it is called."""

    name: str
    x: list[float]
    y: list[float]


class Bin(NamedTuple):
    """Rows whose highest score lies in one tenth of 0 to 1.

    Attributes:
        rows: How many, 1 or more.
        score: Mean of their highest scores.
        accuracy: Share of them that are right.
    """

    rows: int
    score: float
    accuracy: Share


class Pair(NamedTuple):
    """Two classes, ``rows`` images of the one taken for the other."""

    truth: str
    answer: str
    rows: int
    of: int


def share(hits: float, count: float, witnesses: float = 1.0) -> Share:
    """Return a share and Wilson's interval, which is honest at 0, at 1 and for few rows.

    Args:
        hits: Rows that count, 0 to ``count``.
        count: All rows.
        witnesses: What share of the rows are independent: with groups, groups / rows.

    Returns:
        The share; three None where ``count`` is 0.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference
    (1927).
    """
    if not count:
        return Share(None, None, None)
    value, n = hits / count, count * witnesses
    z = _DEVIATE**2 / n
    middle = (value + z / 2) / (1 + z)
    half = float(np.sqrt(z * value * (1 - value) + z * z / 4)) / (1 + z)
    return Share(value, max(0.0, middle - half), min(1.0, middle + half))


def class_qualities(
    y: Labels, scores: Scores, names: tuple[str, ...], witnesses: float = 1.0
) -> list[ClassQuality]:
    """Look at each class by itself.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        names: K names.
        witnesses: See ``share``.

    Returns:
        One a class, in the order of ``names``.
    """
    answers = scores.argmax(axis=1)
    found = []
    for label, name in enumerate(names):
        truth, answered = y == label, answers == label
        hits, rows, taken = int((truth & answered).sum()), int(truth.sum()), int(answered.sum())
        both = 0 < rows < len(y)
        found.append(
            ClassQuality(
                *(name, rows, taken),
                precision=share(hits, taken, witnesses),
                recall=share(hits, rows, witnesses),
                f1=_f1(hits, rows + taken - hits, witnesses),
                roc_area=area(*roc(truth, scores[:, label])) if both else None,
                average_precision=average_precision(truth, scores[:, label]) if both else None,
            )
        )
    return found


def _f1(hits: int, either: int, witnesses: float) -> Share:
    """Return F1 = 2 J / (1 + J): J, the share of hits in truth and answers together, is a share."""
    jaccard = share(hits, either, witnesses)
    return Share(*(None if part is None else 2 * part / (1 + part) for part in jaccard))


def roc(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return false and true positive rates, from (0, 0) to (1, 1), a point a distinct score.

    Args:
        truth: (N,) who is of the class; rows on both sides.
        score: (N,) scores of the class.
    """
    hits, taken = _counts(truth, score)
    false, rows = taken - hits, hits[-1]
    return (np.concatenate([[0.0], false / false[-1]]), np.concatenate([[0.0], hits / rows]))


def precision_recall(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return recall (increasing) and precision, a point a distinct score.

    Args:
        truth: (N,) who is of the class; one row or more.
        score: (N,) scores of the class.
    """
    hits, taken = _counts(truth, score)
    return hits / hits[-1], hits / taken


def _counts(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Count, for each distinct score downwards, rows of the class and all rows from there up."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    return np.cumsum(truth[order], dtype=np.float64)[last], last + 1.0


def area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the area under straight lines between points."""
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def average_precision(truth: NDArray[np.bool_], score: Scores) -> float:
    """Return the mean of the precision over the recall, by steps as scikit-learn has it."""
    recall, precision = precision_recall(truth, score)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def class_curves(
    y: Labels, scores: Scores, classes: list[ClassQuality], kind: str, most: int
) -> list[Curve]:
    """Return what to draw: the second of two classes, or the classes' mean and the worst ones.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        classes: What ``class_qualities`` found.
        kind: ``roc_area`` or ``average_precision``: what the curves are summed up by.
        most: How many of the worst classes.

    Returns:
        The curves, that of the mean without a name; empty where no class has rows on both sides.
        The mean of precisions is taken of the best one at a recall or beyond.
    """
    line = roc if kind == "roc_area" else precision_recall
    on_grid: Callable[..., Any] = np.interp if kind == "roc_area" else _best_beyond
    values = {i: getattr(found, kind) for i, found in enumerate(classes)}
    known = [label for label, value in values.items() if value is not None]
    lines = {label: line(y == label, scores[:, label]) for label in known}
    if len(classes) == 2 or not known:
        return [_curve(classes[label].name, lines[label]) for label in known[1:]]
    grid = np.linspace(0, 1, _MOST_POINTS)
    mean = np.mean([on_grid(grid, *found) for found in lines.values()], axis=0)
    worst = sorted(known, key=lambda label: values[label])[:most]
    return [_curve("", (grid, mean)), *(_curve(classes[i].name, lines[i]) for i in worst)]


def _best_beyond(
    grid: NDArray[np.float64], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # The last recall is 1 but for rounding, and so is the last of the grid.
    return np.asarray(best[np.minimum(np.searchsorted(recall, grid), len(best) - 1)])


def _curve(name: str, line: Line) -> Curve:
    """Keep at most ``_MOST_POINTS`` points of a line, the ends among them."""
    x, y = line
    kept = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int))
    return Curve(name, x[kept].round(6).tolist(), y[kept].round(6).tolist())


def calibration(y: Labels, scores: Scores, witnesses: float = 1.0) -> tuple[list[Bin], float]:
    """Compare the scores of the answers with how often these are right.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        witnesses: See ``share``.

    Returns:
        The tenths that have rows, and the expected calibration error: the mean distance between
        score and accuracy, each tenth by its rows, 0 to 1.
    """
    highest, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == y
    # As scikit-learn's calibration_curve: a tenth holds its upper end.
    tenth = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], highest)
    bins, error = [], 0.0
    for place in np.unique(tenth):
        inside = tenth == place
        rows, score = int(inside.sum()), float(highest[inside].mean())
        accuracy = share(int(right[inside].sum()), rows, witnesses)
        bins.append(Bin(rows, score, accuracy))
        error += abs(score - (accuracy.value or 0)) * rows / len(y)
    return bins, error


def confused_pairs(confusion: NDArray[np.int64], names: tuple[str, ...], most: int) -> list[Pair]:
    """Return the pairs of classes that are taken for each other most often.

    Args:
        confusion: (K, K) counts, truth on the first axis.
        names: K names.
        most: How many pairs.

    Returns:
        The pairs that occur, most rows first.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = [(place // len(names), place % len(names)) for place in order.tolist()]
    rows = confusion.sum(axis=1)
    return [
        Pair(names[truth], names[answer], int(wrong[truth, answer]), int(rows[truth]))
        for truth, answer in found
        if wrong[truth, answer]
    ]


def confident_mistakes(y: Labels, scores: Scores, most: int) -> NDArray[np.int64]:
    """Return the places of wrong answers, the highest score first, (at most ``most``,) int64."""
    wrong = np.flatnonzero(scores.argmax(axis=1) != y)
    return wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")][:most]
