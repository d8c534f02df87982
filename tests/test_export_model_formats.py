"""ONNX and LiteRT models of every trunk and head, and the program of the documentation."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.data.dataset import load_dataset
from classify.data.preprocessing import Transform
from classify.export import model_formats
from classify.export.export import export, export_head, open_trunk
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.complete_model import read_metadata
from classify.inference.predict import predict_images
from classify.search.evaluate import fit_batch, transformed
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError
from extract.pipeline.run import run_extraction as extract_features
from extract.trunks.backend import load_keras
from extract.trunks.trunk import Trunk, build_trunk
from tests.conftest import QUICK, ROOT
from tests.test_docs import blocks_of
from tests.test_export_export import HEADS, NAMES, bundle_of, dataset_of, make_stores
from tests.test_finetune import paint, pixels_of

FILES = (".onnx", ".tflite")
# The smallest of each family of trunks.
FAMILIES = (
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_lite0"),
    *("efficientnet_v2_b0", "mobilenet", "mobilenet_v2", "mobilenet_v3_small"),
    *("inception_resnet_v2", "inception_v3", "nasnet_mobile"),
    *("resnet50", "resnet50_v2", "vgg16", "xception"),
)
# LiteRT converts large graphs slowly.
_IN_LITERT = ("efficientnet_lite0", "mobilenet_v3_small", "resnet50")
# Batch normalisation of smaller maps, over few values, would magnify rounding errors.
SIDE = 96
PAGE = ROOT / "docs/export.md"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    pytest.importorskip("tf2onnx")
    return make_stores(tmp_path_factory)


class Session:
    """A model file in the plain runtime of its format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".onnx":
            import onnxruntime

            self.model = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            return
        import tensorflow as tf

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it moves to a package of its own
            self.model = tf.lite.Interpreter(str(path))

    def signature(self) -> tuple[Any, ...]:
        """Type and shape of each input, then of each output."""
        if self.path.suffix == ".onnx":
            both = (*self.model.get_inputs(), *self.model.get_outputs())
            types = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
            return tuple((each.name, types[each.type], *each.shape[1:]) for each in both)
        (inputs, outputs) = self.model.get_signature_list()["serving_default"].values()
        both = (*self.model.get_input_details(), *self.model.get_output_details())
        named = zip((*inputs, *outputs), both, strict=True)
        assert all(each["shape_signature"][0] == -1 for each in both)
        return tuple((n, each["dtype"], *each["shape_signature"][1:].tolist()) for n, each in named)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        if self.path.suffix == ".onnx":
            (scores,) = self.model.run(None, {"pixels": pixels})
            return np.asarray(scores)
        (given,), (wanted,) = self.model.get_input_details(), self.model.get_output_details()
        self.model.resize_tensor_input(given["index"], pixels.shape)
        self.model.allocate_tensors()
        self.model.set_tensor(given["index"], pixels)
        self.model.invoke()
        return np.asarray(self.model.get_tensor(wanted["index"]))

    def metadata(self) -> dict[str, Any]:
        if self.path.suffix == ".onnx":
            held = self.model.get_modelmeta().custom_metadata_map
            return {key: json.loads(value) for key, value in held.items()}
        with ZipFile(self.path) as archive:
            metadata: dict[str, Any] = json.loads(archive.read("metadata.json"))
            names = archive.read("labels.txt").decode().splitlines()
        assert names == metadata["class_names"]
        return metadata


def check(path: Path, head: TrainedHead, pixels: np.ndarray, wanted: np.ndarray) -> None:
    """Check that a file takes images and gives the scores, one image or seven at a time."""
    session = Session(path)
    output = "scores" if path.suffix == ".onnx" else "output_0"
    classes = wanted.shape[1]
    signature = (("pixels", np.uint8, *pixels.shape[1:]), (output, np.float32, classes))
    assert session.signature() == signature
    for count in (1, 7):
        found = session.run(pixels[:count])
        np.testing.assert_allclose(found, wanted[:count], atol=1e-4, err_msg=str(path))
    assert session.metadata() == model_formats.describe(head)


