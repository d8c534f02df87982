"""Settings of stage two: good and bad rows side by side."""

from typing import Any

import pytest

from classify.settings.config import FinetuneConfig, TrainConfig
from classify.settings.head_spec import DEFAULTS, HeadSpec
from classify.settings.prediction import PredictConfig
from extract.core.errors import SettingError

GOOD: list[dict[str, Any]] = [
    {},
    {"head": "logistic"},
    {"head": "logistic", "C": 0.01},
    {"units": (512, 128), "activation": "gelu", "batch_normalisation": True},
    {"head": "linear", "l2": 0.01, "label_smoothing": 0.1, "class_weight": "balanced"},
    {"head": "svm", "kernel": "rbf", "gamma": 0.1},
    {"head": "knn", "transform": ("sqrt", "l2", "standardise", "pca=10")},
    {"head": "lda", "transform": (), "layer": ("mixed5", "mixed7")},
    {"units": (1,), "dropout": 0, "epochs": 1, "batch_size": 1, "patience": 1},
    {"dropout": 0.999, "learning_rate": 1e-9, "seed": 2**32 - 1},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "rmsprop", "momentum": 0.9},
    {"optimizer": "adam"},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"head": "dens"}, "nearest: dense"),
    ({"units": (0,)}, "units: found 0"),
    ({"units": (8, -3)}, "units: found -3"),
    ({"units": ()}, "units: found none"),
    ({"activation": "rellu"}, "nearest: relu"),
    ({"l2": -1.0}, "l2: found -1.0"),
    ({"label_smoothing": 1.0}, "label_smoothing: found 1.0"),
    ({"class_weight": "equal"}, "class_weight 'equal' is unknown"),
    ({"head": "svm", "kernel": "poly"}, "kernel 'poly' is unknown"),
    ({"head": "svm", "kernel": "linear", "gamma": 1.0}, "gamma: has no effect"),
    ({"head": "lda", "shrinkage": 0.0}, "shrinkage: found 0.0"),
    ({"head": "knn", "neighbours": 0}, "neighbours: found 0"),
    ({"head": "ridge", "alpha": -1.0}, "alpha: found -1.0"),
    ({"transform": ("sqart",)}, "nearest: sqrt"),
    ({"transform": ("pca",)}, "expected pca=N"),
    ({"transform": ("pca=0",)}, "expected pca=N"),
    ({"transform": ("l2=3",)}, "expected l2"),
    ({"transform": ("l2", "l2")}, "l2 has no effect right after l2"),
    ({"layer": ("mixed5", "mixed5")}, "expected each layer once"),
    ({"epochs": 0}, "epochs: found 0"),
    ({"batch_size": 0}, "batch_size: found 0"),
    ({"patience": 0}, "patience: found 0"),
    ({"dropout": 1.0}, "dropout: found 1.0"),
    ({"dropout": -0.1}, "dropout: found -0.1"),
    ({"dropout": float("nan")}, "dropout: found nan"),
    ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
    ({"learning_rate": float("inf")}, "learning_rate: found inf"),
    ({"learning_rate": float("nan")}, "learning_rate: found nan"),
    ({"seed": -1}, "seed: found -1"),
    ({"seed": 2**32}, "seed: found 4294967296"),
    ({"optimizer": "sdg"}, "nearest: sgd"),
    ({"optimizer": "sgd", "momentum": 1.0}, "momentum: found 1.0"),
    ({"head": "logistic", "C": 0.0}, "C: found 0.0"),
    # Settings that can have no effect.
    ({"optimizer": "adam", "momentum": 0.9}, "momentum: has no effect with adam"),
    ({"nesterov": True}, "nesterov: has no effect"),
    ({"optimizer": "sgd", "nesterov": True}, "nesterov: has no effect"),
    ({"optimizer": "rmsprop", "momentum": 0.9, "nesterov": True}, "nesterov: has no effect"),
    ({"C": 1.0}, "C: has no effect with --head dense; it belongs to logistic"),
    ({"head": "logistic", "dropout": 0.2}, "dropout: has no effect with --head logistic"),
    ({"head": "logistic", "seed": 1}, "seed: has no effect"),
]


