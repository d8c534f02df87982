"""Arrow and Parquet files as the library ``datasets`` writes them, and by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from extract.core.errors import ImageError, SourceError
from extract.images.item import Source, read_item
from extract.sources.listing import list_source, open_reader
from tests.test_sources_records import CLASSES, CONTENTS, write_stream

CASES = Path(__file__).parent / "cases"
KIND = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FORMS = ("a.arrow", "a.parquet")


def write(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        return write_stream(path, content)
    parquet.write_table(content, path)
    return path


def classes_of(source: Source) -> list[str]:
    names = (*source.class_names, "")
    return [names[item.label] for item in source.items]


def images(count: int = 6) -> pa.Array:
    return pa.array([{"bytes": each, "path": None} for each in CONTENTS[:count]], KIND)


def labelled(labels: pa.Array, names: list[str] | None = None) -> pa.Table:
    """Return a table of images with labels, and names of classes as ``datasets`` stores them."""
    found = pa.table({"image": images(len(labels)), "label": labels})
    if names is None:
        return found
    label = {"names": names, "_type": "ClassLabel"}
    described = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return found.replace_schema_metadata({"huggingface": json.dumps(described)})


@pytest.mark.parametrize("form", FORMS)
def test_paths_in_the_place_of_bytes_are_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "0.png").write_bytes(CONTENTS[0])
    (tmp_path / "1.png").write_bytes(CONTENTS[1])
    paths = ["deep/0.png", str(tmp_path / "1.png"), "gone/2.png", None]
    cells = [{"bytes": None, "path": path} for path in paths]
    path = write(tmp_path / "set" / form, pa.table({"image": pa.array(cells, KIND)}))
    items = {item.key: item for item in list_source(path).items}
    assert sorted(items) == [f"{row:09d}" for row in range(4)]
    assert read_item(items["000000000"]) == CONTENTS[0]
    assert read_item(items["000000001"]) == CONTENTS[1]
    assert open_reader(path)("000000000") == CONTENTS[0]
    with pytest.raises(
        ImageError, match=r"has no bytes in its row, and gone/2\.png cannot be open"
    ):
        read_item(items["000000002"])
    with pytest.raises(ImageError, match="has neither bytes nor a path in its row"):
        read_item(items["000000003"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.struct({"path": pa.string()})])
def test_a_column_of_paths_in_arrow(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "0.png").write_bytes(CONTENTS[0])
    cells = [{"path": "0.png"} if pa.types.is_struct(kind) else "0.png"]
    path = write(tmp_path / "a.arrow", pa.table({"image": pa.array(cells, kind), "label": ["cat"]}))
    (item,) = list_source(path).items
    assert (item.key, read_item(item)) == ("0.png", CONTENTS[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()}),
    ],
)
def test_every_type_of_bytes(tmp_path: Path, form: str, kind: pa.DataType) -> None:
    cells: list[Any] = CONTENTS[:2]
    if pa.types.is_struct(kind):
        cells = [{"bytes": each, "path": None} for each in cells]
    content = pa.table({"image": pa.array(cells, kind), "label": ["cat", "dog"]})
    source = list_source(write(tmp_path / form, content))
    assert [read_item(item) for item in source.items] == CONTENTS[:2]


def test_views_of_bytes_as_polars_writes_them(tmp_path: Path) -> None:
    content = pa.table({"image": pa.array(CONTENTS[:2], pa.binary_view())})
    content = content.append_column("label", pa.array(["cat", "dog"], pa.string_view()))
    source = list_source(write(tmp_path / "a.arrow", content))
    assert [read_item(item) for item in source.items] == CONTENTS[:2]
    assert source.class_names == ("cat", "dog")


# Labels -> classes, without names of classes.
CELLS: dict[str, tuple[pa.Array, list[str]]] = {
    "dictionary": (pa.array(["cat", "dog", None]).dictionary_encode(), ["cat", "dog", ""]),
    "floats": (pa.array([1.0, 0.0, None]), ["1", "0", ""]),
    "not a number": (pa.array([1.0, 0.0, float("nan")]), ["1", "0", ""]),
    "binary": (pa.array([-1, 1, -1]), ["-1", "1", "-1"]),
    "minus one": (pa.array([-1, 0, 1]), ["", "0", "1"]),
    "small": (pa.array([3, 200, 3], pa.uint8()), ["3", "200", "3"]),
    "truth": (pa.array([True, False, True]), ["True", "False", "True"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_labels_of_every_type(tmp_path: Path, form: str, name: str) -> None:
    labels, wanted = CELLS[name]
    assert classes_of(list_source(write(tmp_path / form, labelled(labels)))) == wanted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ([1, 0, 1], ["dog", "cat", "dog"]),
        ([1.0, 0.0, None], ["dog", "cat", ""]),
        ([1, -1, 0], ["dog", "", "cat"]),
        (["dog", "cat", "cat"], ["dog", "cat", "cat"]),
    ],
)
def test_labels_with_names(tmp_path: Path, form: str, labels: list[Any], wanted: list[str]) -> None:
    content = labelled(pa.array(labels), list(CLASSES))
    assert classes_of(list_source(write(tmp_path / form, content))) == wanted


def test_two_classes_of_one_name_stay_two(tmp_path: Path) -> None:
    content = labelled(pa.array([0, 1, 2]), ["crane", "tench", "crane"])
    source = list_source(write(tmp_path / "a.arrow", content))
    assert classes_of(source) == ["crane (0)", "tench", "crane (2)"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[1, 2], [0], [1]], None, r"row 0: found \[1, 2\] in column label; expected a whole num"),
        ([0, 5, 1], list(CLASSES), "found label 5; expected less than 2, the number of class na"),
    ],
)
def test_labels_without_a_meaning(
    tmp_path: Path, form: str, labels: list[Any], names: list[str] | None, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        list_source(write(tmp_path / form, labelled(pa.array(labels), names)))


_WRITE = """
import sys
import datasets
datasets.disable_progress_bars()
root, out = sys.argv[1:3]
found = datasets.load_dataset("imagefolder", data_dir=root, cache_dir=out + "/cache")
found.save_to_disk(out + "/saved")
found["train"].save_to_disk(out + "/one")
for split, part in found.items():
    part.to_parquet(f"{out}/clone/data/{split}-00000-of-00001.parquet")
    for shard in range(2):
        part.shard(2, shard).to_parquet(f"{out}/nested/big/{split}/{shard:04d}.parquet")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``datasets`` writes of a folder of images: saved, as Parquet, and its cache."""
    pytest.importorskip("datasets")
    out = tmp_path_factory.mktemp("datasets")
    for split in ("train", "validation"):
        for row, content in enumerate(CONTENTS):
            path = out / "folder" / split / CLASSES[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for name in ("clone", "nested"):
        (out / name / ".git").mkdir(parents=True)
        (out / name / "README.md").write_text("of the set")
        (out / name / ".gitattributes").write_text("*.parquet filter=lfs")
    # A process of its own, because the library warns when it is imported.
    subprocess.run([sys.executable, "-c", _WRITE, str(out / "folder"), str(out)], check=True)
    return out


@pytest.mark.parametrize("name", ["saved", "clone", "clone/data", "nested", "nested/big", "cache"])
def test_sets_of_the_library_datasets(written: Path, name: str) -> None:
    folder = written / name
    if name == "cache":
        folder = next(folder.rglob("*.arrow")).parent
    source = list_source(folder)
    wanted = list_source(written / "folder")
    assert source.class_names == wanted.class_names == CLASSES
    found = sorted((read_item(item), item.label, item.split) for item in source.items)
    assert found == sorted((read_item(item), item.label, item.split) for item in wanted.items)


def test_one_split_of_the_library_datasets(written: Path) -> None:
    source = list_source(written / "one")
    assert sorted(classes_of(source)) == ["cat"] * 3 + ["dog"] * 3
    assert {item.split for item in source.items} == {0}


def test_two_configurations_have_two_meanings(written: Path, tmp_path: Path) -> None:
    for name in ("big", "small"):
        write(tmp_path / name / "train-00000-of-00001.parquet", labelled(pa.array([0, 1])))
    with pytest.raises(SourceError, match=r"found files of records in 2 folders \(big/, small/\)"):
        list_source(tmp_path)
    assert len(list_source(tmp_path / "big").items) == 2


def test_paths_from_an_issue(tmp_path: Path) -> None:
    source = list_source(CASES / "arrow-with-paths-only" / "imagefolder-train.arrow")
    assert source.class_names == ("a", "b")
    assert classes_of(source) == ["a"] * 4 + ["b"] * 4
    name = Path(source.items[0].key).name
    with pytest.raises(
        ImageError, match=rf"has no bytes in its row, and \S*/a/{name} cannot be op"
    ):
        read_item(source.items[0])


def test_paths_of_another_machine_stop_the_run() -> None:
    source = list_source(CASES / "arrow-with-paths-only" / "imagefolder-train.arrow")
    assert "found no file for 8 of 8 paths, such as /" in source.problem
    assert source.problem.endswith("no bytes in their place; store the images in the file")


def test_floats_from_an_issue() -> None:
    source = list_source(CASES / "float-labels" / "floatnan.parquet", "label=num")
    assert classes_of(source) == ["1", "1", "1", "", "1", "1"] + ["0"] * 6


def test_a_column_in_the_names_of_folders_is_refused(tmp_path: Path) -> None:
    content = pa.table({"image": CONTENTS[:4], "label": ["a", "b", "a", "b"]})
    parquet.write_to_dataset(content, tmp_path, partition_cols=["label"])
    with pytest.raises(
        SourceError, match=r"in 2 folders \(label=a/, .*write one file with this col"
    ):
        list_source(tmp_path)
