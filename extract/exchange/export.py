"""A file of features -> Parquet, NumPy or CSV, for other programs."""

import csv
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from extract.core.atomic import atomic_write, check_writable
from extract.core.console import log
from extract.core.errors import SettingError, StoreError, count_of, quoted, unknown_name
from extract.core.flags import check_choice
from extract.core.row_block import DONE, PENDING
from extract.display.progress import progress
from extract.display.tables import csv_text
from extract.exchange.columns import CSV_PREFIX, METADATA, MOST_HEADING
from extract.exchange.feature_table import block_rows, may_describe
from extract.images.item import SPLITS
from extract.layouts.class_names import clean_labels, order_names
from extract.store.open import Store, open_store

# The names of the columns; in NumPy's form those of arrays.
_COLUMNS = ("key", "label", "split", "group")
_ARRAYS = ("keys", "labels", "split", "groups")
# The first line of a CSV.
_HEADING = re.compile(rf"key,label,split(,group)?(,{CSV_PREFIX}[0-9]+(_[0-9]+)*)+")
# The comment of an ``.npz``.
_NOTE = b"headstart show-features"
# Texts that are written at a time.
_TEXTS = 2**14


@dataclass(frozen=True)
class Selection:
    """The rows of a store that are exported, and their layer."""

    store: Store
    layer: str
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the features of a row."""
        return tuple(self.store.shapes[self.layer])

    def columns(self, rows: np.ndarray) -> list[list[str]]:
        """Return key, label, split and, with groups, group of some rows as texts."""
        store, names = self.store, (*self.store.class_names, "")
        found = [
            [store.keys[row] for row in rows],
            [names[label] for label in store.labels[rows]],
            [SPLITS[split] for split in store.split[rows]],
        ]
        return found + ([[store.groups[row] for row in rows]] if store.groups else [])

    @cached_property
    def _step(self) -> int:
        return min(_TEXTS, block_rows(self.shape, np.dtype(self.store.dtype)))

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers and their (b, *shape) features, with a progress bar."""
        with progress(len(self.rows), "rows", label="exporting") as bar:
            for start in range(0, len(self.rows), self._step):
                rows = self.rows[start : start + self._step]
                yield rows, self.store.read(self.layer, rows)
                bar.update(len(rows))


def export_table(
    path: Path, out: Path, layer: str | None = None, split: str | None = None
) -> tuple[int, tuple[int, ...]]:
    """Write the finished rows of a store for other programs with an atomic write.

    Args:
        path: The store.
        out: A ``.parquet``, ``.npz`` or ``.csv`` file; only an earlier export is replaced.
        layer: The layer; None for the only one.
        split: ``train``, ``validation`` or ``test``; None for all rows.

    Returns:
        The number of rows, and the shape of the features of one.

    Raises:
        SettingError: The ending, the layer or the split is unknown.
        StoreError: The store cannot be read or has rows to do, or ``out`` cannot be written.
    """
    ending = out.suffix.lower()
    if ending not in _WRITERS:
        found = f"found the ending {ending!r} in {out}"
        raise SettingError(f"export: {found}; expected {', '.join(_WRITERS)}")
    if split is not None:
        check_choice("split", split, SPLITS)
    with open_store(path) as store:
        _check_place(out, ending, store)
        selection = _select(store, layer, split)
        with atomic_write(out, StoreError) as temporary:
            _WRITERS[ending](temporary, selection)
    return len(selection.rows), selection.shape


def _check_place(out: Path, ending: str, store: Store) -> None:
    """Raise StoreError unless the export would replace nothing but an earlier one."""
    if out.exists() and not out.is_file():
        raise StoreError(f"{out}: not a regular file; expected one or none; name another")
    inputs = [store.path, *(shard.path for shard in store.shards)]
    if out.exists() and any(os.path.samefile(out, read) for read in inputs):
        raise StoreError(f"{out}: is read by this command; name another file for its result")
    if may_describe(source := str(store.attributes.get("source", "")), out):
        found = f"has the place of the table that describes the rows of {quoted(source)}"
        raise StoreError(f"{out}: {found}; name another file for the result")
    if out.exists() and out.stat().st_size and not _is_export(out, ending):
        expected = "expected an export of show-features, or a new file"
        raise StoreError(f"{out}: holds something else; {expected}; name another")
    check_writable(out, StoreError)


def _is_export(path: Path, ending: str) -> bool:
    """Say whether a file is one that ``export_table`` has written."""
    try:
        if ending == ".parquet":
            from pyarrow import parquet

            return METADATA in (parquet.read_schema(path).metadata or {})
        if ending == ".npz":
            with zipfile.ZipFile(path) as archive:
                return _NOTE in archive.comment
        with path.open(encoding="utf-8", newline="") as file:
            return bool(_HEADING.fullmatch(file.readline(MOST_HEADING).rstrip("\r\n")))
    except Exception:  # of another program, or damaged in one way or another
        return False


