"""What a head is good and bad at: against scikit-learn and SciPy, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from classify.diagnosis.curves import class_curves, precision_recall, roc
from classify.diagnosis.diagnostics import (
    ConfusedPair,
    calibration,
    class_metrics,
    confident_mistakes,
    confused_pairs,
)
from classify.scores.areas import class_thresholds
from classify.scores.intervals import proportion
from classify.scores.metrics import confusion_matrix

Rows = tuple[NDArray[np.int64], NDArray[np.float64]]
NAMES = ("a", "b", "c", "d", "e")


def rows(K: int = 4, count: int = 60, seed: int = 0) -> Rows:
    """Classes and scores, coarse so that many are equal; the last class never occurs."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, K - 1, count)
    scores = generator.integers(1, 6, (count, K)).astype(np.float64)
    scores[np.arange(count), y] += 2
    return y, scores / scores.sum(axis=1, keepdims=True)


@settings(deadline=None)  # the first call loads SciPy
@given(st.integers(1, 500), st.data())
def test_an_interval_is_clopper_and_pearsons(count: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    hits = data.draw(st.integers(0, count))
    wanted = binomtest(hits, count).proportion_ci(method="exact")
    found = proportion(np.arange(count) < hits, np.arange(count))
    assert found.value == hits / count
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_no_rows_have_no_share_and_dependent_rows_say_less() -> None:
    assert proportion(np.zeros(0, bool), np.arange(0)) == (None, None, None)
    hits = np.arange(40) < 32
    alone, pairs = proportion(hits, np.arange(40)), proportion(hits, np.arange(40) // 2)
    assert None not in (*alone, *pairs)
    assert pairs.low < alone.low < alone.high < pairs.high  # type: ignore[operator]
    assert proportion(hits, np.arange(40) // 5) == (0.8, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_classes_as_scikit_learn(seed: int) -> None:
    from sklearn import metrics

    y, scores = rows(seed=seed)
    found = class_metrics(y, scores, NAMES[:4], np.arange(len(y)), class_thresholds(y, scores))
    wanted = metrics.precision_recall_fscore_support(
        y, scores.argmax(axis=1), labels=range(4), zero_division=np.nan
    )
    for label, of in enumerate(found):
        known = [part[label] for part in wanted]
        values = [of.precision.value, of.recall.value, of.f1.value, of.rows]
        np.testing.assert_allclose(np.array(values, np.float64), np.array(known, np.float64))
        for part in (of.precision, of.recall, of.f1):
            if part.value is not None and part.low is not None and part.high is not None:
                assert 0 <= part.low <= part.value <= part.high <= 1
    for label, of in enumerate(found[:3]):
        truth = y == label
        assert of.roc_area == pytest.approx(metrics.roc_auc_score(truth, scores[:, label]))
        precision = metrics.average_precision_score(truth, scores[:, label])
        assert of.average_precision == pytest.approx(precision)
    assert (found[3].rows, found[3].roc_area, found[3].average_precision) == (0, None, None)


def test_lines_as_scikit_learn() -> None:
    from sklearn import metrics

    y, scores = rows()
    wanted = metrics.roc_curve(y == 1, scores[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(roc(y == 1, scores[:, 1]), wanted)
    precision, recall, thresholds = metrics.precision_recall_curve(y == 1, scores[:, 1])
    # Theirs goes down from recall 1 and ends in a point of no rows.
    np.testing.assert_allclose(
        precision_recall(y == 1, scores[:, 1]),
        [recall[-2::-1], precision[-2::-1], thresholds[::-1]],
    )


def test_calibration_as_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    y, scores = rows(count=300)
    bins, error = calibration(y, scores, np.arange(300))
    right, highest = scores.argmax(axis=1) == y, scores.max(axis=1)
    accuracy, mean = calibration_curve(right, highest, n_bins=10)
    np.testing.assert_allclose(np.array([found.accuracy.value for found in bins], float), accuracy)
    np.testing.assert_allclose([found.score for found in bins], mean)
    weights = np.array([found.rows for found in bins])
    assert weights.sum() == 300
    assert error == pytest.approx((np.abs(accuracy - mean) * weights).sum() / 300)


def test_scores_that_are_always_right_about_themselves_are_calibrated() -> None:
    y = np.array([0] * 8 + [1] * 2)
    assert calibration(y, np.tile([0.8, 0.2], (10, 1)), np.arange(10))[1] == pytest.approx(0)


@pytest.mark.parametrize("kind", ["roc_area", "average_precision"])
def test_curves_of_the_mean_and_of_the_worst(kind: str) -> None:
    from sklearn.metrics import auc

    y, scores = rows(K=5, count=2000)
    thresholds = class_thresholds(y, scores)
    classes = class_metrics(y, scores, NAMES, np.arange(2000), thresholds)
    mean, *worst = class_curves(y, scores, classes, thresholds, kind, None)
    assert mean.name == ""
    values = {of.name: getattr(of, kind) for of in classes if of.rows}
    assert [curve.name for curve in worst] == sorted(values, key=values.__getitem__)[:3]
    for curve in (mean, *worst):
        assert len(curve.x) == len(curve.y) <= 101
        assert 0 <= min(curve.x) <= max(curve.x) == 1
        assert 0 <= min(curve.y) <= max(curve.y) <= 1
    found = auc(np.array(mean.x), np.array(mean.y))
    assert found == pytest.approx(np.mean(list(values.values())), abs=0.03)


@pytest.mark.parametrize("positive", [0, 1])
def test_of_two_classes_the_positive_one_is_drawn(positive: int) -> None:
    from sklearn.metrics import auc

    y, scores = rows(K=3)
    scores = (scores[:, :2] / scores[:, :2].sum(axis=1, keepdims=True)).round(6)
    thresholds = class_thresholds(y, scores)
    classes = class_metrics(y, scores, ("no", "yes"), np.arange(len(y)), thresholds)
    (curve,) = class_curves(y, scores, classes, thresholds, "roc_area", positive)
    assert curve.name == ("no", "yes")[positive]
    assert auc(np.array(curve.x), np.array(curve.y)) == pytest.approx(classes[positive].roc_area)
    # Each point is the share of the images with at least this score.
    for x, y_value, least in list(zip(curve.x, curve.y, curve.thresholds, strict=True))[1:]:
        taken = scores[:, positive] >= (least or 0) - 1e-6
        assert y_value == pytest.approx(taken[y == positive].mean(), abs=1e-6)
        assert x == pytest.approx(taken[y != positive].mean(), abs=1e-6)
    assert curve.thresholds[0] is None


def test_of_one_class_alone_nothing_is_drawn() -> None:
    y, scores = np.zeros(5, np.int64), np.tile([0.8, 0.2], (5, 1))
    thresholds = class_thresholds(y, scores)
    classes = class_metrics(y, scores, ("no", "yes"), np.arange(len(y)), thresholds)
    assert class_curves(y, scores, classes, thresholds, "roc_area", 1) == []


def test_pairs_and_mistakes_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    scores = np.array(
        [
            [0.9, 0.1, 0.0],
            [0.2, 0.8, 0.0],
            [0.4, 0.6, 0.0],
            [0.0, 0.1, 0.9],
            [0.0, 1.0, 0.0],
            [0.2, 0.2, 0.6],
        ]
    )
    confusion = confusion_matrix(y, scores.argmax(axis=1), 3)
    assert confused_pairs(confusion, NAMES[:3], 5) == [
        ConfusedPair("a", "b", 2, 3, 3),
        ConfusedPair("b", "c", 1, 2, 2),
    ]
    assert confused_pairs(confusion, NAMES[:3], 1) == [ConfusedPair("a", "b", 2, 3, 3)]
    assert confident_mistakes(y, scores, 10).tolist() == [3, 1, 2]
    assert confident_mistakes(y, scores, 2).tolist() == [3, 1]


# What a least score would answer.
