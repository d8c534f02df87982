"""The files and folders below a source -> its images with their classes, splits and groups."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise
from operator import itemgetter
from os.path import splitext

from extract.core.errors import SourceError, count_of, listed, quoted
from extract.images.entries import Entry, Kind, kind_by_ending
from extract.images.item import Item, Read, Source, read_file
from extract.images.kinds import unread_kind
from extract.layouts.class_names import describe_forms, order_names, to_nfc, warn_of_lookalikes
from extract.layouts.doubts import (
    check_nested,
    check_parts,
    warn_of_labels_elsewhere,
    warn_of_masks,
    warn_of_subfolders,
)
from extract.layouts.folder_levels import Place, read_levels, unlabelled_sections
from extract.layouts.split_folders import Folder, split_in

# Files that may hold images; only their folder was given.
_CONTAINERS = (".zip", ".tar", ".gz", ".tgz", ".npz", ".npy", ".h5", ".hdf5", ".csv", ".jsonl")
# What predict-images --sort writes: its list, and the folder of images whose score was too low.
_SORTED, _UNSURE = "sorted.csv", "unlabelled"
_NOT_SURE = f"{_UNSURE} is no class: predict-images --sort had no label for these images"
Named = Mapping[str, str]  # the columns or levels that the user has named, by role


def arrange_folder(
    root: str,
    entries: Iterable[Entry],
    read: Read = read_file,
    skip: int = 0,
    named: Named | None = None,
) -> Source:
    """Derive classes and splits from the keys of entries.

    Args:
        root: The source, for messages.
        entries: The files and folders below it.
        read: Reads the path of an image.
        skip: Number of folders at the start of each image's key that have no meaning.
        named: The levels of folders that the user has named, by role.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There are no images, their layout has two meanings, two have one key, or a
            class has only images of a kind that is not read.
    """
    entries = sorted(entries, key=itemgetter(0, 1))
    by_kind = {kind: [e for e in entries if e.kind is kind] for kind in Kind}
    images, unread = by_kind[Kind.IMAGE], [*by_kind[Kind.UNREAD], *_links_to_images(by_kind)]
    _check_any(root, by_kind)
    _check_keys(root, images + by_kind[Kind.FOLDER])
    layout = read_levels(root, _by_folder(images + unread, skip), named or {})
    places = [layout.places[_folder_of(image.key, skip)] for image in images]
    lost = [layout.places[_folder_of(entry.key, skip)] for entry in unread]
    _check_vanished(root, places, lost, unread)
    bare = unlabelled_sections(places)
    warnings = [_explain_unlabelled(name, places) for name in sorted(bare)]
    places = [p._replace(name="") if p.section in bare else p for p in places]
    if any(entry.key == _SORTED for entry in by_kind[Kind.OTHER]):
        warnings += [_NOT_SURE] * any(place.name == _UNSURE for place in places)
        places = [p._replace(name="") if p.name == _UNSURE else p for p in places]
    pairs = zip(images, places, strict=True)
    rows = [(Item(e.key, e.path, -1, p.split, p.group, read), p.name) for e, p in pairs]
    class_names = {place.name for place in places} - {""}
    if not named:
        inside = [layout.inside[_folder_of(image.key, skip)] for image in images]
        check_nested(root, inside)
        warnings += check_parts(root, class_names, layout.level)
        warnings += warn_of_subfolders(inside, layout.level)
    warnings += check_classes((place.section, place.name) for place in places)
    warnings += _warn_of_files(by_kind, class_names)
    pattern = layout.pattern if class_names else layout.pattern.removesuffix("CLASS").rstrip("/")
    return number_classes(root, rows, warnings, [f"read as {pattern}"] * bool(pattern))


def number_classes(
    root: str, rows: Sequence[tuple[Item, str]], warnings: Iterable[str], notes: Iterable[str] = ()
) -> Source:
    """Return a source of items in order, each with its class name, "" for no label."""
    sizes = Counter(name for _, name in rows if name)
    class_names = order_names(map(to_nfc, sizes))
    number_of = {name: label for label, name in enumerate(class_names)}
    label_of = {"": -1} | {name: number_of[to_nfc(name)] for name in sizes}
    items = tuple(item._replace(label=label_of[name]) for item, name in rows)
    totals = Counter[str]()
    for name, size in sizes.items():
        totals[to_nfc(name)] += size
    warnings = [*describe_forms(sizes), *warn_of_lookalikes(totals), *warnings]
    said = tuple(f"{quoted(root)}: {warning}" for warning in warnings)
    return Source(items, class_names, said, root, tuple(notes))


def check_classes(places: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Warn of classes that are missing in a split with labels, and of a single class.

    Args:
        places: Split and class of each image.
    """
    labelled = {(section, to_nfc(name)) for section, name in places if name}
    class_names = {name for _, name in labelled}
    for section in sorted({section for section, _ in labelled}):
        if missing := [name for name in class_names if (section, name) not in labelled]:
            classes = listed(missing, "class name", 10)
            yield f"found no images of {classes} in {section}; expected each class in each split"
    if len(class_names) == 1:
        yield f"found one class, {quoted(*class_names)}; expected two or more"


def _by_folder(entries: Iterable[Entry], skip: int) -> dict[Folder, list[str]]:
    """Return the keys of the entries in each folder."""
    keys = defaultdict[Folder, list[str]](list)
    for key in sorted(entry.key for entry in entries):
        keys[_folder_of(key, skip)].append(key)
    return keys


