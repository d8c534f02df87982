"""Earlier predictions, which are replaced unless somebody has filled in or corrected a label."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from extract.core.errors import quoted
from extract.display.tables import from_csv_text

# Two classes with closer scores may change places.
_LEAST_MARGIN = 1e-3


class Prediction(Protocol):
    """A label of an image, with its score and the margin of the image."""

    @property
    def key(self) -> str:
        """The key of the image."""

    @property
    def label(self) -> str | None:
        """The class name."""

    @property
    def score(self) -> float | None:
        """The score, 0 to 1."""

    @property
    def margin(self) -> float | None:
        """The best score minus the second."""


class _Row(NamedTuple):
    """A row of a file; what is missing is empty."""

    key: str
    label: str
    score: str
    margin: str
    reason: str


def find_edited(path: Path, found: Iterable[Prediction] = ()) -> str:
    """Name the row of a file whose label no head gave; empty for none.

    An image has a label and a score, or a reason why it has no label. With the same score and
    margin it has the same label.

    Args:
        path: A file that begins as predictions do.
        found: The predictions that are to replace it.
    """
    given: dict[str, Prediction] = {}
    for p in found:
        given.setdefault(p.key, p)  # the best label is the first
    try:
        for row in _rows(path):
            wrong = bool(row.label) == bool(row.reason) or bool(row.label and not row.score)
            if wrong or _is_corrected(row, given.pop(row.key, None)):
                return f"somebody has changed the label of {quoted(row.key)}"
    except (ValueError, csv.Error, AttributeError):
        return "holds a row that predict-images does not write"
    return ""


def _is_corrected(row: _Row, best: Prediction | None) -> bool:
    """Say whether a row has another label than a head gives with the same score and margin."""
    if best is None or best.score is None or (best.margin or 0) < _LEAST_MARGIN:
        return False
    numbers = [str(round(number or 0, 6)) for number in (best.score, best.margin)]
    return [row.score, row.margin] == numbers and row.label not in ("", best.label or row.label)


def _rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a file.

    Raises:
        ValueError: A line is no text or no JSON.
        csv.Error: A line is no CSV.
        AttributeError: A line of JSON is no object.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        if file.read(1) == "{":
            file.seek(0)
            for line in file:
                values = json.loads(line)
                cells = (values.get(name) for name in _Row._fields)
                yield _Row(*("" if cell is None else str(cell) for cell in cells))
            return
        file.seek(0)
        table = csv.reader(file)
        heading = next(table)
        for row in filter(None, table):
            own = dict(zip(heading, row, strict=False))
            yield _Row(*(from_csv_text(own.get(name, "")) for name in _Row._fields))
