"""SOURCE -> a sorted list of items: every picture with its key, label and split.

SOURCE is one picture, a flat folder of pictures without labels, a folder of class folders, or a
folder of split folders over class folders. Whatever could be read in two ways is an error.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from extract.errors import ImageError, SourceError

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = ("train training", "validation val valid", "test testing")
_SPLIT_OF = {word: split for split, words in enumerate(_SPLIT_WORDS) for word in words.split()}

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
    *(".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
)
# A BMP is known by the size of its second header: two letters start many a text.
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<BMP>BM.{12}[\x0c(48@l|]\0\0\0)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<WebP>RIFF.{4}WEBPVP8[ LX])|(?P<TIFF>II[*+]\0|MM\0[*+])",
    re.DOTALL,
)
PICTURE_KINDS = tuple(_SIGNATURE.groupindex)
# Left behind by Windows, macOS and Python: nobody wants to hear of them.
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx", "__pycache__")

_Place = tuple[str, str]  # (split folder or "" where there are none, class or "" for no label)
_Groups = Mapping[_Place, list[str]]  # the keys of the pictures at each place
_Named = list[tuple[str, str]]  # (key, path) of each; a folder's key ends with a slash


class Item(NamedTuple):
    """One picture: ``label`` indexes the class names (-1: none), ``split`` indexes ``SPLITS``."""

    key: str
    path: str
    label: int
    split: int
    group: str = ""


@dataclass(frozen=True)
class Source:
    """What SOURCE holds: items sorted by key, their classes, and what is odd about it."""

    items: tuple[Item, ...]
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]
    root: str


def list_source(source: str | os.PathLike[str]) -> Source:
    """List the pictures of ``source``; only files with other endings are opened, for 32 bytes.

    Raises:
        SourceError: ``source`` or a folder in it cannot be read, it holds no pictures, its layout
            has two meanings, or two of its names become one key.
    """
    root = os.fspath(source)
    try:
        mode = os.stat(root).st_mode
        if stat.S_ISDIR(mode):
            return _list_folder(root)
        if stat.S_ISREG(mode) and _is_picture(root):
            return Source((Item(_to_utf8(os.path.basename(root)), root, -1, 0),), (), (), root)
        found = "found a file that is no picture (an archive must be unpacked first)"
    except OSError as error:
        found = f"cannot be opened: {error.strerror}"
    raise SourceError(f"{_show(root)}: {found}; expected a folder of pictures or one picture")


def read_item(item: Item) -> bytes:
    """Return the whole file of ``item``.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        with open(item.path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror}") from error


def picture_kind(head: bytes) -> str | None:
    """Name the kind of picture that a file's first 32 bytes begin, one of ``PICTURE_KINDS``."""
    match = _SIGNATURE.match(head)
    return match.lastgroup if match else None


def _is_picture(path: str) -> bool:
    if path.lower().endswith(IMAGE_ENDINGS):
        return True
    with open(path, "rb", buffering=0) as file:
        return picture_kind(file.read(32)) is not None


def _list_folder(root: str) -> Source:
    found = _walk(root)
    pictures = _sorted_unique(root, found["picture"])
    if not pictures:
        others = [key for key, _ in found["other"] + found["closed"]]
        raise SourceError(
            f"{_show(root)}: found no picture among {_few(others, 'file')}; expected .jpg, .png "
            "and the like, alone or in a folder for each class"
        )
    folders = _sorted_unique(root, found["folder"])
    split_of = _split_folders(root, _group(pictures, {}))
    groups = _group(pictures, split_of)
    _check_alone(root, groups)
    class_names = tuple(sorted({name for _, name in groups if name}))
    label_of = {"": -1} | {name: label for label, name in enumerate(class_names)}
    items = []
    for key, path in pictures:
        section, name = _place(key, split_of)
        items.append(Item(key, path, label_of[name], split_of.get(section, 0)))
    oddities = list(_about_classes(folders, split_of, groups))
    for kind, why in (("other", "no pictures"), ("closed", "they cannot be opened")):
        if found[kind]:
            oddities.append(f"passed over {_few((k for k, _ in found[kind]), 'file')}: {why}")
    warnings = tuple(f"{_show(root)}: {oddity}" for oddity in oddities)
    return Source(tuple(items), class_names, warnings, root)


