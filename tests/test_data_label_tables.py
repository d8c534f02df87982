"""Labels, splits and groups of the rows of a store from tables."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sklearn.linear_model import LogisticRegression

from classify.cli import main as train_head
from classify.data.dataset import load_dataset
from classify.data.label_tables import RowLabels, read_labels
from classify.data.table_rows import TableRecord
from classify.inference.bundle import load_head
from classify.stored.match_keys import match_keys
from classify.stored.out_of_core import StoredRows
from classify.train import train_heads
from extract import write_features
from extract.core.errors import HeadError, HeadstartError, SettingError, SourceError, StoreError
from extract.display.tables import csv_text
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


def test_numbers_and_forms_of_unicode_are_one_name_in_all_tables(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(np.zeros((4, 2), "f4"), LABELS, keys=KEYS, groups=["1", "2", "", ""])
    rows = [(KEYS[0], "9.0", ""), (KEYS[1], "cafe\u0301", "b"), (KEYS[2], "caf\u00e9", "1.0")]
    first = write(tmp_path / "1.csv", [("path", "label", "group"), *rows])
    second = write(tmp_path / "2.csv", [("path", "label"), (KEYS[3], "9")])
    known = read(store, first, second)
    assert known.names.tolist() == ["9", "caf\u00e9", "caf\u00e9", "9"]
    assert known.labels.tolist() == [0, 1, 1, 0]
    assert known.groups == ["1", "b", "1", ""]


def test_new_classes_are_in_order_with_those_of_the_file(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "more.csv", [("path", "label"), (KEYS[0], "bird")])
    assert read(store, "stored", table).class_names == ("bird", "cat", "dog")


def test_a_table_of_keys_alone_is_refused_among_others(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "sex.csv", [("path", "label"), (KEYS[0], "f")])
    keys = write(tmp_path / "keys.csv", [("path",), (KEYS[0],)])
    with pytest.raises(SourceError, match=r"keys.csv: found no column for label"):
        read(store, table, keys)


def test_a_row_of_a_table_of_splits_is_none_for_the_label(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write(tmp_path / "sex.csv", [("path", "label"), (KEYS[0], "f"), (KEYS[1], "m")])
    splits = write(tmp_path / "splits.csv", [("path", "split"), *((k, "train") for k in KEYS)])
    with caplog.at_level("INFO"):
        read(store, splits, table)
    assert "found no row for 2 images (dog/1.jpg, dog/3.jpg)" in caplog.text


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


def test_apostrophes_against_spreadsheets_are_undone(make_store: MakeStore, tmp_path: Path) -> None:
    keys = ["=a.jpg", "'+b.jpg", "@c.jpg", "d.jpg"]
    store = make_store(np.zeros((4, 2), "f4"), [-1] * 4, keys=keys)
    rows = [(csv_text(key), csv_text(name)) for key, name in zip(keys, "=-@x", strict=True)]
    known = read(store, write(tmp_path / "t.csv", [("path", "label"), *rows]))
    assert known.names.tolist() == ["=", "-", "@", "x"]


def test_answers_of_a_head_as_labels_are_warned_of(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heading = ("key", "label", "score", "margin", "reason")
    table = write(tmp_path / "p.csv", [heading, (KEYS[0], "cat", "0.9", "0.8", "")])
    assert read(store, table).names.tolist() == ["cat", "", "", ""]
    assert "p.csv: holds the answers of a head, which are taken as labels here" in caplog.text


def test_unicode_forms_are_one_key() -> None:
    assert match_keys(["cafe\u0301/1.jpg"], ["caf\u00e9/1.jpg"]).rows == [0]
    assert match_keys(["https://me:pw@host/1.jpg"], ["https://host/1.jpg"]).rows == [0]
    assert match_keys(["a.jpg"], ["A.jpg", "a.JPG"]).rows == [-1]
    assert match_keys(["a.jpg"], ["A.jpg", "a.jpg"]).rows == [1]
    assert match_keys(["x/1.jpg", "y/1.jpg"], ["1.jpg"], "y").rows == [-1, 0]
    assert match_keys(["x/1.jpg", "y/1.jpg"], ["1.jpg"], "z").rows == [-1, -1]
    others = [f"other/{row}.jpg" for row in range(3000)]
    assert match_keys([*others, "photos/cat/1.jpg"], ["cat/1.jpg"]).rows[-1] == 0


_NAME = st.text("ab12", min_size=1, max_size=3)
_KEY = st.tuples(_NAME, _NAME, _NAME).map(lambda parts: "/".join(parts) + ".jpg")
_DECORATIONS: dict[str, Callable[[str], str]] = {
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
    assert "left out 1 key of more than one image (1.jpg fits cat/1.jpg and dog/1.jpg)" in text
    assert "matched 1 key in another form (dog\\1.jpg is dog/1.jpg)" in text
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


# Heads of tables

SPECIES = np.array(["jay", "owl", "tit"])


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A store of 120 birds whose features tell species and sex, and a table of the sex of 100."""
    generator = np.random.default_rng(0)
    species, sex = generator.integers(0, 3, 120), generator.integers(0, 2, 120)
    X = generator.normal(size=(120, 8)).astype("f4")
    X[np.arange(120), species] += 1.5
    X[:, 5] += 1.5 * sex
    keys = [f"{name}/{row:03d}.jpg" for row, name in enumerate(SPECIES[species])]
    split = np.array(["train", "validation", "test"])[np.arange(120) // 10 % 3]
    write_features(
        tmp_path / "birds.h5", X, labels=SPECIES[species], keys=keys, split=split, quiet=True
    )
    table = pd.DataFrame({"image": keys, "sex": np.array(["f", "m"])[sex], "id": range(120)})
    table.loc[::6, "sex"] = None
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "birds.csv", index=False)
    return tmp_path / "birds.h5"


