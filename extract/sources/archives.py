"""Images inside .zip, .tar and .tar.gz, here or at a URL; nothing is unpacked to disk.

Each read opens the archive and goes to the offset of the member: threads cannot share a ``zipfile``
or ``tarfile``, and a thousand shards would be a thousand open files.
"""

import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from extract.core.errors import ImageError, SourceError, count_of, quoted
from extract.images.item import open_regular, read_part, reading, reason_of, to_utf8
from extract.images.kinds import is_system_file
from extract.images.remote import attempt, explain, hide_secrets, is_url, read_range, without_query
from extract.images.tar_members import list_members
from extract.images.unpack import (
    fetch_command,
    is_packed,
    refuse_packed,
    refuse_pointer,
    refuse_split_zip,
)
from extract.limits.image_size import claim_bytes

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
# Ending -> the first bytes of such an archive.
_HEADS = {
    ".zip": rb"PK(\x03\x04|\x05\x06|\x07\x08|00PK)",
    ".tar.gz": rb"\x1f\x8b",
    ".tar": rb".{257}ustar",
}
# The systems of zips on which a backslash may be a part of a name. Source: APPNOTE.TXT 4.4.2.
_UNIX_HOSTS = (3, 7, 16, 19, 30)
_SPLIT = "with backslashes, read as / between folders; expected /"
_KEPT = "with a backslash, read as a part of it; expected / between folders"
_CODE_PAGE = "in an unknown code page, read as code page 437; expected UTF-8"
_ESCAPED = "not in UTF-8, shown with escapes; expected UTF-8"
_MOST_SHARDS = 10**6
_SHARDS = re.compile(r"\{(\d+)\.\.(\d+)\}")

ReadAt = Callable[[int, int], bytes]  # (number of bytes, offset)


class _Member(NamedTuple):
    """The position of a member's content; ``info`` is its entry in a zip."""

    read_at: ReadAt
    start: int
    size: int
    info: zipfile.ZipInfo | None = None


_Members = Iterable[tuple[str, _Member | None]]  # (name, position or None for a link)


class Archive:
    """The members of one or several archives, by key; several threads may read them.

    Attributes:
        root: The archive, or the pattern of its shards, without secrets.
        shards: The archives, which may be URLs.
        members: The position of each member, None for a link and the like; with several archives,
            keys begin with their names.
        warnings: What is doubtful about the names of the members.
        notes: What was understood of them.
    """

    def __init__(self, root: str) -> None:
        self.root = hide_secrets(root)
        self.shards = _expand(root)
        self.members: dict[str, _Member | None] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        for shard in self.shards:
            name, shown = os.path.basename(without_query(shard)), hide_secrets(shard)
            prefix = "" if len(self.shards) == 1 else f"{stem(name)}/"
            with reading(shown, "a complete archive", "gzip"):
                members = list(_list_remote(shard) if is_url(shard) else _list_local(shard))
                for name, member in self._separate(members):
                    key = prefix + _to_key(shown, name)
                    if self.members.get(key):
                        raise SourceError(f"{quoted(shown)}: found {quoted(key)} twice; repack it")
                    if not any(map(is_system_file, key.split("/"))):
                        self.members[key] = member

    def _separate(self, members: Sequence[tuple[str, _Member | None]]) -> _Members:
        """Yield the files with / between their folders, and warn of doubtful names.

        Source: unzip reads backslashes as / in archives that were made on FAT.
        """
        flat = not any("/" in name for name, _ in members)
        counts = Counter[str]()
        for name, member in members:
            path, info = name, member.info if member else None
            if info and not name.isascii() and name == info.orig_filename and not _is_utf8(info):
                counts[_CODE_PAGE] += 1
            if any("\udc80" <= c <= "\udcff" for c in name):
                counts[_ESCAPED] += 1
            if "\\" in name:
                is_split = flat or (info and info.create_system not in _UNIX_HOSTS)
                counts[_SPLIT if is_split else _KEPT] += 1
                path = name.replace("\\", "/") if is_split else name
            if not path.endswith("/"):  # is_dir() fails for an empty name
                yield path, member
        self.warnings += [f"found {count_of(counts[text], 'name')} {text}" for text in counts]

    def read(self, key: str) -> bytes:
        """Return the content of a member.

        Raises:
            ImageError: No member has this key, or the member is damaged, encrypted or too large.
        """
        member = self.members.get(key)
        if member is None:
            raise ImageError("is not in the archive")
        size = max(member.size, member.info.compress_size if member.info else 0)
        claim_bytes(size)
        try:
            if member.info:
                return _unzip(member.read_at, member.info)
            content = member.read_at(member.size, member.start)
        except (OSError, zlib.error, struct.error) as error:
            raise ImageError(f"cannot be read from its archive: {reason_of(error)}") from error
        if len(content) != member.size:
            raise ImageError("is cut off; its archive is shorter than before")
        return content


def is_archive(root: str) -> bool:
    """Whether a name is an archive, or a pattern of shards such as ``a-{00..12}.tar``.

    So are archives that must be unpacked first; to open one raises an error with the command.
    """
    return without_query(root).lower().endswith(ARCHIVE_ENDINGS) or is_packed(root)


