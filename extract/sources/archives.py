"""Images inside .zip, .tar and .tar.gz, read in place; nothing is unpacked to disk.

Each read opens the archive and goes to the offset of the member: threads cannot share a ``zipfile``
or ``tarfile``, and a thousand shards would be a thousand open files.
"""

import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.item import read_part, reading, reason_of, to_utf8
from extract.images.kinds import is_system_file

# The most bytes of a member, packed and unpacked, because several threads hold one each.
MOST_BYTES = 2**28
_SHARDS = re.compile(r"\{(\d+)\.\.(\d+)\}")

ReadAt = Callable[[int, int], bytes]  # (number of bytes, offset)


class _Member(NamedTuple):
    """The position of a member's content; ``info`` is its entry in a zip."""

    read_at: ReadAt
    start: int
    size: int
    info: zipfile.ZipInfo | None = None


_Members = Iterator[tuple[str, _Member | None]]  # (name, position or None for a link)


class Archive:
    """The members of one or several archives, by key; several threads may read them.

    Attributes:
        root: The archive, or the pattern of its shards.
        shards: The archives.
        members: The position of each member, None for a link and the like; with several archives,
            keys begin with their names.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.shards = _expand(root)
        self.members: dict[str, _Member | None] = {}
        for shard in self.shards:
            prefix = "" if len(self.shards) == 1 else f"{stem(os.path.basename(shard))}/"
            ending = next(ending for ending in ARCHIVE_ENDINGS if shard.lower().endswith(ending))
            with reading(shard, "a complete archive", "gzip"):
                os.stat(shard)  # each library has its own message for a missing file
                for name, member in ARCHIVE_FORMATS[ending](shard):
                    key = prefix + _to_key(shard, name)
                    if self.members.get(key):
                        raise SourceError(f"{quoted(shard)}: found {quoted(key)} twice; repack it")
                    if not any(map(is_system_file, key.split("/"))):
                        self.members[key] = member

    def read(self, key: str) -> bytes:
        """Return the content of a member.

        Raises:
            ImageError: No member has this key, or the member is damaged, encrypted or too large.
        """
        member = self.members.get(key)
        if member is None:
            raise ImageError("is not in the archive")
        size = max(member.size, member.info.compress_size if member.info else 0)
        if size > MOST_BYTES:
            raise ImageError(f"is {size:,} bytes; at most {MOST_BYTES:,} are read")
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
    """Whether a name is an archive, or a pattern of shards such as ``a-{00..12}.tar``."""
    return root.lower().endswith(ARCHIVE_ENDINGS)


def _expand(root: str) -> list[str]:
    """Return the names of the shards of a pattern, or the name of the only archive."""
    parts = _SHARDS.split(root, maxsplit=1)
    if len(parts) == 1 or os.path.exists(root):
        return [root]
    before, first, last, after = parts
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


def _list_zip(shard: str) -> _Members:
    read_at = partial(read_part, shard)
    with zipfile.ZipFile(shard) as file:
        for info in file.infolist():
            if not info.filename.endswith("/"):  # is_dir() fails for an empty name
                yield info.filename, _Member(read_at, 0, info.file_size, info)


def _list_tar(shard: str, file: Any = None, read_at: ReadAt | None = None) -> _Members:
    read_at = read_at or partial(read_part, shard)
    with tarfile.open(shard, "r:", file) as members:
        for info in members:
            if info.isreg() and not info.issparse():
                yield info.name, _Member(read_at, info.offset_data, info.size)
            elif not info.isdir():
                yield info.name, None


def _list_gzip(shard: str) -> _Members:
    from indexed_gzip import IndexedGzipFile

    # Its index of starting points makes every member quick to read.
    file = IndexedGzipFile(shard)
    return _list_tar(shard, file, file.pread)


def _unzip(read_at: ReadAt, info: zipfile.ZipInfo) -> bytes:
    """Return a member of a zip, unpacked up to its declared size.

    Source: the local file header, APPNOTE.TXT 4.3.7.
    """
    if info.flag_bits & 1:
        raise ImageError("is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(f"is packed by method {info.compress_type}; expected none or deflate")
    header = read_at(30, info.header_offset)
    name, extra = struct.unpack_from("<2H", header, 26)
    content = read_at(info.compress_size, info.header_offset + 30 + name + extra)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ImageError("is damaged in its archive")
    return content


# Ending of an archive -> function that yields its members. A new format needs an entry here.
ARCHIVE_FORMATS: Mapping[str, Callable[[str], _Members]] = {
    ".zip": _list_zip,
    ".tar": _list_tar,
    ".tar.gz": _list_gzip,
    ".tgz": _list_gzip,
}
ARCHIVE_ENDINGS = tuple(ARCHIVE_FORMATS)
