"""Files that hold their images row by row -> items: Arrow, Parquet, TFRecord, HDF5, NumPy."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.errors import ImageError, SourceError, listed, quoted
from extract.images.item import SPLIT_OF, SPLITS, reason_of
from extract.images.kinds import IMAGE_ENDINGS, is_system_file
from extract.images.unpack import refuse_pointer
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Records, Said
from extract.layouts.split_folders import split_in
from extract.limits.unpacked import read_json
from extract.sources.arrow import holds_images, open_arrow
from extract.sources.pixel_arrays import open_arrays
from extract.sources.tfrecord import is_tfrecord, name_classes, open_tfrecord

# Ending of a file of records -> function that opens it. A new format needs an entry here.
RECORD_FORMATS: Mapping[str, Callable[[str, Named], Records]] = {
    ".arrow": open_arrow,
    ".parquet": open_arrow,  # or a table, where it has paths instead of images
    ".tfrecord": open_tfrecord,
    **dict.fromkeys((".h5", ".hdf5", ".npy", ".npz"), open_arrays),
}
# Files of records that lie in folders; HDF5 and NumPy files are given one by one.
_FOLDER_FORMATS = (".arrow", ".parquet", ".tfrecord")
# Folders around the files of a data set repository: the configuration, and the split.
_DEEPEST = 2
# The library ``datasets`` writes the first file for one set, the second for several splits.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


class RecordFile(NamedTuple):
    """A file of records; ``prefix`` is of the keys of its images, ``split`` None where unknown."""

    prefix: str
    path: str
    split: str | None


class RecordSet:
    """The images of one or several files of records, by key; several threads may read it.

    A key is the name of the image in its record, where all have different names; otherwise the
    number of the row from 0, after the name of the file where there are several.

    Attributes:
        rows: The number of each row, counted through all files, and its cells as in ``ROLES``.
        said: What was understood of the columns.
    """

    def __init__(self, files: Sequence[RecordFile], named: Named) -> None:
        opened = []
        for file in files:
            refuse_pointer(file.path)
            opened.append(RECORD_FORMATS[record_ending(file.path)](file.path, named))
        self.said = _merge(records.said for records in opened if records.said)
        self.said.warnings.extend(_missing_files([file.path for file in files]))
        every = [row for records in opened for row in records.rows]
        names = [row[0] for row in every]
        has_names = all(names) and len(set(names)) == len(names)
        where = quoted(os.path.commonpath([file.path for file in files]))
        labels = iter(name_classes([row[1] for row in every], where))
        self.rows: list[tuple[int, list[Any]]] = []
        self._places: dict[str, tuple[Records, int]] = {}
        for file, records in zip(files, opened, strict=True):
            for row, (name, _, split, group) in enumerate(records.rows):
                key = name if has_names else f"{file.prefix}{row:09d}"
                cells = [key, next(labels), file.split or split, group]
                self.rows.append((len(self.rows), cells))
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


def _merge(said: Iterable[Said]) -> Said:
    """Return what is said of all files, each line once."""
    said = list(said)
    notes = dict.fromkeys(note for each in said for note in each.notes)
    warnings = dict.fromkeys(text for each in said for text in each.warnings)
    problem = next((each.problem for each in said if each.problem), "")
    return Said(list(notes), list(warnings), problem)


def _missing_files(paths: Iterable[str]) -> Iterator[str]:
    """Warn where files such as ``train-00000-of-00002`` are there in part."""
    counts = Counter(re.sub(r"-\d+(-of-\d+)", r"-*\1", os.path.basename(path)) for path in paths)
    for name, count in sorted(counts.items()):
        total = re.search(r"-\*-of-(\d+)", name)
        if total and count < int(total[1]):
            yield f"found {count} of the {int(total[1])} files {quoted(name)}; expected all"


def record_ending(path: str) -> str:
    """Return the ending of a file as in ``RECORD_FORMATS``."""
    ending = os.path.splitext(path)[1].lower()
    has_own = ending in RECORD_FORMATS and ending != ".tfrecord"
    return ".tfrecord" if not has_own and is_tfrecord(path) else ending


def find_records(root: str, named: Named) -> list[RecordFile]:
    """Return the files of records of a source, none where it is of another kind.

    Args:
        root: A file, a folder that the library ``datasets`` saved, or a folder of TFRecord, Arrow
            or Parquet files, which may lie in a folder of it, and there in folders of splits.
        named: The columns that the user has named, by role.

    Raises:
        SourceError: The splits of the files are unknown or incomplete, images lie beside them, or
            several folders have files of records.
    """
    if not os.path.isdir(root):
        return [RecordFile("", root, None)] if _holds_records(root, named) else []
    names, folders = _scan(root)
    if _SPLITS in names:
        return _saved_splits(root, folders)
    if _STATE in names:
        return _saved_files(root)
    if files := _files_in(root, names, folders, named):
        return _with_splits(root, [("", file) for file in files])
    if not folders or any(name.lower().endswith(IMAGE_ENDINGS) for name in names):
        return []
    below, others = _search_below(root, folders, named, _DEEPEST)
    if below and others:
        holders = {file.partition("/")[0] for _, file in below}
        problem = f"found {listed(holders, 'folder')} of files of records beside "
        problem += f"{listed(others, 'folder')} of images"
        raise SourceError(f"{quoted(root)}: {problem}; give one as SOURCE, or move it away")
    return _with_splits(root, below) if below else []


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """Return the names in a folder, and those of folders."""
    with suppress(OSError):  # the search for images reports it
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not is_system_file(entry.name)]
        names = sorted(entry.name for entry in entries)
        return names, sorted(entry.name for entry in entries if entry.is_dir())  # needs no stat
    return [], []


def _saved_splits(root: str, folders: Sequence[str]) -> list[RecordFile]:
    unknown = [name for name in folders if name.lower() not in SPLIT_OF]
    if unknown or not folders:
        problem = f"found {listed(unknown, 'split')}; expected some of {', '.join(SPLIT_OF)}"
        raise SourceError(f"{quoted(root)}: {problem}; name one of the folders in it")
    return [
        RecordFile(f"{name}/{file.prefix}", file.path, SPLITS[SPLIT_OF[name.lower()]])
        for name in folders
        for file in _saved_files(os.path.join(root, name))
    ]


def _saved_files(folder: str) -> list[RecordFile]:
    names = _listed_files(folder)
    if not names:
        raise SourceError(f"{quoted(folder)}: found no .arrow file; expected some beside {_STATE}")
    prefixes = [f"{name}/" * (len(names) > 1) for name in names]
    pairs = zip(prefixes, names, strict=True)
    return [RecordFile(prefix, os.path.join(folder, name), None) for prefix, name in pairs]


def _listed_files(folder: str) -> list[str]:
    """Return the files that belong to a saved set: others are caches, or of an earlier one."""
    names = [name for name in _scan(folder)[0] if name.endswith(".arrow")]
    try:
        listed_names = [e["filename"] for e in read_json(Path(folder, _STATE))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return names
    if lost := set(map(str, listed_names)) - set(names):
        problem = f"found no {listed(lost, 'file')} of those that {_STATE} names"
        raise SourceError(f"{quoted(folder)}: {problem}; save the set again")
    return sorted(listed_names)


def _search_below(
    root: str, folders: Sequence[str], named: Named, depth: int
) -> tuple[list[tuple[str, str]], list[str]]:
    """Search folders for files of records, each until its first image.

    Returns:
        The folders around each file that are no splits, with its path from ``root``; and the
        folders at the top that have images.
    """
    found, others = list[tuple[str, str]](), list[str]()
    for folder in folders:
        path = os.path.join(root, folder)
        if _has_image(path):
            others.append(folder)
            continue
        names, inner = _scan(path)
        files = [("", name) for name in _files_in(path, names, inner, named)]
        if not files and inner and depth:
            files, images = _search_below(path, inner, named, depth - 1)
            others += [folder] * bool(images)
        prefix = "" if _split_folder(folder) else f"{folder}/"
        found += [(prefix + around, f"{folder}/{file}") for around, file in files]
    return found, others


def _has_image(folder: str, depth: int = _DEEPEST) -> bool:
    """Whether there is an image in a folder, or in those in it."""
    names, inner = _scan(folder)
    if any(name.lower().endswith(IMAGE_ENDINGS) for name in names):
        return True
    return depth > 0 and any(_has_image(os.path.join(folder, each), depth - 1) for each in inner)


def _with_splits(root: str, files: Sequence[tuple[str, str]]) -> list[RecordFile]:
    """Return files with the splits of their names and folders.

    Args:
        root: The folder.
        files: The folders around each file that are no splits, and its path from ``root``.
    """
    sets = sorted({around for around, _ in files})
    if len(sets) > 1:
        problem = f"found files of records in {listed(sets, 'folder', 10)}"
        remedy = (
            "write one file with this column" if "=" in sets[0] else "give one of them as SOURCE"
        )
        raise SourceError(f"{quoted(root)}: {problem}; {remedy}")
    split_of = {file: _split_of(root, file) for _, file in files}
    without = [file for file, split in split_of.items() if split is None]
    if 0 < len(without) < len(split_of):
        problem = f"found {listed(without, 'file')} without a split in the name"
        raise SourceError(f"{quoted(root)}: {problem}; expected it in the names of all or none")
    slash = "/" if len(split_of) > 1 else None
    prefixes = {file: file + slash if slash else "" for file in split_of}
    return [RecordFile(prefixes[f], os.path.join(root, f), split) for f, split in split_of.items()]


def _files_in(root: str, names: Sequence[str], folders: Sequence[str], named: Named) -> list[str]:
    """Return the names of the files of records in a folder, unless it is a folder of images."""
    images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
    by_ending: dict[str, list[str]] = {}
    for name in sorted({*names} - {*folders} - {*images}):
        if (ending := record_ending(os.path.join(root, name))) in _FOLDER_FORMATS:
            by_ending.setdefault(ending, []).append(name)
    if files := by_ending.pop(".tfrecord", []):
        if others := [*images, *folders]:
            problem = f"found {listed(others, 'image or folder')} beside TFRecord files"
            raise SourceError(f"{quoted(root)}: {problem}; move them apart")
        return files
    if images or not by_ending or any(_has_image(os.path.join(root, name)) for name in folders):
        return []
    holders = (f for f in by_ending.values() if _holds_records(os.path.join(root, f[0]), named))
    return next(holders, [])


def _holds_records(path: str, named: Named) -> bool:
    ending = record_ending(path)
    if ending in RECORD_FORMATS and os.path.isfile(path):
        refuse_pointer(path)
    if ending == ".parquet":
        return os.path.isfile(path) and holds_images(path, named)
    return ending in RECORD_FORMATS


def _split_of(root: str, path: str) -> str | None:
    """Return the split in the name of a file, such as ``flowers-train.tfrecord``, or its folders.

    The last word of the name that is a split decides, because the first are the name of the set.
    """
    *folders, name = path.split("/")
    words = re.split(r"[-._]", os.path.splitext(name)[0])
    found = [split_name for word in words if (split_name := split_in(word))]
    splits = [SPLITS[each.split] for each in found if not each.weak and each.is_plain][-1:]
    splits += [split for folder in folders if (split := _split_folder(folder))]
    if len(set(splits)) > 1:
        problem = f"found {quoted(path)}, which names two splits; expected one"
        raise SourceError(f"{quoted(root)}: {problem}; rename it")
    return splits[0] if splits else None


def _split_folder(name: str) -> str | None:
    """Return the split that a folder of files of records is called, as Spark's train.parquet."""
    stem, ending = os.path.splitext(name.lower())
    word = stem if ending in RECORD_FORMATS else name.lower()
    return SPLITS[SPLIT_OF[word]] if word in SPLIT_OF else None
