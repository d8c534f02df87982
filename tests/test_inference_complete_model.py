"""Layers that only the complete model has, and the classes that it scores by itself."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.inference.complete_model import imagenet_class_names, open_classifier
from classify.inference.predict import label_images
from classify.predict_cli import main as predict_images
from classify.settings.prediction import PredictConfig
from extract.core.applications import TRUNKS
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.errors import TrunkError
from extract.engines.openvino_cache import find_compiled
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source
from extract.store.open import open_store
from extract.trunks.backend import load_keras
from extract.trunks.trunk import build_trunk
from extract.trunks.weights import build_application, load_application
from tests.test_engines_openvino_cache import FAMILIES
from tests.test_trunks_trunk import NOBODY, build_elsewhere

QUICK = {"trunk": "mobilenet", "weights": "none"}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
Shown = pytest.CaptureFixture[str]


def build(*layer: str, **settings: Any) -> Any:
    return build_trunk(TrunkSpec(layer=layer, **{**QUICK, **settings}))


@pytest.fixture(scope="module")
def complete() -> Any:
    """Keras' own complete model, with the same seeded weights."""
    return load_application(TrunkSpec(**QUICK), top=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["predictions", "output"])
def test_a_layer_of_the_top_is_the_complete_models(complete: Any, name: str) -> None:
    trunk = build(name)
    assert (trunk.shapes, trunk.spec.pooling) == ({name: (1000,)}, "none")
    keras = load_keras()
    prepared = keras.applications.mobilenet.preprocess_input(PIXELS.astype("float32"))
    expected = complete.predict(prepared, verbose=0)
    np.testing.assert_allclose(np.asarray(trunk.model(PIXELS)), expected, atol=1e-5, rtol=1e-3)


def test_maps_are_pooled_beside_vectors() -> None:
    trunk = build("conv_pw_13_relu", "predictions")
    assert trunk.shapes == {"conv_pw_13_relu": (1024,), "predictions": (1000,)}
    assert trunk.spec.pooling == "avg"


@pytest.mark.parametrize(
    ("layer", "settings", "message"),
    [
        (
            "predictions",
            {"image_size": (160, 160)},
            "layer predictions: in the complete mobilenet only, which takes 224 x 224 pixels, "
            "found 160 x 160; leave --image-size out",
        ),
        ("predictions", {"pooling": "avg"}, r"gives \(1000,\), so pooling avg can have no effect"),
        ("predicitons", {}, "layer 'predicitons' is unknown; nearest: predictions"),
        ("predictions", {"weights": "no.h5"}, "no.h5: no such file; expected weights of the compl"),
    ],
)
def test_what_the_complete_model_cannot_give_is_said(
    layer: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrunkError, match=message):
        build(layer, **settings)


