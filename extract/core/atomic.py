"""Atomic writes: a file or folder gets its name only once it is complete.

Also removes what killed processes leave.
"""

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path

from extract.core.errors import HeadstartError, StoreError

# The states of a temporary path: being written; replaced and not yet removed.
_NEW, _OLD = "new", "old"
# The errors of a folder in which no file can be made.
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
_CACHE_SECONDS = 86400.0
# Bytes of a name that leave room for the number of a process and a state, of 255 in all.
_MOST_NAME = 200


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; delete it on exit unless it was moved into place.

    Args:
        path: The final path, for ``move_into_place`` or ``publish``.

    Yields:
        A path that does not exist, in the same folder and with the same ending.
    """
    remove_leftovers(path)
    temporary = _name(path, _NEW)
    try:
        yield temporary
    finally:
        remove(temporary)


@contextmanager
def atomic_write(
    path: Path, error: type[HeadstartError], wait: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Yield a temporary path and move it into place on success.

    After a failure the former file or folder is still there. A link stays; its target is replaced.

    Args:
        path: The file or folder to write.
        error: The exception to raise if it cannot be written.
        wait: Waits until the content is on the disk, by default file by file.

    Yields:
        The path to write to, with the same ending.

    Raises:
        HeadstartError: Of the type ``error``; the file or folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        with temporary_path(target) as temporary:
            yield temporary
            move_into_place(temporary, target, wait)
    except OSError as failed:
        if isinstance(failed, HeadstartError):
            raise
        raise error(f"{path}: cannot be written: {failed.strerror or failed}") from failed


@contextmanager
def cache_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path and move it into place, unless another process was first.

    Leftovers are removed a day later, as another machine may still be writing to them.

    Args:
        path: The file or folder to write.

    Yields:
        The path to write to.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{'[0-9a-f]' * 32}.{_NEW}"):
        with suppress(OSError):  # another process removed it first
            if time.time() - leftover.stat().st_mtime > _CACHE_SECONDS:
                remove(leftover)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{_NEW}")
    try:
        yield temporary
        if temporary.is_dir():
            remove(path)
        with suppress(OSError):
            temporary.replace(path)
    finally:
        remove(temporary)


def check_writable(path: Path, error: type[HeadstartError]) -> None:
    """Raise ``error`` unless a file can be made next to ``path``; call it before long work."""
    if not path.absolute().parent.is_dir():
        raise error(f"{path}: no folder {path.absolute().parent}; expected one; make it")
    try:
        # Permissions do not tell: a disk can be read-only, and root may write everywhere else.
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
            pass
    except OSError as failed:
        if failed.errno not in _CLOSED:  # another place is no remedy for a full disk
            raise
        raise error(f"{path}: cannot be written: {failed.strerror}; name another place") from failed


def move_into_place(
    temporary: Path, path: Path, wait: Callable[[Path], None] | None = None
) -> None:
    """Move a file or folder to its final path, with its content on the disk before its name.

    A file replaces another in one step. A folder cannot: if the process is killed between two
    renames, the former folder has a name from which ``remove_leftovers`` restores it.
    """
    (wait or _fsync_tree)(temporary)
    former = _name(path, _OLD)
    try:
        if temporary.is_dir() and path.is_dir():
            path.rename(former)
        temporary.replace(path)
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
    fsync(path.parent)
    remove(former)


def publish(temporary: Path, path: Path) -> None:
    """Move a file or folder to its final path, unless another run has just made that path.

    Raises:
        StoreError: Another run has made it.
    """
    _fsync_tree(temporary)
    try:
        # Only an empty folder is replaced by another one.
        temporary.rename(path) if temporary.is_dir() else os.link(temporary, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            problem = "another run has just made it; run the same command again"
            raise StoreError(f"{path}: {problem}") from None
        if temporary.is_dir():
            raise
        # A file system without hard links.
        os.rename(temporary, path)
    fsync(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left next to ``path``; restore a folder that was moved away.

    The files of other machines and containers are left alone for a day.
    """
    stem, suffix = re.escape(_stem(path)), re.escape(path.suffix)
    pattern = rf"\.{stem}\.([0-9a-f]{{8}})-(\d+)\.({_NEW}|{_OLD}){suffix}"
    for leftover in list(path.parent.glob(".*")):
        match = re.fullmatch(pattern, leftover.name)
        if not match or not _is_left(leftover, match[1], int(match[2])):
            continue
        if match[3] == _OLD and not path.exists():
            leftover.rename(path)
        else:
            remove(leftover)


def _is_left(temporary: Path, machine: str, number: int) -> bool:
    """Return whether the process that made a temporary file or folder has ended."""
    import psutil

    if machine == _machine():
        # In a container every run may have the same number, so one with ours is not running either.
        return number == os.getpid() or not psutil.pid_exists(number)
    with suppress(OSError):  # it was moved into place meanwhile
        newest = max(path.lstat().st_mtime for path in (temporary, *temporary.rglob("*")))
        return time.time() - newest > _CACHE_SECONDS
    return False


@cache
def _machine() -> str:
    """Return a digest of the names of the machine and of the container that count processes."""
    space = ""
    with suppress(OSError):  # only Linux has containers
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.blake2b(f"{platform.node()} {space}".encode(), digest_size=4).hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's names if the system allows it, is on the disk."""
    is_folder = path.is_dir()
    with suppress(OSError) if is_folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            fsync_handle(handle)
        finally:
            os.close(handle)


def fsync_handle(handle: int) -> None:
    """Wait until the content of an open file is on the disk."""
    try:
        import fcntl

        # On macOS fsync leaves the content in the cache of the disk.
        fcntl.fcntl(handle, getattr(fcntl, "F_FULLFSYNC"))  # noqa: B009
    except (ImportError, AttributeError, OSError):  # another system, or a disk without that
        os.fsync(handle)


def sync_disks(path: Path) -> None:
    """Wait until all content is on the disks: for many files faster than file by file."""
    # Windows has no such call.
    getattr(os, "sync", partial(_fsync_tree, path))()


def _fsync_tree(path: Path) -> None:
    for part in (*path.rglob("*"), path):
        fsync(part)


def _name(path: Path, state: str) -> Path:
    return path.with_name(f".{_stem(path)}.{_machine()}-{os.getpid()}.{state}{path.suffix}")


def _stem(path: Path) -> str:
    """Return the stem of a name, or a digest of one that leaves no room for more."""
    stem = path.stem
    long = len(os.fsencode(path.name)) > _MOST_NAME
    return hashlib.blake2b(os.fsencode(stem), digest_size=16).hexdigest() if long else stem


def remove(path: Path) -> None:
    """Remove a file or a folder with its content."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