# Heads


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=[] if target == "dense3.keras" else pytest.mark.slow)
        for target in HEADS
    ],
)
def test_every_head_in_onnx_and_litert(
    target: str, stores: dict[int, Path], tmp_path: Path
) -> None:
    classes, layer, spec = HEADS[target]
    dataset = dataset_of(stores, classes, layer)
    bundle, trunk = bundle_of(dataset, spec), open_trunk(dataset)
    pixels = pixels_of(dataset, stores[classes].with_name("images"))[:7]
    wanted = bundle.head.predict_proba(dataset.X[:7])
    assert np.ptp(wanted) > 0.01
    for ending in FILES:
        path = tmp_path / f"model{ending}"
        export(bundle, trunk, str(path))
        check(path, bundle, pixels, wanted)
        assert Session(path).metadata()["class_names"] == list(NAMES[:classes])


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_every_pooling_and_step_in_onnx_and_litert(pooling: str, tmp_path: Path) -> None:
    images, store = paint(tmp_path / "images", 3, 4), tmp_path / "out.h5"
    quick: dict[str, Any] = {**QUICK, "layer": ("conv1_relu", "conv_dw_1_relu")}
    extract_features(images, store, pooling=pooling, **quick)
    dataset = load_dataset(store, "conv1_relu+conv_dw_1_relu")
    pixels, trunk = pixels_of(dataset, images)[:7], open_trunk(dataset)
    for step in ("standardise", "sqrt", "l2", "pca=5"):
        bundle = bundle_of(dataset, HeadSpec("logistic", C=10.0, transform=(step,)))
        wanted = bundle.head.predict_proba(dataset.X[:7])
        assert np.ptp(wanted) > 0.01
        for ending in FILES:
            path = tmp_path / f"model{ending}"
            export(bundle, trunk, str(path))
            check(path, bundle, pixels, wanted)


# Trunks


def stir(trunk: Trunk, pixels: np.ndarray) -> None:
    """Give each weight a random value that counts, of a size that keeps activations alive."""
    keras, generator = load_keras(), np.random.default_rng(0)
    for weight in trunk.model.weights:
        shape, name = weight.shape, weight.name
        if "kernel" in name:
            fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
            weight.assign(generator.normal(0, np.sqrt(2 / fan_in), shape))
        elif name in ("gamma", "moving_variance"):
            weight.assign(generator.uniform(0.5, 1.5, shape))
        else:
            weight.assign(generator.normal(0, 0.1, shape))
    steps = trunk.model.operations
    (cut,) = (step for step in steps if isinstance(step, keras.Model))
    prepare = keras.Model(trunk.model.inputs[0], steps[steps.index(cut) - 1].output)
    normalisations = [
        layer for layer in cut.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalisations:
        layer.trainable, layer.momentum = True, 0.0
    cut(prepare(pixels), training=True)
    for layer in normalisations:
        layer.trainable = False


def distinct_pixels(side: int) -> np.ndarray:
    """Make seven images of other colours, whose detail is coarse to fine."""
    generators = map(np.random.default_rng, range(7))
    cells = [
        g.integers(0, 256, (2 << i % 5, 2 << i % 5, 3), np.uint8) for i, g in enumerate(generators)
    ]
    return np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in cells])


def head_of(trunk: Trunk, X: np.ndarray) -> TrainedHead:
    """Train a head that tells the images of ``distinct_pixels`` apart."""
    # Not standardised: that would magnify the rounding of a feature that is nearly always 0.
    spec, y = HeadSpec("logistic", C=1000.0, transform=("l2",)), np.arange(7) % 3
    transform = Transform(spec.transform or ())
    (fitted,) = fit_batch([spec], transformed(transform, FoldData(X, y, X, y)), transform)
    return TrainedHead(
        name=spec.head,
        head=fitted,
        class_names=NAMES,
        trunk=trunk.spec,
        weights_sha256=trunk.weights_sha256,
        dtype="float32",
        precision="float32",
        calibration_sha256="",
        layer=next(iter(trunk.shapes)),
        shape=X.shape[1:],
    )


