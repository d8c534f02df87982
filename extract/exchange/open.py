"""SOURCE -> a table of features, where it is a file of features that another program made."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from extract.core.flags import FEATURE_ROLES, parse_columns
from extract.exchange.arrays import open_hdf5, open_npy, open_npz
from extract.exchange.columns import open_columns, open_csv
from extract.exchange.feature_table import FeatureTable
from extract.exchange.write import write_table
from extract.images.item import reading
from extract.images.remote import is_url
from extract.images.unpack import refuse_pointer
from extract.layouts.image_folder import Named
from extract.pipeline.run import Summary
from extract.store.open import read_attribute

# Ending of a file -> function that opens its features. A new format needs an entry here.
_READERS: Mapping[str, Callable[[str, Named], FeatureTable | None]] = {
    ".npz": open_npz,
    ".npy": open_npy,
    **dict.fromkeys((".h5", ".hdf5"), open_hdf5),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), open_columns),
    **dict.fromkeys((".csv", ".tsv"), open_csv),
}


def open_features(source: str | os.PathLike[str], columns: str = "") -> FeatureTable | None:
    """Open a file of features that another program made; None where a source is of images.

    Args:
        source: A source as of ``extract_features``.
        columns: Its columns by role; ``features`` says that it holds features, ``path`` images.

    Raises:
        SourceError: The file cannot be read, or may be features or images.
        SettingError: ``columns`` is malformed.
    """
    path, named = os.fspath(source), parse_columns(columns)
    ending = os.path.splitext(path)[1].lower()
    if is_url(path) or ending not in _READERS or not os.path.isfile(path):
        return None
    if "path" in named and not named.keys() & {*FEATURE_ROLES}:
        return None
    refuse_pointer(path)
    with reading(path, "features or images", "tables"):
        return _READERS[ending](path, named)


def import_features(
    source: str | os.PathLike[str], out: str | os.PathLike[str], settings: Mapping[str, Any]
) -> Summary | None:
    """Write the features that a file holds to a store; None where a source is of images."""
    given = {name: value for name, value in settings.items() if value is not None}
    stored = ""
    if "columns" not in given and os.path.splitext(source)[1].lower() in _READERS:
        with suppress(OSError):  # there is none, or its problem is told later
            stored = str(read_attribute(Path(out), "columns") or "")
    columns = str(given.get("columns", stored))
    if (table := open_features(source, columns)) is None:
        return None
    return write_table(table, Path(out), {**given, "columns": columns})
