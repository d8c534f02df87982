"""The whole recipe of the course notes, line by line, through the commands alone."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.inference.complete_model import imagenet_class_names
from classify.predict_cli import main as predict_images
from extract.cli import main as extract_features
from extract.core.config import TrunkSpec
from extract.store.open import open_store
from extract.trunks.backend import load_keras
from extract.trunks.weights import load_application
from tests.test_trunks_trunk import NOBODY

pytestmark = pytest.mark.slow

Shown = pytest.CaptureFixture[str]
# What marks the exercise's commands in README.
GOAL = "--assert-accuracy 0.95"
README = Path(__file__).resolve().parents[1] / "README.md"
INCEPTION = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"


def run(command: Any, *words: object) -> None:
    assert command([str(word) for word in words]) == 0


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def record_of_run(store: Path, *words: object) -> dict[str, Any]:
    """Train on a store and return the record."""
    run(train_head, store, *words)
    return record_of(store.with_name(f"{store.stem}_head"))


def link(source: Path, target: Path, counts: dict[str, int]) -> Path:
    """Make a source of some of the images of each class, taken evenly from all of them."""
    for split, count in counts.items():
        for folder in sorted((source / split).iterdir()):
            images = sorted(folder.iterdir())
            (target / split / folder.name).mkdir(parents=True)
            for image in images[:: len(images) // count][:count]:
                (target / split / folder.name / image.name).symlink_to(image)
    return target


def rows_of(store: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read keys, labels and features."""
    with open_store(store) as opened:
        (layer,) = opened.shapes
        return opened.keys, opened.labels, opened.read(layer, slice(None))


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights" / INCEPTION


