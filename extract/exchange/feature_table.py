"""Features that another program made: rows of vectors or maps, and what is known of each row."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extract.core.errors import SettingError, SourceError, quoted, unknown_name
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Said
from extract.sources.pixel_arrays import split_in_name

# The columns that are tried for each role, and those that are likely to be the features.
USUAL = {
    "key": ("key", "keys", "id", "ids"),
    "label": ("label", "labels", "y"),
    "split": ("split", "splits"),
    "group": ("group", "groups"),
}
USUAL_FEATURES = ("features", "feature", "embeddings", "embedding", "vectors", "vector", "X", "x")
# Other words in the names of labels, and those in the names of labels and of what a detector finds.
_LABEL_WORDS = ("target", "targets", "class", "classes")
_LABELS = {*USUAL["label"], *_LABEL_WORDS, "onehot", "bbox"}
# The heading of a CSV of predict-images, in this and in earlier versions; scores may follow.
_PREDICTIONS = re.compile(rb"key,label,score,(margin,)?reason(,\"?score_.*)?\s*", re.DOTALL)
# The endings of a table beside an array.
_BESIDE = (".csv", ".tsv", ".parquet")
# Bytes of features in memory at a time.
BLOCK_BYTES = 2**25


@dataclass(frozen=True)
class FeatureTable:
    """Features of another program, which are read block by block.

    Attributes:
        path: The file, for messages; "X" for arrays in memory.
        name: The column or array that holds the features.
        count: The number of rows, N.
        shape: Shape of one row: (D,) of vectors, (h, w, C) of maps.
        dtype: Their type.
        blocks: Returns an iterator of (b, *shape) rows in order, all N of them.
        columns: The values of each row by role (``key``, ``label``, ``split``, ``group``).
        class_names: K names in order, if the file has them; labels are indices then where they
            are numbers, and names where they are texts.
        said: What was understood of the columns.
        named: The columns that the user has named, by role.
    """

    path: str
    name: str
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]
    columns: Mapping[str, Sequence[Any]]
    class_names: tuple[str, ...] | None = None
    said: Said | None = None
    named: Named | None = None

    @property
    def where(self) -> str:
        """The file, for messages."""
        return quoted(self.path)


def block_rows(shape: Sequence[int], dtype: np.dtype) -> int:
    """Return how many rows of features are read at a time."""
    return max(1, BLOCK_BYTES // max(1, int(np.prod(shape)) * dtype.itemsize))


def slice_blocks(values: Any) -> Iterator[np.ndarray]:
    """Yield rows of an array, which may lie on the disk."""
    step = block_rows(values.shape[1:], np.dtype(values.dtype))
    for start in range(0, len(values), step):
        yield np.asarray(values[start : start + step])


def find_fault(shape: Sequence[int], dtype: np.dtype) -> str:
    """Say why an array cannot be features and what to do; empty if it can."""
    if dtype.hasobject:
        return "holds Python objects, which are never loaded; store it as an array of floats"
    if dtype.kind in "biu":
        return f"has whole numbers ({dtype}); store astype('float32') of it if they are features"
    if dtype.kind != "f" or dtype.itemsize > 8:
        return f"is {dtype}; store it as float16, float32 or float64"
    if len(shape) < 2 or len(shape) > 4:
        return _wrong_axes(shape)
    return "" if all(shape[1:]) else f"has the shape {tuple(shape)}; expected a value in each row"


def _wrong_axes(shape: Sequence[int]) -> str:
    expected = "(N, D) of vectors or (N, h, w, C) of maps"
    return f"has the shape {tuple(shape)}; expected {expected}; reshape it"


def _plain(cell: Any) -> Any:
    """Return a value of NumPy as one of Python, and what pandas has for a missing one as None."""
    if type(cell).__name__ in ("NAType", "NaTType"):
        return None
    return cell.item() if isinstance(cell, np.generic) else cell


def table_of_arrays(
    X: Any, columns: Mapping[str, Any], class_names: Sequence[str] | None
) -> FeatureTable:
    """Return features in memory, and the values of each row by role, None without.

    Raises:
        SourceError: ``X`` is no array of features.
    """
    if hasattr(X, "toarray"):  # of SciPy
        raise SourceError(f"X is sparse ({type(X).__name__}); expected an array; give X.toarray()")
    values = X if hasattr(X, "shape") and hasattr(X, "dtype") else np.asarray(X)
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind == "f":
        values = values.filled(np.nan)
    if not isinstance(values.dtype, np.dtype):  # of another library, such as a tensor
        values = np.asarray(values)
    fault = find_fault(values.shape, values.dtype)
    if fault or values.ndim == 3:
        raise SourceError(f"X {fault or _wrong_axes(values.shape)}")
    cells = {
        role: [_plain(cell) for cell in (each.tolist() if hasattr(each, "tolist") else each)]
        for role, each in columns.items()
        if each is not None
    }
    names = None if class_names is None else tuple(map(str, class_names))
    blocks = partial(slice_blocks, values)
    shape = tuple(values.shape[1:])
    return FeatureTable("X", "features", len(values), shape, values.dtype, blocks, cells, names)


def choose_features(
    where: str,
    arrays: Mapping[str, tuple[Sequence[int], np.dtype]],
    images: Sequence[str],
    named: Named,
    noun: str = "array",
) -> str | None:
    """Return the array or column of features; None where the file is one of images, or a table.

    A named one is taken. Otherwise vectors of floats are features, and maps of floats with a usual
    name or more than four channels, unless the file holds images; features with a usual name beside
    images are ambiguous.

    Args:
        where: The file, for messages.
        arrays: Shape and type of each array or column.
        images: Those that are images, or paths of images.
        named: The columns that the user has named, by role.
        noun: The word for an array in messages.

    Raises:
        SourceError: Several may be the features, none can be, or images lie beside them.
        SettingError: Features and images are both named.
    """
    if "features" in named and "path" in named:
        raise SettingError("columns: found path and features; path is for images; name one")
    if "path" in named:
        return None
    faults = {name: find_fault(*array) for name, array in arrays.items()}
    usual = [name for name in arrays if name in USUAL_FEATURES]
    if "features" in named:
        usual = [named["features"]]
        if usual[0] not in arrays:
            raise SourceError(f"{where}: {unknown_name(noun, usual[0], arrays)}")
        if fault := faults[usual[0]]:
            raise SourceError(f"{where}: {usual[0]} {fault}")
        return usual[0]
    fits = [name for name in arrays if not faults[name] and is_plain(name, arrays[name][0])]
    chosen = [name for name in usual if name in fits] or ([] if images else fits)
    if images and chosen:
        found = f"found images ({images[0]}) and features ({chosen[0]})"
        remedy = f"--columns path={images[0]} or --columns features={chosen[0]}"
        raise SourceError(f"{where}: {found}; say which with {remedy}")
    if len(chosen) > 1:
        found = f"found {', '.join(chosen[:5])}, which may all be features"
        raise SourceError(f"{where}: {found}; say which with --columns features={chosen[0]}")
    bad = [n for n in usual if faults[n] and not _may_be_pixels(*arrays[n])]
    if bad and not chosen and not images:
        raise SourceError(f"{where}: {bad[0]} {faults[bad[0]]}")
    return chosen[0] if chosen else None


def is_plain(name: str, shape: Sequence[int]) -> bool:
    """Whether floats are features without a doubt, by their name or as many channels."""
    few = (1, 3, 4)
    if _LABELS & {*re.split(r"[^a-z]+", name.lower())}:  # of one column for each class
        return False
    if len(shape) == 2 or (name in USUAL_FEATURES and name.lower() != "x"):
        return True
    return len(shape) == 4 and shape[1] not in few and shape[3] not in few


def find_parts(
    where: str,
    shapes: Mapping[str, tuple[Sequence[int], np.dtype]],
    images: Sequence[str],
    named: Named,
) -> dict[str, str]:
    """Return the split of each array of features such as ``X_train`` and ``X_test``; or nothing.

    Raises:
        SourceError: Their rows have other shapes or types.
    """
    fits = [n for n, of in shapes.items() if not find_fault(*of) and is_plain(n, of[0])]
    splits = {name: split for name in fits if (split := split_in_name(name))}
    if images or named or len(splits) < 2 or len({*splits.values()}) < len(splits):
        return {}
    if len(splits) < len(fits):
        return {}
    first, *others = splits
    for name in others:
        (_, *rest), dtype = shapes[name]
        (_, *shape), kind = shapes[first]
        if (rest, dtype) != (shape, kind):
            found = f"found {first} of {tuple(shape)} {kind} and {name} of {tuple(rest)} {dtype}"
            raise SourceError(f"{where}: {found}; expected equal rows; see --columns features=NAME")
    return splits


def find_partner(arrays: Sequence[str], split: str, role: str) -> str | None:
    """Return the array of a role for the features of a split, as y_train for X_train."""
    words = (*USUAL[role], *(_LABEL_WORDS if role == "label" else ()))
    own = {name: re.split(r"[^a-z]+", name.lower()) for name in arrays}
    fits = (n for word in words for n in arrays if word in own[n] and split_in_name(n) == split)
    return next(fits, None)


def _may_be_pixels(shape: Sequence[int], dtype: np.dtype) -> bool:
    return len(shape) in (3, 4) and dtype.kind in "buif"


def may_describe(source: str, table: str | os.PathLike[str]) -> bool:
    """Whether a table, which may not exist yet, has the place of one beside an array."""
    stem, ending = os.path.splitext(os.path.realpath(source))
    beside = ending.lower() == ".npy" and os.path.splitext(os.path.realpath(table))[0] == stem
    return beside and os.path.splitext(table)[1].lower() in _BESIDE


def is_heading(line: bytes) -> bool:
    """Whether the first line of a CSV is the heading of predictions, which are no labels."""
    return _PREDICTIONS.fullmatch(line.removeprefix(b"\xef\xbb\xbf")) is not None


def table_beside(path: str) -> str | None:
    """Return the table that describes the rows of an array, which has the same name.

    Raises:
        SourceError: There are several, or it holds predictions, which are no labels.
    """
    stem = os.path.splitext(path)[0]
    there = [stem + end for end in _BESIDE if os.path.isfile(stem + end)]
    if len(there) > 1:
        found = " and ".join(map(os.path.basename, there))
        raise SourceError(f"{quoted(path)}: found {found} beside it; expected one; move the others")
    for table in there:
        with open(table, "rb") as file:
            if is_heading(file.readline(2**20)):
                found = f"found predictions of predict-images in {quoted(os.path.basename(table))}"
                expected = "expected what is known of each row; move or rename it"
                raise SourceError(f"{quoted(path)}: {found} beside it; {expected}")
    return there[0] if there else None
