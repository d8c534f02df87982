"""Confidence intervals and comparisons of heads on the same rows, for every metric.

A metric is the mean of pseudo-values, one per row (``pseudo_values``). So the variance of
every metric, also with groups, is that of a mean over independent units: rows, or groups of rows.

Intervals are those of Korn and Graubard: the exact binomial interval (Clopper and Pearson) of the
effective number of rows, which is the number of independent rows that would give this variance.
They hold the score, stay within 0 and 1, and also exist where all rows are right. The effective
number never exceeds that of rows whose mistakes are correlated as those seen are.

Heads are compared by randomisation: where two heads are equally good, the sign of their difference
on a unit is arbitrary. The largest of all differences under random signs is the yardstick, so that
of many equal heads none is called worse in 95 % of all runs.

Sources: E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small expected
number of positive counts estimated from survey data (1998); P. H. Westfall and S. S. Young,
Resampling-based multiple testing (1993); W. G. Cochran, Sampling techniques (1977), section 2.15.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classify.data.preprocessing import Floats
from classify.scores.areas import AREAS, area_values
from classify.scores.metrics import LOWEST
from classify.scores.pseudo_values import design_weights, pseudo_values, reduce_scores
from classify.stored.out_of_core import Labels

LEVEL = 0.95
# Random signs of all units; with the signs that were seen, 1,000 values of the yardstick.
DRAWS = 999
# Fewer groups, or groups that weigh as much as fewer, say too little about their variance.
FEWEST_GROUPS, _FEWEST_EFFECTIVE = 10, 8
# More units than this are merged at random into this many, which bounds memory.
_MOST_UNITS = 2000
# Cochran's rule: the mean of more units than this times their squared skewness is normal enough.
_SKEW = 25
_TAIL = (1 - LEVEL) / 2
_NOTHING = 1e-12


class Interval(NamedTuple):
    """A 95 % confidence interval; both ends are None where the groups are too few for one."""

    low: float | None
    high: float | None


NO_INTERVAL = Interval(None, None)


class Proportion(NamedTuple):
    """A proportion of images, 0 to 1, and its 95 % interval.

    All are None where there are no images, and the ends where there are few groups.
    """

    value: float | None
    low: float | None
    high: float | None


class Variance(NamedTuple):
    """Spread of the mean of some pseudo-values.

    Attributes:
        value: Variance of the mean, from leaving out one unit at a time.
        units: Effective number of units: fewer than their number where some weigh more.
        rows: Largest effective number of rows, given their correlation within units.
        skew: Skewness of the units.
        grouped: Whether a unit has several rows.
        known: Whether the units are enough for an interval; rows that are units always are.
    """

    value: float
    units: float
    rows: float
    skew: float
    grouped: bool
    known: bool


def units_of(groups: ArrayLike) -> Labels:
    """Return the number of the unit, 0 to G - 1, of each row from the name of its group."""
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], np.int64)


def share_interval(values: Floats, units: Labels, weights: Floats, means: int = 1) -> Interval:
    """Return the interval of a share: of a mean, between 0 and 1, of pseudo-values.

    Args:
        values: (N,) pseudo-values.
        units: (N,) unit of each row.
        weights: (N,) weight of each row in the metric.
        means: Number of means in the metric: the classes, of a mean over classes.
    """
    spread = _variance(values, units, weights, means)
    if not spread.known:
        return NO_INTERVAL
    share = float(np.clip(values.mean(), 0, 1))
    rows = spread.rows
    if spread.value > _NOTHING:
        # Of n independent rows the variance is estimated as share * (1 - share) / (n - 1).
        rows = min(share * (1 - share) / spread.value + 1, rows)
    if spread.grouped:
        rows *= (_quantile(math.inf) / _quantile(spread.units - means)) ** 2
    return _exact(share, max(rows, _NOTHING))


def loss_interval(values: Floats, units: Labels) -> Interval:
    """Return the interval of a mean loss.

    It is Student's where the units are many for their skewness. Otherwise rare high losses may be
    missing among these rows, and only their bound is known: that of a share of the highest loss.
    """
    spread = _variance(values, units, np.ones(len(values)), 1)
    if not spread.known:
        return NO_INTERVAL
    mean = float(values.mean())
    if spread.units > max(2, _SKEW * spread.skew**2):
        half = _quantile(spread.units - 1) * math.sqrt(spread.value)
        return Interval(max(0.0, mean - half), mean + half)
    highest = -math.log(LOWEST)
    low, high = share_interval(values / highest, units, np.ones(len(values)))
    return Interval(low and highest * low, high and highest * high)


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


def spread_interval(share: float, variance: float, rows: int) -> Interval:
    """Return the interval of a share whose variance is known from resamples.

    Args:
        share: 0 to 1.
        variance: Of the share.
        rows: Independent rows that it is a share of, at most.
    """
    if variance > _NOTHING:
        rows = min(share * (1 - share) / variance + 1, rows)
    return _exact(share, max(rows, _NOTHING))


def _variance(values: Floats, units: Labels, weights: Floats, means: int) -> Variance:
    """Measure the spread of the mean of pseudo-values."""
    rest, sizes = values - values.mean(), np.bincount(units)
    sums, share = np.bincount(units, rest), np.bincount(units, weights) / weights.sum()
    count, rows = len(sizes), len(values)
    # A group that is left out moves the mean by this much.
    moves = sums / rows / np.maximum(1 - share, _NOTHING)
    variance = (count - 1) / max(count - means + 1, 1) * float((moves**2).sum())
    effective = 1 / float((share**2).sum())
    independent = weights.sum() ** 2 / (weights**2).sum()
    correlation = _correlation(rest, sums, sizes)
    most = 1 / ((1 - correlation) / independent + correlation / effective)
    scale = float((sums**2).mean()) ** 1.5
    skew = float((sums**3).mean()) / scale if scale > _NOTHING else 0.0
    known = count == rows or (count >= FEWEST_GROUPS and effective >= _FEWEST_EFFECTIVE)
    return Variance(variance, effective, float(most), skew, count < rows, known)


def _correlation(rest: Floats, sums: NDArray[Any], sizes: Labels) -> float:
    """Return the correlation within units by analysis of variance, 0 to 1; 1 if all are equal."""
    if len(sizes) == len(rest) or len(sizes) < 2:
        return 1.0
    between = float((sums**2 / sizes).sum())
    within = max(float((rest**2).sum()) - between, 0.0) / (len(rest) - len(sizes))
    between /= len(sizes) - 1
    size = (len(rest) - (sizes**2).sum() / len(rest)) / (len(sizes) - 1)
    total = between + (size - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > _NOTHING else 1.0


def _quantile(freedom: float) -> float:
    """Return the upper quantile of Student's distribution; of the normal one for infinity."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(1 - _TAIL) if math.isinf(freedom) else stdtrit(max(freedom, 1), 1 - _TAIL))


