"""The labels beside a head: its tables may be elsewhere, gone, or of other images."""

import csv
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from classify import predict_images, train_heads
from classify.cli import main as train_command
from classify.predict_cli import main as predict_command
from extract import write_features
from extract.core.console import log
from extract.core.errors import SourceError
from tests.test_labelling_questions import draw

X, TRUTH = draw()
KEYS = [f"{row:03d}.jpg" for row in range(40)]


def write_labels(path: Path, rows: range, heading: str = "key,label") -> Path:
    """Write the true labels of some rows."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(heading + "\n" + "".join(f"{KEYS[i]},{TRUTH[i]}\n" for i in rows), newline="\n")
    return path


def head_of(store: Path, folder: Path, **settings: Any) -> Path:
    settings = {"head": "logistic", "folds": 3, "quiet": True, **settings}
    folder.parent.mkdir(exist_ok=True)
    train_heads(store, output=folder, **settings)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """40 rows without labels."""
    write_features(tmp_path / "out.h5", X, keys=KEYS, quiet=True)
    return tmp_path / "out.h5"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Other images, with labels."""
    keys = [f"new/{key}" for key in "abcdefghij"]
    write_features(tmp_path / "other.h5", X[:10], keys=keys, labels=TRUTH[:10], quiet=True)
    return tmp_path / "other.h5"


def test_a_head_with_tables_labels_other_images(
    store: Path, other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_labels(tmp_path / "tables/known.csv", range(30))
    head = head_of(store, tmp_path / "heads/one", labels=table)
    assert predict_images(store, head, quiet=True).evaluation is not None
    caplog.set_level("INFO", log.name)
    for done, said in (
        (lambda: None, "knows no row of this file"),
        (lambda: table.write_text("key,label\n", newline="\n"), "has changed since then"),
        (table.unlink, "is not there"),
    ):
        done()
        caplog.clear()
        found = predict_images(other, head)
        assert (len(found), found.evaluation) == (10, None)
        (note,) = (r.getMessage() for r in caplog.records if "left out labels" in r.getMessage())
        assert f"known.csv {said}" in note.replace("'", "")
        assert "name the tables with --labels, or --labels stored for the labels in" in note
        for settings in ({"only": "unlabelled"}, {"to_label": 3}):
            with pytest.raises(SourceError, match=rf"known.csv'? {said}; name the tables with --l"):
                predict_images(other, head, **settings)
        own = predict_images(other, head, labels="stored").evaluation
        assert own is not None
        assert own.rows == 10
    # Its own file as well.
    assert predict_images(store, head).evaluation is None


def test_tables_are_found_beside_the_head_and_the_file(store: Path, tmp_path: Path) -> None:
    table = write_labels(tmp_path / "tables/known.csv", range(30))
    head = head_of(store, tmp_path / "heads/one", labels=table)
    for place in (head.parent, store.parent):
        table = Path(shutil.move(table, place / "known.csv"))
        assert len(predict_images(store, head, only="unlabelled", quiet=True)) == 10
        evaluation = predict_images(store, head, quiet=True).evaluation
        assert evaluation is not None
        assert evaluation.rows == 30


def test_one_table_of_several_is_left_out(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = [
        write_labels(tmp_path / "a.csv", range(20)),
        write_labels(tmp_path / "b.csv", range(20, 30)),
    ]
    head = head_of(store, tmp_path / "head", labels=tables)
    tables[0].unlink()
    caplog.set_level("INFO", log.name)
    evaluation = predict_images(store, head).evaluation
    assert evaluation is not None
    assert evaluation.rows == 10
    assert "a.csv is not there" in caplog.text.replace("'", "")
    with pytest.raises(SourceError, match=r"a.csv'? is not there; name the tables with --labels"):
        predict_images(store, head, to_label=3)


def answer(table: Path) -> list[str]:
    """Fill in the labels of a table as a person would; return its keys."""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        row["label"] = TRUTH[KEYS.index(row["key"])]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return [row["key"] for row in rows]


@pytest.mark.parametrize("case", ["given", "recorded", "stored", "splits", "columns", "both"])
def test_the_printed_command_keeps_all_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """The rows that are trained on are those that had a label, and the new ones."""
    store, table = tmp_path / "out.h5", write_labels(tmp_path / "known.csv", range(20))
    labels = [name if i < 15 else None for i, name in enumerate(TRUTH)]
    in_file = case in ("stored", "splits", "both")
    write_features(store, X, keys=KEYS, labels=labels if in_file else None, quiet=True)
    words, settings = [str(store)], dict[str, Any]()
    if case == "given":
        words += ["--labels", str(table)]
    elif case == "splits":
        rows = "".join(f"{key},train\n" for key in KEYS)
        table.write_text(f"key,split\n{rows}", newline="\n")
        settings["labels"] = table
    elif case == "columns":
        write_labels(table, range(20), "file,species")
        settings = {"labels": table, "columns": "path=file,label=species"}
    elif case != "stored":
        settings["labels"] = ["stored", table] if case == "both" else table
    if case != "given":
        words.insert(0, str(head_of(store, tmp_path / "head", **settings)))
    new = tmp_path / "new.csv"
    capsys.readouterr()
    assert predict_command([*words, "--to-label", "6", "-o", str(new)]) == 0
    (line,) = (e for e in capsys.readouterr().err.splitlines() if e.startswith("next: "))
    chosen = answer(new)
    known = KEYS[:15] if case in ("stored", "splits") else KEYS[:20]
    assert set(known).isdisjoint(chosen)
    command = shlex.split(line.partition(", then ")[2])
    assert command[0] == "train-head"
    folder = tmp_path / ("out_head" if case == "given" else "head")
    assert ("-o" in command) == (case != "given")
    assert train_command([*command[1:], "--head", "logistic", "--folds", "3", "-q"]) == 0
    # What is left has no label.
    left = predict_images(store, folder, only="unlabelled", quiet=True)
    assert {p.key for p in left} == set(KEYS) - set(known) - set(chosen)
