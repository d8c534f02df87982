"""Predictions for images, and how they are written: CSV, JSON lines or a chart."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from classify.report.evaluation import Evaluation
from classify.report.figures import load_matplotlib
from classify.settings.config import CHART_ENDINGS
from extract.core.atomic import atomic_write
from extract.core.errors import HeadError, count_of, quoted
from extract.display.tables import csv_text, html_table
from extract.pipeline.stream import Timings

_MOST_SHOWN = 10
_CREATOR = "headstart predict-images"  # in the metadata of a chart


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
        evaluation: Metrics of the answers where images have labels that the head knows, else None.
    """

    def __init__(
        self,
        predictions: Iterable[Prediction],
        tolerated: int,
        timings: Timings,
        evaluation: Evaluation | None = None,
        noun: str = "image",
    ) -> None:
        super().__init__(predictions)
        self._noun = noun
        self.tolerated, self.timings, self.evaluation = tolerated, timings, evaluation

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return sum(prediction.reason is not None for prediction in self)

    def summary(self) -> str:
        """Return the number of images and the seconds in one line."""
        labelled = len({prediction.key for prediction in self}) - self.unreadable
        spent = self.timings
        times = f"start {spent.start:.1f} s, trunk {spent.trunk:.1f} s"
        counts = f"{count_of(labelled, self._noun)} labelled, {self.unreadable} unreadable"
        return f"{counts}; {times}, waiting for images {spent.wait:.1f} s"

    def save(self, path: Path, form: str) -> None:
        """Write a chart of one image, CSV or JSON lines with an atomic write.

        Args:
            path: The file; one of ``CHART_ENDINGS`` draws a chart, unless the image is unreadable.
            form: See ``write_predictions``.

        Raises:
            HeadError: The file cannot be written.
        """
        if is_chart(path) and self.unreadable:
            return
        with atomic_write(path, HeadError) as temporary:
            if is_chart(path):
                draw_chart(temporary, self)
            else:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    write_predictions(self, file, form)

    def __repr__(self) -> str:
        rows = ("  ".join(map(quoted, cells)) for cells in self._rows())
        return "\n".join([self.summary(), *rows])

    def _repr_html_(self) -> str:
        return html_table(("key", "label", "score or reason"), self._rows(), self.summary())

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = [(p.key, p.label or "", p.reason or f"{p.score:.4f}") for p in self[:_MOST_SHOWN]]
        return shown + [("...", "", "")] * (len(self) > _MOST_SHOWN)


def check_replaced(path: Path) -> None:
    """Raise HeadError where predictions would replace a file that holds something else."""
    if path.is_file() and path.stat().st_size:
        chart = is_chart(path)
        if not (_CREATOR.encode() in path.read_bytes() if chart else _has_predictions(path)):
            expected = f"expected {'a chart' if chart else 'predictions'}, or a new file"
            raise HeadError(f"{path}: holds something else; {expected}; name another")


def _has_predictions(path: Path) -> bool:
    """Say whether a file begins as CSV or JSON lines of predictions do."""
    with path.open("rb") as file:
        first = file.readline(2**16).decode("utf-8", "replace").rstrip()
    is_json = first.startswith('{"key": ') and first.endswith("}")
    return is_json or first == ",".join(Prediction._fields)


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
            apostrophe in front; on a terminal, text that would move its cursor is quoted.
    """
    rounded = (p._replace(score=p.score and round(p.score, 6)) for p in predictions)
    if form == "json":
        file.writelines(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in rounded)
        return
    table = csv.writer(file, lineterminator="\n")
    table.writerow(Prediction._fields)
    shown = quoted if file.isatty() else str
    for cells in rounded:
        table.writerow(csv_text(shown(c)) if isinstance(c, str) else c for c in cells)


def draw_chart(path: Path, labels: Sequence[Prediction]) -> None:
    """Draw a bar for each label of one image, the first on top.

    Args:
        path: The file; its ending, one of ``CHART_ENDINGS``, is the format.
        labels: The labels of the image, best first.
    """
    load_matplotlib()
    from matplotlib.figure import Figure  # pyplot would look for a screen

    places, scores = range(len(labels)), [p.score or 0.0 for p in labels]
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(places, scores), [f"{score:.1%}" for score in scores], padding=3)
    # A dollar in a name would start a formula.
    axes.set_yticks(places, [str(p.label) for p in labels], parse_math=False)
    axes.set_title(labels[0].key, parse_math=False)
    axes.set(xlabel="score", xlim=(0, 1.1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    form = path.suffix[1:].lower()
    creator = {"Software" if form == "png" else "Creator": _CREATOR}
    figure.savefig(path, dpi=120, format=form, metadata=creator)
