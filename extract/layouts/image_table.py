"""Rows of a table -> items: the columns that have a meaning, and the values that they may hold."""

import difflib
import math
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from extract.core.errors import SettingError, SourceError, listed, quoted, unknown_name
from extract.core.flags import ROLES
from extract.images.entries import Entry, Kind
from extract.images.item import SPLIT_OF, SPLITS, Item, Read, Source
from extract.images.kinds import unread_kind
from extract.images.remote import hide_secrets, name_images
from extract.layouts.class_names import clean_labels, is_missing, merge_numbers
from extract.layouts.image_folder import Named, check_classes, describe_unread, number_classes
from extract.layouts.split_folders import split_in

Usual = Mapping[str, Sequence[str]]  # the columns that are tried otherwise, first to last
USUAL: Usual = {role: (role,) for role in ROLES} | {"path": ("path", "file_name")}
# Names of columns that are likely to have a role, without case and separators.
_NEAR = {
    "path": "file filename filepath image images imagepath imagename imageid imagefile img imgpath "
    "imgname imgid id uri url photo picture",
    "label": "labels class classes classname classid category categories species target y "
    "diagnosis dx tag tags breed finding annotation gt groundtruth",
    "split": "splits set subset partition phase usage datasplit",
    "group": "groups patient patientid subject subjectid site case caseid groupid person lesionid",
}
# Columns that mark the images of one split.
_FLAGS = {"is_valid", "is_val", "is_validation", "is_test", "is_train", "is_training"}
# The words for validation images in tables; a folder with such a name may be a class.
_SPLIT_VALUES = SPLIT_OF | dict.fromkeys(("dev", "eval", "evaluation"), SPLIT_OF["validation"])


class Records(NamedTuple):
    """The images that one file holds, row after row.

    ``rows`` are name, label, split and group of each, None without one; ``read`` returns the bytes
    of a row and may be called from threads. ``said`` is what was understood of the columns.
    """

    rows: Sequence[Sequence[Any]]
    read: Callable[[int], bytes]
    said: "Said | None" = None


class Said(NamedTuple):
    """What a reader says: notes of what was understood, warnings, why most images are lost."""

    notes: list[str]
    warnings: list[str]
    problem: str = ""


