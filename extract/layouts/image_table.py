"""Rows of a table -> items: the columns that have a meaning, and the values that they may hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from extract.core.errors import SettingError, SourceError, quoted, unknown_name
from extract.core.flags import ROLES
from extract.images.item import SPLIT_OF, SPLITS, Item, Read, Source
from extract.images.remote import hide_secrets
from extract.layouts.image_folder import check_classes, number_classes

Named = Mapping[str, str]  # the columns that the user has named, by role
Usual = Mapping[str, Sequence[str]]  # the columns that are tried otherwise, first to last
USUAL: Usual = {role: (role,) for role in ROLES}


class Records(NamedTuple):
    """The images that one file holds, row after row.

    ``rows`` are name, label, split and group of each, None without one; ``read`` returns the bytes
    of a row and may be called from threads.
    """

    rows: Sequence[Sequence[Any]]
    read: Callable[[int], bytes]


def choose_columns(
    where: str, known: Iterable[str], named: Named, usual: Usual = USUAL, noun: str = "column"
) -> list[str | None]:
    """Return the column of each role in ``usual``: the named or first usual one, None without one.

    Args:
        where: The place of the table, for messages.
        known: The names of its columns.
        named: The columns that the user has named, by role.
        usual: The roles, with the columns that are tried for each.
        noun: The word for a column in messages.

    Raises:
        SourceError: A named column or the path is missing, or two columns have its name.
    """
    known = list(known)
    chosen: list[str | None] = []
    for role, usual_names in usual.items():
        names = (named[role],) if role in named else usual_names
        column = next((name for name in names if name in known), None)
        if column is None:
            problem = unknown_name(noun, names[0], known) if role in (*named, "path") else ""
        else:
            problem = f"two columns are called {column!r}" if known.count(column) > 1 else ""
        if problem:
            raise SourceError(f"{where}: {problem}; name the {role} with --columns {role}=NAME")
        chosen.append(column)
    return chosen


def columns_error(root: str) -> SettingError:
    """Return the error for named columns of a source that has none."""
    return SettingError(f"columns: has no effect on {quoted(hide_secrets(root))}; drop --columns")


def arrange_rows(
    root: str, rows: Iterable[tuple[int | str, Sequence[Any]]], named: Named, read: Read
) -> Source:
    """Derive classes and splits from rows.

    Args:
        root: The source, for messages.
        rows: The number of each row, or the name of a member of an archive, and its cells in the
            order of ``ROLES``, None without one.
        named: The columns that the user has named, by role.
        read: Reads the path of an image.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There is no row, two rows have one image, or a cell has no meaning.
    """
    images: dict[str, tuple[int | str, Item, str]] = {}
    for number, cells in rows:
        noun = "row" if isinstance(number, int) else "member"
        path, name, split, group = _parse(f"{quoted(root)}: {noun} {number}", cells, named)
        key = hide_secrets(path)
        if key in images:
            places = f"{noun} {images[key][0]} and {number}"
            raise SourceError(f"{quoted(root)}: found {quoted(key)} in {places}; remove one")
        images[key] = number, Item(key, path, -1, split, group, read), name
    if not images:
        raise SourceError(f"{quoted(root)}: found no rows; expected one for each image")
    ordered = [images[key][1:] for key in sorted(images)]
    warnings = check_classes((SPLITS[item.split], name) for item, name in ordered)
    return number_classes(root, ordered, warnings)


def _parse(where: str, cells: Sequence[Any], named: Named) -> tuple[str, str, int, str]:
    """Return path, label, split and group from the cells of a row, in the order of ``ROLES``."""
    path, label, split, group = texts = [_to_text(cell) for cell in cells]
    default = 0 if cells[2] is None and "split" not in named else None
    split_number = SPLIT_OF.get(split.strip().lower(), default)
    bad = ["\0" in text for text in texts]
    if True in bad:
        place, expected = bad.index(True), "a whole number or text in UTF-8 without NUL"
    elif not path:
        place, expected = 0, "the path of an image"
    elif split_number is None:
        place, expected = 2, f"one of {', '.join(SPLIT_OF)}"
    else:
        return path, label.strip(), split_number, group.strip()
    column = named.get(ROLES[place], ROLES[place])
    raise SourceError(f"{where}: found {cells[place]!r} in column {column}; expected {expected}")


def _to_text(cell: Any) -> str:
    """Return a cell as text, "" for None, NUL for what HDF5 cannot store as text."""
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    text = str(cell) if isinstance(cell, int | str) else "\0"
    return text if text.isascii() or text.encode(errors="ignore").decode() == text else "\0"
