"""Predictions for images, and how they are written: CSV, JSON lines or a chart."""

import csv
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TextIO

from classify.inference.chart import save_chart
from classify.settings.config import CHART_ENDINGS
from extract.core.atomic import atomic_write
from extract.core.errors import HeadError
from extract.pipeline.stream import Timings

# The first characters of a formula, in one spreadsheet program or another.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MOST_SHOWN = 10


class Prediction(NamedTuple):
    """One label of one image, or the reason why it has none.

    Attributes:
        key: The key of the image.
        label: The class name; None for an image that could not be read.
        score: The score of the class, 0 to 1; None for an image that could not be read.
        reason: Why the image could not be read.
    """

    key: str
    label: str | None
    score: float | None
    reason: str | None = None


class Predictions(list[Prediction]):
    """The predictions of all images, in the order of the images, best label first.

    Attributes:
        tolerated: Number of images that may be unreadable.
        timings: Seconds spent on each step.
    """

    def __init__(self, predictions: Iterable[Prediction], tolerated: int, timings: Timings) -> None:
        super().__init__(predictions)
        self.tolerated, self.timings = tolerated, timings

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return sum(prediction.reason is not None for prediction in self)

    def summary(self) -> str:
        """Return the number of images and the seconds in one line."""
        labelled = len({prediction.key for prediction in self}) - self.unreadable
        return (
            f"{labelled} images labelled, {self.unreadable} unreadable; "
            f"start {self.timings.start:.1f} s, trunk {self.timings.trunk:.1f} s, "
            f"waiting for images {self.timings.wait:.1f} s"
        )

    def save(self, path: Path, form: str) -> None:
        """Write a chart of one image, CSV or JSON lines with an atomic write.

        Args:
            path: The file; one of ``CHART_ENDINGS`` draws a chart, unless the image is unreadable.
            form: See ``write_predictions``.

        Raises:
            HeadError: The file cannot be written.
        """
        if not is_chart(path):
            with (
                atomic_write(path, HeadError) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as file,
            ):
                write_predictions(self, file, form)
        elif not self.unreadable:
            labels, scores = [str(p.label) for p in self], [p.score or 0.0 for p in self]
            save_chart(path, self[0].key, labels, scores)

    def __repr__(self) -> str:
        rows = ["  ".join(row) for row in self._rows()]
        return "\n".join([self.summary(), *rows])

    def _repr_html_(self) -> str:
        rows = [[html.escape(cell) for cell in row] for row in self._rows()]
        lines = ["<tr><th>key</th><th>label</th><th>score or reason</th></tr>"]
        lines += [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows]
        return f"<table>{''.join(lines)}</table><p>{html.escape(self.summary())}</p>"

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = [(p.key, p.label or "", p.reason or f"{p.score:.4f}") for p in self[:_MOST_SHOWN]]
        return shown + [("...", "", "")] * (len(self) > _MOST_SHOWN)


def is_chart(path: Path | None) -> bool:
    """Say whether a file is drawn, by its ending."""
    return path is not None and path.suffix.lower() in CHART_ENDINGS


def write_predictions(predictions: Iterable[Prediction], file: TextIO, form: str) -> None:
    """Write predictions with scores of six decimals.

    Args:
        predictions: The predictions, in the order of the rows.
        file: The open file.
        form: ``csv``, with a heading and empty cells for missing values, or ``json``, an object per
            line with null for them. In CSV, text that a spreadsheet would run as a formula has an
            apostrophe in front.
    """
    rounded = (p._replace(score=p.score and round(p.score, 6)) for p in predictions)
    if form == "json":
        file.writelines(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in rounded)
        return
    table = csv.writer(file, lineterminator="\n")
    table.writerow(Prediction._fields)
    table.writerows([_defuse(cell) for cell in prediction] for prediction in rounded)


def _defuse(cell: str | float | None) -> str | float | None:
    """Return a cell that no spreadsheet runs: https://owasp.org/www-community/attacks/CSV_Injection."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
