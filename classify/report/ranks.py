"""Where the rows of a class stand among all rows: areas and curves of thousands of classes."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Columns of scores that are copied at a time: one by one takes ten times as long.
_COLUMNS = 64
# Rows of a class that are compared with all others one by one; more are faster once all are sorted.
_FEW = 16
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

Labels = NDArray[np.int64]
Scores = NDArray[np.floating]
Line = tuple[NDArray[np.float64], NDArray[np.float64]]


def iter_classes(y: Labels, scores: Scores) -> Iterator[tuple[int, NDArray[np.bool_], Scores]]:
    """Yield each class, whether each row is of it, and its scores, copied column after column."""
    for start in range(0, scores.shape[1], _COLUMNS):
        block = np.ascontiguousarray(scores[:, start : start + _COLUMNS].T)
        yield from ((start + i, y == start + i, score) for i, score in enumerate(block))


class Ranks(NamedTuple):
    """How many rows score as high as each row of a class, which gives the curves of the class.

    Attributes:
        hits: (P,) rows of the class with its score or a higher one; highest scores first.
        hits_above: (P,) those with a higher score.
        misses: (P,) other rows with its score or a higher one.
        misses_above: (P,) those with a higher score.
        others: Number of other rows.
    """

    hits: NDArray[np.int64]
    hits_above: NDArray[np.int64]
    misses: NDArray[np.int64]
    misses_above: NDArray[np.int64]
    others: int

    def areas(self) -> tuple[float, float]:
        """Return the area under the ROC curve and the average precision."""
        above = (self.misses + self.misses_above).mean() / 2
        return 1 - float(above) / self.others, float((self.hits / (self.hits + self.misses)).mean())

    def roc(self) -> Line:
        """Return the corners of the curve, from (0, 0) to (1, 1)."""
        kept = np.unique(self.hits, return_index=True)[1]  # one of equal scores
        corners = (self.misses_above, self.misses), (self.hits_above, self.hits)
        misses, hits = (np.stack(pair, axis=1)[kept].ravel() for pair in corners)
        false_rate, true_rate = misses / self.others, hits / len(self.hits)
        return np.concatenate([[0], false_rate, [1]]), np.concatenate([[0], true_rate, [1]])

    def precision_recall(self) -> Line:
        """Return recall (increasing) and the best precision at it."""
        return self.hits / len(self.hits), self.hits / (self.hits + self.misses)


def rank_class(truth: NDArray[np.bool_], score: Scores) -> Ranks:
    """Rank the rows of a class, which takes a small part of the time of scikit-learn's curves.

    Args:
        truth: (N,) whether a row is of the class; both values occur.
        score: (N,) scores of the class.
    """
    own = np.sort(score[truth])
    hits, hits_above = _count(own, own)
    rows, rows_above = _count(score if len(own) <= _FEW else np.sort(score), own)
    return Ranks(hits, hits_above, rows - hits, rows_above - hits_above, len(score) - len(own))


def _count(scores: Scores, own: Scores) -> tuple[Labels, Labels]:
    """Count the scores that reach each of some increasing ones, highest first, and that are above.

    More than ``_FEW`` are looked up, for which all scores must increase.
    """
    if len(own) <= _FEW:
        high = own[::-1, None]
        return np.count_nonzero(scores >= high, axis=1), np.count_nonzero(scores > high, axis=1)
    below, up_to = (np.searchsorted(scores, own[::-1], side) for side in _SIDES)
    return len(scores) - below, len(scores) - up_to
