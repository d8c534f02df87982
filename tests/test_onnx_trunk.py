"""An ONNX model as trunk: cut anywhere, fed and pooled as its family is, without Keras.

The expected features are those of ONNX's own reference, in Python, on pixels prepared by NumPy.
"""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract.api import list_layers
from extract.cli import main as command
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError, SettingError, StoreError, TrunkError
from extract.engines.openvino_cache import convert
from extract.engines.openvino_engine import OpenVinoEngine
from extract.engines.quantize import Calibration, quantize
from extract.engines.select import open_engine
from extract.onnx.pooling import _count_extra
from extract.onnx.trunk import build_here
from extract.pipeline.run import run_extraction
from extract.store.open import open_store
from tests.conftest import ROOT

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def node(kind: str, inputs: str, output: str, **how: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **how)


def constants(**values: Any) -> list[Any]:
    return [numpy_helper.from_array(np.array(value), name) for name, value in values.items()]


def transformer(registers: int = 1, side: int = 8) -> tuple[list[Any], list[Any], list[str]]:
    """Patches of ``side`` pixels behind a class token (and registers), and two outputs."""
    random = np.random.default_rng(1)
    weights = constants(
        kernel=random.standard_normal((6, 3, side, side)).astype(np.float32) / side,
        scale=random.standard_normal(6).astype(np.float32),
        shape=np.array([0, 6, -1]),
        first=np.array(0),
        one=np.array([1]),
    )
    nodes = [
        node(
            "Conv",
            "pixels kernel",
            "/patches/Conv_output_0",
            name="/patches/Conv",
            strides=[side, side],
        ),
        node("Reshape", "/patches/Conv_output_0 shape", "flat"),
        node("Transpose", "flat", "patches", perm=[0, 2, 1]),
        node("ReduceMean", "patches one", "extra", keepdims=1),
        node("Concat", f"{'extra ' * registers}patches", "all", axis=1),
        node("LayerNormalization", "all scale", "tokens"),
        node("Gather", "tokens first", "token", axis=1),
        node("Tanh", "token", "pooled"),
    ]
    return nodes, weights, ["tokens", "pooled"]


def heads() -> tuple[list[Any], list[Any], list[str]]:
    """Tokens parted as the heads of attention have them."""
    nodes, weights, _ = transformer()
    parted = [
        node("Reshape", "tokens parts", "parted"),
        node("Transpose", "parted", "heads", perm=[0, 2, 1, 3]),
    ]
    return [*nodes, *parted], [*weights, *constants(parts=np.array([0, 7, 2, 3]))], ["heads"]


def network() -> tuple[list[Any], list[Any], list[str]]:
    """A convolution, and a classifier on the means of its maps."""
    random = np.random.default_rng(2)
    weights = constants(
        kernel=random.standard_normal((5, 3, 3, 3)).astype(np.float32) / 3,
        weight=random.standard_normal((5, 4)).astype(np.float32),
    )
    nodes = [
        node("Conv", "pixels kernel", "convolved", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "convolved", "map"),
        node("Transpose", "map", "turned", perm=[0, 2, 3, 1]),
        node("Transpose", "turned", "back", perm=[0, 3, 1, 2]),
        node("GlobalAveragePool", "back", "means"),
        node("Flatten", "means", "vector"),
        node("MatMul", "vector weight", "scores"),
    ]
    return nodes, weights, ["scores"]


def grey() -> tuple[list[Any], list[Any], list[str]]:
    """A network for images with one channel."""
    return [node("Flatten", "pixels", "flat")], [], ["flat"]


def channels_last() -> tuple[list[Any], list[Any], list[str]]:
    """The network for images with their channels last, as exporters of TensorFlow write it."""
    nodes, weights, outputs = network()
    nodes[0].input[0] = "first"
    return [node("Transpose", "pixels", "first", perm=[0, 3, 1, 2]), *nodes], weights, outputs


FIRST, LAST = ("n", 3, 16, 24), ("n", 16, 24, 3)


