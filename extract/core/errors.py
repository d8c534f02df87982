"""The errors that a user can meet, with the exit codes of commands.

A message reads ``where: what was found; what was expected; what to do``. Each class is also the
built-in type that callers of the Python API would catch.
"""

import difflib
import errno
from collections.abc import Iterable
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