def test_two_questions_about_one_store_score_as_by_hand(birds: Path, tmp_path: Path) -> None:
    content = birds.read_bytes()
    settings: Any = {"head": "logistic", "C": 0.5, "transform": (), "quiet": True}
    result = train_heads(birds, output=tmp_path / "species", **settings)
    table = tmp_path / "birds.csv"
    named = "path=image,label=sex"
    sexed = train_heads(birds, output=tmp_path / "sex", labels=table, columns=named, **settings)
    assert birds.read_bytes() == content
    with h5py.File(birds) as file:
        keys, X = file["keys"].asstr()[:], file["features"][:].astype(float)
        split, species = file["split"][:], file["labels"][:]
    sexes = pd.read_csv(table).set_index("image").loc[keys, "sex"].to_numpy()
    known = pd.notna(sexes)
    for one, rows, y in ((result, split < 3, SPECIES[species]), (sexed, known, sexes)):
        train, rest, test = (np.flatnonzero(rows & (split == side)) for side in (0, 1, 2))
        hand = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cholesky")
        hand.fit(X[train], y[train].astype(str))
        assert one.scores is not None
        np.testing.assert_allclose(one.scores, hand.predict_proba(X[rest]), atol=1e-4)
        assert one.accuracy == pytest.approx(hand.score(X[rest], y[rest].astype(str)))
        assert one.test is not None
        assert one.test.accuracy == pytest.approx(hand.score(X[test], y[test].astype(str)))
    assert load_head(tmp_path / "species").class_names == tuple(SPECIES)
    assert load_head(tmp_path / "sex").class_names == ("f", "m")


def test_a_head_remembers_its_tables(birds: Path, tmp_path: Path) -> None:
    table, folder = tmp_path / "birds.csv", tmp_path / "sex"
    words = [str(birds), "--labels", str(table), "--columns", "path=image,label=sex"]
    words += ["--labels", "stored", "--head", "ridge", "-o", str(folder)]
    assert train_head(words) == 0
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    recorded = [{"path": str(table), "sha256": digest}, {"path": "stored", "sha256": ""}]
    for name in ("bundle.json", "result.json"):
        described = json.loads((folder / name).read_text())
        assert described["labels"] == recorded
        assert described["columns"] == "path=image,label=sex"
    head = load_head(folder)
    assert head.labels == (TableRecord(str(table), digest), TableRecord("stored"))
    assert head.columns == "path=image,label=sex"
    page = (folder / "report.html").read_text().replace("<wbr>", "")
    assert f"birds.csv, SHA-256 {digest}</bdi>" in page
    assert "those of the file" in page
    with open_store(birds) as store:
        assert read_labels(store, head.labels, head.columns).class_names == tuple(SPECIES)


def test_a_head_of_the_labels_in_the_file_remembers_no_table(birds: Path, tmp_path: Path) -> None:
    for labels in ((), "stored"):
        train_heads(birds, output=tmp_path / "head", labels=labels, head="ridge", quiet=True)
        assert "labels" not in json.loads((tmp_path / "head/bundle.json").read_text())
        assert load_head(tmp_path / "head").labels == ()
        assert "csv, SHA-256" not in (tmp_path / "head/report.html").read_text()