def _walk(root: str) -> dict[str, _Named]:
    """Return all under ``root`` by kind, in no order; not recursive, as a tree may be deep."""
    found: dict[str, _Named] = {kind: [] for kind in ("picture", "folder", "other", "closed")}
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link that leads back up: all behind it is listed already
                continue
            with os.scandir(folder) as entries:
                kinds = [(entry, _kind(entry)) for entry in entries if not _hidden(entry.name)]
        except OSError as error:
            # No warning would do: a class might be missing from all that follows.
            raise SourceError(
                f"{_show(folder)}: cannot be read: {error.strerror}; expected to look into every "
                "folder; allow that, or move it out of SOURCE"
            ) from error
        found["folder"].append((prefix, folder))
        for entry, kind in kinds:
            key = prefix + _to_utf8(entry.name)
            if kind == "folder":
                pending.append((entry.path, f"{key}/", above | {identity}))
            else:
                found[kind].append((key, entry.path))
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _kind(entry: os.DirEntry[str]) -> str:
    """Return folder, picture, closed (it cannot be looked at) or other.

    The listing itself tells the type, so that only links cost a system call.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "picture" if _is_picture(entry.path) else "other"
        entry.stat()  # raises for a link to nothing
    except OSError:
        # Under a picture's name it becomes a row that fails; otherwise it can only be named.
        return "picture" if entry.name.lower().endswith(IMAGE_ENDINGS) else "closed"
    return "other"  # a fifo, a socket or a device, whatever it is called


def _to_utf8(name: str) -> str:
    """Return ``name`` with each byte that is not UTF-8 as a backslash escape."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _sorted_unique(root: str, named: _Named) -> _Named:
    named = sorted(named)
    for (key, path), (next_key, next_path) in pairwise(named):
        if key == next_key:
            raise SourceError(
                f"{_show(root)}: found {path!r} and {next_path!r}, which are both "
                f"{_show(key)} in UTF-8; expected names that stay apart; rename one"
            )
    return named


def _place(key: str, split_of: Mapping[str, int]) -> _Place:
    """Return the place of a picture's key, or of a folder's where that ends with a slash."""
    section, _, rest = key.partition("/") if split_of else ("", "", key)
    name, slash, _ = rest.partition("/")
    return section, name if slash else ""


def _group(named: _Named, split_of: Mapping[str, int]) -> _Groups:
    groups: dict[_Place, list[str]] = {}
    for key, _ in named:
        groups.setdefault(_place(key, split_of), []).append(key)
    return groups


def _split_folders(root: str, groups: _Groups) -> dict[str, int]:
    """Return the split of each top-level folder, or nothing where they are classes."""
    sizes = {top: f"{top}: {len(keys):,}" for (_, top), keys in groups.items()}
    split_of = {top: _SPLIT_OF[top.lower()] for top in sizes if top.lower() in _SPLIT_OF}
    if not split_of or "" in sizes:  # loose pictures are _check_alone's business
        return {}
    splits = [sizes[top] for top in split_of]
    others = [size for top, size in sizes.items() if top not in split_of]
    if others or len(set(split_of.values())) < len(splits):
        raise SourceError(
            f"{_show(root)}: found {_few(splits, 'split folder', 7)} and "
            f"{_few(others, 'other folder')} with pictures; expected one folder for each split "
            "and no others, or only classes; merge them, move them or rename the class"
        )
    return split_of


def _check_alone(root: str, groups: _Groups) -> None:
    """Raise SourceError where pictures lie beside folders with pictures."""
    for section in sorted({at for at, name in groups if not name}):
        sizes = [f"{n}: {len(keys):,}" for (at, n), keys in groups.items() if n and at == section]
        if sizes:
            loose = _few(groups[section, ""], "picture")
            raise SourceError(
                f"{_show(os.path.join(root, section))}: found {loose} beside "
                f"{_few(sizes, 'folder')} with pictures; expected only the one or the other; "
                "move those pictures into the folders, or away"
            )


def _about_classes(folders: _Named, split_of: Mapping[str, int], groups: _Groups) -> Iterator[str]:
    """Say what is odd about splits and classes, though it has one meaning."""
    names_at: dict[str, set[str]] = {}
    for section, name in groups:
        if name:  # a split without labels lacks no class
            names_at.setdefault(section, set()).add(name)
    class_names = set().union(*names_at.values())
    places = {_place(key, split_of) for key, _ in folders}
    empty = {at for at, _ in places if at not in split_of and at.lower() in _SPLIT_OF}
    known = {"", *class_names}
    empty |= {f"{at}/{name}" for at, name in places if at in names_at and name not in known}
    if empty:
        named = _few((key.lstrip("/") for key in empty), "split or class folder", 10)
        yield f"found no pictures in {named}; expected some, or no such folder"
    for section, names in sorted(names_at.items()):
        if names != class_names:
            lacking = _few(class_names - names, "class name", 10)
            yield f"found no pictures of {lacking} in {section}; expected each class in each split"
    if len(class_names) == 1:
        yield (
            f"found one class, {_show(*class_names)}; expected two or more; SOURCE should be the "
            "folder right above the class folders"
        )


def _few(names: Iterable[str], noun: str, most: int = 3) -> str:
    """Return how many ``names`` there are, and the first of them."""
    shown = sorted(map(_show, names))
    first = ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
    return f"{len(shown):,} {noun}{'s' * (len(shown) != 1)}" + (f" ({first})" if shown else "")


def _show(name: str) -> str:
    """Return ``name`` fit for a message of one line."""
    return name if name.isprintable() else repr(name)
