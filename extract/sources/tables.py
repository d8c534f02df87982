"""A table of images -> items: CSV, Parquet or JSON lines with a path column.

Rows are counted from 1, without the heading of a CSV, so that one number fits all three.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO, TextIOWrapper
from typing import Any, BinaryIO

from extract.core.errors import SourceError, quoted
from extract.images.item import Source, read_file, reading
from extract.images.remote import hide_secrets, is_url, read_url, without_query
from extract.layouts.image_table import Named, arrange_rows, choose_columns
from extract.sources.arrow import read_cells

_Rows = Iterator[tuple[int, Sequence[Any]]]  # (number, cells in the order of ROLES)


def list_table(root: str, named: Named) -> Source:
    """List the images that a table names, without opening them.

    Args:
        root: The table, a file or a URL; paths in it are URLs, absolute, or relative to its folder.
        named: The columns that the user has named, by role.

    Returns:
        The images sorted by key, which is the path as it is written.

    Raises:
        SourceError: The table cannot be read, lacks a column, names no image or one twice, or a
            cell has no meaning; the message gives the row.
    """
    read_rows = TABLE_FORMATS[os.path.splitext(without_query(root))[1].lower()]
    shown = hide_secrets(root)
    folder = without_query(root).rpartition("/")[0] + "/" if is_url(root) else os.path.dirname(root)
    with (
        reading(shown, "a table", "tables"),
        BytesIO(read_url(root)) if is_url(root) else open(root, "rb") as file,
    ):
        rows = read_rows(quoted(shown), file, named)
        return arrange_rows(shown, rows, named, partial(_read_from, folder))


def _read_from(folder: str, path: str) -> bytes:
    """Return the content at a path in a table that lies in ``folder``, which may be a URL."""
    if is_url(path) or is_url(folder):
        return read_url(path if is_url(path) else folder + path)
    return read_file(path, folder)


def _read_csv(where: str, file: BinaryIO, named: Named, delimiter: str = ",") -> _Rows:
    with TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        heading = next(table, [])
        columns = choose_columns(where, heading, named)
        places = [None if column is None else heading.index(column) for column in columns]
        for number, cells in enumerate(table, 1):
            if cells and len(cells) != len(heading):
                problem = f"found {len(cells)} cells; expected {len(heading)}, as in the heading"
                raise SourceError(f"{where}: row {number}: {problem}")
            if cells:  # the line is not empty
                yield number, [None if place is None else cells[place] for place in places]


def _read_json(where: str, file: BinaryIO, named: Named) -> _Rows:
    chosen: dict[tuple[str, ...], list[str | None]] = {}  # most rows have the same keys
    with TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = parse_json(f"{where}: row {number}", line)
                if (keys := tuple(row)) not in chosen:
                    chosen[keys] = choose_columns(f"{where}: row {number}", keys, named)
                yield number, [row.get(column) for column in chosen[keys]]


def _read_parquet(where: str, file: BinaryIO, named: Named) -> _Rows:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        columns = choose_columns(where, table.schema_arrow.names, named)
        yield from enumerate(read_cells(table, columns), 1)


def parse_json(where: str, text: str) -> dict[Any, Any]:
    """Return a JSON object, or raise SourceError."""
    with reading(where, "a JSON object"):
        return {**json.loads(text)}


# Ending of a table -> function that yields its rows. A new format needs an entry here.
TABLE_FORMATS: Mapping[str, Callable[[str, BinaryIO, Named], _Rows]] = {
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
}
TABLE_ENDINGS = tuple(TABLE_FORMATS)
