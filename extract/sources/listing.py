"""SOURCE -> a sorted list of items: every image with its key, label and split.

SOURCE is one image, a flat folder of images without labels, a folder of class folders, a folder
of split folders over class folders, an archive of such folders, a table that names its images, or a
file that holds them row by row.
"""

import os
from collections import Counter
from contextlib import suppress
from functools import partial

from extract.core.errors import ImageError, SettingError, SourceError, nearest_path, quoted
from extract.core.flags import FEATURE_ROLES, parse_columns
from extract.images.entries import Entry, Kind, kind_of_file, list_local, list_url, walk
from extract.images.item import Read, Source, read_file, reading, special_kind, to_utf8
from extract.images.remote import hide_secrets, is_url, read_url, without_query
from extract.images.unpack import fetch_command, refuse_web_page
from extract.layouts.image_folder import Named, arrange_folder
from extract.layouts.image_table import arrange_rows, columns_error
from extract.sources.archives import ARCHIVE_ENDINGS, Archive, is_archive
from extract.sources.records import RECORD_FORMATS, RecordSet, find_records, record_ending
from extract.sources.tables import TABLE_ENDINGS, list_table
from extract.sources.webdataset import list_archive


def list_source(
    source: str | os.PathLike[str], columns: str = "", folder: str | os.PathLike[str] = ""
) -> Source:
    """List the images of ``source``; only files with other endings are opened, for 32 bytes.

    Args:
        source: A folder, one image, an archive, a manifest or a file of records; or a URL that
            fsspec opens.
        columns: The columns of a table or of records, or the levels of folders, by role, see
            ``parse_columns``.
        folder: The folder that the paths of a table are in, that of the table by default.

    Raises:
        SourceError: ``source`` cannot be read, holds no images, or its layout has two meanings.
        SettingError: ``columns`` or ``folder`` are given for a source without columns or paths.
    """
    root, named, folder = os.fspath(source), parse_columns(columns), os.fspath(folder)
    _refuse_features(root, named)
    is_table = without_query(root).lower().endswith(TABLE_ENDINGS)
    if folder and not is_table:
        raise SettingError(
            f"root: has no effect on {quoted(hide_secrets(root))}, which is no table"
        )
    if is_url(root):
        return _list_url(root, named, folder)
    _refuse_special(root)
    refuse_web_page(root)
    if is_archive(root) and not os.path.isdir(root):
        return list_archive(root, named)
    try:
        os.stat(root)
        if files := find_records(root, named):
            records = RecordSet(files, named)
            return arrange_rows(root, records.rows, named, records.read, records.said)
        if os.path.isfile(root) and is_table:
            return list_table(root, named, folder)
        if os.path.isdir(root):
            above = {root: frozenset({os.path.realpath(root)})}
            list_folder = partial(list_local, above, Counter[str]())
            return arrange_folder(root, walk(root, list_folder), named=named)
        if named:
            raise columns_error(root)
        if os.path.isfile(root) and kind_of_file(root) is Kind.IMAGE:
            return arrange_folder(root, [Entry(to_utf8(os.path.basename(root)), root, Kind.IMAGE)])
        problem = "found a file that is not an image"
    except OSError as error:
        raise _not_opened(root, error) from error
    endings = ", ".join(dict.fromkeys((*TABLE_ENDINGS, *ARCHIVE_ENDINGS, *RECORD_FORMATS)))
    expected = f"expected a folder of images, one image or a file of several ({endings})"
    raise SourceError(f"{quoted(root)}: {problem}; {expected}")


def _not_opened(root: str, error: OSError) -> SourceError:
    problem = f"cannot be opened: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        problem = f"no such file or folder{nearest_path(root)}"
    expected = "expected a folder of images, an image, or a table or an archive of images"
    return SourceError(f"{quoted(root)}: {problem}; {expected}; check the path")


def _refuse_features(root: str, named: Named) -> None:
    """Raise SettingError for the columns of features that another program made."""
    if strange := [role for role in FEATURE_ROLES if role in named]:
        found = f"{strange[0]} has no effect on {quoted(hide_secrets(root))}"
        remedy = "it is for files of features (.npz, .npy, .h5, .parquet, .arrow, .csv)"
        raise SettingError(f"columns: {found}; {remedy}")


def _list_url(url: str, named: Named, folder: str) -> Source:
    path = without_query(url).lower()
    if path.endswith(TABLE_ENDINGS):
        return list_table(url, named, folder)
    if record_ending(path) in RECORD_FORMATS:
        problem = f"a remote file of records; fetch it with: {fetch_command(url)}"
        raise SourceError(f"{quoted(hide_secrets(url))}: {problem}")
    if is_archive(path):
        return list_archive(url, named)
    return arrange_folder(hide_secrets(url), list_url(url), partial(read_url, url), 0, named)


def open_reader(
    source: str | os.PathLike[str], columns: str = "", folder: str | os.PathLike[str] = ""
) -> Read:
    """Return a function that reads an image of ``source`` by its key, without listing the others.

    It raises ImageError where no image has the key, or the image is gone.

    Args:
        source: As for ``list_source``.
        columns: As for ``list_source``.
        folder: As for ``list_source``.

    Raises:
        SourceError: ``source`` is an archive or a file of records that cannot be read, or it is
            remote, because a stored URL has no credentials.
    """
    root, named, folder = os.fspath(source), parse_columns(columns), os.fspath(folder)
    if is_url(root):
        raise SourceError(f"{quoted(root)}: is remote; expected a source on this machine")
    _refuse_special(root)
    if is_archive(root) and not os.path.isdir(root):
        return Archive(root).read
    with reading(root, "a file or folder of images"):
        if os.path.exists(root) and (files := find_records(root, named)):
            return RecordSet(files, named).read
    if root.lower().endswith(TABLE_ENDINGS) and not os.path.isdir(root):
        return partial(read_file, folder=folder or os.path.dirname(root))
    return partial(_read_below, root)


def _read_below(root: str, key: str) -> bytes:
    """Return the content of an image by its key in a folder, or of the one image ``root``.

    Raises:
        ImageError: The key leads out of the folder, or the image cannot be read.
    """
    is_folder, parts = os.path.isdir(root), key.replace(os.sep, "/").split("/")
    inside = not {"", ".", ".."}.intersection(parts) and not os.path.splitdrive(key)[0]
    if not (inside if is_folder else key == to_utf8(os.path.basename(root))):
        raise ImageError("is not in the source")
    return read_file(key, root) if is_folder else read_file(root)


def _refuse_special(root: str) -> None:
    """Raise SourceError for a pipe, which would hang, a socket or a device."""
    special = ""
    with suppress(OSError, ValueError):  # what is not there is named later
        special = special_kind(root)
    if special:
        problem = f"is a {special}, not a regular file; expected a file or folder of images"
        raise SourceError(f"{quoted(root)}: {problem}")
