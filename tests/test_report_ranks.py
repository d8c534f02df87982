"""Areas and curves of a class from the places of its rows: those of scikit-learn."""

import numpy as np
import pytest

from classify.report.ranks import iter_classes, rank_class


@pytest.mark.parametrize("members", [1, 3, 16, 17, 80])
@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_as_scikit_learn(members: int, levels: int) -> None:
    from sklearn import metrics

    generator = np.random.default_rng(members + levels)
    truth = np.zeros(120, bool)
    truth[generator.permutation(120)[:members]] = True
    score = (generator.integers(0, levels, 120) + levels // 3 * truth) / levels  # with ties
    found = rank_class(truth, score)
    area, precision = found.areas()
    assert area == pytest.approx(metrics.roc_auc_score(truth, score))
    assert precision == pytest.approx(metrics.average_precision_score(truth, score))
    grid = np.linspace(0, 1, 97)
    false_rate, true_rate, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(
        np.interp(grid, *found.roc()), np.interp(grid, false_rate, true_rate), atol=1e-12
    )
    precisions, recalls, _ = metrics.precision_recall_curve(truth, score)
    own_recall, own_precision = found.precision_recall()
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
