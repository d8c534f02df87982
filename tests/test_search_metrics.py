"""Numbers against scikit-learn's, and against what a hand works out."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classify.search.bootstrap import Bootstrap, confidence_interval, judge, not_significantly_worse
from classify.search.metrics import confusion_matrix, log_loss, macro_f1, measure

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
    assert judge(np.array([1]), scores).true_scores.tolist() == [1e-7]


def test_the_logarithm_is_taken_in_double_precision() -> None:
    scores = np.array([[0.7, 0.3]], np.float32)
    assert log_loss(np.array([0]), scores) == pytest.approx(-math.log(scores[0, 0]), rel=1e-12)


def test_equal_scores_count_for_the_lower_class() -> None:
    assert measure(np.array([0, 1]), np.full((2, 2), 0.5)).confusion == [[1, 0], [1, 0]]


def test_what_is_kept_of_scores() -> None:
    scores = np.array([[0.1, 0.9], [0.123456789, 0.876543211], [1, 0], [np.nan, np.nan]])
    found = judge(np.array([0, 0, 1, 1]), scores)
    assert found.answers.tolist()[:3] == [1, 1, 0]
    assert found.answers.dtype == np.int64
    assert found.true_scores.tolist() == [0.1, 0.123457, 1e-7, 1e-7]


METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")


def weighted(metric: str, y: Any, scores: Any, weights: Any) -> float:
    """Let scikit-learn measure rows that count so many times."""
    from sklearn import metrics

    if metric == "loss":
        labels = list(range(scores.shape[1]))
        return float(metrics.log_loss(y, scores, labels=labels, sample_weight=weights))
    y, answers, weights = (values[weights > 0] for values in (y, scores.argmax(axis=1), weights))
    if metric == "macro_f1":
        return float(metrics.f1_score(y, answers, average="macro", sample_weight=weights))
    measured = {"accuracy": metrics.accuracy_score, "balanced_accuracy": metrics.recall_score}
    extra = {} if metric == "accuracy" else {"average": "macro", "labels": np.unique(y)}
    return float(measured[metric](y, answers, sample_weight=weights, **extra))


@pytest.mark.parametrize("most", [10_000, 11])
def test_each_draw_is_measured_as_scikit_learn_does(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.search.bootstrap.MOST_DRAWN", most)
    generator = np.random.default_rng(0)
    y = np.array([*generator.integers(0, 3, 38), 3, 3])  # a rare class is not in every draw
    scores = generator.dirichlet([1, 1, 1, 1], 40).round(6) + np.eye(4)[y] * 0.2
    scores /= scores.sum(axis=1, keepdims=True)
    draws = Bootstrap(y, 4, [f"group {row // 2}" for row in range(40)], seed=0)
    judged = judge(y, scores)
    weights = draws._weights if most > 40 else draws._weights[:, draws._drawn_with]
    assert weights.shape == (1001, 40)
    assert (weights[0] == 1).all()
    assert (weights[:, ::2] == weights[:, 1::2]).all()  # groups come and go together
    assert len(np.unique(weights[1:], axis=0)) > 990
    assert draws._weights.dtype == np.float32  # half the memory of float64
    if most > 40:
        assert set(weights.sum(axis=1)) == {40}
    else:
        assert set(draws._weights.sum(axis=1)) == {11}
    for metric in METRICS:
        values = draws.values(metric, judged)
        assert values.dtype == np.float64
        assert values.shape == (1001,)
        assert draws.value(metric, judged) == pytest.approx(values[0], rel=1e-6)
        for draw in range(30):
            wanted = weighted(metric, y, scores, weights[draw])
            assert values[draw] == pytest.approx(wanted, rel=1e-4), (metric, draw)


def test_a_class_of_one_row_counts_like_the_others() -> None:
    draws, judged = Bootstrap(Y, 3, list("abcde"), seed=0), judge(Y, SCORES)
    assert draws.value("balanced_accuracy", judged) == pytest.approx((1 / 2 + 2 / 2 + 0 / 1) / 3)


def test_draws_are_those_of_their_seed() -> None:
    y, names = np.array([0, 1] * 20), [str(row) for row in range(40)]
    judged = judge(y, np.tile([0.7, 0.3], (40, 1)))
    first, again, other = (
        Bootstrap(y, 2, names, seed).values("accuracy", judged).tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_interval_holds_the_middle_of_the_draws_and_not_the_sample() -> None:
    assert confidence_interval(np.array([1e9, *range(101)])) == pytest.approx((2.5, 97.5))


def test_a_lead_that_draws_take_away_is_chance() -> None:
    sure, unsure = np.full(1001, 0.1), np.r_[0.1, np.full(970, 0.1), np.full(30, -0.1)]
    other = np.full(1001, 0.5)
    assert not not_significantly_worse(other + sure, other, more_is_better=True)
    assert not_significantly_worse(other + unsure, other, more_is_better=True)
    assert not_significantly_worse(other, other, more_is_better=True)
    assert not not_significantly_worse(other - sure, other, more_is_better=False)
    assert not_significantly_worse(other - unsure, other, more_is_better=False)
    assert not_significantly_worse(other + sure, other, more_is_better=False)
