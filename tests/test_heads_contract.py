"""One contract for every head, and what is the dense head's own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.data.views import FoldData
from classify.heads.keras_head import PREDICT_ROWS, DenseHead, build_model
from classify.heads.parallel_heads import build_stack
from classify.heads.registry import FILES, Head, head_class
from classify.search.metrics import measure
from classify.settings.head_spec import DEFAULTS, HeadSpec
from extract.core.errors import HeadError

QUICK: dict[str, dict[str, Any]] = {
    "dense": {"units": (16,), "epochs": 5, "learning_rate": 0.03},
    "linear": {"epochs": 5, "learning_rate": 0.1},
}
SHAPES = [(2, (8,)), (3, (2, 2, 3))]
Pair = tuple[np.ndarray, np.ndarray]


def rows_of(classes: int, shape: tuple[int, ...], count: int = 90, seed: int = 0) -> Pair:
    """Rows whose class shows in as many features as there are classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = generator.normal(size=(count, int(np.prod(shape)))).astype(np.float32)
    X[np.arange(count), y] += 4
    return X.reshape(count, *shape), y


def fit(kind: str, classes: int, shape: tuple[int, ...], **settings: Any) -> Head:
    spec = HeadSpec(kind, **{**QUICK.get(kind, {}), **settings})
    return head_class(kind)(spec).fit(
        FoldData(*rows_of(classes, shape), *rows_of(classes, shape, count=30, seed=1))
    )


@pytest.mark.parametrize(("classes", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("kind", DEFAULTS)
def test_contract(kind: str, classes: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    X, y = rows_of(classes, shape, count=40, seed=2)
    before = X.copy()
    head = fit(kind, classes, shape)
    scores = head.predict_proba(X)
    assert scores.shape == (40, classes)
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert measure(y, scores).accuracy > 0.9
    # What was given is left as it was.
    np.testing.assert_array_equal(X, before)
    # Saved and loaded it is the same head.
    head.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} < FILES
    loaded = head_class(kind).load(tmp_path, kind)
    np.testing.assert_array_equal(loaded.predict_proba(X), scores)
    # It knows what it takes.
    for found in (head, loaded):
        assert found.fits(shape, classes)
        assert not found.fits((*shape, 2), classes)
        assert not found.fits(shape, classes + 1)
    # A second fit with the same settings gives the same numbers.
    again = fit(kind, classes, shape)
    np.testing.assert_array_equal(again.predict_proba(X), scores)
    assert again.history == head.history


def test_another_seed_gives_another_head() -> None:
    X, _ = rows_of(2, (8,), seed=2)
    zero, one = (fit("dense", 2, (8,), seed=seed, epochs=1).predict_proba(X) for seed in (0, 1))
    assert not np.array_equal(zero, one)


def test_more_rows_than_one_call_takes() -> None:
    X, _ = rows_of(3, (8,), count=2 * PREDICT_ROWS + 1)
    head = fit("dense", 3, (8,))
    alone = head.predict_proba(X[PREDICT_ROWS : PREDICT_ROWS + 1])
    np.testing.assert_allclose(head.predict_proba(X)[[PREDICT_ROWS]], alone, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_curves_end_where_the_head_is(classes: int) -> None:
    head = fit("dense", classes, (8,))
    X, y = rows_of(classes, (8,), count=30, seed=1)
    found = measure(y, head.predict_proba(X))
    assert set(head.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in head.history.values()} == {QUICK["dense"]["epochs"]}
    assert head.history["val_loss"][-1] == pytest.approx(found.loss, rel=1e-3)
    assert head.history["val_accuracy"][-1] == pytest.approx(found.accuracy)


def test_the_layers_are_those_of_the_course() -> None:
    spec = HeadSpec(units=(16,), dropout=0.3)
    for classes, activation, units in ((2, "sigmoid", 1), (3, "softmax", 3)):
        layers = build_model(spec, (2, 2, 3), classes).layers
        assert [type(layer).__name__ for layer in layers] == [
            "Flatten",
            "Dense",
            "Dropout",
            "Dense",
        ]
        assert (layers[1].units, layers[1].activation.__name__) == (16, "relu")
        assert layers[2].rate == 0.3
        assert (layers[3].units, layers[3].activation.__name__) == (units, activation)


@pytest.mark.parametrize(
    ("settings", "name", "wanted"),
    [
        ({"optimizer": "rmsprop"}, "RMSprop", {"momentum": 0.0}),
        ({"optimizer": "rmsprop", "momentum": 0.5}, "RMSprop", {"momentum": 0.5}),
        ({"optimizer": "adam"}, "Adam", {}),
        ({"optimizer": "sgd"}, "SGD", {"momentum": 0.0, "nesterov": False}),
        (
            {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
            "SGD",
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
    ids=str,
)
def test_the_optimizer_is_told_what_was_asked(
    settings: dict[str, Any], name: str, wanted: dict[str, Any]
) -> None:
    spec = HeadSpec(learning_rate=0.02, **settings)
    rows = FoldData(*rows_of(2, (8,)), *rows_of(2, (8,)))
    optimizer = build_stack([spec], rows).optimizer
    assert type(optimizer).__name__ == name
    found = optimizer.get_config()
    assert found["learning_rate"] == pytest.approx(0.02)
    assert {setting: found[setting] for setting in wanted} == wanted


def test_patience_stops_early_and_takes_the_best_epoch() -> None:
    # The labels of the validation rows are wrong on purpose: the more is learnt, the worse.
    X, y = rows_of(2, (8,))
    spec = HeadSpec("dense", units=(16,), epochs=50, learning_rate=0.03, patience=2)
    head = DenseHead(spec).fit(FoldData(X, y, X, 1 - y))
    losses = head.history["val_loss"]
    assert len(losses) == int(np.argmin(losses)) + 1 + 2
    assert measure(1 - y, head.predict_proba(X)).loss == pytest.approx(min(losses), rel=1e-3)


def test_a_loss_that_is_no_number_is_an_error_at_once() -> None:
    with pytest.raises(
        HeadError, match=r"dense .*: the loss is nan in epoch \d; .*--learning-rate"
    ):
        fit("dense", 3, (8,), optimizer="sgd", learning_rate=1e30, epochs=50)


_OTHER_BACKEND = """
import numpy as np, pathlib, sys
from tests.test_heads_contract import fit, rows_of
from classify.heads.keras_head import DenseHead
X, y = rows_of(3, (2, 2, 3), seed=2)
head = fit("dense", 3, (2, 2, 3))
scores = head.predict_proba(X)
assert (scores.argmax(axis=1) == y).mean() > 0.9
folder = pathlib.Path(sys.argv[1])
head.save(folder)
assert np.array_equal(DenseHead.load(folder).predict_proba(X), scores)
assert np.array_equal(fit("dense", 3, (2, 2, 3)).predict_proba(X), scores)
import keras
print(keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_BACKEND, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [backend], done.stderr


def test_many_models_in_one_process_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for width in range(4, 11):
        fit("linear", 2, (width,), epochs=1)
    assert "retracing" not in caplog.text