def _folder_of(key: str, skip: int) -> Folder:
    return tuple(key.split("/")[skip:-1])


def _files(entries: Iterable[Entry]) -> str:
    return listed((entry.key for entry in entries), "file")


def _links_to_images(by_kind: Mapping[Kind, Sequence[Entry]]) -> list[Entry]:
    return [e for e in by_kind[Kind.UNREADABLE] if kind_by_ending(e.key) is Kind.IMAGE]


def _check_any(root: str, by_kind: Mapping[Kind, Sequence[Entry]]) -> None:
    """Raise SourceError where there are no images."""
    if by_kind[Kind.IMAGE]:
        return
    if unread := by_kind[Kind.UNREAD]:
        problem = f"found no image that can be read, but {describe_unread(unread)}"
        raise SourceError(f"{quoted(root)}: {problem}")
    others = [*by_kind[Kind.OTHER], *by_kind[Kind.UNREADABLE]]
    found = f"found no image among {_files(others)}" if others else "found no file"
    remedy = "name the folder of the images"
    if any(entry.key.lower().endswith(_CONTAINERS) for entry in others):
        remedy += ", or one of these files as SOURCE"
    raise SourceError(f"{quoted(root)}: {found}; expected .jpg, .png or other images; {remedy}")


def _check_keys(root: str, entries: Iterable[Entry]) -> None:
    for entry, following in pairwise(entries):
        if entry.key == following.key:
            problem = f"{entry.path!r} and {following.path!r} are both {quoted(entry.key)} in UTF-8"
            raise SourceError(f"{quoted(root)}: {problem}; rename one")


def describe_unread(entries: Iterable[Entry]) -> str:
    """Count and name images of kinds that are not read, and say what to do."""
    by_kind = defaultdict[str, list[str]](list)
    for entry in entries:
        by_kind[unread_kind(entry.key) or "other"].append(entry.key)
    found = " and ".join(listed(keys, f"{kind} image") for kind, keys in sorted(by_kind.items()))
    install = ' (or pip install "headstart[heic]")' if "HEIC" in by_kind else ""
    return f"{found}, a kind that is not read; convert them to JPEG or PNG{install}"


def _check_vanished(
    root: str, places: Iterable[Place], lost: Sequence[Place], unread: Sequence[Entry]
) -> None:
    """Raise SourceError for a class that only has images of a kind that is not read."""
    kept = {(place.section, place.name) for place in places}
    gone = {(place.section, place.name) for place in lost if place.name} - kept
    if gone:
        names = listed((f"{s}/{name}".lstrip("/") for s, name in gone), "class")
        entries = [e for e, p in zip(unread, lost, strict=True) if (p.section, p.name) in gone]
        links = [entry.key for entry in entries if entry.kind is Kind.UNREADABLE]
        found = describe_unread([e for e in entries if e.kind is not Kind.UNREADABLE])
        if links:
            found = (
                f"{listed(links, 'link')}, which cannot be opened; put the images in their place"
            )
        problem = f"{names} would vanish: found only {found}, or move the folder out of SOURCE"
        raise SourceError(f"{quoted(root)}: {problem}")


def _warn_of_files(by_kind: Mapping[Kind, Sequence[Entry]], class_names: Set[str]) -> Iterator[str]:
    """Warn of labels in other files, of masks, of empty folders and of what is passed over."""
    keys = [image.key for image in by_kind[Kind.IMAGE]]
    if len(class_names) < 2:
        yield from warn_of_labels_elsewhere(keys, [entry.key for entry in by_kind[Kind.OTHER]])
    yield from warn_of_masks(keys)
    yield from _empty_folders(by_kind[Kind.FOLDER], keys, class_names)
    if unread := by_kind[Kind.UNREAD]:
        yield f"passed over {describe_unread(unread)}"
    if others := by_kind[Kind.OTHER]:
        endings = Counter(splitext(entry.key)[1].lower() or "no ending" for entry in others)
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5))
        yield f"passed over {_files(others)}: no images" + f" ({kinds})" * (len(endings) > 1)
    if unreadable := by_kind[Kind.UNREADABLE]:
        yield f"passed over {_files(unreadable)}: they cannot be opened"


def _explain_unlabelled(section: str, places: Iterable[Place]) -> str:
    inside = [place.name for place in places if place.section == section]
    where = quoted(f"{section}/{inside[0]}" if section else inside[0])
    found = f"found {count_of(len(inside), 'image')} in one folder, {where}, which names no class"
    return f"{found}; they are read as images without a label"


def _empty_folders(
    folders: Iterable[Entry], keys: Iterable[str], class_names: Set[str]
) -> Iterator[str]:
    """Warn of folders without images that have the name of a split, or lie beside class folders."""
    used = {key[: match.end()] for key in keys for match in re.finditer("/", key)}
    parents = {_split_key(folder)[0] for folder in used if _split_key(folder)[1] in class_names}
    empty = set()
    for folder in {folder.key for folder in folders} - used - {""}:
        parent, name = _split_key(folder)
        beside = parent in parents and name not in class_names
        if beside or (split_in(name) and parent == ""):
            empty.add(folder.rstrip("/"))
    if empty:
        yield f"found no images in {listed(empty, 'split or class folder', 10)}; expected some"


def _split_key(folder: str) -> tuple[str, str]:
    """Return the folder above, with a slash at its end, and the name of a folder."""
    above, slash, name = folder.rstrip("/").rpartition("/")
    return above + slash, name
