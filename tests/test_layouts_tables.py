"""Tables as people and programs write them give the labels and images that are meant."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from extract.cli import main
from extract.core.errors import SettingError, SourceError
from extract.images.item import Source, read_item
from extract.layouts.class_names import clean_labels
from extract.layouts.overview import describe_source
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source, open_reader
from extract.store.open import open_store
from tests.conftest import QUICK
from tests.test_cli import QUICK_FLAGS

KEYS = ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four images, each of another grey."""
    root = tmp_path / "photos"
    for i, key in enumerate(KEYS):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(root / key)
    return root


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def labels_of(source: Source) -> dict[str, str]:
    names = (*source.class_names, "")
    return {item.key: names[item.label] for item in source.items}


def said_by(source: Source) -> str:
    return " | ".join((*source.notes, *source.warnings))


@pytest.mark.parametrize(
    "heading",
    [
        "path,label,Split",
        "path, label, split",
        "PATH ,Label,SPLIT",
        "\ufeffpath,label,split",
        "Path,LABEL,split ",
    ],
)
def test_headings_match_without_case_and_space(tmp_path: Path, heading: str) -> None:
    """Source of the case: https://github.com/label-sleuth/label-sleuth/issues/315."""
    table = write(tmp_path / "t.csv", f"{heading}\na.jpg, ant, train\nb.jpg, bee, test\n")
    source = list_source(table)
    assert labels_of(source) == {"a.jpg": "ant", "b.jpg": "bee"}
    assert [item.split for item in source.items] == [0, 2]


def test_the_exact_heading_wins_and_two_near_ones_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,Label,label\na.jpg,x,y\n")
    assert labels_of(list_source(table)) == {"a.jpg": "y"}
    table = write(tmp_path / "u.csv", "path,Label,LABEL\na.jpg,x,y\n")
    with pytest.raises(SourceError, match="two columns are called 'Label'"):
        list_source(table)


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        (
            "path,classes",
            "ignored 1 column ('classes'), for none is called label; if it is the label",
        ),
        ("path,lable", "--columns label=lable"),
        ("path,category", "--columns label=category"),
        ("path,Class Name", "--columns 'label=Class Name'"),
        ("path,kind_of_bird", "no column is called label among 1 column (kind_of_bird)"),
    ],
)
def test_columns_that_may_be_labels_are_named(tmp_path: Path, heading: str, words: str) -> None:
    source = list_source(write(tmp_path / "t.csv", f"{heading}\na.jpg,x\n"))
    assert labels_of(source) == {"a.jpg": ""}
    assert words in said_by(source)


def test_other_roles_and_ignored_columns_are_named(tmp_path: Path) -> None:
    text = "file_name,label,set,patient_id,width\na.jpg,x,train,p,3\n"
    said = said_by(list_source(write(tmp_path / "t.csv", text)))
    assert "path from 'file_name', label; ignored: 3 columns ('patient_id', 'set', 'width')" in said
    assert "--columns split=set" in said
    assert "--columns group=patient_id" in said
    with pytest.raises(SourceError, match="name the path with --columns path=image_path"):
        list_source(write(tmp_path / "u.csv", "image_path,label\na.jpg,x\n"))


