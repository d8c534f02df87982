"""Files and folders that have their name only once they are whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.errors import HeadstartError


@contextmanager
def whole(path: Path, error: type[HeadstartError]) -> Iterator[Path]:
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
    beside, former = (
        place.with_name(f".{place.stem}.{os.getpid()}.{state}{place.suffix}")
        for state in ("new", "old")
    )
    try:
        yield beside
        if beside.is_dir() and place.is_dir():  # which nothing replaces at once
            place.rename(former)
        beside.replace(place)
    except OSError as failed:
        if isinstance(failed, HeadstartError):
            raise
        raise error(f"{path}: cannot be written: {failed.strerror or failed}") from failed
    finally:
        if former.exists() and not place.exists():
            former.rename(place)
        for leftover in (beside, former):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
