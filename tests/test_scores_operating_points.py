"""Coverage and accuracy by threshold, and sensitivity at a specificity with its interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_curve

from classify.scores.intervals import share_interval
from classify.scores.operating_points import (
    LEAST_SCORES,
    SPECIFICITIES,
    coverage,
    coverage_line,
    sensitivities,
)


def scored(count: int, K: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, K, count)
    logits = generator.normal(size=(count, K)) + 1.5 * np.eye(K)[y]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, scores


def test_coverage_is_that_of_counting() -> None:
    y, scores = scored(500)
    points = coverage(y, scores, np.arange(500))
    assert [point.least_score for point in points] == list(LEAST_SCORES)
    for point in points:
        rows = [row for row in range(500) if max(scores[row]) >= point.least_score]
        assert (point.images, point.share) == (len(rows), len(rows) / 500)
        hits = (scores[rows].argmax(axis=1) == y[rows]).astype(float)
        assert point.accuracy.value == (
            accuracy_score(y[rows], scores[rows].argmax(axis=1)) if rows else None
        )
        if rows:
            ends = share_interval(hits, np.arange(len(rows)), np.ones(len(rows)))
            assert (point.accuracy.low, point.accuracy.high) == ends


def test_without_an_image_above_a_score_there_is_no_accuracy() -> None:
    (point,) = coverage(np.array([0, 1]), np.full((2, 2), 0.5), np.arange(2), [0.9])
    assert point == (0.9, 0, 0.0, (None, None, None))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=30))
def test_the_line_has_a_point_for_each_score(rows: list[tuple[int, int]]) -> None:
    y = np.array([label for label, _ in rows])
    first = np.array([number for _, number in rows]) / 8
    scores = np.stack([first, 1 - first], axis=1)
    share, accuracy, least = coverage_line(y, scores)
    best, right = scores.max(axis=1), scores.argmax(axis=1) == y
    assert least.tolist() == sorted(set(best.tolist()), reverse=True)
    for one, own, threshold in zip(share, accuracy, least, strict=True):
        of = best >= threshold
        assert one == of.mean()
        assert own == pytest.approx(right[of].mean())


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=60),
    st.lists(st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]), min_size=1, max_size=3),
)
def test_the_sensitivity_is_that_of_scikit_learns_curve(
    rows: list[tuple[bool, int]], wanted: list[float]
) -> None:
    y = np.array([int(label) for label, _ in rows])
    score = np.array([number for _, number in rows]) / 10
    found = sensitivities(y, np.stack([1 - score, score], axis=1), 1, np.arange(len(y)), 0, wanted)
    if y.min() == y.max():
        assert found == []
        return
    false, true, _ = roc_curve(y, score, drop_intermediate=False)
    for point, specificity in zip(found, wanted, strict=True):
        best = true[false <= (1 - specificity) * (1 + 1e-9)].max()
        assert point.sensitivity.value == pytest.approx(best)
        assert point.reached >= specificity - 1e-9
        reach = score >= (np.inf if point.threshold is None else point.threshold)
        assert reach[y == 1].mean() == pytest.approx(best)
        assert point.reached == pytest.approx((~reach)[y == 0].mean())


def test_the_interval_holds_the_true_sensitivity() -> None:
    """Scores are normal, shifted by 2: the true sensitivity at a specificity is known."""
    from scipy.stats import norm

    held, runs = np.zeros(len(SPECIFICITIES)), 100
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        y = np.repeat([0, 1], 120)
        score = norm.cdf(generator.normal(2 * y) / 2)
        points = sensitivities(y, np.stack([1 - score, score], axis=1), 1, np.arange(240), seed)
        for place, point in enumerate(points):
            truth = 1 - norm.cdf(norm.ppf(point.specificity) - 2)
            low, high = point.sensitivity.low, point.sensitivity.high
            assert low is not None
            assert high is not None
            held[place] += low <= truth <= high
    # At 0.99 one image of 120 chooses the threshold.
    assert (held / runs >= [0.9, 0.88, 0.75]).all(), held


def test_groups_widen_the_interval_and_too_few_give_none() -> None:
    y, scores = scored(400, 2)
    groups = np.arange(400) // 20
    scores = scores[groups * 20]  # images of a group are alike
    y = y[groups * 20]
    alone, grouped = (sensitivities(y, scores, 1, units) for units in (np.arange(400), groups))
    for one, other in zip(alone, grouped, strict=True):
        assert one.sensitivity.value == other.sensitivity.value
        widths = [
            float(of.sensitivity.high or 0) - float(of.sensitivity.low or 0) for of in (one, other)
        ]
        assert widths[0] < widths[1] or one.sensitivity.value == 0
    few = sensitivities(y, scores, 1, np.arange(400) // 80)
    assert {point.sensitivity[1:] for point in few} == {(None, None)}


def test_a_perfect_head_has_an_interval_below_one() -> None:
    y = np.repeat([0, 1], 30)
    scores = np.eye(2)[y]
    for point in sensitivities(y, scores, 1, np.arange(60)):
        assert point.sensitivity.value == point.sensitivity.high == point.reached == 1
        assert point.sensitivity.low == pytest.approx(0.025 ** (1 / 30))  # Clopper and Pearson
        assert point.threshold == 1
    assert sensitivities(y, scores, None, np.arange(60)) == []
