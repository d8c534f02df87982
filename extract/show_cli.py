"""The command show-features."""

import argparse
import json
import subprocess
import sys

from extract.core.console import Parser, add_common_flags, log, run_command
from extract.core.errors import ExitCode, SettingError, StoreError
from extract.images.item import SPLITS

_EXAMPLES = """\
examples:
  show-features out.h5
  show-features out.h5 --verify
  show-features out.h5 --export out.parquet
  show-features strangers.h5 --verify --limit 60
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command ``show-features``; returns its exit code."""
    return run_command(show_features_parser(), _show_features, argv)


def show_features_parser() -> argparse.ArgumentParser:
    """Build the parser of ``show-features``."""
    parser = Parser(
        "show-features",
        "OUT.h5",
        "Describe a file of features, verify that it is intact, or export it.",
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
        help="read the file in a separate process that ends after so long: for a file from a "
        "stranger, on which HDF5 may crash or loop",
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write keys, labels, splits, groups and features for other programs: .parquet, .npz "
        "or .csv; only an earlier export is replaced",
    )
    parser.add_argument("--layer", metavar="NAME", help="with --export: the layer of several")
    parser.add_argument(
        "--split", choices=SPLITS, help="with --export: only the rows of this split"
    )
    add_common_flags(parser)
    return parser


def _seconds(text: str) -> float:
    if not 0 < float(text) < 1e6:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected seconds above 0")
    return float(text)


def _show_features(arguments: argparse.Namespace) -> int:
    given = [name for name in ("layer", "split") if getattr(arguments, name) is not None]
    if given and arguments.export is None:
        raise SettingError(f"{given[0]}: has no effect without --export")
    if arguments.export is not None:
        return _export(arguments)
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
    text = json.dumps(description, indent=2) if arguments.json else format_description(description)
    print(text)
    if problems:
        repair = "" if unfinished and len(problems) == 1 else " with --repair"
        raise StoreError(
            f"{arguments.out}: {'; '.join(problems)}; run the same extract-features command{repair}"
        )
    if problems is not None:
        log.info("verified: every row is there, readable and finite")
    return ExitCode.OK


def _export(arguments: argparse.Namespace) -> int:
    given = [name for name in ("verify", "json", "limit") if getattr(arguments, name)]
    if given:
        raise SettingError(f"--export and --{given[0]} cannot be combined; choose one")
    from extract.api import export_features

    export_features(arguments.out, arguments.export, layer=arguments.layer, split=arguments.split)
    return ExitCode.OK


def _show_within(arguments: argparse.Namespace) -> int:
    """Run the same command in a separate process, which the file may crash or block."""
    flags = [f for f in ("verify", "json", "quiet", "verbose") if getattr(arguments, f)]
    # -P: import nothing from the folder of the stranger's file.
    code = "import sys; from extract.show_cli import main; sys.exit(main())"
    words = [sys.executable, "-P", "-c", code, *(f"--{flag}" for flag in flags)]
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
