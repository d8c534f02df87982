"""Confidence intervals and paired comparisons by the bootstrap."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats
from classify.search.metrics import LOWEST

RESAMPLES = 1000

# More groups than this are merged into this many bundles, which bounds memory.
MOST_UNITS = 10_000

# The share of resamples inside a confidence interval.
INTERVAL = 0.95


def reduce_scores(y: Labels, scores: Floats) -> tuple[Labels, Floats]:
    """Reduce (N, K) scores to the values that the metrics need.

    Returns:
        (N,) classes with the highest score, and (N,) scores of the true classes with six decimals.
    """
    # A head whose loss became NaN has NaN scores: it ranks last.
    true_scores = np.nan_to_num(scores[np.arange(len(y)), y].astype(np.float64))
    return scores.argmax(axis=1).astype(np.int64), np.maximum(true_scores.round(6), LOWEST)


class Bootstrap:
    """Resamples of the rows, with replacement, the same ones for every head.

    Rows of one group are resampled together, because they are not independent. Many groups are
    merged at random into bundles of equal size, which leaves the variance of a mean unchanged.

    Args:
        y: (N,) true classes.
        classes: K.
        groups: N names; rows with the same name are resampled together.
        seed: Seed of the resamples.
    """

    def __init__(self, y: Labels, classes: int, groups: ArrayLike, seed: int) -> None:
        self._y, self._classes = y, classes
        unit_of_row = np.unique(np.asarray(groups), return_inverse=True)[1]
        count = int(unit_of_row.max()) + 1
        generator = np.random.default_rng(seed)
        if count > MOST_UNITS:
            unit_of_row = (generator.permutation(count) % MOST_UNITS)[unit_of_row]
            count = MOST_UNITS
        weights = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        if len(y) <= MOST_UNITS:  # few rows: a weight for each row instead of each unit
            weights, unit_of_row = weights[:, unit_of_row], np.arange(len(y))
        self._unit_of_row = unit_of_row
        # Row 0 is the sample itself.
        self._weights = np.vstack([np.ones_like(weights[:1]), weights], dtype=np.float32)

    def values(
        self, answers: Labels, true_scores: Floats, sample_only: bool = False
    ) -> dict[str, Floats]:
        """Return (1 + RESAMPLES,) values of each metric: of the sample, then of each resample.

        Args:
            answers: (N,) classes with the highest score.
            true_scores: (N,) scores of the true classes, above 0.
            sample_only: Return (1,) values, of the sample, which takes less time.
        """
        weights = self._weights[:1] if sample_only else self._weights
        losses = np.bincount(self._unit_of_row, -np.log(true_scores), weights.shape[1])
        hits = self._sum_by_class(weights, self._y, answers == self._y)
        class_rows = self._sum_by_class(weights, self._y)
        predicted = self._sum_by_class(weights, answers)
        rows = class_rows.sum(axis=1)
        return {
            "accuracy": hits.sum(axis=1) / rows,
            "balanced_accuracy": _mean_ratio(hits, class_rows),
            "macro_f1": _mean_ratio(2 * hits, class_rows + predicted),
            "loss": weights @ losses / rows,
        }

    def _sum_by_class(self, weights: Floats, labels: Labels, values: Any = None) -> Floats:
        """Sum the weights, or the weighted values, of each class: (resamples, K)."""
        from scipy.sparse import csr_array

        counts = np.ones(len(labels)) if values is None else values.astype(np.float64)
        # Sparse, for of many classes nearly all have no row in a unit.
        shape = self._classes, weights.shape[1]
        sums = csr_array((counts, (labels, self._unit_of_row)), shape=shape)
        return np.asarray((sums @ weights.T).T)


def _mean_ratio(part: Floats, total: Floats) -> Floats:
    """Return the mean of part / total in each row, over the classes that occur."""
    ratios = np.divide(part, total, out=np.zeros_like(part), where=total > 0)
    return np.asarray(ratios.sum(1) / (total > 0).sum(1))


def confidence_interval(values: Floats) -> tuple[float, float]:
    """Return the ends of the interval that holds the middle 95 % of the resampled values."""
    low, high = np.quantile(values[1:], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def not_significantly_worse(best: Floats, other: Floats, more_is_better: bool) -> bool:
    """Test whether another head could be as good as the best one.

    Args:
        best: Resampled values of the best head.
        other: Values of the other head, from the same resamples.
        more_is_better: Whether high values of the metric are good.

    Returns:
        True unless the best head is better in the whole 95 % interval of the difference.
    """
    difference = best - other if more_is_better else other - best
    return confidence_interval(difference)[0] <= 0
