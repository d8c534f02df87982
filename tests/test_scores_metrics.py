"""Numbers against scikit-learn's, and against what a hand works out."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classify.scores.calibration import calibration_error
from classify.scores.metrics import confusion_matrix, log_loss, macro_f1, measure
from classify.scores.pseudo_values import pseudo_values, reduce_scores

Y = np.array([0, 0, 1, 1, 2])
# Answers 0, 1, 1, 1, 0: three of five right.
SCORES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.5, 0.1, 0.4]]
)


def test_by_hand() -> None:
    found = measure(Y, SCORES)
    assert found.rows == 5
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.loss == pytest.approx(-math.log(0.7 * 0.3 * 0.8 * 0.5 * 0.4) / 5)
    # F1: class 0 has 1 hit, 1 false, 1 missed; class 1 has 2 hits, 1 false; class 2 is never hit.
    assert found.macro_f1 == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert found.confusion == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


@settings(deadline=None)  # the first call loads scikit-learn
@given(
    st.integers(2, 5).flatmap(
        lambda K: st.tuples(
            st.just(K),
            st.lists(
                st.tuples(
                    st.integers(0, K - 1), st.lists(st.floats(0.01, 1), min_size=K, max_size=K)
                ),
                min_size=1,
                max_size=30,
            ),
        )
    )
)
def test_as_scikit_learn(rows: tuple[int, list[tuple[int, list[float]]]]) -> None:
    from sklearn import metrics

    K, pairs = rows
    y = np.array([label for label, _ in pairs])
    scores = np.array([found for _, found in pairs])
    scores /= scores.sum(axis=1, keepdims=True)
    answers = scores.argmax(axis=1)
    found = measure(y, scores)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(y, answers))
    assert found.loss == pytest.approx(metrics.log_loss(y, scores, labels=list(range(K))))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(y, answers, average="macro"))
    wanted = metrics.confusion_matrix(y, answers, labels=list(range(K)))
    assert found.confusion == wanted.tolist()


def test_a_class_that_never_occurs_does_not_count_for_f1() -> None:
    assert macro_f1(confusion_matrix(np.array([0, 1]), np.array([0, 1]), 5)) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_of_zero_for_the_truth_costs_much_but_not_infinitely_much(
    dtype: type[np.floating],
) -> None:
    scores: NDArray[np.floating] = np.array([[1, 0]], dtype)
    assert log_loss(np.array([1]), scores) == pytest.approx(-math.log(1e-7))
    assert log_loss(np.array([0]), scores) == 0
    # As on the leaderboard, whose losses are of the scores that are kept.
    assert reduce_scores(np.array([1]), scores)[1].tolist() == [1e-7]


def test_the_logarithm_is_taken_in_double_precision() -> None:
    scores = np.array([[0.7, 0.3]], np.float32)
    assert log_loss(np.array([0]), scores) == pytest.approx(-math.log(scores[0, 0]), rel=1e-12)


def test_equal_scores_count_for_the_lower_class() -> None:
    assert measure(np.array([0, 1]), np.full((2, 2), 0.5)).confusion == [[1, 0], [1, 0]]


def test_what_is_kept_of_scores() -> None:
    scores = np.array([[0.1, 0.9], [0.123456789, 0.876543211], [1, 0], [np.nan, np.nan]])
    answers, true_scores = reduce_scores(np.array([0, 0, 1, 1]), scores)
    assert answers.tolist()[:3] == [1, 1, 0]
    assert answers.dtype == np.int64
    assert true_scores.tolist() == [0.1, 0.123457, 1e-7, 1e-7]


def scored(K: int, count: int, seed: int = 0) -> tuple[Any, Any]:
    """Coarse scores, so that many are equal, with six decimals."""
    random = np.random.default_rng(seed)
    y = np.append(np.arange(K), random.integers(0, K, count - K))
    scores = random.integers(1, 6, (count, K)) + 2.0 * np.eye(K)[y]
    return y, (scores / scores.sum(axis=1, keepdims=True)).round(6)


def by_scikit_learn(metric: str, y: Any, scores: Any) -> float:
    """Compute a metric over the classes that occur."""
    from sklearn import metrics

    labels, answers = np.unique(y), scores.argmax(axis=1)
    if metric == "loss":
        return float(-np.log(scores[np.arange(len(y)), y]).mean())
    if metric == "macro_f1":
        return float(metrics.f1_score(y, answers, average="macro"))
    if metric == "balanced_accuracy":
        return float(metrics.recall_score(y, answers, average="macro", labels=labels))
    return float(metrics.accuracy_score(y, answers))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "loss"])
@pytest.mark.parametrize("K", [2, 5, 12])
def test_pseudo_values_have_the_metric_as_their_mean_and_the_jackknifes_variance(
    metric: str, K: int
) -> None:
    y, scores = scored(K, 400)
    values = pseudo_values(metric, y, K, *reduce_scores(y, scores))
    value = by_scikit_learn(metric, y, scores)
    assert values.mean() == pytest.approx(value, abs=1e-12)
    without = [
        by_scikit_learn(metric, np.delete(y, row), np.delete(scores, row, axis=0))
        for row in range(len(y))
    ]
    jackknife = 399 / 400 * np.sum((np.array(without) - np.mean(without)) ** 2)
    assert values.var(ddof=1) / 400 == pytest.approx(jackknife, rel=0.1)


def test_the_calibration_error_by_hand() -> None:
    scores = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    assert calibration_error(np.array([0, 0, 1, 0]), scores) == pytest.approx((0.05 + 0.15) / 2)
