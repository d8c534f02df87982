"""Many classes and long names: what outgrows an attribute of HDF5 is a dataset of format 2."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from classify.data.dataset import load_dataset
from extract.core.errors import StoreError
from extract.pipeline.run import run_extraction as extract_features
from extract.show_cli import main as show_features
from extract.store.format import MOST_TEXTS, Layout, create_store
from extract.store.open import open_store
from extract.store.shards import create_shards, find_shards
from extract.store.verify import verify
from tests.conftest import QUICK, ROOT, MakeStore, items_of, run_on_small_disk
from tests.test_store_files import ATTRIBUTES

X = np.arange(12, dtype="f4").reshape(4, 3)


def names_of(count: int, ending: str = "") -> tuple[str, ...]:
    return tuple(f"class {number:05d}{ending}" for number in range(count))


@pytest.mark.parametrize(
    ("count", "ending", "version"),
    [
        (100, "x" * 1000, 1),
        (100, "語" * 3000, 1),
        (4, "x" * 1_000_000, 1),
        (4085, "", 1),
        (MOST_TEXTS, "", 1),
        (MOST_TEXTS + 1, "", 2),
        (4100, "語" * 3000, 2),
        (10_000, "", 2),
        (100_000, "", 2),
    ],
)
def test_names_of_any_number_and_length_are_kept(
    make_store: MakeStore, count: int, ending: str, version: int
) -> None:
    names = names_of(count, ending)
    path = make_store(X, [0, 1, count - 1, -1], class_names=names)
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == version
        kept = file["class_names"].asstr()[:] if version == 2 else file.attrs["class_names"]
        assert tuple(kept) == names
    with open_store(path) as store:
        assert store.class_names == names
        assert store.attributes["class_names"] == list(names)
        assert verify(store) == []
    dataset = load_dataset(path)
    assert dataset.class_names[dataset.y[2]] == names[-1]


def test_every_list_of_texts_may_be_long(make_store: MakeStore, tmp_path: Path) -> None:
    long = [f"{number}.png" for number in range(5000)]
    items = items_of(["a.png"], [0], [0])
    attributes = {**ATTRIBUTES, "calibration_keys": long, "command": "x" * 200_000}
    create_store(tmp_path / "o.h5", Layout(items, {"conv1_relu": (3,)}, attributes))
    with open_store(tmp_path / "o.h5") as store:
        assert store.attributes["calibration_keys"] == long
        assert store.attributes["command"] == "x" * 200_000


def test_the_attribute_counts_where_there_is_a_dataset_of_its_name(make_store: MakeStore) -> None:
    path = make_store(X, [0, 1, 0, 1])
    with h5py.File(path, "r+") as file:
        file["class_names"] = [1, 2, 3]  # a file of format 1 may have objects of its own
    with open_store(path) as store:
        assert store.class_names == ("cat", "dog")


def test_shards_hold_many_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.store.shards.SHARD_ROWS", 2)
    names = names_of(10_000)
    items = items_of([f"{row}.png" for row in range(5)], [0, 1, 2, 3, 9999], [0] * 5)
    attributes = {**ATTRIBUTES, "class_names": names, "shards": "parts"}
    create_shards(tmp_path / "o.h5", Layout(items, {"conv1_relu": (3,)}, attributes))
    assert len(find_shards(tmp_path / "o.h5")) == 3
    with open_store(tmp_path / "o.h5") as store:
        assert store.class_names == names
        assert store.labels.tolist() == [0, 1, 2, 3, 9999]


def write_table(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (1, 1)).save(folder / "0.png")
    content = (folder / "0.png").read_bytes()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(content)
    rows = [f"{number}.png,class {number:05d}" for number in range(count)]
    (folder / "table.csv").write_text("\n".join(["path,label", *rows]))
    return folder / "table.csv"


@pytest.mark.parametrize("more", [{}, {"shards": "parts"}])
def test_a_source_may_grow_beyond_an_attribute_and_shrink_again(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    out, given = tmp_path / "out.h5", {**QUICK, **more}
    if more:
        given["shards"] = str(tmp_path / more["shards"])
    change: dict[str, Any] = {"overwrite": True} if more else {"update": True}
    extract_features(write_table(tmp_path / "images", 20), out, **given)
    computed = []
    for count in (4100, 4100, 20):
        table = write_table(tmp_path / "images", count)
        most = {"max_removed": "100%"} if "update" in change else {}
        computed.append(extract_features(table, out, **given, **change, **most).computed)
        with open_store(out) as store:
            assert store.class_names == names_of(count)
            assert store.class_names[store.labels[-1]] == f"class {int(store.keys[-1][:-4]):05d}"
            assert verify(store) == []
    # An update copies the row of the first image: all are byte for byte the same.
    assert computed == ([4100, 0, 20] if more else [0, 0, 0])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([1, 2], r"class_names is int64 \(2,\), expected a list of texts"),
        ([["cat", "dog"]], r"class_names is object \(1, 2\), expected a list"),
        ("cat", r"class_names is object \(\), expected a list of texts"),
        (["cat", "cat"], "class_names has a name twice"),
        ([b"cat", b"\xff"], "damaged"),
        (["cat"], "labels has 2 values outside -1 to 0"),
        (None, "class_names is None , expected a list of texts"),
    ],
)
def test_names_of_a_stranger_are_checked(make_store: MakeStore, made: object, message: str) -> None:
    path = make_store(X, [0, 1, 0, 1])
    with h5py.File(path, "r+") as file:
        del file.attrs["class_names"]
        if made is None:
            file.create_group("class_names")
        else:
            file["class_names"] = made
    with pytest.raises(StoreError, match=message), open_store(path):
        pass


def test_one_long_name_of_a_stranger_cannot_fill_memory(make_store: MakeStore) -> None:
    path = make_store(X, [0, 1, 0, 1], class_names=names_of(5000))
    with h5py.File(path, "r+") as file:
        file["class_names"][0] = "x" * 100_000
        place = file["class_names"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 5000] = content[place : place + 16] * 5000
    path.write_bytes(content)
    with pytest.raises(StoreError, match="class_names has more text than the file has bytes"):
        open_store(path).__enter__()


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from extract.core.errors import StoreError
from extract.store.format import Layout, create_store
from tests.conftest import items_of
from tests.test_store_files import ATTRIBUTES

disk = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
names = [f"{number:0100d}" for number in range(10_000)]
attributes = {**ATTRIBUTES, "class_names": names}
layout = Layout(items_of(["a"], [0], [0]), {"conv1_relu": (3,)}, attributes)
try:
    create_store(disk / "out.h5", layout)
except StoreError as error:
    print(error, file=sys.stderr)
assert not list(disk.iterdir())
"""


