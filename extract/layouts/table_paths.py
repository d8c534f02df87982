"""Paths as tables write them -> the images that they mean.

A path that names no file may lack its ending, have backslashes or outer space, or be absolute in a
folder that has moved. It is mended where one file fits; otherwise it stays as it is.
"""

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import NamedTuple

from extract.core.errors import count_of, listed, quoted
from extract.images.kinds import IMAGE_ENDINGS
from extract.images.remote import is_url

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Mended(NamedTuple):
    """The paths of a table as they are used, notes on them, and why most are of no use, if so."""

    paths: Sequence[str]
    notes: Sequence[str]
    problem: str


def mend_paths(paths: Sequence[str], folder: str, root: str) -> Mended:
    """Return the paths of files, as far as there is one for each.

    Args:
        paths: The paths as a table has them.
        folder: The folder that they are relative to.
        root: The folder that the user has named, "" for none.
    """
    _names_in.cache_clear()  # folders may have changed since another table was read
    cleaned = [_clean(path) for path in paths]
    exists = partial(_exists, folder)
    missing = [row for row, path in enumerate(cleaned) if not exists(path)]
    drop = _find_dropped(folder, [cleaned[row] for row in missing])
    how = Counter[str]()
    for row in missing:
        for mend, path in _variants(folder, paths[row], drop):
            cleaned[row] = path
            how[mend] += 1
            break
    lost = [paths[row] for row in missing if not exists(cleaned[row])]
    notes = [f"{count_of(count, 'path')} {mend}" for mend, count in how.items()]
    if 2 * len(lost) <= len(paths):
        return Mended(cleaned, notes, "")
    inside = f"{quoted(root or folder or '.')}"
    problem = f"found no file for {len(lost):,} of {len(paths):,} paths ({_some(lost)}) in {inside}"
    remedy = "give the folder of the images with --root DIR"
    if root:
        remedy = "expected the folder that the paths start from"
    return Mended(cleaned, notes, f"{problem}; {remedy}")


def _some(paths: Sequence[str]) -> str:
    return listed(paths, "path").partition(" (")[2][:-1]


def _clean(path: str) -> str:
    """Return a path without ``./`` and ``//``, so that an image has one key."""
    if is_url(path) or not path:
        return path
    plain = posixpath.normpath(path)
    return plain if path[:2] != "//" else path


def _exists(folder: str, path: str) -> bool:
    try:
        return is_url(path) or os.path.lexists(os.path.join(folder, path))
    except ValueError:  # no file can have this name
        return False


def _variants(folder: str, path: str, drop: int) -> Iterator[tuple[str, str]]:
    """Yield what was mended and the path of a file, for each file that a path can mean."""
    bare = path.strip()
    slashed = bare.replace("\\", "/")
    moved = "/".join(_parts(slashed)[drop:]) if drop else slashed
    for words, candidate in (
        ("had outer space", bare),
        ("had backslashes", slashed),
        ("were absolute and are in another folder now", moved),
    ):
        plain = _clean(candidate)
        if plain and plain != path and _exists(folder, plain):
            yield words, plain
        for what, found in zip(
            ("had no ending", "had another case"), _near(folder, plain), strict=True
        ):
            if len(found) == 1:
                yield what, found[0]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _near(folder: str, path: str) -> tuple[list[str], list[str]]:
    """Return the images whose name is that of a path and an ending, and those in another case."""
    above, slash, name = path.rpartition("/")
    stems, folded = _names_in(os.path.join(folder, above + slash))
    found = [] if name.lower().endswith(IMAGE_ENDINGS) else stems.get(name, [])
    return [above + slash + n for n in found], [
        above + slash + n for n in folded.get(name.casefold(), [])
    ]


@lru_cache(64)
def _names_in(folder: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the names of images in a folder by their stem, and by their name without case."""
    stems, folded = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    with suppress(OSError, ValueError):
        for name in os.listdir(folder or "."):
            if name.lower().endswith(IMAGE_ENDINGS):
                stems[os.path.splitext(name)[0]].append(name)
                folded[name.casefold()].append(name)
    return stems, folded


def _find_dropped(folder: str, paths: Sequence[str]) -> int:
    """Return how many folders at the start of absolute paths to drop, 0 where no number fits."""
    fits = Counter[int]()
    absolute = [p for p in paths if os.path.isabs(p) or _DRIVE.match(p) or p.startswith("\\\\")]
    for path in absolute[:1000]:
        parts = _parts(path.strip().replace("\\", "/"))
        for drop in range(1, len(parts)):
            rest = "/".join(parts[drop:])
            if _exists(folder, rest) or _near(folder, rest)[0]:
                fits[drop] += 1
                break  # the longest rest is the one that is meant
    return fits.most_common(1)[0][0] if len(fits) == 1 else 0
