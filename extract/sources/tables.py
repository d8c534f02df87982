"""A table of images -> items: CSV, Parquet or JSON lines with a path column.

Rows are counted from 1, the heading of a CSV apart, so that one number fits all three.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO, TextIOWrapper
from typing import Any, BinaryIO, NamedTuple

from extract.core.config import ROLES, parse_columns
from extract.core.errors import ImageError, SourceError, quoted, unknown_name
from extract.images.image_folder import about_classes
from extract.images.item import SPLIT_OF, SPLITS, Item, Read, Source, read_below
from extract.images.remote import hide_secrets, is_url, read_url, without_query

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
# Images of a Parquet file that are in memory as a table at one time.
_BATCH_ROWS = 2**16


class _Row(NamedTuple):
    """What a row says of an image; ``split`` indexes ``SPLITS``."""

    key: str
    path: str
    label: str
    split: int
    group: str


def list_table(root: str, columns: str = "") -> Source:
    """List the images that a table names; none of them is looked at.

    Args:
        root: The table, a file or a URL; paths in it are URLs, absolute, or relative to its folder.
        columns: Which column is what, see ``config.parse_columns``.

    Returns:
        The images sorted by key, which is the path as it is written.

    Raises:
        SourceError: The table cannot be read, lacks a column, names no image or one twice, or a
            cell makes no sense; the message says which row.
    """
    named = parse_columns(columns)
    try:
        if is_url(root):
            read = partial(_read_beside_url, without_query(root).rpartition("/")[0])
            file: BinaryIO = BytesIO(read_url(root))
        else:
            read = partial(_read_beside, os.path.dirname(root))
            file = open(root, "rb")  # noqa: SIM115 - closed two lines below
        with file:
            table = _read_table(without_query(root), file, named)
            return arrange_rows(hide_secrets(root), table, named, read)
    except (OSError, ImageError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{quoted(hide_secrets(root))}: cannot be read: {reason}; expected a table"
        ) from error


def arrange_rows(
    root: str,
    table: Iterable[tuple[int | str, Sequence[Any]]],
    named: Mapping[str, str],
    read: Read,
    noun: str = "row",
) -> Source:
    """Tell classes and splits from rows.

    Args:
        root: Where they stand, for messages.
        table: The number of each row and its cells in the order of ``ROLES``, None for none.
        named: The columns that have a name of their own, by role.
        read: What reads an image's path.
        noun: What is numbered.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There is no row, two of one image, or a cell makes no sense.
    """
    rows: dict[str, tuple[int | str, _Row]] = {}
    for number, cells in table:
        row = _parse(f"{quoted(root)}: {noun} {number}", cells, named)
        earlier = rows.setdefault(row.key, (number, row))[0]
        if earlier != number:
            raise SourceError(
                f"{quoted(root)}: found {quoted(row.key)} in {noun} {earlier} and {number}; "
                "expected each image once; remove one"
            )
    if not rows:
        raise SourceError(f"{quoted(root)}: found no rows; expected one for each image")
    return _arrange(root, [rows[key][1] for key in sorted(rows)], read)


def _read_beside(folder: str, path: str) -> bytes:
    return read_url(path) if is_url(path) else read_below(folder, path)


def _read_beside_url(folder: str, path: str) -> bytes:
    return read_url(path if is_url(path) else f"{folder}/{path}")


def _arrange(root: str, rows: Sequence[_Row], read: Read) -> Source:
    class_names = tuple(sorted({row.label for row in rows if row.label}))
    label_of = {"": -1} | {name: label for label, name in enumerate(class_names)}
    # Splits, then, are no folders to look for, but they can lack classes all the same.
    places = {(row.split, row.label) for row in rows}
    groups: Mapping[tuple[str, str], list[str]] = {(SPLITS[at], name): [] for at, name in places}
    warnings = tuple(f"{quoted(root)}: {oddity}" for oddity in about_classes([], {}, groups))
    items = tuple(Item(r.key, r.path, label_of[r.label], r.split, r.group, read) for r in rows)
    return Source(items, class_names, warnings, root)


def _parse(where: str, cells: Sequence[Any], named: Mapping[str, str]) -> _Row:
    """Check the cells of a row, which stand in the order of ``ROLES``; None where there is none."""
    texts = [cell if isinstance(cell, str) else _to_text(cell) for cell in cells]
    # HDF5 ends a text at the first NUL and holds nothing that is not UTF-8.
    bad = ["\0" in text or not _is_utf8(text) for text in texts]
    key, label, split, group = texts
    at = 0 if cells[2] is None and "split" not in named else SPLIT_OF.get(split.strip().lower())
    if True in bad:
        place, expected = bad.index(True), "a whole number or text in UTF-8 without NUL"
    elif not key:
        place, expected = 0, "the path of an image"
    elif at is None:
        place, expected = 2, f"one of {', '.join(SPLIT_OF)}"
    else:
        return _Row(hide_secrets(key), key, label.strip(), at, group.strip())
    column = named.get(ROLES[place], ROLES[place])
    raise SourceError(
        f"{where}: found {cells[place]!r} in column {column}; expected {expected}; correct it"
    )


def _to_text(cell: Any) -> str:
    """Return a cell as text, NUL for what is none."""
    if cell is None:
        return ""
    return str(cell) if isinstance(cell, int) else "\0"


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_table(
    root: str, file: BinaryIO, named: Mapping[str, str]
) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the number of each row and its cells in the order of ``ROLES``."""
    ending = os.path.splitext(root)[1].lower()
    if ending == ".parquet":
        yield from enumerate(_read_parquet(root, file, named), 1)
        return
    with TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        if ending in (".csv", ".tsv"):
            yield from _read_csv(root, lines, named, "\t" if ending == ".tsv" else ",")
        else:
            yield from _read_json(root, lines, named)


