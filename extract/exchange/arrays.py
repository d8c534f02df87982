"""Features in NumPy and HDF5 files, which stay on the disk."""

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.lib import format as npy

from extract.core.errors import SourceError, listed, quoted
from extract.exchange.columns import open_beside
from extract.exchange.feature_table import (
    USUAL,
    FeatureTable,
    block_rows,
    choose_features,
    find_fault,
    find_partner,
    find_parts,
    slice_blocks,
    table_beside,
)
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Said, choose_columns, explain_columns
from extract.limits.unpacked import check_bytes, check_zip, most_bytes
from extract.sources.pixel_arrays import (
    NPZ_TIMES,
    check_size,
    find_flaw,
    open_datasets,
    split_in_name,
)

# Of the arrays that stand beside the features.
_MOST_BYTES = 2**30
_NAMES = "class_names"


@dataclass(frozen=True)
class Member:
    """An array in an ``.npz``, of which no value has been read."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    def __len__(self) -> int:
        return self.shape[0]

    def read(self) -> np.ndarray:
        """Return all of it."""
        if self.dtype.hasobject:
            problem = "holds Python objects, which are never loaded; store plain numbers or texts"
            raise SourceError(f"{quoted(self.path)}: {self.name} {problem}")
        with np.load(self.path, allow_pickle=False) as file:
            return np.asarray(file[self.name])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield its rows; those of an array in Fortran's order are read at once."""
        if self.fortran:
            yield from slice_blocks(self.read())
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
            yield from _read_blocks(self.path, file)


def open_npz(path: str, named: Named) -> FeatureTable | None:
    """Open the features in an ``.npz``; None where it holds images."""
    check_zip(path, times=NPZ_TIMES)
    arrays: dict[str, Member] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    stem = name.removesuffix(".npy")
                    shape, fortran, dtype = _read_header(file)
                    _check_bytes(path, shape, dtype, archive.getinfo(name).file_size - file.tell())
                    arrays[stem] = Member(path, stem, shape, dtype, fortran)
    images = [
        name
        for name, array in arrays.items()
        if array.dtype == np.uint8 and find_flaw(name, array) is None
    ]
    blocks = {name: array.blocks for name, array in arrays.items()}
    return _table(path, arrays, images, named, blocks, Member.read)


def open_hdf5(path: str, named: Named) -> FeatureTable | None:
    """Open the features in an HDF5 file of another program; None where it holds images."""
    arrays = {name: array for name, array in open_datasets(path).items() if array.shape}
    images = [
        name
        for name, array in arrays.items()
        if array.dtype == np.uint8 and find_flaw(name, array) is None
    ]
    blocks = {name: partial(slice_blocks, array) for name, array in arrays.items()}
    table = _table(path, arrays, images, named, blocks, lambda array: np.asarray(array[()]))
    parts = [name for name in arrays if split_in_name(name)]
    for name in () if not table else [table.name] if table.name in arrays else parts:
        check_size(path, name, array := arrays[name])
        stored = array.id.get_storage_size()
        check_bytes(array.nbytes, stored, most_bytes(stored, NPZ_TIMES))
    return table


def open_npy(path: str, named: Named) -> FeatureTable | None:
    """Open the features in an ``.npy``, described by a table of the same name beside it.

    Row i of the table describes row i of the array.
    """
    with open(path, "rb") as file:
        shape, _, dtype = _read_header(file)
        size = os.path.getsize(path) - file.tell()
    images = [] if dtype != np.uint8 or len(shape) not in (3, 4) else ["features"]
    # The array has no name; as X, images of floats are no features.
    arrays = {named.get("features", "X"): (shape, dtype)}
    if "features" in named and named["features"] != "features":
        found = f"found features={named['features']} of a file with one array"
        raise SourceError(f"{quoted(path)}: {found}; expected features=features, or leave it out")
    if choose_features(quoted(path), {} if images else arrays, images, named) is None:
        if "features" not in named and dtype.kind in "iub" and len(shape) == 2:
            raise SourceError(f"{quoted(path)}: {find_fault(shape, dtype)}")
        return None
    _check_bytes(path, shape, dtype, size)
    own = {role: name for role, name in named.items() if role != "features"}
    beside = table_beside(path)
    columns, said = open_beside(beside, own) if beside else ({}, None)
    if own and not beside:
        found = "found no table of the same name (.csv, .tsv, .parquet) beside it"
        raise SourceError(f"{quoted(path)}: {found}; expected the columns {', '.join(own)} in one")
    return FeatureTable(
        path, "features", shape[0], shape[1:], dtype, partial(_npy_blocks, path), columns,
        said=said, named=own,
    )  # fmt: skip


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and type of an array; nothing in it is run."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _check_bytes(path: str, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raise SourceError if ``size`` bytes cannot hold an array; those of objects are pickled."""
    short = math.prod(shape) * dtype.itemsize > size and not dtype.hasobject
    if short or min(shape, default=0) < 0:
        found = f"found {size:,} bytes for {shape} {dtype}"
        raise SourceError(f"{quoted(path)}: {found}; expected more; write it again")


