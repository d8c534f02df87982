"""The file: made whole, written by row number, counted by status, opened with a clear error."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.core.config import TrunkSpec
from extract.core.errors import StoreError
from extract.core.row_block import Failure, RowBlock
from extract.core.views import ViewSpec
from extract.store.describe import describe, format_description
from extract.store.format import Layout, create_store, wrap_write_errors
from extract.store.open import open_store, read_features
from extract.store.validate import is_in_use
from extract.store.verify import verify
from tests.conftest import QUICK, WINDOWS, MakeStore, items_of

SPEC = TrunkSpec(**QUICK)  # type: ignore[arg-type]
ATTRIBUTES = {
    **SPEC.to_dict(),
    "class_names": ("cat", "dog"),
    "dtype": "float32",
    "precision": "float32",
    "weights_sha256": "0" * 64,
}


def make_empty(path: Path, count: int, width: int = 3) -> Path:
    items = items_of([f"{i:04d}.png" for i in range(count)], [0] * count, [0] * count)
    create_store(path, Layout(items, {"conv1_relu": (width,)}, ATTRIBUTES))
    return path


def block_of(rows: list[int], width: int = 3, failed: tuple[int, ...] = ()) -> RowBlock:
    numbers = np.array(rows, np.int64)
    return RowBlock(
        numbers,
        {"conv1_relu": np.repeat(numbers[:, None], width, axis=1).astype("f4")},
        np.repeat(numbers[:, None] % 256, 16, axis=1).astype("u1"),
        [Failure(row, "is empty", b"\1" * 16) for row in failed],
    )


def test_a_reader_needs_only_h5py(make_store: MakeStore) -> None:
    X = np.arange(12, dtype="f4").reshape(4, 3)
    path = make_store(X, [0, 1, 0, -1], split=[0, 0, 1, 2], groups=["a", "a", "b", ""])
    with h5py.File(path) as file:
        assert np.array_equal(file["features"][:], X)
        assert file["labels"][:].tolist() == [0, 1, 0, -1]
        assert file["split"][:].tolist() == [0, 0, 1, 2]
        assert h5py.check_enum_dtype(file["split"].dtype) == {
            "train": 0,
            "validation": 1,
            "test": 2,
        }
        assert file["keys"].asstr()[0] == "000000.png"
        assert list(file["groups"].asstr()[:]) == ["a", "a", "b", ""]
        assert list(file.attrs["class_names"]) == ["cat", "dog"]
        assert file.attrs["complete"] == 1
        assert list(file.attrs["image_size"]) == [32, 32]
        assert file["features"].chunks[1] == 3
    with open_store(path) as store:
        assert store.groups == ["a", "a", "b", ""]


def test_several_layers_are_a_group(make_store: MakeStore) -> None:
    layers = {"conv1_relu": np.ones((2, 2, 2, 3), "f2"), "conv_pw_1_relu": np.zeros((2, 5), "f2")}
    path = make_store(layers, [0, 1])
    with h5py.File(path) as file:
        assert file["features/conv1_relu"].shape == (2, 2, 2, 3)
        assert file["features/conv_pw_1_relu"].dtype == np.float16
    with open_store(path) as store:
        assert store.shapes == {"conv1_relu": (2, 2, 3), "conv_pw_1_relu": (5,)}
        assert verify(store) == []


@given(order=st.permutations(range(12)), cuts=st.lists(st.integers(1, 11), max_size=4))
@settings(max_examples=25, deadline=None)
def test_rows_may_be_written_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int]
) -> None:
    path = make_empty(tmp_path_factory.mktemp("s") / "o.h5", 12)
    for part in np.split(np.array(order), sorted(set(cuts))):
        with open_store(path, write=True) as store:
            store.write(block_of(part.tolist()))
    with open_store(path) as store:
        assert store.complete
        assert verify(store) == []
        expected = np.repeat(np.arange(12)[:, None], 3, axis=1)
        assert np.array_equal(store.read("conv1_relu", slice(None)), expected)
        assert np.array_equal(store.read("conv1_relu", np.array([1, 2, 7])), expected[[1, 2, 7]])
        assert np.array_equal(store.digests()[:, 0], np.arange(12))


def test_a_failed_row_is_nan_with_its_reason(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 3)
    with open_store(path, write=True) as store:
        store.write(block_of([0, 2], failed=(1,)))
    with open_store(path) as store:
        assert store.status.tolist() == [1, 2, 1]
        assert np.isnan(store.read("conv1_relu", slice(1, 2))).all()
        assert store.failures() == [Failure(1, "is empty", b"\1" * 16)]
        assert describe(store)["failed"] == {"0001.png": "is empty"}
        assert "0001.png: is empty" in format_description(describe(store))


def test_a_long_reason_is_cut_at_a_character(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 1)
    with open_store(path, write=True) as store:
        store.write(block_of([])._replace(failed=[Failure(0, "a" + "é" * 100, bytes(16))]))
    with open_store(path) as store:
        assert store.failures()[0].reason == "a" + "é" * 59
    with h5py.File(path, "r+") as file:
        file["reason"][0] = b"caf\xe9"
    with open_store(path) as store:
        assert store.failures()[0].reason == "caf\ufffd"


def test_uncommitted_rows_do_not_count(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 4)
    child = multiprocessing.get_context("spawn").Process(target=write_and_hang, args=(str(path),))
    child.start()
    while not path.with_suffix(".ready").exists():
        assert child.is_alive()
        time.sleep(0.01)
    child.kill()
    child.join()
    with open_store(path, write=True) as store:
        assert store.status.tolist() == [1, 1, 0, 0]
        assert store.read("conv1_relu", slice(0, 2))[:, 0].tolist() == [0, 1]


def write_and_hang(path: str) -> None:
    with open_store(path, write=True) as store:
        store.write(block_of([0, 1]))
        store.commit()
        store.write(block_of([2]))
        Path(path).with_suffix(".ready").touch()
        signal.pause()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 1)
    code = (
        "import sys; from extract.store.open import open_store\n"
        "try:\n with open_store(sys.argv[1], write=True): pass\n"
        "except OSError as error: print(type(error).__name__, error)"
    )
    with open_store(path, write=True):
        answer = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        )
    assert answer.stdout.startswith("StoreError")
    assert "another process has it open" in answer.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="imitates Windows")
def test_a_second_writer_is_refused_where_hdf5_does_not_lock(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 1)
    code = f"{WINDOWS}\nfrom extract.store.open import open_store\n"
    first = f"{code}with open_store(sys.argv[1], write=True): print('open', flush=True), input()"
    second = f"{code}with open_store(sys.argv[1], write=True): print('written')"
    # What HDF5 does on Windows.
    options: dict[str, Any] = {"env": {**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"}}
    options |= {"text": True, "stdout": subprocess.PIPE}
    words = [sys.executable, "-c", first, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, **options) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        again = [sys.executable, "-c", second, str(path)]
        refused = subprocess.run(again, stderr=subprocess.PIPE, check=False, **options)
        assert "StoreError" in refused.stderr
        assert "another extract-features is writing to it" in refused.stderr
        child.communicate("\n")
    assert child.returncode == 0
    assert subprocess.run(again, check=True, **options).stdout == "written\n"
    assert list(tmp_path.iterdir()) == [path]


def test_whether_another_process_writes_can_be_asked(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 1)
    code = "import sys; from extract.store.validate import is_in_use; from pathlib import Path\n"
    words = [sys.executable, "-c", f"{code}print(is_in_use(Path(sys.argv[1])))", str(path)]
    for write in (True, False):
        with open_store(path, write=write):
            child = subprocess.run(words, capture_output=True, text=True, check=True)
        assert child.stdout == f"{write}\n"
    assert not is_in_use(path)
    path.write_text("not HDF5")
    assert not is_in_use(path)
    assert not is_in_use(tmp_path / "none.h5")


def test_a_name_that_was_just_taken_is_not_replaced(tmp_path: Path) -> None:
    path = make_empty(tmp_path / "o.h5", 1)
    with pytest.raises(StoreError, match="another run has just made it"):
        make_empty(path, 2)
    with open_store(path) as store:
        assert len(store.keys) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.h5"]


def test_no_room_is_said_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"found .* of free disk space; expected .* GB"):
        make_empty(tmp_path / "o.h5", 1000, width=10**11)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_others_fill_meanwhile_is_named(tmp_path: Path) -> None:
    said = "Disable slist on flush dest failure failed (error message = 'No space left on device')"
    with pytest.raises(StoreError, match="the disk is full"), wrap_write_errors(tmp_path):
        raise RuntimeError(said)  # h5py, when a file is closed
    with pytest.raises(RuntimeError, match="ours"), wrap_write_errors(tmp_path):
        raise RuntimeError("ours")


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_text(path: Path) -> None:
    path.write_text("not HDF5")


def damage_superblock(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8)  # behind HDF5's signature
        file.write(b"\xff" * 8)


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = 1


def damage_newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 4


def damage_missing(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["digest"]


def damage_views(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["views"] = 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "truncated; expected a file"),
        (damage_text, "not an HDF5 file; expected a file of extract-features; name another"),
        (damage_superblock, "not a readable HDF5 file; .* remove it and run"),
        (damage_foreign, "of another program"),
        (damage_newer, "format 4; expected 3 or lower; upgrade"),
        (damage_missing, "lacks digest"),
        (damage_views, "lacks views/row, views/conv1_relu"),
        (Path.unlink, "no such file"),
        (damage_folder, "a folder; expected a file .* such as out.h5"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(
    make_store: MakeStore, damage: object, message: str
) -> None:
    path = make_store(np.ones((2, 3), "f4"), [0, 1])
    damage(path)  # type: ignore[operator]
    with pytest.raises(StoreError, match=message) as caught, open_store(path):
        pass
    assert str(caught.value).startswith(f"{path}: ")


def test_rows_count_after_a_second_and_are_checked_as_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o.h5"
    items = items_of(["a.png", "b.png"], [0, 0], [0, 0])
    create_store(path, Layout(items, {"conv1_relu": (3,)}, {**ATTRIBUTES, "dtype": "float16"}))
    third = np.full((1, 3), 1 / 3, "f4")  # is another number in float16
    with open_store(path, write=True) as store:
        monkeypatch.setattr("extract.store.single_file.COMMIT_SECONDS", 3600)
        store.write(block_of([0])._replace(features={"conv1_relu": third}))
        assert store.status.tolist() == [0, 0]
        monkeypatch.setattr("extract.store.single_file.COMMIT_SECONDS", 0)
        store.write(block_of([1]))
        assert store.status.tolist() == [1, 1]
    with open_store(path) as store:
        assert store.find_changed(np.array([0, 1])).tolist() == []


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("features", 1, np.inf, "1 finished rows are not finite"),
        ("features", 0, 0.0, "1 failed rows are not NaN"),
        ("status", 1, 0, "1 of 3 rows are still to do"),
        ("reason", 0, b"", "row 0 .* failed without a reason"),
    ],
)
def test_verify_finds(
    make_store: MakeStore, name: str, row: int, value: object, message: str
) -> None:
    path = make_store(np.ones((3, 3), "f4"), [0, 1, 1], failed=[0])
    with open_store(path) as store:
        assert verify(store) == []
    with h5py.File(path, "r+") as file:
        file[name][row] = value
    with open_store(path) as store:
        problems = verify(store)
    assert len(problems) == 1
    assert re.search(message, problems[0])


VIEWS = np.arange(18, dtype="f4").reshape(3, 2, 3)


def test_views_are_kept_of_training_rows_alone(make_store: MakeStore) -> None:
    X = np.ones((6, 3), "f4")
    path = make_store(X, [0, 1] * 3, split=[0, 1, 0, 2, 0, 0], failed=[2], views=VIEWS)
    with h5py.File(path) as file:
        assert file["views/row"][:].tolist() == [0, 2, 4, 5]
        assert np.array_equal(file["views/conv1_relu"][0], VIEWS[0])
        assert np.isnan(file["views/conv1_relu"][1]).all()
    with open_store(path) as store:
        assert verify(store) == []
        assert store.view_spec.views == 2
        assert store.view_rows.tolist() == [0, 2, 4, 5]
        found = store.read_views("conv1_relu", np.array([0, 5]))
        assert np.array_equal(found, VIEWS[[0, 2]])
        assert np.array_equal(store.read("conv1_relu", np.array([0, 1])), X[:2])
        text = format_description(describe(store))
    assert "views      2 of each of 4 training images: seed 0, rotation 40.0" in text
    with h5py.File(path, "r+") as file:
        file["split"][1] = 0
    with pytest.raises(StoreError, match="views are not those of the training"), open_store(path):
        pass
    with open_store(make_store(X[:2], [0, 1], views=VIEWS[:2, :1], name="one.h5")) as store:
        assert store.view_rows.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_changed_rows_are_found_in_each_layer_and_in_views(
    make_store: MakeStore, dtype: str
) -> None:
    layers = {name: np.ones((6, 3), dtype) for name in ("conv1_relu", "conv_pw_1_relu")}
    split = [0, 1, 0, 2, 0, 0]
    path = make_store(layers, [0, 1] * 3, split=split, failed=[3], views=np.ones((4, 2, 3), dtype))
    rows = np.array([0, 1, 2, 4, 5])
    with open_store(path) as store:
        assert store.find_changed(rows).tolist() == []
        assert store.find_changed(rows[:0]).tolist() == []
        assert store.find_changed(rows[:0]).dtype == np.int64
        assert store.read("conv1_relu", rows).dtype == dtype
        assert (len(store.view_rows), store.view_spec.views) == (4, 2)
    with h5py.File(path, "r+") as file:
        # What a file of another day holds: CRC-32 of a row's layers and, of a training row, views.
        parts = [np.ones(count, dtype).tobytes() for count in (3, 3, 6, 6)]
        assert file["checksum"][0] == zlib.crc32(b"".join(parts))
        assert file["checksum"][1] == zlib.crc32(b"".join(parts[:2]))
        file["features/conv1_relu"][0, 1] = 1.5
        file["features/conv_pw_1_relu"][1, 0] = 1.5
        file["views/conv_pw_1_relu"][2, 1, 0] = 1.5  # the third training row, 4
    with open_store(path) as store:
        assert store.find_changed(rows).tolist() == [0, 1, 4]
        assert store.find_changed(rows[1:3]).tolist() == [1]
        assert store.find_changed(rows).dtype == np.int64
    with h5py.File(path, "r+") as file:
        del file["checksum"]  # as in files of earlier builds
    with open_store(path) as store:
        assert store.find_changed(rows).tolist() == []


def test_rows_that_are_forgotten_are_to_do_again(make_store: MakeStore) -> None:
    path = make_store(np.ones((4, 3), "f4"), [0, 1, 0, 1])
    with open_store(path, write=True) as store:
        store.forget(np.array([1, 3]))
    with open_store(path) as store:
        assert store.status.tolist() == [1, 0, 1, 0]
        assert not store.complete
        assert not store.attributes["complete"]


def test_ranges_are_read_from_each_layer(make_store: MakeStore) -> None:
    X = np.arange(12, dtype="f4").reshape(4, 3)
    path = make_store({"conv1_relu": X, "conv_pw_1_relu": -X}, [0, 1, 0, 1])
    ranges = (slice(2, 4), slice(0, 1))
    with open_store(path):  # two readers do not mind each other
        found = list(read_features(path, ["conv_pw_1_relu", "conv1_relu"], ranges))
    for parts, rows in zip(found, ranges, strict=True):
        assert [part.tolist() for part in parts] == [(-X)[rows].tolist(), X[rows].tolist()]


@given(order=st.permutations(range(8)), cuts=st.lists(st.integers(1, 7), max_size=4))
@settings(max_examples=25, deadline=None)
def test_rows_with_views_may_be_written_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int]
) -> None:
    path, trained = tmp_path_factory.mktemp("s") / "o.h5", [0, 2, 3, 6]
    split = [int(row not in trained) for row in range(8)]
    items = items_of([f"{i}.png" for i in range(8)], [0] * 8, split)
    views = asdict(ViewSpec(2))
    create_store(path, Layout(items, {"conv1_relu": (3,)}, {**ATTRIBUTES, **views}))
    for part in np.split(np.array(order), sorted(set(cuts))):
        own = np.array([row for row in part.tolist() if row in trained])
        made = (own[:, None, None] * 10 + np.arange(2)[:, None]).repeat(3, axis=2).astype("f4")
        with open_store(path, write=True) as store:
            store.write(block_of(part.tolist())._replace(views={"conv1_relu": made}))
    with open_store(path) as store:
        assert store.complete
        assert verify(store) == []
        found = store.read_views("conv1_relu", np.array(trained))[..., 0]
        assert np.array_equal(found, np.array(trained)[:, None] * 10 + np.arange(2))


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("views/conv1_relu", 1, np.nan, "views of conv1_relu: 1 finished rows are not finite"),
        ("views/conv1_relu", 0, 0.0, "views of conv1_relu: 1 failed rows are not NaN"),
    ],
)
def test_verify_finds_wrong_views(
    make_store: MakeStore, name: str, place: int, value: object, message: str
) -> None:
    path = make_store(np.ones((4, 3), "f4"), [0, 1, 1, 1], failed=[0], views=VIEWS)
    with h5py.File(path, "r+") as file:
        file[name][place] = value
    with open_store(path) as store:
        assert verify(store) == [message]


def test_description_counts_classes_by_split(make_store: MakeStore) -> None:
    path = make_store(np.ones((4, 3), "f4"), [0, 1, 1, -1], split=[0, 0, 1, 2])
    with open_store(path) as store:
        found = describe(store)
    assert found["counts"] == {
        "train": {"cat": 1, "dog": 1},
        "validation": {"dog": 1},
        "test": {"(no label)": 1},
    }
    assert found["layers"] == {"conv1_relu": [3]}
    text = format_description(found)
    assert "mobilenet, 32 x 32 pixels" in text
    assert text.splitlines()[-1].split() == ["all", "2", "1", "1"]
