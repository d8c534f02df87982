"""Messages and progress on stderr, results on stdout, and the exit code of a command."""

import argparse
import io
import logging
import os
import re
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, NoReturn, TextIO, cast

from extract.core.errors import (
    ExitCode,
    HeadstartError,
    SettingError,
    escaped,
    lacking,
    usage_error,
    with_flags,
)

log = logging.getLogger("headstart")

# The examples and descriptions of a command are as wide, and choices beside a flag.
_HELP_WIDTH, _WIDEST_CHOICES = 79, 50
# How the lines of a log begin.
_LOG_TIME = "%Y-%m-%d %H:%M:%S"
_LOG_START = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def _folded(line: str) -> str:
    """Return a line for stderr, on a terminal broken between words; a command is never broken."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
    except (OSError, ValueError):
        width = 0
    if not width or len(line) <= width or "next: " in line:
        return line
    return "\n".join(textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False))


class _Handler(logging.Handler):
    """Writes messages to stderr, each in one line, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(_folded(prefix + escaped(record.getMessage())), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Appends messages to a file, each in one line with the time and the command.

    Raises:
        SettingError: The file cannot be written, or holds something else.
    """

    def __init__(self, path: str, command: str) -> None:
        self.command = command
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise OSError("it is not a regular file")
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
            with open(path, "rb") as file:
                first = file.read(len(time.strftime(_LOG_TIME)) + 1)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise SettingError(f"log: {path} {problem}; name another file") from error
        if first and not _LOG_START.fullmatch(first):
            self.close()
            raise SettingError(f"log: {path} holds something else; name a new file, or a log")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a message."""
        when = time.strftime(_LOG_TIME, time.localtime(record.created))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{when} {self.command}: {level}{escaped(record.getMessage())}"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go on without a message that a full disk does not take."""


class _Terminal:
    """A terminal as stdout, whose cursor no name can move."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text with escapes."""
        return self._stream.write(escaped(text, kept="\n"))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines with escapes."""
        self.write("".join(lines))


def _open_closed_streams() -> None:
    """Open the streams that the caller has closed: a file with the number of one gets its text."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


@contextmanager
def _messages_on_stderr(level: int) -> Iterator[None]:
    """Write messages to stderr during a command; a notebook's own logging is as before after it."""
    former = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [_Handler()], False
    log.setLevel(level)
    try:
        yield
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers, log.propagate = former[:2]
        log.setLevel(former[2])


@contextmanager
def _any_name_on_stdout() -> Iterator[None]:
    """Let stdout take every name: a pipe as UTF-8, as files have it, a terminal with escapes."""
    stdout, terminal = sys.stdout, sys.stdout.isatty()
    if isinstance(stdout, io.TextIOWrapper) and terminal:
        stdout.reconfigure(errors="backslashreplace")
    elif isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(encoding="utf-8", newline="\n")
    with redirect_stdout(cast(TextIO, _Terminal(stdout))) if terminal else nullcontext():
        yield


@contextmanager
def _warnings_are_no_errors() -> Iterator[None]:
    """Let no warning of a library end a command, whatever PYTHONWARNINGS says."""
    with warnings.catch_warnings():
        if any(option.startswith("e") for option in sys.warnoptions):
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DeprecationWarning)
        yield


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats help for 80 columns; choices stand in the line of their flag only where they fit."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        text = super()._format_args(action, default_metavar)
        return "NAME" if action.choices and len(text) > _WIDEST_CHOICES else text

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if action.choices and self._format_args(action, "") == "NAME":
            words, default, value = text.partition(" (default: ")
            return f"{words}: {', '.join(map(str, action.choices))}{default}{value}"
        return text


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and name the nearest flag; flags are not abbreviated."""

    def __init__(self, prog: str, words: str, description: str, examples: str) -> None:
        super().__init__(
            prog,
            usage=f"{prog} [options] {words}",
            description=f"{textwrap.fill(description, _HELP_WIDTH)}\n\n{examples}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, without the usage, and end the command."""
        message = escaped(usage_error(self, message))
        help_too = "" if "; known: " in message else f"; see {self.prog} --help"
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}{help_too}\n")


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command has: ``--version``, ``--log``, ``-q`` and ``-v``."""
    from importlib.metadata import version

    name = f"headstart {version('headstart')}"
    parser.add_argument("--version", action="version", version=name)
    text = "also append the messages to a file, with their times"
    group = parser.add_argument_group("messages")
    group.add_argument("--log", metavar="FILE", help=text)
    group.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="also timings and details")


def as_word(path: object) -> str:
    """Return a path as a word of a command, which no leading dash makes a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def log_lines(text: str, level: int = logging.INFO) -> None:
    """Log each line of a text, in whose names line breaks are escapes already."""
    for line in text.rstrip("\n").split("\n"):
        log.log(level, "%s", line)


@contextmanager
def muted(level: int = logging.ERROR) -> Iterator[None]:
    """Drop the messages below a level."""
    former = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(former)


@contextmanager
def quiet_mode(on: bool) -> Iterator[None]:
    """Drop notes and progress bars, but no warnings, if ``on``."""
    with muted(max(logging.WARNING, log.level) if on else log.level):
        yield


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    argv: list[str] | None,
) -> int:
    """Parse, run one command, and return its exit code; what goes wrong becomes a message.

    Args:
        parser: The command's parser; its errors end the process with exit code 2.
        command: Takes the parsed arguments, returns an exit code.
        argv: The words after the command's name; None means those of this process.
    """
    _open_closed_streams()
    # Intermixed, because flags may stand between two words of which one is optional.
    arguments = parser.parse_intermixed_args(argv)
    level = (
        logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO
    )
    with _messages_on_stderr(level), _any_name_on_stdout(), _warnings_are_no_errors():
        return _outcome(parser, command, arguments)


def _outcome(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    arguments: argparse.Namespace,
) -> int:
    """Run one command, print what went wrong, and return the exit code."""
    try:
        if arguments.log is not None:
            _check_log(arguments)
            log.addHandler(_LogFile(arguments.log, parser.prog))
        return command(arguments)
    except HeadstartError as error:
        log_lines(traceback.format_exc(), logging.DEBUG)
        _say(f"{parser.prog}: {with_flags(parser, arguments, str(error))}")
        return error.exit_code
    except KeyboardInterrupt as error:
        _say(f"\n{parser.prog}: stopped. {escaped(str(error))}".rstrip())
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout, such as `head`, has left: that is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if lack := lacking(error):
            _say(f"{parser.prog}: {escaped(lack)} and run the same command again")
            return ExitCode.FAILED
        bug = "this is a bug in headstart; please report it with the lines above"
        _say(f"{traceback.format_exc()}{parser.prog}: {bug}")
        return ExitCode.BUG


def _check_log(arguments: argparse.Namespace) -> None:
    """Raise SettingError where the log is a file that another argument names."""
    for name, value in vars(arguments).items():
        values = value if isinstance(value, list) else [value]
        paths = [os.path.realpath(path) for path in values if isinstance(path, str) and path]
        if name != "log" and os.path.realpath(arguments.log) in paths:
            found = f"{arguments.log} is also given as {name.replace('_', '-')}"
            raise SettingError(f"log: {found}; name another file")


def _say(text: str) -> None:
    print("\n".join(map(_folded, escaped(text, kept="\n").split("\n"))), file=sys.stderr)
    for handler in log.handlers:
        if isinstance(handler, _LogFile):
            lines = text.removeprefix("\n").removeprefix(f"{handler.command}: ").split("\n")
            for line in lines:
                handler.emit(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))
