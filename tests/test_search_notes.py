"""What a result says of baselines, rare classes and scores that are no probabilities."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import classify
from classify.data.dataset import Dataset
from classify.search.search import run
from classify.settings.config import METRICS, TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.core.config import TrunkSpec
from extract.core.errors import SettingError

LOGISTIC = HeadSpec("logistic", C=1.0)


def dataset(y: Any, X: Any, names: tuple[str, ...] = ("good", "defective")) -> Dataset:
    keys, split = [f"{row}.jpg" for row in range(len(y))], np.zeros(len(y), np.int8)
    return Dataset(X, y, keys, None, split, names, "mixed7", TrunkSpec(), "", "float32")


def defects(shift: float) -> Dataset:
    """480 good and 12 defective images, whose features say as much as ``shift``."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [480, 12])
    X = random.normal(size=(492, 20)).astype(np.float32)
    X[y == 1] += np.float32(shift)
    return dataset(y, X)


def test_a_head_that_finds_no_defect_is_no_better_than_none() -> None:
    result = classify.sweep(defects(0), head=["knn", "logistic"], folds=4)
    baseline = result.baseline
    assert baseline is not None
    assert (baseline.answer, baseline.beaten) == ("good", False)
    assert baseline.scores["accuracy"] == pytest.approx(480 / 492)
    assert baseline.scores["balanced_accuracy"] == 0.5
    assert baseline.scores["roc_auc"] == pytest.approx(0.5)
    assert baseline.scores["average_precision"] == pytest.approx(12 / 492)
    first, second = result.notes[:2]
    assert first.startswith("no head is significantly better than always answering good (accuracy")
    assert second.startswith("97.6% of the validation images are good: balanced accuracy 0.5")
    assert "recall of defective 0.0000 of 12; rank with --metric balanced_accuracy" in second
    assert str(result).splitlines()[-2].split()[:4] == ["-", "always", "good", "0.9756"]


def test_few_groups_are_no_test_of_a_head() -> None:
    made = defects(9)
    grouped = replace(made, groups=[f"camera {row % 3}" for row in range(len(made.y))])
    result = classify.sweep(grouped, head="logistic", folds=3)
    assert result.best.low is None
    assert result.notes[0].startswith("cannot test whether a head is better than always answering")
    assert "found 3 groups; expected 10 of like size or more" in result.notes[0]


def test_a_head_that_finds_them_is() -> None:
    result = classify.sweep(defects(3), head="logistic", folds=4, metric="balanced_accuracy")
    assert result.baseline is not None
    assert result.baseline.beaten
    assert not any(note.startswith(("no head", "97.6%")) for note in result.notes)


def test_the_baseline_is_one_class_in_all_folds() -> None:
    # With one image left out, the other class is the most frequent one.
    own = dataset(np.arange(4) % 2, np.eye(4, dtype=np.float32))
    result = classify.sweep(own, head="lda")
    assert len(result.splits) == 4
    assert result.baseline is not None
    assert result.baseline.answer == "good"
    assert result.baseline.scores["accuracy"] == 0.5
    assert result.baseline.scores["loss"] == pytest.approx(np.log(2))


def test_bad_scores_are_told_and_good_ones_are_not() -> None:
    random = np.random.default_rng(1)
    y = np.arange(400) % 2
    X = (random.normal(size=(400, 5)) + y[:, None]).astype(np.float32)
    weak, usual = (
        classify.sweep(dataset(y, X), head="logistic", C=C, folds=4).notes for C in (1e-4, 1.0)
    )
    assert len(weak) == 1
    assert weak[0].startswith("the scores of logistic C=0.0001 are badly calibrated: 0.5")
    assert usual == ()


def test_of_heads_that_differ_by_chance_the_lowest_loss_comes_first() -> None:
    """The head with one image more right knows less of how sure it may be."""
    random = np.random.default_rng(2)
    y = np.arange(120) % 2
    X = (random.normal(size=(120, 4)) + 1.5 * y[:, None]).astype(np.float32)
    heads = [replace(LOGISTIC, C=C) for C in (1e-4, 1e-3, 0.1, 1.0)]
    result = run(dataset(y, X), TrainConfig(tuple(heads), 4))
    marked = [entry for entry in result.entries if entry.as_good]
    assert marked == result.entries[: len(marked)]
    losses = [entry.scores["loss"] for entry in marked]
    assert losses == sorted(losses)
    highest = max(entry.scores["accuracy"] for entry in result.entries)
    assert highest > result.best.scores["accuracy"]
    assert f": {highest:.3f})" in result.advice()
    assert re.search("not significantly worse but (has|have) a higher loss", result.advice())


def test_the_positive_class_is_the_rarer_one_or_the_one_that_is_named() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    made = defects(0.5)
    assert made.positive_label == 1
    swapped = dataset(1 - made.y, made.X, ("defective", "good"))
    assert swapped.positive_label == 0
    equal = dataset(np.arange(10) % 2, made.X[:10])
    assert equal.positive_label == 1
    for positive, label in ((None, 1), ("defective", 1), ("good", 0)):
        result = run(made, TrainConfig((LOGISTIC,), 4, positive=positive))
        assert result.scores is not None
        truth, scores = made.y == label, result.scores[:, label]
        found = result.best.scores
        assert found["average_precision"] == pytest.approx(average_precision_score(truth, scores))
        assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, scores))
    with pytest.raises(SettingError, match="positive 'goods' is unknown; nearest: good"):
        classify.sweep(made, head="knn", positive="goods")
    three = dataset(np.arange(12) % 3, made.X[:12], ("a", "b", "c"))
    assert three.positive_label is None
    with pytest.raises(SettingError, match="positive: has no effect on 3 classes"):
        classify.sweep(three, head="knn", positive="a")


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_ranks(metric: str) -> None:
    heads = (LOGISTIC, HeadSpec("knn"), replace(LOGISTIC, C=1e-6))
    result = run(defects(1), TrainConfig(heads, 4, metric=metric))
    values = [e.scores[metric] for e in result.entries if not e.as_good]
    assert values == sorted(values, reverse=metric != "loss")
    best = result.best
    assert best.low is not None
    assert best.high is not None
    assert best.low <= best.scores[metric] <= best.high


def test_repeats_divide_the_images_anew() -> None:
    made = defects(1)
    once = run(made, TrainConfig((LOGISTIC,), 4))
    thrice = run(made, TrainConfig((LOGISTIC,), 4, repeats=3))
    assert len(thrice.splits) == 12
    assert thrice.scores is not None
    assert thrice.scores.shape == (3 * 492, 2)
    np.testing.assert_array_equal(thrice.validation_rows, np.arange(492))
    np.testing.assert_array_equal(thrice.scores[:492], once.scores)
    assert not np.array_equal(thrice.scores[492:984], thrice.scores[:492])
    right = thrice.scores.argmax(axis=1) == np.tile(made.y, 3)
    assert thrice.best.scores["accuracy"] == pytest.approx(right.mean())
    # Three divisions say little more of the images than one.
    widths = [e.high - e.low for e in (once.best, thrice.best) if e.low is not None and e.high]
    assert 0.7 < widths[1] / widths[0] < 1.2
    assert thrice.summary().endswith("on 492 in 4 folds, 3 times")


def test_a_metric_that_needs_two_classes_says_so() -> None:
    made = defects(1)
    made = replace(made, split=np.where(made.y == 0, made.split + (np.arange(492) % 2), 0))
    with pytest.raises(SettingError, match="metric: roc_auc needs two"):
        run(made, TrainConfig((LOGISTIC,), metric="roc_auc"))
