"""Tables and prose in the cells of a terminal: what is dropped, what is cut, wide characters."""

import fcntl
import os
import pty
import struct
import termios
from pathlib import Path

import numpy as np
import pytest

from classify.output.evaluation import evaluate_labels
from classify.output.predictions import Prediction
from extract import write_features
from extract.display.width import cells, fit_table, pad, shorten, width_of, wrap
from extract.images.item import Item
from extract.store.describe import describe, format_description
from extract.store.open import open_store

HEADING = ("rank", "head", "accuracy", "low", "high", "as good", "training", "seconds")
LONG = "dense dropout=0.2 learning_rate=0.001 units=1024 transform=standardise"
ROWS = [
    HEADING,
    ("1", LONG, "0.9444", "0.8134", "0.9932", "=", "1.0000", "0.01"),
    ("2", "ridge \u732b\u732b", "0.9444", "0.8134", "0.9932", "=", "1.0000", "0.01"),
    ("-", "always \u732b", "0.3333", "0.1856", "0.5097", "", "", ""),
]
DROP = ((7,), (6,), (0,), (3, 4))


@pytest.mark.parametrize(
    ("width", "dropped"),
    [
        (None, []),
        (200, []),
        (130, []),
        (124, ["seconds"]),
        (115, ["training", "seconds"]),
        (105, ["rank", "training", "seconds"]),
        (90, ["rank", "low", "high", "training", "seconds"]),
        (80, ["rank", "low", "high", "training", "seconds"]),
        (60, ["rank", "low", "high", "training", "seconds"]),
        (40, ["rank", "low", "high", "training", "seconds"]),
    ],
)
def test_columns_go_before_names(width: int | None, dropped: list[str]) -> None:
    table = fit_table(ROWS, width, name=1, drop=DROP)
    assert table.dropped == dropped
    assert len(table.lines) == len(ROWS)
    assert all(cells(line) <= (width or 1000) for line in table.lines)
    # The columns stand below each other, whatever characters the names have.
    ends = [cells(line[: line.index(" 0.") + 7]) for line in table.lines[1:]]
    assert len(set(ends)) == 1
    whole = width is None or width >= 90
    assert (LONG in table.lines[1]) == whole
    name = table.lines[1].split("  0.")[0].strip(" 1")
    assert whole or name.startswith("dense ")
    assert whole or "..." in name


def test_the_narrowest_table_still_has_names() -> None:
    lines = fit_table(ROWS, 5, name=1, drop=DROP).lines
    assert lines[1].split()[0] == "dense...dise"


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("\u732b", 2), ("e\u0301", 1), ("\u200bz", 1), ("\uff21", 2), ("\U0001f600", 2)],
)
def test_wide_characters_and_marks_are_counted(text: str, width: int) -> None:
    assert cells(text) == width
    assert cells(pad(text, 7)) == cells(pad(text, 7, right=True)) == 7


@pytest.mark.parametrize("width", range(5, 30))
@pytest.mark.parametrize("text", ["abcdefghijklmnopqrstuvwxyz", "\u732b" * 13, "a\u732b" * 9])
def test_a_cut_name_has_its_start_and_its_end(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cells(short) <= max(width, 5)
    start, _, end = short.partition("...")
    assert text.startswith(start)
    assert text.endswith(end)
    assert (short == text) == (cells(text) <= width)


def test_prose_breaks_between_words() -> None:
    assert wrap("one two three", None) == "one two three"
    assert wrap("one two three", 8) == "one two\nthree"
    assert wrap("one a-very-long-word end", 8, "  ") == "one\n  a-very-long-word\n  end"
    assert wrap("  two words", 6, "  ") == "  two\n  words"


@pytest.mark.parametrize("columns", [0, 40, 80, 120])
def test_the_width_is_that_of_the_terminal(columns: int, tmp_path: Path) -> None:
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(there, "w") as terminal, (tmp_path / "file").open("w") as file:
        assert width_of(terminal) == (columns or 80)
        assert width_of(file) is None
        assert width_of(None) is None
    os.close(here)


@pytest.mark.parametrize("width", [40, 80])
def test_a_description_fits_a_terminal_and_is_whole_in_a_pipe(tmp_path: Path, width: int) -> None:
    labels = ["\u732b" * 60, *(f"a rather long name of a class {n:04}" for n in range(60))]
    write_features(tmp_path / "a.h5", np.ones((61, 3)), labels=labels, quiet=True)
    with open_store(tmp_path / "a.h5") as store:
        described = describe(store)
    narrow = format_description(described, width).split("\n")
    whole = format_description(described)
    assert " ".join(whole.split()) == " ".join(" ".join(narrow).split())
    table = narrow[narrow.index("") + 1 :]
    assert all(cells(line) <= 80 for line in table if "a.h5" not in line)
    assert "and 21 more" in whole
    assert whole.count("a rather long name of a class") == 40 - whole.count("\u732b" * 10)


def test_confusions_fit_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"a class with a name {n}" for n in range(8)]
    items = [Item(f"{n}.png", f"{n}.png", n % 8, 1) for n in range(40)]
    answers = [Prediction(f"{n}.png", names[n % 8 if n else 3], 0.9) for n in range(40)]
    evaluation = evaluate_labels(items, answers, names, names)
    assert evaluation is not None
    table = str(evaluation).split("\n")
    assert len(table) == 2 + 9 + 1
    assert len({cells(line) for line in table[-8:]}) == 1
    narrow = evaluation.text(80).split("\n")
    assert narrow[-1] == f"1 of 5 {names[0]} are predicted as {names[3]}"
    assert all(cells(line) <= 80 for line in narrow)