@pytest.mark.parametrize("settings", GOOD, ids=str)
def test_good(settings: dict[str, Any]) -> None:
    spec = HeadSpec(**settings)
    assert {name: getattr(spec, name) for name in settings} == settings


@pytest.mark.parametrize(("settings", "message"), BAD, ids=str)
def test_bad(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as raised:
        HeadSpec(**settings)
    assert message in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("head", DEFAULTS)
def test_what_is_left_out_has_its_default_and_what_is_foreign_stays_none(head: str) -> None:
    found = HeadSpec(head).to_dict()
    for name, value in DEFAULTS[head].items():
        if value is not None:
            assert found[name] == (list(value) if isinstance(value, tuple) else value)
    assert set(found) - {"head", "C"} <= set(DEFAULTS[head])


def test_the_default_is_the_head_of_the_course() -> None:
    spec = HeadSpec()
    assert (spec.head, spec.units, spec.dropout) == ("dense", (1024,), 0.2)
    assert (spec.optimizer, spec.learning_rate) == ("rmsprop", 1e-4)


@pytest.mark.parametrize("candidates", [(), (HeadSpec(), HeadSpec("dense"))], ids=["none", "twice"])
def test_each_head_once(candidates: tuple[HeadSpec, ...]) -> None:
    with pytest.raises(SettingError, match="expected each head once"):
        TrainConfig(candidates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "folds: found 1; expected 2 or more"),
        ({"metric": "acuracy"}, "nearest: accuracy"),
        ({"seed": -1}, "seed: found -1"),
        ({"assert_accuracy": 95.0}, "expected above 0, at most 1"),
        ({"halving": True}, "halving: has no effect without two Keras heads"),
        ({"halving": True, "folds": 3}, "--halving and --folds cannot be combined"),
    ],
    ids=str,
)
def test_train_config(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrainConfig((HeadSpec(),), **settings)


def test_halving_needs_rivals_of_one_shape_and_epochs_to_stop_at() -> None:
    pair = (HeadSpec(seed=0), HeadSpec(seed=1))
    assert TrainConfig(pair, halving=True).halving
    for other in (
        (HeadSpec(units=(8,)), HeadSpec(units=(9,))),
        (HeadSpec(seed=0), HeadSpec(seed=1, transform=("l2",))),
        (HeadSpec(seed=0, epochs=1), HeadSpec(seed=1, epochs=1)),
        (HeadSpec("logistic", C=1.0), HeadSpec("logistic", C=2.0)),
    ):
        with pytest.raises(SettingError, match="has no effect"):
            TrainConfig(other, halving=True)


@pytest.mark.parametrize("settings", [{"top": 0}, {"top": -1}, {"format": "xml"}], ids=str)
def test_predict_config(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        PredictConfig(**settings)


@pytest.mark.parametrize(
    ("images", "size"),
    [(0, 20), (2000, 20), (3199, 20), (3200, 32), (20_000, 128), (100_000, 512), (10**6, 8192)],
)
def test_batches_grow_with_the_images(images: int, size: int) -> None:
    specs = HeadSpec("dense"), HeadSpec("linear"), HeadSpec("lda")
    sized = TrainConfig(specs, batch_size_given=False).for_images(images)
    assert [spec.batch_size for spec in sized.candidates] == [size, size, None]
    assert size == 20 or 100 <= images / size < 200
    # A given size, and that of fine-tuning, stay.
    for kept in (
        TrainConfig(specs),
        TrainConfig(specs[:1], batch_size_given=False, finetune=FinetuneConfig()),
    ):
        assert kept.for_images(images) == kept


@pytest.mark.parametrize(
    ("images", "given", "used"),
    [(5000, None, None), (5001, None, 2000), (5001, 0, 0), (5001, 300, 300), (10, 300, 300)],
)
def test_svm_has_landmarks_for_many_images(images: int, given: int | None, used: int) -> None:
    config = TrainConfig((HeadSpec("svm", landmarks=given), HeadSpec("lda")))
    svm, lda = config.for_images(images).candidates
    assert (svm.landmarks, lda.landmarks) == (used, None)