@pytest.fixture(scope="module")
def horses(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 and 16 images a class of horses and humans."""
    target = tmp_path_factory.mktemp("recipe") / "horse-or-human"
    return link(shared / "horse-or-human", target, {"train": 40, "validation": 16})


@pytest.fixture(scope="module")
def maps(horses: Path, weights: Path) -> Path:
    """What mixed7 of the notes' frozen trunk gives for the notes' pixels."""
    out = horses.with_name("maps.h5")
    trunk = ("--weights", weights, "--layer", "mixed7", "--image-size", 150, "--pooling", "none")
    pixels = ("--preprocess", "rescale", "--interpolation", "nearest")
    run(extract_features, horses, out, *trunk, *pixels)
    return out


def test_inception_v3_without_top_from_a_local_file(
    horses: Path, maps: Path, weights: Path, capsys: Shown
) -> None:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    keras = load_keras()
    whole = keras.applications.InceptionV3(
        input_shape=(150, 150, 3), include_top=False, weights=None
    )
    whole.load_weights(weights)
    frozen = keras.Model(whole.input, whole.get_layer("mixed7").output)
    # Frozen: that a head's training moves no weight of it is in test_trunk.
    for split in ("train", "validation"):
        flow = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
            horses / split, target_size=(150, 150), class_mode="binary", shuffle=False
        )
        keys, labels, features = rows_of(maps)
        own = [i for i, key in enumerate(keys) if key.startswith(split)]
        assert [keys[i] for i in own] == [f"{split}/{name}" for name in flow.filenames]
        assert labels[own].tolist() == flow.classes.tolist()
        expected = frozen.predict(flow, verbose=0)
        np.testing.assert_allclose(features[own], expected, atol=1e-4)
    capsys.readouterr()
    run(extract_features, "--list-layers", "--image-size", 150)
    listed = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    listed = [line for line in listed if not line[2].endswith("of the complete model")]
    assert [line[2] for line in listed] == [str(layer.output.shape) for layer in whole.layers]
    assert [name for _, name, _ in listed if name.startswith("mixed")] == [
        layer.name for layer in whole.layers if layer.name.startswith("mixed")
    ]


def test_mixed7_flattened_1024_units_one_output(maps: Path) -> None:
    folder = maps.with_name("plain")
    words = ("--units", 1024, "--dropout", 0, "--optimizer", "rmsprop", "--learning-rate", 1e-4)
    run(train_head, maps, *words, "--epochs", 3, "-o", folder)
    head = load_keras().models.load_model(folder / "head.keras")
    assert [type(layer).__name__ for layer in head.layers] == [
        *("Flatten", "Dense", "Dropout", "Dense")
    ]
    assert [layer.activation.__name__ for layer in head.layers[1::2]] == ["relu", "sigmoid"]
    assert head.layers[2].rate == 0
    # As the notes' summary counts them, less the 8,975,264 of the frozen trunk.
    assert head.count_params() == 47_512_481 - 8_975_264
    (candidate,) = record_of(folder)["candidates"]
    settings = candidate["settings"]
    assert (settings["optimizer"], settings["learning_rate"]) == ("rmsprop", 1e-4)
    assert candidate["history"]["loss"][-1] < candidate["history"]["loss"][0]
    assert candidate["scores"]["accuracy"] > 0.8


def test_dropout_and_the_curves_with_and_without(maps: Path) -> None:
    folder = maps.with_name("swept")
    run(train_head, maps, "--sweep", "dropout=0,0.2", "--epochs", 4, "-o", folder)
    found = {c["settings"]["dropout"]: c["history"] for c in record_of(folder)["candidates"]}
    assert set(found) == {0, 0.2}
    for history in found.values():
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert {len(curve) for curve in history.values()} == {4}
    assert found[0]["loss"] != found[0.2]["loss"]
    page = (folder / "report.html").read_text()
    panels = re.findall(r"<figure.*?</figure>", page.split('id="learning"')[1], re.DOTALL)[:2]
    for panel, dropout in zip(panels, ("0", "0.2"), strict=True):
        assert f"<h3>dropout {dropout} <small>" in panel
        assert "<svg" in panel


def test_seven_augmentations_batches_of_20_and_100_epochs(horses: Path, weights: Path) -> None:
    out = horses.with_name("views.h5")
    trunk = ("--weights", weights, "--image-size", 150, "--preprocess", "rescale")
    views = ("--rotation", 40, "--shift", 0.2, "--shear", 0.2, "--zoom", 0.2, "--flip")
    run(extract_features, horses, out, *trunk, "--views", 3, *views)
    with open_store(out) as store:
        assert (len(store.view_rows), store.view_spec.views) == (80, 3)
        asked = {"rotation": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}
        assert {name: store.attributes[name] for name in asked} == asked
        assert store.attributes["preprocess"] == "rescale"
    words = ("--head", "dense", "--batch-size", 20, "--epochs", 100)
    record = record_of_run(out, *words)
    (candidate,) = record["candidates"]
    settings = candidate["settings"]
    assert (settings["views"], settings["batch_size"], settings["epochs"]) == ("random", 20, 100)
    assert len(candidate["history"]["loss"]) == candidate["epochs"] == 100
    assert record["split"]["validation"] == 32
    assert candidate["scores"]["accuracy"] > 0.9


def test_horses_or_humans(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("https_proxy", NOBODY)
    monkeypatch.chdir(tmp_path)
    counts = {"train": 80, "validation": 48}
    link(shared / "horse-or-human", tmp_path / "horse-or-human", counts)
    # README's own commands, on a sixth of the training images.
    block = next(b for b in re.findall(r"```sh\n(.*?)```", README.read_text(), re.S) if GOAL in b)
    commands = {"extract-features": extract_features, "train-head": train_head}
    for line in block.splitlines():
        program, *words = line.split()
        run(commands[program], *words)
    (candidate,) = record_of(tmp_path / "maps_head")["candidates"]
    assert candidate["settings"]["epochs"] <= 100
    assert candidate["train_accuracy"] >= 0.999
    assert candidate["scores"]["accuracy"] >= 0.95


def test_vgg16_with_top_says_what_one_image_shows(
    shared: Path, tmp_path: Path, capsys: Shown
) -> None:
    keras = load_keras()
    # The complete model's own weights are no part of any package: random ones in their place,
    # with a last layer that is sure of its answer.
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 100, bias])
    file = tmp_path / "vgg16.weights.h5"
    model.save_weights(file)
    photo = min((shared / "caltech-20" / "schooner").iterdir())
    image = keras.utils.load_img(photo, target_size=(224, 224), interpolation="bilinear")
    pixels = keras.applications.vgg16.preprocess_input(np.asarray(image, "f4")[None])
    expected = model.predict(pixels, verbose=0)[0]
    assert expected.max() > 0.01
    words = (photo, "--trunk", "vgg16", "--weights", file, "--top", 1000)
    run(predict_images, *words)
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    names = imagenet_class_names()
    assert rows[0]["label"] == names[expected.argmax()]
    scores = {row["label"]: float(row["score"]) for row in rows}
    np.testing.assert_allclose([scores[name] for name in names], expected, atol=1e-4)
    run(predict_images, *words, "-o", tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        # A bar for each of the 1,000 scores.
        assert plot.height > 1000 * 20


def test_vgg16_features_of_one_image(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("https_proxy", NOBODY)
    keras = load_keras()
    photo = min((shared / "caltech-20" / "schooner").iterdir())
    words = ("--trunk", "vgg16", "--pooling", "none", "--decoding", "full")
    run(extract_features, photo, tmp_path / "one.h5", *words)
    keys, labels, features = rows_of(tmp_path / "one.h5")
    assert (keys, labels.tolist(), features.shape) == ([photo.name], [-1], (1, 7, 7, 512))
    model = load_application(TrunkSpec(trunk="vgg16"))
    image = keras.utils.load_img(photo, target_size=(224, 224), interpolation="bilinear")
    pixels = keras.applications.vgg16.preprocess_input(np.asarray(image, "f4")[None])
    np.testing.assert_allclose(features, model.predict(pixels, verbose=0), atol=1e-2, rtol=1e-3)
    capsys.readouterr()
    run(extract_features, "--list-layers", "--trunk", "vgg16")
    listed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    names = [layer.name for layer in model.layers]
    assert listed[1 : len(names)] == [[str(i), name] for i, name in enumerate(names)][1:]


def paint(root: Path, classes: int) -> Path:
    """Make images of many classes, each a pattern of colours under noise."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        pattern = generator.integers(0, 256, (5, 5, 3)).repeat(15, axis=0).repeat(15, axis=1)
        for split, count in (("train", 3), ("validation", 1)):
            folder = root / split / f"class{label:03d}"
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = pattern + generator.normal(0, 15, pattern.shape)
                Image.fromarray(noisy.clip(0, 255).astype("u1")).save(folder / f"{i}.png")
    return root


def test_200_classes_behind_global_average_pooling(tmp_path: Path, weights: Path) -> None:
    source, out = paint(tmp_path / "images", 200), tmp_path / "many.h5"
    trunk = ("--weights", weights, "--layer", "mixed10", "--image-size", 75)
    run(extract_features, source, out, *trunk)
    record = record_of_run(out, "--head", "dense")
    head = load_keras().models.load_model(tmp_path / "many_head" / "head.keras")
    # Global average pooling is in the trunk: 2,048 features.
    dense = [layer for layer in head.layers if type(layer).__name__ == "Dense"]
    assert [(layer.units, layer.activation.__name__) for layer in dense] == [
        (1024, "relu"),
        (200, "softmax"),
    ]
    assert head.input_shape == (None, 2048)
    (candidate,) = record["candidates"]
    assert record["split"]["validation"] == 200
    # Chance is 0.005; the default 30 epochs are not yet the end of it.
    assert candidate["scores"]["accuracy"] > 0.5
    assert np.shape(candidate["confusion"]) == (200, 200)


def test_the_top_two_blocks_are_trained_further(horses: Path, weights: Path) -> None:
    out = horses.with_name("mixed8.h5")
    trunk = ("--weights", weights, "--layer", "mixed8", "--image-size", 150, "--pooling", "none")
    run(extract_features, horses, out, *trunk)
    # Without dropout, whose noise is larger than what such small steps do in ten epochs.
    tuning = ("--finetune", "--finetune-learning-rate", 1e-4, "--dropout", 0)
    found = record_of_run(out, "--epochs", 3, *tuning)["finetuned"]
    # That it equals training the full model, with SGD(1e-4, 0.9) from pixels, is in test_finetune.
    assert (found["layer"], found["epochs"]) == ("mixed8", 10)
    assert found["best_epoch"] > 0
    assert found["after"]["loss"] < found["before"]["loss"]
    assert found["history"]["loss"][-1] < found["history"]["loss"][0]
