"""Predictions for images, and how they are written: CSV, JSON lines or a chart."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from classify.output.chart import CREATOR, draw_chart
from classify.output.earlier import find_edited
from classify.output.evaluation import Evaluation, evaluate_labels
from classify.output.sorting import Sorted, sort_images
from classify.settings.prediction import CHART_ENDINGS, PredictConfig
from extract.core.atomic import atomic_write
from extract.core.config import ExtractConfig
from extract.core.console import log
from extract.core.errors import HeadError, count_of, quoted
from extract.display.figure import load_matplotlib
from extract.display.tables import csv_text, html_table
from extract.exchange.feature_table import is_heading
from extract.images.item import Source
from extract.pipeline.stream import Timings

_MOST_SHOWN = 10
# Rows whose scores become text at a time.
_ROWS = 4096


class Prediction(NamedTuple):
    """One label of one image, or the reason why it has none.

    Attributes:
        key: The key of the image.
        label: The class name; None without a label.
        score: The score of the class, 0 to 1; of an image whose best score is too low that score;
            None for an image that could not be read.
        margin: The best score of the image minus the second, 0 to 1: the lower, the less sure.
        reason: Why the image has no label: it could not be read, or its score is too low.
    """

    key: str
    label: str | None
    score: float | None
    margin: float | None = None
    reason: str | None = None


class Answers:
    """Predictions for N rows, which are scored block by block in any order.

    Attributes:
        scores: (N, K) float32 scores, NaN where a row failed; None unless ``config.scores``.
    """

    def __init__(
        self, keys: Sequence[str], class_names: Sequence[str], config: PredictConfig
    ) -> None:
        self._keys, self._config = keys, config
        self.class_names = tuple(class_names)
        self._lines = [[Prediction(key, None, None)] for key in keys]
        shape = len(keys), len(class_names)
        self.scores = np.full(shape, np.nan, np.float32) if config.scores else None

    def add(self, rows: NDArray[np.int64], scores: NDArray[np.floating]) -> None:
        """Name the best classes of some rows by their (b, K) scores."""
        if self.scores is not None:
            self.scores[rows] = scores
        # A stable sort keeps classes with equal scores in their order.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(2, self._config.top)]
        ordered = np.take_along_axis(scores, order, axis=1)
        margins = ordered[:, 0] - (ordered[:, 1] if ordered.shape[1] > 1 else 0)
        columns = (rows, order[:, : self._config.top], ordered, margins)
        for row, *found in zip(*(column.tolist() for column in columns), strict=True):
            self._lines[row] = self._name(self._keys[row], *found)

    def _name(
        self, key: str, classes: list[int], values: list[float], margin: float
    ) -> list[Prediction]:
        least, best = self._config.min_score or 0, values[0]
        if best < least:
            reason = f"score {math.floor(best * 1e4) / 1e4:g} below {least:g}"
            return [Prediction(key, None, best, margin, reason)]
        pairs = zip(classes, values, strict=False)
        return [Prediction(key, self.class_names[i], score, margin) for i, score in pairs]

    def fail(self, row: int, reason: str) -> None:
        """Say why a row cannot be scored."""
        self._lines[row] = [Prediction(self._keys[row], None, None, reason=reason)]

    def select(self, rows: NDArray[np.int64]) -> "Answers":
        """Return the predictions of some rows, in their order, without the scores."""
        keys = [self._keys[row] for row in rows.tolist()]
        selected = Answers(keys, self.class_names, replace(self._config, scores=False))
        selected._lines = [self._lines[row] for row in rows.tolist()]
        return selected

    def sort(self, reads: Sequence[Callable[[], bytes]], paths: Sequence[str]) -> None:
        """Sort the images by their labels; ``paths`` are those of images that are files."""
        images = [
            Sorted(best.key, best.label, best.score, read, path)
            for best, read, path in zip(self.best, reads, paths, strict=True)
            if best.score is not None
        ]
        sort_images(Path(self._config.sort), images, self._config.link)

    @property
    def best(self) -> list[Prediction]:
        """The first prediction of each row."""
        return [lines[0] for lines in self._lines]

    @property
    def predictions(self) -> list[Prediction]:
        """All predictions, row by row, best label first."""
        return [prediction for lines in self._lines for prediction in lines]


class Predictions(list[Prediction]):
    """The predictions of all images, in the order of the images, best label first.

    Attributes:
        tolerated: Number of images that may be unreadable.
        timings: Seconds spent on each step.
        evaluation: Metrics of the answers where images have labels that the head knows, else None.
        class_names: The K classes that have scores.
        unlabelled: With ``to_label`` the number of images that were chosen from, else 0.
        scores: With ``scores=True`` (N, K) float32, the score of each class for each image, NaN
            where it could not be read; else None.
    """

    def __init__(
        self,
        answers: Answers,
        tolerated: int,
        timings: Timings,
        evaluation: Evaluation | None = None,
        noun: str = "image",
    ) -> None:
        super().__init__(answers.predictions)
        self._noun, self.class_names, self.scores = noun, answers.class_names, answers.scores
        self.tolerated, self.timings, self.evaluation = tolerated, timings, evaluation
        self.unlabelled = 0

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return sum(p.score is None and p.reason is not None for p in self)

    @property
    def unsure(self) -> int:
        """Number of images without a label because their best score is below ``min_score``."""
        return sum(p.label is None and p.score is not None for p in self)

    def summary(self) -> str:
        """Return the number of images and the seconds in one line."""
        spent, unsure = self.timings, self.unsure
        if self.unlabelled:
            chosen = f"{count_of(len(self), 'image')} chosen"
            counts = f"{chosen} of {self.unlabelled:,} without a label"
            return f"{counts}; {spent.start + spent.work:.1f} s"
        labelled = len({p.key for p in self if p.label is not None})
        counts = f"{count_of(labelled, self._noun)} labelled, "
        counts += f"{unsure} unsure, " * bool(unsure) + f"{self.unreadable} unreadable"
        return f"{counts}; {spent.start + spent.work:.1f} s"

    def save(self, path: Path, form: str) -> None:
        """Write a chart of one image, CSV or JSON lines with an atomic write.

        Args:
            path: The file; one of ``CHART_ENDINGS`` draws a chart, unless the image is unreadable.
            form: See ``write_predictions``.

        Raises:
            HeadError: The file cannot be written, or somebody has changed labels in it.
        """
        if is_chart(path) and self.unreadable:
            return
        check_replaced(path, self)
        with atomic_write(path, HeadError) as temporary:
            if is_chart(path):
                load_matplotlib()
                draw_chart(temporary, self[0].key, self)
            else:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    write_predictions(self, file, form)

    def __repr__(self) -> str:
        rows = ("  ".join(map(quoted, cells)) for cells in self._rows())
        return "\n".join([self.summary(), *rows])

    def _repr_html_(self) -> str:
        return html_table(("key", "label", "score or reason"), self._rows(), self.summary())

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = [
            (p.key, p.label or "", p.reason or ("" if p.score is None else f"{p.score:.4f}"))
            for p in self[:_MOST_SHOWN]
        ]
        return shown + [("...", "", "")] * (len(self) > _MOST_SHOWN)


def conclude(
    answers: Answers,
    listed: Source,
    configs: tuple[ExtractConfig, PredictConfig],
    timings: Timings,
    path: Path | None,
    noun: str = "image",
) -> Predictions:
    """Compare the answers with the labels of the source, and write them."""
    (running, config), items = configs, listed.items
    evaluation = evaluate_labels(items, answers.best, listed.class_names, answers.class_names)
    tolerated = running.allowed("max_bad", len(items))
    predictions = Predictions(answers, tolerated, timings, evaluation, noun)
    if path:
        predictions.save(path, config.format)
    for prediction in predictions:
        if prediction.score is None:
            log.warning("%s: %s", quoted(prediction.key), quoted(str(prediction.reason)))
    return predictions


def check_replaced(path: Path, predictions: Sequence[Prediction] = ()) -> None:
    """Raise HeadError where predictions would replace something else, or the work of a person."""
    if path.is_file() and path.stat().st_size:
        chart = is_chart(path)
        if not (CREATOR.encode() in path.read_bytes() if chart else _has_predictions(path)):
            expected = f"expected {'a chart' if chart else 'predictions'}, or a new file"
            raise HeadError(f"{path}: holds something else; {expected}; name another")
        if not chart and (found := find_edited(path, predictions)):
            expected = "expected predictions as they were written, or a new file"
            raise HeadError(f"{path}: {found}; {expected}; name another")


def _has_predictions(path: Path) -> bool:
    """Say whether a file begins as CSV or JSON lines of predictions do."""
    with path.open("rb") as file:
        first = file.readline(2**20)
    return first.startswith(b'{"key": ') or is_heading(first)


def is_chart(path: Path | None) -> bool:
    """Say whether a file is drawn, by its ending."""
    return path is not None and path.suffix.lower() in CHART_ENDINGS


def write_predictions(predictions: Predictions, file: TextIO, form: str) -> None:
    """Write predictions with scores of six decimals.

    Args:
        predictions: The predictions; where they have the scores of all classes, these follow.
        file: The open file.
        form: ``csv``, with a heading and empty cells for missing values, or ``json``, an object per
            line with null for them. In CSV, text that a spreadsheet would run as a formula has an
            apostrophe in front; on a terminal, text that would move its cursor is quoted.
    """
    rounded = (
        p._replace(score=p.score and round(p.score, 6), margin=p.margin and round(p.margin, 6))
        for p in predictions
    )
    names = predictions.class_names if predictions.scores is not None else ()
    if form == "json":
        for p, own in zip(rounded, _scores(predictions), strict=True):
            values = {"scores": dict(zip(names, own, strict=True))}
            line = json.dumps(p._asdict() | (values if names else {}), ensure_ascii=False)
            file.write(line + "\n")
        return
    table, shown = csv.writer(file, lineterminator="\n"), quoted if file.isatty() else str
    columns = (csv_text(shown(f"score_{name}")) for name in names)
    table.writerow([*Prediction._fields, *columns])
    for p, own in zip(rounded, _scores(predictions), strict=True):
        cells = (csv_text(shown(c)) if isinstance(c, str) else c for c in p)
        table.writerow([*cells, *own])


def _scores(predictions: Predictions) -> Iterator[list[float | None]]:
    """Yield the scores of all classes for each prediction; None of an unreadable image."""
    if predictions.scores is None:
        yield from ([] for _ in predictions)
        return
    for start in range(0, len(predictions), _ROWS):
        rows = predictions.scores[start : start + _ROWS].astype(np.float64).round(6).tolist()
        yield from ([None if math.isnan(score) else score for score in row] for row in rows)
