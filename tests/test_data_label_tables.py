"""Labels, splits and groups of the rows of a store from tables."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from classify.data.dataset import load_dataset
from classify.data.label_tables import RowLabels, read_labels
from classify.data.table_rows import TableRecord
from classify.stored.match_keys import match_keys
from extract.core.errors import HeadstartError, SettingError, SourceError, StoreError
from extract.store.open import open_store
from tests.conftest import MakeStore

KEYS = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/3.jpg"]
LABELS = [0, 0, 1, 1]


def write(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    X = np.arange(8, dtype="f4").reshape(4, 2)
    return make_store(X, LABELS, split=[0, 0, 1, 1], keys=KEYS, groups=["a", "a", "", "b"])


def read(store: Path, *labels: Any, columns: str = "") -> RowLabels:
    with open_store(store) as opened:
        return read_labels(opened, labels, columns)


def test_without_tables_it_is_what_the_file_has(store: Path) -> None:
    for known in (read(store), read(store, "stored")):
        assert known.names.tolist() == ["cat", "cat", "dog", "dog"]
        assert known.labels.tolist() == LABELS
        assert known.split.tolist() == [0, 0, 1, 1]
        assert known.groups == ["a", "a", "", "b"]
        assert (known.class_names, known.tables) == (("cat", "dog"), ())


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "ndjson"])
def test_a_table_in_any_format_answers_another_question(
    store: Path, tmp_path: Path, ending: str
) -> None:
    rows = [("dog/3.jpg", "m", "test", "x"), ("cat/1.jpg", "f", "train", "y")]
    path, names = tmp_path / f"sex.{ending}", ["path", "label", "split", "group"]
    if ending in {"csv", "tsv"}:
        separator = "," if ending == "csv" else "\t"
        path.write_text("\n".join(separator.join(row) for row in (names, *rows)))
    elif ending == "parquet":
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pa.table(columns), path)
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, r, strict=True))) for r in rows))
    known = read(store, path)
    assert known.names.tolist() == ["f", "", "", "m"]
    assert known.labels.tolist() == [0, -1, -1, 1]
    assert known.split.tolist() == [0, 0, 1, 2]
    assert known.groups == ["y", "a", "", "x"]
    assert known.class_names == ("f", "m")


def test_a_later_table_wins_image_by_image(store: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", [("path", "label"), *((k, "one") for k in KEYS[:3])])
    second = write(tmp_path / "2.csv", [("path", "label"), *((k, "two") for k in KEYS[2:])])
    assert read(store, first, second).names.tolist() == ["one", "one", "two", "two"]
    assert read(store, second, first).names.tolist() == ["one", "one", "one", "two"]
    assert read(store, "stored", second).names.tolist() == ["cat", "cat", "two", "two"]
    assert read(store, second, "stored").names.tolist() == ["cat", "cat", "dog", "dog"]
    with open_store(store) as opened:
        known = read_labels(opened, ["stored", second])
    assert known.tables[0] == TableRecord("stored")
    assert known.tables[1].path == str(second)
    assert known.class_names == ("cat", "two")


def test_a_column_that_is_lacking_and_an_empty_cell_leave_what_was_there(
    store: Path, tmp_path: Path
) -> None:
    splits = write(tmp_path / "splits.csv", [("key", "split"), ("dog/1.jpg", "train")])
    known = read(store, splits)
    assert known.names.tolist() == ["cat", "cat", "dog", "dog"]
    assert known.split.tolist() == [0, 0, 0, 1]
    sex = write(
        tmp_path / "sex.csv",
        [
            ("path", "label", "split", "group"),
            ("cat/1.jpg", "f", "", "NA"),
            ("dog/1.jpg", "", "val", ""),
            ("dog/3.jpg", "NA", "", "z"),
        ],
    )
    for tables in ([splits, sex], [sex, splits]):
        assert read(store, *tables).names.tolist() == ["f", "", "", ""]
    assert read(store, splits, sex).split.tolist() == [0, 0, 1, 1]
    assert read(store, sex, splits).split.tolist() == [0, 0, 0, 1]
    assert read(store, sex).groups == ["a", "a", "", "z"]
    assert read(store, "stored", sex).names.tolist() == ["f", "cat", "dog", "dog"]


def test_names_of_classes_are_those_of_any_table(store: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", [("path", "label"), (KEYS[0], "10"), (KEYS[1], "9")])
    second = write(tmp_path / "2.csv", [("path", "label"), (KEYS[2], "9.0"), (KEYS[3], "")])
    known = read(store, first, second)
    assert known.class_names == ("9", "10")
    assert known.labels.tolist() == [1, 0, 0, -1]


def test_classes_keep_an_order_of_their_own(make_store: MakeStore, tmp_path: Path) -> None:
    X = np.zeros((4, 2), "f4")
    store = make_store(X, LABELS, keys=KEYS, class_names=("small", "large"))
    table = write(tmp_path / "more.csv", [("path", "label"), (KEYS[0], "huge")])
    assert read(store, "stored", table).class_names == ("small", "large", "huge")
    other = write(tmp_path / "other.csv", [("path", "label"), (KEYS[0], "b"), (KEYS[1], "a")])
    assert read(store, other).class_names == ("a", "b")


def test_a_class_of_failed_images_alone_is_none(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(np.zeros((4, 2), "f4"), LABELS, keys=KEYS, failed=[3])
    rows = list(zip(KEYS, ["x", "y", "y", "z"], strict=True))
    known = read(store, write(tmp_path / "t.csv", [("path", "label"), *rows]))
    assert known.class_names == ("x", "y")
    assert known.labels.tolist() == [0, 1, 1, -1]


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("cat/1.jpg", 0),
        ("./cat//1.jpg", 0),
        (" cat\\1.jpg ", 0),
        ("CAT/1.JPG", 0),
        ("cat/1", 0),
        ("2.jpg", 1),
        ("3", 3),
        ("photos/dog/1.jpg", 2),
        ("/home/me/photos/dog/1.jpg", 2),
        ("C:\\photos\\dog\\1.jpg", 2),
        ("1.jpg", -1),  # of a cat, and of a dog
        ("cat/1.png", -1),
        ("cat/11.jpg", -1),
        ("at/1.jpg", -1),
        ("test/dog/1.jpg", -1),  # another split has other images
    ],
)
def test_a_key_matches_as_paths_of_tables_do(key: str, row: int) -> None:
    assert match_keys([key], KEYS, "photos").rows == [row]


def test_unicode_forms_are_one_key() -> None:
    assert match_keys(["cafe\u0301/1.jpg"], ["caf\u00e9/1.jpg"]).rows == [0]
    assert match_keys(["a.jpg"], ["A.jpg", "a.JPG"]).rows == [-1]
    assert match_keys(["a.jpg"], ["A.jpg", "a.jpg"]).rows == [1]
    assert match_keys(["x/1.jpg", "y/1.jpg"], ["1.jpg"], "y").rows == [-1, 0]
    assert match_keys(["x/1.jpg", "y/1.jpg"], ["1.jpg"], "z").rows == [-1, -1]


_NAME = st.text("ab12", min_size=1, max_size=3)
_KEY = st.tuples(_NAME, _NAME, _NAME).map(lambda parts: "/".join(parts) + ".jpg")
_DECORATIONS = {
    "as it is": str,
    "outer space": " {} ".format,
    "a dot": "./{}".format,
    "backslashes": lambda key: key.replace("/", "\\"),
    "case": str.upper,
    "no ending": lambda key: key.removesuffix(".jpg"),
    "a folder": "photos/{}".format,
    "an absolute path": "/home/me/photos/{}".format,
}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_KEY, min_size=1, max_size=8, unique=True),
    st.lists(st.sampled_from([*_DECORATIONS]), min_size=8, max_size=8),
    st.sampled_from(["a folder", "an absolute path"]),
)
def test_a_key_that_is_written_otherwise_matches_its_row(
    keys: list[str], how: list[str], front: str
) -> None:
    # One folder is in front of keys; with two of them it would not be known which one is meant.
    how = [front if "folder" in one or "path" in one else one for one in how]
    written = [_DECORATIONS[one](key) for one, key in zip(how, keys, strict=False)]
    assert match_keys(written, keys, "photos").rows == list(range(len(keys)))


@settings(max_examples=200, deadline=None)
@given(st.lists(_NAME, max_size=6), st.lists(_KEY, min_size=1, max_size=8, unique=True))
def test_a_part_of_a_key_matches_where_one_image_has_it(names: list[str], keys: list[str]) -> None:
    for written in (*names, *(key.partition("/")[2] for key in keys)):
        ends = (written, f"{written}.jpg")
        rows = [row for row, key in enumerate(keys) if any(key.endswith(f"/{e}") for e in ends)]
        expected = rows[0] if len(rows) == 1 else -1
        assert match_keys([written], keys).rows == [expected]


def test_the_command_counts_what_does_not_match(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("path", "label"), ("cat/1.jpg", "f"), ("dog\\1.jpg", "m"), ("no.jpg", "m")]
    table = write(tmp_path / "sex.csv", [*rows, ("1.jpg", "m")])
    with caplog.at_level("INFO"):
        read(store, table)
    text = "\n".join(caplog.messages)
    assert "found no image for 1 key (no.jpg)" in text
    assert "1 key that fit more than one image (1.jpg fits cat/1.jpg and dog/1.jpg)" in text
    assert "1 key are written otherwise (dog\\1.jpg is dog/1.jpg)" in text
    assert "found no row for 2 images (cat/2.jpg, dog/3.jpg)" in text
    assert "--labels stored" in text
    caplog.clear()
    with caplog.at_level("INFO"):
        read(store, "stored", table)
    text = "\n".join(caplog.messages)
    assert "2 rows of 4 images; 2 labels changed, 0 added" in text
    assert "found no row for" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found nothing; expected a table"),
        (b"path,label\n", "found no rows"),
        (b"path,species\na,b\n", "label=NAME"),
        (b"file,label\na,b\n", "'path' is unknown.*name the path with --columns path=file$"),
        (b"path,label,label\na,b,c\n", "two columns are called 'label'"),
        (b"path,label\ncat/1.jpg,a\0b\n", r"row 1: found 'a\\x00b' in column label"),
        (b"path,label\ncat/1.jpg\n", "row 1: found 1 cell; expected 2"),
        (b"path,label\n,a\n", "row 1: found '' in column path; expected the path"),
        (b"path,split\ncat/1.jpg,nope\n", "row 1: found 'nope' in column split; expected one of"),
        (b"path,label\ncat/1.jpg," + b"x" * 10**6, "found a label of 1,000,000 characters"),
        (b"path,split\ncat/1.jpg," + b"x" * 10**6, "row 1: found 'xxx"),
        (b"path,label\nnever/0.jpg,a\n", "no key is that of an image in .*cat/1.jpg there"),
        (b"path,label\n1.jpg,a\n", "1.jpg fits cat/1.jpg and dog/1.jpg"),
        (b"path,label\ncat/1.jpg,a\n./cat/1.jpg,b\n", "row 1 and 2 give cat/1.jpg the label a"),
        (b"path,split\ncat/1.jpg,train\ncat/1,test\n", "give cat/1.jpg the split train and test"),
        (b"path,group\ncat/1.jpg,1\ncat/1.jpg,2\n", "give cat/1.jpg the group 1 and 2"),
        (b'path,label\n"cat/1.jpg,a\n', "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_in_one_line(
    store: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    table = tmp_path / "odd.csv"
    table.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        read(store, table)
    assert "odd.csv" in str(error.value)
    assert len(str(error.value)) < 700


def test_equal_rows_and_rows_that_complete_each_other_are_one(store: Path, tmp_path: Path) -> None:
    rows = [("path", "label", "split"), ("cat/1.jpg", "a", ""), ("cat/1", "a", "test")]
    known = read(store, write(tmp_path / "twice.csv", rows))
    assert (known.names[0], known.split[0]) == ("a", 2)


def test_a_table_in_another_encoding_is_read(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "old.csv"
    table.write_bytes("path;label\ncat/1.jpg;M\u00fcller\ndog/1.jpg;x\n".encode("cp1252"))
    assert read(store, table).class_names == ("M\u00fcller", "x")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.csv", "cannot be opened: No such file"),
        ("labels.xlsx", "no table of labels; expected .csv"),
        ("store", "no table of labels"),
        ("https://example.org/a.csv", "a URL; expected a path"),
        ("a\0.csv", "cannot be opened"),
    ],
)
def test_a_path_that_is_no_table_is_named(store: Path, path: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(store, path)


def test_a_folder_is_no_table(store: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SourceError, match=r"folder.csv: cannot be opened"):
        read(store, tmp_path / "folder.csv")


def test_columns_are_named_for_all_tables(store: Path, tmp_path: Path) -> None:
    sex = write(tmp_path / "sex.csv", [("Image", "sex"), ("cat/1.jpg", "f"), ("dog/1.jpg", "m")])
    columns = "path=image,label=sex"
    assert read(store, sex, columns=columns).names.tolist() == ["f", "", "m", ""]
    assert read(store, sex, columns="key=image,label=sex").names.tolist() == ["f", "", "m", ""]
    rest = write(tmp_path / "rest.csv", [("key", "label"), ("dog/3.jpg", "m")])
    assert read(store, sex, rest, columns=columns).names.tolist() == ["f", "", "m", "m"]


@pytest.mark.parametrize(
    ("columns", "tables", "message"),
    [
        ("label=sexx", 1, "'sexx' is unknown; nearest: sex"),
        ("label=sexx", 2, "columns: column 'sexx' is unknown; nearest: sex.*no table has it"),
        ("features=f", 1, "features has no effect"),
        ("path=path,key=path", 1, "path and key, which are one"),
        ("label=label", 0, "no effect without --labels TABLE"),
        ("colour=a", 1, "'colour' is unknown"),
    ],
)
def test_columns_that_cannot_be_used(
    store: Path, tmp_path: Path, columns: str, tables: int, message: str
) -> None:
    sex = write(tmp_path / "sex.csv", [("path", "sex"), ("cat/1.jpg", "f"), ("dog/1.jpg", "m")])
    with pytest.raises(HeadstartError, match=message):
        read(store, *[sex, sex][:tables], columns=columns)


def test_a_recorded_table_must_be_the_same(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "sex.csv", [("path", "label"), ("cat/1.jpg", "f")])
    known = read(store, table)
    assert read(store, *known.tables).names.tolist() == known.names.tolist()
    write(table, [("path", "label"), ("cat/1.jpg", "m")])
    with pytest.raises(SourceError, match=r"has SHA-256 .*, as in training"):
        read(store, *known.tables)
    table.unlink()
    with pytest.raises(SourceError, match=r"sex.csv: cannot be opened"):
        read(store, *known.tables)


def test_a_dataset_of_a_table(store: Path, tmp_path: Path) -> None:
    table = write(
        tmp_path / "sex.csv",
        [("path", "label"), ("dog/3.jpg", "f"), ("cat/1.jpg", "m"), ("cat/2.jpg", "f")],
    )
    dataset = load_dataset(store, labels=table)
    assert dataset.keys == ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]
    assert dataset.y.tolist() == [1, 0, 0]
    assert dataset.class_names == ("f", "m")
    assert dataset.X.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert dataset.rows is not None
    assert dataset.rows.tolist() == [0, 1, 3]
    assert dataset.groups == ["a", "a", "b"]
    assert [record.path for record in dataset.labels] == [str(table)]
    assert load_dataset(store).fingerprint != load_dataset(store, labels=table).fingerprint
    same = write(tmp_path / "same.csv", [("path", "label"), *((k, k[:3]) for k in KEYS)])
    assert load_dataset(store, labels=same).fingerprint == load_dataset(store).fingerprint
    left = load_dataset(store, labels=["stored", table], leave_out="f")
    assert (left.class_names, left.keys) == (("dog", "m"), ["cat/1.jpg", "dog/1.jpg"])
    with pytest.raises(SettingError, match=r"leave_out: .*'cat' is unknown"):
        load_dataset(store, labels=table, leave_out="cat")


def test_no_label_at_all_says_what_to_do(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(np.zeros((4, 2), "f4"), [-1] * 4, keys=KEYS, class_names=())
    with pytest.raises(StoreError, match=r"none of 4 images has .*--labels TABLE, or extract"):
        load_dataset(store)
    table = write(tmp_path / "empty.csv", [("path", "label"), ("cat/1.jpg", "")])
    with pytest.raises(StoreError, match=r"none of 4 images has .*fill the column of labels"):
        load_dataset(store, labels=table)
