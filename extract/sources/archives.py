"""Images inside .zip, .tar and .tar.gz, read where they are; nothing is unpacked to disk.

A member is found by its offset, and each read opens the archive anew: neither ``zipfile`` nor
``tarfile`` can be shared by threads, and a thousand shards would be a thousand open files.
"""

import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.item import is_system_file

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
# What a member may weigh, packed and unpacked: several threads hold one each.
MOST_BYTES = 2**28
_SHARDS = re.compile(r"\{(\d+)\.\.(\d+)\}")

ReadAt = Callable[[int, int], bytes]  # (how many bytes, from where)


class _Member(NamedTuple):
    """Where the content of a member is; ``packed`` is what a zip says of it."""

    read_at: ReadAt
    start: int
    size: int
    packed: zipfile.ZipInfo | None = None


class Archive:
    """The members of one or several archives, by key; may be read from several threads at once.

    Attributes:
        root: The archive, or the pattern of its shards.
        shards: The archives.
        members: Where each member is; of several archives a key begins with the archive's name.
        links: Keys of links and other members without content of their own.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.shards = _expand(root)
        self.members: dict[str, _Member] = {}
        self.links: list[str] = []
        for shard in self.shards:
            prefix = "" if len(self.shards) == 1 else f"{stem(os.path.basename(shard))}/"
            for name, member in _list_members(shard):
                self._add(shard, prefix + _to_key(shard, name), member)

    def _add(self, shard: str, key: str, member: _Member | None) -> None:
        if any(map(is_system_file, key.split("/"))):
            return
        if key in self.members:
            raise SourceError(
                f"{quoted(shard)}: found {quoted(key)} twice; expected each name once; pack it "
                "again"
            )
        if member is None:
            self.links.append(key)
        else:
            self.members[key] = member

    def read(self, key: str) -> bytes:
        """Return the content of a member.

        Raises:
            ImageError: There is none of that name, it is damaged, encrypted or too large.
        """
        if key not in self.members:
            raise ImageError("is not in the archive")
        member = self.members[key]
        if member.size > MOST_BYTES:
            raise ImageError(f"is {member.size:,} bytes; at most {MOST_BYTES:,} are read")
        try:
            if member.packed:
                return _unzip(member.read_at, member.packed)
            content = member.read_at(member.size, member.start)
        except (OSError, zlib.error, struct.error) as error:
            raise ImageError(f"cannot be read from its archive: {error}") from error
        if len(content) != member.size:
            raise ImageError("is cut off: its archive has become shorter")
        return content


def is_archive(root: str) -> bool:
    """Whether a name is that of an archive, or a pattern of shards such as a-{00..12}.tar."""
    return root.lower().endswith(ARCHIVE_ENDINGS)


def _expand(root: str) -> list[str]:
    """Return the names that a pattern of shards stands for; any other name is itself."""
    match = _SHARDS.search(root)
    if not match or os.path.exists(root):
        return [root]
    first, last = match[1], match[2]
    shards = [
        f"{root[: match.start()]}{number:0{len(first)}d}{root[match.end() :]}"
        for number in range(int(first), int(last) + 1)
    ]
    if not shards:
        raise SourceError(f"{quoted(root)}: counts down; expected {{{last}..{first}}}")
    return shards


def stem(key: str) -> str:
    """Return a key up to the first full stop of its file name, which files beside it share."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _to_key(shard: str, name: str) -> str:
    """Return a member's name as a key; it is never a path, and still must not look like one."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts:
        raise SourceError(
            f"{quoted(shard)}: found a member {name!r}; expected names that stay inside the "
            "archive; pack it again"
        )
    return "/".join(parts)


def _list_members(shard: str) -> Iterator[tuple[str, _Member | None]]:
    """Yield the name of each file and where it is, None for a link."""
    try:
        os.stat(shard)  # each library says in words of its own that there is none
        if shard.lower().endswith(".zip"):
            yield from _list_zip(shard)
        else:
            yield from _list_tar(shard)
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{quoted(shard)}: cannot be read: {reason}; expected a whole archive"
        ) from error


def _list_zip(shard: str) -> Iterator[tuple[str, _Member]]:
    read_at = partial(_read_at, shard)
    with zipfile.ZipFile(shard) as file:
        for info in file.infolist():
            if not info.filename.endswith("/"):  # is_dir() fails over an empty name
                yield info.filename, _Member(read_at, 0, info.file_size, info)


def _list_tar(shard: str) -> Iterator[tuple[str, _Member | None]]:
    read_at, packed = partial(_read_at, shard), None
    if not shard.lower().endswith(".tar"):
        try:
            from indexed_gzip import IndexedGzipFile
        except ImportError as error:
            raise SourceError(
                f'{quoted(shard)}: needs indexed_gzip; pip install "headstart[gzip]", or unpack it '
                "to .tar"
            ) from error
        # Its index of places to start from makes any member quick to read.
        packed = IndexedGzipFile(shard)
        read_at = packed.pread
    with tarfile.open(shard, "r:", packed) as file:
        for info in file:
            if info.isreg() and not info.issparse():
                yield info.name, _Member(read_at, info.offset_data, info.size)
            elif not info.isdir():
                yield info.name, None


def _read_at(path: str, size: int, start: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        return file.read(size)


def _unzip(read_at: ReadAt, info: zipfile.ZipInfo) -> bytes:
    """Return a member of a zip; never more than its declared size is unpacked.

    Source: the local file header, APPNOTE.TXT 4.3.7.
    """
    if info.flag_bits & 1:
        raise ImageError("is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(
            f"is packed by method {info.compress_type}; expected none or deflate; pack it again"
        )
    if info.compress_size > MOST_BYTES:
        raise ImageError(f"is {info.compress_size:,} bytes packed; at most {MOST_BYTES:,} are read")
    header = read_at(30, info.header_offset)
    name, extra = struct.unpack_from("<2H", header, 26)
    content = read_at(info.compress_size, info.header_offset + 30 + name + extra)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ImageError("is damaged in its archive")
    return content
