"""Files that hold their images row by row -> items: Arrow, Parquet, TFRecord, HDF5, NumPy."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from extract.core.errors import ImageError, SourceError, listed, quoted
from extract.images.item import SPLIT_OF, SPLITS, reason_of
from extract.images.kinds import IMAGE_ENDINGS, is_system_file
from extract.layouts.image_table import Named, Records
from extract.sources.arrow import holds_images, open_arrow
from extract.sources.pixel_arrays import open_arrays
from extract.sources.tfrecord import is_tfrecord, open_tfrecord

# Ending of a file of records -> function that opens it. A new format needs an entry here.
RECORD_FORMATS: Mapping[str, Callable[[str, Named], Records]] = {
    ".arrow": open_arrow,
    ".parquet": open_arrow,  # or a table, where it has paths instead of images
    ".tfrecord": open_tfrecord,
    **dict.fromkeys((".h5", ".hdf5", ".npy", ".npz"), open_arrays),
}
# The library ``datasets`` writes the first file for one set, the second for several splits.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


RecordFile = tuple[str, str, str | None]  # (prefix of its keys, path, split or None)


class RecordSet:
    """The images of one or several files of records, by key; several threads may read it.

    A key is the name of the image in its record, where all have different names; otherwise the
    number of the row from 0, after the name of the file where there are several.

    Attributes:
        rows: The number of each row, counted through all files, and its cells as in ``ROLES``.
    """

    def __init__(self, files: Sequence[RecordFile], named: Named) -> None:
        opened = [RECORD_FORMATS[record_ending(path)](path, named) for _, path, _ in files]
        names = [row[0] for records in opened for row in records.rows]
        has_names = all(names) and len(set(names)) == len(names)
        self.rows: list[tuple[int, list[Any]]] = []
        self._places: dict[str, tuple[Records, int]] = {}
        for (prefix, _, file_split), records in zip(files, opened, strict=True):
            for row, (name, label, split, group) in enumerate(records.rows):
                key = name if has_names else f"{prefix}{row:09d}"
                self.rows.append((len(self.rows), [key, label, file_split or split, group]))
                self._places[key] = records, row

    def read(self, key: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            ImageError: No image has this key, or the image cannot be read.
        """
        if key not in self._places:
            raise ImageError("is not among the records")
        records, row = self._places[key]
        try:
            return records.read(row)
        except ImageError:
            raise
        except Exception as error:  # a damaged file makes a library raise errors of many classes
            raise ImageError(f"cannot be read: {reason_of(error, 80)}") from error


def record_ending(path: str) -> str:
    """Return the ending of a file as in ``RECORD_FORMATS``."""
    return ".tfrecord" if is_tfrecord(path) else os.path.splitext(path)[1].lower()


def find_records(root: str, named: Named, saved: bool = False) -> list[RecordFile]:
    """Return the files of records of a source, none where it is of another kind.

    Args:
        root: A file, a folder that the library ``datasets`` saved, or a folder of TFRecord, Arrow
            or Parquet files.
        named: The columns that the user has named, by role.
        saved: Whether ``root`` is one split of a folder that ``datasets`` saved.

    Raises:
        SourceError: The splits of the files are unknown or incomplete, or images lie beside them.
    """
    if not os.path.isdir(root):
        return [("", root, None)] if _holds_records(root, named) else []
    names, folders = list[str](), list[str]()
    with suppress(OSError):  # the search for images reports it
        entries = [entry for entry in os.scandir(root) if not is_system_file(entry.name)]
        names = sorted(entry.name for entry in entries)
        folders = sorted(entry.name for entry in entries if entry.is_dir())  # needs no stat
    if _SPLITS in names:
        unknown = [name for name in folders if name.lower() not in SPLIT_OF]
        if unknown or not folders:
            problem = f"found {listed(unknown, 'split')}; expected some of {', '.join(SPLIT_OF)}"
            raise SourceError(f"{quoted(root)}: {problem}; name one of the folders in it")
        return [
            (f"{name}/{prefix}", path, SPLITS[SPLIT_OF[name.lower()]])
            for name in folders
            for prefix, path, _ in find_records(os.path.join(root, name), named, saved=True)
        ]
    if saved or _STATE in names:
        split_of = dict.fromkeys(name for name in names if name.endswith(".arrow"))
    elif files := _files_in(root, names, folders, named):
        split_of = {name: _split_in(name) for name in files}
    else:
        return []
    without = [name for name, split in split_of.items() if split is None]
    if not split_of or 0 < len(without) < len(split_of):
        problem = f"found {listed(without, 'file')} without a split in the name"
        raise SourceError(f"{quoted(root)}: {problem}; expected it in the names of all or none")
    return [
        (f"{name}/" if len(split_of) > 1 else "", os.path.join(root, name), split)
        for name, split in split_of.items()
    ]


def _files_in(root: str, names: Sequence[str], folders: Sequence[str], named: Named) -> list[str]:
    """Return the names of the files of records in a folder, unless it is a folder of images."""
    others = [name for name in names if name in folders or name.lower().endswith(IMAGE_ENDINGS)]
    if files := [name for name in names if is_tfrecord(name)]:
        if others:
            problem = f"found {listed(others, 'image or folder')} beside TFRecord files"
            raise SourceError(f"{quoted(root)}: {problem}; move them apart")
        return files
    files = [name for name in names if record_ending(name) in (".arrow", ".parquet")]
    is_set = files and not others and _holds_records(os.path.join(root, files[0]), named)
    return files if is_set else []


def _holds_records(path: str, named: Named) -> bool:
    if path.lower().endswith(".parquet"):
        return os.path.isfile(path) and holds_images(path, named)
    return record_ending(path) in RECORD_FORMATS


def _split_in(name: str) -> str | None:
    """Return the first split in the words of a file name, such as ``flowers-train.tfrecord``."""
    words = re.split(r"[-._]", name.lower())
    return next((SPLITS[SPLIT_OF[word]] for word in words if word in SPLIT_OF), None)