def check_family(name: str, folder: str) -> None:
    """Check the files of one trunk, which are written to a folder."""
    trunk = build_trunk(TrunkSpec(trunk=name, weights="none", image_size=(SIDE, SIDE)))
    pixels = distinct_pixels(SIDE)
    stir(trunk, pixels)
    X = trunk.model.predict(pixels, verbose=0)
    # Activations have not vanished: features differ between images by a good part of their size.
    assert X.std(axis=0).mean() / np.abs(X).mean() > 0.1
    bundle = head_of(trunk, X)
    wanted = bundle.head.predict_proba(X)
    assert np.ptp(wanted) > 0.5
    for ending in FILES if name in _IN_LITERT else FILES[:1]:
        path = Path(folder) / f"model{ending}"
        export(bundle, trunk, str(path))
        check(path, bundle, pixels, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_trunks_in_onnx_and_some_in_litert(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    # In a process of its own, for TensorFlow keeps the graphs of all trunks in memory.
    program = "import sys; from tests.test_export_model_formats import check_family as check"
    words = [sys.executable, "-c", f"{program}; check(*sys.argv[1:])", name, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_families_are_all_there_are() -> None:
    modules = {TRUNKS[name].module for name in FAMILIES}
    assert modules == {known.module for known in TRUNKS.values()} - {"vgg19"}


# Memory

# Exports 64 MB of weights, and prints by how many times their size the memory of the process grows.
GROWTH = """
import resource, sys
from pathlib import Path
from classify.export import model_formats
from extract.trunks.keras_import import keras
pixels = keras.Input((16, 16, 3), dtype="uint8", name="pixels")
x = keras.layers.Flatten()(keras.ops.cast(pixels, "float32") / 255.0)
x = keras.layers.Dense(20_800, activation="relu")(x)
model = keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(x))
most = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
model_formats.WRITERS[".onnx"](model, {}, Path(sys.argv[1]))
print((most() - before) / (4 * model.count_params()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of memory is another elsewhere")
def test_an_export_holds_few_copies_of_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    words = [sys.executable, "-c", GROWTH, str(tmp_path / "model.onnx")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 20


# Errors


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    keras = load_keras()
    pixels = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Flatten()(keras.ops.erfinv(pixels / 256.0))
    keras.Model(pixels, x).save(tmp_path / "own.keras")
    images, store = paint(tmp_path / "images", 2, 2), tmp_path / "out.h5"
    extract_features(images, store, trunk=str(tmp_path / "own.keras"), engine="keras")
    assert train_head([str(store), "--head", "logistic", "-q"]) == 0
    with pytest.raises(HeadError, match=r"Erfinv.*export to \.keras or a folder"):
        export_head(tmp_path / "out_head", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("ending", FILES)
def test_a_model_that_a_format_cannot_hold_is_refused(
    ending: str, stores: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_formats, "_MOST_BYTES", 1000)
    dataset = dataset_of(stores, 2, "conv1_relu")
    bundle = bundle_of(dataset, HEADS["logistic2.keras"][2])
    with pytest.raises(HeadError, match=f"export to .keras or a folder instead of {ending}"):
        export(bundle, open_trunk(dataset), f"{tmp_path}/model{ending}")
    assert not list(tmp_path.iterdir())


# Serving


def documented_program() -> str:
    """The program of the documentation that serves an ONNX model."""
    return next(block.text for block in blocks_of(PAGE) if block.language == "py")


def serve(folder: Path, paths: list[Path]) -> dict[str, tuple[str, float]]:
    """Run the program in a process that has none of our packages; label and score by path."""
    (folder / "serve.py").write_text(documented_program())
    hidden = ("extract", "classify", "tensorflow", "keras")
    start = f"import runpy, sys; sys.modules |= dict.fromkeys({hidden}); runpy.run_path('serve.py')"
    words = [sys.executable, "-I", "-c", start, *map(str, paths)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {path: (label, float(score)) for path, label, score in rows}


def vary(image: Image.Image, number: int, path: Path) -> None:
    """Write an image in one of fourteen ways, or as it is: 16 of 30 numbers in a row."""
    path, number = path.with_suffix(".jpg"), number % 30
    exif = Image.Exif()
    if number < 7:
        exif[0x0112] = number + 2
        image.save(path, quality=95, exif=exif)
        return
    alpha = Image.linear_gradient("L").resize(image.size)
    ways = {
        7: ("RGBA", ".png"),
        8: ("LA", ".png"),
        9: ("P", ".png"),
        10: ("L", ".jpg"),
        11: ("CMYK", ".jpg"),
        12: ("I;16", ".png"),
        13: ("1", ".png"),
    }
    mode, ending = ways.get(number, ("RGB", ".jpg"))
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        varied = Image.fromarray(grey * 256 + 200)
    elif mode == "P":
        varied = image.quantize(64)
        varied.info["transparency"] = bytes(range(0, 256, 4))
    else:
        varied = image.convert(mode)
        if "A" in mode:
            varied.putalpha(alpha)
    varied.save(path.with_suffix(ending))


def test_the_program_is_short() -> None:
    lines = documented_program().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20


def test_the_table_of_metadata_is_whole(stores: dict[int, Path]) -> None:
    bundle = bundle_of(dataset_of(stores, 2, "conv1_relu"), HEADS["logistic2.keras"][2])
    table = PAGE.read_text().split("## What serving needs to know")[1].split("\n\n1. ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(model_formats.describe(bundle))


@pytest.mark.parametrize(
    ("resize", "interpolation"),
    [
        ("stretch", "bilinear"),
        pytest.param("crop", "bicubic", marks=pytest.mark.slow),
        pytest.param("pad", "nearest", marks=pytest.mark.slow),
    ],
)
def test_the_documented_program_labels_as_predict_images_does(
    resize: str, interpolation: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**QUICK, "resize": resize, "interpolation": interpolation}
    serve_and_compare(ROOT / "data/train", ROOT / "data/validation", tmp_path, settings, 36)


@pytest.mark.slow
def test_the_documented_program_labels_300_photographs(shared: Path, tmp_path: Path) -> None:
    training, serving = tmp_path / "training", tmp_path / "serving"
    folders = [*(shared / "caltech-20").iterdir(), *(shared / "horse-or-human/train").iterdir()]
    for folder in filter(Path.is_dir, folders):
        for place, part in ((training, slice(0, 14)), (serving, slice(14, 28))):
            (place / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[part]:
                shutil.copy(image, place / folder.name)
    weights = str(next((shared / "weights").glob("inception_v3*.h5")))
    settings = {"trunk": "inception_v3", "weights": weights, "image_size": (150, 150)}
    serve_and_compare(training, serving, tmp_path, settings, 300)


def serve_and_compare(
    training: Path, serving: Path, tmp_path: Path, settings: dict[str, Any], count: int
) -> None:
    """Train on a folder, and compare the labels of some images of another with the program's."""
    pytest.importorskip("tf2onnx")
    store, folder, photos = tmp_path / "out.h5", tmp_path / "out_head", tmp_path / "photos"
    extract_features(training, store, **settings, decoding="full")
    words = [str(store), "--head", "logistic", "-q", "--export", f"{tmp_path}/model.keras"]
    assert train_head(words) == 0
    export_head(folder, tmp_path / "model.onnx")
    photos.mkdir()
    sources = sorted(path for path in serving.rglob("*") if path.suffix in (".jpg", ".png"))
    for number, source in enumerate(sources[:count]):
        with Image.open(source) as image:
            vary(image.convert("RGB"), number, photos / f"{number:03}.jpg")
    found = serve(tmp_path, sorted(photos.iterdir()))
    assert len(found) == count
    for model in ({"head": folder}, {"trunk": tmp_path / "model.keras"}):
        wanted = predict_images(photos, **model)  # type: ignore[arg-type]
        assert not wanted.unreadable
        served = [found[str(photos / prediction.key)] for prediction in wanted]
        assert [label for label, _ in served] == [prediction.label for prediction in wanted]
        assert len({label for label, _ in served}) > 1
        difference = [abs(s - (p.score or 0)) for (_, s), p in zip(served, wanted, strict=True)]
        assert max(difference) < 1e-4
    recorded = read_metadata(tmp_path / "model.keras")
    assert recorded == model_formats.describe(load_head(folder))