def save(
    path: Path,
    build: Callable[[], Any] = network,
    shape: tuple[Any, ...] = FIRST,
    kind: int = TensorProto.FLOAT,
) -> Path:
    nodes, weights, outputs = build()
    image = helper.make_tensor_value_info("pixels", kind, shape)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [image], values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def reference(path: Path, images: np.ndarray, layer: str) -> np.ndarray:
    """Run ONNX's own evaluator on prepared images up to a value."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, None))
    (values,) = ReferenceEvaluator(model).run(None, {"pixels": images})
    return np.asarray(values)


def prepared(pixels: np.ndarray, mean: Any = 0.0, std: Any = 1.0) -> np.ndarray:
    """Prepare pixels as torchvision's ToTensor and Normalize do."""
    scaled = (pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def features(path: Path, **settings: Any) -> dict[str, np.ndarray]:
    """Run the engine in batches of 2, the last of which is short."""
    spec = TrunkSpec(str(path), **settings)
    convert(build_here(spec), spec)  # takes a tenth of the time that another process takes
    engine = open_engine(spec)
    batches = ((i, PIXELS[i : i + engine.batch_size]) for i in range(0, 5, engine.batch_size))
    parts = [part for _, part in engine.run(batches)]
    return {layer: np.concatenate([part[layer] for part in parts]) for layer in engine.shapes}


def means(tokens: np.ndarray) -> Any:
    return tokens.mean(axis=1)


@pytest.mark.parametrize(
    ("build", "shape", "layer", "value", "pooling", "expected"),
    [
        (transformer, FIRST, "tokens", "tokens", "cls", lambda x: x[:, 0]),
        (transformer, FIRST, "tokens", "tokens", "avg", lambda x: x[:, 1:].mean(axis=1)),
        (transformer, FIRST, "tokens", "tokens", "", lambda x: x[:, 1:].mean(axis=1)),
        (transformer, FIRST, "tokens", "tokens", "max", lambda x: x[:, 1:].max(axis=1)),
        (transformer, FIRST, "tokens", "tokens", "none", lambda x: x),
        (transformer, FIRST, "patches", "patches", "avg", means),
        (transformer, FIRST, "pooled", "pooled", "", lambda x: x),
        (lambda: transformer(4, 4), FIRST, "tokens", "tokens", "avg", lambda x: means(x[:, 4:])),
        (
            transformer,
            FIRST,
            "patches.Conv",
            "/patches/Conv_output_0",
            "",
            lambda x: x.mean((2, 3)),
        ),
        (network, FIRST, "map", "map", "avg", lambda x: x.mean(axis=(2, 3))),
        (network, FIRST, "map", "map", "max", lambda x: x.max(axis=(2, 3))),
        (network, FIRST, "map", "map", "none", lambda x: x.transpose(0, 2, 3, 1)),
        (network, FIRST, "turned", "turned", "avg", lambda x: x.mean(axis=(1, 2))),
        (network, FIRST, "output", "scores", "", lambda x: x),
        (network, (1, 3, 16, 24), "vector", "vector", "", lambda x: x),
        (network, ("n", 3, "h", "w"), "vector", "vector", "", lambda x: x),
        (channels_last, LAST, "map", "map", "none", lambda x: x.transpose(0, 2, 3, 1)),
        (channels_last, LAST, "turned", "turned", "max", lambda x: x.max(axis=(1, 2))),
    ],
)
def test_features_are_those_of_onnx_own_reference(
    tmp_path: Path,
    build: Callable[[], Any],
    shape: tuple[Any, ...],
    layer: str,
    value: str,
    pooling: str,
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    path = save(tmp_path / "model.onnx", build, shape)
    size = (16, 24) if "h" in shape else (0, 0)
    how = {"pooling": pooling, "preprocess": "imagenet"}
    found = features(path, layer=(layer,), image_size=size, **how)[layer]
    images = prepared(PIXELS, *IMAGENET)
    images = images.transpose(0, 2, 3, 1) if shape == LAST else images
    wanted = [reference(path, image[None], value) for image in images]
    np.testing.assert_allclose(found, expected(np.concatenate(wanted)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({"preprocess": "imagenet"}, prepared(PIXELS, *IMAGENET)),
        ({"preprocess": "clip"}, prepared(PIXELS, *CLIP)),
        ({"preprocess": "siglip"}, prepared(PIXELS, 0.5, 0.5)),
        ({"preprocess": "rescale"}, prepared(PIXELS)),
        ({"preprocess": "none"}, prepared(PIXELS, 0.0, 1 / 255)),
        (
            {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
            prepared(PIXELS, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ),
    ],
)
def test_pixels_are_prepared_as_asked(
    tmp_path: Path, settings: dict[str, Any], images: np.ndarray
) -> None:
    path = save(tmp_path / "model.onnx")
    found = features(path, layer=("vector",), **settings)["vector"]
    np.testing.assert_allclose(found, reference(path, images, "vector"), rtol=1e-4, atol=1e-5)


def test_layers_are_listed_and_the_first_output_is_the_default(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", transformer)
    listed = {layer.name: layer.shape for layer in list_layers(path)}
    assert listed == {
        "patches.Conv_output_0": (None, 6, 2, 3),
        "flat": (None, 6, 6),
        "patches": (None, 6, 6),
        "extra": (None, 1, 6),
        "all": (None, 7, 6),
        "tokens": (None, 7, 6),
        "token": (None, 6),
        "pooled": (None, 6),
    }
    assert build_here(TrunkSpec(str(path), preprocess="clip")).shapes == {"tokens": (6,)}
    with pytest.raises(
        TrunkError, match=r"layer 'pool' is unknown; nearest: pooled; known: .*; see"
    ):
        build_here(TrunkSpec(str(path), preprocess="clip", layer=("pool",)))


def test_scores_of_imagenet_as_features_are_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def build() -> Any:
        nodes, weights, outputs = network()
        weights[1] = numpy_helper.from_array(np.ones((5, 1000), np.float32), "weight")
        return nodes, weights, outputs

    path = str(save(tmp_path / "model.onnx", build))
    open_engine(TrunkSpec(path, layer=("scores",), preprocess="clip"))
    assert not caplog.messages
    open_engine(TrunkSpec(path, preprocess="clip"))
    found = "its output scores gives 1,000 values, perhaps scores of ImageNet's classes"
    assert caplog.messages == [f"{path}: {found}; --list-layers shows the layers below"]


def test_names_that_no_file_can_keep_or_two_outputs_have_are_not_listed(tmp_path: Path) -> None:
    def build() -> Any:
        names = ["a/b", "a.b", "/", "\x1b[2J", "x" * 300, "last"]
        nodes = [node("Relu", "pixels", "first")]
        for before, name in zip(["first", *names], names, strict=False):
            nodes.append(helper.make_node("Tanh", [before], [name]))
        return nodes, [], ["\x1b[2J", "last"]

    path = save(tmp_path / "model.onnx", build)
    assert [layer.name for layer in list_layers(path)] == ["first", "last"]
    assert build_here(TrunkSpec(str(path), preprocess="clip")).spec.layer == ("output",)


@pytest.mark.parametrize(
    ("build", "shape", "settings", "problem"),
    [
        (grey, (1, 1, 16, 24), {}, r"its input is pixels \(1, 1, 16, 24\); expected one image"),
        (network, ("n", 3, "h", 24), {}, "takes images of any size; give --image-size"),
        (network, FIRST, {"image_size": 16}, "takes 24 x 16 pixels, found 16 x 16; leave"),
        (network, FIRST, {"layer": ("map",), "pooling": "cls"}, "a map without a class token; use"),
        (network, FIRST, {"pooling": "avg"}, r"scores gives \(4,\), so pooling avg can have no"),
        (
            transformer,
            FIRST,
            {"layer": ("patches",), "pooling": "cls"},
            "6 tokens, all of them pat",
        ),
        (
            lambda: transformer(40),
            FIRST,
            {},
            r"46 tokens, which are not the patches of this image;",
        ),
        (
            transformer,
            FIRST,
            {"layer": ("flat",)},
            r"gives \(6, 6\), which is no map of this image; use --pooling none",
        ),
        (heads, FIRST, {"pooling": "max"}, r"\(2, 7, 3\), which is no map of this image; use --p"),
        (heads, FIRST, {"pooling": "cls"}, r"\(2, 7, 3\), which is no map of this image; use --p"),
    ],
)
def test_what_has_no_meaning_is_refused(
    tmp_path: Path,
    build: Callable[[], Any],
    shape: tuple[Any, ...],
    settings: dict[str, Any],
    problem: str,
) -> None:
    path = save(tmp_path / "model.onnx", build, shape)
    with pytest.raises(TrunkError, match=problem):
        build_here(TrunkSpec(str(path), preprocess="imagenet", **settings))


@pytest.mark.parametrize(
    ("size", "tokens", "extra"),
    [
        ((224, 224), 50, 1),  # ViT-B/32
        ((224, 224), 49, 0),  # Swin
        ((224, 224), 196, 0),  # SigLIP
        ((224, 224), 198, 2),  # DeiT, with a token of distillation
        ((224, 224), 257, 1),  # ViT-S/14
        ((224, 224), 261, 5),  # and with four registers
        ((518, 518), 1370, 1),  # DINOv2
        ((336, 448), 769, 1),
        ((32, 32), 17, 1),
        ((224, 224), 32, None),  # a Q-Former
        ((160, 160), 32, None),
        ((128, 128), 32, None),
        ((224, 224), 265, None),
        ((224, 224), 77, None),  # words
    ],
)
def test_tokens_before_the_patches_are_told_from_other_tokens(
    size: tuple[int, int], tokens: int, extra: int | None
) -> None:
    assert _count_extra(size, tokens) == extra


def test_what_tokens_are_pooled_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, log.name)
    path = str(save(tmp_path / "model.onnx", transformer))
    open_engine(TrunkSpec(path, layer=("tokens", "patches"), preprocess="clip"))
    found = "layer tokens gives 7 tokens; avg is over 6 patches, without the first 1"
    other = "layer patches gives 6 tokens; avg is over 6 patches"
    assert caplog.messages == ["building model.onnx ...", f"{path}: {found}", f"{path}: {other}"]


@pytest.mark.parametrize(
    ("trunk", "settings", "problem"),
    [
        ("m.onnx", {}, "preprocess: not given for m.onnx: .*; give one of imagenet, clip, siglip,"),
        ("m.onnx", {"preprocess": "auto"}, "preprocess auto: not known for m.onnx; expected"),
        ("m.onnx", {"mean": (0.5, 0.5, 0.5)}, "mean, std: found one of them; expected both"),
        (
            "m.onnx",
            {"mean": (0.5,), "std": (1.0,)},
            r"mean: found \(0.5,\); expected three numbers",
        ),
        ("m.onnx", {"mean": (124, 117, 104), "std": (1, 1, 1)}, "mean: found .* of 0 to 1, as in"),
        ("m.onnx", {"mean": (0, 0, 0), "std": (0, 1, 1)}, "std: found .*; expected three numbers"),
        ("m.onnx", {"mean": "abc", "std": "abc"}, "mean: found abc; expected three numbers of 0"),
        ("m.onnx", {"mean": 0.5, "std": 0.5}, "mean: found 0.5; expected three numbers of 0 to 1"),
        (
            "m.onnx",
            {"mean": (0, 0, 0), "std": (1, 1, 1), "preprocess": "clip"},
            "mean, std: have no effect with --preprocess clip; give --preprocess rescale",
        ),
        ("vgg16", {"pooling": "cls"}, "pooling cls: has no effect on vgg16; use avg, max or none"),
    ],
)
def test_settings_without_effect_are_refused(
    trunk: str, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingError, match=problem):
        TrunkSpec(trunk, **settings)


def mixing() -> tuple[list[Any], list[Any], list[str]]:
    """Batch normalization in training mode: each image is divided by the spread of its batch."""
    nodes, weights, outputs = network()
    weights += constants(ones=np.ones(5, np.float32))
    normal = helper.make_node(
        "BatchNormalization", ["convolved", *["ones"] * 4], ["normal", "m", "v"], training_mode=1
    )
    nodes[1].input[0] = "normal"
    return [nodes[0], normal, *nodes[1:]], weights, outputs


def folded() -> tuple[list[Any], list[Any], list[str]]:
    """A batch of one, written into the shape of tokens that come back from (1, n * T, D)."""
    nodes, weights, outputs = transformer()
    weights += constants(joined=np.array([1, -1, 6]), parted=np.array([-1, 7, 6]))
    joined = [
        node("Reshape", "all joined", "long"),
        node("Softmax", "long", "mixed", axis=1),
        node("Reshape", "mixed parted", "again"),
    ]
    nodes[5].input[0] = "again"
    return [*nodes[:5], *joined, *nodes[5:]], weights, outputs


def lost() -> tuple[list[Any], list[Any], list[str]]:
    """A batch of one in the shape of the features."""
    nodes, weights, _ = network()
    weights += constants(shape=np.array([1, -1]))
    return [*nodes[:5], node("Reshape", "means shape", "vector")], weights, ["vector"]


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (mixing, "layer scores of an image depends on the other images of its batch; expected a"),
        (folded, "layer tokens of an image depends on the other images of its batch; expected a"),
        (lost, r"layer vector gives \(1, any\) for any number of images; export the model"),
    ],
)
def test_images_that_depend_on_their_batch_are_refused(
    tmp_path: Path, build: Callable[[], Any], problem: str
) -> None:
    path = save(tmp_path / "model.onnx", build)
    with pytest.raises(TrunkError, match=problem):
        build_here(TrunkSpec(str(path), preprocess="imagenet"))


def test_pixels_of_8_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    def build() -> Any:
        nodes, weights, outputs = network()
        nodes[0].input[0] = "floats"
        return [node("Cast", "pixels", "floats", to=TensorProto.FLOAT), *nodes], weights, outputs

    path = save(tmp_path / "model.onnx", build, kind=TensorProto.UINT8)
    found = features(path, preprocess="none")["scores"]
    wanted = reference(path, PIXELS.transpose(0, 3, 1, 2), "scores")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    with pytest.raises(TrunkError, match=r"takes 0..255, so --preprocess clip can have no effect"):
        build_here(TrunkSpec(str(path), preprocess="clip"))
    path = save(tmp_path / "model.onnx", build, kind=TensorProto.INT64)
    with pytest.raises(TrunkError, match="its input has the type i64; expected floats, or u8"):
        build_here(TrunkSpec(str(path), preprocess="none"))


def test_a_fixed_batch_decides_the_size_of_batches(tmp_path: Path) -> None:
    spec = TrunkSpec(str(save(tmp_path / "m.onnx", shape=(3, 3, 16, 24))), preprocess="clip")
    assert open_engine(spec, images=1).batch_size == 3
    assert open_engine(spec, batch_size=3).batch_size == 3
    with pytest.raises(
        EngineError, match=r"batch size 2: .*m.onnx takes 3 at a time; leave --batch"
    ):
        open_engine(spec, batch_size=2)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_int8_is_calibrated_on_batches_of_a_fixed_size(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("nncf")
    path = save(tmp_path / "m.onnx", shape=(size, 3, 16, 24))
    plain = convert(build_here(TrunkSpec(str(path), preprocess="clip")))
    trunk = quantize(plain, Calibration(tuple("abcde"), PIXELS))
    engine = OpenVinoEngine(trunk, "float32", None, "float32", 0)
    parts = engine.run((i, PIXELS[i : i + size]) for i in range(0, 5, size))
    found = np.concatenate([part["scores"] for _, part in parts])
    exact = reference(path, np.resize(prepared(PIXELS, *CLIP), (size, 3, 16, 24)), "scores")[:5]
    assert 0 < np.linalg.norm(found[:size] - exact) < 0.1 * np.linalg.norm(exact)
    # NNCF can mute every handler that its logger has, also those that belong to others.
    assert caplog.handler.level == logging.NOTSET


@pytest.mark.skipif(sys.platform == "win32", reason="the cache is elsewhere")
def test_where_nothing_can_be_saved_keras_is_no_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = build_here(TrunkSpec(str(save(tmp_path / "m.onnx")), preprocess="clip"))
    for name in ("HEADSTART_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, trunk.spec.trunk)  # a file
    monkeypatch.setattr(tempfile, "tempdir", trunk.spec.trunk)
    remedy = r"\); make room, or name another folder with HEADSTART_CACHE$"
    with pytest.raises(EngineError, match=f"the converted trunk cannot be saved .*{remedy}"):
        convert(trunk)


def test_a_file_of_features_remembers_the_model(images: Path, tmp_path: Path) -> None:
    path, out = save(tmp_path / "model.onnx"), tmp_path / "out.h5"
    given = {"trunk": path, "layer": ("map",), "mean": (0.5, 0.5, 0.25), "std": (0.25, 0.5, 0.5)}
    assert run_extraction(images, out, **given, dtype="float16").computed == 8
    assert run_extraction(images, out).computed == 0
    with open_store(out) as store:
        assert store.spec.mean == (0.5, 0.5, 0.25)
        assert store.spec.preprocess == "rescale"
        assert "keras" not in " ".join(store.attributes["versions"])
    assert command(["--list-layers", "--trunk", str(path)]) == 0
    moved = path.rename(tmp_path / "moved.onnx")
    assert run_extraction(images, out, trunk=moved).computed == 0
    with pytest.raises(StoreError, match=r"made with --mean 0.5,0.5,0.25, not 0.5,0.5,0.5; drop"):
        run_extraction(images, out, trunk=moved, mean=np.full(3, 0.5))
    save(moved, shape=("n", 3, "h", "w"))
    with pytest.raises(StoreError, match=r"made with weights of SHA-256 [0-9a-f]{12}, not"):
        run_extraction(images, out, trunk=moved)


def test_every_command_works_and_none_of_them_loads_keras(images: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", transformer)
    script = (
        "import sys\n"
        "from classify import predict_images, train_heads\n"
        "from extract import extract_features\n"
        "out, folder = sys.argv[3] + '/out.h5', sys.argv[3] + '/head'\n"
        "given = dict(trunk=sys.argv[1], preprocess='siglip', pooling='cls', views=2)\n"
        "extract_features(sys.argv[2], out, **given)\n"
        "train_heads(out, output=folder, head=['logistic'], folds=2)\n"
        "predict_images(sys.argv[2], folder, output=sys.argv[3] + '/labels.csv')\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    words = [sys.executable, "-c", script, str(path), str(images), str(tmp_path)]
    child = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 9
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["views/tokens"].shape == (4, 2, 6)
        assert not {"mean", "std"} & set(file.attrs)


def test_what_needs_a_trunk_of_keras_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save(tmp_path / "model.onnx"), tmp_path / "out.h5"
    run_extraction(images, out, trunk=path, preprocess="clip", layer="map", pooling="none")
    train = ["--head", "linear", "-o", str(tmp_path / "head")]
    assert train_head([str(out), *train, "--export", str(tmp_path / "m.keras")]) == 1
    found = f"found the trunk {path}; expected a trunk of Keras; use predict-images, or extract"
    assert found in capsys.readouterr().err
    assert not (tmp_path / "head").exists()
    assert command([str(images), str(out), "--engine", "keras"]) == 1
    assert f"engine keras: cannot run {path}; use --engine openvino" in capsys.readouterr().err


def test_a_complete_model_labels_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build() -> Any:
        nodes, weights, _ = network()
        return [*nodes, node("Softmax", "scores", "shares", axis=1)], weights, ["shares"]

    words = [str(images), "--trunk", str(save(tmp_path / "m.onnx", build))]
    assert predict_images([*words, "--mean", "0,0,0", "--std", "1,1,1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert {line.split(",")[1] for line in lines[1:]} <= {"0", "1", "2", "3"}
    assert predict_images(words) == 2
    assert "give one of imagenet, clip, siglip" in capsys.readouterr().err


@pytest.mark.slow
def test_low_precision_and_a_cluster_run_the_model(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    pytest.importorskip("ray")
    given = {"trunk": save(tmp_path / "m.onnx"), "layer": ("map",), "preprocess": "imagenet"}
    ways = [{}, {"precision": "bfloat16"}, {"precision": "int8"}]
    for number, way in enumerate(ways):
        error = run_extraction(images, tmp_path / f"{number}.h5", **given, **way).error
        assert (error is None) == (not way)
    # Ray warns of its own settings.
    script = "import sys; from extract.cli import main; sys.exit(main())"
    flags = ["--trunk", given["trunk"], "--layer", "map", "--preprocess", "imagenet"]
    words = [sys.executable, "-c", script, images, tmp_path / "3.h5", *flags, "--cluster", "local"]
    subprocess.run(list(map(str, words)), cwd=ROOT, check=True)
    found = []
    for number in range(4):
        with open_store(tmp_path / f"{number}.h5") as store:
            found.append(store.read("map", slice(None)))
    sizes = [np.linalg.norm(other - found[0]) / np.linalg.norm(found[0]) for other in found]
    assert 0 < sizes[1] < 0.02
    assert 0 < sizes[2] < 0.2
    assert sizes[3] < 1e-5
    train_head([str(tmp_path / "2.h5"), "--head", "logistic", "-o", str(tmp_path / "head")])
    assert predict_images([str(tmp_path / "head"), str(images)]) == 0
