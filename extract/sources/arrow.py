"""Images in columns of Arrow and Parquet files, as the library ``datasets`` writes them."""

import json
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from extract.core.config import ROLES
from extract.core.errors import ImageError, SourceError, quoted, unknown_name
from extract.images.item import Records

ARROW_ENDINGS = (".arrow", ".parquet")
_USUAL = ("path", "image", "img", "picture", "photo")


def holds_images(path: str, named: Mapping[str, str]) -> bool:
    """Whether a Parquet file holds images themselves, as against their paths.

    Raises:
        SourceError: It is no Parquet file, or there is no library to read it.
    """
    file = _open(path)
    return _image_column(file.schema_arrow, named) is not None


def open_arrow(path: str, named: Mapping[str, str]) -> Records:
    """Open an Arrow file (a stream or a file, mapped into memory) or a Parquet file.

    Args:
        path: The file.
        named: The columns that have a name of their own, by role.

    Returns:
        Its images; a name is that of the file it was made from, of Arrow alone. Labels that the
        file's metadata have names for are those names.

    Raises:
        SourceError: It cannot be read, or lacks a column.
    """
    try:
        return _open_records(path, named)
    except SourceError:
        raise
    except Exception as error:  # of many kinds, from a checksum to UTF-8
        raise _unreadable(path, error) from error


def _open_records(path: str, named: Mapping[str, str]) -> Records:
    file = _open(path)
    is_parquet = path.lower().endswith(".parquet")
    schema = file.schema_arrow if is_parquet else file.schema
    image = _image_column(schema, named)
    if image is None:
        found = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise SourceError(
            f"{quoted(path)}: found no column of images among {found[:300]}; expected bytes, or "
            "bytes and path; name it with --columns path=NAME"
        )
    columns = [_column(path, schema, role, named) for role in ROLES[1:]]
    count = file.metadata.num_rows if is_parquet else file.num_rows
    said = file
    if is_parquet:
        said = file.read(columns=[name for name in columns if name], use_threads=False)
    cells = [said.column(name).to_pylist() if name else [None] * count for name in columns]
    class_names = _class_names(schema, columns[0])
    cells[0] = [_to_name(label, class_names) for label in cells[0]]
    rows = list(zip(*cells, strict=True))
    if is_parquet:
        # Without names: rows are read a group at a time, and so in their order.
        return Records([None] * count, rows, partial(_content, _group_reader(file, image)))
    images = file.column(image)
    return Records(_names(images), rows, partial(_content, partial(_cell, images)))


def _open(path: str) -> Any:
    """Return a ParquetFile, or an Arrow table that stays on the disk."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(
            f'{quoted(path)}: needs pyarrow; pip install "headstart[tables]"'
        ) from error
    try:
        if path.lower().endswith(".parquet"):
            return parquet.ParquetFile(path)
        mapped = pyarrow.memory_map(path)
        if mapped.read(6) == b"ARROW1":
            table = pyarrow.ipc.open_file(mapped).read_all()
        else:
            mapped.seek(0)
            table = pyarrow.ipc.open_stream(mapped).read_all()
        # Arrow takes offsets on trust: a wrong one would read foreign memory.
        table.validate(full=True)
        return table
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # of a column's name
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> SourceError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return SourceError(f"{quoted(path)}: cannot be read: {reason}; expected Arrow")


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _image_column(schema: Any, named: Mapping[str, str]) -> str | None:
    """Return the column that was named or has a usual name, else the only one of images."""
    from pyarrow import types

    fits = [
        field.name
        for field in schema
        if _is_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    if "path" in named:
        return named["path"] if named["path"] in fits else None
    if "path" in schema.names and "path" not in fits:  # where the images are
        return None
    usual = [name for name in _USUAL if name in fits] or fits
    return usual[0] if usual and (len(fits) == 1 or usual[0] in _USUAL) else None


def _column(path: str, schema: Any, role: str, named: Mapping[str, str]) -> str:
    name = named.get(role, role)
    if name in schema.names:
        return name
    if role == "label" and role not in named and "labels" in schema.names:
        return "labels"
    if role in named:
        raise SourceError(
            f"{quoted(path)}: {unknown_name('column', name, schema.names)}; say which one is the "
            f"{role} with --columns {role}=NAME"
        )
    return ""


def _names(images: Any) -> list[str | None]:
    from pyarrow import compute

    if _is_binary(images.type) or images.type.get_field_index("path") < 0:
        return [None] * len(images)
    return list(compute.struct_field(images, "path").to_pylist())


def _class_names(schema: Any, column: str) -> list[str]:
    """Return the names that ``datasets`` has for the classes of a column, if it has any."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        return list(described["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _to_name(label: Any, class_names: Sequence[str]) -> Any:
    """Return a class by its name; -1 is none, as ``datasets`` has it in splits without labels."""
    if not class_names or not isinstance(label, int):
        return label
    if label == -1:
        return None
    return class_names[label] if 0 <= label < len(class_names) else label


def _cell(column: Any, row: int) -> Any:
    return column[row].as_py()


def _group_reader(file: Any, image: str) -> Any:
    """Return what reads a row: by groups of rows, as the format is; some stay in memory."""
    lock, starts = threading.Lock(), [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)

    @lru_cache(2)
    def column_of(group: int) -> Any:
        return file.read_row_group(group, columns=[image], use_threads=False).column(0)

    def read(row: int) -> Any:
        group = bisect_right(starts, row) - 1
        with lock:
            column = column_of(group)
        return column[row - starts[group]].as_py()

    return read


def _content(read: Any, row: int) -> bytes:
    from pyarrow import ArrowException

    try:
        found = read(row)
    except (ArrowException, OSError, ValueError) as error:
        raise ImageError(f"cannot be read: {' '.join(str(error).split())[:80]}") from error
    content = found["bytes"] if isinstance(found, dict) else found
    if content is None:
        raise ImageError("has no bytes in its row")
    return bytes(content)
