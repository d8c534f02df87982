"""SOURCE -> a sorted list of items: every image with its key, label and split.

SOURCE is one image, a flat folder of images without labels, a folder of class folders, a folder
of split folders over class folders, an archive of such, a table that names its images, or a file
that holds them row by row.
"""

import os
import stat
from functools import partial

from extract.core.config import parse_columns
from extract.core.errors import SettingError, SourceError, quoted
from extract.images.image_folder import Named, arrange
from extract.images.item import (
    IMAGE_ENDINGS,
    Item,
    Read,
    Source,
    image_kind,
    is_system_file,
    read_below,
)
from extract.images.remote import hide_secrets, is_url, list_remote, without_query
from extract.sources.archives import ARCHIVE_ENDINGS, Archive, is_archive
from extract.sources.records import RECORD_ENDINGS, RecordSet, holds_records, list_records
from extract.sources.tables import TABLE_ENDINGS, list_table
from extract.sources.tfrecord import is_tfrecord
from extract.sources.webdataset import list_archive


def list_source(source: str | os.PathLike[str], columns: str = "") -> Source:
    """List the images of ``source``; only files with other endings are opened, for 32 bytes.

    Args:
        source: A folder, one image, an archive, a manifest or a file of records; or a URL that
            fsspec opens.
        columns: Which columns of a table or of records are what, see ``config.parse_columns``.

    Raises:
        SourceError: ``source`` or a folder in it cannot be read, it holds no images, its layout
            has two meanings, or two of its names become one key.
        SettingError: ``columns`` are given for what has none.
    """
    root = os.fspath(source)
    if is_url(root):
        return _list_url(root, columns)
    if is_archive(root) and not os.path.isdir(root):
        return list_archive(root, columns)
    try:
        mode = os.stat(root).st_mode
        if holds_records(root, columns):
            return list_records(root, columns)
        if stat.S_ISREG(mode) and root.lower().endswith(TABLE_ENDINGS):
            return list_table(root, columns)
        _check_no_columns(root, columns)
        if stat.S_ISDIR(mode):
            return arrange(root, _walk(root))
        if stat.S_ISREG(mode) and _is_image(root):
            return Source((Item(_to_utf8(os.path.basename(root)), root, -1, 0),), (), (), root)
        found = "found a file that is no image"
    except OSError as error:
        found = f"cannot be opened: {error.strerror}"
    raise SourceError(
        f"{quoted(root)}: {found}; expected a folder of images, one image, a table of them "
        f"({', '.join(TABLE_ENDINGS)}), an archive ({', '.join(ARCHIVE_ENDINGS)}) or a file of "
        f"records ({', '.join(RECORD_ENDINGS)})"
    )


def _list_url(url: str, columns: str) -> Source:
    path = without_query(url).lower()
    if is_archive(path) or path.endswith(RECORD_ENDINGS) or is_tfrecord(path):
        kind = "archive" if is_archive(path) else "file of records"
        raise SourceError(
            f"{quoted(hide_secrets(url))}: a remote {kind}; expected a folder, an image or a "
            "table; download it"
        )
    if path.endswith(TABLE_ENDINGS):
        return list_table(url, columns)
    _check_no_columns(url, columns)
    return list_remote(url)


def _check_no_columns(root: str, columns: str) -> None:
    if columns:
        raise SettingError(
            f"columns: has no effect on {quoted(hide_secrets(root))}; expected a table that ends "
            f"in {', '.join(TABLE_ENDINGS)}, or records; leave --columns out"
        )


def open_reader(source: str | os.PathLike[str], columns: str = "") -> Read:
    """Return what reads an image of ``source`` by its key, without listing the others.

    It raises ImageError where there is no such image, or none any more.

    Args:
        source: As for ``list_source``.
        columns: As for ``list_source``.

    Raises:
        SourceError: ``source`` is an archive or a file of records that cannot be
            read, or remote: what is stored of it has no credentials.
    """
    root = os.fspath(source)
    if is_url(root):
        raise SourceError(f"{quoted(root)}: is remote; expected a source on this machine")
    if is_archive(root) and not os.path.isdir(root):
        return Archive(root).read
    if os.path.exists(root) and holds_records(root, columns):
        return RecordSet(root, parse_columns(columns)).read
    return partial(read_below, root if os.path.isdir(root) else os.path.dirname(root))


def _is_image(path: str) -> bool:
    if path.lower().endswith(IMAGE_ENDINGS):
        return True
    with open(path, "rb", buffering=0) as file:
        return image_kind(file.read(32)) is not None


def _walk(root: str) -> dict[str, Named]:
    """Return all under ``root`` by kind, in no order; not recursive, as a tree may be deep."""
    found: dict[str, Named] = {kind: [] for kind in ("image", "folder", "other", "closed")}
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link that leads back up: all behind it is listed already
                continue
            with os.scandir(folder) as entries:
                kinds = [
                    (entry, _kind(entry)) for entry in entries if not is_system_file(entry.name)
                ]
        except OSError as error:
            # No warning would do: a class might be missing from all that follows.
            raise SourceError(
                f"{quoted(folder)}: cannot be read: {error.strerror}; expected to look into every "
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


def _kind(entry: os.DirEntry[str]) -> str:
    """Return folder, image, closed (it cannot be looked at) or other.

    The listing itself tells the type, so that only links cost a system call.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "image" if _is_image(entry.path) else "other"
        entry.stat()  # raises for a link to nothing
    except OSError:
        # Under an image's name it becomes a row that fails; otherwise it can only be named.
        return "image" if entry.name.lower().endswith(IMAGE_ENDINGS) else "closed"
    return "other"  # a fifo, a socket or a device, whatever it is called


def _to_utf8(name: str) -> str:
    """Return ``name`` with each byte that is not UTF-8 as a backslash escape."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
