"""Confidence intervals and paired comparisons by the bootstrap."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.search.metrics import LOWEST

RESAMPLES = 1000

# More units than this are drawn in so many bundles, which bounds memory.
MOST_DRAWN = 10_000

# The share of resamples that lies inside an interval.
INTERVAL = 0.95


class Judged(NamedTuple):
    """All that every metric needs of a head's scores, small enough to keep.

    Attributes:
        answers: (N,) int64, the class with the highest score.
        true_scores: (N,) float64, the score of the true class, 0 to 1.
    """

    answers: NDArray[np.int64]
    true_scores: NDArray[np.float64]


def judge(y: NDArray[np.int64], scores: NDArray[np.floating]) -> Judged:
    """Keep of (N, K) scores what the metrics need; six decimals of the true class's."""
    # A head whose loss did not stay finite has scores that are no numbers: it ranks last.
    true = np.nan_to_num(scores[np.arange(len(y)), y].astype(np.float64))
    return Judged(scores.argmax(axis=1).astype(np.int64), np.maximum(true.round(6), LOWEST))


class Bootstrap:
    """Rows drawn again with replacement, the same ones for every head, so that heads compare.

    What belongs together is drawn together: rows of one group are no independent witnesses. Of many
    units random bundles of one size are drawn: a mean over the rows varies as much by those.

    Args:
        y: (N,) true classes.
        classes: K.
        units: N names of what is drawn; rows that share one come and go together.
        seed: Decides the draws.
    """

    def __init__(self, y: NDArray[np.int64], classes: int, units: Sequence[str], seed: int) -> None:
        self._y, self._classes = y, classes
        unit_of_row = np.unique(np.array(units), return_inverse=True)[1]
        count = int(unit_of_row.max()) + 1
        generator = np.random.default_rng(seed)
        if count > MOST_DRAWN:
            unit_of_row = (generator.permutation(count) % MOST_DRAWN)[unit_of_row]
            count = MOST_DRAWN
        draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        # Of many rows only what is drawn has a weight, and rows are added up by that.
        self._drawn_with = unit_of_row if len(y) > MOST_DRAWN else None
        weights = draws[:, unit_of_row] if self._drawn_with is None else draws
        # Row 0 is the sample itself.
        ones = np.ones((1, weights.shape[1]), np.float32)
        self._weights = np.vstack([ones, weights.astype(np.float32)])

    def values(self, metric: str, judged: Judged) -> NDArray[np.float64]:
        """Return (1 + RESAMPLES,) values of a metric: of the rows themselves, then of each draw."""
        return self._values(metric, judged, self._weights)

    def value(self, metric: str, judged: Judged) -> float:
        """Return the value of a metric of the rows themselves, at a fraction of the work."""
        return float(self._values(metric, judged, self._weights[:1])[0])

    def _values(
        self, metric: str, judged: Judged, weights: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        right = (judged.answers == self._y).astype(np.float32)
        total = self._drawn(weights, np.ones(len(self._y)))
        if metric == "accuracy":
            return np.asarray(self._drawn(weights, right) / total, np.float64)
        if metric == "loss":
            return np.asarray(self._drawn(weights, -np.log(judged.true_scores)) / total)
        hits = self._per_class(weights, self._y, right)
        truth = self._per_class(weights, self._y)
        if metric == "balanced_accuracy":
            return _mean_share(hits, truth)
        return _mean_share(2 * hits, truth + self._per_class(weights, judged.answers))

    def _per_class(
        self,
        weights: NDArray[np.float32],
        labels: NDArray[np.int64],
        values: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """Sum weights (times values) by class: a row a draw, (draws, K)."""
        if self._drawn_with is not None:
            cells = np.bincount(
                self._drawn_with * self._classes + labels, values, weights.shape[1] * self._classes
            )
            return np.asarray(weights @ cells.reshape(-1, self._classes), np.float64)
        member = np.zeros((len(labels), self._classes), np.float32)
        member[np.arange(len(labels)), labels] = 1 if values is None else values
        return np.asarray(weights @ member, np.float64)

    def _drawn(self, weights: NDArray[np.float32], values: NDArray[Any]) -> NDArray[Any]:
        """Sum values of rows: one sum a draw."""
        if self._drawn_with is not None:
            values = np.bincount(self._drawn_with, values, weights.shape[1])
        return np.asarray(weights @ values)


def _mean_share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's mean of part / whole over the classes that occur."""
    seen = whole > 0
    return np.asarray(np.where(seen, part / np.where(seen, whole, 1), 0).sum(1) / seen.sum(1))


def confidence_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends between which the middle 95 % of resampled values lie."""
    low, high = np.quantile(values[1:], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def not_significantly_worse(
    best: NDArray[np.float64], other: NDArray[np.float64], more_is_better: bool
) -> bool:
    """Say whether the best head's lead over another one could be chance.

    Args:
        best: Resampled values of the best head.
        other: Those of the other head, from the same draws.
        more_is_better: The metric's direction.

    Returns:
        True unless the lead is above zero in the middle 95 % of the draws.
    """
    lead = (best - other) if more_is_better else (other - best)
    return confidence_interval(lead)[0] <= 0
