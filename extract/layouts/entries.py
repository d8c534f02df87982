"""The files and folders below a source."""

import os
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from extract.core.errors import SourceError, quoted
from extract.images.item import to_utf8
from extract.images.kinds import IMAGE_ENDINGS, is_image, is_system_file

# An unreadable file is one whose type cannot be read, such as a link to nothing.
Kind = Enum("Kind", "IMAGE FOLDER OTHER UNREADABLE")


class Entry(NamedTuple):
    """A file or folder below a source; the key of a folder ends with a slash."""

    key: str
    path: str
    kind: Kind


def kind_by_ending(name: str, otherwise: Kind = Kind.OTHER) -> Kind:
    """Return the kind of a file by its name alone."""
    return Kind.IMAGE if name.lower().endswith(IMAGE_ENDINGS) else otherwise


def walk(root: str, list_folder: Callable[[str], Iterable[Entry]]) -> Iterator[Entry]:
    """Yield every entry below ``root``, without recursion, because a tree may be deep.

    Args:
        root: The path of the top folder.
        list_folder: Yields the entries of the folder at a path; their keys are relative to it and
            have no slash at the end.
    """
    pending = [Entry("", root, Kind.FOLDER)]
    while pending:
        folder = pending.pop()
        yield folder
        for name, path, kind in list_folder(folder.path):
            if kind is Kind.FOLDER:
                pending.append(Entry(f"{folder.key}{name}/", path, kind))
            else:
                yield Entry(folder.key + name, path, kind)


def list_local(above: dict[str, frozenset[str]], folder: str) -> Iterator[Entry]:
    """Yield the entries of a folder; ``above`` has the real paths of it and the folders around."""
    around = above.pop(folder)
    try:
        with os.scandir(folder) as scanned:
            entries = [(e, _kind(e)) for e in scanned if not is_system_file(e.name)]
    except OSError as error:
        # A warning would not do: the images of a class may be missing.
        problem = f"cannot be read: {error.strerror}; allow that, or move it out of SOURCE"
        raise SourceError(f"{quoted(folder)}: {problem}") from error
    for entry, kind in entries:
        if kind is Kind.FOLDER:
            above[entry.path] = around | {os.path.realpath(entry.path)}
            if above[entry.path] == around:  # a link to a folder around it, which is listed already
                continue
        yield Entry(to_utf8(entry.name), entry.path, kind)


def _kind(entry: os.DirEntry[str]) -> Kind:
    """Return the kind of an entry; only a link costs a system call."""
    try:
        if entry.is_dir():
            return Kind.FOLDER
        if entry.is_file():
            return Kind.IMAGE if is_image(entry.path) else Kind.OTHER
        entry.stat()  # fails for a link to nothing
    except OSError:
        # A file with the name of an image becomes a failed row; any other is only named.
        return kind_by_ending(entry.name, Kind.UNREADABLE)
    return Kind.OTHER  # a fifo, a socket or a device, even with the name of an image