def _expand(root: str) -> list[str]:
    """Return the names of the shards of a pattern, or the name of the only archive."""
    parts = _SHARDS.split(root, maxsplit=1)
    if len(parts) == 1 or os.path.exists(root):
        return [root]
    before, first, last, after = parts
    # Python converts no number of thousands of digits.
    if max(len(first), len(last)) > 18 or int(last) - int(first) >= _MOST_SHARDS:
        problem = f"found more than {_MOST_SHARDS:,} shards; expected fewer in one SOURCE"
        raise SourceError(f"{quoted(root)}: {problem}; correct the last number")
    if int(first) > int(last):
        raise SourceError(f"{quoted(root)}: counts down; expected {{{last}..{first}}}")
    numbers = range(int(first), int(last) + 1)
    return [f"{before}{number:0{len(first)}d}{after}" for number in numbers]


def stem(key: str) -> str:
    """Return a key up to the first full stop of its file name, as label files share it."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _to_key(shard: str, name: str) -> str:
    """Return the key of a member; it is never used as a path, but must not look like one."""
    name = to_utf8(name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts:
        problem = f"found a member {name!r}; expected names that stay inside it"
        raise SourceError(f"{quoted(shard)}: {problem}")
    return "/".join(parts)


def _list_local(shard: str) -> _Members:
    """Yield the members of a file, whose first bytes decide where its name is wrong."""
    with open_regular(shard) as file:
        head = file.read(512)
    read_at = partial(read_part, shard)
    ending = next((e for e, pattern in _HEADS.items() if re.match(pattern, head, re.DOTALL)), "")
    if not ending or is_packed(shard):
        refuse_pointer(shard, head)
        refuse_packed(shard, head)
    if not (ending := ending or _ending(shard)):
        raise ValueError("is none of the kinds that are read in place")
    if ending.endswith("gz"):
        return _list_gzip(shard)
    with open(shard, "rb") as file:
        return _list(file, ending, shard, read_at)


def _list_remote(url: str) -> _Members:
    """Return the members of an archive at a URL, of which only the list of members is read."""
    shown, ending = hide_secrets(url), _ending(url)
    refuse_packed(url)
    if ending.endswith("gz"):
        problem = f"cannot be read in place; fetch it with: {fetch_command(url)}"
        raise SourceError(f"{quoted(shown)}: {problem}")

    def list_members(file_system: Any, path: str) -> _Members:
        with file_system.open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)  # fails where the server sends whole files only
            file.read(1)
            file.seek(0)
            try:
                return _list(file, ending, url, partial(read_range, url))
            except (zipfile.BadZipFile, tarfile.TarError) as error:
                raise ValueError(f"is no complete archive: {reason_of(error)}") from error

    try:
        return attempt(url, list_members)  # type: ignore[no-any-return]
    except SourceError:
        raise
    except Exception as error:  # each file system has its own errors
        problem = explain(error)
        if not isinstance(error, FileNotFoundError | ImportError):
            problem = f"cannot be read in place: {problem}; fetch it with: {fetch_command(url)}"
        raise SourceError(f"{quoted(shown)}: {problem}") from error


def _list(file: BinaryIO, ending: str, shard: str, read_at: ReadAt) -> _Members:
    return _list_zip(file, shard, read_at) if ending == ".zip" else _list_tar(file, read_at)


def _list_zip(file: BinaryIO, shard: str, read_at: ReadAt) -> _Members:
    refuse_split_zip(shard, file)  # its members may be in other files
    infos = zipfile.ZipFile(file).infolist()
    file.seek(0)
    if file.read(4) == b"PK\3\4" and min((i.header_offset for i in infos), default=0) > 0:
        raise zipfile.BadZipFile("another zip is joined to its front; pack both into one")
    return [(_zip_name(info), _Member(read_at, 0, info.file_size, info)) for info in infos]


def _list_tar(file: Any, read_at: ReadAt) -> _Members:
    return [
        (name, _Member(read_at, *place) if place else None) for name, place in list_members(file)
    ]


def _list_gzip(shard: str) -> _Members:
    from indexed_gzip import IndexedGzipFile

    # Its index of starting points makes every member quick to read.
    file = IndexedGzipFile(shard)
    return _list_tar(file, file.pread)


def _is_utf8(info: zipfile.ZipInfo) -> bool:
    return bool(info.flag_bits & 0x800)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member of a zip; many tools write UTF-8 without the flag for it.

    Source: APPNOTE.TXT 4.6.9 (Unicode path) and appendix D.
    """
    name, extra = info.orig_filename.partition("\0")[0], info.extra
    if _is_utf8(info):
        return name
    raw = name.encode("cp437")
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            raw = field[5:]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return name


def _unzip(read_at: ReadAt, info: zipfile.ZipInfo) -> bytes:
    """Return a member of a zip, unpacked up to its declared size.

    Source: the local file header, APPNOTE.TXT 4.3.7.
    """
    if info.flag_bits & 1:
        raise ImageError("is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(f"is packed by method {info.compress_type}; expected none or deflate")
    # One read, because each costs a request at a URL; the header has names of its own.
    about = 30 + len(info.orig_filename.encode()) + len(info.extra) + 64
    content = read_at(about + info.compress_size, info.header_offset)
    start = 30 + sum(struct.unpack_from("<2H", content, 26))
    if len(content) < start + info.compress_size:
        content = read_at(start + info.compress_size, info.header_offset)
    content = content[start : start + info.compress_size]
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ImageError("is damaged in its archive")
    return content


def _ending(name: str) -> str:
    lower = without_query(name).lower()
    return next((ending for ending in ARCHIVE_ENDINGS if lower.endswith(ending)), "")