def _exact(share: float, rows: float) -> Interval:
    """Return the binomial interval of Clopper and Pearson, also for a fraction of rows."""
    from scipy.special import betaincinv

    hits, misses = share * rows, (1 - share) * rows
    low = float(betaincinv(hits, misses + 1, _TAIL)) if hits > _NOTHING else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - _TAIL)) if misses > _NOTHING else 1.0
    return Interval(min(low, share), max(high, share))


class Comparison:
    """The rows that heads are compared on.

    Args:
        y: (N,) true classes.
        classes: K.
        groups: N names or numbers; rows with the same one are one unit.
        seed: Seed of the random signs.
        positive: The positive class of two; None of more.
    """

    def __init__(
        self, y: Labels, classes: int, groups: ArrayLike, seed: int, positive: int | None = None
    ) -> None:
        self._y, self._classes, self._positive = y, classes, positive
        self._units, self._seed = units_of(groups), seed

    @property
    def units(self) -> int:
        """The number of groups, or of rows where there are none."""
        return int(self._units.max()) + 1

    def reduce(self, scores: Floats) -> tuple[Labels, Floats, Floats]:
        """Reduce (N, K) scores to the arguments of ``values``."""
        areas = area_values(self._y, scores, self._positive)
        return *reduce_scores(self._y, scores), areas

    def values(self, metric: str, answers: Labels, true_scores: Floats, areas: Floats) -> Floats:
        """Return the (N,) pseudo-values of a metric.

        Args:
            metric: One of ``config.METRICS``.
            answers: (N,) classes with the highest score.
            true_scores: (N,) scores of the true classes, above 0.
            areas: From ``areas.area_values``.
        """
        if metric in AREAS:
            return np.asarray(areas[AREAS.index(metric)])
        return pseudo_values(metric, self._y, self._classes, answers, true_scores)

    def interval(self, metric: str, values: Floats) -> Interval:
        """Return the interval of a metric from its (N,) pseudo-values."""
        if not np.isfinite(values).all():
            return NO_INTERVAL
        if metric == "loss":
            return loss_interval(values, self._units)
        weights = design_weights(metric, self._y, self._classes, self._positive)
        means = 1 if metric == "accuracy" else len(np.unique(self._y))
        return share_interval(values, self._units, weights, means)

    def not_worse(self, metric: str, values: Sequence[Floats], best: int) -> NDArray[np.bool_]:
        """Test which heads are not significantly worse than one of them.

        Args:
            metric: The metric.
            values: M times (N,) pseudo-values.
            best: The position of the head to compare with.

        Returns:
            (M,); True for that head itself.
        """
        sums = np.stack([np.bincount(self._units, own) for own in values], axis=1)
        generator = np.random.default_rng(self._seed)
        if len(sums) > _MOST_UNITS:
            merged = generator.permutation(len(sums)) % _MOST_UNITS
            sums = np.stack([np.bincount(merged, own) for own in sums.T], axis=1)
        signs = generator.choice(np.array([-1.0, 1.0]), (DRAWS, len(sums)))
        drawn, seen = signs @ sums, sums.sum(axis=0)
        yardstick = np.zeros(DRAWS)
        for head in range(len(values) - 1):
            others = slice(head + 1, None)
            scale = _scale(sums[:, others] - sums[:, [head]])
            differences = np.abs(drawn[:, others] - drawn[:, [head]]) / scale
            yardstick = np.maximum(yardstick, differences.max(axis=1))
        lead = (seen - seen[best]) * (1 if metric == "loss" else -1)
        lead = lead / _scale(sums - sums[:, [best]])
        larger = (yardstick[:, None] >= lead - 1e-9).sum(axis=0)
        return np.asarray((1 + larger) / (1 + DRAWS) > 1 - LEVEL)


def _scale(differences: NDArray[Any]) -> Floats:
    """Return the root of the sum of squares of each column, which no signs change."""
    return np.asarray(np.maximum(np.sqrt((differences**2).sum(axis=0)), _NOTHING))
