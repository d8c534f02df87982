"""The command predict-images: arguments -> settings -> labels."""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from classify.settings.config import CHART_ENDINGS, FORMATS, PredictConfig
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.console import add_common_flags, log, run_command
from extract.core.errors import EXIT_OK, EXIT_TOO_MANY_BAD, SettingError
from extract.core.flags import add_flags

_EXAMPLES = """\
examples:
  predict-images out_head/ data/validation
  predict-images out_head/ data/validation --top 3 --format json -o labels.jsonl
  predict-images photo.jpg --trunk vgg16 --top 5
  predict-images photo.jpg --trunk vgg16 -o chart.png

With DIR, a head that train-head has trained; with --trunk, the classes that a complete model scores
by itself. Columns: key, label, score (0 to 1), reason (why an image could not be read; it has no
label).
"""
# What decides a complete model; a head knows all of it.
_MODEL_FLAGS = ("trunk", "image_size", "preprocess")
_CHART_TOP = 10
_READING = ("columns", "batch_size", "workers", "max_bad")


def predict_images(argv: list[str] | None = None) -> int:
    """Run the command ``predict-images``; returns its exit code."""
    return run_command(predict_images_parser(), _predict_images, argv)


def predict_images_parser() -> argparse.ArgumentParser:
    """Build the parser of ``predict-images``."""
    parser = argparse.ArgumentParser(
        prog="predict-images",
        description="Label images with a trained head, or with a complete model.\n\n" + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "head", metavar="DIR", type=Path, nargs="?", help="a folder made by train-head"
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder of images, one image, or a table of them"
    )
    add_flags(parser, ExtractConfig, "columns")
    add_flags(
        parser.add_argument_group("without DIR, but for --weights"),
        TrunkSpec,
        *("trunk", "weights", "image_size", "preprocess"),
        trunk="a complete model of keras.applications, with ImageNet's 1,000 classes; "
        "or a model of your own, as model.save writes it into FILE.keras",
        weights="of DIR: where the trunk's weights are now, which must be those of training; of a "
        "complete model: imagenet (default), none, or a file with top",
        image_size="pixels that a FILE sees, where it takes any",
    )
    _add_output_flags(parser.add_argument_group("output"))
    add_flags(parser.add_argument_group("running"), ExtractConfig, "batch_size", "workers")
    add_common_flags(parser)
    return parser


def _add_output_flags(group: Any) -> None:
    usual = PredictConfig()
    group.add_argument(
        "--top",
        type=int,
        metavar="N",
        help=f"labels an image, best first (default: {usual.top}; {_CHART_TOP} in a chart)",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        help=f"comma-separated with a heading, or JSON lines (default: {usual.format})",
    )
    group.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        type=Path,
        help="the file to write (default: stdout); for one image .png, .svg or .pdf draws a chart",
    )
    add_flags(group, ExtractConfig, "max_bad")


def _settings(arguments: argparse.Namespace, chart: bool) -> tuple[PredictConfig, ExtractConfig]:
    """Check the arguments against each other; loads nothing heavy."""
    given = [name for name in _MODEL_FLAGS if getattr(arguments, name) is not None]
    if arguments.head and given:
        raise SettingError(
            f"{', '.join(given)}: has no effect beside {arguments.head}, whose head knows its "
            "trunk; leave the one or the other out"
        )
    if not arguments.head and not arguments.trunk:
        raise SettingError(
            f"found SOURCE {arguments.source} alone; expected DIR, a folder made by train-head, "
            "before it, or --trunk NAME for a complete model"
        )
    if chart and arguments.format:
        raise SettingError(f"format: has no effect on {arguments.output}, which is drawn")
    usual = PredictConfig()
    top = _CHART_TOP if chart else usual.top
    reading = {name: getattr(arguments, name) for name in _READING}
    running = ExtractConfig(**{k: v for k, v in reading.items() if v is not None})
    return PredictConfig(
        top if arguments.top is None else arguments.top, arguments.format or usual.format
    ), running


def _predict_images(arguments: argparse.Namespace) -> int:
    chart = arguments.output is not None and arguments.output.suffix.lower() in CHART_ENDINGS
    config, running = _settings(arguments, chart)

    from classify.inference import predict
    from classify.inference.bundle import is_head_folder
    from extract.pipeline.stream import Timings
    from extract.sources.listing import list_source

    if arguments.head and is_head_folder(arguments.source) and not is_head_folder(arguments.head):
        raise SettingError(
            f"{arguments.source}: a head in the place of SOURCE; expected DIR before SOURCE; swap "
            "the two"
        )
    if arguments.output:
        predict.check_output(arguments.output)
    began, clock = time.perf_counter(), Timings()
    source = list_source(arguments.source, running.columns)
    for warning in source.warnings:
        log.warning("%s", warning)
    if chart and len(source.items) != 1:
        raise SettingError(
            f"{arguments.output}: found {len(source.items)} images in {arguments.source}; "
            "expected one for a chart; name one, or a file that ends in .csv"
        )
    label = _open_head(arguments, running) if arguments.head else _open_model(arguments, running)
    clock.start = time.perf_counter() - began
    predictions = label(source.items, top=config.top, config=running, clock=clock)
    _write(predictions, arguments.output, config.format, chart)
    return _report(predictions, arguments.output, running, clock)


def _open_head(arguments: argparse.Namespace, running: ExtractConfig) -> Any:
    """Return what labels images with a trained head."""
    from classify.inference import predict
    from classify.inference.bundle import load_head

    bundle = load_head(arguments.head)
    engine = predict.open_trunk(bundle, arguments.weights, running)
    return lambda items, **settings: predict.predict(bundle, items, engine, **settings)


def _open_model(arguments: argparse.Namespace, running: ExtractConfig) -> Any:
    """Return what labels images with a complete model."""
    from classify.inference import complete_model, predict

    names = (*_MODEL_FLAGS, "weights")
    given = {name: getattr(arguments, name) for name in names}
    engine, class_names = complete_model.open_classifier(
        running, **{name: value for name, value in given.items() if value is not None}
    )
    score = partial(complete_model.to_scores, engine)
    return partial(predict.label_images, engine=engine, score=score, class_names=class_names)


def _write(predictions: Sequence[Any], output: Path | None, form: str, chart: bool) -> None:
    from classify.inference.chart import save_chart
    from classify.inference.predict import save_predictions, write_predictions

    if output is None:
        write_predictions(predictions, sys.stdout, form)
    elif not chart:
        save_predictions(predictions, output, form)
    elif predictions[0].reason is None:
        save_chart(predictions, output)


def _report(
    predictions: Sequence[Any], output: Path | None, running: ExtractConfig, clock: Any
) -> int:
    failed = [p for p in predictions if p.reason is not None]
    total = len({p.key for p in predictions})
    for prediction in failed:
        log.warning("%s: %s", prediction.key, prediction.reason)
    log.info(
        f"{output or 'stdout'}: {total - len(failed)} images labelled, {len(failed)} unreadable; "
        f"start {clock.start:.1f} s, trunk {clock.trunk:.1f} s, waiting for images "
        f"{clock.wait:.1f} s"
    )
    return EXIT_TOO_MANY_BAD if len(failed) > running.tolerated(total) else EXIT_OK
