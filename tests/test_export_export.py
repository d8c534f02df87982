"""Exported models: read by a process that has none of our code, they score as trunk and head do."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.data.dataset import Dataset, load_dataset
from classify.data.preprocessing import Transform
from classify.export import export as export_module
from classify.export import model_formats
from classify.export.export import check_targets, check_trunk, export, export_head, open_trunk
from classify.export.model_formats import build_model, describe
from classify.heads.registry import FittedHead
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.complete_model import read_class_names
from classify.predict_cli import main as predict_images
from classify.search.evaluate import fit_batch, transformed
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, SettingError
from extract.pipeline.run import run_extraction as extract_features
from tests.conftest import QUICK, ROOT, run_on_small_disk
from tests.test_cli import QUICK_FLAGS
from tests.test_finetune import paint, pixels_of

# Reads models as any user of Keras and TensorFlow would.
READER = """
import json, sys
import keras, numpy as np, tensorflow as tf
pixels = np.load("pixels.npy")
found, names, metadata = {}, {}, {}
for path in sys.argv[1:]:
    if path.endswith(".keras"):
        model = keras.models.load_model(path)
        found[path] = model.predict(pixels, verbose=0)
        names[path] = model.get_layer("class_names").beta_initializer.value
        metadata[path] = model.get_layer("class_names").gamma_initializer.value
    else:
        model = tf.saved_model.load(path)
        found[path] = model.serve(pixels).numpy()
        names[path] = json.load(open(path + "/assets.extra/class_names.json", encoding="utf-8"))
        metadata[path] = json.load(open(path + "/assets.extra/metadata.json", encoding="utf-8"))
    assert metadata[path]["class_names"] == names[path]
np.savez("found.npz", **found)
json.dump(names, open("names.json", "w"))
json.dump(metadata, open("metadata.json", "w"))
assert not {"extract", "classify"} & set(sys.modules)
"""
ALL = ("sqrt", "l2", "standardise", "pca=5")
SMALL = {"units": (8,), "epochs": 3, "learning_rate": 0.01}
# Name of the model -> classes, layers, head.
HEADS: dict[str, tuple[int, str, HeadSpec]] = {
    "dense2.keras": (2, "conv1_relu", HeadSpec("dense", **SMALL)),  # type: ignore[arg-type]
    "dense3.keras": (
        *(3, "conv1_relu+conv_dw_1_relu"),
        HeadSpec("dense", batch_normalisation=True, transform=ALL, **SMALL),  # type: ignore[arg-type]
    ),
    "linear2.keras": (2, "conv_dw_1_relu", HeadSpec("linear", epochs=3)),
    "logistic2.keras": (2, "conv1_relu", HeadSpec("logistic")),
    "logistic3.keras": (3, "conv1_relu+conv_dw_1_relu", HeadSpec("logistic", transform=ALL)),
    "ridge2.keras": (2, "conv1_relu", HeadSpec("ridge", alpha=0.01, transform=("l2",))),
    "ridge3.keras": (
        3,
        "conv_dw_1_relu",
        HeadSpec("ridge", alpha=0.01, transform=("sqrt", "pca=3")),
    ),
    "lda3.keras": (3, "conv1_relu", HeadSpec("lda", transform=("pca=8", "standardise"))),
    "served2": (2, "conv1_relu", HeadSpec("dense", **SMALL)),  # type: ignore[arg-type]
    "served.3/": (3, "conv1_relu", HeadSpec("logistic")),
}
NAMES = ("Käse/1", '<b> "x"', "c, d")


def bundle_of(dataset: Dataset, spec: HeadSpec) -> TrainedHead:
    """Train a head on everything."""
    X, y = dataset.X, dataset.y
    transform = Transform(spec.transform or ())
    (fitted,) = fit_batch([spec], transformed(transform, FoldData(X, y, X, y)), transform)
    return TrainedHead(
        name=spec.head,
        head=fitted,
        class_names=dataset.class_names,
        trunk=dataset.trunk,
        weights_sha256=dataset.weights_sha256,
        dtype=dataset.dtype,
        precision=dataset.precision,
        calibration_sha256="",
        layer=dataset.layer,
        shape=X.shape[1:],
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return make_stores(tmp_path_factory)


def make_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Make maps of two layers, of two and of three classes, by the number of classes."""
    made = {}
    settings: dict[str, Any] = {**QUICK, "layer": ("conv1_relu", "conv_dw_1_relu")}
    for classes in (2, 3):
        folder = tmp_path_factory.mktemp(f"of{classes}")
        made[classes] = folder / "maps.h5"
        images = paint(folder / "images", classes, 4)
        extract_features(images, made[classes], pooling="none", **settings)
    return made


