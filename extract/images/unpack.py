"""Files that must be unpacked, joined or fetched before they are read, and the command for it."""

import os
import re
import shlex
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from extract.core.errors import SourceError, quoted
from extract.images.item import read_part
from extract.images.kinds import unread_kind, what_it_is
from extract.images.remote import hide_secrets, is_url, without_query


class _Packing(NamedTuple):
    """A way to pack files that is not read: its endings, first bytes and command."""

    name: str
    endings: tuple[str, ...]
    head: bytes
    command: str


# A new kind needs an entry here. Source: the signatures in the file formats' own documentation.
_PACKINGS = (
    _Packing("zstandard", (".zst", ".tzst"), b"\x28\xb5\x2f\xfd", "zstd -d {}"),
    _Packing("xz", (".xz", ".txz"), b"\xfd7zXZ\0", "unxz {}"),
    _Packing("bzip2", (".bz2", ".tbz2", ".tbz"), b"BZh", "bunzip2 {}"),
    _Packing("lz4", (".lz4",), b"\x04\x22\x4d\x18", "lz4 -d {}"),
    _Packing("lzma", (".lzma", ".tlz"), b"\x5d\0\0", "unlzma {}"),
    _Packing("compress", (".z",), b"\x1f\x9d", "uncompress {}"),
    _Packing("7-Zip", (".7z",), b"7z\xbc\xaf\x27\x1c", "7z x {}"),
    _Packing("RAR", (".rar",), b"Rar!\x1a\x07", "unrar x {}"),
    _Packing("gzip", (".gz",), b"\x1f\x8b", "gunzip {}"),
)
_READ_ENDINGS = (".tar.gz", ".tgz")
# The parts of a file that was cut, such as photos.zip.001, photos.tar.gz.partaa and photos.z01.
_PART = re.compile(r"(.+\.(?:zip|7z|tar|tgz|tar\.\w+))\.(?:\d{2,4}|a[a-z]|part\w+)", re.I)
_ZIP_PART = re.compile(r"(.+)\.z\d\d", re.I)
_POINTER = b"version https://git-lfs.github.com/spec/"
# Protocol -> the command that fetches a file into the current folder.
_FETCH = {
    "http": "curl -LO {}",
    "https": "curl -LO {}",
    "ftp": "curl -O {}",
    "s3": "aws s3 cp {} .",
    "s3a": "aws s3 cp {} .",
    "gs": "gcloud storage cp {} .",
    "gcs": "gcloud storage cp {} .",
}
_ENDINGS = tuple(ending for packing in _PACKINGS for ending in packing.endings)


def is_packed(name: str) -> bool:
    """Whether a file is packed in a way that is not read, or one part of a file, by its name."""
    lower = without_query(name).lower()
    if lower.endswith(_READ_ENDINGS) or unread_kind(lower):
        return False
    return bool(lower.endswith(_ENDINGS) or _PART.fullmatch(lower) or _ZIP_PART.fullmatch(lower))


def refuse_packed(path: str, head: bytes | None = None) -> None:
    """Raise SourceError for a file that must be unpacked or joined, and name the command.

    Args:
        path: The file, or a URL.
        head: Its first bytes; without them its name decides.
    """
    name = without_query(path)
    if part := _PART.fullmatch(name):
        whole = os.path.basename(part[1]) if is_url(path) else part[1]
        joined = f"cat {shlex.quote(whole)}.* > {shlex.quote(whole)}"
        raise _error(path, "is one part of a file", f"join the parts with: {joined}")
    if part := _ZIP_PART.fullmatch(name):
        raise _zip_part_error(path, f"{part[1]}.zip")
    for packing in _PACKINGS:
        has_ending = is_packed(name) and name.lower().endswith(packing.endings)
        is_packing = has_ending if head is None else head.startswith(packing.head)
        if is_packing and (has_ending or packing.name != "gzip"):  # others are tar.gz
            raise _error(
                path, f"is packed with {packing.name}", f"unpack it with: {_unpack(name, packing)}"
            )


def refuse_split_zip(path: str, file: BinaryIO) -> None:
    """Raise SourceError for a zip that ends with the list of members of several parts.

    Source: the end of central directory record, APPNOTE.TXT 4.3.16.
    """
    file.seek(-min(file.seek(0, os.SEEK_END), 2**16), os.SEEK_END)
    _, found, end = file.read().rpartition(b"PK\x05\x06")
    if found and end[:2] not in (b"\0\0", b"\xff\xff"):  # the number of this part
        raise _zip_part_error(path, without_query(path))


def _zip_part_error(path: str, last: str) -> SourceError:
    last = os.path.basename(last) if is_url(path) else last
    command = f"zip -s 0 {shlex.quote(last)} --out {shlex.quote(last[:-4] + '-whole.zip')}"
    return _error(path, "is one part of a zip", f"join the parts with: {command}")


def refuse_pointer(path: str, head: bytes | None = None) -> None:
    """Raise SourceError for what Git stores in the place of a large file."""
    if (read_part(path, len(_POINTER), 0) if head is None else head).startswith(_POINTER):
        problem = "is a pointer of Git LFS, not the file; fetch the files with: git lfs pull"
        raise SourceError(f"{quoted(path)}: {problem}")


def fetch_command(url: str) -> str:
    """Return the command that fetches a file, without the secrets of its URL."""
    protocol, _, rest = hide_secrets(url).partition("://")
    place, _, path = rest.partition("/")
    if protocol in ("sftp", "ssh"):
        host, _, port = place.partition(":")
        source = shlex.quote(f"{host}:/{path}")
        return f"scp {f'-P {port} ' if port else ''}{source} ."
    if protocol == "hf" and (match := re.fullmatch(r"datasets/([^/]+/[^/@]+)[^/]*/(.+)", rest)):
        names = map(shlex.quote, match.groups())
        return f"hf download {' '.join(names)} --repo-type dataset --local-dir ."
    code = "import sys, fsspec; fsspec.filesystem(sys.argv[1]).get(sys.argv[2], '.')"
    command = _FETCH.get(protocol, f'python -c "{code}" {shlex.quote(protocol)} {{}}')
    return command.format(shlex.quote(hide_secrets(url)))


def _error(path: str, problem: str, command: str) -> SourceError:
    if is_url(path):
        command = f"fetch it with: {fetch_command(path)} and {command}"
    return SourceError(f"{quoted(hide_secrets(path))}: {problem}; {command}")


def _unpack(name: str, packing: _Packing) -> str:
    """Return the command that unpacks a file, whose ending tools expect to be right."""
    name = os.path.basename(name) if is_url(name) else name
    if name.lower().endswith(packing.endings):
        return packing.command.format(shlex.quote(name))
    renamed = name + packing.endings[0]
    command = packing.command.format(shlex.quote(renamed))
    return f"mv {shlex.quote(name)} {shlex.quote(renamed)} && {command}"


def refuse_web_page(path: str) -> None:
    """Raise SourceError for a web page, which is what many failed downloads are."""
    with suppress(OSError, ValueError):
        if os.path.isfile(path) and "HTML" in (what := what_it_is(read_part(path, 1024, 0))):
            raise SourceError(f"{quoted(path)}: {what}; download the file itself")
