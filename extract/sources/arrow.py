"""Images in columns of Arrow and Parquet files, as the library ``datasets`` writes them."""

import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, repeat
from typing import Any

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.item import reading
from extract.layouts.image_table import Named, Records, choose_columns

_USUAL_IMAGES = ("path", "image", "img", "picture", "photo")
_USUAL = {"label": ("label", "labels"), "split": ("split",), "group": ("group",)}


def holds_images(path: str, named: Named) -> bool:
    """Whether a Parquet file holds images rather than their paths.

    Raises:
        SourceError: The file is not Parquet, or the library that reads it is missing.
    """
    with reading(path, "Arrow or Parquet", "tables"):
        return _image_column(_open(path).schema_arrow, named) is not None


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
        file = _open(path)
        is_parquet = path.lower().endswith(".parquet")
        schema = file.schema_arrow if is_parquet else file.schema
        image = _image_column(schema, named)
        if image is None:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)[:300]
            problem = f"found no column of images among {columns}; expected bytes"
            raise SourceError(f"{quoted(path)}: {problem}; name it with --columns path=NAME")
        chosen = choose_columns(quoted(path), schema.names, named, _USUAL)
        name_of = _class_names(schema, chosen[0])
        # Without names the keys are row numbers, so each group of rows is read once.
        names = repeat(None) if is_parquet else _names(file.column(image))
        read = _group_reader(file, image) if is_parquet else file.column(image).__getitem__
        rows = [
            (name, name_of.get(label, label) if name_of else label, *rest)
            for name, (label, *rest) in zip(names, read_cells(file, chosen), strict=False)
        ]
        return Records(rows, partial(_content, read))


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


def _open(path: str) -> Any:
    """Return a ParquetFile, or an Arrow table that stays on the disk."""
    import pyarrow.parquet

    if path.lower().endswith(".parquet"):
        return pyarrow.parquet.ParquetFile(path)
    mapped = pyarrow.memory_map(path)
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped).read_all()
    # Arrow trusts offsets: a wrong one would read memory outside the file.
    table.validate(full=True)
    return table


def _has_bytes(kind: Any) -> bool:
    from pyarrow import types

    is_struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return bool(is_struct or types.is_binary(kind) or types.is_large_binary(kind))


def _image_column(schema: Any, named: Named) -> str | None:
    """Return the named column of images, else one with a usual name, else the only one."""
    fits = [field.name for field in schema if _has_bytes(field.type)]
    if "path" in named:
        return named["path"] if named["path"] in fits else None
    if "path" in schema.names and "path" not in fits:  # the paths of images in other files
        return None
    usual = [name for name in _USUAL_IMAGES if name in fits]
    return usual[0] if usual else fits[0] if len(fits) == 1 else None


def _names(images: Any) -> Iterable[str | None]:
    from pyarrow import compute, types

    has_names = types.is_struct(images.type) and images.type.get_field_index("path") >= 0
    return compute.struct_field(images, "path").to_pylist() if has_names else repeat(None)


def _class_names(schema: Any, column: str | None) -> dict[int, str | None]:
    """Return the class of each label where ``datasets`` stored it; -1 has none."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        return {-1: None, **dict(enumerate(described["info"]["features"][column]["names"]))}
    except (KeyError, TypeError, ValueError):
        return {}


def _group_reader(file: Any, image: str) -> Callable[[int], Any]:
    """Return a function that reads a row of Parquet, in groups of rows that stay in memory."""
    lock = threading.Lock()
    sizes = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    starts = list(accumulate(sizes, initial=0))

    @lru_cache(2)
    def read_group(group: int) -> Any:
        return file.read_row_group(group, columns=[image], use_threads=False).column(0)

    def read(row: int) -> Any:
        group = bisect_right(starts, row) - 1
        with lock:
            return read_group(group)[row - starts[group]]

    return read


def _content(read: Callable[[int], Any], row: int) -> bytes:
    cell = read(row).as_py()
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise ImageError("has no bytes in its row")
    return bytes(content)
