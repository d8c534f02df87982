"""The command train-head: arguments -> settings -> run."""

import argparse
import shlex
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from classify.settings.config import GROUPS, METRICS, FinetuneConfig, TrainConfig
from classify.settings.head_spec import (
    ACTIVATIONS,
    CLASS_WEIGHTS,
    DEFAULTS,
    KERAS_HEADS,
    KERNELS,
    OPTIMIZERS,
    USUAL_HEADS,
    VIEWS,
    HeadSpec,
)
from classify.settings.sweep import (
    PARSERS,
    choose_heads,
    make_candidates,
    parse_names,
    parse_sweep,
)
from extract.core.atomic import remove_leftovers
from extract.core.console import add_common_flags, log, run_command
from extract.core.errors import EXIT_OK, HeadError, SettingError

_TRAIN_EXAMPLES = """\
examples:
  extract-features data/ out.h5        first, once
  train-head out.h5
  train-head out.h5 --head dense --head logistic
  train-head out.h5 --dropout 0.5 --patience 5 -o half_dropped/
  train-head out.h5 --folds 5 --sweep logistic.C=0.001:10:9 --sweep transform=standardise,sqrt+l2

The heads are ranked by what they do on images that they were not trained on: the validation split
of the file; where it has none, about a fifth of the images, chosen by a hash of their keys; or,
with --folds, each image once. The best head is kept. A test split is used once, for that head.
"""
# Field of HeadSpec -> its type, or what it can be; what it is.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "units": (PARSERS["units"], "widths of the hidden layers, as in 512,128"),
    "activation": (ACTIVATIONS, "what follows a hidden layer"),
    "dropout": (float, "share of the hidden units dropped in a training step"),
    "batch_normalisation": (bool, "normalise hidden layers over the batch"),
    "l2": (float, "weight of the squared kernels in the loss"),
    "label_smoothing": (float, "share of the truth spread over all classes"),
    "class_weight": (CLASS_WEIGHTS, "let each class weigh the same"),
    "optimizer": (OPTIMIZERS, "what turns gradients into steps"),
    "momentum": (float, "momentum of sgd or rmsprop"),
    "nesterov": (bool, "Nesterov's form of the momentum, for sgd"),
    "learning_rate": (float, "size of the steps"),
    "epochs": (int, "passes over the training images, at most"),
    "batch_size": (int, "images in a training step"),
    "patience": (int, "stop after N epochs without a lower validation loss; take the best epoch"),
    "C": (float, "inverse of the strength of the penalty; of a linear svm 0.001"),
    "kernel": (KERNELS, "shape of the boundary"),
    "gamma": (float, "width of the rbf kernel"),
    "alpha": (float, "strength of the penalty"),
    "shrinkage": (float, "share of the covariance taken from a multiple of the identity"),
    "neighbours": (int, "how many of the nearest images are asked"),
    "trees": (int, "trees, or rounds of boosting"),
    "step": (float, "how much of each round is taken"),
}
# What stands for nothing, where that is not "off".
_UNSET = {"gamma": "one over the sum of the features' variances"}
# The rest is one flag for all heads.
_FOR_ALL = {"head", "layer", "transform", "views", "seed"}


def train_head(argv: list[str] | None = None) -> int:
    """Run the command ``train-head``; returns its exit code."""
    return run_command(train_head_parser(), _train_head, argv)


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
        default=[],
        metavar="NAME",
        help=f"{', '.join(DEFAULTS)}; repeatable (default: those that the other flags are about; "
        f"with none, {', '.join(USUAL_HEADS)})",
    )
    parser.add_argument(
        "--layer",
        type=parse_names,
        metavar="NAME",
        help="whose features to use, where the file holds several; NAME+NAME joins them",
    )
    parser.add_argument(
        "--transform",
        type=parse_names,
        metavar="STEP+STEP",
        help="steps in front of each head: standardise, sqrt, l2, pca=N; or none "
        "(default: the head's own)",
    )
    parser.add_argument(
        "--views",
        choices=VIEWS,
        help="what becomes of a file's augmented views: nothing, one of each image an epoch, or "
        "all as images of their own (default: random for dense and linear, all for the others)",
    )
    parser.add_argument(
        *("-o", "--output"),
        metavar="DIR",
        type=Path,
        help="the folder to make (default: the file's name without its ending, and _head)",
    )
    _add_choice_flags(parser)
    _add_finetune_flags(parser)
    _add_head_flags(parser)
    add_common_flags(parser)
    return parser


