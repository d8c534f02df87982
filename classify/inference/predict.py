"""Labels for new images, from a trained head or from a complete model."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.inference.bundle import PathLike, is_head_folder, load_head
from classify.inference.predictions import Prediction, Predictions, is_chart
from classify.settings.config import CHART_TOP, PredictConfig
from extract.core.atomic import check_writable
from extract.core.config import ExtractConfig
from extract.core.console import log, progress, quiet_mode
from extract.core.errors import HeadError, SettingError
from extract.engines.base import Engine
from extract.images.item import Item
from extract.pipeline.stream import Timings, stream_features
from extract.public import public
from extract.sources.listing import list_source

Score = Callable[[Mapping[str, np.ndarray]], NDArray[np.floating]]


@public()
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

    Returns:
        In the order of the images, the best labels of each, or the reason why it has none.

    Raises:
        HeadstartError: A setting, the source, the head, the trunk or ``output`` cannot be used.
    """
    model = _given(trunk=trunk, weights=weights, image_size=image_size, preprocess=preprocess)
    running = _given(columns=columns, batch_size=batch_size, workers=workers, max_bad=max_bad)
    written = _given(top=top, format=format)
    with quiet_mode(quiet):
        path = None if output is None else Path(output)
        return _predict_images(source, head, model, ExtractConfig(**running), path, written)


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that are not None, paths as text."""
    given = {name: value for name, value in settings.items() if value is not None}
    return {k: os.fspath(v) if isinstance(v, Path) else v for k, v in given.items()}


def _predict_images(
    source: PathLike,
    head: PathLike | None,
    model: dict[str, Any],
    running: ExtractConfig,
    path: Path | None,
    written: dict[str, Any],
) -> Predictions:
    _check_model(source, head, model)
    if is_chart(path) and "format" in written:
        raise SettingError(f"format: has no effect on {path}, which is a chart; leave it out")
    config = PredictConfig(**({"top": CHART_TOP} if is_chart(path) else {}) | written)
    if path and path.exists() and not path.is_file():
        raise HeadError(f"{path}: not a regular file; expected one, or none; name another with -o")
    if path:
        check_writable(path, HeadError)
    began, timings = time.perf_counter(), Timings()
    listed = list_source(source, running.columns)
    for warning in listed.warnings:
        log.warning("%s", warning)
    if is_chart(path) and len(listed.items) != 1:
        raise SettingError(
            f"{path}: found {len(listed.items)} images in {source}; expected one for a chart; name "
            "one, or a file that ends in .csv"
        )
    opened = _open_model(head, model, running)
    timings.start = time.perf_counter() - began
    labelled = label_images(listed.items, *opened, config.top, running, timings)
    predictions = Predictions(labelled, running.tolerated(len(listed.items)), timings)
    if path:
        predictions.save(path, config.format)
    for prediction in predictions:
        if prediction.reason is not None:
            log.warning("%s: %s", prediction.key, prediction.reason)
    return predictions


def _check_model(source: PathLike, head: PathLike | None, model: Mapping[str, Any]) -> None:
    """Raise SettingError unless there is a head or a complete model, and not both."""
    if head and (extra := model.keys() - {"weights"}):
        raise SettingError(
            f"{', '.join(sorted(extra))}: cannot be combined with {head}, which records its trunk; "
            "leave one of them out"
        )
    if not head and "trunk" not in model:
        raise SettingError(
            f"found SOURCE {source} alone; expected DIR, a folder made by train-head, before it, "
            "or --trunk NAME for a complete model"
        )
    if head and is_head_folder(source) and not is_head_folder(head):
        raise SettingError(
            f"{source}: found a head in the place of SOURCE; expected DIR before SOURCE; swap them"
        )


def _open_model(
    head: PathLike | None, model: Mapping[str, Any], running: ExtractConfig
) -> tuple[Engine, Score, Sequence[str]]:
    """Open a trained head with its trunk, or a complete model."""
    if head:
        from classify.inference.trunk import open_engine

        trained = load_head(head)
        engine = open_engine(trained, model.get("weights"), running.batch_size)
        return engine, trained.score, trained.class_names
    from classify.inference import complete_model

    engine, class_names = complete_model.open_classifier(running, **model)
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
