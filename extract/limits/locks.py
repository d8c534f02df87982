"""One run at a time writes to a path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from extract.core.errors import HeadstartError


@contextmanager
def locked(path: Path, error: type[HeadstartError], command: str) -> Iterator[None]:
    """Keep other processes from the same block for this path; the lock ends with the process.

    The lock is on a hidden file next to the path, which is removed on exit. Where that file cannot
    be made or locked, as on some network disks, the block runs without a lock.

    Args:
        path: A file or folder, which need not exist.
        error: The exception to raise.
        command: The name of the command that writes to the path.

    Raises:
        HeadstartError: Of the type ``error``; another process is in the block.
    """
    target = Path(os.path.realpath(path))
    place = target.with_name(f".{target.name}.lock")
    try:
        handle = _lock(place)
    except BlockingIOError:
        found = f"another {command} is writing to it; expected one at a time"
        raise error(f"{path}: {found}; wait for it, or name another place") from None
    try:
        yield
    finally:
        if handle is not None:
            _unlock(handle, place)


def _lock(place: Path) -> int | None:
    """Return the handle of a locked file, or None; raise BlockingIOError if another one has it."""
    while True:
        try:
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _lock_handle(handle)
            with suppress(FileNotFoundError):  # its former owner may have removed it meanwhile
                if os.name == "nt" or os.path.samestat(os.fstat(handle), place.stat()):
                    return handle
        except BlockingIOError:
            os.close(handle)
            raise
        except (OSError, ImportError):
            _unlock(handle, place)
            return None
        os.close(handle)


def _lock_handle(handle: int) -> None:
    """Lock an open file; raise BlockingIOError if another process has locked it."""
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = import_module("msvcrt")  # of Windows, where a part of a file is locked
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(handle: int, place: Path) -> None:
    """Remove and close a locked file; Windows removes none that is open."""
    try:
        place.unlink()
    except OSError:
        os.close(handle)
        with suppress(OSError):  # another process has it by now
            place.unlink()
    else:
        os.close(handle)
