"""Images to label: the table and the page, which never replace the work of a person."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify import predict_images, train_heads
from classify.labelling.questions import HEADING, check_questions
from classify.predict_cli import main as predict_command
from extract import extract_features, write_features
from extract.core.console import log
from extract.core.errors import HeadError, HeadstartError, SettingError, StoreError
from tests.conftest import QUICK

HEAD = ",".join(HEADING) + "\n"


def draw(classes: int = 4, count: int = 40) -> tuple[np.ndarray, list[str]]:
    """Features and their true classes."""
    random = np.random.default_rng(0)
    y = random.integers(0, classes, count)
    X = np.eye(classes, 6)[y] * 3 + random.normal(size=(count, 6))
    return X.astype(np.float32), [f"class {label}" for label in y]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file of 40 rows without labels."""
    keys = [f"site/{row:03d}.jpg" for row in range(40)]
    write_features(tmp_path / "out.h5", draw()[0], keys=keys, quiet=True)
    return tmp_path / "out.h5"


def answer(table: Path, truth: list[str]) -> None:
    """Fill in the labels as a person would, and keep the rest of the table."""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        row["label"] = truth[int(row["key"][5:8])]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADING)
        writer.writeheader()
        writer.writerows(rows)


def test_the_loop(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = draw()[1]
    tables = [tmp_path / f"round{number}.csv" for number in (1, 2, 3)]
    words = [str(store), "--to-label", "12", "-o", str(tables[0])]
    assert predict_command(words) == 0
    said = capsys.readouterr().err
    assert f"then train-head {store} --labels {tables[0]}" in said
    assert "12 images chosen of 40 without a label; " in said
    rows = list(csv.reader(tables[0].read_text().splitlines()))
    assert tuple(rows[0]) == HEADING
    assert all(row[1:] == ["", "", "", ""] for row in rows[1:])
    answer(tables[0], truth)
    head = tmp_path / "head"
    train_heads(store, output=head, head="logistic", labels=tables[0], quiet=True)
    scored = predict_images(store, head, only="unlabelled", quiet=True)
    known = {row[0] for row in rows}
    assert len(scored) == 28
    assert not known & {p.key for p in scored}
    capsys.readouterr()
    assert predict_command([str(head), *words[:-1], str(tables[1])]) == 0
    assert f"then train-head {store} --labels {tables[0]} --labels {tables[1]}" in (
        capsys.readouterr().err
    )
    rows = list(csv.reader(tables[1].read_text().splitlines()))[1:]
    by_key = {p.key: p for p in scored}
    assert len(rows) == 12
    for key, label, suggested, score, margin in rows:
        assert label == ""
        assert suggested == by_key[key].label
        assert [float(score), float(margin)] == pytest.approx(by_key[key][2:4], abs=1e-6)
    margins = [float(row[4]) for row in rows]
    assert margins == sorted(margins)
    answer(tables[1], truth)
    result = train_heads(
        store, output=head, head="logistic", labels=tables[:2], folds=3, quiet=True
    )
    assert result.dataset is not None
    assert len(result.dataset.y) == 24
    found = predict_images(store, head, to_label=99, quiet=True)
    assert len(found) == found.unlabelled == 16
    assert {p.key for p in found}.isdisjoint(result.dataset.keys)


def test_features_that_are_no_numbers_are_never_chosen(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("key,label\n" + "".join(f"site/{i:03d}.jpg,{i % 2}\n" for i in range(20)))
    train_heads(store, output=tmp_path / "head", head="logistic", labels=table, quiet=True)
    for rows, left in ((slice(25, 30), 15), (slice(20, 40), 0)):
        with h5py.File(store, "r+") as file:
            file["features"][rows, 1] = np.nan
        for head in (None, tmp_path / "head"):
            settings: dict[str, Any] = {"head": head, "labels": table, "to_label": 40}
            if left:
                found = predict_images(store, **settings, quiet=True)
                bad = {f"site/{i:03d}.jpg" for i in range(25, 30)}
                assert len(found) == left
                assert bad.isdisjoint(p.key for p in found)
                continue
            with pytest.raises(StoreError, match=r"none of 20 images can be chosen: its feat"):
                predict_images(store, **settings, quiet=True)


def test_tables_of_labels_can_be_named(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("file,species\n" + "".join(f"site/{i:03d}.jpg,x\n" for i in range(30)))
    settings: dict[str, Any] = {"columns": "path=file,label=species", "quiet": True}
    found = predict_images(store, to_label=50, labels=table, **settings)
    assert sorted(p.key for p in found) == [f"site/{i:03d}.jpg" for i in range(30, 40)]
    assert all(p[1:] == (None, None, None, None) for p in found)
    assert (found.unreadable, found.unsure) == (0, 0)
    assert "10 images chosen of 10 without a label" in repr(found)
    table.write_text("key,label\n" + "".join(f"site/{i:03d}.jpg,x\n" for i in range(40)))
    with pytest.raises(StoreError, match=r"nothing to label: each of its 40 images has a label$"):
        predict_images(store, to_label=5, labels=[table], quiet=True)


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "a.jpg,cat,dog,0.5,0.1\n",
        HEAD + "a.jpg,,,,\nb.jpg, cat ,,,\n",
        "\ufeff" + HEAD.replace("\n", "\r\n") + "a.jpg,cat,,,\r\n",
        HEAD + "a.jpg,,,,,a note\n",
        HEAD + "a.jpg,,corrected,0.5,0.1\n",
        HEAD + "a.jpg,,,,\n",
        HEAD,
        HEAD.replace(",", ";") + "a.jpg;cat;;;\n",
        "key,label\na.jpg,cat\n",
        "key,label,score,margin,reason\n",
        "# my notes\n",
        b"\xff\xfe\x00",
    ],
    ids=range(12),
)
def test_what_a_person_wrote_is_never_replaced(
    store: Path, tmp_path: Path, content: str | bytes
) -> None:
    table = tmp_path / "next.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = table.read_bytes()
    with pytest.raises(HeadError, match=r"is there already, and may hold labels; expected a n"):
        predict_images(store, to_label=3, output=table, quiet=True)
    assert table.read_bytes() == before


def test_a_table_is_new_or_empty(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "next.csv"
    table.touch()
    for count in (3, 5):
        predict_images(store, to_label=count, output=table, quiet=True)
        assert len(table.read_text().splitlines()) == count + 1
        table.unlink()
    with pytest.raises(HeadError, match=r"found the ending '.txt'; expected .csv, which train-"):
        check_questions(tmp_path / "next.txt")


def test_names_are_safe_in_a_spreadsheet(tmp_path: Path) -> None:
    store, table = tmp_path / "out.h5", tmp_path / "next.csv"
    write_features(store, draw(count=3)[0], keys=["=1+1", "b", "c\n"], quiet=True)
    predict_images(store, to_label=3, output=table, quiet=True)
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert {row[0] for row in rows[1:]} == {"'=1+1", "b", "c\n"}


def test_the_page_shows_the_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}<b>.png")
    (flat / "broken.png").write_bytes(b"no image")
    store, page, table = tmp_path / "out.h5", tmp_path / "next.html", tmp_path / "next.csv"
    settings: dict[str, Any] = {**QUICK, "max_bad": "50%", "quiet": True}
    extract_features(flat, store, **settings)
    words = [str(store), "--to-label", "5", "-q", "-o", str(table), "--page", str(page)]
    assert predict_command(words) == 0
    text = page.read_text()
    assert text.count("data:image/webp;base64,") == 5
    assert "<b>" not in text
    shown = re.findall(r"<code>.*?>(\d)&lt;b&gt;.png", text)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["key"] for row in rows] == [f"{number}<b>.png" for number in shown]
    assert "the column label of next.csv" in text
    flat.rename(tmp_path / "moved")
    words[5] = str(tmp_path / "again.csv")
    assert predict_command(words) == 0
    assert "data:image/webp" not in page.read_text()
    words[5] = str(tmp_path / "third.csv")
    assert predict_command([*words, "--images", str(tmp_path / "moved")]) == 0
    assert page.read_text().count("data:image/webp;base64,") == 5
    # Everything else is left as it is.
    words[5] = str(tmp_path / "fourth.csv")
    for target in (store, table):
        before = target.read_bytes()
        assert predict_command([*words[:-1], str(target)]) == 1
        assert target.read_bytes() == before
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    capsys.readouterr()
    assert predict_command([*words[:-1], str(tmp_path / "mine.html")]) == 1
    assert "holds something else; expected a page of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"to_label": 0}, "to_label: found 0; expected a whole number of 1 or more"),
        ({"to_label": 3, "top": 2}, "top and to_label cannot be combined; choose one"),
        ({"to_label": 3, "format": "json"}, "format and to_label cannot be combined"),
        ({"to_label": 3, "scores": True}, "scores and to_label cannot be combined"),
        ({"to_label": 3, "min_score": 0.5}, "min_score and to_label cannot be combined"),
        ({"page": "next.html"}, "page: has no effect without --to-label"),
        ({"to_label": 3, "page": "next.txt"}, "found the ending '.txt'; expected .html"),
        ({"to_label": 3, "workers": 2}, "workers: has no effect on"),
        ({}, "expected DIR SOURCE, a head from train-head"),
    ],
    ids=str,
)
def test_what_does_not_go_together(store: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(HeadstartError, match=re.escape(said)):
        predict_images(store, **settings)


def test_images_need_a_file_of_features_first(images: Path, tmp_path: Path) -> None:
    expected = r"to_label: has no effect on .*; expected a file of features; make it with extract-"
    complete: dict[str, Any] = {"trunk": "mobilenet", "weights": "none"}
    for given in (complete, {"head": tmp_path}):
        with pytest.raises(SettingError, match=expected):
            predict_images(images, to_label=3, **given)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"missing.h5; expected a file of features; make it"):
        predict_images(tmp_path / "missing.h5", to_label=3)


def test_images_that_have_moved_are_asked_for(
    store: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {**QUICK, "columns": "group=2", "quiet": True}
    extract_features(images, tmp_path / "moved.h5", **settings)
    images.rename(tmp_path / "elsewhere")
    caplog.set_level("INFO", log.name)
    predict_images(tmp_path / "moved.h5", to_label=2, page=tmp_path / "a.html")
    assert "no longer holds the 2 images to show; say where they are with --images" in caplog.text
    table = tmp_path / "known.csv"
    table.write_text("key,label\n" + "".join(f"site/{i:03d}.jpg,{i % 2}\n" for i in range(40)))
    train_heads(store, output=tmp_path / "head", head="logistic", labels=table, quiet=True)
    with pytest.raises(StoreError, match=r"out.h5 does not say where its images are; say where"):
        predict_images(store, tmp_path / "head", sort=tmp_path / "sorted", quiet=True)