def test_the_names_count_towards_the_room_that_is_needed(images: Path, tmp_path: Path) -> None:
    said = run_on_small_disk(FULL_DISK, images, tmp_path / "disk")
    assert "found 1.0 MB of free disk space; expected 1.5 MB" in said


def test_a_long_list_is_shown_in_part(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.ones((5000, 3), "f4")
    path = make_store(rows, range(5000), class_names=names_of(5000))
    assert show_features([str(path), "--verify"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) < 250
    assert shown[-2:] == [f"{'and 4,960 more':<14}{4960:>12}", f"{'all':<14}{5000:>12}"]
    assert show_features([str(path), "--json"]) == 0
    assert "class 04999" in capsys.readouterr().out


def test_a_message_does_not_list_all_names(tmp_path: Path) -> None:
    table, out = write_table(tmp_path / "images", 4100), tmp_path / "out.h5"
    extract_features(table, out, **QUICK)
    table.write_text(table.read_text().replace("class ", "kind "))
    with pytest.raises(StoreError, match="4,100 images") as caught:
        extract_features(table, out)
    assert len(str(caught.value)) < 1000


def test_a_reader_of_format_1_says_what_to_do(make_store: MakeStore, tmp_path: Path) -> None:
    """The release before format 2 is imitated by its number alone."""
    path = make_store(X, [0, 1, 0, 1], class_names=names_of(5000))
    code = (
        "import sys; from pathlib import Path; from extract.store import validate\n"
        "validate.FORMAT_VERSION = 1\n"
        "from extract.store.open import open_store; open_store(sys.argv[1]).__enter__()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "format 2; expected 1 or lower; upgrade headstart" in done.stderr
