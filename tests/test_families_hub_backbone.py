"""Backbones of KerasHub as trunks, against KerasHub's own prediction."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from classify.inference.predict import predict_images
from classify.train import train_heads
from extract.api import extract_features
from extract.cli import main as command
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, StoreError, TrunkError
from extract.engines.openvino_cache import find_compiled
from extract.engines.select import open_engine
from extract.families.hub_presets import settle
from extract.pixels.decode import decode
from extract.store.open import open_store
from extract.trunks.keras_import import keras
from extract.trunks.trunk import build_trunk, list_layers
from extract.trunks.upper_blocks import build_upper_blocks

if find_spec("keras_hub") is None:
    pytest.skip("KerasHub is not installed: pip install keras-hub", allow_module_level=True)

import keras_hub
from kagglehub.cache import Cache
from kagglehub.handle import parse_model_handle

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
IMAGES = {**VIT, "intermediate_dim": 32, "image_shape": (32, 32, 3)}
TEXTS = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
TEXTS |= {"vocabulary_size": 20, "embedding_dim": 16, "max_sequence_length": 8}
SQUARES = {"position_embedding_shape": (48, 48)}


def make_siglip(models: Any) -> Any:
    vision = models.SigLIPVisionEncoder(**IMAGES, name="vision")
    return models.SigLIPBackbone(vision, models.SigLIPTextEncoder(**TEXTS, name="text"))


def make_resnet(models: Any) -> Any:
    stem = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7], "block_type": "basic_block"}
    blocks = {f"stackwise_num_{name}": [1, 1] for name in ("blocks", "strides")}
    return models.ResNetBackbone(**stem, **blocks, stackwise_num_filters=[64, 32])


MAKE: dict[str, Callable[[Any], Any]] = {
    "ViT": lambda models: models.ViTBackbone(**VIT, mlp_dim=32, image_shape=(32, 32, 3)),
    "DINOV2": lambda models: models.DINOV2Backbone(**IMAGES, **SQUARES),
    "DINOV3": lambda models: models.DINOV3Backbone(**IMAGES),
    "SigLIP": make_siglip,
    "ResNet": make_resnet,
}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, with an image converter."""
    folder = tmp_path_factory.mktemp("presets")
    keras.utils.set_random_seed(0)
    for name, make in MAKE.items():
        make(keras_hub.models).save_to_preset(str(folder / name))
        kind = getattr(keras_hub.layers, f"{name}ImageConverter")
        scale, offset = [0.01, 0.02, 0.03], [-1.0, -2.0, -0.5]
        kind(image_size=(32, 32), scale=scale, offset=offset).save_to_preset(str(folder / name))
    return folder


def predict(folder: Path) -> np.ndarray:
    """Return what KerasHub predicts for the pixels, which have the size of its input."""
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    model = getattr(backbone, "vision_encoder", backbone)
    convert = keras_hub.layers.ImageConverter.from_preset(str(folder))
    prepared = convert(PIXELS.astype("float32"))
    return np.asarray(model.predict(keras.tree.map_structure(lambda _: prepared, model.input)))


@pytest.mark.parametrize(
    ("name", "pooling", "layer"),
    [
        ("ViT", "avg", "vit_encoder"),
        ("DINOV2", "avg", "dinov2_backbone_layernorm"),
        ("DINOV3", "avg", "dinov3_backbone_layernorm"),
        ("SigLIP", "none", "vision_head"),
        ("ResNet", "avg", "stack1_block0_out"),
    ],
)
def test_features_are_what_the_backbone_predicts(
    presets: Path, name: str, pooling: str, layer: str
) -> None:
    expected = predict(presets / name)
    if name == "ResNet":
        expected = expected.mean((1, 2))
    elif expected.ndim == 3:
        expected = expected[:, -16:].mean(1)  # 4 x 4 patches
    asked = TrunkSpec(f"hub:{presets / name}")
    for engine in ("keras", "openvino"):
        opened = open_engine(asked, engine=engine)
        ((_, features),) = opened.run([(None, PIXELS)])
        np.testing.assert_allclose(features[layer], expected, atol=1e-5, rtol=1e-4)
        assert opened.spec.pooling == pooling
        assert opened.shapes == {layer: expected.shape[1:]}
    found = find_compiled(settle(asked))  # without Keras
    assert found
    assert found.spec == opened.spec