def _npy_blocks(path: str) -> Iterator[np.ndarray]:
    """Yield the rows of an ``.npy``: what is mapped into memory would count as used."""
    with open(path, "rb") as file:
        if _read_header(file)[1]:  # in Fortran's order
            yield from slice_blocks(np.load(path, mmap_mode="r", allow_pickle=False))
            return
        file.seek(0)
        yield from _read_blocks(path, file)


def _read_blocks(path: str, file: Any) -> Iterator[np.ndarray]:
    """Yield the rows of an array in C's order from an open file."""
    (count, *rest), _, dtype = _read_header(file)
    step = block_rows(rest, dtype)
    for start in range(0, count, step):
        shape = (min(step, count - start), *rest)
        size = math.prod(shape) * dtype.itemsize
        if len(content := file.read(size)) < size:
            found = f"found the end after {start:,} of {count:,} rows"
            raise SourceError(f"{quoted(path)}: {found}; write it again")
        yield np.frombuffer(content, dtype).reshape(shape)


def _read_shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[Sequence[int], np.dtype]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _table(
    path: str,
    arrays: Mapping[str, Any],
    images: Sequence[str],
    named: Named,
    blocks: Mapping[str, Callable[[], Iterator[np.ndarray]]],
    read: Callable[[Any], np.ndarray],
) -> FeatureTable | None:
    """Return the features among arrays, and what the other arrays say of each row."""
    where = quoted(path)
    texts = {*USUAL["label"], *USUAL["split"], *USUAL["group"], _NAMES} - {"y"}
    shapes = {name: of for name, of in _read_shapes(arrays).items() if name not in texts}
    if parts := find_parts(where, shapes, images, named):
        return _join_parts(path, arrays, parts, blocks, read)
    name = choose_features(where, shapes, images, named)
    if name is None:
        return None
    own = {role: column for role, column in named.items() if role != "features"}
    chosen = choose_columns(where, arrays, own, USUAL, "array")
    array, cells = arrays[name], dict[str, Sequence[Any]]()
    for role, column in zip(USUAL, chosen, strict=True):
        if column is not None and column != name:
            cells[role] = _read_cells(where, column, arrays[column], array.shape[0], read)
    known = [each for each in arrays if each != _NAMES]
    said = explain_columns(known, [name, *chosen], ("features", *USUAL))
    names = _read_names(where, arrays, read)
    shape = tuple(array.shape[1:])
    dtype = np.dtype(array.dtype)
    return FeatureTable(
        path, name, array.shape[0], shape, dtype, blocks[name], cells, names, said, own
    )


def _join_parts(
    path: str,
    arrays: Mapping[str, Any],
    parts: Mapping[str, str],
    blocks: Mapping[str, Callable[[], Iterator[np.ndarray]]],
    read: Callable[[Any], np.ndarray],
) -> FeatureTable:
    """Return the features of all splits, with labels, groups and keys of arrays such as y_train."""
    where, others = quoted(path), [name for name in arrays if name not in parts]
    counts = [arrays[name].shape[0] for name in parts]
    splits = [each for each, n in zip(parts.values(), counts, strict=True) for _ in range(n)]
    columns, used = {"split": splits}, [*parts]
    for role in ("label", "group", "key"):
        found = [find_partner(others, split, role) for split in parts.values()]
        if not any(found) or (role == "key" and not all(found)):
            continue
        cells = [
            _read_cells(where, name, arrays[name], count, read) if name else [None] * count
            for name, count in zip(found, counts, strict=True)
        ]
        columns[role] = [*chain.from_iterable(cells)]
        used += filter(None, found)
    said = Said([f"arrays: {', '.join(used)}"], [])
    if ignored := [name for name in others if name not in (*used, _NAMES)]:
        expected = "expected names such as y_train, groups_train and keys_train"
        said.warnings.append(f"ignored {listed(ignored, 'array')}; {expected}")
    first = arrays[next(iter(parts))]
    return FeatureTable(
        path, "features", len(splits), tuple(first.shape[1:]), np.dtype(first.dtype),
        lambda: chain.from_iterable(blocks[name]() for name in parts),
        columns, _read_names(where, arrays, read), said,
    )  # fmt: skip


def _read_names(
    where: str, arrays: Mapping[str, Any], read: Callable[[Any], np.ndarray]
) -> tuple[str, ...] | None:
    """Return the names of the classes in order; None without them."""
    if _NAMES not in arrays:
        return None
    array = arrays[_NAMES]
    values = _read_cells(where, _NAMES, array, math.prod(array.shape), read)
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)


def _read_cells(
    where: str, name: str, array: Any, count: int, read: Callable[[Any], np.ndarray]
) -> list[Any]:
    """Return the value of an array for each row."""
    size = math.prod(array.shape)
    if size != count or size * array.dtype.itemsize > _MOST_BYTES:
        found = f"found {name} of shape {tuple(array.shape)} beside {count:,} rows"
        raise SourceError(f"{where}: {found}; expected one value for each row, 1 GB at most")
    return list(read(array).reshape(-1).tolist())
