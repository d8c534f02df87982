"""The errors that a user can meet, with the exit codes of commands.

A message reads ``where: what was found; what was expected; what to do``. Each class is also the
built-in type that callers of the Python API would catch.
"""

import argparse
import ast
import difflib
import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum

_FULL = "the disk is full; expected room for a few results; make some"
_NO_MEMORY = (
    "out of memory; expected room for a few batches; close other programs or use a smaller "
    "--batch-size"
)
_NO_FILES = "too many open files; expected a higher limit; raise it (ulimit -n)"
_NO_TEMPORARY = (
    "no temporary folder can be written; expected one for a few megabytes; name one with TMPDIR"
)


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BUG = 3
    TOO_MANY_BAD = 4
    INTERRUPTED = 130


# How argparse says it. Its words are the same from Python 3.11 on, apart from quotes.
_ARGUMENT = re.compile(r"argument (?:.*/)?(\S+?): (.*)", re.DOTALL)
_CHOICE = re.compile(r"invalid choice: (['\"].*['\"]) \(choose from ", re.DOTALL)
_NUMBER = re.compile(r"invalid (int|float) value: (.*)", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number"}
# The settings that a message begins with.
_SETTINGS = re.compile(r"(?:\w+, )*\w+(?=: | ')")

# A message stays readable: 41 trunks or 311 layers are not listed in one.
MOST_LISTED = 12


class HeadstartError(Exception):
    """A known failure, explained in one line without a traceback."""

    exit_code = ExitCode.FAILED

    def __str__(self) -> str:
        """Return the message with a space for each character that would break its line."""
        return "".join(c if c.isprintable() else " " for c in super().__str__())


class SettingError(HeadstartError, ValueError):
    """A setting has a value that is invalid, alone or with the others."""

    exit_code = ExitCode.USAGE


class SourceError(HeadstartError, ValueError):
    """The images cannot be listed, or their layout is ambiguous."""


class ImageError(HeadstartError, ValueError):
    """One image cannot be read; the message is the reason kept in the store."""


class TrunkError(HeadstartError, ValueError):
    """The trunk cannot be built, cut or loaded with its weights."""


class WeightsUnavailableError(TrunkError):
    """ImageNet weights are neither on this machine nor downloadable."""


class EngineError(HeadstartError, RuntimeError):
    """The trunk cannot be run on this machine."""


class StoreError(HeadstartError, OSError):
    """The HDF5 file cannot be made, opened, continued or trusted."""


class SplitError(HeadstartError, ValueError):
    """The rows cannot be divided into training and validation."""


class HeadError(HeadstartError, ValueError):
    """A head cannot be trained, saved or loaded."""


def lacking(error: Exception) -> str:
    """Say which resource of the machine is exhausted; empty for any other error."""
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):  # the latter is OpenVINO's
        return _NO_MEMORY
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return _NO_TEMPORARY
    number = error.errno if isinstance(error, OSError) else None
    where = getattr(error, "filename", None) or "a file beside the results"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: {_FULL}"
    return f"{where}: {_NO_FILES}" if number in (errno.EMFILE, errno.ENFILE) else ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, else the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def quoted(name: str) -> str:
    """Return a name as it is, or quoted with escapes where it could move a terminal's cursor."""
    return name if name.isprintable() else repr(name)


def escaped(text: str, kept: str = "") -> str:
    """Return text with escapes for what could move a terminal's cursor, except what is ``kept``."""
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return ``what 'name' is unknown; nearest: ...; known: ...``, the names only where few."""
    names = list(known)
    folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(folded[one] for one in close)}" if close else ""
    known_names = f"; known: {', '.join(names)}" if len(names) <= MOST_LISTED else ""
    return f"{what} {name!r} is unknown{nearest}{known_names}"


def nearest_path(path: str | os.PathLike[str]) -> str:
    """Return ``; nearest: ...`` for a path that does not exist, where a similar one does."""
    folder, name = os.path.split(os.path.normpath(path))
    with suppress(OSError, ValueError):
        close = difflib.get_close_matches(name, os.listdir(folder or "."), n=1, cutoff=0.7)
        return "".join(f"; nearest: {quoted(os.path.join(folder, one))}" for one in close)
    return ""


def listed(names: Iterable[str], noun: str, most: int = 3) -> str:
    """Return how many ``names`` there are, and the first of them."""
    shown = sorted(map(quoted, names))
    first = ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
    return count_of(len(shown), noun) + (f" ({first})" if shown else "")


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, as in ``1 image``, ``2 images`` and ``2 classes``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def show_bytes(size: int) -> str:
    """Return a size in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def usage_error(parser: argparse.ArgumentParser, message: str) -> str:
    """Return the message of argparse in the words of all other messages."""
    if extra := message.partition("unrecognized arguments: ")[2]:
        return _unknown_word(parser, extra)
    if missing := message.partition("arguments are required: ")[2]:
        words = (parser.usage or "").partition("[options] ")[2]
        return f"{missing} is missing; expected {parser.prog} {words}"
    argument = _ARGUMENT.fullmatch(message)
    return _wrong_value(parser, *argument.groups()) if argument else message


def _wrong_value(parser: argparse.ArgumentParser, flag: str, problem: str) -> str:
    if choice := _CHOICE.match(problem):
        return unknown_name(flag, ast.literal_eval(choice[1]), _choices(parser, flag))
    if number := _NUMBER.fullmatch(problem):
        return f"{flag}: found {number[2]}; expected {_KINDS[number[1]]}"
    if problem == "expected one argument":
        return f"{flag}: found no value after it; expected one"
    return f"{flag}: {problem}"


def _unknown_word(parser: argparse.ArgumentParser, extra: str) -> str:
    """Say what is wrong with the first word that the parser does not know."""
    words = extra.split(" ")
    word = next((word for word in words if word.startswith("-")), words[0])
    if not word.startswith("-"):
        expected = (parser.usage or "").partition("[options] ")[2]
        return f"too many words: found {extra}; expected {expected}"
    known = [name for action in parser._actions for name in action.option_strings]
    word = word.partition("=")[0]
    close = difflib.get_close_matches(word.replace("_", "-"), known, n=2, cutoff=0.7)
    return f"flag {word} is unknown" + f"; nearest: {', '.join(close)}" * bool(close)


def _choices(parser: argparse.ArgumentParser, flag: str) -> list[str]:
    """Return the choices of a flag."""
    for action in parser._actions:
        if flag in action.option_strings:
            return [str(choice) for choice in action.choices or ()]
    return []


def with_flags(parser: argparse.ArgumentParser, arguments: argparse.Namespace, message: str) -> str:
    """Return a message whose first settings are written as the flags of a command.

    Args:
        parser: The parser of the command.
        arguments: What was given: a file of the same name as a setting stays as it is.
        message: It begins with the keyword of a setting, or with something else.
    """
    found = _SETTINGS.match(message)
    if not found:
        return message
    flags = {
        name.lstrip("-").replace("-", "_"): name
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--")
    }
    given = [value for values in vars(arguments).values() for value in _as_list(values)]
    names = [flags.get(name, name) if name not in given else name for name in found[0].split(", ")]
    return ", ".join(names) + message[found.end() :]


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
