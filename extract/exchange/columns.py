"""Features in columns of Parquet, Arrow and CSV files."""

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from extract.core.errors import SourceError, quoted
from extract.display.tables import from_csv_text
from extract.exchange.feature_table import (
    BLOCK_BYTES,
    USUAL,
    FeatureTable,
    block_rows,
    choose_features,
)
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Said, choose_columns, explain_columns
from extract.limits.unpacked import check_bytes, most_bytes, parse_json
from extract.sources.arrow import image_column, name_classes_by, open_table, read_cells
from extract.sources.pixel_arrays import NPZ_TIMES

# The metadata of a file that headstart has written: class names in order, shape of a row.
METADATA = b"headstart"
# Columns of a CSV that are the features, in this order: feature_0, feature_1, or feature_0_0_0.
CSV_PREFIX = "feature_"
MOST_HEADING = 2**24


def open_columns(path: str, named: Named) -> FeatureTable | None:
    """Open the features in a Parquet, Arrow or Feather file; None where it is one of images."""
    file = open_table(path)
    schema = file.schema_arrow if hasattr(file, "schema_arrow") else file.schema
    lists = {field.name: field.type for field in schema if _is_list(field.type)}
    arrays = {name: ((1, 1), _dtype_of(kind)) for name, kind in lists.items()}
    free = {role: column for role, column in named.items() if role != "path"}
    images = [name for name in (image_column(schema, free, paths=True),) if name]
    if not path.lower().endswith((".arrow", ".feather")):
        images += [name for name in ("path", "file_name") if name in schema.names]
    name = choose_features(quoted(path), arrays, images, named, "column")
    if name is None:
        return None
    metadata = _read_metadata(schema)
    width = _find_width(file, name, path)
    shape = tuple(metadata.get("shape", [width]))
    plain = 1 <= len(shape) <= 3 and all(type(side) is int and side > 0 for side in shape)
    if not plain or math.prod(shape) != width:
        shape = (width,)
    own = {role: column for role, column in named.items() if role != "features"}
    chosen = choose_columns(quoted(path), schema.names, own, USUAL)
    rows = file.metadata.num_rows if hasattr(file, "schema_arrow") else file.num_rows
    used = {role: column for role, column in zip(USUAL, chosen, strict=True) if column}
    cells = list(zip(*read_cells(file, list(used.values())), strict=True)) if rows and used else []
    columns: dict[str, Sequence[Any]] = dict(zip(used, cells, strict=False))
    if "label" in columns:
        name_of = name_classes_by(schema, used["label"], quoted(path))
        columns["label"] = [name_of(label) for label in columns["label"]]
    names = metadata.get("class_names")
    said = explain_columns(schema.names, [name, *chosen], ("features", *USUAL))
    dtype = _dtype_of(lists[name])
    return FeatureTable(
        path, name, rows, shape, dtype, partial(_blocks, path, name, shape, dtype), columns,
        None if names is None else tuple(map(str, names)), said, own,
    )  # fmt: skip


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _dtype_of(kind: Any) -> np.dtype:
    """Return the type of the values of a list; objects of values that are no numbers."""
    try:
        dtype: np.dtype = np.dtype(kind.value_type.to_pandas_dtype())
        return dtype
    except (NotImplementedError, TypeError):
        return np.dtype(object)


def _read_metadata(schema: Any) -> dict[str, Any]:
    try:
        return {**parse_json((schema.metadata or {})[METADATA])}
    except (KeyError, TypeError, ValueError):
        return {}


def _chunks(path: str, name: str, rows: int) -> Iterator[Any]:
    """Yield pieces of a column, of at most so many rows."""
    file = open_table(path)
    if hasattr(file, "schema_arrow"):
        total, size = 0, os.path.getsize(path)
        for batch in file.iter_batches(rows, columns=[name], use_threads=False):
            total += batch.nbytes
            check_bytes(total, size, most_bytes(size, NPZ_TIMES))
            yield batch.column(0)
        return
    for chunk in file.column(name).chunks:
        for start in range(0, len(chunk), rows):
            yield chunk.slice(start, rows)


def _find_width(file: Any, name: str, path: str) -> int:
    """Return the number of features in the first row that has some."""
    schema = file.schema_arrow if hasattr(file, "schema_arrow") else file.schema
    kind = schema.field(name).type
    if hasattr(kind, "list_size"):
        return int(kind.list_size)
    for chunk in _chunks(path, name, 64):
        for row in chunk:
            if row.is_valid and len(row):
                return len(row)
    raise SourceError(f"{quoted(path)}: found no values in {name}; expected features in each row")


