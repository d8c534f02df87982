"""What a person sees: notes and progress on stderr, results on stdout, an exit code at the end."""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

from extract.core.errors import EXIT_BUG, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, HeadstartError

log = logging.getLogger("headstart")

_AGAIN = "and run the same command again"
_FULL = f"the disk is full; expected room for a few results; make some {_AGAIN}"
_NO_MEMORY = (
    "needs more memory than there is; expected room for a few batches; close other programs or "
    f"give a smaller --batch-size, {_AGAIN}"
)
_NO_FILES = "too many open files; expected a limit that leaves some; raise it (ulimit -n) " + _AGAIN


class _Handler(logging.Handler):
    """Writes messages to stderr, above a progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(prefix + record.getMessage(), file=sys.stderr)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command has: ``--version``, ``-q`` and ``-v``."""
    from importlib.metadata import version

    release = version("headstart")
    parser.add_argument("--version", action="version", version=f"headstart {release}")
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more of what is done")


@contextmanager
def muted() -> Iterator[None]:
    """Keep notes and warnings to ourselves, of what was said before."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def progress(total: int, unit: str, done: int = 0, label: str = "") -> Iterator[Any]:
    """Show a tqdm bar with rate and remaining time; silent where stderr is no terminal.

    Args:
        total: Steps in all.
        unit: The name of one step.
        done: Steps that an earlier run has finished.
        label: What is going on.

    Yields:
        The bar: ``update(n)`` and ``set_postfix_str(text)``.
    """
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or log.level > logging.INFO
    with tqdm(
        total=total, initial=done, unit=unit, desc=label or None, disable=hidden, smoothing=0.1
    ) as bar:
        yield bar


class Described:
    """An object that is shown in a few lines, and as a table in a notebook."""

    def _facts(self) -> Mapping[str, Any]:
        """Return the name and the value of each line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = self._facts()
        width = max(map(len, facts))
        lines = [f"  {name:<{width}}  {value}" for name, value in facts.items()]
        return "\n".join([type(self).__name__, *lines])

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self._facts().items()
        ]
        return f"<table>{''.join(rows)}</table>"


def _lacking(error: Exception) -> str:
    """Say which means of the machine are at an end; nothing of any other error."""
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):  # the latter is OpenVINO's
        return _NO_MEMORY
    number = error.errno if isinstance(error, OSError) else None
    where = getattr(error, "filename", None) or "a file beside the results"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: {_FULL}"
    return f"{where}: {_NO_FILES}" if number in (errno.EMFILE, errno.ENFILE) else ""


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    argv: list[str] | None,
) -> int:
    """Parse, run one command, and turn whatever happens into a message and an exit code.

    Args:
        parser: The command's parser; its usage error (exit code 2) is argparse's own.
        command: Takes the parsed arguments, returns an exit code.
        argv: The words behind the command's name; None means those of this process.

    Returns:
        The exit code: see ``extract.core.errors``.
    """
    # Flags may stand between two words of which one is optional only if they are parsed apart; that
    # formats the usage a second time.
    parser.usage = parser.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
    arguments = parser.parse_intermixed_args(argv)
    handler = _Handler()
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(
        logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO
    )
    try:
        return command(arguments)
    except HeadstartError as error:
        log.debug("%s", traceback.format_exc())
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"\n{parser.prog}: stopped. {error}".rstrip(), file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout, such as `head`, has left: nothing went wrong here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if lacking := _lacking(error):
            print(f"{parser.prog}: {lacking}", file=sys.stderr)
            return EXIT_FAILED
        # The last line of defence: whatever is not explained is our bug.
        traceback.print_exc()
        print(
            f"{parser.prog}: this is a bug in headstart; please report it with the lines above",
            file=sys.stderr,
        )
        return EXIT_BUG
