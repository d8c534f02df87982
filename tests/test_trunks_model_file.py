"""A model of one's own as trunk: cut where it can be, never another one than was asked for."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract.cli import main as command
from extract.core.config import TrunkSpec
from extract.core.errors import SettingError, StoreError, TrunkError
from extract.engines.openvino_cache import find_compiled
from extract.engines.select import open_engine
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from extract.trunks.backend import load_keras
from extract.trunks.trunk import build_trunk, list_layers
from extract.trunks.upper_blocks import build_upper_blocks

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
Layers = Any


def nested(keras: Any, layers: Layers) -> Any:
    """A small model inside another, behind a Rescaling, as transfer learning makes them."""
    entry = keras.Input((32, 32, 3))
    inner = keras.Model(
        entry, layers.Conv2D(5, 3, name="second")(layers.Conv2D(4, 3, name="first")(entry))
    )
    inner.name = "inner"
    steps = [keras.Input((32, 32, 3)), layers.RandomFlip(), layers.Rescaling(1 / 255), inner]
    top = [layers.GlobalAveragePooling2D(name="pooled"), layers.Dropout(0.5)]
    return keras.Sequential([*steps, *top, layers.Dense(3, activation="softmax", name="classes")])


def functional(keras: Any, layers: Layers) -> Any:
    """Any size of image, an operation that is no layer, a layer that is used twice."""
    entry = keras.Input((None, None, 3))
    relu = layers.ReLU(name="shared")
    x = relu(layers.Conv2D(4, 3, name="first")(entry / 255.0))
    x = relu(layers.Conv2D(6, 3, name="second")(x))
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(entry, layers.Dense(1, activation="sigmoid", name="score")(x))


def vectors(keras: Any, layers: Layers) -> Any:
    """No feature map at all."""
    steps = [layers.Flatten(name="flat"), layers.Dense(7, name="hidden"), layers.Dense(2)]
    return keras.Sequential([keras.Input((32, 32, 3)), *steps])


def kept_axes(keras: Any, layers: Layers) -> Any:
    """Vectors that keep their axes, as MobileNet's top has them, and a name with dots."""
    steps = [keras.Input((32, 32, 3)), layers.Conv2D(4, 3, name="block.1.map")]
    top = [layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(2, 1, name="logits")]
    return keras.Sequential([*steps, *top, layers.Flatten(), layers.Softmax()])


def two_inputs(keras: Any, layers: Layers) -> Any:
    entries = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(entries, layers.Add()(entries))


def grey(keras: Any, layers: Layers) -> Any:
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])


def with_code(keras: Any, layers: Layers) -> Any:
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Lambda(lambda x: x * 2)])


