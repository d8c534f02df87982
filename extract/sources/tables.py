"""A table of images -> items: CSV, Parquet or JSON lines with a path column.

Rows are counted from 1, without the heading of a CSV, so that one number fits all three.
"""

import codecs
import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO, StringIO
from typing import Any, BinaryIO

from extract.core.errors import SourceError, count_of, quoted
from extract.images.item import Source, read_file, reading
from extract.images.kinds import IMAGE_ENDINGS
from extract.images.remote import hide_secrets, is_url, read_url, without_query
from extract.images.unpack import fetch_command
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Said, arrange_rows, choose_columns, explain_columns
from extract.layouts.table_paths import mend_paths
from extract.limits.image_size import claim_bytes
from extract.limits.unpacked import parse_json as read_values
from extract.sources.arrow import check_rows, image_column, read_cells

Row = tuple[int, Sequence[Any]]  # number, and cells in the order of ROLES
_Rows = Iterator[Row]
# Place of the table and names of its columns -> the column of each role, None without one.
Pick = Callable[[str, Iterable[str]], Sequence[str | None]]
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# Marks at the start of a text, longest first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def list_table(root: str, named: Named, folder: str = "") -> Source:
    """List the images that a table names, without opening them.

    Args:
        root: The table, a file or a URL; paths in it are URLs, absolute, or relative to a folder.
        named: The columns that the user has named, by role.
        folder: The folder of the images; that of the table by default.

    Returns:
        The images sorted by key, which is the path as it is written, or as it was mended.

    Raises:
        SourceError: The table cannot be read, lacks a column, names no image or one twice, or a
            cell has no meaning; the message gives the row.
    """
    shown, said = hide_secrets(root), Said([], [])
    if folder and not is_url(folder) and not os.path.isdir(folder):
        raise SourceError(f"root: found {quoted(folder)}; expected the folder of the images")
    base = folder or folder_of(root)
    if is_url(base) and not base.endswith("/"):
        base += "/"
    with (
        reading(shown, "a table", "tables"),
        BytesIO(read_url(root)) if is_url(root) else open(root, "rb") as file,
    ):
        if is_url(root) and ending_of(root) == ".parquet":
            _refuse_images(quoted(shown), file, named)
        pick = partial(choose_columns, named=named)
        rows, problem = list(_format_of(root)(quoted(shown), file, pick, said)), ""
        if not is_url(base):
            rows, problem = _mend_rows(rows, base, folder, said)
        remote = is_url(base) or any(is_url(str(cells[0])) for _, cells in rows)
        read = partial(_read_from, base) if remote else partial(read_file, folder=base)
        source = arrange_rows(shown, rows, named, read, said)
    problem = problem and f"{quoted(shown)}: {problem}"
    return source._replace(notes=(*said.notes,), problem=problem)


def read_table(root: str, content: bytes, pick: Pick) -> tuple[list[Row], Said]:
    """Return the rows of a table, whose paths stay as they are written, and what is said of it.

    Args:
        root: The table, for messages; its ending is the format.
        content: Its bytes.
        pick: Returns the columns of the roles, see ``Pick``; it may be called several times.

    Raises:
        SourceError: The table cannot be read, or lacks a column.
    """
    said = Said([], [])
    with reading(root, "a table", "tables"), BytesIO(content) as file:
        return list(_format_of(root)(quoted(root), file, pick, said)), said


def ending_of(root: str) -> str:
    """Return the ending of a path or URL in lower case, which tells the format of a table."""
    return os.path.splitext(without_query(root))[1].lower()


def _format_of(root: str) -> Callable[..., _Rows]:
    return TABLE_FORMATS[ending_of(root)]


def folder_of(root: str) -> str:
    """Return the folder of a table, which may be a URL and then ends with a slash."""
    return without_query(root).rpartition("/")[0] + "/" if is_url(root) else os.path.dirname(root)


def _mend_rows(
    rows: list[tuple[int, Sequence[Any]]], base: str, folder: str, said: Said
) -> tuple[list[tuple[int, Sequence[Any]]], str]:
    """Return rows with the paths of files, and why most have none, if so."""
    written = [cells[0] for _, cells in rows]
    numbers = [path for path in written if isinstance(path, int | str)]
    if len(numbers) < len(written) or not all(map(str, numbers)):
        return rows, ""  # arrange_rows names the row
    mended = mend_paths(list(map(str, numbers)), base, folder)
    said.notes.extend(mended.notes)
    said.warnings.extend(mended.warnings)
    pairs = zip(rows, mended.paths, strict=True)
    return [(number, [path, *cells[1:]]) for (number, cells), path in pairs], mended.problem


def _read_from(folder: str, path: str) -> bytes:
    """Return the content at a path in a table that lies in ``folder``, which may be a URL."""
    if is_url(path) or is_url(folder):
        return read_url(path if is_url(path) else folder + path)
    return read_file(path, folder)


