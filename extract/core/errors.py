"""Every exception a user can meet, and the exit code it ends a command with.

A message reads ``where: what was found; what was expected; what to do``. Each class is also the
built-in type that callers of the Python API would catch.
"""

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_TOO_MANY_BAD = 4
EXIT_INTERRUPTED = 130

# A message stays readable: 40 trunks or 311 layers are not listed in one.
MOST_LISTED = 12


class HeadstartError(Exception):
    """A failure that is known and explained: one line, no traceback."""

    exit_code = EXIT_FAILED

    def __str__(self) -> str:
        """Return the message without what would break the line, which libraries put into it."""
        return "".join(c if c.isprintable() else " " for c in super().__str__())


class SettingError(HeadstartError, ValueError):
    """A setting has a value that cannot be used, alone or beside the others."""

    exit_code = EXIT_USAGE


class SourceError(HeadstartError, ValueError):
    """The images cannot be listed, or their layout has two meanings."""


class ImageError(HeadstartError, ValueError):
    """One image cannot be read; the message is the reason kept in the store."""


class TrunkError(HeadstartError, ValueError):
    """The trunk cannot be built, cut or given its weights."""


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


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, else the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def quoted(name: str) -> str:
    """Return a name as it is, or quoted with escapes where it could move a terminal's cursor."""
    return name if name.isprintable() else repr(name)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which are known and which are nearest.

    Args:
        what: The kind of thing, such as ``"trunk"``.
        name: The name that was asked for.
        known: Every name that would do.

    Returns:
        A message in the form ``what 'name' is unknown; nearest: ...; known: ...``.
    """
    names = list(known)
    folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    near = [folded[found] for found in close]
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    known_names = f"; known: {', '.join(names)}" if len(names) <= MOST_LISTED else ""
    return f"{what} {name!r} is unknown{nearest}{known_names}"


def listed(names: Iterable[str], noun: str, most: int = 3) -> str:
    """Return how many ``names`` there are, and the first of them."""
    shown = sorted(map(quoted, names))
    first = ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
    return f"{len(shown):,} {noun}{'s' * (len(shown) != 1)}" + (f" ({first})" if shown else "")
