"""The commands of stage two: arguments -> settings -> run."""

import argparse
import shlex
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from classify.config import (
    DEFAULTS,
    FORMATS,
    OPTIMIZERS,
    HeadSpec,
    PredictConfig,
    TrainConfig,
    candidate_specs,
)
from extract.config import ExtractConfig
from extract.console import add_common_flags, log, run_command
from extract.errors import EXIT_OK, EXIT_TOO_MANY_BAD

_TRAIN_EXAMPLES = """\
examples:
  extract-features data/ out.h5        first, once
  train-head out.h5
  train-head out.h5 --head dense --head logistic
  train-head out.h5 --dropout 0.5 --patience 5 -o half_dropped/

The validation split of the file judges the heads; where it has none, about a fifth of the pictures,
chosen by a hash of their keys. The best head is kept. A test split is used once, for that head.
"""
_PREDICT_EXAMPLES = """\
examples:
  predict-images out_head/ data/validation
  predict-images out_head/ data/validation --top 3 --format json -o labels.jsonl

Columns: key, label, score (0 to 1), reason (why a picture could not be read; it has no label).
"""
# Field of HeadSpec -> its type, or what it can be; what it is.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "units": (int, "width of the hidden layer"),
    "dropout": (float, "share of the hidden units dropped in a training step"),
    "optimizer": (OPTIMIZERS, "what turns gradients into steps"),
    "momentum": (float, "momentum of sgd or rmsprop"),
    "nesterov": (bool, "Nesterov's form of the momentum, for sgd"),
    "learning_rate": (float, "size of the steps"),
    "epochs": (int, "passes over the training pictures, at most"),
    "batch_size": (int, "pictures in a training step"),
    "patience": (int, "stop after N epochs without a lower validation loss; take the best epoch"),
    "seed": (int, "decides the first weights, the order and the dropout"),
    "C": (float, "inverse of the strength of the l2 penalty"),
}


def train_head(argv: list[str] | None = None) -> int:
    """Run the command ``train-head``; returns its exit code."""
    return run_command(train_head_parser(), _train_head, argv)


def predict_images(argv: list[str] | None = None) -> int:
    """Run the command ``predict-images``; returns its exit code."""
    return run_command(predict_images_parser(), _predict_images, argv)


def train_head_parser() -> argparse.ArgumentParser:
    """Build the parser of ``train-head``."""
    parser = argparse.ArgumentParser(
        prog="train-head",
        description="Train classifier heads on a file of features and keep the best.\n\n"
        + _TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "store", metavar="OUT.h5", type=Path, help="a file made by extract-features"
    )
    parser.add_argument(
        "--head",
        action="append",
        metavar="NAME",
        help=f"{' or '.join(DEFAULTS)}; repeatable (default: {HeadSpec.head})",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="whose features to use, where the file holds several"
    )
    parser.add_argument(
        *("-o", "--output"),
        metavar="DIR",
        type=Path,
        help="the folder to make (default: the file's name without its ending, and _head)",
    )
    _add_head_flags(parser)
    add_common_flags(parser)
    return parser


def predict_images_parser() -> argparse.ArgumentParser:
    """Build the parser of ``predict-images``."""
    parser = argparse.ArgumentParser(
        prog="predict-images",
        description="Label pictures with a trained head.\n\n" + _PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("head", metavar="DIR", type=Path, help="a folder made by train-head")
    parser.add_argument("source", metavar="SOURCE", help="a folder of pictures, or one picture")
    parser.set_defaults(**asdict(PredictConfig()))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", type=int, metavar="N", help="labels a picture, best first (default: %(default)s)"
    )
    output.add_argument(
        "--format",
        choices=FORMATS,
        help="comma-separated with a heading, or JSON lines (default: %(default)s)",
    )
    output.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the file to write (default: stdout)"
    )
    output.add_argument(
        "--max-bad",
        metavar="N|P%",
        default=ExtractConfig.max_bad,
        help="unreadable pictures that are tolerated; with more, the exit code is 4 "
        "(default: %(default)s)",
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--weights",
        metavar="FILE",
        help="where the trunk's weights are now; they must be those of training "
        "(default: where they were then)",
    )
    running.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="pictures in one call of the trunk (default: chosen from the device's memory)",
    )
    running.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=ExtractConfig.workers,
        help="threads that read and decode (default: one for each core, at least 2)",
    )
    add_common_flags(parser)
    return parser


