"""A saved head in NumPy against Keras, and what is left to Keras."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from classify.heads.keras_head import DenseHead, build_model
from classify.heads.plain_model import ACTIVATIONS, PlainModel, read_plain
from classify.settings import head_spec
from classify.settings.head_spec import HeadSpec
from extract.core.errors import HeadError

Parts = dict[str, bytes]
Change = Callable[[Any], Any]


def save_model(folder: Path, shape: tuple[int, ...], classes: int, **settings: Any) -> Any:
    """Save a head with weights that are not those of its start."""
    given = {"units": (16, 8), "dropout": 0.2, "activation": "relu", **settings}
    model = build_model(HeadSpec("dense", **given), shape, classes)
    generator = np.random.default_rng(1)
    drawn = [generator.normal(size=array.shape) / 3 for array in model.get_weights()]
    # Biases, scales and variances, of which the last may not be negative.
    model.set_weights([array if array.ndim > 1 else 0.5 + abs(array) for array in drawn])
    model.save(folder / "head.keras")
    return model


def read(folder: Path) -> PlainModel | None:
    path = folder / "head.keras"
    return read_plain(path, path.stat().st_size)


@pytest.mark.parametrize(
    ("normalised", "classes", "shape"), [(False, 2, (12,)), (True, 3, (2, 3, 2))], ids=str
)
@pytest.mark.parametrize("activation", head_spec.ACTIVATIONS)
def test_a_head_scores_as_in_keras(
    activation: str, normalised: bool, classes: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    settings = {"activation": activation, "batch_normalisation": normalised}
    model = save_model(tmp_path, shape, classes, **settings)
    X = 2 * np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    plain = read(tmp_path)
    assert plain
    found, wanted = plain.predict(X), np.asarray(model(X, training=False))
    assert found.dtype == np.float32
    assert np.ptp(wanted, axis=0).min() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    head = DenseHead.load(tmp_path)
    np.testing.assert_allclose(
        head.predict_proba(X), DenseHead(model=model).predict_proba(X), rtol=0, atol=1e-6
    )
    assert (plain.input_shape, plain.output_shape) == (model.input_shape, model.output_shape)
    assert plain.most_values == max(16, *np.shape(X[0].ravel()))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_keras(name: str) -> None:
    x = np.linspace(-100, 100, 8001, dtype=np.float32).reshape(-1, 3)
    with np.errstate(all="ignore"):
        found = ACTIVATIONS[name](x)
    wanted = np.asarray(keras.activations.get(name)(x))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def change_layer(number: int, **settings: Any) -> Change:
    def change(config: Any) -> None:
        config["config"]["layers"][number]["config"] |= settings

    return change


def change_part(number: int, **values: Any) -> Change:
    return lambda config: config["config"]["layers"][number].update(values)


def rewrite(path: Path, change: Callable[[Parts], None]) -> None:
    with zipfile.ZipFile(path) as saved:
        parts = {name: saved.read(name) for name in saved.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as saved:
        for name, content in parts.items():
            saved.writestr(name, content)


def rewrite_config(path: Path, change: Change) -> None:
    def apply(parts: Parts) -> None:
        config = json.loads(parts["config.json"])
        change(config)
        parts["config.json"] = json.dumps(config).encode()

    rewrite(path, apply)


HALF = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float16"}}


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(class_name="Functional"),
        lambda config: config.update(registered_name="mine>Sequential"),
        lambda config: config["config"].pop("layers"),
        lambda config: config["config"].update(layers=[]),
        lambda config: config["config"]["layers"].pop(0),
        lambda config: config["config"]["layers"].pop(1),
        change_layer(0, batch_shape=[5, 2, 3, 2]),
        change_layer(0, batch_shape=[None, None, 3, 2]),
        change_layer(0, dtype="float16"),
        change_layer(1, data_format="channels_first"),
        change_layer(2, use_bias=False),
        change_layer(2, another=1),
        change_layer(2, units=17),
        change_layer(2, units=[16]),
        change_layer(2, quantization_config={"class_name": "Int8QuantizationConfig"}),
        change_layer(2, dtype=HALF),
        change_layer(2, dtype="float32"),
        change_layer(3, axis=1),
        change_layer(3, scale=False),
        change_layer(3, epsilon="small"),
        change_layer(3, epsilon=None),
        change_layer(3, epsilon=[1e-3]),
        change_layer(4, activation="softplus"),
        change_layer(4, activation={"class_name": "function", "config": "relu"}),
        change_part(4, class_name="LeakyReLU"),
        change_part(4, class_name=["Activation"]),
        change_part(4, module="mine"),
        change_part(4, registered_name="mine>Activation"),
        change_part(4, config=None),
    ],
)
def test_another_model_is_for_keras(change: Change, tmp_path: Path) -> None:
    save_model(tmp_path, (2, 3, 2), 3, batch_normalisation=True)
    assert read(tmp_path)
    rewrite_config(tmp_path / "head.keras", change)
    assert read(tmp_path) is None


def replace_by_external(file: h5py.File, name: str, outside: Path) -> None:
    outside.write_bytes(bytes(4 * 16))
    del file[name]
    file.create_dataset(name, (16,), "f4", external=[(str(outside), 0, 64)])


@pytest.mark.parametrize(
    "change",
    [
        lambda file, _: file.pop("layers/dense/vars/1"),
        lambda file, _: file.move("layers/dense", "layers/dense_7"),
        lambda file, outside: replace_by_external(file, "layers/dense/vars/1", outside),
    ],
)
def test_other_weights_are_for_keras(
    change: Callable[[h5py.File, Path], None], tmp_path: Path
) -> None:
    save_model(tmp_path, (12,), 2)

    def rewrite_weights(parts: Parts) -> None:
        content = BytesIO(parts["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            change(file, tmp_path / "outside")
        parts["model.weights.h5"] = content.getvalue()

    rewrite(tmp_path / "head.keras", rewrite_weights)
    assert read(tmp_path) is None


def test_what_only_keras_finds_wrong_is_told_when_keras_reads_the_head(tmp_path: Path) -> None:
    save_model(tmp_path, (12,), 2)
    rewrite_config(
        tmp_path / "head.keras", change_layer(1, kernel_initializer={"class_name": "No"})
    )
    head = DenseHead.load(tmp_path)
    with pytest.raises(HeadError, match=r"head.keras: Keras cannot read it: .*train the head"):
        _ = head.model


SCORE = """
import pathlib, sys
import numpy as np
from classify.heads.registry import head_class

head = head_class("dense").load(pathlib.Path(sys.argv[1]), "dense")
print(head.predict_proba(np.ones((1, 12), np.float32)).shape)
print({"keras", "tensorflow", "scipy", "sklearn"} & sys.modules.keys() or "light")
"""


def test_a_saved_head_scores_without_keras(tmp_path: Path) -> None:
    save_model(tmp_path, (12,), 3)
    words = [sys.executable, "-c", SCORE, str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["(1, 3)", "light"]
