"""Labels for new images, from a trained head or from a complete model."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from classify.inference.bundle import TrainedHead, load_head
from classify.inference.complete_model import CompleteModel, open_classifier
from classify.inference.head_folder import PathLike, check_file, is_head_folder
from classify.inference.stored_rows import is_store, predict_stored
from classify.inference.training_images import tell_seen
from classify.inference.trunk import Engines, open_engines, stream_engines
from classify.labelling.questions import check_questions
from classify.output.predictions import Answers, Predictions, check_replaced, conclude, is_chart
from classify.output.sorting import check_apart, check_folder
from classify.settings.plan import as_names
from classify.settings.prediction import CHART_TOP, PredictConfig
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.console import log, quiet_mode
from extract.core.errors import HeadError, SettingError, quoted
from extract.core.flags import describe
from extract.display.progress import progress
from extract.exchange.feature_table import FeatureTable, may_describe
from extract.exchange.open import open_features
from extract.exchange.rows import arrange
from extract.exchange.write import check_settings
from extract.exchange.write import read_rows as read_table
from extract.images.digests import DIGEST_BYTES
from extract.images.item import Item, read_item
from extract.layouts.overview import check_source
from extract.limits.image_size import set_limits
from extract.pipeline.stream import Notes, Timings
from extract.public import public
from extract.sources.listing import list_source

_TRUNK = ("trunk", "weights", "image_size", "preprocess", "mean", "std")
_OUTPUT = tuple(name for name, _ in describe(PredictConfig))
# Those for files of features.
_STORED = ("only", "labels", "to_label", "images")


class PredictSettings(TypedDict, total=False):
    """The settings of ``predict_images`` as keyword arguments."""

    trunk: PathLike | None
    weights: PathLike | None
    image_size: tuple[int, int] | None
    preprocess: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    columns: str | None
    root: PathLike | None
    batch_size: int | None
    workers: int | None
    max_image_bytes: int | None
    max_image_pixels: int | None
    max_bad: str | None
    top: int | None
    format: str | None
    scores: bool | None
    min_score: float | None
    only: str | None
    labels: PathLike | Sequence[PathLike] | None
    to_label: int | None
    page: PathLike | None
    images: PathLike | None
    sort: PathLike | None
    link: bool | None


@public(TrunkSpec, ExtractConfig, PredictConfig)
def predict_images(
    source: PathLike,
    head: PathLike | None = None,
    *,
    output: PathLike | None = None,
    quiet: bool = False,
    **settings: Unpack[PredictSettings],
) -> Predictions:
    """Label images with a trained head or, given ``trunk``, with the classes of a complete model.

    Args:
        source: A folder of images, one image, an archive or a table of images; or, with ``head``,
            a file of features: one that ``extract_features`` made with the same trunk and settings,
            or for a head without a trunk one of another program. Neither needs the images.
        head: A folder made by train-head.
        output: A file to write; ``.png``, ``.svg`` or ``.pdf`` draws a chart of one image.
        quiet: Show warnings only.
        **settings: See below. With ``head``, ``weights`` is the place of its trunk's weights if
            they have moved; ``trunk``, ``image_size``, ``preprocess``, ``mean`` and ``std`` are for
            a complete model.

    Returns:
        In the order of the images, the best labels of each, or the reason why it has none. With
        ``to_label`` the chosen images, which have the answers of the head; it needs none for the
        first ones.

    Raises:
        HeadstartError: A setting, the source, the head, the trunk or ``output`` cannot be used.

    Example:
        >>> predict_images("out.h5", "out_head", min_score=0.6)  # doctest: +SKIP
        >>> predict_images("out.h5", to_label=30, output="round1.csv")  # doctest: +SKIP
    """
    given: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
    given = {k: os.fspath(v) if isinstance(v, Path) else v for k, v in given.items()}
    if "labels" in given:
        given["labels"] = as_names(given["labels"])
    with quiet_mode(quiet):
        return _predict_images(source, head, None if output is None else Path(output), given)


def _predict_images(
    source: PathLike, head: PathLike | None, path: Path | None, given: Mapping[str, Any]
) -> Predictions:
    trunk, written = ({k: given[k] for k in names if k in given} for names in (_TRUNK, _OUTPUT))
    running, drawn = ExtractConfig.from_dict(given), is_chart(path)
    set_limits(running.max_image_bytes, running.max_image_pixels)
    if drawn and (strange := [name for name in written if name != "top"]):
        raise SettingError(f"{strange[0]}: has no effect on {path}, which is a chart; leave it out")
    config = PredictConfig(**({"top": CHART_TOP} if drawn else {}) | written)
    stored = is_store(source)
    strange = [] if stored else [name for name in _STORED if name in written]
    if strange:
        expected = "expected a file of features; make it with extract-features"
        raise SettingError(f"{strange[0]}: has no effect on {source}; {expected}")
    if not config.to_label:
        _check_model(source, head, trunk)
    if path:
        check_file(path, source)
        check_questions(path) if config.to_label else check_replaced(path)
        if config.sort:
            check_apart(Path(config.sort), path)
    if stored:
        return predict_stored(Path(source), head, path, given, config)
    if table := open_features(source, running.columns):
        return _predict_table(table, head, path, given, config)
    return _predict_source(source, head, path, trunk, (running, config))


def _predict_source(
    source: PathLike,
    head: PathLike | None,
    path: Path | None,
    trunk: Mapping[str, Any],
    configs: tuple[ExtractConfig, PredictConfig],
) -> Predictions:
    """Label images, with a head or with a complete model."""
    (running, config), drawn = configs, is_chart(path)
    if config.sort:
        check_folder(Path(config.sort), os.fspath(source))
    began, timings = time.perf_counter(), Timings()
    listed = list_source(source, running.columns, running.root)
    check_source(listed)
    items = listed.items
    if drawn and len(items) != 1:
        raise SettingError(
            f"{path}: found {len(items)} images in {source}; expected one for a chart; name one"
        )
    if drawn and path:
        check_file(path, items[0].path)
    model: TrainedHead | CompleteModel
    engine: Engines
    if head:
        model = load_head(head)
        engine = open_engines(model, trunk.get("weights"), running.batch_size, len(items))
    else:
        model = open_classifier(running, len(items), **trunk)
        engine = model.engine
    timings.start = time.perf_counter() - began
    digests = np.zeros((len(items), DIGEST_BYTES), np.uint8)
    answers = label_images(items, engine, model, config, running.workers, timings, digests)
    predictions = conclude(answers, listed, configs, timings, path)
    if config.sort:
        answers.sort([partial(read_item, item) for item in items], [item.path for item in items])
    return tell_seen(predictions, head, listed, digests, answers) if head else predictions


def _predict_table(
    table: FeatureTable,
    head: PathLike | None,
    path: Path | None,
    given: Mapping[str, Any],
    config: PredictConfig,
) -> Predictions:
    """Label the rows of features that another program made."""
    began, timings = time.perf_counter(), Timings()
    if not head:
        found = f"found {table.where}, features of another program"
        raise SettingError(f"trunk: {found}; expected images; give DIR, a head that takes them")
    if config.sort:
        found = f"sort: has no effect on {table.where}, which holds features and no images"
        raise SettingError(f"{found}; drop --sort")
    check_settings(table, {k: v for k, v in given.items() if k not in (*_OUTPUT, "max_bad")})
    if path and may_describe(table.path, path):
        found = f"has the place of the table that describes the rows of {table.where}"
        raise HeadError(f"{path}: {found}; name another file for the result")
    model, listed = load_head(head), arrange(table)
    if table.shape != model.shape:
        found = f"found features of shape {table.shape}"
        raise HeadError(f"{table.where}: {found}; expected {model.shape}, as {head} was trained on")
    if model.trunk.trunk:
        known = f"features of {quoted(model.trunk.trunk)}, {quoted(model.layer)}"
        log.warning("the head was trained on %s; %s must hold the same", known, table.where)
    if is_chart(path) and table.count != 1:
        found = f"found {table.count} rows in {table.where}"
        raise SettingError(f"{path}: {found}; expected one for a chart")
    timings.start = time.perf_counter() - began
    answers = Answers([item.key for item in listed.items], model.class_names, config)
    digests = np.zeros((table.count, DIGEST_BYTES), np.uint8)
    with progress(table.count, "rows", label="labelling") as bar:
        for read in read_table(table, model.dtype):
            if len(read.rows):
                digests[read.rows] = read.digests
                answers.add(read.rows, model.score({model.layer: read.features[table.name]}))
            for row, reason, _ in read.failed:
                answers.fail(row, reason)
            bar.update(len(read.rows) + len(read.failed))
    running = ExtractConfig.from_dict(given)
    predictions = conclude(answers, listed, (running, config), timings, path, "row")
    return tell_seen(predictions, head, listed, digests, answers)


def _check_model(source: PathLike, head: PathLike | None, trunk: Mapping[str, Any]) -> None:
    """Raise SettingError unless there is a head or a complete model, and not both."""
    if head and (extra := trunk.keys() - {"weights"}):
        raise SettingError(
            f"{', '.join(sorted(extra))}: has no effect with {head}, which records its trunk; "
            "leave it out"
        )
    if not head and "trunk" not in trunk:
        raise SettingError(
            f"found SOURCE {source} alone; expected DIR SOURCE, a head from train-head before it; "
            "or --trunk NAME; or --to-label N for a file of features"
        )
    if head and is_head_folder(source) and not is_head_folder(head):
        raise SettingError(
            f"{source}: found a head in the place of SOURCE; expected DIR before SOURCE; swap them"
        )


def label_images(
    items: Sequence[Item],
    engine: Engines,
    model: TrainedHead | CompleteModel,
    config: PredictConfig,
    workers: int = ExtractConfig.workers,
    timings: Timings | None = None,
    digests: NDArray[np.uint8] | None = None,
) -> Answers:
    """Label images by the features that an engine computes.

    Args:
        items: The images.
        engine: The engine that runs on them, or that of each trunk of the head.
        model: The head or the complete model that scores the features.
        config: How many labels an image gets, and which scores are kept.
        workers: Threads that read and decode.
        timings: The seconds of each step are added here.
        digests: Receives the digest of each image file that could be read: (N, 16) uint8.

    Raises:
        EngineError: The engine cannot run.
    """
    answers = Answers([item.key for item in items], model.class_names, config)
    notes = Notes()
    with progress(len(items), "images", label="labelling") as bar:
        for block in stream_engines(items, engine, workers, timings):
            if len(block.rows):
                answers.add(block.rows, model.score(block.features))
                if digests is not None:
                    digests[block.rows] = block.digests
            for row, reason, _ in block.failed:
                answers.fail(row, reason)
            for row, note in block.noted:
                notes.add(items[row].key, note)
            bar.update(len(block.rows) + len(block.failed))
    notes.warn()
    return answers