def choose_columns(
    where: str, known: Iterable[str], named: Named, usual: Usual = USUAL, noun: str = "column"
) -> list[str | None]:
    """Return the column of each role in ``usual``: the named or first usual one, None without one.

    Names match without case and outer space, if none matches exactly.

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
    folded: dict[str, list[str]] = {}
    for name in known:
        folded.setdefault(_fold(name), []).append(name)
    chosen: list[str | None] = []
    for role, usual_names in usual.items():
        names = (named[role],) if role in named else usual_names
        exact = [name for name in names if name in known]
        fits = [each for name in names for each in folded.get(_fold(name), [])]
        column, problem = next(iter(exact or fits), None), ""
        if column is None and role in (*named, "path"):
            problem = unknown_name(noun, names[0], known)
        elif column is not None and (known.count(column) > 1 or (not exact and len(fits) > 1)):
            found = f"two {noun}s are called {column.strip()!r}"
            raise SourceError(f"{where}: {found}; rename one of them")
        if problem:
            near = [name.strip() for name in known if _is_near(name, role)]
            named_so = _as_flag(role, near[0] if len(near) == 1 else "NAME")
            remedy = f"name the {role} with {named_so}"
            if role == "path" and usual is USUAL and role not in named:
                remedy += ", or columns f0, f1 of features with --columns features=f"
            raise SourceError(f"{where}: {problem}; {remedy}")
        chosen.append(column)
    return chosen


def explain_columns(
    known: Iterable[str], chosen: Sequence[str | None], roles: Sequence[str] = ROLES
) -> Said:
    """Say which columns have a role, which are ignored, and which of these may be meant for one.

    Args:
        known: The names of the columns.
        chosen: The column of each role.
        roles: The roles.
    """
    used = [
        role if column == role else f"{role} from {column!r}"
        for role, column in zip(roles, chosen, strict=True)
        if column is not None
    ]
    ignored = [name for name in dict.fromkeys(known) if name not in chosen]
    text = f"columns: {', '.join(used)}"
    if ignored:
        text += f"; ignored: {listed(map(repr, ignored), 'column', 10)}"
    warnings = []
    for role, column in zip(roles, chosen, strict=True):
        near = [name for name in ignored if _is_near(name, role)]
        if column is None and near:
            found = f"ignored {listed(map(repr, near), 'column')}, for none is called {role}"
            warnings.append(f"{found}; if it is the {role}, add {_as_flag(role, near[0].strip())}")
        elif (
            column is None
            and role == "split"
            and (flags := _FLAGS.intersection(map(_fold, ignored)))
        ):
            found = f"ignored {listed(map(repr, flags), 'column')}, for none is called split"
            warnings.append(f"{found}; write a column split of train, validation and test")
        elif column is None and role == "label" and ignored:
            found = f"found no labels: no column is called label among {listed(ignored, 'column')}"
            warnings.append(f"{found}; if one is the label, add --columns label=NAME")
    return Said([text], warnings)


def _fold(name: str) -> str:
    visible = (c for c in name if unicodedata.category(c) != "Cf")  # a second byte-order mark
    return "".join(visible).strip().casefold()


def _as_flag(role: str, column: str) -> str:
    return f"--columns {shlex.quote(f'{role}={column}')}"


def _is_near(name: str, role: str) -> bool:
    """Whether the name of a column is likely to be meant for a role."""
    if role not in _NEAR:
        return False
    bare = "".join(c for c in _fold(name) if c.isalnum())
    return bare in _NEAR[role].split() or bool(difflib.get_close_matches(bare, [role], 1, 0.8))


def columns_error(root: str) -> SettingError:
    """Return the error for named columns of a source that has none."""
    return SettingError(f"columns: has no effect on {quoted(hide_secrets(root))}; drop --columns")


def arrange_rows(
    root: str,
    rows: Iterable[tuple[int | str, Sequence[Any]]],
    named: Named,
    read: Read,
    said: Said | None = None,
) -> Source:
    """Derive classes and splits from rows.

    Args:
        root: The source, for messages.
        rows: The number of each row, or the name of a member of an archive, and its cells in the
            order of ``ROLES``, None without one.
        named: The columns that the user has named, by role.
        read: Reads the path of an image.
        said: What is known of the columns; it may be completed while the rows are read.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There is no row, two rows have one image, a cell has no meaning, or a class has
            only images of a kind that is not read.
    """
    images: dict[str, tuple[int | str, Item, str]] = {}
    with_split = 0
    for number, cells in rows:
        noun = "row" if isinstance(number, int) else "member"
        with_split += cells[2] is not None
        path, label, split, group = parse_cells(f"{quoted(root)}: {noun} {number}", cells, named)
        if path in images:
            raise _twice(root, hide_secrets(path), noun, images[path][0], number)
        images[path] = number, Item(path, path, -1, split, group, read), label
    keyed: dict[str, tuple[int | str, Item, str]] = {}
    for path, key in name_images(images).items():
        number, item, label = images[path]
        if key in keyed:
            raise _twice(root, key, noun, keyed[key][0], number)
        keyed[key] = number, item if key == path else item._replace(key=key), label
    if not images:
        raise SourceError(f"{quoted(root)}: found no rows; expected one for each image")
    if 0 < with_split < len(images):
        found = f"found a split for {with_split:,} of {len(images):,} images"
        raise SourceError(f"{quoted(root)}: {found}; expected one for all or none")
    return _name_classes(root, [keyed[key][1:] for key in sorted(keyed)], said or Said([], []))


def _twice(root: str, key: str, noun: str, first: int | str, second: int | str) -> SourceError:
    places = f"{noun} {first} and {second}"
    return SourceError(f"{quoted(root)}: found {quoted(key)} in {places}; remove one")


def _name_classes(root: str, rows: Sequence[tuple[Item, str]], said: Said) -> Source:
    """Return a source of items, each with its label as text."""
    items, labels = [item for item, _ in rows], [label for _, label in rows]
    names, warnings = clean_labels(labels)
    group_of = merge_numbers(item.group for item in items)
    if any(group != merged for group, merged in group_of.items()):
        items = [item._replace(group=group_of[item.group]) for item in items]
    named = list(zip(items, names, strict=True))
    _check_vanished(root, named)
    warnings += check_classes((SPLITS[item.split], name) for item, name in named)
    source = number_classes(root, named, [*said.warnings, *warnings], said.notes)
    return source._replace(problem=said.problem and f"{quoted(root)}: {said.problem}")


def _check_vanished(root: str, rows: Iterable[tuple[Item, str]]) -> None:
    """Raise SourceError for a class that only has images of a kind that is not read."""
    read, unread = set(), dict[str, list[Entry]]()
    for item, name in rows:
        if unread_kind(item.key):
            unread.setdefault(name, []).append(Entry(item.key, item.path, Kind.UNREAD))
        else:
            read.add(name)
    if gone := unread.keys() - read - {""}:
        found = describe_unread([entry for name in gone for entry in unread[name]])
        problem = f"{listed(gone, 'class')} would vanish: found only {found}"
        raise SourceError(f"{quoted(root)}: {problem}, or remove the rows")


def parse_cells(where: str, cells: Sequence[Any], named: Named) -> tuple[str, str, int, str]:
    """Return path, label, split and group from the cells of a row, in the order of ``ROLES``."""
    path, label, split, group = texts = [_to_text(cell) for cell in cells]
    default = 0 if cells[2] is None and "split" not in named else None
    split_number = _SPLIT_VALUES.get(split.strip().lower(), default)
    if (
        split_number is None
        and (split_name := split_in(split))
        and split_name.is_plain
        and not split_name.weak
    ):
        split_number = split_name.split
    bad = ["\0" in text for text in texts]
    if isinstance(cells[0], float):
        bad[0] = True
    if True in bad:
        place, expected = bad.index(True), "a whole number or text in UTF-8 without NUL"
    elif not path:
        place, expected = 0, "the path of an image"
    elif split_number is None:
        place, expected = 2, f"one of {', '.join(_SPLIT_VALUES)}"
    else:
        group = group.strip()
        return path, label.strip(), split_number, "" if is_missing(group) else group
    column = named.get(ROLES[place], ROLES[place])
    raise SourceError(
        f"{where}: found {cells[place]!r:.200} in column {column}; expected {expected}"
    )


def _to_text(cell: Any) -> str:
    """Return a cell as text, "" for no value, NUL for what HDF5 cannot store as text."""
    if cell is None:
        return ""
    if type(cell) is str and cell.isascii():
        return cell  # most cells
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            return "\0"
    if isinstance(cell, float | Decimal) and not math.isinf(cell):
        if math.isnan(cell):
            return ""
        # pandas makes floats of whole numbers.
        cell = int(cell) if cell == int(cell) else str(cell)
    text = str(cell) if isinstance(cell, int | str) else "\0"
    return text if text.isascii() or text.encode(errors="ignore").decode() == text else "\0"
