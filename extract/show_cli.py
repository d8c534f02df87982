"""The command show-features."""

import argparse
import json
import subprocess
import sys
from typing import Any

from extract.core.console import Parser, add_common_flags, log, run_command
from extract.core.errors import ExitCode, SettingError, StoreError
from extract.display.width import width_of
from extract.images.item import SPLITS

_EXAMPLES = """\
examples:
  show-features out.h5
  show-features out.h5 --verify
  show-features out.h5 --export out.parquet
  show-features out.h5 --near --page near.html
  show-features out.h5 --like photo.jpg --top 5
  show-features out.h5 --outliers 20 --page outliers.html
  show-features strangers.h5 --verify --limit 60
"""

# What the command does instead of describing the file, one at a time.
_ACTIONS = ("export", "near", "like", "outliers", "verify")
_QUESTIONS = ("near", "like", "outliers")
# Flags that belong to some of these actions.
_BELONG = {
    "layer": ("export", *_QUESTIONS),
    "split": ("export",),
    "page": _QUESTIONS,
    "source": _QUESTIONS,
    "top": ("like",),
    "weights": ("like",),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command ``show-features``; returns its exit code."""
    return run_command(show_features_parser(), _show_features, argv)


def show_features_parser() -> argparse.ArgumentParser:
    """Build the parser of ``show-features``."""
    parser = Parser(
        "show-features",
        "OUT.h5",
        "Describe a file of features, verify or export it, and ask what it says about the images.",
        _EXAMPLES,
    )
    parser.add_argument("out", metavar="OUT.h5", help="a file made by extract-features")
    parser.add_argument(
        "--verify", action="store_true", help="read everything; exit code 1 if anything is wrong"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--limit",
        type=_seconds,
        metavar="SECONDS",
        help="read the file in a separate process, and stop it after SECONDS: for a file from a "
        "stranger, on which HDF5 may crash or loop",
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write keys, labels, splits, groups and features for other programs: .parquet, .npz "
        "or .csv; only an earlier export is replaced",
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="with --export: only the rows of this split"
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="the layer to export or compare, where there are several"
    )
    _add_questions(
        parser.add_argument_group("similarity of the images, as CSV or with --json as JSON")
    )
    add_common_flags(parser)
    return parser


def _add_questions(group: Any) -> None:
    """Add the flags of questions that the features answer."""
    group.add_argument(
        "--near",
        nargs="?",
        type=_cosine,
        const=True,
        metavar="X",
        help="groups of near-duplicates: images whose features have a cosine of X or more "
        "(default: chosen from the cosines in the file)",
    )
    group.add_argument(
        "--like",
        metavar="IMAGE",
        help="the images most similar to one: to a key of the file, or to a photo, whose features "
        "the recorded trunk computes",
    )
    group.add_argument(
        "--top", type=_count, metavar="N", help="with --like: how many (default: 10)"
    )
    text = "with --like: where the weights of the trunk, or its file, are now"
    group.add_argument("--weights", metavar="FILE", help=text)
    group.add_argument(
        "--outliers",
        type=_count,
        metavar="N",
        help="the N images with the lowest mean cosine to their ten nearest neighbours",
    )
    group.add_argument(
        "--page", metavar="FILE", help="also write an .html page with small images of them"
    )
    text = "where the images are, for --page (default: where they were extracted)"
    group.add_argument("--source", metavar="DIR", help=text)


def _cosine(text: str) -> float:
    try:
        cosine = float(text)
    except ValueError:
        cosine = 0.0
    if not 0 < cosine <= 1:
        expected = "a cosine above 0, at most 1; or no X, with OUT.h5 before --near"
        raise argparse.ArgumentTypeError(f"found {text!r}; expected {expected}")
    return cosine


def _seconds(text: str) -> float:
    if not 0 < float(text) < 1e6:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected seconds above 0")
    return float(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number above 0")
    return int(text)


def _show_features(arguments: argparse.Namespace) -> int:
    action = _choose_action(arguments)
    if action == "export":
        return _export(arguments)
    if action in _QUESTIONS:
        return _answer(arguments, action)
    if arguments.limit is not None:
        return _show_within(arguments)
    from extract.store.describe import describe, format_description
    from extract.store.open import open_store
    from extract.store.verify import verify

    with open_store(arguments.out) as store:
        description = describe(store)
        problems = verify(store) if arguments.verify else None
        unfinished = not store.complete
    if problems is not None:
        description["problems"] = problems
    if arguments.json:
        print(json.dumps(description, indent=2))
    else:
        print(format_description(description, width_of(sys.stdout)))
    if problems:
        repair = "" if unfinished and len(problems) == 1 else " with --repair"
        raise StoreError(
            f"{arguments.out}: {'; '.join(problems)}; run the same extract-features command{repair}"
        )
    if problems is not None:
        log.info("verified: every row is there, readable and finite")
    return ExitCode.OK


def _choose_action(arguments: argparse.Namespace) -> str:
    """Return what to do; empty to describe the file.

    Raises:
        SettingError: Two flags cannot be combined, or one has no effect.
    """
    given = [name for name, value in vars(arguments).items() if value not in (None, False)]
    actions = [name for name in _ACTIONS if name in given]
    action = actions[0] if actions else ""
    others = actions[1:]
    if action and action != "verify":
        others += [name for name in ("limit",) if name in given]
    if action == "export":
        others += [name for name in ("json",) if name in given]
    if others:
        raise SettingError(f"--{action} and --{others[0]} cannot be combined; choose one")
    for name, needed in _BELONG.items():
        if name in given and action not in needed:
            flags = " or ".join(f"--{one}" for one in needed)
            raise SettingError(f"{name}: has no effect without {flags}")
    return action


def _answer(arguments: argparse.Namespace, action: str) -> int:
    """Print the images that answer a question as CSV or JSON lines."""
    from extract.similar_images import find_near_duplicates, find_outliers, find_similar

    shared = {"layer": arguments.layer, "page": arguments.page, "source": arguments.source or ""}
    images: Any
    if action == "near":
        threshold = None if arguments.near is True else arguments.near
        images = find_near_duplicates(arguments.out, threshold, **shared)
    elif action == "like":
        top = {} if arguments.top is None else {"top": arguments.top}
        images = find_similar(
            arguments.out, arguments.like, **top, weights=arguments.weights, **shared
        )
    else:
        images = find_outliers(arguments.out, arguments.outliers, **shared)
    images.write(sys.stdout, "json" if arguments.json else "csv")
    log.info("%s: %s", arguments.out, images.summary())
    return ExitCode.OK


def _export(arguments: argparse.Namespace) -> int:
    from extract.api import export_features

    export_features(arguments.out, arguments.export, layer=arguments.layer, split=arguments.split)
    return ExitCode.OK


def _show_within(arguments: argparse.Namespace) -> int:
    """Run the same command in a separate process, which the file may crash or block."""
    flags = [f for f in ("verify", "json", "quiet", "verbose") if getattr(arguments, f)]
    # -P: import nothing from the folder of the stranger's file.
    code = "import sys; from extract.show_cli import main; sys.exit(main())"
    words = [sys.executable, "-P", "-c", code, *(f"--{flag}" for flag in flags)]
    words += [] if arguments.log is None else ["--log", arguments.log]
    try:
        ended = subprocess.run(
            [*words, "--", arguments.out], timeout=arguments.limit, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        what = f"not read within {arguments.limit:g} s"
    else:
        if 0 <= ended <= ExitCode.INTERRUPTED:
            return ended
        what = "HDF5 crashes on it"
    remedy = "expected a valid file; raise --limit if it is large and you trust it, or remove it"
    raise StoreError(f"{arguments.out}: {what}; {remedy}")
