"""Numbers against scikit-learn's, and against what a hand works out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classify.metrics import confusion_matrix, log_loss, macro_f1, measure

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
                    st.integers(0, K - 1),
                    st.lists(st.floats(0.01, 1), min_size=K, max_size=K),
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
    assert log_loss(np.array([1]), scores) == pytest.approx(-math.log(np.finfo(dtype).eps))
    assert log_loss(np.array([0]), scores) == pytest.approx(0, abs=1e-6)


def test_equal_scores_count_for_the_lower_class() -> None:
    assert measure(np.array([0, 1]), np.full((2, 2), 0.5)).confusion == [[1, 0], [1, 0]]
