"""ROC curves, curves of precision against recall, and the areas under them as pseudo-values.

Only the scores of the rows of a class are thresholds that matter: between two of them, the other
rows move along a straight line. So thousands of classes take a lookup of each row in a few
thresholds, not a sort of all rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.preprocessing import Floats
from classify.stored.out_of_core import Labels

# They need the scores of all classes.
AREAS = ("roc_auc", "average_precision")
# Columns of scores that are copied at a time: one by one takes ten times as long.
_COLUMNS = 64


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
    total, classes = np.zeros((2, len(y))), 0
    for label, truth, score in iter_classes(y, scores):
        if positive in (None, label) and 0 < truth.sum() < len(y):
            total += rank_class(truth, score).areas()
            classes += 1
    return np.asarray((total / classes).round(9)) if classes else np.full((2, len(y)), np.nan)


def iter_classes(y: Labels, scores: Floats) -> Iterator[tuple[int, NDArray[np.bool_], Floats]]:
    """Yield each class, whether each row is of it, and its scores."""
    for start in range(0, scores.shape[1], _COLUMNS):
        block = np.ascontiguousarray(scores[:, start : start + _COLUMNS].T)
        yield from ((start + i, y == start + i, score) for i, score in enumerate(block))


class Thresholds(NamedTuple):
    """Counts of rows at the T distinct scores of the rows of a class, highest first.

    Attributes:
        others: Number of rows of other classes.
        own: (T,) rows of the class with exactly this score.
        hits: (T,) rows of the class with this score or a higher one.
        misses: (T,) other rows with this score or a higher one.
        misses_above: (T,) other rows with a higher one.
    """

    others: int
    own: NDArray[Any]
    hits: NDArray[Any]
    misses: NDArray[Any]
    misses_above: NDArray[Any]

    def beaten(self) -> Floats:
        """Return the share of the other rows below each threshold, (T,)."""
        return np.asarray(1 - (self.misses + self.misses_above) / (2 * self.others))

    def area(self) -> float:
        """Return the area under the ROC curve."""
        return float(self.own @ self.beaten()) / int(self.hits[-1])

    def average_precision(self) -> float:
        """Return the average precision."""
        return float((self.own * self.hits / (self.hits + self.misses)).sum() / self.hits[-1])

    def roc(self) -> tuple[Floats, Floats]:
        """Return false and true positive rates: the corners, from (0, 0) to (1, 1)."""
        misses = np.stack([self.misses_above, self.misses], axis=1).ravel() / self.others
        hits = np.stack([self.hits - self.own, self.hits], axis=1).ravel() / self.hits[-1]
        return np.concatenate([[0], misses, [1]]), np.concatenate([[0], hits, [1]])

    def precision_recall(self) -> tuple[Floats, Floats]:
        """Return recall (increasing) and the highest precision at exactly this recall."""
        return self.hits / self.hits[-1], self.hits / (self.hits + self.misses)


class Ranks(NamedTuple):
    """The rows among the thresholds of a class.

    Attributes:
        truth: (N,) whether a row is of the class.
        first: (N,) the first threshold that the score of a row reaches; T if none.
        beyond: (N,) the first threshold that it exceeds; T if none.
        thresholds: The T distinct scores of the rows of the class.
    """

    truth: NDArray[np.bool_]
    first: Labels
    beyond: Labels
    thresholds: Thresholds

    def areas(self) -> Floats:
        """Return the pseudo-values of the ROC area and of the average precision, (2, N)."""
        counts, rows = self.thresholds, len(self.truth)
        true, area, beaten = counts.hits[-1], counts.area(), counts.beaten()
        # The share of the rows of the class above a row.
        reached = np.append(0, counts.hits) / (2 * true)
        beating = reached[self.first] + reached[self.beyond]
        at = np.minimum(self.first, len(beaten) - 1)
        moves = np.where(self.truth, (beaten[at] - area) / true, (beating - area) / counts.others)
        precision = counts.average_precision()
        influence = (rows - 1) * (precision - self._precision_without())
        return np.stack([area + rows * moves, precision + influence - influence.mean()])

    def _precision_without(self) -> Floats:
        """Return the average precision without each row, (N,)."""
        _, own, hits, misses, _ = self.thresholds
        true, reached = hits[-1], hits + misses
        fewer = np.maximum(reached - 1, 1)
        # Sums over the thresholds above each one, and from each one on.
        before = np.append(0.0, np.cumsum(own * hits / reached))
        without_false = before + _from_each(own * hits / fewer)
        without_true = before[:-1] + (own - 1) * (hits - 1) / fewer
        without_true += _from_each(own * (hits - 1) / fewer)[1:]
        at = np.minimum(self.first, len(fewer) - 1)
        found = without_true[at] / max(true - 1, 1), without_false[self.first] / true
        return np.asarray(np.where(self.truth, *found))


def class_thresholds(y: Labels, scores: Floats) -> list[Thresholds | None]:
    """Return the thresholds of each class; None unless some rows are of it and some are not."""
    return [
        rank_class(truth, score).thresholds if 0 < truth.sum() < len(y) else None
        for _, truth, score in iter_classes(y, scores)
    ]


def rank_class(truth: NDArray[np.bool_], score: Floats) -> Ranks:
    """Rank the rows of a class among all rows. Equal scores count as one threshold.

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class; NaN counts as 0.
    """
    falling = -np.nan_to_num(score)
    scores, own = np.unique(falling[truth], return_counts=True)
    first = np.searchsorted(scores, falling)
    beyond = first + (np.append(scores, np.inf)[first] == falling)
    others = np.bincount(first[~truth], minlength=len(own) + 1)
    above = np.bincount(beyond[~truth], minlength=len(own) + 1)
    misses, misses_above = np.cumsum(others)[:-1], np.cumsum(above)[:-1]
    counts = Thresholds(int(others.sum()), own, np.cumsum(own), misses, misses_above)
    return Ranks(truth, first, beyond, counts)


def _from_each(terms: Floats) -> Floats:
    """Return the sums of the terms from each position on, and 0 behind the last."""
    return np.append(np.cumsum(terms[::-1])[::-1], 0.0)