def of_an_own_class(keras: Any, layers: Layers) -> Any:
    class Doubled(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    return keras.Sequential([keras.Input((8, 8, 3)), Doubled()])


Make = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    keras = load_keras()
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for make in (nested, functional, vectors, kept_axes):
        model = make(keras, keras.layers)
        model.save(folder / f"{make.__name__}.keras")
        made[make.__name__] = (folder / f"{make.__name__}.keras", model)
    return made


Models = dict[str, tuple[Path, Any]]


def spec_of(models: Models, name: str, **settings: Any) -> TrunkSpec:
    return TrunkSpec(trunk=str(models[name][0]), **settings)


@pytest.mark.parametrize(
    ("name", "layer", "size", "shape"),
    [
        ("nested", "inner", (32, 32), (5,)),
        ("functional", "second", (40, 24), (6,)),
        ("vectors", "hidden", (32, 32), (7,)),
        ("kept_axes", "block.1.map", (32, 32), (4,)),
    ],
)
def test_what_is_left_open_is_read_from_the_model(
    models: Models, name: str, layer: str, size: tuple[int, int], shape: tuple[int, ...]
) -> None:
    asked = size if name == "functional" else (0, 0)
    trunk = build_trunk(spec_of(models, name, image_size=asked))
    assert (trunk.spec.layer, trunk.spec.image_size, trunk.shapes) == (
        (layer,),
        size,
        {layer: shape},
    )
    assert trunk.spec.pooling == ("none" if name == "vectors" else "avg")
    assert (trunk.spec.preprocess, trunk.spec.weights) == ("none", "model")


@pytest.mark.parametrize("engine", ["keras", "openvino"])
@pytest.mark.parametrize("name", ["nested", "functional", "vectors"])
def test_its_output_is_what_it_predicts(models: Models, name: str, engine: str) -> None:
    spec = spec_of(models, name, layer=("output",), image_size=(32, 32))
    ((_, features),) = open_engine(spec, engine=engine).run([(None, PIXELS)])
    expected = models[name][1].predict(PIXELS.astype("float32"), verbose=0)
    np.testing.assert_allclose(features["output"], expected, atol=1e-5, rtol=1e-4)


def test_its_pixels_are_prepared_with_a_mean_and_a_standard_deviation(models: Models) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    prepared = (PIXELS / np.float32(255) - np.array(mean)) / np.array(std)
    expected = models["vectors"][1].predict(prepared.astype(np.float32), verbose=0)
    for settings in ({"preprocess": "imagenet"}, {"mean": mean, "std": std}):
        trunk = build_trunk(spec_of(models, "vectors", layer=("output",), **settings))
        np.testing.assert_allclose(np.asarray(trunk.model(PIXELS)), expected, atol=1e-5, rtol=1e-4)


def test_a_layer_of_a_nested_model(models: Models) -> None:
    keras = load_keras()
    trunk = build_trunk(spec_of(models, "nested", layer=("inner.first", "pooled"), pooling="none"))
    assert trunk.shapes == {"inner.first": (30, 30, 4), "pooled": (5,)}
    inner = models["nested"][1].get_layer("inner")
    part = keras.Model(inner.inputs, inner.get_layer("first").output)
    expected = part.predict(PIXELS.astype("float32") / 255, verbose=0)
    np.testing.assert_allclose(np.asarray(trunk.model(PIXELS)[0]), expected, atol=1e-5)


def test_layers_are_listed(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for _, name, _ in list_layers(spec_of(models, "nested"))]
    assert names[2:5] == ["inner.first", "inner.second", "inner"]
    assert (names[5], names[-1], len(names)) == ("pooled", "classes", 8)
    words = ["--list-layers", "--trunk", str(models["functional"][0]), "--image-size", "20"]
    assert command(words) == 0
    lines = capsys.readouterr().out.splitlines()
    # Of what is used twice it cannot be said which output is meant.
    assert "shared" not in [line.split()[1] for line in lines]
    assert lines[-1].split(maxsplit=2)[1:] == ["score", "(None, 1)"]


def test_it_is_found_in_the_cache_with_what_it_left_open(models: Models) -> None:
    asked = spec_of(models, "nested")
    opened = open_engine(asked, engine="openvino")
    found = find_compiled(asked)
    assert found
    assert opened.spec == found.spec
    assert found.spec.is_complete
    assert find_compiled(found.spec) == found


def test_bfloat16_is_near_float32_and_not_equal(models: Models) -> None:
    results = []
    for precision in ("float32", "bfloat16"):
        engine = open_engine(spec_of(models, "nested"), engine="keras", precision=precision)
        ((_, features),) = engine.run([(None, PIXELS)])
        results.append(features["inner"])
    error = np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0])
    assert 1e-6 < error < 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "imagenet"}, "weights: found imagenet with the trunk"),
        ({"preprocess": "auto"}, "preprocess auto: not known for"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrunkSpec(trunk="own.keras", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nested", {"image_size": (40, 40)}, "takes 32 x 32 pixels, found 40 x 40"),
        ("functional", {}, "takes images of any size; give --image-size"),
        ("nested", {"layer": ("inner.frist",)}, "layer 'inner.frist' is unknown; nearest: inner.f"),
        ("vectors", {"pooling": "avg"}, r"hidden gives \(7,\), so pooling avg can have no effect"),
    ],
)
def test_what_it_cannot_give_is_said(
    models: Models, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrunkError, match=message):
        build_trunk(spec_of(models, name, **settings))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, r"its input is \(None, 8, 8, 3\), \(None, 8, 8, 3\); expected one of"),
        (grey, r"its input is \(None, 8, 8, 1\)"),
        (with_code, "found custom code, a Lambda layer, which is not run; expected a model"),
        (of_an_own_class, "found custom code, Doubled, which is not run; expected a model"),
    ],
)
def test_a_model_that_is_no_trunk_is_refused(make: Make, message: str, tmp_path: Path) -> None:
    keras = load_keras()
    make(keras, keras.layers).save(tmp_path / "own.keras")
    with pytest.raises(TrunkError, match=r"own.keras: " + message):
        build_trunk(TrunkSpec(trunk=str(tmp_path / "own.keras")))