def dataset_of(stores: dict[int, Path], classes: int, layer: str) -> Dataset:
    return replace(load_dataset(stores[classes], layer), class_names=NAMES[:classes])


def read(folder: Path, targets: list[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Let a process without our code read models; it sees the pixels in ``pixels.npy``."""
    words = [sys.executable, "-W", "ignore", "-c", READER, *targets]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return dict(found), json.loads((folder / "names.json").read_text())


def test_models_score_as_cached_features_and_head_do(
    stores: dict[int, Path], tmp_path: Path
) -> None:
    wanted = {}
    for target, (classes, layer, spec) in HEADS.items():
        dataset = dataset_of(stores, classes, layer)
        bundle = bundle_of(dataset, spec)
        export(bundle, open_trunk(dataset), f"{tmp_path}/{target}")
        wanted[target] = bundle.head.predict_proba(dataset.X)
        assert np.ptp(wanted[target]) > 0.01  # the head says something
    # The images of both sets are seen by both kinds of models.
    sets = [
        pixels_of(load_dataset(p, "conv1_relu"), p.with_name("images")) for p in stores.values()
    ]
    np.save(tmp_path / "pixels.npy", np.concatenate(sets))
    found, names = read(tmp_path, list(HEADS))
    for target, (classes, _, _) in HEADS.items():
        part = slice(None, len(sets[0])) if classes == 2 else slice(len(sets[0]), None)
        assert found[target].shape == (sum(map(len, sets)), classes)
        np.testing.assert_allclose(found[target][part], wanted[target], atol=1e-4, err_msg=target)
        assert tuple(names[target]) == NAMES[:classes]
    assert {path.name for path in tmp_path.iterdir()} == {
        *(target.strip("/") for target in HEADS),
        *("pixels.npy", "found.npz", "names.json", "metadata.json"),
    }
    for target, metadata in json.loads((tmp_path / "metadata.json").read_text()).items():
        classes, layer, spec = HEADS[target]
        assert metadata == describe(bundle_of(dataset_of(stores, classes, layer), spec))


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["vgg16", "densenet121", "efficientnet_lite0", "convnext_tiny"])
def test_every_kind_of_preprocessing_loads_in_safe_mode(trunk: str, tmp_path: Path) -> None:
    store = tmp_path / "out.h5"
    images = paint(tmp_path / "images", 2, 2)
    extract_features(images, store, trunk=trunk, weights="none", image_size=(64, 64))
    dataset = load_dataset(store)
    bundle = bundle_of(dataset, HeadSpec("logistic"))
    export(bundle, open_trunk(dataset), str(tmp_path / "model.keras"))
    np.save(tmp_path / "pixels.npy", pixels_of(dataset, images))
    found, names = read(tmp_path, ["model.keras"])
    wanted = bundle.head.predict_proba(dataset.X)
    np.testing.assert_allclose(found["model.keras"], wanted, atol=1e-4)
    assert names["model.keras"] == ["class0", "class1"]


def test_the_command_exports_a_finetuned_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, images = tmp_path / "maps.h5", paint(tmp_path / "images", 2, 6)
    settings: dict[str, Any] = {**QUICK, "layer": ("conv_pw_12_relu",), "pooling": "none"}
    extract_features(images, store, **settings)
    words = ["--finetune", "--finetune-epochs", "2", "--units", "8", "--epochs", "2"]
    targets = [str(tmp_path / name) for name in ("model.keras", "served/")]
    exports = [word for target in targets for word in ("--export", target)]
    assert train_head([str(store), *words, *exports]) == 0
    said = capsys.readouterr().err
    assert f"{targets[0]}: from pixels to scores of class0, class1" in said
    np.save(tmp_path / "pixels.npy", pixels_of(load_dataset(store), images))
    assert predict_images([str(images), "--trunk", targets[0], "-q"]) == 0
    rows = csv.DictReader(capsys.readouterr().out.splitlines())
    assert {row["label"] for row in rows} <= {"class0", "class1"}
    found, _ = read(tmp_path, ["model.keras", "served"])
    wanted = load_head(tmp_path / "maps_head").head.predict_proba(load_dataset(store).X)
    for scores in found.values():
        np.testing.assert_allclose(scores, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (["a", "ß"], ("a", "ß")),
        (["a", "\ud800"], ()),  # no text, and could not be printed
        (["a", 1], ()),
        ("ab", ()),
        (None, ()),
    ],
    ids=ascii,
)
def test_names_are_texts_or_none(held: Any, found: tuple[str, ...], tmp_path: Path) -> None:
    layer = {"name": model_formats.NAMES, "beta_initializer": {"config": {"value": held}}}
    with ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": [{"config": layer}]}}))
    assert read_class_names(tmp_path / "model.keras") == found


def test_frozen_it_stays_when_it_is_trained_further(stores: dict[int, Path]) -> None:
    dataset = dataset_of(stores, 2, "conv1_relu")
    model = build_model(bundle_of(dataset, HEADS["logistic2.keras"][2]), open_trunk(dataset))
    pixels = pixels_of(dataset, stores[2].with_name("images"))
    np.testing.assert_allclose(model(pixels, training=True), model(pixels), atol=1e-6)
    assert len(model.trainable_weights) == 2


# What may stand where a model is to be written.

OTHER = "holds something else than a model of train-head; expected one, or none"


def _file(place: Path) -> None:
    place.write_text("mine")


def _folder(place: Path) -> None:
    place.mkdir()


def _foreign(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("mine")


def _foreign_saved_model(place: Path) -> None:
    place.mkdir()
    (place / "saved_model.pb").write_text("mine")


def _saved_model(place: Path) -> None:
    _foreign_saved_model(place)
    (place / "assets.extra").mkdir()
    (place / "assets.extra" / "metadata.json").write_text('{"headstart_version": "0.1.0"}')


def _foreign_model(place: Path) -> None:
    import keras

    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Flatten()(image)).save(place)


def _saved_model_and_more(place: Path) -> None:
    _saved_model(place)
    _foreign(place / "assets")
    (place / "thesis.tex").write_text("mine")


def _empty(place: Path) -> None:
    place.touch()


def _jpeg(place: Path) -> None:
    Image.new("RGB", (8, 8)).save(place, "JPEG")


def _zip(place: Path) -> None:
    with ZipFile(place, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")


def _hdf5(place: Path) -> None:
    shutil.copy(ROOT / "tests/before/two_layers.h5", place)


def _link_to_hdf5(place: Path) -> None:
    _hdf5(place.with_name("out.h5"))
    place.symlink_to("out.h5")


@pytest.mark.parametrize(
    ("target", "there", "message"),
    [
        ("model.h5", None, "found the ending '.h5'"),
        ("model.v2", None, "or / at its end"),
        ("none/model.keras", None, "no folder"),
        ("model.keras", _folder, "not a regular file"),
        ("model", _file, OTHER),
        ("model/", _foreign, OTHER),
        ("model", _foreign_saved_model, OTHER),
        ("model", _saved_model_and_more, OTHER),
        ("model.keras", _foreign_model, OTHER),
        ("out.h5", _hdf5, r"found the ending '\.h5'"),
        *((f"model{ending}", _link_to_hdf5, OTHER) for ending in (".keras", ".onnx", ".tflite")),
        *((f"model{ending}", _jpeg, OTHER) for ending in (".keras", ".onnx", ".tflite")),
        *((f"model{ending}", _file, OTHER) for ending in (".keras", ".onnx", ".tflite")),
        ("model.keras", _zip, OTHER),
        *((f"model{ending}", _empty, "") for ending in (".keras", ".onnx", ".tflite")),
        ("model.keras", None, ""),
        ("model", _folder, ""),
        ("model.v2/", _saved_model, ""),
    ],
)
def test_the_place_is_looked_at_first(
    target: str, there: Callable[[Path], None] | None, message: str, tmp_path: Path
) -> None:
    if there:
        there(tmp_path / target)
    path = f"{tmp_path}/{target}"
    if not message:
        check_targets([path], [HeadSpec("logistic")])
        return
    with pytest.raises((HeadError, SettingError), match=message):
        check_targets([path], [HeadSpec("logistic")])


def test_what_else_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logistic = HeadSpec("logistic")
    path = str(tmp_path / "model.keras")
    with pytest.raises(SettingError, match="twice"):
        check_targets([path, f"{tmp_path}/./model.keras"], [logistic])
    with pytest.raises(SettingError, match=r"Model.keras and .*model.keras, .* on Windows and"):
        check_targets([f"{tmp_path}/Model.keras", path], [logistic])
    for one, other in (("served/", "served/model.keras"), ("a/served", "a")):
        with pytest.raises(SettingError, match="which is replaced as a whole"):
            check_targets([f"{tmp_path}/{name}" for name in (one, other)], [logistic])
    with pytest.raises(SettingError, match="svm, knn cannot be exported; expected dense, linear"):
        check_targets([path], [HeadSpec("svm"), HeadSpec("knn")])
    check_targets([path], [HeadSpec("svm"), logistic])
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    with pytest.raises(HeadError, match=r"headstart\[onnx\]"):
        check_targets([str(tmp_path / "model.onnx")], [logistic])
    monkeypatch.undo()
    monkeypatch.setattr(export_module, "backend_name", lambda: "jax")
    for ending in (".onnx", ".tflite"):
        with pytest.raises(HeadError, match="found Keras on jax; expected TensorFlow"):
            check_targets([f"{tmp_path}/model{ending}"], [logistic])
    check_targets([path], [logistic])


@pytest.mark.parametrize("name", ["model.onnx", "served", ""])
@pytest.mark.parametrize("there", [False, True])
def test_a_model_is_not_written_into_the_folder_of_the_head(
    name: str,
    there: bool,
    stores: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "head"
    words = [str(stores[2]), "--layer", "conv1_relu", "--head", "logistic", "-o", str(folder), "-q"]
    if there:
        assert train_head(words) == 0
    else:
        folder.mkdir()
    before = sorted(folder.iterdir())
    assert train_head([*words, "--export", str(folder / name)]) != 0
    said = capsys.readouterr().err
    assert any(text in said for text in ("replaced as a whole", "twice", "something else")), said
    assert sorted(folder.iterdir()) == before
    if there:
        with pytest.raises((HeadError, SettingError)):
            export_head(folder, folder / name)
        assert sorted(folder.iterdir()) == before


def test_a_folder_that_holds_the_head_is_not_replaced(
    stores: dict[int, Path], tmp_path: Path
) -> None:
    outer = tmp_path / "out"
    outer.mkdir()
    words = ["--layer", "conv1_relu", "--head", "logistic", "-o", str(outer / "head"), "-q"]
    assert train_head([str(stores[2]), *words, "--export", str(outer)]) != 0
    assert not list(outer.iterdir())


def test_a_best_head_that_is_no_layer(
    stores: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.keras"
    words = ["--layer", "conv1_relu", "--head", "knn", "--head", "linear", "--export", str(target)]
    words += ["--epochs", "1", "--learning-rate", "1e-9", "-o", str(tmp_path / "head")]
    assert train_head([str(stores[2]), *words]) == 1
    assert "knn cannot be exported; expected dense, linear" in (said := capsys.readouterr().err)
    assert "train it alone with --head linear" in said
    assert not target.exists()
    assert load_head(tmp_path / "head").class_names == ("class0", "class1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head", "logistic"], "logistic: cannot be trained while the features of conv1_relu"),
        (["--finetune"], "the maps of conv1_relu do not fit into memory"),
    ],
)
def test_heads_without_memory_are_refused_before_the_trunk_is_built(
    words: list[str],
    message: str,
    stores: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("extract.trunks.trunk.build_trunk", None)
    words += ["--layer", "conv1_relu", "--memory", "1e-9", "--export", str(tmp_path / "m.keras")]
    assert train_head([str(stores[2]), *words, "-o", str(tmp_path / "head")]) == 1
    assert message in capsys.readouterr().err


def test_weights_of_another_trunk_are_refused_before_training(stores: dict[int, Path]) -> None:
    dataset = replace(load_dataset(stores[2], "conv1_relu"), weights_sha256="0" * 64)
    with pytest.raises(HeadError, match="expected 000000000000, which made the features"):
        open_trunk(dataset)


def test_features_of_less_than_float32_are_mentioned(
    stores: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    open_trunk(replace(load_dataset(stores[2], "conv1_relu"), dtype="float16"))
    assert "stored as float16, so its scores differ" in caplog.text


@pytest.mark.parametrize("target", ["model.keras", "model"])
@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_former_model(
    target: str,
    interruption: BaseException,
    stores: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = dataset_of(stores, 2, "conv1_relu")
    bundle, trunk = bundle_of(dataset, HEADS["logistic2.keras"][2]), open_trunk(dataset)
    export(bundle, trunk, str(tmp_path / target))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def failing(model: Any, metadata: Any, path: Path) -> None:
        (path.mkdir() if not path.suffix else path.write_text("half"))
        raise interruption

    for ending in (".keras", ""):
        monkeypatch.setitem(model_formats.WRITERS, ending, failing)
    with pytest.raises((HeadError, KeyboardInterrupt)):
        export(bundle, trunk, str(tmp_path / target))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    export(bundle, trunk, str(tmp_path / target))  # and it is replaced when it works


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from classify import export_head
from classify.cli import main as train_head
from extract import cli
from extract.core.errors import HeadError

source, disk = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
store, ballast = source / "out.h5", disk / "ballast"
assert cli.main([str(source), str(store), *sys.argv[3:]]) == 0
train = [str(store), "--head", "logistic", "-q", "--export"]

def fill(leave):
    space = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - leave // 4096 * 4096)))

fill(0)
assert train_head([*train, str(disk / "model/")]) == 1
assert [path.name for path in disk.iterdir()] == ["ballast"]
ballast.unlink()

def content():
    files = [path for path in disk.rglob("*") if path.is_file() and path != ballast]
    return {path: path.read_bytes() for path in files}

for name in ("model.keras", "model.onnx", "model.tflite", "model"):
    export_head(source / "out_head", disk / name)
    before = content()
    for leave in (0, sum(map(len, before.values())) // 2):
        fill(leave)
        try:
            export_head(source / "out_head", disk / name)
            raise AssertionError(leave)
        except HeadError as error:
            print(error, file=sys.stderr)
        assert content() == before
        assert {path.name for path in disk.iterdir()} == {"ballast", name}
        ballast.unlink()
    subprocess.run(["rm", "-r", disk / name], check=True)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_former_model(images: Path, tmp_path: Path) -> None:
    said = run_on_small_disk(FULL_DISK, images, tmp_path / "disk", *QUICK_FLAGS)
    assert said.count("cannot be written: No space left on device\n") == 9


def test_a_fitted_head_is_all_that_counts(stores: dict[int, Path]) -> None:
    """A head's class names and layer come from the bundle, not from the dataset."""
    dataset = dataset_of(stores, 2, "conv_dw_1_relu")
    bundle = bundle_of(dataset, HEADS["logistic2.keras"][2])
    model = build_model(bundle, open_trunk(dataset))
    assert isinstance(bundle.head, FittedHead)
    assert model.get_layer("class_names").beta_initializer.value == list(NAMES[:2])


def test_a_saved_head_is_exported_from_python(stores: dict[int, Path], tmp_path: Path) -> None:
    words = [str(stores[2]), "--layer", "conv1_relu", "-q"]
    for head in ("logistic", "knn"):
        assert train_head([*words, "--head", head, "-o", str(tmp_path / head)]) == 0
    folder = tmp_path / "logistic"
    for _ in range(2):  # an exported model is replaced
        export_head(folder, tmp_path / "model.keras", quiet=True)
        export_head(str(folder), f"{tmp_path}/served.2/")
    for name in ("model.onnx", "model.tflite"):
        for _ in range(2):
            export_head(folder, tmp_path / name, quiet=True)
    dataset = load_dataset(stores[2], "conv1_relu")
    np.save(tmp_path / "pixels.npy", pixels_of(dataset, stores[2].with_name("images")))
    found, _ = read(tmp_path, ["model.keras", "served.2"])
    wanted = load_head(folder).head.predict_proba(dataset.X)
    for scores in found.values():
        np.testing.assert_allclose(scores, wanted, atol=1e-4)
    with pytest.raises(SettingError, match="knn cannot be exported; expected dense, linear"):
        export_head(tmp_path / "knn", tmp_path / "other.keras")
    with pytest.raises(SettingError, match=r"found the ending '\.h5'"):
        export_head(folder, tmp_path / "model.h5")


@pytest.mark.parametrize("name", ["trunk", "weights"])
def test_a_model_never_replaces_what_it_is_made_of(tmp_path: Path, name: str) -> None:
    own = tmp_path / "own.keras"
    own.write_text("the trunk")
    (tmp_path / "link.keras").symlink_to(own)
    spec = TrunkSpec(trunk=str(own)) if name == "trunk" else TrunkSpec(weights=str(own))
    made_by = SimpleNamespace(trunk=spec)
    for target in (own, tmp_path / "link.keras"):
        with pytest.raises(HeadError, match="is read by this command; name another file"):
            check_trunk([str(target)], made_by)  # type: ignore[arg-type]
    check_trunk([str(tmp_path / "new.keras"), str(tmp_path / "folder")], made_by)  # type: ignore[arg-type]
