"""The interval of a difference between two heads on the same rows."""

import math

import numpy as np

from classify.data.preprocessing import Floats
from classify.scores.intervals import FEWEST_GROUPS, LEVEL, NO_INTERVAL, Interval
from classify.stored.out_of_core import Labels


def difference_interval(values: Floats, units: Labels, *, bounded: bool = True) -> Interval:
    """Return the interval of a mean difference of two heads.

    Of a metric between 0 and 1, half a unit is added for either head, so that heads that differ on
    no row have an interval, too. A loss has no bound, and Student's interval.

    Source: A. Agresti and Y. Min, Simple improved confidence intervals for comparing matched
    proportions (2005).

    Args:
        values: (N,) differences of pseudo-values.
        units: (N,) unit of each row: its group, or itself.
        bounded: Whether the metric is between 0 and 1.
    """
    from scipy.special import stdtrit

    sizes = np.unique(units, return_counts=True)[1]
    count = len(sizes)
    if count < (2 if count == len(values) else FEWEST_GROUPS):
        return NO_INTERVAL
    sums = np.bincount(np.unique(units, return_inverse=True)[1], values)
    mean = float(values.mean())
    # Of units that differ in size, their sums vary about as many times the mean.
    squares = float(((sums - mean * sizes) ** 2).sum()) * (count / len(values)) ** 2
    quantile = float(stdtrit(count - 1, (1 + LEVEL) / 2))
    if not bounded:
        half = quantile * math.sqrt(squares / (count * (count - 1)))
        return Interval(mean - half, mean + half)
    squares += 1 + mean**2 * 2 * count / (count + 2)
    half = quantile * math.sqrt(squares) / (count + 2)
    centre = mean * count / (count + 2)
    return Interval(max(-1.0, centre - half), min(1.0, centre + half))