def _blocks(path: str, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield rows of a column of lists; a row without a list, or values that are null, is NaN."""
    from pyarrow import compute

    width, start = int(np.prod(shape)), 0
    for chunk in _chunks(path, name, max(1, min(2**14, BLOCK_BYTES // (width * 8)))):
        valid = np.asarray(chunk.is_valid())
        lists = chunk.drop_null() if chunk.null_count else chunk
        if not hasattr(chunk.type, "list_size"):
            lengths = np.asarray(compute.list_value_length(lists))
            if len(wrong := np.flatnonzero(lengths != width)):
                row = start + int(np.flatnonzero(valid)[wrong[0]]) + 1
                found = f"row {row}: found {lengths[wrong[0]]:,} values in {name}"
                expected = f"expected {width:,}, as in the first row"
                raise SourceError(f"{quoted(path)}: {found}; {expected}")
        values = np.full((len(chunk), width), np.nan, dtype)
        values[valid] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        start += len(chunk)
        yield values.reshape(-1, *shape)


def open_csv(path: str, named: Named) -> FeatureTable | None:
    """Open the features in a CSV: columns feature_0, feature_1 and so on, or of another prefix."""
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(MOST_HEADING)
    heading = list[str]()
    with suppress(csv.Error):  # the reader of tables says what it is
        heading = next(csv.reader([line], delimiter=delimiter), [])
    prefix, where = named.get("features", CSV_PREFIX), quoted(path)
    places = _feature_places(heading, prefix)
    if not places and "features" in named:
        expected = f"expected {prefix}0, {prefix}1 and so on"
        raise SourceError(f"{where}: found no columns {prefix}N; {expected}")
    if not places:
        return None
    shape = tuple(max(numbers) + 1 for numbers in zip(*places, strict=False))
    taken = set(places.values())
    others = [name for place, name in enumerate(heading) if place not in taken]
    whole = len(places) == math.prod(shape) and set(places) == set(np.ndindex(*shape))
    if not whole or _feature_places(others, prefix):
        last = f"{prefix}{'_'.join(str(side - 1) for side in shape)}"
        found = f"found {len(places):,} columns {prefix}N, the last {last}"
        raise SourceError(f"{where}: {found}; expected each number once")
    images = [name for name in ("path", "file_name") if name in heading]
    if images and "features" not in named:
        remedy = f"--columns path={images[0]} or --columns features={prefix}"
        found = f"found paths of images ({images[0]}) and features ({prefix}N)"
        raise SourceError(f"{where}: {found}; say which with {remedy}")
    own = {role: column for role, column in named.items() if role != "features"}
    chosen = choose_columns(where, others, own, USUAL)
    columns = _csv_columns(path, delimiter, heading, chosen)
    order = [places[index] for index in np.ndindex(*shape)]
    blocks = partial(_csv_blocks, path, delimiter, heading, order, shape)
    said = explain_columns(["features", *others], ["features", *chosen], ("features", *USUAL))
    count = len(columns.pop("rows"))
    return FeatureTable(
        path, "features", count, shape, np.dtype(np.float32), blocks, columns, None, said, own
    )


def _feature_places(heading: Sequence[str], prefix: str) -> dict[tuple[int, ...], int]:
    """Return the place of each column of features, by the numbers in its name."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,7}(?:_\d{1,7})*)")
    matches = ((place, pattern.fullmatch(name.strip())) for place, name in enumerate(heading))
    return {tuple(map(int, m[1].split("_"))): place for place, m in matches if m}


def _csv_rows(path: str, delimiter: str, cells: int) -> Iterator[list[str]]:
    """Yield the rows below the heading."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.reader(file, delimiter=delimiter, strict=True)
        next(table)
        for number, row in enumerate(table, 1):
            if row and len(row) != cells:
                found = f"row {number}: found {len(row):,} cells"
                raise SourceError(f"{quoted(path)}: {found}; expected {cells:,}, as in the heading")
            if row:
                yield row


def _csv_columns(
    path: str, delimiter: str, heading: Sequence[str], chosen: Sequence[str | None]
) -> dict[str, list[Any]]:
    """Return the values of the columns by role, and of ``rows`` one of each row."""
    used = {r: heading.index(name) for r, name in zip(USUAL, chosen, strict=True) if name}
    columns: dict[str, list[Any]] = {role: [] for role in ("rows", *used)}
    for row in _csv_rows(path, delimiter, len(heading)):
        columns["rows"].append(None)
        for role, place in used.items():
            columns[role].append(from_csv_text(row[place]))
    return columns


def _find_text(block: Sequence[Sequence[str]], first: int, names: Sequence[str]) -> str:
    """Say which cell of a block of rows is no number."""
    for row, cells in enumerate(block, first):
        for name, text in zip(names, cells, strict=True):
            try:
                float(text)
            except ValueError:
                return f"row {row}: found {text[:30]!r} in {quoted(name)}"
    return ""


def _csv_blocks(
    path: str, delimiter: str, heading: Sequence[str], order: Sequence[int], shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    step, block = min(1024, block_rows(shape, np.dtype("f8"))), list[list[str]]()
    for number, row in enumerate(chain(_csv_rows(path, delimiter, len(heading)), [None]), 1):
        if row is not None:
            block.append([row[place] or "nan" for place in order])
        if block and (row is None or len(block) == step):
            try:
                yield np.array(block, np.float64).reshape(-1, *shape)
            except ValueError as error:
                first = number - len(block) + (row is not None)
                found = _find_text(block, first, [heading[place] for place in order])
                raise SourceError(f"{quoted(path)}: {found or error}; expected a number") from error
            block = []


def open_beside(path: str, named: Named) -> tuple[dict[str, Sequence[Any]], Said]:
    """Read the columns of a table that describes the rows of an array.

    Returns:
        The values by role, and what was understood of the columns.
    """
    if path.lower().endswith(".parquet"):
        file = open_table(path)
        heading = file.schema_arrow.names
        chosen = choose_columns(quoted(path), heading, named, USUAL)
        used = {role: name for role, name in zip(USUAL, chosen, strict=True) if name}
        cells: Iterable[Any] = zip(*read_cells(file, list(used.values())), strict=True)
        columns: dict[str, Sequence[Any]] = dict(zip(used, cells, strict=False)) if used else {}
    else:
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
        with open(path, encoding="utf-8-sig", newline="") as text:
            heading = next(csv.reader(text, delimiter=delimiter), [])
        chosen = choose_columns(quoted(path), heading, named, USUAL)
        columns = {**_csv_columns(path, delimiter, heading, chosen)}
        columns.pop("rows")
    said = explain_columns(heading, chosen, tuple(USUAL))
    said.notes.insert(0, f"rows described by {quoted(os.path.basename(path))}")
    return columns, said
