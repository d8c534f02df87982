"""Overlays of real trunks on photographs, against the gradient that TensorFlow computes itself."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.activation.explain import Explained, explain_mistakes
from classify.activation.images import read_pixels
from classify.data.dataset import Dataset, load_dataset
from classify.diagnosis.diagnostics import describe_mistakes
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.pipeline.run import run_extraction
from extract.trunks.backend import load_keras

pytestmark = pytest.mark.slow

CONFUSABLE = ("crocodile", "crocodile_head", "crayfish", "lobster", "ketch", "schooner")
DENSE = HeadSpec("dense", units=(16,), epochs=4, dropout=0.3)


def link(source: Path, target: Path, count: int) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        (target / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six confusable classes, pooled features of the trunk that is installed."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in CONFUSABLE:
        link(shared / "caltech-20" / name, folder / "images" / name, 40)
    run_extraction(folder / "images", folder / "out.h5", trunk="efficientnet_lite0")
    return folder / "out.h5"


@pytest.fixture(scope="module")
def maps(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of them as feature maps of InceptionV3's mixed7, the course's recipe."""
    folder = tmp_path_factory.mktemp("maps")
    for name in CONFUSABLE[:3]:
        link(shared / "caltech-20" / name, folder / "images" / name, 30)
    weights = str(next((shared / "weights").glob("inception_v3*.h5")))
    how: Any = {"weights": weights, "image_size": (150, 150), "pooling": "none"}
    run_extraction(folder / "images", folder / "out.h5", **how)
    return folder / "out.h5"


def explain_five(store: Path, spec: HeadSpec) -> tuple[Dataset, Result, Explained]:
    made = load_dataset(store)
    result = run(made, TrainConfig((spec,)))
    assert result.scores is not None
    mistakes = describe_mistakes(made, result.validation_rows, result.scores, 5)
    assert len(mistakes) == 5
    found = explain_mistakes(result, mistakes, "always")
    assert found.reason == ""
    return made, result, found


def head_in_keras(result: Result, shape: tuple[int, ...]) -> Any:
    """Pooling or Flatten, and the head as Keras layers; logits of two classes or more."""
    keras, fitted_head, own = load_keras(), result.head, result.dataset
    assert fitted_head
    assert own
    head: Any = fitted_head.head
    layers = keras.layers
    first = layers.Flatten() if len(own.X.shape) > 2 else layers.GlobalAveragePooling2D()
    if result.best.spec.head == "dense":
        model = keras.Sequential([keras.Input(shape), first, *head.model.layers])
        assert model.layers[-1].activation.__name__ == "softmax"
        return model
    ((name, fitted),) = fitted_head.transform.learnt()
    assert name == "standardise"
    kernel, bias = head.softmax_weights()
    standardise = layers.BatchNormalization(epsilon=1e-12)
    output = layers.Dense(kernel.shape[1], activation="softmax")
    model = keras.Sequential([keras.Input(shape), first, standardise, output])
    width = len(kernel)
    standardise.set_weights([fitted["scale"], np.zeros(width), fitted["mean"], np.ones(width)])
    output.set_weights([kernel, bias])
    return model


def by_tensorflow(
    model: Any, maps: np.ndarray, classes: Any, others: Any, origin: Any = 0.0
) -> np.ndarray:
    """Gradient times activation of the log odds, by position; activation is above the origin."""
    import tensorflow as tf

    start, rows = tf.Variable(maps), np.arange(len(maps))
    with tf.GradientTape() as tape:
        scores = model(start, training=False)
        odds = tf.math.log(tf.gather_nd(scores, np.stack([rows, classes], 1)))
        odds -= tf.math.log(tf.gather_nd(scores, np.stack([rows, others], 1)))
    gradient = np.asarray(tape.gradient(odds, start), np.float64)
    return np.asarray((gradient * (maps - origin)).sum(axis=3))


def check_five(store: Path, spec: HeadSpec) -> None:
    made, result, found = explain_five(store, spec)
    assert result.scores is not None
    scores = result.scores[np.searchsorted(result.validation_rows, found.rows)]
    classes, others = scores.argmax(axis=1), made.y[found.rows]
    if made.X.ndim == 2:  # the maps of the trunk in Keras, built anew
        from extract.trunks.trunk import build_trunk

        trunk = build_trunk(replace(made.trunk, pooling="none"))
        pixels = np.stack(read_pixels(made, found.rows, made.trunk))
        maps = np.asarray(trunk.model(pixels))
    else:
        maps = made.X[found.rows]
    model, origin = head_in_keras(result, maps.shape[1:]), np.float32(0)
    if made.X.ndim == 4 and found.method == "exact":  # the mean that the head subtracts
        origin = made.X[result.splits[0].train].mean(axis=0)
    expected = by_tensorflow(model, maps, classes, others, origin)
    for overlay, by_hand, own, truth in zip(found.overlays, expected, scores, others, strict=True):
        positions = np.array(overlay.positions)
        assert np.abs(positions - by_hand).max() < 1e-4 * np.abs(by_hand).max()
        odds = np.log(float(own.max()) / float(own[truth]))
        assert positions.sum() + overlay.constant == pytest.approx(odds, rel=1e-3, abs=1e-4)
    if found.method == "exact":  # the constant is the head at the origin, for every image
        start = model(np.broadcast_to(origin, maps[:1].shape).astype(np.float32), training=False)
        for overlay, a, b in zip(found.overlays, classes, others, strict=True):
            logits = np.log(np.asarray(start)[0])
            assert overlay.constant == pytest.approx(logits[a] - logits[b], abs=1e-2)


@pytest.mark.parametrize("spec", [HeadSpec("logistic"), DENSE], ids=lambda s: s.head)
def test_pooled_features_of_photographs(spec: HeadSpec, photographs: Path) -> None:
    check_five(photographs, spec)


@pytest.mark.parametrize("spec", [HeadSpec("logistic"), DENSE], ids=lambda s: s.head)
def test_the_recipe_of_the_course(spec: HeadSpec, maps: Path) -> None:
    check_five(maps, spec)


@pytest.mark.parametrize("head", ["knn", "svm", "lda"])
def test_tensorflow_is_not_loaded(head: str, photographs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from classify import train_heads; "
        f"train_heads({str(photographs)!r}, output={str(tmp_path / 'head')!r}, head={head!r}); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    described = json.loads((tmp_path / "head/result.json").read_bytes())
    numbers = described["best"]["mistakes"]["explained"]
    assert numbers["method"] == ("exact" if head == "lda" else "covered")
    # Covering a position may change nothing for one of the images.
    assert (7, 7) in [np.shape(image["positions"]) for image in numbers["images"]]
