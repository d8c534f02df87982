"""The command that says what is in a file of features: arguments -> description."""

import argparse
import json
import subprocess
import sys

from extract.core.console import add_common_flags, log, run_command
from extract.core.errors import EXIT_INTERRUPTED, EXIT_OK, StoreError

_SHOW_EXAMPLES = """\
examples:
  show-features out.h5
  show-features out.h5 --verify
  show-features strangers.h5 --verify --limit 60
"""


def show_features(argv: list[str] | None = None) -> int:
    """Run the command ``show-features``; returns its exit code."""
    return run_command(show_features_parser(), _show_features, argv)


def show_features_parser() -> argparse.ArgumentParser:
    """Build the parser of ``show-features``."""
    parser = argparse.ArgumentParser(
        prog="show-features",
        description="Say what is in a file of features and whether it is sound.\n\n"
        + _SHOW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help="read it in a process of its own, ended after so long: for a file from a stranger, "
        "over which HDF5 may crash or loop",
    )
    add_common_flags(parser)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected seconds above 0")
    return seconds


def _show_features(arguments: argparse.Namespace) -> int:
    if arguments.limit is not None:
        return _show_within(arguments)
    from extract.store.describe import describe, format_description
    from extract.store.open import open_store
    from extract.store.verify import verify

    with open_store(arguments.out) as store:
        found = describe(store)
        problems = verify(store) if arguments.verify else None
        unfinished = not store.complete
    if problems is not None:
        found["problems"] = problems
    print(json.dumps(found, indent=2) if arguments.json else format_description(found))
    if problems:
        repair = "" if unfinished and len(problems) == 1 else " with --repair"
        raise StoreError(
            f"{arguments.out}: {'; '.join(problems)}; run the same extract-features command{repair}"
        )
    if problems is not None:
        log.info("verified: every row is there, readable and finite")
    return EXIT_OK


def _show_within(arguments: argparse.Namespace) -> int:
    """Run the same command in a process that a file can crash, or keep for ever, without harm."""
    flags = [f for f in ("verify", "json", "quiet", "verbose") if getattr(arguments, f)]
    # -P: nothing is imported from the folder that the stranger's file is in.
    code = "import sys; from extract.show_cli import show_features; sys.exit(show_features())"
    words = [sys.executable, "-P", "-c", code, *(f"--{flag}" for flag in flags)]
    try:
        ended = subprocess.run(
            [*words, "--", arguments.out], timeout=arguments.limit, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        found = f"not read within {arguments.limit:g} s"
    else:
        if 0 <= ended <= EXIT_INTERRUPTED:
            return ended
        found = "HDF5 crashes over it"
    raise StoreError(
        f"{arguments.out}: {found}; expected a sound file; give a higher --limit if it is large "
        "and you trust it, else remove it"
    )