def test_tokens_are_pooled_or_kept(presets: Path) -> None:
    expected = predict(presets / "DINOV3")
    pooled = {"cls": expected[:, 0], "max": expected[:, 5:].max(1), "none": expected}
    for pooling, wanted in pooled.items():
        spec = TrunkSpec(f"hub:{presets / 'DINOV3'}", pooling=pooling)
        ((_, features),) = open_engine(spec, engine="keras").run([(None, PIXELS)])
        (found,) = features.values()
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-4)


def test_layers_are_those_of_the_encoder_and_its_levels(presets: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("image_converter.json")
    shutil.copytree(presets / "DINOV2", tmp_path / "DINOV2", ignore=ignore)
    layers = list_layers(TrunkSpec(f"hub:{tmp_path / 'DINOV2'}"))
    names = [layer.name.removeprefix("dinov2_backbone_") for layer in layers]
    assert names == ["images", "embeddings", "stage1", "stage2", "layernorm"]
    converter = (presets / "DINOV2" / "image_converter.json").read_text()
    for name in ("bilinear", "DINOV2ImageConverter"):  # what is unknown decides no layer
        changed = converter.replace(name, "other")
        (tmp_path / "DINOV2" / "image_converter.json").write_text(changed)
        assert list_layers(TrunkSpec(f"hub:{tmp_path / 'DINOV2'}")) == layers
    # KerasHub declares one token more than SigLIP has, and SigLIP has no class token.
    spec = TrunkSpec(f"hub:{presets / 'SigLIP'}", layer="vision_post_layer_norm")  # type: ignore[arg-type]
    trunk = build_trunk(spec)
    assert (trunk.spec.pooling, trunk.shapes) == ("avg", {"vision_post_layer_norm": (16,)})


@pytest.mark.parametrize(
    ("name", "layers", "found"),
    [
        ("SigLIP", ("vision_post_layer_norm",), r"vision_post_layer_norm: found \(16, 16\)"),
        ("ResNet", (), r"stack1_block0_out: found \(\d+, \d+, 32\)"),
        ("ViT", ("vit_encoder", "images"), r"images: found \(32, 32, 3\)"),
    ],
)
def test_no_layer_without_a_class_token_is_pooled_by_it(
    presets: Path, name: str, layers: tuple[str, ...], found: str
) -> None:
    spec = TrunkSpec(f"hub:{presets / name}", layer=layers, pooling="cls")
    message = f"layer {found}, which has no class token; use --pooling avg, max or none"
    with pytest.raises(TrunkError, match=message):
        build_trunk(spec)


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_bfloat16_is_near_float32_and_not_equal(presets: Path, engine: str) -> None:
    results = []
    for precision in ("float32", "bfloat16"):
        spec = TrunkSpec(f"hub:{presets / 'ViT'}")
        ((_, features),) = open_engine(spec, engine=engine, precision=precision).run([(0, PIXELS)])
        results.append(features["vit_encoder"])
    error = np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0])
    assert 1e-6 < error < 0.03
    assert keras.config.dtype_policy().name == "float32"


