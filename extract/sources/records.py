"""Files that hold their images row by row -> items: Arrow, Parquet, TFRecord, HDF5, NumPy."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from extract.core.config import parse_columns
from extract.core.errors import ImageError, SourceError, listed, quoted
from extract.images.item import IMAGE_ENDINGS, SPLIT_OF, SPLITS, Records, Source, is_system_file
from extract.sources.arrow import ARROW_ENDINGS, holds_images, open_arrow
from extract.sources.pixel_arrays import ARRAY_ENDINGS, open_arrays
from extract.sources.tables import arrange_rows
from extract.sources.tfrecord import is_tfrecord, open_tfrecord

RECORD_ENDINGS = (".arrow", ".tfrecord", *ARRAY_ENDINGS)
# What ``datasets`` writes beside a set, and beside several splits of one.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


class RecordSet:
    """The images of one or several such files, by key; may be read from several threads.

    A key is the name that the record has for its image, where each has one and no two the same;
    else the number of the row from 0, after the name of its file where there are several.

    Attributes:
        rows: The number of each row, counted through all files, and its cells as in ``ROLES``.
    """

    def __init__(self, root: str, named: Mapping[str, str]) -> None:
        files = _find_files(root)
        opened = [(name, split, _open(path, named)) for name, path, split in files]
        self.rows: list[tuple[int, list[Any]]] = []
        self._places: dict[str, tuple[Records, int]] = {}
        names = [name for _, _, records in opened for name in records.names]
        by_name = all(names) and len(set(names)) == len(names)
        for prefix, split, records in opened:
            for row, (name, cells) in enumerate(zip(records.names, records.cells, strict=True)):
                key = name if by_name and name else f"{prefix}{row:09d}"
                own = [key, *cells]
                if split is not None:
                    own[2] = split
                self.rows.append((len(self.rows), own))
                self._places[key] = records, row

    def read(self, key: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            ImageError: There is none of that key, or it cannot be read.
        """
        if key not in self._places:
            raise ImageError("is not among the records")
        records, row = self._places[key]
        return records.read(row)


def holds_records(root: str, columns: str = "") -> bool:
    """Whether a file or folder holds images row by row."""
    if os.path.isdir(root):
        try:
            names = _names_in(root)
        except OSError:  # said by whoever looks for images
            return False
        return _STATE in names or _SPLITS in names or _holds_files(root, names, columns)
    if root.lower().endswith(".parquet"):
        return os.path.isfile(root) and holds_images(root, parse_columns(columns))
    return root.lower().endswith(RECORD_ENDINGS) or is_tfrecord(root)


def list_records(root: str, columns: str = "") -> Source:
    """List the images of such a file, or of a folder of them.

    Args:
        root: A file, a folder that ``datasets`` has saved, or one of TFRecord, Arrow or Parquet
            files.
        columns: What holds the images (``path``), labels, splits and groups, see
            ``config.parse_columns``.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: A file cannot be read, or lacks a column.
    """
    named = parse_columns(columns)
    found = RecordSet(root, named)
    return arrange_rows(root, found.rows, named, found.read)


def _open(path: str, named: Mapping[str, str]) -> Records:
    if path.lower().endswith(ARROW_ENDINGS):
        return open_arrow(path, named)
    return open_tfrecord(path, named) if is_tfrecord(path) else open_arrays(path, named)


def _find_files(root: str) -> list[tuple[str, str, str | None]]:
    """Return what stands before the keys of each file, its path, and its split if that is known."""
    if not os.path.isdir(root):
        return [("", root, None)]
    if os.path.exists(os.path.join(root, _SPLITS)):
        folders = [name for name in _names_in(root) if os.path.isdir(os.path.join(root, name))]
        unknown = [name for name in folders if name.lower() not in SPLIT_OF]
        if unknown or not folders:
            raise SourceError(
                f"{quoted(root)}: found {listed(unknown, 'split')}; expected some of "
                f"{', '.join(SPLIT_OF)}; name one of the folders in it"
            )
        return [
            (f"{name}/{at}", path, SPLITS[SPLIT_OF[name.lower()]])
            for name in folders
            for at, path, _ in _find_files(os.path.join(root, name))
        ]
    if os.path.exists(os.path.join(root, _STATE)):
        named = [name for name in _names_in(root) if name.endswith(ARROW_ENDINGS[0])]
        splits: list[str | None] = [None] * len(named)
    else:
        named = _files_in(root)
        splits = [_split_in(name) for name in named]
    if len({split is None for split in splits}) != 1:
        lacking = listed((n for n, split in zip(named, splits, strict=True) if not split), "file")
        raise SourceError(
            f"{quoted(root)}: found {lacking} without a split in the name; expected one or more, "
            "and a split in the names of all or none; move them"
        )
    several = len(named) > 1
    return [
        (f"{name}/" if several else "", os.path.join(root, name), split)
        for name, split in zip(named, splits, strict=True)
    ]


def _names_in(folder: str) -> list[str]:
    """Return what is in a folder, sorted, without what systems leave behind."""
    return sorted(name for name in os.listdir(folder) if not is_system_file(name))


def _holds_files(root: str, names: list[str], columns: str) -> bool:
    """Whether a folder is one of such files; images may have a table in Parquet beside them."""
    if any(map(is_tfrecord, names)):
        return True
    columnar = [name for name in names if name.lower().endswith(ARROW_ENDINGS)]
    if not columnar or _others_in(root, names):
        return False
    first = os.path.join(root, columnar[0])
    return first.lower().endswith(".arrow") or holds_images(first, parse_columns(columns))


def _files_in(root: str) -> list[str]:
    """Return the files of a folder that hold images; there are no images beside."""
    names = _names_in(root)
    if others := _others_in(root, names):
        raise SourceError(
            f"{quoted(root)}: found {listed(others, 'image or folder')} beside TFRecord files; "
            "expected only the one or the other; move them apart"
        )
    return [name for name in names if is_tfrecord(name)] or [
        name for name in names if name.lower().endswith(ARROW_ENDINGS)
    ]


def _others_in(root: str, names: Iterable[str]) -> list[str]:
    """Return the images and folders among the names in a folder."""
    return [
        name
        for name in names
        if name.lower().endswith(IMAGE_ENDINGS) or os.path.isdir(os.path.join(root, name))
    ]


def _split_in(name: str) -> str | None:
    """Return the split that a word of a file's name says, as in ``flowers-train.tfrecord``."""
    words = [SPLIT_OF[word] for word in re.split(r"[-._]", name.lower()) if word in SPLIT_OF]
    return SPLITS[words[0]] if words else None
