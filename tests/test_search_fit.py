"""Heads behind transforms: what is fitted together, and that only training rows teach."""

from pathlib import Path

import numpy as np
import pytest

from classify.data.preprocessing import Transform
from classify.heads.registry import FittedHead
from classify.search.evaluate import _evaluate_fold, batches, fit_batch, transformed
from classify.settings.head_spec import DEFAULTS, HeadSpec
from classify.stored.views import FoldData

QUICK = {
    "dense": {"units": (16,), "epochs": 5, "learning_rate": 0.03},
    "linear": {"epochs": 20, "learning_rate": 0.03},
    "forest": {"trees": 20},
    "boosting": {"trees": 10},
}


def rows_of(classes: int = 3, count: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = generator.normal(size=(count, 12)).astype(np.float32)
    X[np.arange(count), y] += 8
    return X.reshape(count, 2, 2, 3), y


def fit(spec: HeadSpec, classes: int = 3) -> FittedHead:
    transform = Transform(spec.transform or ())
    rows = FoldData(*rows_of(classes), *rows_of(classes, 30, 1))
    (fitted,) = fit_batch([spec], transformed(transform, rows), transform)
    return fitted


@pytest.mark.parametrize("steps", [(), ("sqrt", "l2", "standardise", "pca=5")], ids=str)
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_head_behind_a_transform(name: str, steps: tuple[str, ...], tmp_path: Path) -> None:
    spec = HeadSpec(name, **QUICK.get(name, {}), transform=steps)  # type: ignore[arg-type]
    X, y = rows_of(count=30, seed=2)
    fitted = fit(spec)
    scores = fitted.predict_proba(X)
    assert scores.shape == (30, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert (scores.argmax(axis=1) == y).mean() > 0.6
    fitted.save(tmp_path)
    loaded = FittedHead.load(tmp_path, name)
    np.testing.assert_array_equal(loaded.predict_proba(X), scores)
    for head in (fitted, loaded):
        assert head.fits((2, 2, 3), 3)
        assert not head.fits((2, 2, 3), 4)
        assert not head.fits((2, 2, 4), 3)


def test_validation_rows_teach_a_transform_nothing() -> None:
    X, y = rows_of()
    sides = [FoldData(X, y, X * factor, y) for factor in (1, 100)]
    first, second = (transformed(Transform(["standardise", "pca=3"]), rows) for rows in sides)
    np.testing.assert_array_equal(first.X, second.X)


def test_one_batch_a_transform_for_those_that_share_their_work() -> None:
    specs = [
        HeadSpec("logistic", C=1.0),
        HeadSpec("svm"),
        HeadSpec("logistic", C=2.0, transform=()),
        HeadSpec("dense"),
        HeadSpec("ridge"),
        HeadSpec("dense", dropout=0.5),
        HeadSpec("logistic", C=3.0),
        HeadSpec("dense", units=(8,)),
        HeadSpec("linear", transform=()),
    ]
    found = batches(specs, 9)
    assert sorted(map(sorted, found)) == [[0, 4, 6], [1], [2], [3, 5], [7], [8]]
    # Those with one transform come in a row: its rows are transformed once.
    assert sorted(map(sorted, batches(specs, 2))) == [[0, 4], [1], [2], [3, 5], [6], [7], [8]]
    order = [specs[batch[0]].transform for batch in found]
    assert order == sorted(order, key=order.index)


def test_the_training_accuracy_of_many_rows_is_that_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = rows_of()
    wrong = np.random.default_rng(3).permutation(y)
    rows, spec = FoldData(X, wrong, X, wrong), HeadSpec("ridge", transform=())
    accuracies: list[float] = []
    for sample in (90, 7, 7):
        monkeypatch.setattr("classify.search.evaluate.TRAINING_SAMPLE", sample)
        (found,) = _evaluate_fold([spec], Transform(()), rows, halving=False)
        assert (found.train_accuracy * sample) % 1 == pytest.approx(0, abs=1e-9)
        # All validation rows are scored.
        assert (found.answers == wrong).mean() == pytest.approx(
            accuracies[0] if accuracies else found.train_accuracy
        )
        accuracies.append(found.train_accuracy)
    assert accuracies[1] == accuracies[2] != accuracies[0]
