"""HDF5 files that crash or block HDF5, or fill the memory: found out in a separate process.

HDF5 loops or crashes on some damaged files, and its texts are references: thousands may lead to one
text that is as large as the file. So a separate process with limits reads all structure, attributes
and texts first. It starts in 0.2 s and stays for the next file.
"""

import atexit
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

# Seconds of the processor for a file, and bytes of it that are worth another second: a row without
# features has 200 bytes and takes 2 microseconds.
_SECONDS, _BYTES_A_SECOND = 5, 2**25
# Memory beside that of Python, and times the size of the file: texts of Python are larger.
_MEMORY, _MEMORY_TIMES = 2**30, 4
# Texts that are read at once: first, and later if the first ones are no trap.
_FEW, _MANY = 256, 8192

# The signal of a process that has used up its time.
_XCPU = 24

T = TypeVar("T")
_lock = threading.Lock()
# Device, number, size and time of the files that were read, and the trap in each.
_checked: dict[tuple[int, int, int, int], str] = {}


def find_trap(path: str | Path) -> str:
    """Say why HDF5 must not read a file in this process; empty if it may.

    A file that is damaged otherwise, or cannot be opened, is no trap: its reader names it.

    Raises:
        OSError: There are too few file handles or too little memory for another process.
    """
    entry = os.stat(path)
    state = entry.st_dev, entry.st_ino, entry.st_size, entry.st_mtime_ns
    with _lock:
        if state in _checked:
            return _checked[state]
        try:
            trap = _reader.ask(path)
        except BaseException:
            _reader.stop()
            raise
        if trap is not None:
            _checked[state] = trap
        return trap or ""


def bytes_of_arrays(path: str | Path) -> list[int]:
    """Return how many bytes each array in an HDF5 file has in memory."""
    import h5py

    sizes = []

    def add(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            sizes.append(math.prod(node.shape or ()) * node.dtype.itemsize)

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return sizes


def read_floats(path: str | Path) -> dict[str, Any]:
    """Return the float32 arrays in an HDF5 file by name, without those that lie in another file."""
    import h5py
    import numpy as np

    arrays: dict[str, Any] = {}

    def add(name: str, node: Any) -> None:
        is_own = isinstance(node, h5py.Dataset) and not node.is_virtual and not node.external
        if is_own and node.dtype == np.float32:
            arrays[name] = np.asarray(node[()])

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return arrays


class _Reader:
    """The process that reads, from the first file to the end of this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, path: str | Path) -> str | None:
        """Return the trap in a file, None if it cannot be read."""
        process = self._start()
        # It does not start where Python or h5py do not start a second time.
        if not process or not process.stdin or not process.stdout:
            return None
        process.stdin.write(f"{json.dumps(os.path.abspath(path))}\n")
        process.stdin.flush()
        if answer := process.stdout.readline():
            trap: str | None = json.loads(answer)
            return trap
        too_long = process.wait() == -_XCPU
        self.stop()
        return "HDF5 does not come to its end" if too_long else "HDF5 crashes on it"

    def _start(self) -> subprocess.Popen[str] | None:
        if self._process and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.stop()
        # -P: import nothing from the folder of the stranger's file.
        words = [sys.executable, "-P", "-W", "ignore", __file__]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # Threads of OpenBLAS reserve memory.
        pipes |= {"stderr": subprocess.DEVNULL, "env": {**os.environ, "OPENBLAS_NUM_THREADS": "1"}}
        self._process = subprocess.Popen(words, **pipes, encoding="ascii")
        self._owner = os.getpid()
        if self._process.stdout and self._process.stdout.readline():
            return self._process
        self.stop()
        return None

    def stop(self) -> None:
        """End the process, unless another process has started it."""
        process, self._process = self._process, None
        if process and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close() if pipe else None


_reader = _Reader()
atexit.register(_reader.stop)


def _serve() -> None:
    """Answer each path on stdin with the trap in the file."""
    import signal

    import h5py  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        path = json.loads(line)
        with suppress(OSError):
            _set_limits(os.path.getsize(path))
        sys.stdout.write(f"{json.dumps(_read(path))}\n")
        sys.stdout.flush()


def _set_limits(size: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime + _SECONDS + size / _BYTES_A_SECOND
    memory = _MEMORY + _MEMORY_TIMES * size
    limits = {"RLIMIT_CPU": int(seconds) + 1, "RLIMIT_AS": memory, "RLIMIT_CORE": 0}
    for name, most in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(OSError, ValueError):  # macOS bounds no memory
            resource.setrlimit(kind, (soft, hard))


class _TrapError(Exception):
    """What is a trap in a file."""


def _read(path: str) -> str | None:
    """Read the structure, the attributes and the texts of a file; say what is a trap, "" if none.

    None is for a file that cannot be read.
    """
    import h5py

    def visit(name: str, node: Any) -> str | None:
        # The walk ends at the first answer; an exception would not pass through it.
        try:
            _read_object(name, node, size)
        except _TrapError as trap:
            return str(trap)
        return None

    def walk() -> str:
        with h5py.File(path, "r") as file:
            return visit("", file) or str(file.visititems(visit) or "")

    try:
        size = os.path.getsize(path)
        return _attempt("it", walk)
    except _TrapError as trap:
        return str(trap)


def _attempt(name: str, read: Callable[[], T]) -> T | None:
    """Return what is read; None where it is damaged, about which its reader says more."""
    try:
        return read()
    except _TrapError:
        raise
    except Exception as error:  # h5py raises a dozen kinds over hostile metadata
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise _TrapError(f"{name} needs far more memory than the file has bytes") from error
        return None


def _read_object(name: str, node: Any, size: int) -> None:
    """Read the attributes of an object, and where its values lie; all of its texts."""
    import h5py

    total = 0
    for key in node.attrs:
        total += _attempt(str(key), partial(_bytes_of_attribute, node, key)) or 0
        if total > size:
            raise _TrapError(f"{key} has more text than the file has bytes")
    if isinstance(node, h5py.Dataset):
        _attempt(name, lambda: _read_dataset(name, node, size))


def _bytes_of_attribute(node: Any, key: str) -> int:
    import h5py

    dtype = node.attrs.get_id(key).dtype
    # HDF5 may crash when it reads an attribute of another type.
    is_read = dtype.kind in "biufS" or h5py.check_string_dtype(dtype)
    return _bytes_of(node.attrs[key]) if is_read else 0


def _read_dataset(name: str, node: Any, size: int) -> None:
    import h5py

    if node.is_virtual or node.external:  # they would read another file
        return
    node.id.get_storage_size()
    varies = h5py.check_string_dtype(node.dtype) or h5py.check_vlen_dtype(node.dtype)
    if not varies or node.dtype.kind != "O":
        return
    total, start, count = 0, 0, _FEW
    while node.shape and start < len(node):
        total += _bytes_of(node[start : start + count])
        if total > size:
            raise _TrapError(f"{name} has more text than the file has bytes")
        start, count = start + count, min(2 * count, _MANY)


def _bytes_of(value: Any) -> int:
    """Return the bytes of a text, or of all texts or lists of numbers in an array."""
    if isinstance(value, str | bytes):
        return len(value)
    if getattr(value, "dtype", None) is not None and value.dtype.kind == "O":
        values = value.ravel().tolist()
        return sum(getattr(each, "nbytes", 0) or len(each) for each in values)
    return int(getattr(value, "nbytes", 0))


if __name__ == "__main__":
    _serve()