def _add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is tried and how it is judged."""
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="try every value; LOW:HIGH:COUNT is a logarithmic range, HEAD.NAME says whose setting "
        "where several have it; repeatable, for every combination",
    )
    group.add_argument(
        "--trials", type=int, metavar="N", help="try N of the candidates, drawn at random"
    )
    group.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate in the place of one validation split"
    )
    group.add_argument(
        "--groups",
        choices=GROUPS,
        default=GROUPS[0],
        help="what stays on one side: the groups in the file; digest adds to them images that "
        "are the same byte for byte (default: %(default)s)",
    )
    group.add_argument(
        "--halving",
        action="store_true",
        help="of the Keras heads that train as one model, stop the worse half by validation loss "
        "after an eighth, a quarter and half of the epochs (default: off)",
    )
    group.add_argument(
        "--metric", choices=METRICS, default=TrainConfig.metric, help="default: %(default)s"
    )
    group.add_argument(
        "--seed",
        type=int,
        default=TrainConfig.seed,
        metavar="N",
        help="decides all that is random (default: %(default)s)",
    )
    group.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="features that need more, with their copies in training, are read from the file while "
        "training (default: what is free)",
    )
    group.add_argument(
        "--assert-accuracy",
        type=float,
        metavar="X",
        help="exit with 1 where the best head's accuracy is below X",
    )


def _add_finetune_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is done with the best head."""
    group = parser.add_argument_group("fine-tuning and export")
    group.add_argument(
        "--finetune",
        action="store_true",
        help="then train the trunk's blocks above the cached layer together with the best head",
    )
    for field, kind, text in (
        ("finetune_epochs", int, "passes of both together; the best one is kept"),
        ("finetune_learning_rate", float, "size of the steps of both together"),
    ):
        group.add_argument(
            f"--{field.replace('_', '-')}",
            type=kind,
            metavar="X" if kind is float else "N",
            help=f"{text} (default: {getattr(FinetuneConfig, field)})",
        )
    group.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="FILE",
        help="also write trunk and head as one model from pixels to scores: a .keras or .onnx "
        "file, or a folder for a SavedModel; repeatable",
    )