ROWS = "path{0}label\na/0.jpg{0}café\nb/2.jpg{0}thé\n"
FORMATS: dict[str, tuple[bytes, str]] = {
    "semicolon": (ROWS.format(";").encode(), "cells are separated by a semicolon"),
    "tab": (ROWS.format("\t").encode(), "cells are separated by a tab"),
    "bar": (ROWS.format("|").encode(), "cells are separated by a bar"),
    "Excel's line": (b"sep=;\r\n" + ROWS.format(";").encode(), "semicolon"),
    "UTF-16": (ROWS.format(",").encode("utf-16"), ""),
    "UTF-16, big-endian": (b"\xfe\xff" + ROWS.format(",").encode("utf-16-be"), ""),
    "UTF-16 without a mark": (ROWS.format(",").encode("utf-16-le"), ""),
    "UTF-16 of Excel": (ROWS.format("\t").encode("utf-16"), "tab"),
    "UTF-8 with a mark": (ROWS.format(",").encode("utf-8-sig"), ""),
    "Windows-1252": (ROWS.format(";").encode("cp1252"), "it was read as Windows-1252"),
    "old Macintosh": (ROWS.format(",").replace("\n", "\r").encode(), ""),
    "Windows": (ROWS.format(",").replace("\n", "\r\n").encode(), ""),
    "blank lines": (("\n\n" + ROWS.format(",").replace("\n", "\n\n")).encode(), ""),
    "quotes": (b'"path";"label"\n"a/0.jpg";"caf\xc3\xa9"\n"b/2.jpg";"th\xc3\xa9"\n', "semicolon"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_separators_and_encodings_are_found_out(tmp_path: Path, name: str) -> None:
    """Source of the case: https://github.com/asreview/asreview/issues/302."""
    content, words = FORMATS[name]
    (tmp_path / "t.csv").write_bytes(content)
    source = list_source(tmp_path / "t.csv")
    assert labels_of(source) == {"a/0.jpg": "café", "b/2.jpg": "thé"}
    assert words in said_by(source)


def test_a_table_without_a_heading_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a/0.jpg,cat\nb/2.jpg,dog\n")
    with pytest.raises(
        SourceError, match=r"found 'a/0.jpg, cat' as the first line; expected the na"
    ):
        list_source(table)


def test_values_are_those_that_pandas_reads(tmp_path: Path) -> None:
    """A second reader: pandas' missing values and numbers, in a table that pandas wrote."""
    labels: list[Any] = [1, 2, None, 10, float("nan"), 2]
    frame = pd.DataFrame({"path": [f"{i}.jpg" for i in range(6)], "label": labels})
    assert frame["label"].dtype == float
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "na.csv", index=False, na_rep="NA")
    read = pd.read_csv(tmp_path / "na.csv")["label"]
    expected = {f"{i}.jpg": "" if pd.isna(v) else str(int(v)) for i, v in enumerate(read)}
    for name in ("t.csv", "t.parquet", "na.csv"):
        source = list_source(tmp_path / name)
        assert labels_of(source) == expected
        assert source.class_names == ("1", "2", "10")


MISSING = [
    "",
    "nan",
    "NaN",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "None",
    "<NA>",
    "#N/A",
    "-nan",
    "\\N",
]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "1.0", "2.", "10"], ["1", "1", "2", "10"]),
        (["1.0", "x"], ["1.0", "x"]),  # no number
        (["1.0", "1", "unknown"], ["1", "1", "unknown"]),
        (["-3", "-1", "2"], ["-3", "-1", "2"]),
        (["007", "7"], ["007", "7"]),
        (["-1", "0", "1"], ["", "0", "1"]),
        (["-1", "1"], ["-1", "1"]),
        (["-1.0", "0.0", "3.0"], ["", "0", "3"]),
        (["-1", "cat"], ["-1", "cat"]),
        (["none", "scratch"], ["none", "scratch"]),  # a kind of its own
        ([*MISSING, "cat"], [*[""] * len(MISSING), "cat"]),
        ([], []),
    ],
)
def test_labels_are_cleaned(labels: Sequence[str], names: Sequence[str]) -> None:
    cleaned, warnings = clean_labels(labels)
    assert cleaned == names
    assert bool(warnings) is any(
        label and not name for label, name in zip(labels, names, strict=True)
    )


@pytest.mark.parametrize(
    ("labels", "is_quantity"),
    [
        ([f"{i / 7:.3f}" for i in range(40)], True),
        ([str(1000 + 3 * i) for i in range(90)], True),
        ([str(i % 10) for i in range(100)], False),
        ([str(i % 100) for i in range(1000)], False),
        (["0.5", "1.0", "10.05"], True),
        (["0,5", "1,5"] * 20, True),
        ([f"bird {i}" for i in range(90)], False),
    ],
)
def test_quantities_are_told_from_classes(labels: Sequence[str], is_quantity: bool) -> None:
    assert any("looks like a quantity" in said for said in clean_labels(labels)[1]) is is_quantity


def test_whole_numbers_are_labels_in_every_form(tmp_path: Path) -> None:
    """Source of the case: https://github.com/tensorflow/tfx/issues/819."""
    numbers = [11, 0, 2, 10, 1]
    paths = [f"{i}.jpg" for i in range(5)]
    table = pa.table({"path": paths, "label": pa.array(map(float, numbers), pa.float64())})
    parquet.write_table(table, tmp_path / "float.parquet")
    parquet.write_table(pa.table({"path": paths, "label": numbers}), tmp_path / "int.parquet")
    lines = "".join(
        f'{{"path": "{p}", "label": {n}.0}}\n' for p, n in zip(paths, numbers, strict=True)
    )
    write(tmp_path / "t.jsonl", lines)
    write(
        tmp_path / "t.csv",
        "path,label\n" + "".join(f"{p},{n}\n" for p, n in zip(paths, numbers, strict=True)),
    )
    for name in ("float.parquet", "int.parquet", "t.jsonl", "t.csv"):
        source = list_source(tmp_path / name)
        assert source.class_names == ("0", "1", "2", "10", "11")
        assert labels_of(source) == dict(zip(paths, map(str, numbers), strict=True))


