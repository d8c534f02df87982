"""One image of a source: its key, its path, its class and split, and how its bytes are read."""

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from extract.core.errors import ImageError, SettingError, SourceError, quoted
from extract.limits.image_size import claim_bytes

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = ("train training", "validation val valid", "test testing")
# Name of a folder, or word in a table or file name -> split.
SPLIT_OF = {word: split for split, words in enumerate(_SPLIT_WORDS) for word in words.split()}

Read = Callable[[str], bytes]
# The size of a file and its modification time in nanoseconds; zeros where they say nothing.
Stamp = tuple[int, int]
NO_STAMP: Stamp = (0, 0)
# FAT's clock has ticks of two seconds; those of other file systems are shorter.
_TICK_NS = 2 * 10**9


def to_utf8(name: str) -> str:
    """Return a file name with each byte that is not UTF-8 as a backslash escape."""
    return name.encode("utf-8", sys.getfilesystemencodeerrors()).decode("utf-8", "backslashreplace")


def read_file(path: str, folder: str = "") -> bytes:
    """Return the content of the file at ``path``, absolute or relative to ``folder``.

    Raises:
        ImageError: The file cannot be read.
    """
    try:
        with open_regular(os.path.join(folder, path)) as file:
            size = os.fstat(file.fileno()).st_size
            claim_bytes(size)
            return file.read(size)  # no more, because some files of the system never end
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise ImageError(f"cannot be opened: {reason_of(error)}") from error


def read_part(path: str, size: int, start: int) -> bytes:
    """Return up to ``size`` bytes of the file at ``path`` from the offset ``start``."""
    with open_regular(path, 0) as file:
        file.seek(start)
        return file.read(size)


def open_regular(path: str, buffering: int = -1) -> BinaryIO:
    """Open a file for reading, but no pipe, on which that may hang, and no device.

    Raises:
        OSError: The file cannot be opened, or is not a regular one.
    """
    _refuse_special(path, os.stat(path).st_mode)
    return open(path, "rb", buffering, opener=_open_at_once)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, but do not wait for a pipe that has taken its place since it was looked at."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _refuse_special(path, os.fstat(handle).st_mode)
    except OSError:
        os.close(handle)
        raise
    return handle


def _refuse_special(path: str, mode: int) -> None:
    if special := _special_kind(mode):
        raise OSError(errno.EINVAL, f"is a {special}, not a regular file", path)


def special_kind(path: str) -> str:
    """Return what a file is that is neither regular nor a folder, "" of any other.

    Raises:
        OSError: There is no such file.
    """
    return _special_kind(os.stat(path).st_mode)


def _special_kind(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


class Item(NamedTuple):
    """One image: ``label`` indexes the class names (-1: none), ``split`` indexes ``SPLITS``.

    ``read`` returns the bytes at ``path``; several threads may call it at once.
    """

    key: str
    path: str
    label: int
    split: int
    group: str = ""
    read: Read = read_file


class Source(NamedTuple):
    """The images of SOURCE sorted by key, and their classes.

    ``warnings`` are about doubtful layouts, ``notes`` say how names were read, and ``problem`` is
    why most of the images cannot be read, "" where they can.
    """

    items: tuple[Item, ...]
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]
    root: str
    notes: tuple[str, ...] = ()
    problem: str = ""


def read_item(item: Item) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: The image cannot be read.
    """
    return item.read(item.path)


def stamp_of(item: Item) -> Stamp:
    """Return the stamp of an image that is a file of its own; zeros of any other image.

    Also zeros for a file modified less than two seconds ago: it could change again within the same
    tick of the clock, and keep its stamp.
    """
    read: Any = item.read
    folder = ""
    if isinstance(read, partial):
        read, folder = read.func, read.keywords.get("folder", "")
    if read is not read_file:
        return NO_STAMP
    try:
        entry = os.stat(os.path.join(folder, item.path))
    except (OSError, ValueError):
        return NO_STAMP
    is_settled = 0 < entry.st_mtime_ns < time.time_ns() - _TICK_NS
    return (entry.st_size, entry.st_mtime_ns) if is_settled else NO_STAMP


def reason_of(error: Exception, most: int = 200) -> str:
    """Return in one line, of ``most`` characters, why something cannot be read."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:most] or type(error).__name__


@contextmanager
def reading(path: str, expected: str, extra: str = "") -> Iterator[None]:
    """Turn every error of a library that reads a file into a SourceError.

    Args:
        path: The file, for messages.
        expected: The expected content, for messages.
        extra: The extra of this package that installs an optional library.
    """
    try:
        yield
    except (SourceError, SettingError):
        raise
    except Exception as error:  # a damaged file makes a library raise errors of a dozen classes
        problem = f"cannot be read: {reason_of(error)}; expected {expected}"
        if isinstance(error, ImportError):
            problem = f'needs {error.name}; pip install "headstart[{extra}]"'
        raise SourceError(f"{quoted(path)}: {problem}") from error
