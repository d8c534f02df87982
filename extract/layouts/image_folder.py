"""Folder names -> classes and splits; a layout with two meanings is an error."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter

from extract.core.errors import SourceError, listed, quoted
from extract.images.item import SPLIT_OF, Item, Read, Source, read_file
from extract.layouts.entries import Entry, Kind

_Place = tuple[str, str]  # (split folder, "" without splits; class, "" without a label)


def arrange_folder(
    root: str, entries: Iterable[Entry], read: Read = read_file, skip: int = 0
) -> Source:
    """Derive classes and splits from the keys of entries.

    Args:
        root: The source, for messages.
        entries: The files and folders below it; other and unreadable files cause a warning.
        read: Reads the path of an image.
        skip: Number of folders at the start of each image's key that have no meaning.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There are no images, their layout has two meanings, or two have one key.
    """
    entries = sorted(entries, key=itemgetter(0, 1))
    images, folders, others, unreadable = ([e for e in entries if e.kind is kind] for kind in Kind)
    if not images:
        problem = f"found no image among {_files(others + unreadable)}"
        raise SourceError(f"{quoted(root)}: {problem}; expected .jpg, .png and the like")
    for entry, following in pairwise(images + folders):
        if entry.key == following.key:
            problem = f"{entry.path!r} and {following.path!r} are both {quoted(entry.key)} in UTF-8"
            raise SourceError(f"{quoted(root)}: {problem}; rename one")
    keys = [image.key for image in images]
    split_of = _split_folders(root, Counter(_place(key, {}, skip)[1] for key in keys))
    places = [_place(key, split_of, skip) for key in keys]
    _check_loose_images(root, keys, places)
    rows = [
        (Item(image.key, image.path, -1, split_of.get(section, 0), "", read), name)
        for image, (section, name) in zip(images, places, strict=True)
    ]
    warnings = [*_empty_folders(folders, split_of, places), *check_classes(places)]
    passed_over = ((others, "no images"), (unreadable, "they cannot be opened"))
    warnings += [f"passed over {_files(entries)}: {why}" for entries, why in passed_over if entries]
    return number_classes(root, rows, warnings)


def number_classes(root: str, rows: Sequence[tuple[Item, str]], warnings: Iterable[str]) -> Source:
    """Return a source of items in order, each with its class name, "" for no label."""
    class_names = tuple(sorted({name for _, name in rows} - {""}))
    label_of = {"": -1} | {name: label for label, name in enumerate(class_names)}
    items = tuple(item._replace(label=label_of[name]) for item, name in rows)
    return Source(items, class_names, tuple(f"{quoted(root)}: {w}" for w in warnings), root)


def check_classes(places: Iterable[_Place]) -> Iterator[str]:
    """Warn of classes that are missing in a split with labels, and of a single class."""
    labelled = {place for place in places if place[1]}
    class_names = {name for _, name in labelled}
    for section in sorted({section for section, _ in labelled}):
        if missing := [name for name in class_names if (section, name) not in labelled]:
            classes = listed(missing, "class name", 10)
            yield f"found no images of {classes} in {section}; expected each class in each split"
    if len(class_names) == 1:
        yield f"found one class, {quoted(*class_names)}; expected two or more; name their folder"


def _files(entries: Iterable[Entry]) -> str:
    return listed((entry.key for entry in entries), "file")


def _place(key: str, split_of: Mapping[str, int], skip: int = 0) -> _Place:
    """Return the place of an image, or of a folder, whose key ends with a slash."""
    parts = key.split("/")[skip:]
    section = parts.pop(0) if split_of else ""
    return section, parts[0] if len(parts) > 1 else ""


def _split_folders(root: str, tops: Mapping[str, int]) -> dict[str, int]:
    """Return the split of each top-level folder, or nothing where these folders are classes."""
    split_of = {top: SPLIT_OF[top.lower()] for top in tops if top.lower() in SPLIT_OF}
    if not split_of or "" in tops:  # _check_loose_images refuses images at the top
        return {}
    splits = [f"{top}: {tops[top]:,}" for top in split_of]
    others = [f"{top}: {count:,}" for top, count in tops.items() if top not in split_of]
    if others or len(set(split_of.values())) < len(splits):
        problem = f"{listed(splits, 'split folder', 7)} and {listed(others, 'other folder')}"
        expected = "expected one folder for each split and no others; merge or move them"
        raise SourceError(f"{quoted(root)}: found {problem} with images; {expected}")
    return split_of


def _check_loose_images(root: str, keys: Sequence[str], places: Sequence[_Place]) -> None:
    """Raise SourceError where images lie beside folders with images."""
    sizes = Counter(places)
    for section, name in sorted(sizes):
        folders = [f"{n}: {size:,}" for (at, n), size in sizes.items() if n and at == section]
        if folders and not name:
            loose = [key for key, place in zip(keys, places, strict=True) if place == (section, "")]
            problem = f"found {listed(loose, 'image')} beside {listed(folders, 'folder')}"
            expected = "expected only images or only folders; move the images into the folders"
            raise SourceError(f"{quoted(os.path.join(root, section))}: {problem}; {expected}")


def _empty_folders(
    folders: Iterable[Entry], split_of: Mapping[str, int], places: Iterable[_Place]
) -> Iterator[str]:
    """Warn of split and class folders without images."""
    names = {name for _, name in places}
    sections = {section for section, name in places if name}
    empty = set()
    for section, name in (_place(folder.key, split_of) for folder in folders):
        if section not in split_of and section.lower() in SPLIT_OF:
            empty.add(section)
        elif section in sections and name and name not in names:
            empty.add(f"{section}/{name}".lstrip("/"))
    if empty:
        yield f"found no images in {listed(empty, 'split or class folder', 10)}; expected some"
