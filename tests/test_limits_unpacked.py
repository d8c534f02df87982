"""Small heads, models and arrays that would fill the memory."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify.data.preprocessing import Transform
from classify.heads.linear_head import LinearHead
from classify.heads.registry import FittedHead
from classify.heads.sklearn_head import SklearnHead
from classify.inference.bundle import load_head
from classify.settings.head_spec import HeadSpec
from classify.solvers.linear_solvers import LinearModel
from classify.stored.views import FoldData
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError
from extract.limits.unpacked import parse_json
from tests.conftest import ROOT

LARGE = 2**29  # bytes; more than a small file may become
LOAD = """
import sys
from pathlib import Path
from classify.inference.bundle import load_head
from classify.inference.head_folder import describe_head
from extract.core.errors import HeadError
for folder in map(Path, sys.argv[1:]):
    try:
        load_head(folder)
    except HeadError as error:
        print(str(error))
    describe_head(folder)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
Change = Callable[[Path], None]


def save_head(folder: Path, name: str) -> Path:
    """Save a head of two classes and rows of 12 features, with its bundle."""
    generator = np.random.default_rng(0)
    X, y = generator.random((20, 12)).astype("f4"), np.arange(20) % 2
    folder.mkdir()
    transform = Transform(HeadSpec(name).transform or ())
    rows = FoldData(transform.fit_apply(X), y, X[:0], y[:0])
    head = SklearnHead(HeadSpec(name)) if name in ("knn", "forest") else LinearHead(HeadSpec(name))
    FittedHead(transform, head.fit(rows)).save(folder)
    trunk = TrunkSpec("mobilenet", weights="none", pooling="none", image_size=(32, 32))
    fields = {"weights_sha256": "ab", "dtype": "float32", "precision": "float32"}
    described = {
        **{"format": "headstart head", "format_version": 1, "settings": {"head": name}},
        **{"class_names": ["a", "b"], "trunk": trunk.to_dict(), **fields},
        **{"calibration_sha256": "", "layer": trunk.layer[0], "shape": [12]},
    }
    (folder / "bundle.json").write_text(json.dumps(described))
    assert load_head(folder).class_names == ("a", "b")
    return folder


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the members of a zip, and compress them."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def add_zeros(path: Path, member: str, size: int = LARGE) -> None:
    """Add an array of zeros to a zip, a thousandth of its size."""
    piece = bytes(2**20)
    head = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(size // len(piece)):
            file.write(piece)


def without(path: Path, member: str) -> Path:
    def change(parts: dict[str, bytes]) -> None:
        del parts[member]

    rewrite(path, change)
    return path


def bomb(name: str, member: str) -> Change:
    return lambda folder: add_zeros(without(folder / name, member), member)


def many_steps(folder: Path) -> None:
    np.savez(folder / "transform.npz", steps=np.zeros(1, "U0"))
    shape = b"(1,), }".ljust(20)

    def change(parts: dict[str, bytes]) -> None:
        whole = parts["steps.npy"]
        assert shape in whole
        parts["steps.npy"] = whole.replace(b"<U1", b"<U0").replace(
            shape, b"(30000000,), }".ljust(20)
        )[:128]

    rewrite(folder / "transform.npz", change)


def set_field(name: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "bundle.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return change


def sparse(folder: Path) -> None:
    for name in ("bundle.json", "result.json"):
        with (folder / name).open("w") as file:
            file.truncate(3 * LARGE)


def many_values(folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_bytes(path.read_bytes()[:-1] + b', "versions": [' + b"[]," * 20_000_000 + b"0]}")


def one_array_often(folder: Path) -> None:
    """Name an array of 96 MB 20 times."""
    path = folder / "head.skops"
    add_zeros(path, "0.npy", 96 * 2**20)

    def change(parts: dict[str, bytes]) -> None:
        schema = json.loads(parts["schema.json"])
        array = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode"}
        for i in range(20):
            node = {**array, "type": "numpy", "file": "0.npy", "__id__": i}
            schema["content"][f"more{i}"] = node
        parts["schema.json"] = json.dumps(schema).encode()

    rewrite(path, change)


def in_schema(old: str, new: str) -> Change:
    def change(parts: dict[str, bytes]) -> None:
        assert old.encode() in parts["schema.json"]
        parts["schema.json"] = parts["schema.json"].replace(old.encode(), new.encode())

    return lambda folder: rewrite(folder / "head.skops", change)


def many_outputs(folder: Path) -> None:
    def change(parts: dict[str, bytes]) -> None:
        schema = json.loads(parts["schema.json"])
        trees = schema["content"]["estimator"]["content"]["content"]["estimators_"]["content"]
        tree = trees[0]["content"]["content"]["tree_"]
        tree["__reduce__"]["args"]["content"][2]["content"] = "1000000000"
        parts["schema.json"] = json.dumps(schema).encode()

    rewrite(folder / "head.skops", change)


HEADS: dict[str, tuple[str, Change, str]] = {
    "head.npz": ("logistic", bomb("head.npz", "coef.npy"), "found 536,8"),
    "transform.npz": ("ridge", bomb("transform.npz", "0.mean.npy"), "found 536,8"),
    "empty steps": ("lda", many_steps, "found steps of 30,000,000 empty texts"),
    "shape": ("knn", set_field("shape", [3 * 10**8]), "does not take"),
    "sparse": (
        "ridge",
        sparse,
        "bundle.json: found 1,610,612,736 bytes of JSON; at most 268,435,456 are read",
    ),
    "values": ("ridge", many_values, "found 40,000,0"),
    "skops": ("knn", bomb("head.skops", "schema.json"), "found 536,8"),
    "one array": ("knn", one_array_often, "bytes in a file of"),
    "sparse matrix": ("knn", in_schema("NdArrayNode", "SparseMatrixNode"), "found a sparse matrix"),
    "outputs": ("forest", many_outputs, "found a tree of several outputs"),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak of memory")
def test_a_small_head_takes_little_memory(tmp_path: Path) -> None:
    for case, (name, change, _) in HEADS.items():
        change(save_head(tmp_path / case, name))
    command = [sys.executable, "-c", LOAD, *(str(tmp_path / case) for case in HEADS)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    *errors, peak = child.stdout.splitlines()
    assert child.returncode == 0, child.stderr
    for error, (case, (_, _, problem)) in zip(errors, HEADS.items(), strict=True):
        assert case in error
        assert problem in error, error
    assert int(peak) < 450 * 2**10


@pytest.mark.parametrize("size", [2, 5_000_000])
def test_an_intercept_of_another_length_is_refused(size: int, tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", "logistic")
    model = LinearModel(np.zeros((1, 12), "f4"), np.zeros(size, "f4"))
    LinearHead(HeadSpec("logistic"), model).save(folder)
    with pytest.raises(HeadError, match="does not take"):
        load_head(folder)


@pytest.mark.parametrize("shape", [(20, 12), (1,), (1, 12)])
def test_a_transform_of_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", "logistic")
    arrays: dict[str, Any] = {"steps": np.array(["standardise"]), "0.scale": np.ones(12, "f4")}
    np.savez(folder / "transform.npz", **arrays | {"0.mean": np.zeros(shape, "f4")})
    with pytest.raises(HeadError, match="does not take"):
        load_head(folder)


def test_json_has_a_bound() -> None:
    assert parse_json(b'{"a": [1, {}]}') == {"a": [1, {}]}
    for text in (b"[" * 10**5, b"[" + b"0," * 10**7 + b"0]", b'"' + b" " * 2**28 + b'"'):
        with pytest.raises(
            ValueError, match=r"nested too deeply|10,000,00\d commas|268,435,45\d bytes of JSON"
        ):
            parse_json(text)


LOAD_MODELS = """
import sys
from pathlib import Path
from classify.inference.bundle import load_head
from classify.inference.complete_model import read_metadata
from extract.core.config import TrunkSpec
from extract.core.errors import HeadstartError
from extract.trunks.trunk import build_trunk
for path in map(Path, sys.argv[1:]):
    try:
        if path.is_dir():
            load_head(path)
        elif path.suffix == ".keras":
            read_metadata(path)
            build_trunk(TrunkSpec(str(path)))
        else:
            build_trunk(TrunkSpec("mobilenet", weights=str(path), image_size=(32, 32)))
        print("read")
    except HeadstartError as error:
        print(str(error))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def save_model(path: Path, units: int = 8) -> Path:
    import keras

    layers = keras.layers
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(units),
            layers.Dense(2),
        ]
    ).save(path)
    return path


def widen(path: Path, units: int) -> Path:
    """Declare a wide layer, which the file has no weights of."""

    def change(parts: dict[str, bytes]) -> None:
        config = json.loads(parts["config.json"])
        layer = config["config"]["layers"][-2]
        assert layer["class_name"] == "Dense"
        layer["config"]["units"] = units
        config["config"]["layers"][-1].pop("build_config")
        parts["config.json"] = json.dumps(config).encode()

    rewrite(path, change)
    return path


def dense_head(folder: Path, repeats: bool = False) -> Path:
    import keras

    save_head(folder, "logistic")
    (folder / "head.npz").unlink()
    bundle = folder / "bundle.json"
    bundle.write_text(bundle.read_text().replace('"head": "logistic"', '"head": "dense"'))
    layers = keras.layers
    inner = [layers.RepeatVector(10**5), layers.GlobalMaxPooling1D()] if repeats else []
    hidden = [layers.Dense(12), *inner, layers.Dense(4), layers.Dense(1, activation="sigmoid")]
    keras.Sequential([keras.Input((12,)), *hidden]).save(folder / "head.keras")
    return folder


def sparse_weights(parts: dict[str, bytes]) -> None:
    """Put an array that has no bytes in the place of the first."""
    file = BytesIO(parts["model.weights.h5"])
    with h5py.File(file, "r+") as opened:
        names = []
        opened.visititems(
            lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None
        )
        del opened[names[0]]
        opened.create_dataset(names[0], (LARGE_VALUES,), "f4", chunks=(2**20,), fillvalue=1)
    parts["model.weights.h5"] = file.getvalue()


LARGE_VALUES = 2**28  # 1 GB
PROBLEMS = [
    "found 960,0",
    "found 1,07",
    "found 53",
    "found 1,200,000 values of a row in the layer repeat_vector",
    "found 288,0",
    "found 1,07",
    "found 53",
    "found 1,07",
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak of memory")
def test_a_small_model_takes_little_memory(tmp_path: Path) -> None:
    sound = [dense_head(tmp_path / "head"), save_model(tmp_path / "sound.keras")]
    heads = [dense_head(tmp_path / name) for name in ("units", "arrays", "zeros")]
    widen(heads[0] / "head.keras", 2 * 10**7)
    rewrite(heads[1] / "head.keras", sparse_weights)
    add_zeros(without(heads[2] / "head.keras", "config.json"), "config.json")
    heads.append(dense_head(tmp_path / "layers", True))
    trunks = [save_model(tmp_path / f"{name}.keras") for name in ("units", "arrays", "zeros")]
    widen(trunks[0], 2 * 10**4)
    rewrite(trunks[1], sparse_weights)
    add_zeros(without(trunks[2], "config.json"), "config.json")
    weights = tmp_path / "a.weights.h5"
    with h5py.File(weights, "w") as file:
        file.create_dataset(
            "layers/conv2d/vars/0", (LARGE_VALUES,), "f4", chunks=(2**20,), fillvalue=1
        )
    paths = [*sound, *heads, *trunks, weights]
    command = [sys.executable, "-c", LOAD_MODELS, *map(str, paths)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    *said, peak = child.stdout.splitlines()
    problems = ["read", "read", *PROBLEMS]
    for path, line, problem in zip(paths, said, problems, strict=True):
        assert problem == line if problem == "read" else f"{path}: " in line, line
        assert problem in line, line
    assert int(peak) < 1300 * 2**10
