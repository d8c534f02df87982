"""The interval of a difference between two heads on the same rows."""

import math

import numpy as np
import pytest
from scipy import stats

from classify.scores.differences import difference_interval


@pytest.mark.parametrize(("better", "worse", "count"), [(0, 0, 30), (7, 2, 40), (30, 30, 400)])
def test_of_single_rows_it_is_that_of_agresti_and_min(better: int, worse: int, count: int) -> None:
    values = np.repeat([1.0, -1.0, 0.0], [better, worse, count - better - worse])
    low, high = difference_interval(values, np.arange(count))
    total, b, c = count + 2, better + 0.5, worse + 0.5
    half = stats.t.ppf(0.975, count - 1) * math.sqrt(b + c - (b - c) ** 2 / total) / total
    assert (low, high) == pytest.approx(((b - c) / total - half, (b - c) / total + half))


@pytest.mark.parametrize("size", [1, 4])
def test_it_holds_the_truth(size: int) -> None:
    """Of 60 units, rows or groups of four that change together, in 1,000 draws."""
    generator, units, held = np.random.default_rng(0), np.repeat(np.arange(60), size), 0
    for _ in range(1000):
        change = generator.choice([1.0, -1.0, 0.0], 60, p=[0.15, 0.05, 0.8])
        low, high = difference_interval(change[units], units)
        assert low is not None
        assert high is not None
        held += low <= 0.1 <= high
    assert 0.93 < held / 1000 < 0.985


@pytest.mark.parametrize("size", [1, 3])
def test_a_loss_has_the_interval_of_student(size: int) -> None:
    # Beyond 1 as well: a loss has no bound.
    each = np.random.default_rng(0).normal(-1.14, 0.5, 40)
    low, high = difference_interval(
        np.repeat(each, size), np.repeat(np.arange(40), size), bounded=False
    )
    wanted = stats.ttest_1samp(each, 0).confidence_interval()
    assert (low, high) == pytest.approx((wanted.low, wanted.high))


def test_few_groups_have_none() -> None:
    assert difference_interval(np.zeros(18), np.repeat(np.arange(9), 2)) == (None, None)
    low, high = difference_interval(np.zeros(20), np.repeat(np.arange(10), 2))
    assert low is not None
    assert high is not None
    assert -high == pytest.approx(low)