@pytest.mark.parametrize("label", [float("inf"), [1, 2], b"\xff"])
def test_a_label_that_is_no_text_and_no_number_is_refused(tmp_path: Path, label: Any) -> None:
    parquet.write_table(pa.table({"path": ["a.jpg"], "label": [label]}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"row 1: found .* in column label; expected a whole num"):
        list_source(tmp_path / "t.parquet")


def table_of(path: Path, rows: Mapping[str, str]) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label"])
        out.writerows(rows.items())
    return path


WRITTEN = {
    "as they are": (KEYS, ""),
    "with ./": (tuple(f"./{key}" for key in KEYS), ""),
    "with //": (tuple(key.replace("/", "//") for key in KEYS), ""),
    "without endings": (tuple(key[:-4] for key in KEYS), "4 paths had no ending"),
    "with backslashes": (tuple(key.replace("/", "\\") for key in KEYS), "4 paths had backslashes"),
    "with space": (tuple(f" {key} " for key in KEYS), "4 paths had outer space"),
    "in capitals": (tuple(key.replace("jpg", "JPG") for key in KEYS), "4 paths had another case"),
    "absolute elsewhere": (
        tuple(f"/home/ann/photos/{key}" for key in KEYS),
        "4 paths were absolute and are in another folder now",
    ),
    "of Windows": (
        tuple("C:\\Users\\ann\\photos\\" + key.replace("/", "\\") for key in KEYS),
        "4 paths were absolute",
    ),
    "one of each": ((KEYS[0], f"./{KEYS[1]}", KEYS[2][:-4], f"{KEYS[3]} "), "1 path had no ending"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_paths_are_mended_where_one_file_fits(photos: Path, name: str) -> None:
    paths, words = WRITTEN[name]
    if name == "in capitals" and os.path.exists(photos / "a/0.JPG"):
        pytest.skip("names that differ in case are one file here")
    rows = dict(zip(paths, ("cat", "cat", "dog", "dog"), strict=True))
    source = list_source(table_of(photos / "t.csv", rows))
    assert labels_of(source) == dict(zip(KEYS, ("cat", "cat", "dog", "dog"), strict=True))
    assert [read_item(item) for item in source.items] == [(photos / k).read_bytes() for k in KEYS]
    assert source.problem == ""
    assert words in said_by(source)
    assert open_reader(photos / "t.csv")(KEYS[2]) == (photos / KEYS[2]).read_bytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_root_of_the_paths_is_named(photos: Path, tmp_path: Path, name: str) -> None:
    rows = dict(zip(WRITTEN[name][0], ("cat", "cat", "dog", "dog"), strict=True))
    (tmp_path / "elsewhere").mkdir()
    table = table_of(tmp_path / "elsewhere" / "t.csv", rows)
    problem = list_source(table).problem
    assert "found no file for 4 of 4 paths" in problem
    assert "give the folder of the images with --root DIR" in problem
    source = list_source(table, folder=photos)
    assert [item.key for item in source.items] == list(KEYS)
    assert [read_item(item) for item in source.items] == [(photos / k).read_bytes() for k in KEYS]
    assert open_reader(table, folder=photos)(KEYS[2]) == (photos / KEYS[2]).read_bytes()


def test_a_path_that_two_files_fit_is_not_mended(photos: Path) -> None:
    (photos / "a" / "0.png").write_bytes((photos / "a" / "0.jpg").read_bytes())
    source = list_source(table_of(photos / "t.csv", {"a/0": "cat", "a/1": "cat", "b/2.jpg": "dog"}))
    assert sorted(labels_of(source)) == ["a/0", "a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize("second", ["./a/0.jpg", "a//0.jpg", "a/0", "b/../a/0.jpg"])
def test_one_image_under_two_names_is_refused(photos: Path, second: str) -> None:
    table = table_of(photos / "t.csv", {"a/0.jpg": "cat", second: "dog"})
    with pytest.raises(SourceError, match=r"found a/0\.jpg in row 1 and 2; remove one"):
        list_source(table)
    for other in (str(photos / "a/0.jpg"), "../photos/a/0.jpg"):
        table = table_of(photos / "t.csv", {"a/0.jpg": "cat", other: "dog"})
        with pytest.raises(SourceError, match=r"in row 1 and 2, which are one file; remove one"):
            list_source(table)


@pytest.mark.parametrize(
    ("files", "root", "path"),
    [
        (["imgs/0.png", "0.png"], "", "/imgs/0.png"),  # from the folder of the table
        (["dogs/0.png", "0.png"], "dogs", "/home/ann/dogs/0.png"),
    ],
)
def test_the_file_that_an_absolute_path_means(
    tmp_path: Path, files: Sequence[str], root: str, path: str
) -> None:
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]))
    table = table_of(tmp_path / "t.csv", {path: "cat"})
    source = list_source(table, folder=tmp_path / root if root else "")
    assert read_item(source.items[0]) == b"\0"
    assert source.problem == ""


@pytest.mark.parametrize(
    ("files", "root", "path"),
    [
        (["train/cat/0.png", "0.png"], "", "C:\\data\\Train\\cat\\0.png"),
        (["test/cat/0.png"], "test", "/old/train/cat/0.png"),  # an image of another split
        (["0.png"], "", "C:\\data\\dogs\\0.png"),  # of another folder
    ],
)
def test_a_file_that_only_looks_like_it_is_not_taken(
    tmp_path: Path, files: Sequence[str], root: str, path: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"wrong")
    source = list_source(table_of(tmp_path / "t.csv", {path: "cat"}), folder=tmp_path / root)
    assert "found no file for 1 of 1 paths" in source.problem


def test_lost_files_are_counted_before_the_run(photos: Path) -> None:
    rows = dict.fromkeys((*KEYS, "gone.jpg", "a"), "cat")
    source = list_source(table_of(photos / "t.csv", rows))
    assert source.problem == ""
    assert "found no file for 2 of 6 paths (a, gone.jpg); their rows will be" in said_by(source)


def test_a_root_that_is_no_folder_is_refused(photos: Path) -> None:
    table = table_of(photos / "t.csv", dict.fromkeys(KEYS, "cat"))
    for root in (photos / "none", table):
        with pytest.raises(SourceError, match=r"root: found .*; expected the folder of the images"):
            list_source(table, folder=root)


def test_a_split_for_some_images_is_refused(tmp_path: Path) -> None:
    splits = ["train", None, "test"]
    table = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "split": splits})
    parquet.write_table(table, tmp_path / "t.parquet")
    write(tmp_path / "t.jsonl", '{"path": "a.jpg", "split": "test"}\n{"path": "b.jpg"}\n')
    for name in ("t.parquet", "t.jsonl"):
        with pytest.raises(SourceError, match=r"found a split for . of . images; expected one"):
            list_source(tmp_path / name)