def _add_head_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting of every head, in a group a head."""
    for head, known in DEFAULTS.items():
        group = parser.add_argument_group(f"head {head}")
        for field, usual in known.items():
            kind, text = _SETTINGS[field]
            shown = "off" if usual is None or usual is False else usual
            given: dict[str, Any] = {"help": f"{text} (default: {shown})"}
            if kind is bool:
                given |= {"action": "store_true", "default": None}
            elif isinstance(kind, tuple):
                given["choices"] = kind
            else:
                given |= {"type": kind, "metavar": "N" if kind is int else "X"}
            group.add_argument(f"--{field.replace('_', '-')}", **given)


def _train_head(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    settings = {field.name: getattr(arguments, field.name) for field in fields(HeadSpec)[1:]}
    config = TrainConfig(
        candidate_specs(arguments.head or [HeadSpec.head], settings), arguments.layer
    )
    store: Path = arguments.store
    folder = arguments.output or store.with_name(f"{store.stem}_head")

    from classify.bundle import check_target, save_bundle
    from classify.dataset import load_dataset
    from classify.splits import divide
    from classify.train import train

    check_target(folder)
    dataset = load_dataset(store, config.layer)
    split = divide(dataset)
    timing = {"read": time.perf_counter() - began}
    run = train(dataset, split, config.candidates)
    timing |= {result.spec.head: result.seconds for result in run.results}
    save_bundle(folder, dataset, run, str(store), timing)
    timing["all"] = time.perf_counter() - began
    print(run.table())
    judges = {"store": "its validation split", "hold-out": "held out by a hash"}[split.origin]
    log.info(
        f"{folder}: {run.chosen.spec.head}, trained on {len(split.train)} pictures, chosen on "
        f"{len(split.validation)} ({judges}); "
        + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in timing.items())
    )
    log.info("next: predict-images %s SOURCE", shlex.quote(str(folder)))
    return EXIT_OK


def _predict_images(arguments: argparse.Namespace) -> int:
    config = PredictConfig(arguments.top, arguments.format)
    running = ExtractConfig(
        batch_size=arguments.batch_size, workers=arguments.workers, max_bad=arguments.max_bad
    )

    from classify import predict
    from classify.bundle import load_bundle
    from extract.source import list_source
    from extract.stream import Clock

    if arguments.output:
        predict.check_output(arguments.output)
    began, clock = time.perf_counter(), Clock()
    source = list_source(arguments.source)
    for warning in source.warnings:
        log.warning("%s", warning)
    bundle = load_bundle(arguments.head)
    engine = predict.open_trunk(bundle, arguments.weights, running)
    start = time.perf_counter() - began
    predictions = predict.predict(bundle, source.items, engine, config.top, running, clock)
    if arguments.output:
        predict.save_predictions(predictions, arguments.output, config.format)
    else:
        predict.write_predictions(predictions, sys.stdout, config.format)
    failed = [p for p in predictions if p.reason is not None]
    for prediction in failed:
        log.warning("%s: %s", prediction.key, prediction.reason)
    log.info(
        f"{arguments.output or 'stdout'}: {len(source.items) - len(failed)} pictures labelled, "
        f"{len(failed)} unreadable; start {start:.1f} s, trunk {clock.trunk:.1f} s, "
        f"waiting for pictures {clock.wait:.1f} s"
    )
    return EXIT_TOO_MANY_BAD if len(failed) > running.tolerated(len(source.items)) else EXIT_OK
