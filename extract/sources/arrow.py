"""Images in columns of Arrow and Parquet files, as the library ``datasets`` writes them."""

import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, repeat
from typing import Any

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.item import read_file, reading
from extract.images.remote import hide_secrets, is_url, read_url
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Records, choose_columns, explain_columns
from extract.limits.arrow_buffers import unpacked_size
from extract.limits.image_size import claim_bytes
from extract.limits.unpacked import check_bytes, most_bytes, parse_json

# Rows that a file may have however small it is.
_FEW_ROWS = 10**6
# Images of a group of rows: how many times the size of the file, and how much is read at once.
_TIMES, _PIECE_BYTES, _PIECE_ROWS = 256, 2**26, 1024
_USUAL_IMAGES = ("path", "image", "img", "picture", "photo")
_USUAL = {"label": ("label", "labels"), "split": ("split",), "group": ("group",)}


def holds_images(path: str, named: Named) -> bool:
    """Whether a Parquet file holds images rather than their paths.

    Raises:
        SourceError: The file is not Parquet, or the library that reads it is missing.
    """
    with reading(path, "Arrow or Parquet", "tables"):
        return image_column(open_table(path).schema_arrow, named) is not None


def open_arrow(path: str, named: Named) -> Records:
    """Open a Parquet file, or an Arrow file or stream, which is mapped into memory.

    Args:
        path: The file.
        named: The columns that the user has named, by role.

    Returns:
        Its images. Only Arrow has names, those of the original files. Labels are class names where
        the metadata of the file has them.

    Raises:
        SourceError: The file cannot be read, or lacks a column.
    """
    with reading(path, "Arrow or Parquet", "tables"):
        file = open_table(path)
        is_parquet = path.lower().endswith(".parquet")
        schema = file.schema_arrow if is_parquet else file.schema
        image = image_column(schema, named, paths=not is_parquet)
        if image is None:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)[:300]
            problem = f"found no column of images among {columns}; expected bytes or paths"
            raise SourceError(f"{quoted(path)}: {problem}; name it with --columns path=NAME")
        chosen = choose_columns(quoted(path), schema.names, named, _USUAL)
        name_of = name_classes_by(schema, chosen[0], quoted(path))
        # Without names the keys are row numbers, so each group of rows is read once.
        names = repeat(None) if is_parquet else _names(file.column(image))
        read = (
            _group_reader(file, image, os.path.getsize(path))
            if is_parquet
            else file.column(image).__getitem__
        )
        rows = [
            (name, name_of(label), *rest)
            for name, (label, *rest) in zip(names, read_cells(file, chosen), strict=False)
        ]
        said = explain_columns(schema.names, [image, *chosen])
        folder = os.path.dirname(path)
        if not is_parquet:
            said = said._replace(problem=_find_lost(file.column(image), folder))
        return Records(rows, partial(_content, read, folder), said)


def read_cells(file: Any, columns: Sequence[str | None]) -> Iterator[tuple[Any, ...]]:
    """Yield the cells of each row of a ParquetFile or an Arrow table; None without a column."""
    parts = [file]
    if hasattr(file, "schema_arrow"):
        named = [name for name in columns if name is not None]
        parts = file.iter_batches(2**16, columns=named, use_threads=False)
    for part in parts:
        none = [None] * part.num_rows
        cells = [none if name is None else part.column(name).to_pylist() for name in columns]
        yield from zip(*cells, strict=True)


def open_table(path: str) -> Any:
    """Return a ParquetFile, or an Arrow table that stays on the disk."""
    import pyarrow.parquet

    if path.lower().endswith(".parquet"):
        # Buffered ahead, all row groups that are read would be in memory at once.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        check_rows(file.metadata.num_rows, os.path.getsize(path))
        return file
    mapped = pyarrow.memory_map(path)
    content = mapped.read_buffer()
    check_bytes(unpacked_size(content), len(content), most_bytes(len(content), _TIMES))
    is_file = content[:6] == b"ARROW1"
    mapped.seek(0)
    table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped).read_all()
    # Arrow trusts offsets: a wrong one would read memory outside the file.
    table.validate(full=True)
    check_rows(table.num_rows, os.path.getsize(path))
    return table


def check_rows(rows: int, size: int) -> None:
    """Raise ValueError if a file has far more rows than bytes: equal ones take no place in it."""
    if rows > max(_FEW_ROWS, size):
        found = f"found {rows:,} rows in {size:,} bytes"
        raise ValueError(f"{found}; at most a row for each byte is read")


def _has_bytes(kind: Any) -> bool:
    """Whether a type is of bytes, or a structure of bytes and path."""
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0)
    is_bytes = (types.is_binary, types.is_large_binary, getattr(types, "is_binary_view", bool))
    return any(check(kind) for check in is_bytes)


def _has_paths(kind: Any) -> bool:
    from pyarrow import types

    is_text = (types.is_string, types.is_large_string, getattr(types, "is_string_view", bool))
    return any(check(kind) for check in is_text)


