"""Text in the cells of a terminal: how wide it is, and tables and prose that fit."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

_DOTS = "..."
# A name that is cut shows at least so many cells.
_SHORTEST = 12
# The cells of a terminal that does not tell.
_USUAL = 80


def width_of(stream: Any) -> int | None:
    """Return how many cells a line of a terminal has; None where the stream is no terminal."""
    try:
        return (
            (os.get_terminal_size(stream.fileno()).columns or _USUAL) if stream.isatty() else None
        )
    except (OSError, ValueError, AttributeError):
        return None


def cells(text: str) -> int:
    """Return how many cells a terminal needs for a text: two for a wide character."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)
    return len(text) + wide - marks


def pad(text: str, width: int, right: bool = False) -> str:
    """Return text with spaces up to a number of cells, before it or after it."""
    spaces = " " * (width - cells(text))
    return spaces + text if right else text + spaces


def shorten(text: str, width: int) -> str:
    """Return text whose middle is cut so that it needs at most so many cells."""
    if cells(text) <= width:
        return text
    room, start, end = max(width - len(_DOTS), 2), "", ""
    for first, last in zip(text, reversed(text), strict=True):
        if cells(start + first + end) <= room:
            start += first
        if cells(start + last + end) > room:
            break
        end = last + end
    return start + _DOTS + end


def wrap(text: str, width: int | None, indent: str = "") -> str:
    """Return text in lines of at most so many cells, except for words that are longer."""
    if width is None:
        return text
    lead = text[: len(text) - len(text.lstrip(" "))]
    lines = [""]
    for word in text.removeprefix(lead).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else lead + word
        if lines[-1] and cells(longer) > width:
            longer = indent + word
            lines.append(longer)
        lines[-1] = longer
    return "\n".join(lines)


class Fitted(NamedTuple):
    """A table as lines of text.

    Attributes:
        lines: The heading and the rows.
        dropped: The headings of the columns that did not fit.
    """

    lines: list[str]
    dropped: list[str]


def fit_table(
    rows: Sequence[Sequence[str]],
    width: int | None,
    *,
    name: int = 0,
    drop: Sequence[Collection[int]] = (),
) -> Fitted:
    """Lay a table out in columns that fit a terminal.

    Args:
        rows: A heading, and rows with as many texts.
        width: The cells of a line; None for as many as the table needs.
        name: The column of names, which is flush left; the others are flush right.
        drop: The columns to leave out, those of least importance first; then names are cut.
    """
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    shown = list(range(len(widths)))

    def excess() -> int:
        return 0 if width is None else sum(widths[i] + 2 for i in shown) - 2 - width

    for least in drop:
        if excess() > 0:
            shown = [i for i in shown if i not in least]
    if excess() > 0:
        widths[name] = max(widths[name] - excess(), min(widths[name], _SHORTEST))
    lines = []
    for row in rows:
        texts = [shorten(row[i], widths[i]) if i == name else row[i] for i in shown]
        padded = [pad(t, widths[i], i != name) for t, i in zip(texts, shown, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return Fitted(lines, [heading for i, heading in enumerate(rows[0]) if i not in shown])