def test_another_size_where_the_weights_fit_it(presets: Path) -> None:
    for name, tokens in (("DINOV2", 37), ("DINOV3", 41)):
        spec = TrunkSpec(f"hub:{presets / name}", image_size=(48, 48), pooling="none")
        assert list(build_trunk(spec).shapes.values()) == [(tokens, 16)]
    spec = TrunkSpec(f"hub:{presets / 'ViT'}", image_size=(48, 48))
    with pytest.raises(TrunkError, match=r"ViTBackbone at 48 x 48 pixels: .*give --image-size onl"):
        build_trunk(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"hidden_dim": 16', '"hidden_dim": 160000'), "bytes in a file of"),
        (('"num_layers": 2', '"num_layers": 1000000'), "bytes in a file of"),
        (('"num_layers": 2', '"num_layers": 3'), "could not be loaded"),
        (('"num_heads": 2', '"num_heads": "two"'), "ViTBackbone at 32 x 32 pixels"),
    ],
)
def test_a_strangers_configuration_is_bounded(
    presets: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    shutil.copytree(presets / "ViT", tmp_path / "ViT")
    path = tmp_path / "ViT" / "config.json"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(TrunkError, match=message):
        build_trunk(TrunkSpec(f"hub:{tmp_path / 'ViT'}"))


def test_a_backbone_of_videos_is_refused(tmp_path: Path, capsys: Any) -> None:
    layers = {f"num_{name}_layers": 1 for name in ("spatial", "temporal", "auxiliary")}
    video: dict[str, Any] = {
        "num_frames": 2,
        "patch_size": 8,
        "hidden_dim": 16,
        "intermediate_dim": 32,
    }
    video |= {"num_heads": 2, "image_shape": (32, 32, 3)}
    keras_hub.models.VideoPrismBackbone(**video, **layers).save_to_preset(str(tmp_path))
    assert command(["--list-layers", "--trunk", f"hub:{tmp_path}"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    found = "found a backbone that takes (None, 2, 32, 32, 3)"
    assert error.endswith(f"{found}; expected one image, (None, height, width, 3)")


def test_damaged_weights_are_refused(presets: Path, tmp_path: Path) -> None:
    shutil.copytree(presets / "ViT", tmp_path / "ViT")
    path = tmp_path / "ViT" / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrunkError, match="expected an image backbone of KerasHub"):
        build_trunk(TrunkSpec(f"hub:{tmp_path / 'ViT'}"))


def test_a_preset_by_name(
    presets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    name = "vit_base_patch16_224_imagenet"
    assert command(["--list-layers", "--trunk", f"hub:{name}"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "not on this machine, and its host cannot be reached ([Errno 111] Con" in error
    assert f'run keras_hub.models.Backbone.from_preset("{name}").save_to_preset("DIR")' in error
    assert command(["--list-layers", "--trunk", "hub:vit_base_patch16_224_imagnet"]) == 1
    assert f"is unknown; nearest: {name}" in capsys.readouterr().err
    handle = parse_model_handle(
        keras_hub.models.Backbone.presets[name]["kaggle_handle"].removeprefix("kaggle://")
    )
    for file in (presets / "ViT").iterdir():
        place = Path(Cache().get_path(handle, file.name))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        Cache().mark_as_complete(handle, file.name)
    fetched = build_trunk(TrunkSpec(f"hub:{name}"))
    assert fetched.weights_sha256 == build_trunk(TrunkSpec(f"hub:{presets / 'ViT'}")).weights_sha256


@pytest.mark.slow
def test_the_whole_recipe(presets: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(presets / "ViT", tmp_path / "ViT")
    shutil.copytree(presets / "ViT", tmp_path / "scaled")
    converter = tmp_path / "scaled" / "image_converter.json"
    converter.write_text(converter.read_text().replace("0.01", "0.02"))
    out, head, trunk = tmp_path / "out.h5", tmp_path / "head", f"hub:{tmp_path / 'ViT'}"
    extract_features(images, out, trunk=trunk, quiet=True)
    with open_store(out) as store:
        attributes = store.attributes
        assert attributes["trunk"] == trunk
        assert [attributes[name] for name in ("pooling", "resize")] == ["avg", "crop"]
    with pytest.raises(StoreError, match="weights of SHA-256"):
        extract_features(images, out, trunk=f"hub:{tmp_path / 'scaled'}", quiet=True)
    with pytest.raises(HeadError, match=r"KerasHub's layers do not load from a .keras file"):
        train_heads(out, output=head, export=tmp_path / "model.keras", quiet=True)
    export = tmp_path / "model.onnx"
    train_heads(out, output=head, head="logistic", export=export, quiet=True)
    predictions = predict_images(images / "validation", head, quiet=True)
    place = images / "validation" / "cat" / "0.png"
    pixels = decode(place.read_bytes(), (32, 32), "crop", decoding=TrunkSpec().decoding)
    scores = onnxruntime.InferenceSession(export).run(None, {"pixels": pixels[None]})[0][0]
    assert scores.max() == pytest.approx(predictions[0].score, abs=1e-5)
    (tmp_path / "ViT").rename(tmp_path / "moved")
    with pytest.raises(HeadError, match="ViT is gone; expected the file that made the features"):
        predict_images(images / "validation", head, quiet=True)
    moved = predict_images(images / "validation", head, weights=tmp_path / "moved", quiet=True)
    assert list(moved) == list(predictions)
    with pytest.raises(TrunkError, match="a backbone of KerasHub has no classes"):
        predict_images(images / "validation", trunk=trunk, quiet=True)
    with pytest.raises(
        TrunkError, match=r"fine-tuning: found a backbone of KerasHub, hub:.*ResNet"
    ):
        build_upper_blocks(TrunkSpec(f"hub:{presets / 'ResNet'}"), "stack0_block0_out")