def test_splits_as_folders_are_called(tmp_path: Path) -> None:
    values = ["train2017", "trainset", "Training Set", "dev", "test1"]
    rows = "".join(f"{i}.jpg,{value}\n" for i, value in enumerate(values))
    source = list_source(write(tmp_path / "t.csv", f"path,split\n{rows}"))
    assert [item.split for item in source.items] == [0, 0, 0, 1, 2]


def test_rows_of_empty_cells_and_cells_of_any_length(tmp_path: Path) -> None:
    text = f'path,label,mask\na.jpg, "x, y",{"1 " * 200_000}\n,,\n\n"b.jpg",z,\n\x1a'
    source = list_source(write(tmp_path / "t.csv", text))
    assert labels_of(source) == {"a.jpg": "x, y", "b.jpg": "z"}


def test_names_of_columns_are_quoted_for_the_shell(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"with --columns 'path=Image Path'"):
        list_source(write(tmp_path / "t.csv", "Image Path,label\na.jpg,x\n"))
    with pytest.raises(SourceError, match=r"two columns are called 'label'; rename one of them"):
        list_source(write(tmp_path / "u.csv", "path,label,label\na.jpg,x,y\n"))


def test_the_columns_of_every_row_are_explained(tmp_path: Path) -> None:
    lines = '{"path": "a.jpg", "label": "x"}\n{"path": "b.jpg", "class": "y"}\n'
    said = said_by(list_source(write(tmp_path / "t.jsonl", lines)))
    assert "--columns label=class" in said


def test_groups_that_are_numbers_are_merged(tmp_path: Path) -> None:
    source = list_source(write(tmp_path / "t.csv", "path,group\na.jpg,1\nb.jpg,1.0\nc.jpg,2\n"))
    assert [item.group for item in source.items] == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a|b", "a", "b"], "1 label (a|b) that look like several"),
        (["rust, scab", "rust", "scab, rot", "rot"], "2 labels (rust, scab, scab, rot)"),
        (["['a', 'b']", "c"], "that look like several labels in one cell"),
    ],
)
def test_several_labels_in_one_cell_are_told(labels: Sequence[str], words: str) -> None:
    assert words in " ".join(clean_labels(labels)[1])


