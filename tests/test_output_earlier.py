"""Earlier predictions: replaced as they were written, and never with the work of a person."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.output.predictions import Answers, Predictions, check_replaced
from classify.settings.prediction import PredictConfig
from extract.core.errors import HeadError
from extract.pipeline.stream import Timings

KEYS = ["a.png", "=b.png", "c.png", "d.png", "broken.png"]
SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.5, 0.5]], np.float32)
Rows = list[dict[str, Any]]


def predict(**settings: Any) -> Predictions:
    """Predictions of four images, and one that cannot be read."""
    answers = Answers(KEYS, ("cat", "=dog"), PredictConfig(**settings))
    answers.add(np.arange(4), SCORES)
    answers.fail(4, "is empty")
    return Predictions(answers, 0, Timings())


def edit(path: Path, form: str, change: Callable[[Rows], object]) -> None:
    """Change rows as a person does in another program."""
    with path.open(newline="", encoding="utf-8") as file:
        rows: Rows = list(csv.DictReader(file)) if form == "csv" else list(map(json.loads, file))
    change(rows)
    with path.open("w", newline="", encoding="utf-8-sig" if form == "csv" else "utf-8") as file:
        if form == "csv":
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("settings", [{}, {"min_score": 0.6}, {"top": 2}, {"scores": True}])
def test_what_was_written_is_replaced(tmp_path: Path, form: str, settings: dict[str, Any]) -> None:
    path = tmp_path / "p.csv"
    for _ in range(2):
        check_replaced(path)
        predict(**settings).save(path, form)
    edit(path, form, lambda rows: rows)  # another program only opens and saves it
    before = path.read_bytes()
    check_replaced(path)
    predict(**settings).save(path, form)
    assert before.removeprefix(b"\xef\xbb\xbf").split() == path.read_bytes().split()


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize(
    ("row", "label", "more"),
    [
        *((2, "cat", {}), (2, "cow", {}), (3, "=dog", {}), (0, "", {})),
        *((4, "cat", {}), (4, "cat", {"reason": ""})),
    ],
)
def test_labels_that_a_person_filled_in_are_kept(
    tmp_path: Path, form: str, row: int, label: str, more: dict[str, str]
) -> None:
    path = tmp_path / "p.csv"
    predict(min_score=0.6).save(path, form)
    edit(path, form, lambda rows: rows[row].update(label=label, **more))
    before = path.read_bytes()
    with pytest.raises(HeadError, match=r"changed the label of .*; name another"):
        check_replaced(path)
    with pytest.raises(HeadError, match=r"changed the label of .*; name another"):
        predict(min_score=0.6).save(path, form)
    assert path.read_bytes() == before


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("settings", [{}, {"top": 2}, {"scores": True}])
@pytest.mark.parametrize("key", ["a.png", "=b.png"])
def test_labels_that_a_person_corrected_are_kept(
    tmp_path: Path, form: str, settings: dict[str, Any], key: str
) -> None:
    path = tmp_path / "p.csv"
    predict(**settings).save(path, form)

    def correct(rows: Rows) -> None:
        row = next(row for row in rows if row["key"].lstrip("'") == key)
        row["label"] = "cow"

    edit(path, form, correct)
    before = path.read_bytes()
    with pytest.raises(HeadError, match=rf"changed the label of '?{key}'?; expected predictions"):
        predict(**settings).save(path, form)
    assert path.read_bytes() == before


def test_another_least_score_replaces_them(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for least in (None, 0.6, 0.95, None):
        predict(min_score=least).save(path, "csv")
    assert "below" not in path.read_text()


def test_another_head_replaces_them(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    answers = Answers(KEYS, ("cow", "pig"), PredictConfig())
    answers.add(np.arange(4), SCORES[::-1] * 0.9)
    answers.fail(4, "is empty")
    Predictions(answers, 0, Timings()).save(path, "csv")
    predict().save(path, "csv")
    assert "cow" not in path.read_text()


def test_a_broken_row_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for content in (b'{"key": "a"}\nmine\n', b'{"key": "a", "label": "b", "score": 1}\n[]\n'):
        path.write_bytes(content)
        with pytest.raises(HeadError, match=r"changed the label|holds a row that predict-images"):
            check_replaced(path)
    path.write_bytes(b"key,label,score,margin,reason\na,\xff,1,1,\n")
    with pytest.raises(HeadError, match="holds a row that predict-images does not write"):
        check_replaced(path)
