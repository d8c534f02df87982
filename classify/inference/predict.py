"""Labels for new images, from a trained head or from a complete model."""

import csv
import html
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from classify.inference.bundle import is_head_folder, load_head
from classify.settings.config import CHART_ENDINGS, PredictConfig
from extract.core.atomic import atomic_write, check_writable
from extract.core.config import ExtractConfig
from extract.core.console import log, progress, quiet_mode
from extract.core.errors import HeadError, SettingError
from extract.engines.base import Engine
from extract.images.item import Item
from extract.pipeline.stream import Timings, stream_features
from extract.sources.listing import list_source

# The first characters of a formula, in one spreadsheet program or another.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CHART_TOP, _MOST_SHOWN = 10, 10

PathLike = str | os.PathLike[str]
Score = Callable[[Mapping[str, np.ndarray]], NDArray[np.floating]]


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

    def __repr__(self) -> str:
        rows = ["  ".join(row) for row in self._rows()]
        return "\n".join([self.summary(), *rows])

    def _repr_html_(self) -> str:
        rows = [[html.escape(cell) for cell in row] for row in self._rows()]
        lines = [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows]
        return f"<table>{''.join(lines)}</table><p>{html.escape(self.summary())}</p>"

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = [(p.key, p.label or "", p.reason or f"{p.score:.4f}") for p in self[:_MOST_SHOWN]]
        return shown + [("...", "", "")] * (len(self) > _MOST_SHOWN)


def predict_images(  # noqa: PLR0913
    source: PathLike,
    head: PathLike | None = None,
    *,
    trunk: PathLike | None = None,
    weights: PathLike | None = None,
    image_size: tuple[int, int] | None = None,
    preprocess: str | None = None,
    columns: str = "",
    batch_size: int | None = None,
    workers: int | None = None,
    max_bad: str = ExtractConfig.max_bad,
    top: int | None = None,
    output: PathLike | None = None,
    format: str | None = None,  # noqa: A002
    quiet: bool = False,
) -> Predictions:
    """Label images with a trained head or, given ``trunk``, with the classes of a complete model.

    Args:
        source: A folder of images, one image, an archive or a table of images.
        head: A folder made by train-head.
        trunk: Without ``head``: a ``keras.applications`` model or a ``.keras`` file.
        weights: Where the head's trunk weights are now; else ``imagenet``, ``none`` or a file.
        image_size: Without ``head``: height and width in pixels.
        preprocess: Without ``head``: ``auto``, ``rescale`` or ``none``.
        columns: The columns of a table, such as ``path=file``.
        batch_size: Images per call of the trunk; None chooses from the device's memory.
        workers: Threads that read and decode; None is one per core, at least 2.
        max_bad: Unreadable images that are tolerated: a number or a share such as ``1%``.
        top: Labels per image; None is 1, or 10 in a chart.
        output: A file to write; ``.png``, ``.svg`` or ``.pdf`` draws a chart of one image.
        format: Format of ``output``: ``csv`` (None) or ``json``, one object per line.
        quiet: Show warnings only.

    Raises:
        HeadstartError: A setting, the source, the head, the trunk or ``output`` cannot be used.
    """
    model = _given(trunk=trunk, image_size=image_size, preprocess=preprocess)
    running = _given(columns=columns, batch_size=batch_size, workers=workers, max_bad=max_bad)
    with quiet_mode(quiet):
        written = _Output(output, top, format)
        return _predict_images(source, head, weights, model, ExtractConfig(**running), written)


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that are not None, paths as text."""
    return {
        name: os.fspath(value) if isinstance(value, Path) else value
        for name, value in settings.items()
        if value is not None
    }


class _Output:
    """The place, the format and the number of labels of what is written."""

    def __init__(self, path: PathLike | None, top: int | None, form: str | None) -> None:
        self.path = None if path is None else Path(path)
        self.is_chart = self.path is not None and self.path.suffix.lower() in CHART_ENDINGS
        if self.is_chart and form:
            raise SettingError(f"format: has no effect on {path}, which is a chart; leave it out")
        usual = PredictConfig(_CHART_TOP) if self.is_chart else PredictConfig()
        self.config = PredictConfig(usual.top if top is None else top, form or usual.format)

    def check(self) -> None:
        """Raise HeadError, before the trunk runs, unless the file can be written."""
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_file():
            raise HeadError(
                f"{self.path}: not a regular file; expected one, or none; name another with -o"
            )
        check_writable(self.path, HeadError)

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write predictions with an atomic write; an unreadable image has no chart."""
        if self.path is None:
            return
        if not self.is_chart:
            with (
                atomic_write(self.path, HeadError) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as file,
            ):
                write_predictions(predictions, file, self.config.format)
        elif predictions[0].reason is None:
            from classify.inference.chart import save_chart

            labels, scores = (
                [str(p.label) for p in predictions],
                [p.score or 0 for p in predictions],
            )
            save_chart(self.path, predictions[0].key, labels, scores)