def image_column(schema: Any, named: Named, paths: bool = False) -> str | None:
    """Return the named column of images, else one with a usual name, else the only one.

    Args:
        schema: The columns.
        named: The columns that the user has named, by role.
        paths: Whether the column may hold the paths of images instead.
    """
    fits = [field.name for field in schema if _has_bytes(field.type)]
    texts = [field.name for field in schema if paths and _has_paths(field.type)]
    if "path" in named:
        return named["path"] if named["path"] in fits + texts else None
    usual = [name for name in _USUAL_IMAGES if name in fits]
    # Without images under a usual name, these are the paths of images in other files.
    if "path" in schema.names and "path" not in fits and not usual:
        return "path" if "path" in texts else None
    usual_texts = [name for name in _USUAL_IMAGES if name in texts]
    return next(iter(usual or (fits if len(fits) == 1 else usual_texts)), None)


def _names(images: Any) -> Iterable[str | None]:
    from pyarrow import compute, types

    if _has_paths(images.type):
        return images.to_pylist()  # type: ignore[no-any-return]
    has_names = types.is_struct(images.type) and images.type.get_field_index("path") >= 0
    return compute.struct_field(images, "path").to_pylist() if has_names else repeat(None)


def _find_lost(images: Any, folder: str) -> str:
    """Say how many paths that stand in the place of bytes have no file, if most have none."""
    from pyarrow import compute, types

    if types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        if compute.struct_field(images, "bytes").null_count < len(images):
            return ""
    elif not _has_paths(images.type):
        return ""
    paths = [path for path in _names(images) if path and not is_url(path)]
    lost = [path for path in paths if not os.path.isfile(os.path.join(folder, path))]
    if 2 * len(lost) <= len(images):
        return ""
    found = f"found no file for {len(lost):,} of {len(images):,} paths, such as {quoted(lost[0])}"
    return f"{found}, and no bytes in their place; store the images in the file"


def name_classes_by(schema: Any, column: str | None, where: str) -> Callable[[Any], Any]:
    """Return a function that names the class of a label where ``datasets`` stored the names."""
    try:
        described = parse_json((schema.metadata or {})[b"huggingface"])
        names = described["info"]["features"][column]["names"]
        sizes = Counter(names)
        names = [f"{each} ({i})" if sizes[each] > 1 else each for i, each in enumerate(names)]
    except (KeyError, TypeError, ValueError):
        return lambda label: label

    def name_of(label: Any) -> Any:
        if not isinstance(label, int | float) or not float(label).is_integer():
            return label
        if label == -1:
            return None
        if 0 <= label < len(names):
            return names[int(label)]
        problem = f"found label {label}; expected less than {len(names)}, the number of class names"
        raise SourceError(f"{where}: {problem}")

    return name_of


def _group_reader(file: Any, image: str, size: int) -> Callable[[int], Any]:
    """Return a function that reads a row of Parquet, in groups of rows that stay in memory.

    Args:
        file: A ParquetFile.
        image: The column of images.
        size: Bytes of the file.
    """
    from pyarrow import chunked_array

    lock = threading.Lock()
    sizes = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    starts = list(accumulate(sizes, initial=0))

    @lru_cache(2)
    def read_group(group: int) -> Any:
        parts, total = [], 0
        # Rows with one image, which a file holds once, are copies of it in memory.
        rows = max(1, _PIECE_BYTES // max(1, file.metadata.row_group(group).total_byte_size))
        wanted = {"row_groups": [group], "columns": [image], "use_threads": False}
        for batch in file.iter_batches(min(rows, _PIECE_ROWS), **wanted):
            parts.append(batch.column(0))
            total += batch.nbytes
            check_bytes(total, size, most_bytes(size, _TIMES))
        return chunked_array(parts)

    def read(row: int) -> Any:
        group = bisect_right(starts, row) - 1
        with lock:
            return read_group(group)[row - starts[group]]

    return read


def _size(scalar: Any) -> int:
    """Return the bytes of an image in a cell, which may be larger than what is copied from it."""
    if hasattr(scalar, "get") and scalar.is_valid:
        scalar = scalar.get("bytes")
    buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
    return buffer.size if buffer else 0


def _content(read: Callable[[int], Any], folder: str, row: int) -> bytes:
    """Return the bytes in a row, or those of the file whose path stands in their place."""
    scalar = read(row)
    claim_bytes(_size(scalar))
    cell = scalar.as_py()
    content, path = cell, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
    elif isinstance(cell, str):
        content, path = None, cell
    if content is not None:
        return bytes(content)
    if not path:
        raise ImageError("has neither bytes nor a path in its row")
    try:
        return read_url(path) if is_url(path) else read_file(path, folder)
    except ImageError as error:
        raise ImageError(
            f"has no bytes in its row, and {quoted(hide_secrets(path))} {error}"
        ) from error
