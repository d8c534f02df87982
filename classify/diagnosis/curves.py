"""Curves of one class against all others, and what a least score would answer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.preprocessing import Floats
from classify.diagnosis.diagnostics import ClassMetrics, Labels, Scores
from classify.scores.areas import Thresholds
from classify.scores.operating_points import coverage_line

# A drawn curve has at most this many points; more cannot be seen.
_MOST_POINTS = 101
# More curves would make the figure harder to read.
_WORST_CLASSES = 3

Line = tuple[Floats, Floats, Floats]


class Curve(NamedTuple):
    """A named curve: equally long lists of x, y and the least score that counts as the class.

    A mean over classes has no thresholds; the first point of a ROC curve has none either.
    """

    name: str
    x: list[float]
    y: list[float]
    thresholds: list[float | None]


def roc(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return false positive rates, true positive rates and thresholds, from (0, 0) to (1, 1).

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class.
    """
    hits, misses, thresholds = (
        np.append(first, counts)
        for first, counts in zip((0, 0, np.inf), _count(truth, score), strict=True)
    )
    return misses / misses[-1], hits / hits[-1], thresholds


def precision_recall(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Return recall (increasing), precision and thresholds, a point per distinct score.

    Args:
        truth: (N,) whether a row is of the class; True occurs.
        score: (N,) scores of the class.
    """
    hits, misses, thresholds = _count(truth, score)
    return hits / hits[-1], hits / (hits + misses), thresholds


def _count(truth: NDArray[np.bool_], score: Scores) -> Line:
    """Count rows of the class, and others, with each distinct score or a higher one."""
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(score) - 1)
    hits = np.cumsum(truth[order])[last]
    return hits, last + 1 - hits, falling[last]


def class_curves(
    y: Labels,
    scores: Scores,
    classes: list[ClassMetrics],
    thresholds: Sequence[Thresholds | None],
    kind: str,
    shown: int | None,
) -> list[Curve]:
    """Return the curves to draw: of two classes the positive one, of more their mean and the worst.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        classes: From ``class_metrics``.
        thresholds: From ``areas.class_thresholds``.
        kind: ``roc_area`` or ``average_precision``, the area under the curves.
        shown: The positive class of two; None of more.

    Returns:
        The curves; the mean has no name. Empty where no class has a curve. The mean precision at a
        recall is that of the best precisions at this recall or a higher one.
    """
    line = roc if kind == "roc_area" else precision_recall
    areas = {label: getattr(metrics, kind) for label, metrics in enumerate(classes)}
    known = [label for label, area in areas.items() if area is not None]
    worst = sorted(known, key=lambda label: areas[label])[:_WORST_CLASSES]
    drawn = worst if shown is None else [label for label in known if label == shown]
    named = [_curve(classes[i].name, line(y == i, scores[:, i])) for i in drawn]
    if shown is not None or not known:
        return named
    grid, total = np.linspace(0, 1, _MOST_POINTS), np.zeros(_MOST_POINTS)
    for counts in filter(None, thresholds):
        total += _roc_at(grid, counts) if kind == "roc_area" else _precision_at(grid, counts)
    return [Curve("", _rounded(grid), _rounded(total / len(known)), []), *named]


def coverage_curve(y: Labels, scores: Scores) -> Curve:
    """Return the curve of accuracy against the share of the images that have a label."""
    return _curve("", coverage_line(y, scores))


def _roc_at(false_rates: Floats, counts: Thresholds) -> Floats:
    return np.asarray(np.interp(false_rates, *counts.roc()))


def _precision_at(recalls: Floats, counts: Thresholds) -> Floats:
    recall, precision = counts.precision_recall()
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # The last recalls are both 1, up to rounding.
    return np.asarray(best[np.minimum(np.searchsorted(recall, recalls), len(best) - 1)])


def _curve(name: str, line: Line) -> Curve:
    """Keep at most ``_MOST_POINTS`` points of a line, the ends among them."""
    kept = np.unique(np.linspace(0, len(line[0]) - 1, _MOST_POINTS).round().astype(int))
    x, y, thresholds = (_rounded(values[kept]) for values in line)
    return Curve(name, x, y, [score if np.isfinite(score) else None for score in thresholds])


def _rounded(values: NDArray[np.float64]) -> list[float]:
    rounded: list[float] = values.round(6).tolist()
    return rounded
