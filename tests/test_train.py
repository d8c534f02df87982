"""Which candidate is kept, and what the rows of each side are used for."""

from dataclasses import replace

import numpy as np
import pytest

from classify.config import HeadSpec
from classify.dataset import Dataset
from classify.metrics import measure
from classify.splits import divide
from classify.train import train
from extract.config import TrunkSpec

WEAK = HeadSpec("logistic", C=1e-7)
STRONG = HeadSpec("logistic", C=1.0)


def dataset(test_rows: int = 0) -> Dataset:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = generator.normal(size=(90, 6)).astype(np.float32)
    X[np.arange(90), y] += 2
    split = np.repeat([0, 1], [60, 30]).astype(np.int8)
    split[90 - test_rows :] = 2
    keys = [f"{row}.jpg" for row in range(90)]
    names = ("a", "b", "c")
    return Dataset(X, y, keys, None, split, names, "mixed7", TrunkSpec(), "", "float32")


def test_metrics_are_of_the_side_they_name() -> None:
    made = dataset()
    run = train(made, divide(made), [STRONG])
    (result,) = run.results
    for found, rows in ((result.train, slice(60)), (result.validation, slice(60, 90))):
        assert found == measure(made.y[rows], result.head.predict_proba(made.X[rows]))
    assert run.test is None
    assert result.seconds > 0


@pytest.mark.parametrize("reverse", [False, True])
def test_the_best_on_the_validation_rows_is_chosen(reverse: bool) -> None:
    # Thirty features of noise: the weaker the penalty, the more of it is learnt by heart.
    made = dataset()
    noise = np.random.default_rng(1).normal(size=(90, 30)).astype(np.float32)
    made = replace(made, X=np.hstack([made.X, noise]))
    candidates = [HeadSpec("logistic", C=C) for C in (1e-3, 100.0)]
    if reverse:
        candidates.reverse()
    run = train(made, divide(made), candidates)
    assert [result.spec for result in run.results] == candidates
    mild, overfitted = reversed(run.results) if reverse else run.results
    assert mild.train.accuracy < overfitted.train.accuracy
    assert mild.validation.accuracy > overfitted.validation.accuracy
    assert run.chosen is mild


def test_equal_accuracies_are_settled_by_the_loss() -> None:
    made = dataset()
    made.X[np.arange(90), made.y] += 100
    run = train(made, divide(made), [WEAK, STRONG])
    weak, strong = run.results
    assert weak.validation.accuracy == strong.validation.accuracy == 1
    assert weak.validation.loss > strong.validation.loss
    assert run.chosen is strong


def test_test_rows_are_for_the_chosen_head_alone_and_train_nothing() -> None:
    made = dataset(test_rows=15)
    run = train(made, divide(made), [STRONG])
    assert run.test == measure(made.y[75:], run.chosen.head.predict_proba(made.X[75:]))
    garbled = replace(made, X=np.concatenate([made.X[:75], made.X[75:] * -50]))
    again = train(garbled, divide(garbled), [STRONG])
    assert again.results[0].validation == run.results[0].validation
    assert again.test != run.test