def test_a_comma_in_a_name_is_no_list() -> None:
    assert clean_labels(["maillot", "maillot, tank suit", "tench"])[1] == []


def test_names_in_another_form_of_unicode_are_found(tmp_path: Path) -> None:
    (tmp_path / "cafe\u0301.jpg").write_bytes(b"x")
    source = list_source(table_of(tmp_path / "t.csv", {"caf\u00e9.jpg": "cat"}))
    assert read_item(source.items[0]) == b"x"


def test_most_paths_without_a_file_stop_the_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {f"/old/disk/img/{i}.jpg": "cat" for i in range(3)} | {"a/0.jpg": "dog"}
    table, out = str(table_of(photos / "t.csv", rows)), str(tmp_path / "x.h5")
    assert main([table, out, *QUICK_FLAGS]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"extract-features: {table}: found no file for 3 of 4 paths (/old/disk/img/0.jpg, "
    )
    assert last.endswith(f"in {photos}; give the folder of the images with --root DIR")
    assert not os.path.exists(out)
    assert main([table, out, *QUICK_FLAGS, "--dry-run"]) == 0
    assert "; a run would stop here" in capsys.readouterr().err
    assert main([table, out, *QUICK_FLAGS, "--root", str(tmp_path)]) == 1
    assert "expected the folder that the paths start from" in capsys.readouterr().err
    # A few lost files are failed rows, not a reason to stop.
    table = str(table_of(photos / "few.csv", dict.fromkeys((*KEYS, "gone.jpg"), "cat")))
    assert main([table, out, *QUICK_FLAGS, "--max-bad", "1"]) == 0


def test_the_root_is_a_setting_of_the_file(photos: Path, tmp_path: Path) -> None:
    table, out = table_of(tmp_path / "t.csv", dict.fromkeys(KEYS, "cat")), tmp_path / "x.h5"
    extract_features(table, out, root=photos, **QUICK)
    with open_store(out) as store:
        assert store.attributes["root"] == str(photos)
        assert store.keys == list(KEYS)
    assert extract_features(table, out).computed == 0  # it is remembered
    with pytest.raises(SettingError, match=r"root: has no effect on .*, which is no table"):
        extract_features(photos, tmp_path / "y.h5", root=photos, **QUICK)


def test_a_class_of_a_table_with_images_that_are_not_read(photos: Path) -> None:
    rows = {"a/0.jpg": "cat", "b/1.psd": "dog", "b/2.jpg": "dog", "c/3.dcm": "owl"}
    with pytest.raises(
        SourceError, match=r"1 class \(owl\) would vanish: found only 1 DICOM image"
    ):
        list_source(table_of(photos / "t.csv", rows))


def test_the_overview_of_a_table(photos: Path) -> None:
    text = "id;path;label;group\n" + "".join(f"{i};{k};{k[0]};p{i}\n" for i, k in enumerate(KEYS))
    source = list_source(write(photos / "t.csv", text))
    assert describe_source(source).splitlines() == [
        f"{photos / 't.csv'}: 4 images in 4 groups, 2 classes",
        "            train",
        "  a             2",
        "  b             2",
        "  all           4",
        "  cells are separated by a semicolon",
        "  columns: path, label, group; ignored: 1 column ('id')",
    ]


def test_images_in_folders_below_are_found_by_their_names(tmp_path: Path) -> None:
    """As in HAM10000: a column of ids, and the images in two folders."""
    for number, place in enumerate(
        ("part_1/a.jpg", "part_2/b.jpg", "part_1/c.jpg", "part_2/c.jpg")
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(bytes([number]))
    source = list_source(table_of(tmp_path / "t.csv", {"a": "x", "b.jpg": "y", "c": "z"}))
    # Two images are called c.
    assert [item.key for item in source.items] == ["c", "part_1/a.jpg", "part_2/b.jpg"]
    assert "2 paths are in a folder below (a is part_1/a.jpg)" in said_by(source)
    assert "found no file for 1 of 3 paths (c)" in said_by(source)


def test_a_name_that_two_images_have_is_shown(photos: Path) -> None:
    (photos / "a" / "0.png").write_bytes(b"x")
    source = list_source(table_of(photos / "t.csv", {"a/0": "cat"}))
    assert source.problem.endswith("; a/0 may be a/0.jpg or a/0.png; write the ending")


def test_columns_that_mark_one_split_are_told(tmp_path: Path) -> None:
    said = said_by(list_source(write(tmp_path / "t.csv", "path,label,is_valid\na.jpg,x,True\n")))
    assert "ignored 1 column ('is_valid'), for none is called split; write a column split" in said
