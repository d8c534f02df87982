"""Areas and curves of classes: those of scikit-learn, and the influence of each row on them."""

import numpy as np
import pytest

from classify.scores.areas import area_values, iter_classes, rank_class
from tests.test_scores_metrics import scored


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("K", [2, 4])
def test_areas_as_scikit_learn(K: int, seed: int) -> None:
    from sklearn import metrics

    y, scores = scored(K, 60, seed)
    positive = seed % 2 if K == 2 else None
    roc, precision = area_values(y, scores, positive)
    labels = range(K) if positive is None else [positive]
    wanted = [metrics.roc_auc_score(y == k, scores[:, k]) for k in labels]
    assert roc.mean() == pytest.approx(np.mean(wanted), abs=1e-9)
    wanted = [metrics.average_precision_score(y == k, scores[:, k]) for k in labels]
    assert precision.mean() == pytest.approx(np.mean(wanted), abs=1e-9)
    if K == 4:
        macro = metrics.roc_auc_score(y, scores, multi_class="ovr", average="macro")
        assert roc.mean() == pytest.approx(macro, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_influence_on_the_average_precision_is_that_of_leaving_a_row_out(seed: int) -> None:
    from sklearn.metrics import average_precision_score

    y, scores = scored(2, 30, seed)
    truth, score = y == 1, scores[:, 1]
    value = average_precision_score(truth, score)
    without = [
        average_precision_score(np.delete(truth, row), np.delete(score, row)) for row in range(30)
    ]
    influence = 29 * (value - np.array(without))
    found = rank_class(truth, score).areas()[1]
    np.testing.assert_allclose(found - value, influence - influence.mean(), atol=1e-12)


def test_the_influence_on_the_roc_area_is_delongs() -> None:
    y, scores = scored(2, 50)
    truth, score = y == 1, scores[:, 1]
    wins = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    variance = wins.mean(1).var(ddof=1) / truth.sum() + wins.mean(0).var(ddof=1) / (~truth).sum()
    found = rank_class(truth, score).areas()[0]
    assert found.mean() == pytest.approx(wins.mean())
    assert found.var() / 50 == pytest.approx(variance, rel=0.1)


def test_of_one_class_no_area_is_defined() -> None:
    assert np.isnan(area_values(np.zeros(4, np.int64), np.full((4, 2), 0.5), 1)).all()


@pytest.mark.parametrize("members", [1, 3, 80, 119])
@pytest.mark.parametrize("levels", [1, 3, 50, 10**6])
def test_areas_and_curves_of_equal_scores_are_those_of_scikit_learn(
    members: int, levels: int
) -> None:
    from sklearn import metrics

    generator = np.random.default_rng(members + levels)
    truth = np.zeros(120, bool)
    truth[generator.permutation(120)[:members]] = True
    score = (generator.integers(0, levels, 120) + levels // 3 * truth) / levels
    found = rank_class(truth, score)
    known = [metrics.roc_auc_score(truth, score), metrics.average_precision_score(truth, score)]
    assert found.areas().mean(axis=1) == pytest.approx(known)
    counts = found.thresholds
    assert [counts.area(), counts.average_precision()] == pytest.approx(known)
    grid = np.linspace(0, 1, 97)
    false_rate, true_rate, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    wanted = np.interp(grid, false_rate, true_rate)
    np.testing.assert_allclose(np.interp(grid, *counts.roc()), wanted, atol=1e-12)
    precisions, recalls, _ = metrics.precision_recall_curve(truth, score)
    own_recall, own_precision = counts.precision_recall()
    for recall in grid:
        best = precisions[:-1][recalls[:-1] >= recall - 1e-12].max()
        assert own_precision[own_recall >= recall - 1e-12].max() == pytest.approx(best)


def test_every_class_comes_with_its_own_scores() -> None:
    scores = np.random.default_rng(0).random((7, 200))
    y = np.arange(7) % 3
    found = list(iter_classes(y, scores))
    assert [label for label, _, _ in found] == list(range(200))
    for label, truth, score in found:
        np.testing.assert_array_equal(truth, y == label)
        np.testing.assert_array_equal(score, scores[:, label])