def _read_csv(
    root: str, file: Iterable[str], named: Mapping[str, str], delimiter: str
) -> Iterator[tuple[int, Sequence[Any]]]:
    table = csv.reader(file, delimiter=delimiter, strict=True)
    heading = next(table, [])
    places = [heading.index(name) if name else None for name in _choose(root, heading, named)]
    for number, cells in enumerate(table, 1):
        if not cells:  # an empty line
            continue
        if len(cells) != len(heading):
            raise SourceError(
                f"{quoted(root)}: row {number}: found {len(cells)} cells; expected {len(heading)}, "
                "as in the heading; quote those that hold a separator"
            )
        yield number, [None if place is None else cells[place] for place in places]


def _read_json(
    root: str, file: Iterable[str], named: Mapping[str, str]
) -> Iterator[tuple[int, Sequence[Any]]]:
    columns = [named.get(role, role) for role in ROLES]
    needed = {columns[0], *named.values()}
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{quoted(root)}: row {number}: {error}; expected a JSON object on each line"
            ) from error
        if not isinstance(row, dict):
            raise SourceError(f"{quoted(root)}: row {number}: expected a JSON object on each line")
        if not needed <= row.keys():
            _choose(f"{root}: row {number}", row, named)
        yield number, [row.get(name) for name in columns]


def _read_parquet(
    root: str, content: BinaryIO, named: Mapping[str, str]
) -> Iterator[Sequence[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(
            f'{quoted(root)}: Parquet needs pyarrow; pip install "headstart[tables]"'
        ) from error
    try:
        with parquet.ParquetFile(content) as file:
            chosen = _choose(root, file.schema_arrow.names, named)
            wanted = [name for name in chosen if name]
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                cells = {name: batch.column(name).to_pylist() for name in wanted}
                none = [None] * batch.num_rows
                yield from zip(*(cells.get(name, none) for name in chosen), strict=True)
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{quoted(root)}: cannot be read: {reason}; expected Parquet") from error


def _choose(root: str, known: Iterable[str], named: Mapping[str, str]) -> list[str]:
    """Return the column of each role in ``ROLES``, "" where the table has none.

    Raises:
        SourceError: One that was named, or the path, is lacking.
    """
    known = list(known)
    chosen = []
    for role in ROLES:
        column = named.get(role, role)
        count = known.count(column)
        if count > 1 or (not count and (role in named or role == "path")):
            found = (
                f"column {column!r} stands there twice"
                if count
                else unknown_name("column", column, known)
            )
            raise SourceError(
                f"{quoted(root)}: {found}; say which one is the {role} with --columns {role}=NAME"
            )
        chosen.append(column if count else "")
    return chosen