def _select(store: Store, layer: str | None, split: str | None) -> Selection:
    """Return the finished rows of a split; a note tells the number of those that have failed."""
    known = list(store.shapes)
    if layer is None and len(known) > 1:
        raise SettingError(f"layer: {store.path} holds {', '.join(known)}; name one with --layer")
    if layer is not None and layer not in known:
        raise SettingError(unknown_name("layer", layer, known))
    if missing := int((store.status == PENDING).sum()):
        found = f"{missing} of {len(store.keys)} rows have no features yet"
        raise StoreError(f"{store.path}: {found}; run the same extract-features command again")
    wanted = np.full(len(store.keys), True)
    if split is not None:
        wanted = store.split == SPLITS.index(split)
    rows = np.flatnonzero(wanted & (store.status == DONE))
    if not len(rows):
        found = f"found no finished row{f' in {split}' if split else ''}"
        raise StoreError(f"{store.path}: {found}; expected one or more; choose another split")
    if failed := int((wanted & (store.status != DONE)).sum()):
        log.info("left out: %s that could not be read", count_of(failed, "row"))
    return Selection(store, layer or known[0], rows)


def _write_parquet(path: Path, selection: Selection) -> None:
    """Write a row group for each block: texts, and lists of a fixed size of float32.

    Other programs do not read lists of float16, so these are float32, which is exact. The order of
    the classes and the shape of a row are in the metadata.
    """
    import pyarrow as pa
    from pyarrow import parquet

    width = int(np.prod(selection.shape))
    names = [*_COLUMNS[: len(selection.columns(selection.rows[:0]))]]
    fields = [pa.field(name, pa.string()) for name in names]
    kind = pa.list_(pa.float32(), width)
    described = {"class_names": selection.store.class_names, "shape": selection.shape}
    metadata = {METADATA: json.dumps(described).encode()}
    schema = pa.schema([*fields, pa.field("features", kind)], metadata)
    # Features hardly repeat: a dictionary of them costs time and space.
    with parquet.ParquetWriter(path, schema, use_dictionary=names) as file:
        for rows, values in selection.blocks():
            flat = pa.array(values.astype(np.float32, copy=False).reshape(-1))
            texts = [pa.array(column, pa.string()) for column in selection.columns(rows)]
            lists = pa.FixedSizeListArray.from_arrays(flat, width)
            file.write_table(pa.table([*texts, lists], schema), row_group_size=len(rows))


def _write_npz(path: Path, selection: Selection) -> None:
    """Write plain arrays: features in the stored type, and texts."""
    store, rows = selection.store, selection.rows
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = _NOTE
        count = len(selection.columns(rows[:0]))
        for column, name in enumerate(_ARRAYS[:count]):
            _write_texts(archive, name, [selection.columns(part)[column] for part in _parts(rows)])
        _write_texts(archive, "class_names", [list(store.class_names)])
        with archive.open("features.npy", "w", force_zip64=True) as file:
            shape = (len(rows), *selection.shape)
            _write_header(file, shape, np.dtype(store.dtype))
            for _, values in selection.blocks():
                file.write(np.ascontiguousarray(values).data.cast("B"))


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _TEXTS] for start in range(0, len(rows), _TEXTS))


def _write_texts(archive: zipfile.ZipFile, name: str, parts: Sequence[Sequence[str]]) -> None:
    """Write an array of texts, all as long as the longest."""
    longest = max((len(text) for part in parts for text in part), default=0)
    dtype = np.dtype(f"<U{max(1, longest)}")
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        _write_header(file, (sum(map(len, parts)),), dtype)
        for part in parts:
            file.write(np.array(part, dtype).tobytes())


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, described)


def _warn_of_classes(selection: Selection) -> None:
    """Warn where a CSV does not keep the classes of a store."""
    names = selection.store.class_names
    labels = set(selection.store.labels[selection.rows].tolist())
    present = order_names(names[label] for label in labels - {-1})
    if names != present or clean_labels(names)[0] != [*names]:
        found = "CSV does not keep empty classes, the order of classes or names such as NA"
        log.warning("%s: %s; use .npz or .parquet for these", selection.store.path, found)


def _write_csv(path: Path, selection: Selection) -> None:
    """Write a column for each feature, with 9 digits, from which float32 is the same again."""
    shape = selection.shape
    _warn_of_classes(selection)
    count = len(selection.columns(selection.rows[:0]))
    features = [f"{CSV_PREFIX}{'_'.join(map(str, place))}" for place in np.ndindex(*shape)]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_COLUMNS[:count], *features])
        for rows, values in selection.blocks():
            texts = zip(*selection.columns(rows), strict=True)
            for cells, row in zip(texts, values.reshape(len(rows), -1).tolist(), strict=True):
                table.writerow([*map(csv_text, cells), *(f"{value:.9g}" for value in row)])


# Ending of a file -> function that writes it. A new format needs an entry here.
_WRITERS: Mapping[str, Callable[[Path, Selection], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".csv": _write_csv,
}
