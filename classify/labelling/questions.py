"""The images to label next, as a table with an empty column to fill in, and as a page."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from extract.core.atomic import atomic_write, check_writable
from extract.core.errors import HeadError, StoreError, count_of, quoted
from extract.display.tables import csv_text
from extract.gallery.page import Card, Section, check_page, write_gallery
from extract.gallery.thumbnails import Place, Wanted, read_thumbnails

HEADING = ("key", "label", "suggested_label", "suggested_score", "suggested_margin")
_ENDING = ".csv"


class Question(NamedTuple):
    """An image to label, and what a head suggests; without a head nothing."""

    key: str
    label: str | None = None
    score: float | None = None
    margin: float | None = None


def check_questions(path: Path) -> None:
    """Raise HeadError where a table would replace another file, which may hold a person's work.

    A list of images in which a person has corrected a suggestion looks like an untouched one.

    Args:
        path: The table to write.
    """
    if path.suffix.lower() != _ENDING:
        found = f"found the ending {path.suffix!r}"
        raise HeadError(f"{path}: {found}; expected {_ENDING}, which train-head --labels reads")
    check_writable(path, HeadError)
    if path.exists() and path.stat().st_size:
        found = "is there already, and may hold labels"
        raise HeadError(f"{path}: {found}; expected a new file; name another, or remove it")


def save_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write a table of images to label with an atomic write; it is checked once more."""
    check_questions(path)
    with (
        atomic_write(path, HeadError) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        write_questions(questions, file)


def write_questions(questions: Iterable[Question], file: TextIO) -> None:
    """Write images to label as CSV: the column ``label`` is empty, to be filled in."""
    shown = quoted if file.isatty() else str
    table = csv.writer(file, lineterminator="\n")
    table.writerow(HEADING)
    for key, label, *numbers in questions:
        rounded = ("" if number is None else round(number, 6) for number in numbers)
        table.writerow([csv_text(shown(key)), "", csv_text(shown(label or "")), *rounded])


def check_questions_page(path: Path) -> None:
    """Raise HeadError where a page would replace a file that is no page of images."""
    try:
        check_page(path)
    except StoreError as error:
        raise HeadError(str(error)) from None
    check_writable(path, HeadError)


def save_page(
    path: Path, questions: Sequence[Question], wanted: Sequence[Wanted], place: Place, table: str
) -> None:
    """Write a page with a small image of each, in the order of the table.

    Args:
        path: The HTML file.
        questions: The images.
        wanted: The image of each.
        place: Where the images are.
        table: The name of the table, for the text of the page.
    """
    cards = [
        Card(q.key, thumbnail, [f"row {number}", *_lines(q)])
        for number, (q, thumbnail) in enumerate(
            zip(questions, read_thumbnails(wanted, place), strict=True), 1
        )
    ]
    where = f"the column label of {table}" if table else "a table with the columns key and label"
    lead = f"Write the class of each image into {where}, and give it to train-head --labels."
    title = f"{count_of(len(questions), 'image')} to label"
    write_gallery(path, title, lead, [Section("", cards)])


def _lines(question: Question) -> list[str]:
    if question.label is None:
        return []
    return [f"{question.label}?", f"score {question.score:.2f}, margin {question.margin:.2f}"]