def _predict_images(
    source: PathLike,
    head: PathLike | None,
    weights: PathLike | None,
    model: Mapping[str, Any],
    config: ExtractConfig,
    output: _Output,
) -> Predictions:
    if head and model:
        raise SettingError(
            f"{', '.join(model)}: cannot be combined with {head}, which records its trunk; leave "
            "one of them out"
        )
    if not head and not model.get("trunk"):
        raise SettingError(
            f"found SOURCE {source} alone; expected DIR, a folder made by train-head, before it, "
            "or --trunk NAME for a complete model"
        )
    if head and is_head_folder(source) and not is_head_folder(head):
        raise SettingError(
            f"{source}: found a head in the place of SOURCE; expected DIR before SOURCE; swap them"
        )
    output.check()
    began, timings = time.perf_counter(), Timings()
    listed = list_source(source, config.columns)
    for warning in listed.warnings:
        log.warning("%s", warning)
    if output.is_chart and len(listed.items) != 1:
        raise SettingError(
            f"{output.path}: found {len(listed.items)} images in {source}; expected one for a "
            "chart; name one, or a file that ends in .csv"
        )
    engine, score, class_names = _open_model(head, _given(weights=weights), model, config)
    timings.start = time.perf_counter() - began
    top, tolerated = output.config.top, config.tolerated(len(listed.items))
    rows = label_images(listed.items, engine, score, class_names, top, config, timings)
    predictions = Predictions(rows, tolerated, timings)
    output.write(predictions)
    for prediction in predictions:
        if prediction.reason is not None:
            log.warning("%s: %s", prediction.key, prediction.reason)
    return predictions


def _open_model(
    head: PathLike | None,
    weights: Mapping[str, PathLike],
    model: Mapping[str, Any],
    config: ExtractConfig,
) -> tuple[Engine, Score, Sequence[str]]:
    """Open a trained head with its trunk, or a complete model."""
    if head:
        from classify.inference.trunk import open_engine

        trained = load_head(head)
        engine = open_engine(trained, batch_size=config.batch_size, **weights)
        return engine, trained.score, trained.class_names
    from classify.inference import complete_model

    engine, class_names = complete_model.open_classifier(config, **model, **weights)
    return engine, partial(complete_model.to_scores, engine), class_names


def label_images(
    items: Sequence[Item],
    engine: Engine,
    score: Score,
    class_names: Sequence[str],
    top: int = 1,
    config: ExtractConfig | None = None,
    timings: Timings | None = None,
) -> list[Prediction]:
    """Label images by the features that an engine computes.

    Args:
        items: The images.
        engine: The engine that runs on them.
        score: Function from (b, *shape) features by layer to (b, K) scores.
        class_names: K names, in the order of the scores.
        top: Labels per image; more than K gives all of them.
        config: Its ``workers`` is used.
        timings: The seconds of each step are added here.

    Returns:
        In the order of ``items``, ``top`` predictions per image, best first; one without a label
        for an image that could not be read.

    Raises:
        EngineError: The engine cannot run.
    """
    by_row: dict[int, list[Prediction]] = {}
    workers = (config or ExtractConfig()).workers
    with progress(len(items), "images") as bar:
        for block in stream_features(items, np.arange(len(items)), engine, workers, timings):
            scores = score(block.features) if len(block.rows) else ()
            for row, values in zip(block.rows.tolist(), scores, strict=True):
                # A stable sort keeps classes with equal scores in their order.
                best = np.argsort(-values, kind="stable")[:top]
                by_row[row] = [
                    Prediction(items[row].key, class_names[label], float(values[label]))
                    for label in best
                ]
            for failure in block.failed:
                key = items[failure.row].key
                by_row[failure.row] = [Prediction(key, None, None, failure.reason)]
            bar.update(len(block.rows) + len(block.failed))
    return [prediction for row in range(len(items)) for prediction in by_row[row]]


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