def test_a_damaged_file_is_refused(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "cut.keras"
    with pytest.raises(TrunkError, match=r"cut.keras: no such file"):
        build_trunk(TrunkSpec(trunk=str(path)))
    content = models["nested"][0].read_bytes()
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(TrunkError, match=r"cut.keras: .*expected a model of Keras' own layers"):
            build_trunk(TrunkSpec(trunk=str(path)))


def test_one_model_has_one_digest_and_another_has_another(models: Models, tmp_path: Path) -> None:
    keras = load_keras()
    path, model = models["nested"]
    first = build_trunk(spec_of(models, "nested")).weights_sha256
    model.save(tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() != path.read_bytes()
    again = TrunkSpec(trunk=str(tmp_path / "again.keras"))
    assert build_trunk(again).weights_sha256 == first
    # The same weights behind another activation are another trunk.
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    changed.layers[1].scale = 1 / 127.5
    changed.save(tmp_path / "changed.keras")
    changed = TrunkSpec(trunk=str(tmp_path / "changed.keras"))
    assert build_trunk(changed).weights_sha256 != first


def test_a_store_and_a_head_find_it_again(
    models: Models,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keras = load_keras()
    shutil.copy(models["nested"][0], tmp_path / "own.keras")
    monkeypatch.chdir(tmp_path)
    extract_features(images, "out.h5", trunk="own.keras")
    words = ["out.h5", "--head", "lda", "--export", "own_scores.keras", "-o", "exported", "-q"]
    assert train_head(words) == 0
    # Neither the model nor anything in it tells where the file lay.
    assert str(tmp_path) not in zipfile.ZipFile("own_scores.keras").read("config.json").decode()
    with open_store("out.h5") as store:
        assert store.spec.trunk == str(tmp_path / "own.keras")
        assert store.shapes == {"inner": (5,)}
    assert train_head(["out.h5", "--head", "logistic"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert extract_features(images, "../out.h5").computed == 0
    words = [str(tmp_path / "out_head"), str(images)]
    assert predict_images(words) == 0

    os.rename(tmp_path / "own.keras", "moved.keras")
    assert extract_features(images, "../out.h5", trunk="moved.keras").computed == 0
    capsys.readouterr()
    assert predict_images(words) == 1
    assert "own.keras is gone; expected the file that made the features" in capsys.readouterr().err
    assert predict_images([*words, "--weights", "moved.keras"]) == 0

    nested(keras, keras.layers).save("other.keras")
    capsys.readouterr()
    assert predict_images([*words, "--weights", "other.keras"]) == 1
    assert "which made the features; put it back" in capsys.readouterr().err
    with pytest.raises(StoreError, match="made with weights of SHA-256"):
        extract_features(images, "../out.h5", trunk="other.keras")
    with pytest.raises(StoreError, match=r"with --trunk .*own.keras, not vgg16; drop"):
        extract_features(images, "../out.h5", trunk="vgg16")


def test_it_is_not_fine_tuned(models: Models) -> None:
    with pytest.raises(TrunkError, match=r"found a model file, .*nested\.keras"):
        build_upper_blocks(spec_of(models, "nested"), "inner.first")


@pytest.mark.parametrize("name", ["my layer", "größe", "a:b"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_that_tensorflow_cannot_name_is_named(
    name: str, nested: bool, tmp_path: Path
) -> None:
    keras = load_keras()
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name=name)]
    if nested:
        layers = [keras.Input((8, 8, 3)), keras.Sequential(layers, name="inner")]
    keras.Sequential(layers).save(tmp_path / "trunk.keras")
    spec = TrunkSpec(trunk=str(tmp_path / "trunk.keras"))
    assert list_layers(spec)
    with pytest.raises(TrunkError, match=f"found the layer {name}; .*set KERAS_BACKEND=jax"):
        build_trunk(spec)