def _add_head_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting, in a group for the first of the heads that have it."""
    seen = set(_FOR_ALL)
    for head, known in DEFAULTS.items():
        fresh = [field for field in known if field not in seen]
        group = parser.add_argument_group(f"head {head}") if fresh else parser
        for field in fresh:
            kind, text = _SETTINGS[field]
            given: dict[str, Any] = {"help": f"{text} (default: {_shown(field)})"}
            if kind is bool:
                given |= {"action": "store_true", "default": None}
            elif isinstance(kind, tuple):
                given["choices"] = kind
            else:
                given |= {"type": kind, "metavar": "X" if kind is float else "N"}
            group.add_argument(f"--{field.replace('_', '-')}", **given)
        seen |= known.keys()


def _shown(field: str) -> str:
    """Return the default of a setting, and for each head where they differ."""
    found: dict[str, str] = {}
    for head in DEFAULTS:
        if field in DEFAULTS[head]:
            value = getattr(HeadSpec(head), field)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            unset = value is None or value is False or value == 0
            found[head] = _UNSET.get(field, "off") if unset else text
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{head} {text}" for head, text in found.items())


def _train_config(arguments: argparse.Namespace) -> TrainConfig:
    """Turn arguments into settings; loads nothing heavy."""
    settings = {field.name: getattr(arguments, field.name) for field in fields(HeadSpec)[1:]}
    # The seed is of the run, and of those heads that have one.
    settings["seed"] = arguments.seed or None
    sweep: dict[tuple[str | None, str], list[Any]] = {}
    for text in arguments.sweep:
        name, values = parse_sweep(text)
        if name in sweep or settings.get(name[1]) is not None:
            raise SettingError(f"sweep: found {text} beside another {name[1]}; expected it once")
        sweep[name] = values
    finetune = _finetune_config(arguments)
    heads = choose_heads(arguments.head, settings, sweep)
    if finetune:
        # Untold: the heads that can be trained further, on what the blocks give.
        heads = heads if arguments.head else tuple(h for h in heads if h in KERAS_HEADS) or heads
        settings["transform"] = settings["transform"] or ()
    if not any("seed" in DEFAULTS.get(head, {}) for head in heads):
        settings["seed"] = None
    return TrainConfig(
        candidates=make_candidates(heads, settings, sweep, arguments.trials, arguments.seed),
        folds=arguments.folds,
        halving=arguments.halving,
        metric=arguments.metric,
        seed=arguments.seed,
        memory=arguments.memory,
        named=bool(arguments.head),
        assert_accuracy=arguments.assert_accuracy,
        finetune=finetune,
    )


def _finetune_config(arguments: argparse.Namespace) -> FinetuneConfig | None:
    names = [field.name for field in fields(FinetuneConfig)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if given and not arguments.finetune:
        raise SettingError(f"{next(iter(given))}: has no effect without --finetune")
    return FinetuneConfig(**given) if arguments.finetune else None


def _train_head(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    config = _train_config(arguments)
    store: Path = arguments.store
    folder = arguments.output or store.with_name(f"{store.stem}_head")

    from classify.data.dataset import load_dataset
    from classify.finetune import finetune
    from classify.inference import export
    from classify.inference.bundle import check_target, save_head
    from classify.search import search
    from classify.search.feasibility import drop_infeasible
    from extract.store.validate import check_there

    if not arguments.output:  # the folder is beside the file: a wrong path is that of the file
        check_there(store)
    if arguments.export:
        export.check_targets(arguments.export, config.candidates)
    remove_leftovers(folder.resolve())
    check_target(folder)
    # One that names none takes the only one of the file, and not that of whoever is first.
    layers = ["+".join(spec.layer) for spec in config.candidates]
    layer = layers[0] if all(layers) else None
    dataset = load_dataset(store, layer, config.memory, arguments.groups)
    # What cannot be is said at once, before a trunk is built or anything trained.
    if config.finetune:
        finetune.check_maps(dataset)
    else:
        config = drop_infeasible(dataset, config)
    trunk = export.open_trunk(dataset) if arguments.export else None
    timing = {"read": time.perf_counter() - began}
    try:
        run = finetune.run if config.finetune else search.run
        result = run(dataset, config, folder)
    except search.Stopped as stopped:
        if stopped.result:
            print(stopped.result)
        raise
    timing["train"] = time.perf_counter() - began - timing["read"]
    print(result)
    save_head(folder, dataset, result, str(store))
    if trunk and export.can_export(result):
        export.export_best(folder, trunk, arguments.export)
    _save_report(folder, dataset, result, config.seed, str(store), timing)
    timing["all"] = time.perf_counter() - began
    log.info(
        f"{folder}: {result.summary()}; "
        + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in timing.items())
    )
    if trunk:
        export.check_head(result)
    accuracy = result.accuracy
    if config.assert_accuracy is not None and accuracy < config.assert_accuracy:
        raise HeadError(
            f"accuracy: found {accuracy:.4f}; expected {config.assert_accuracy} or more, as "
            "--assert-accuracy says; try other heads, or more images"
        )
    log.info("next: predict-images %s SOURCE", shlex.quote(str(folder)))
    return EXIT_OK


def _save_report(
    folder: Path, dataset: Any, result: Any, seed: int, store: str, timing: dict[str, float]
) -> None:
    """Look closely at the head that is saved, and put the report beside it."""
    began = time.perf_counter()
    try:
        log.debug("%s: saved; a look at it from all sides for the report", folder)
        from classify.inference.bundle import save_report
        from classify.report.analysis import analyse

        analysis = analyse(dataset, result, seed)
        save_report(folder, dataset, result, analysis, store, timing)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the head is saved in {folder}, its report is not; the same command goes on"
        ) from None
    timing["report"] = time.perf_counter() - began
