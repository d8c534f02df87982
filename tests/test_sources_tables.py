import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from extract.core.errors import ImageError, SettingError, SourceError, StoreError
from extract.core.flags import parse_columns
from extract.images.item import Item, read_item
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source, open_reader
from extract.sources.tables import TABLE_ENDINGS
from extract.store.open import open_store
from tests.conftest import QUICK

ROWS: list[dict[str, Any]] = [
    {"path": "b/2.png", "label": "dog", "split": "val", "group": "y"},
    {"path": "a/1.png", "label": "cat", "split": "train", "group": "x"},
    {"path": "c.png", "label": None, "split": "TEST", "group": None},
]
FORMS = (".csv", ".tsv", ".parquet", ".jsonl")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows in the form that the ending names."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    return path


def plain(items: Sequence[Item]) -> list[tuple[str, int, int, str]]:
    return [(item.key, item.label, item.split, item.group) for item in items]


@pytest.mark.parametrize("form", TABLE_ENDINGS)
def test_every_form_gives_the_same_items(tmp_path: Path, form: str) -> None:
    source = list_source(write_table(tmp_path / f"table{form}", ROWS))
    assert plain(source.items) == [
        ("a/1.png", 0, 0, "x"),
        ("b/2.png", 1, 1, "y"),
        ("c.png", -1, 2, ""),
    ]
    assert source.class_names == ("cat", "dog")
    assert any("no images of 1 class name (dog) in train" in said for said in source.warnings)


@pytest.mark.parametrize("form", FORMS)
def test_columns_have_the_names_that_are_given(tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [
        {"n": 1, "file": "b.png", "species": 7},
        {"n": 2, "file": "a.png", "species": 12},
    ]
    path = write_table(tmp_path / f"table{form}", rows)
    source = list_source(path, "path=file,label=species")
    assert plain(source.items) == [("a.png", 1, 0, ""), ("b.png", 0, 0, "")]
    assert source.class_names == ("7", "12")


def test_paths_are_relative_to_the_table_or_absolute(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    (tmp_path / "c.png").write_bytes(b"c")
    paths = ["a.png", "../b.png", str(tmp_path / "c.png"), "gone.png"]
    table = write_table(tmp_path / "below" / "table.csv", [{"path": path} for path in paths])
    items = {item.key: item for item in list_source(table).items}
    assert [read_item(items[path]) for path in paths[:3]] == [b"a", b"b", b"c"]
    with pytest.raises(ImageError, match="No such file"):
        read_item(items["gone.png"])
    assert open_reader(table)("../b.png") == b"b"


def test_a_table_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"a")
    write_table(Path("table.csv"), [{"path": "a.png"}])
    assert read_item(list_source("table.csv").items[0]) == b"a"


WRONG = {
    "no path": ("file,label\na.png,cat\n", "", "column 'path' is unknown; .*known: file, label"),
    "no such column": ("path\na.png\n", "label=kind", "column 'kind' is unknown.*label=NAME"),
    "two columns": ("path,path\na.png,b.png\n", "", "two columns are called 'path'"),
    "too few cells": ("path,label\na.png,cat\nb.png\n", "", "row 2: found 1 cell; expected 2"),
    "empty path": ("path,label\na.png,cat\n,dog\n", "", "row 2: found '' in column path"),
    "unknown split": (
        "path,split\na.png,train\nb.png,fold\n",
        "",
        "row 2: found 'fold' in column s",
    ),
    "empty split": ("path,split\na.png,train\nb.png,\n", "", "row 2: found '' in column split"),
    "twice": ("path\na.png\nb.png\na.png\n", "", r"found a\.png in row 1 and 3"),
    "only a heading": ("path,label\n", "", "found no rows"),
    "empty": ("", "", "found nothing; expected a table as text"),
    "a web page": ("<html></html>", "", "found a web page; expected a table"),
    "a spreadsheet": ("PK\3\4", "", "found a spreadsheet; expected a table"),
    "open quote": ('path\n"a.png\n', "", "cannot be read"),
    "NUL": ("path\na\0.png\n", "", "row 1: .*without NUL"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, name: str) -> None:
    content, columns, message = WRONG[name]
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        list_source(path, columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"path": "a.png"}\n{"path": 1.5}\n',
            "row 2: found 1.5 in column path; expected a whole number or text",
        ),
        (
            '{"path": "a.png"}\n\n[1]\n',
            "row 3: cannot be read: .*not a mapping; expected a JSON object",
        ),
        ('{"path": "a.png"\n', "row 1: cannot be read: Expecting"),
        ('{"path": "a.png"}\n{"label": "x"}\n', "row 2: column 'path' is unknown"),
        ('{"path": "\\ud800.png"}\n', "row 1: .*UTF-8"),
        ('{"path": "a.png", "label": ["x"]}\n', r"row 1: found \['x'\] in column label"),
    ],
)
def test_json_lines_that_make_no_sense_are_refused(
    tmp_path: Path, lines: str, message: str
) -> None:
    (tmp_path / "table.jsonl").write_text(lines)
    with pytest.raises(SourceError, match=message):
        list_source(tmp_path / "table.jsonl")


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for ending in (".csv", ".parquet", ".jsonl"):
        path = tmp_path / f"bad{ending}"
        path.write_bytes(b"\xff\xfe" + os.urandom(64).replace(b"\n", b""))
        with pytest.raises(SourceError, match=rf"bad\{ending}: "):
            list_source(path)


@pytest.mark.parametrize("text", ["path", "path=", "kind=a", "path=a,path=b", "=a"])
def test_columns_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="columns"):
        parse_columns(text)


def test_columns_of_a_folder_are_refused(images: Path) -> None:
    with pytest.raises(SettingError, match="columns: has no effect"):
        list_source(images, "label=species")


def test_a_table_gives_the_features_of_its_folder(images: Path, tmp_path: Path) -> None:
    keys = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    rows = [
        {"file": key, "kind": key.split("/")[1], "split": key.split("/")[0], "group": f"g{i // 2}"}
        for i, key in enumerate(keys)
    ]
    table = write_table(images / "table.csv", rows)
    settings: dict[str, Any] = {**QUICK, "columns": "path=file,label=kind"}
    extract_features(images, tmp_path / "folder.h5", **QUICK)
    extract_features(table, tmp_path / "table.h5", **settings)
    with open_store(tmp_path / "folder.h5") as a, open_store(tmp_path / "table.h5") as b:
        assert (a.keys, a.labels.tolist(), a.split.tolist()) == (
            *(b.keys, b.labels.tolist(), b.split.tolist()),
        )
        np.testing.assert_array_equal(
            a.read("conv1_relu", slice(None)), b.read("conv1_relu", slice(None))
        )
        assert b.groups == [f"g{i // 2}" for i in range(8)]
    # The columns are the file's: a rerun need not name them, and may not name others.
    assert extract_features(table, tmp_path / "table.h5").computed == 0
    with pytest.raises(StoreError, match=r"--columns path=file,label=kind, not path=file"):
        extract_features(table, tmp_path / "table.h5", columns="path=file")
    write_table(table, [{**row, "group": "all"} for row in rows])
    with pytest.raises(StoreError, match=r"8 images \(.*\) with another class, split or group"):
        extract_features(table, tmp_path / "table.h5")