def _read_all(file: BinaryIO) -> bytes:
    """Return the content of a text that is not too large to be held in memory."""
    size = file.seek(0, os.SEEK_END)
    claim_bytes(size)
    file.seek(0)
    return file.read()


def _decode(where: str, content: bytes, said: Said) -> str:
    """Return a text in UTF-8, UTF-16 or, with a warning, in the code page 1252 of Windows."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise
    text = content.decode("cp1252")
    said.warnings.append(
        "is not UTF-8; it was read as Windows-1252; save it as UTF-8 if names differ"
    )
    return text


def _read_csv(where: str, file: BinaryIO, pick: Pick, said: Said, delimiter: str = ",") -> _Rows:
    text = _decode(where, _read_all(file), said).rstrip("\x1a")  # the last byte of a text in DOS
    if not text.strip() or text[:1] == "<" or text[:2] == "PK":
        what = (
            "nothing" if not text.strip() else "a spreadsheet" if text[0] == "P" else "a web page"
        )
        raise SourceError(f"{where}: found {what}; expected a table as text; save it as CSV")
    if match := re.match(r"sep=(.)\r?\n", text):  # Excel's own line
        text = text[match.end() :]
    found = _find_separator(text, pick, delimiter)
    if found != delimiter:
        said.notes.append(f"cells are separated by a {_SEPARATORS[found]}")
    csv.field_size_limit(2**31 - 1)  # a cell may hold a mask
    table = csv.reader(
        StringIO(text, newline=""), delimiter=found, strict=True, skipinitialspace=True
    )
    heading = next((cells for cells in table if any(cells)), [])
    if any(cell.strip().lower().endswith(IMAGE_ENDINGS) for cell in heading):
        problem = f"found {', '.join(heading)[:100]!r} as the first line"
        raise SourceError(f"{where}: {problem}; expected the names of columns, such as path,label")
    columns = pick(where, heading)
    _tell_columns(heading, columns, said)
    places = [None if column is None else heading.index(column) for column in columns]
    for number, cells in enumerate(table, 1):
        if not any(cells):
            continue
        if len(cells) != len(heading):
            problem = f"found {count_of(len(cells), 'cell')}; expected {len(heading)}"
            raise SourceError(f"{where}: row {number}: {problem}, as in the heading")
        yield number, [None if place is None else cells[place] for place in places]


def _find_separator(text: str, pick: Pick, usual: str) -> str:
    """Return the character between the cells of the heading, by which it has a column of paths."""
    most = usual, 0
    for separator in dict.fromkeys((usual, *_SEPARATORS)):
        heading = next(
            filter(
                any,
                csv.reader(
                    StringIO(text[:100_000], newline=""), delimiter=separator, skipinitialspace=True
                ),
            ),
            [],
        )
        try:
            pick("", heading)
        except SourceError:
            if len(heading) > most[1]:
                most = separator, len(heading)
        else:
            return separator
    return most[0]


def _tell_columns(known: Sequence[str], columns: Sequence[str | None], said: Said) -> None:
    notes, warnings, _ = explain_columns(known, columns)
    said.notes.extend(note for note in notes if note not in said.notes)
    said.warnings.extend(warning for warning in warnings if warning not in said.warnings)


def _read_json(where: str, file: BinaryIO, pick: Pick, said: Said) -> _Rows:
    chosen: dict[tuple[str, ...], Sequence[str | None]] = {}  # most rows have the same keys
    lines = StringIO(_decode(where, _read_all(file), said), newline="")
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = parse_json(f"{where}: row {number}", line)
            if (keys := tuple(row)) not in chosen:
                chosen[keys] = pick(f"{where}: row {number}", keys)
                _tell_columns(keys, chosen[keys], said)
            yield number, [row.get(column) for column in chosen[keys]]


def _refuse_images(where: str, file: BinaryIO, named: Named) -> None:
    """Raise SourceError for a remote Parquet file that holds images; a local one is of records."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        holds_images = image_column(table.schema_arrow, named)
    if holds_images:
        raise SourceError(f"{where}: contains the images; fetch it with: {fetch_command(where)}")


def _read_parquet(where: str, file: BinaryIO, pick: Pick, said: Said) -> _Rows:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        check_rows(table.metadata.num_rows, file.seek(0, os.SEEK_END))
        columns = pick(where, table.schema_arrow.names)
        _tell_columns(table.schema_arrow.names, columns, said)
        yield from enumerate(read_cells(table, columns), 1)


def parse_json(where: str, text: str) -> dict[Any, Any]:
    """Return a JSON object, or raise SourceError."""
    with reading(where, "a JSON object"):
        return {**read_values(text.encode())}


# Ending of a table -> function that yields its rows. A new format needs an entry here.
TABLE_FORMATS: Mapping[str, Callable[..., _Rows]] = {
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
}
TABLE_ENDINGS = tuple(TABLE_FORMATS)
