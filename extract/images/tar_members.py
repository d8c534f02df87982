"""The members of a tar, or of several in one file, as ``tar -A`` and ``cat`` join them."""

import re
import tarfile
from typing import Any

_BLOCK = 512


def list_members(file: Any) -> list[tuple[str, tuple[int, int] | None]]:
    """Return the name of each member, with / behind a folder, and offset and size of its content.

    A hard link is the file that it leads to; other links and devices have no content.

    Args:
        file: The file, open for reading bytes.

    Raises:
        tarfile.ReadError: A header is damaged, or the end is missing.
    """
    members, start = list[tarfile.TarInfo](), 0
    while start >= 0:
        file.seek(start)
        with tarfile.open(None, "r:", file) as tar:
            members += (_without_times(file, info) for info in tar)
            start = _find_next(file, tar.offset)
    files = {info.name: info for info in members if info.isreg() and not info.issparse()}
    found: list[tuple[str, tuple[int, int] | None]] = []
    for info in members:
        content = files.get(info.linkname) if info.islnk() else files.get(info.name)
        if info.isreg():
            content = None if info.issparse() else info
        place = (content.offset_data, content.size) if content else None
        found.append((info.name + "/" * info.isdir(), place))
    return found


def _without_times(file: Any, info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove from a name what GNU tar keeps in the place of its first folder, an access time."""
    if re.match(r"[0-7]{11}/", info.name):
        file.seek(info.offset)
        header = file.read(_BLOCK)
        if header[257:265] == b"ustar  \0":
            info.name = info.name[12:]
    return info


def _find_next(file: Any, end: int) -> int:
    """Return where another tar starts behind the end of one, -1 for none.

    Source: POSIX ends a tar with two blocks of zeros; ``tarfile`` stops at a damaged header, too.
    """
    file.seek(end)
    block = file.read(_BLOCK)
    if not block:
        problem = f"has no end at byte {end:,}, so it may be cut off"
        raise tarfile.ReadError(
            f"{problem}; if it is whole, head -c 1024 /dev/zero >> FILE ends it"
        )
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {end:,} is damaged; make the archive again")
    while content := file.read(2**16):
        rest = content.lstrip(b"\0")
        if rest:
            place = int(file.tell()) - len(rest)
            return place - (place - end) % _BLOCK
    return -1
