"""Files and folders that get their name only once they are whole, and what kills leave of them."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from extract.core.errors import HeadstartError, StoreError

# Being made; replaced, and not yet removed.
_NEW, _OLD = "new", "old"
# What a system says of a folder in which nothing may be made.
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


@contextmanager
def temporary_path(place: Path) -> Iterator[Path]:
    """Give a name beside ``place`` for what is made to take it; what has not is gone on leaving.

    Args:
        place: Where it is to go, with ``move_into_place``.

    Yields:
        A name that nothing has, with the same ending.
    """
    remove_leftovers(place)
    made = _name(place, _NEW)
    try:
        yield made
    finally:
        remove(made)


@contextmanager
def atomic_write(path: Path, error: type[HeadstartError]) -> Iterator[Path]:
    """Give a path beside another one, for a file or folder that takes its place once it is whole.

    Whatever happens, what was there or what is new stands there, and nothing is left beside it. A
    link stays, and what it leads to is replaced.

    Args:
        path: Where to.
        error: What is raised where it cannot be written.

    Yields:
        The path to write to, of the same ending.

    Raises:
        HeadstartError: ``error``; it cannot be written.
    """
    place = path.resolve()
    try:
        with temporary_path(place) as made:
            yield made
            move_into_place(made, place)
    except OSError as failed:
        if isinstance(failed, HeadstartError):
            raise
        raise error(f"{path}: cannot be written: {failed.strerror or failed}") from failed


def check_writable(path: Path, error: type[HeadstartError]) -> None:
    """Raise ``error`` unless a file can be made beside ``path``: asked before long work for it."""
    if not path.absolute().parent.is_dir():
        raise error(f"{path}: no folder {path.absolute().parent}; expected one; make it")
    try:
        # Tried, as rights alone do not say it: not of a read-only disk, nor of root's own.
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as failed:
        if failed.errno not in _CLOSED:  # a full disk is no reason to name another place
            raise
        raise error(f"{path}: cannot be written: {failed.strerror}; name another place") from failed


def move_into_place(made: Path, place: Path) -> None:
    """Let a file or folder take a place, its content on the disk before its name.

    A file takes it in one step. A folder cannot take that of another: a kill between two renames
    leaves the former one as it is under a name from which ``remove_leftovers`` brings it back.
    """
    for path in (*made.rglob("*"), made):
        fsync(path)
    former = _name(place, _OLD)
    try:
        if made.is_dir() and place.is_dir():
            place.rename(former)
        made.replace(place)
    finally:
        if former.exists() and not place.exists():
            former.rename(place)
    fsync(place.parent)
    remove(former)


def remove_leftovers(place: Path) -> None:
    """Remove what killed runs left beside ``place``; what had been there before comes back."""
    import psutil

    name = re.compile(
        rf"\.{re.escape(place.stem)}\.(\d+)\.({_NEW}|{_OLD}){re.escape(place.suffix)}"
    )
    for path in list(place.parent.iterdir()) if place.parent.is_dir() else ():
        match = name.fullmatch(path.name)
        # In a container every run may have the same number: one with ours is not at work either.
        if not match or (int(match[1]) != os.getpid() and psutil.pid_exists(int(match[1]))):
            continue
        if match[2] == _OLD and not place.exists():
            path.rename(place)
        else:
            remove(path)


def fsync(path: Path) -> None:
    """Wait until a file's content, or where it can be done a folder's names, is on the disk."""
    folder = path.is_dir()
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _name(place: Path, state: str) -> Path:
    return place.with_name(f".{place.stem}.{os.getpid()}.{state}{place.suffix}")


def remove(path: Path) -> None:
    """Remove a file or a whole folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def publish(made: Path, path: Path) -> None:
    """Give a finished file or folder its name, unless another run has just taken that name.

    Raises:
        StoreError: It has.
    """
    for part in (*made.rglob("*"), made):
        fsync(part)
    try:
        # Only an empty folder gives way to another one.
        made.rename(path) if made.is_dir() else os.link(made, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise StoreError(
                f"{path}: another run has just made it; run the same command again"
            ) from None
        if made.is_dir():
            raise
        # A file system without hard links.
        os.rename(made, path)
    fsync(path.parent)