@pytest.fixture(scope="module")
def files(complete: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the complete model and those of the trunk, in every form."""
    from keras.src.legacy.saving import legacy_h5_format

    folder = tmp_path_factory.mktemp("weights")
    plain = build_application(TrunkSpec(**QUICK), None)  # type: ignore[arg-type]
    for name, model in (("plain", plain), ("top", complete)):
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        legacy_h5_format.save_model_to_hdf5(model, str(folder / f"{name}.h5"))
    return folder


@pytest.mark.parametrize("ending", ["h5", "weights.h5", "keras"])
def test_a_file_with_top_is_taken_and_one_without_refused(files: Path, ending: str) -> None:
    seeded = build("predictions").weights_sha256
    assert build("predictions", weights=str(files / f"top.{ending}")).weights_sha256 == seeded
    with pytest.raises(
        TrunkError, match=r"plain.*: found weights without top; expected weights of"
    ):
        build("predictions", weights=str(files / f"plain.{ending}"))


@pytest.mark.slow
def test_the_offline_package_has_no_top(tmp_path: Path) -> None:
    answer = build_elsewhere(tmp_path, NOBODY, "vgg16", layer="fc1")
    assert answer.startswith("WeightsUnavailableError ImageNet weights of the complete vgg16: not")
    assert "give --weights FILE with top" in answer
    assert "the extra vgg16 holds no fully connected layers" in answer


def test_a_store_of_the_top_goes_on_without_keras(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    settings: dict[str, Any] = {**QUICK, "layer": ("predictions",), "engine": "openvino"}
    assert extract_features(images, out, **settings).computed == 8
    with open_store(out) as store:
        assert store.shapes == {"predictions": (1000,)}
        assert store.spec.pooling == "none"
        np.testing.assert_allclose(store.read("predictions", slice(None)).sum(axis=1), 1, atol=1e-4)
        assert find_compiled(store.spec)
    assert extract_features(images, out, **settings).computed == 0
    asked = TrunkSpec(layer=("predictions",), **QUICK)  # type: ignore[arg-type]
    found = find_compiled(asked)
    assert found
    assert found.spec.pooling == "none"


def test_one_image_is_a_source(shared: Path, tmp_path: Path) -> None:
    image = next((shared / "horse-or-human").rglob("*.jpg"))
    settings: dict[str, Any] = {**QUICK, "layer": ("conv1_relu",), "image_size": (64, 64)}
    summary = extract_features(image, tmp_path / "out.h5", **settings)
    assert (summary.images, summary.class_names, summary.failed) == (1, (), [])
    with open_store(tmp_path / "out.h5") as store:
        assert store.keys == [image.name]
        assert store.labels.tolist() == [-1]
        assert np.isfinite(store.read("conv1_relu", slice(None))).all()


# The classes


def test_the_names_are_imagenets_in_its_order() -> None:
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    known = {
        **{0: "tench", 1: "goldfish", 130: "flamingo", 207: "golden retriever", 340: "zebra"},
        **{504: "coffee mug", 820: "steam locomotive", 954: "banana", 999: "toilet tissue"},
    }
    assert {i: names[i] for i in known} == known
    assert all(name == name.strip() and "_" not in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_top_is_a_softmax_of_1000(name: str) -> None:
    keras = load_keras()
    model = build_application(TrunkSpec(trunk=name), None, top=True)
    assert model.layers[-1].activation is keras.activations.softmax
    assert model.output_shape == (None, 1000)
    native = TRUNKS[name].image_size
    assert model.input_shape == (None, native, native, 3)


def test_labels_are_the_best_of_the_complete_model(complete: Any, images: Path) -> None:
    config = ExtractConfig(batch_size=3)
    model = open_classifier(config, **QUICK)
    names = model.class_names
    items = list_source(images).items
    found = label_images(items, model.engine, model, PredictConfig(top=5)).predictions
    assert [p.key for p in found] == [item.key for item in items for _ in range(5)]
    keras = load_keras()
    pixels = np.stack(
        [
            np.asarray(Image.open(item.path).resize((224, 224), Image.Resampling.BILINEAR))
            for item in items
        ]
    )
    prepared = keras.applications.mobilenet.preprocess_input(pixels.astype("float32"))
    scores = complete.predict(prepared, verbose=0)
    best = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose([p.score or 0 for p in found], best.ravel(), atol=1e-4)
    assert [p.label for p in found[::5]] == [names[i] for i in scores.argmax(axis=1)]


def test_the_command_prints_labels_without_a_head(images: Path, capsys: Shown) -> None:
    image = str(images / "train" / "cat" / "0.png")
    words = ["--trunk", "mobilenet", "--weights", "none"]
    # The flag before, after and between.
    assert predict_images([*words, image, "--top", "3"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["key"] for row in rows] == ["0.png"] * 3
    assert {row["label"] for row in rows} < set(imagenet_class_names())
    assert predict_images([str(images), *words, "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("ending", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_a_chart_of_one_image(
    images: Path, tmp_path: Path, capsys: Shown, ending: str, head: bytes
) -> None:
    chart = tmp_path / f"chart{ending}"
    words = ["--trunk", "mobilenet", "--weights", "none", "-o", str(chart)]
    assert predict_images([str(images / "train" / "cat" / "0.png"), *words]) == 0
    assert chart.read_bytes().startswith(head)
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.glob("*chart*")] == [chart.name]
    if ending == ".svg":
        # As text: a bar for each of the ten best, and the image's name.
        assert chart.read_text().count("%") >= 10


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["{source}"],
            2,
            "found SOURCE {source} alone; expected DIR SOURCE, a head from train-head",
        ),
        (["a_head", "{source}", "--trunk", "vgg16"], 2, "trunk: has no effect with a_head"),
        (["a_head", "{source}", "--preprocess", "none"], 2, "preprocess: has no effect with"),
        (["{source}", "--trunk", "vgg61"], 2, "trunk 'vgg61' is unknown; nearest: vgg19, vgg16"),
        (["{source}", "--trunk", "vgg16", "-o", "c.png"], 2, "found 8 images in {source}; expec"),
        (["{source}", "--trunk", "vgg16", "-o", "c.png", "--format", "csv"], 2, "format: has no e"),
        (
            ["{source}", "--trunk", "mobilenet", "--weights", "none", "--image-size", "160"],
            *(1, "in the complete mobilenet only, which takes 224 x 224 pixels, found 160 x 160"),
        ),
    ],
)
def test_what_does_not_go_together_is_said(
    images: Path, capsys: Shown, words: list[str], code: int, message: str
) -> None:
    assert predict_images([word.format(source=images) for word in words]) == code
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert message.format(source=images) in stderr


def test_an_unreadable_image_gets_no_chart(tmp_path: Path, capsys: Shown) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    words = ["--trunk", "mobilenet", "--weights", "none", "-o", str(tmp_path / "chart.png")]
    assert predict_images([str(tmp_path / "bad.png"), *words]) == 4
    assert "bad.png: is empty" in capsys.readouterr().err
    assert not (tmp_path / "chart.png").exists()


@pytest.mark.parametrize(
    ("units", "activation", "labels"),
    [(3, "softmax", {"0", "1", "2"}), (1, "sigmoid", {"0", "1"}), (2, None, None)],
)
def test_a_model_of_ones_own_numbers_its_classes(
    images: Path,
    tmp_path: Path,
    capsys: Shown,
    units: int,
    activation: str | None,
    labels: set[str] | None,
) -> None:
    keras = load_keras()
    steps = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    top = keras.layers.Dense(units, activation=activation, bias_initializer="ones")
    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((8, 8, 3)), *steps, top]).save(path)
    code = predict_images([str(images), "--trunk", str(path), "--top", "9"])
    stdout, stderr = capsys.readouterr()
    if labels is None:
        assert code == 1
        assert "expected scores of 0 to 1 that add up to 1" in stderr
        return
    assert code == 0
    assert "does not name its classes: labels are their numbers" in stderr
    rows = list(csv.DictReader(stdout.splitlines()))
    assert {row["label"] for row in rows} == labels
    assert sum(float(row["score"]) for row in rows) == pytest.approx(8, abs=1e-4)


@pytest.mark.slow
def test_weights_that_are_not_to_be_had_are_said(images: Path, tmp_path: Path) -> None:
    answer = build_elsewhere(tmp_path, NOBODY, "mobilenet", layer="output")
    assert answer.startswith("WeightsUnavailableError ImageNet weights of the complete mobilenet")
    assert "give --weights FILE with top" in answer
