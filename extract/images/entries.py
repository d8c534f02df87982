"""The files and folders below a source."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from extract.core.errors import SourceError, quoted
from extract.images.item import read_part, to_utf8
from extract.images.kinds import IMAGE_ENDINGS, image_kind, is_system_file, unread_kind
from extract.images.remote import attempt, call, explain, hide_secrets, without_query

# As many as the signature of a NIfTI file, or the header of a PPM with a comment, needs.
_HEAD_BYTES = 512
# Links to one folder, as of each fold to each class. Links in folders that links lead to multiply.
_MOST_LINKS = 32
# An unread file is an image of a kind that is not read; an unreadable one cannot be opened, such as
# a link to nothing.
Kind = Enum("Kind", "IMAGE FOLDER UNREAD OTHER UNREADABLE")


class Entry(NamedTuple):
    """A file or folder below a source; the key of a folder ends with a slash."""

    key: str
    path: str
    kind: Kind


def kind_by_ending(name: str, otherwise: Kind = Kind.OTHER) -> Kind:
    """Return the kind of a file by its name alone."""
    if name.lower().endswith(IMAGE_ENDINGS):
        return Kind.IMAGE
    return Kind.UNREAD if unread_kind(name) else otherwise


def kind_of_file(path: str) -> Kind:
    """Return the kind of a file by its ending, or else by its first bytes.

    The ending comes first, because most camera raw files are TIFF inside.
    """
    kind = kind_by_ending(path)
    if kind is not Kind.OTHER:
        return kind
    head = read_part(path, _HEAD_BYTES, 0)
    if image_kind(head):
        return Kind.IMAGE
    return Kind.UNREAD if unread_kind("", head) else Kind.OTHER


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


def list_local(
    above: dict[str, frozenset[str]], times: Counter[str], folder: str
) -> Iterator[Entry]:
    """Yield the entries of a folder.

    Args:
        above: The real paths of each folder that is still to be listed and the folders around it.
        times: How often each real folder was met.
        folder: The folder.
    """
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
            real = os.path.realpath(entry.path)
            if real in around:  # a link to a folder around it, which is listed already
                continue
            above[entry.path] = around | {real}
            times[real] += 1
            if times[real] > _MOST_LINKS:
                problem = f"found more than {_MOST_LINKS} links to it; expected fewer"
                raise SourceError(f"{quoted(real)}: {problem}; remove some from SOURCE")
        yield Entry(to_utf8(entry.name), entry.path, kind)


def _kind(entry: os.DirEntry[str]) -> Kind:
    """Return the kind of an entry; only a link costs a system call."""
    try:
        if entry.is_dir():
            return Kind.FOLDER
        if entry.is_file():
            return kind_of_file(entry.path)
        entry.stat()  # fails for a link to nothing
    except OSError:
        # A file with the name of an image becomes a failed row; any other is only named.
        return kind_by_ending(entry.name, Kind.UNREADABLE)
    return Kind.OTHER  # a fifo, a socket or a device, even with the name of an image


def list_url(url: str) -> list[Entry]:
    """Return the files and folders below a URL; images are known by their endings.

    Raises:
        SourceError: ``url`` cannot be listed.
    """
    try:
        file_system, path = attempt(url, lambda file_system, path: (file_system, path))
        name = without_query(url).rpartition("/")[2]
        if name.lower().endswith(IMAGE_ENDINGS):
            return [Entry(_to_key(file_system, name), path, Kind.IMAGE)]
        file_system.invalidate_cache()
        return list(walk(path, partial(_list_remote, url, file_system, {path.rstrip("/")})))
    except Exception as error:  # each file system has its own errors
        problem = explain(error)
        if not isinstance(error, ImportError):  # fsspec names the missing library
            problem = f"cannot be listed: {problem}; check the address and the credentials"
        raise SourceError(f"{quoted(hide_secrets(url))}: {problem}") from error


def _list_remote(url: str, file_system: Any, seen: set[str], folder: str) -> Iterator[Entry]:
    """Yield the entries of a remote folder that are not in ``seen``.

    A folder that cannot be listed raises its error. fsspec's own walk would leave its images out,
    and perhaps a class.
    """
    for entry in attempt(url, partial(call, "ls", folder, detail=True)):
        path = entry["name"].rstrip("/")
        key = _to_key(file_system, path[len(folder.rstrip("/")) :].strip("/"))
        if path in seen or any(map(is_system_file, key.split("/"))):
            continue
        seen.add(path)
        kind = Kind.FOLDER if entry["type"] == "directory" else kind_by_ending(key)
        yield Entry(key, entry["name"], kind)


def _to_key(file_system: Any, name: str) -> str:
    """Return a name without escapes such as %20, which web servers list."""
    return unquote(name) if "http" in file_system.protocol else name