@pytest.mark.parametrize("labels", [3, [3], ["a.csv"], [{"path": 3}], [{"sha": "a"}]])
def test_damaged_tables_in_a_folder_are_named(birds: Path, tmp_path: Path, labels: Any) -> None:
    folder = tmp_path / "head"
    train_heads(birds, output=folder, head="ridge", quiet=True)
    described = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(described | {"labels": labels}))
    with pytest.raises(HeadError, match="damaged"):
        load_head(folder)


def test_a_table_is_never_replaced(birds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    train_heads(birds, output=folder, head="ridge", quiet=True)
    table = folder / "predictions.csv"
    content = table.read_bytes()
    (tmp_path / "link").symlink_to(folder)
    settings: Any = {"columns": "label=truth", "head": "ridge", "quiet": True}
    for output in (folder, tmp_path / "link", tmp_path):
        with pytest.raises(HeadError, match=r"predictions.csv, which this command reads"):
            train_heads(birds, labels=table, output=output, **settings)
    with pytest.raises(HeadError, match=r"predictions.csv, which this command reads"):
        train_heads(birds, labels=table, output=tmp_path / "new", export=folder, **settings)
    (tmp_path / "linked.csv").symlink_to(table)
    with pytest.raises(HeadError, match=r"linked.csv, which this command reads"):
        train_heads(birds, labels=tmp_path / "linked.csv", output=folder, **settings)
    assert table.read_bytes() == content


def test_other_labels_are_another_search(birds: Path, tmp_path: Path) -> None:
    folder, named = tmp_path / "head", "path=image,label=sex"
    words = [str(birds), "--head", "ridge", "--head", "lda", "-q", "-o", str(folder)]
    words += ["--columns", named]
    swapped = pd.read_csv(tmp_path / "birds.csv").replace({"sex": {"f": "m", "m": "f"}})
    swapped.to_csv(tmp_path / "swapped.csv", index=False)
    assert train_head([*words, "--labels", str(tmp_path / "swapped.csv")]) == 0
    kept = (folder / "candidates.jsonl").read_bytes()
    words += ["--labels", str(tmp_path / "birds.csv")]
    assert train_head(words) == 0
    other = (folder / "candidates.jsonl").read_bytes()
    assert kept.split(b"\n")[0] != other.split(b"\n")[0]
    trained = [row for row in range(120) if row % 6 and row // 10 % 3 == 0]
    described = json.loads((folder / "result.json").read_text())
    assert described["split"]["train"] == len(trained)
    assert train_head(words) == 0
    assert (folder / "candidates.jsonl").read_bytes() == other  # nothing was trained again


@pytest.mark.parametrize(
    "more",
    [
        ["--folds", "3"],
        ["--positive", "m", "--metric", "average_precision"],
        ["--groups", "digest"],
        ["--memory", "1e-6", "--head", "ridge"],
        ["--layer", "features"],
    ],
    ids=lambda words: words[0],
)
def test_other_flags_work_with_tables(
    birds: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(birds), "--labels", str(tmp_path / "birds.csv"), "--columns"]
    words += ["path=image,label=sex", "-o", str(tmp_path / "head"), *more]
    assert train_head([*words, *([] if "--head" in more else ["--head", "lda"])]) == 0
    assert load_head(tmp_path / "head").class_names == ("f", "m")
    assert "left out: 20 rows without a label" in capsys.readouterr().err


def test_features_that_stay_in_the_file_have_the_labels_of_a_table(
    birds: Path, tmp_path: Path
) -> None:
    named: Any = {"labels": tmp_path / "birds.csv", "columns": "path=image,label=sex"}
    held, left = (load_dataset(birds, memory=memory, **named) for memory in (None, 1e-6))
    assert isinstance(left.X, StoredRows)
    assert left.y.tolist() == held.y.tolist()
    np.testing.assert_array_equal(left.X.read(np.arange(len(left.y))), held.X)


def test_the_layers_of_a_store_have_the_labels_of_a_table(
    make_store: MakeStore, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 4)).astype("f4")
    y = generator.integers(0, 2, 60)
    other = X.copy()
    other[:, 0] += 20 * y
    store = make_store({"conv1_relu": X, "conv_pw_1_relu": other}, [0, 1] * 30)
    keys = [f"{row:06d}.png" for row in range(60)]
    table = write(tmp_path / "y.csv", [("path", "label"), *zip(keys, y.tolist(), strict=True)])
    settings: Any = {"head": "lda", "output": tmp_path / "head", "quiet": True}
    result = train_heads(store, labels=table, **settings)
    assert result.best.spec.layer == ("conv_pw_1_relu",)
    assert result.accuracy == 1
    assert load_head(tmp_path / "head").class_names == ("0", "1")
