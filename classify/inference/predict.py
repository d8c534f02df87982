"""A trained head on new images, through the decode, trunk and types that it was trained on."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import join_layers
from classify.inference.bundle import TrainedHead
from extract.core.atomic import atomic_write, check_writable
from extract.core.config import ExtractConfig
from extract.core.console import progress
from extract.core.errors import HeadError
from extract.engines.base import Engine
from extract.engines.select import open_engine
from extract.images.item import Item
from extract.pipeline.stream import Timings, stream_features

# What a formula begins with, in one spreadsheet or another.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Prediction(NamedTuple):
    """One label for one image, or the reason why there is none.

    ``score`` is the head's, 0 to 1. An image that could not be read has one row with neither.
    """

    key: str
    label: str | None
    score: float | None
    reason: str | None = None


def open_trunk(bundle: TrainedHead, weights: str | None, config: ExtractConfig) -> Engine:
    """Build the bundle's trunk and refuse any other.

    Args:
        bundle: The trained head.
        weights: A file in the place of the recorded one: of the weights or, where the trunk was a
            model of one's own, of that; None for the recorded.
        config: Its ``batch_size`` is used.

    Returns:
        The engine that runs it.

    Raises:
        HeadError: The weights are not those that the head was trained on, or are not to be found.
        TrunkError: The trunk cannot be built.
    """
    field = "trunk" if bundle.trunk.is_file else "weights"
    name = weights or getattr(bundle.trunk, field)
    if not weights and name not in ("imagenet", "none") and not Path(name).exists():
        raise HeadError(
            f"{field}: {name}, from which the head was trained, is gone; expected the same file; "
            "say where it is now with --weights FILE"
        )
    moved: dict[str, Any] = {field: name}
    engine = open_engine(
        replace(bundle.trunk, **moved),
        bundle.dtype,
        config.batch_size,
        precision=bundle.precision,
        calibrate=bundle.calibration_sha256,
    )
    if engine.weights_sha256 != bundle.weights_sha256:
        raise HeadError(
            f"{field}: {name} has SHA-256 {engine.weights_sha256[:12]}; expected "
            f"{bundle.weights_sha256[:12]}, on which the head was trained; name that file with "
            "--weights, or extract and train again"
        )
    return engine


def predict(
    bundle: TrainedHead,
    items: Sequence[Item],
    engine: Engine,
    top: int = 1,
    config: ExtractConfig | None = None,
    clock: Timings | None = None,
) -> list[Prediction]:
    """Label images.

    Args:
        bundle: The trained head.
        items: The images.
        engine: From ``open_trunk``.
        top: Labels for each image.
        config: Its ``workers`` is used.
        clock: Where the seconds of each step are added up.

    Returns:
        In the order of ``items``, ``top`` predictions for each image, best first; one without a
        label for an image that could not be read.

    Raises:
        EngineError: The trunk cannot be run.
    """

    def score(features: Mapping[str, np.ndarray]) -> NDArray[np.floating]:
        X = join_layers([features[layer] for layer in bundle.layer.split("+")])
        return bundle.predict_proba(X)

    return label_images(items, engine, score, bundle.class_names, top, config, clock)


def label_images(
    items: Sequence[Item],
    engine: Engine,
    score: Callable[[Mapping[str, np.ndarray]], NDArray[np.floating]],
    class_names: Sequence[str],
    top: int = 1,
    config: ExtractConfig | None = None,
    clock: Timings | None = None,
) -> list[Prediction]:
    """Label images by what an engine gives for them.

    Args:
        items: The images.
        engine: What runs on them.
        score: From (b, *shape) features by layer to (b, K) scores.
        class_names: K names, in the order of the scores.
        top: Labels for each image.
        config: Its ``workers`` is used.
        clock: Where the seconds of each step are added up.

    Returns:
        See ``predict``.

    Raises:
        EngineError: The engine cannot run.
    """
    found: dict[int, list[Prediction]] = {}
    workers = (config or ExtractConfig()).workers
    with progress(len(items), "images") as bar:
        for block in stream_features(items, np.arange(len(items)), engine, workers, clock):
            if len(block.rows):
                for row, scores in zip(block.rows, score(block.features), strict=True):
                    found[int(row)] = list(_best(items[row].key, scores, class_names, top))
            for failure in block.failed:
                found[failure.row] = [
                    Prediction(items[failure.row].key, None, None, failure.reason)
                ]
            bar.update(len(block.rows) + len(block.failed))
    return [prediction for row in range(len(items)) for prediction in found[row]]


def _best(
    key: str, scores: NDArray[np.floating], class_names: Sequence[str], top: int
) -> Iterator[Prediction]:
    # Stable, so that equal scores come in the order of the classes.
    for label in np.argsort(-scores, kind="stable")[:top]:
        yield Prediction(key, class_names[label], float(scores[label]))


def write_predictions(predictions: Iterable[Prediction], file: TextIO, form: str) -> None:
    """Write predictions in the order given.

    Args:
        predictions: What to write.
        file: Where to.
        form: ``csv``, with a heading and empty cells for what is missing, or ``json``, an object a
            line with null for it. Scores have six decimals. In CSV a text that a spreadsheet would
            run as a formula has an apostrophe in front.
    """
    rounded = (p._replace(score=p.score and round(p.score, 6)) for p in predictions)
    if form == "json":
        file.writelines(
            json.dumps(prediction._asdict(), ensure_ascii=False) + "\n" for prediction in rounded
        )
        return
    table = csv.writer(file, lineterminator="\n")
    table.writerow(Prediction._fields)
    table.writerows([_defuse(cell) for cell in prediction] for prediction in rounded)


def _defuse(cell: str | float | None) -> str | float | None:
    """Return a cell that no spreadsheet runs: https://owasp.org/www-community/attacks/CSV_Injection."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def check_output(path: Path) -> None:
    """Raise HeadError unless a file can be made there; asked before the trunk has run for long."""
    if path.exists() and not path.is_file():
        raise HeadError(f"{path}: not a regular file; expected one, or none; name another with -o")
    check_writable(path, HeadError)


def save_predictions(predictions: Iterable[Prediction], path: Path, form: str) -> None:
    """Write predictions into a file, which has its name only once it is whole.

    Args:
        predictions: What to write.
        path: The file; one that is there already is replaced.
        form: See ``write_predictions``.

    Raises:
        HeadError: The file cannot be written.
    """
    with (
        atomic_write(path, HeadError) as beside,
        beside.open("w", encoding="utf-8", newline="") as file,
    ):
        write_predictions(predictions, file, form)
