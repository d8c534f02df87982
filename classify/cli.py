"""The command train-head."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from classify.settings.config import GROUPS, FinetuneConfig, LabelConfig, TrainConfig
from classify.settings.head_spec import DEFAULTS, SETTINGS, USUAL_HEADS, HeadSpec
from extract.core.console import Parser, add_common_flags, as_word, log, run_command
from extract.core.errors import ExitCode
from extract.core.flags import add_flags, given_settings
from extract.display.width import width_of

_EXAMPLES = """\
examples:
  extract-features data/ out.h5        first, once
  train-head out.h5
  train-head out.h5 --head dense --head logistic
  train-head vgg.h5 inception.h5      each of them, and both joined
  train-head out.h5 --labels sex.csv -o sex_head/
  train-head out.h5 --dropout 0.5 --patience 5 -o half_dropped/
  train-head out.h5 --folds 5 --sweep logistic.C=0.001:10:9
  train-head out.h5 --head lda --sweep transform=standardise,sqrt+l2

The heads are ranked by their scores on images that they were not trained on:
the validation split of the file; without one, about a fifth of the images,
chosen by a hash of their groups or files; or, with --folds or few images, each
image once. The best head is kept. A test split is used once, for that head.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command ``train-head``; returns its exit code."""
    return run_command(train_head_parser(), _train_head, argv)


def train_head_parser() -> argparse.ArgumentParser:
    """Build the parser of ``train-head``."""
    parser = Parser(
        "train-head",
        "OUT.h5 [OUT.h5 ...]",
        "Train classifier heads on a file of features and keep the best.",
        _EXAMPLES,
    )
    text = "a file made by extract-features, or several of the same images"
    parser.add_argument("store", nargs="+", metavar="OUT.h5", help=text)
    parser.add_argument(
        "--head",
        action="append",
        metavar="NAME",
        help=f"{', '.join(DEFAULTS)}; repeatable (default: the heads that have the other flags; "
        f"without any, {', '.join(USUAL_HEADS)})",
    )
    add_flags(parser, HeadSpec, "layer", "transform", "views")
    add_flags(parser.add_argument_group("labels"), LabelConfig)
    text = "the folder to make (default: the files' names without their endings, and _head)"
    parser.add_argument("-o", "--output", metavar="DIR", help=text)
    text = "where the images are, for those in the report (default: where they were extracted)"
    parser.add_argument("--source", metavar="DIR", help=text)
    _add_candidate_flags(parser.add_argument_group("candidates"))
    _add_finetune_flags(parser.add_argument_group("fine-tuning and export"))
    _add_head_flags(parser)
    add_common_flags(parser)
    return parser


def _add_candidate_flags(group: Any) -> None:
    """Add the flags that name the candidates and say how they are compared."""
    group.add_argument(
        "--sweep",
        action="append",
        metavar="NAME=V,V",
        help="try every value; LOW:HIGH:COUNT is a logarithmic range, HEAD.NAME names the head "
        "where several have the setting; repeatable, for every combination",
    )
    group.add_argument(
        "--trials", type=int, metavar="N", help="try N of the candidates, drawn at random"
    )
    group.add_argument(
        "--groups",
        choices=GROUPS,
        help="images that stay in one split: the groups in the file; digest adds images that are "
        f"byte for byte the same, near also near-duplicates, and none divides the groups "
        f"(default: {GROUPS[0]})",
    )
    group.add_argument(
        "--leave-out",
        action="append",
        metavar="CLASS",
        help="do not use the images of a class, which the head then does not know; repeatable",
    )
    add_flags(group, TrainConfig)
    group.add_argument(
        "--assert",
        action="append",
        metavar="METRIC=X",
        dest="asserts",
        help="exit with 1 where the metric of the best head is below X, or its loss above; the "
        "head is then saved in DIR.rejected, and DIR stays as it was; repeatable",
    )


def _add_finetune_flags(group: Any) -> None:
    """Add the flags of the steps after the search."""
    group.add_argument(
        "--finetune",
        action="store_true",
        default=None,
        help="then train the trunk's blocks above the cached layer together with the best head",
    )
    add_flags(group, FinetuneConfig)
    group.add_argument(
        "--export",
        action="append",
        metavar="FILE",
        help="also write trunk and head as one model from pixels to scores: a .keras, .onnx "
        "or .tflite file, or a folder for a SavedModel; repeatable",
    )


def _add_head_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting, in a group for the first of the heads that have it."""
    seen = {"layer", "transform", "views", "seed"}  # one flag for all heads
    for head, known in DEFAULTS.items():
        names = [name for name in SETTINGS if name in known and name not in seen]
        if names:
            texts = {
                name: f"{SETTINGS[name].metadata['text']} ({_defaults(name)})" for name in names
            }
            add_flags(parser.add_argument_group(f"head {head}"), HeadSpec, *names, **texts)
        seen |= known.keys()


def _defaults(name: str) -> str:
    """Return the default of a setting, for each head where they differ."""
    shown: dict[str, str] = {}
    for head in [head for head in DEFAULTS if name in DEFAULTS[head]]:
        value = getattr(HeadSpec(head), name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        shown[head] = text if value else SETTINGS[name].metadata.get("unset", "off")
    if len(set(shown.values())) == 1:
        return f"default: {next(iter(shown.values()))}"
    return "default: " + ", ".join(f"{head} {text}" for head, text in shown.items())


def _train_head(arguments: argparse.Namespace) -> int:
    from classify.train import train_heads

    result = train_heads(**given_settings(arguments), on_result=_print_board)
    if source := _next_source(result):
        log.info(
            "next: %s", shlex.join(["predict-images", as_word(result.folder), as_word(source)])
        )
    return ExitCode.OK


def _print_board(result: Any) -> None:
    """Print the leaderboard, in a terminal the columns that fit."""
    board = result.text(width_of(sys.stdout))
    print(board.text)
    if board.dropped:
        log.info("columns without room: %s; a wider terminal has them", ", ".join(board.dropped))


def _next_source(result: Any) -> str:
    """Return what the head can label, the images or its file of features; empty where neither."""
    dataset = result.dataset
    source: str = dataset.moved_to or dataset.source
    stores = [part.same.path for part in dataset.store.choose(dataset.layer).parts]
    if len(stores) > 1:  # it needs all trunks, and images
        has_trunks = all(made_by.trunk.trunk for made_by in dataset.joined)
        source = source if has_trunks and os.path.exists(source) else ""
    elif not os.path.exists(source) or (stores != [dataset.path] and not dataset.trunk.trunk):
        source = str(stores[0])
    if source and Path(source).is_absolute() and Path(source).is_relative_to(Path.cwd()):
        source = os.path.relpath(source)
    return source
