"""Paths as tables write them -> the images that they mean.

A path that names no file may lack its ending, have backslashes or outer space, or be absolute in a
folder that has moved. It is mended where one file fits; otherwise it stays as it is.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import NamedTuple

from extract.core.errors import SourceError, count_of, listed, quoted
from extract.images.kinds import IMAGE_ENDINGS
from extract.images.remote import is_url
from extract.layouts.split_folders import split_in

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# Absolute paths that are tried to find the folder that has moved.
_MOST_TRIED = 1000
# Folders below that are searched for an image by its name alone.
_DEEPEST = 3


class Mended(NamedTuple):
    """The paths of a table as they are used, what is said of them, and why most are of no use."""

    paths: Sequence[str]
    notes: Sequence[str]
    warnings: Sequence[str]
    problem: str


def mend_paths(paths: Sequence[str], folder: str, root: str) -> Mended:
    """Return the paths of files, as far as there is one for each.

    Args:
        paths: The paths as a table has them.
        folder: The folder that they are relative to.
        root: The folder that the user has named, "" for none.

    Raises:
        SourceError: Two paths lead to one file.
    """
    _names_in.cache_clear()  # folders may have changed since another table was read
    cleaned = [_clean(path) for path in paths]
    exists = partial(_exists, folder)
    missing = [row for row, path in enumerate(cleaned) if not exists(path)]
    drop = _find_dropped(folder, [cleaned[row] for row in missing])
    how: dict[str, list[str]] = {}
    for row in missing:
        for mend, path in _variants(folder, paths[row], drop):
            cleaned[row] = path
            how.setdefault(mend, []).append(f"{paths[row]} is {path}")
            break
    below = [row for row in missing if not exists(cleaned[row]) and "/" not in cleaned[row].strip()]
    for row, path in _find_below(folder, {row: cleaned[row].strip() for row in below}):
        cleaned[row] = path
        how.setdefault("are in a folder below", []).append(f"{paths[row]} is {path}")
    _check_different(folder, cleaned)
    notes = [f"{count_of(len(f), 'path')} {m} ({quoted(f[0])})" for m, f in how.items()]
    lost = [paths[row] for row in missing if not exists(cleaned[row])]
    if not lost:
        return Mended(cleaned, notes, [], "")
    shown = listed(lost, "path").partition(" (")[2][:-1]
    problem = f"found no file for {len(lost):,} of {len(paths):,} paths ({shown})"
    if 2 * len(lost) <= len(paths):
        return Mended(cleaned, notes, [f"{problem}; their rows will be failed"], "")
    remedy = "give the folder of the images with --root DIR"
    if root:
        remedy = "expected the folder that the paths start from"
    if len(fits := _near(folder, _clean(lost[0].strip()))[0]) > 1:
        remedy = f"{quoted(lost[0])} may be {' or '.join(map(quoted, fits[:2]))}; write the ending"
    return Mended(cleaned, notes, [], f"{problem} in {quoted(root or folder or '.')}; {remedy}")


def _clean(path: str) -> str:
    """Return a path without ``./`` and ``//``, so that an image has one key."""
    if "//" not in path and "/." not in path and path[:1] != "." and path[-1:] != "/":
        return path  # most paths
    if is_url(path) or path[:2] == "//":
        return path
    return posixpath.normpath(path)


def _exists(folder: str, path: str) -> bool:
    try:
        return is_url(path) or os.path.isfile(os.path.join(folder, path))
    except ValueError:  # no file can have this name
        return False


def _check_different(folder: str, paths: Sequence[str]) -> None:
    """Raise SourceError where an absolute path, or one with .., is that of another row, too."""
    if not any(path.startswith(("/", "..")) or _DRIVE.match(path) for path in paths):
        return
    rows: dict[str, int] = {}
    for row, path in enumerate(paths):
        place = path if is_url(path) else os.path.abspath(os.path.join(folder, path))
        first = rows.setdefault(place, row)
        if paths[first] != path:
            found = (
                f"found {quoted(paths[first])} and {quoted(path)} in row {first + 1} and {row + 1}"
            )
            raise SourceError(f"{quoted(folder or '.')}: {found}, which are one file; remove one")


def _variants(folder: str, path: str, drop: int | None) -> Iterator[tuple[str, str]]:
    """Yield what was mended and the path of a file, for each file that a path can mean."""
    bare = path.strip()
    slashed = bare.replace("\\", "/")
    moved = slashed if drop is None else "/".join(_parts(slashed)[drop:])
    for words, candidate in (
        ("had outer space", bare),
        ("had backslashes", slashed),
        ("were absolute and are in another folder now", moved),
    ):
        plain = _clean(candidate)
        if plain and plain != path and _exists(folder, plain):
            yield words, plain
        for what, found in zip(
            ("had no ending", "had another case or form"), _near(folder, plain), strict=True
        ):
            if len(found) == 1:
                yield what, found[0]


def _find_below(folder: str, names: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Yield the row and path of names, with an ending or without, that one image below has."""
    if not names:
        return
    found = defaultdict[str, list[str]](list)
    for above, folders, files in os.walk(folder or "."):
        inside = os.path.relpath(above, folder or ".")
        folders[:] = [] if inside.count(os.sep) >= _DEEPEST - 1 else folders
        for name in files:
            if name.lower().endswith(IMAGE_ENDINGS):
                path = posixpath.join(*inside.split(os.sep), name)
                for key in {name, os.path.splitext(name)[0]}:
                    found[key].append(_clean(path))
    for row, name in names.items():
        if len(paths := found.get(name, [])) == 1:
            yield row, paths[0]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".") and not part.endswith(":")]


def _near(folder: str, path: str) -> tuple[list[str], list[str]]:
    """Return the images whose name is a path and an ending, and those in another case or form."""
    above, slash, name = path.rpartition("/")
    stems, folded = _names_in(os.path.join(folder, above + slash))
    found = [] if name.lower().endswith(IMAGE_ENDINGS) else stems.get(name, [])
    alike = folded.get(_fold(name), [])
    return [above + slash + n for n in found], [above + slash + n for n in alike]


@cache
def _names_in(folder: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the names of images in a folder by their stem, and by their name in one form."""
    stems, folded = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    with suppress(OSError, ValueError):
        for name in os.listdir(folder or "."):
            if name.lower().endswith(IMAGE_ENDINGS):
                stems[os.path.splitext(name)[0]].append(name)
                folded[_fold(name)].append(name)
    return stems, folded


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _find_dropped(folder: str, paths: Sequence[str]) -> int | None:
    """Return how many folders at the start of absolute paths to drop, None where no number fits."""
    fits = Counter[int]()
    absolute = [p for p in paths if os.path.isabs(p) or _DRIVE.match(p) or p.startswith("\\")]
    here = os.path.basename(os.path.abspath(folder or "."))
    for path in absolute[:_MOST_TRIED]:
        parts = _parts(path.strip().replace("\\", "/"))
        for drop in range(len(parts)):
            rest = "/".join(parts[drop:])
            if _exists(folder, rest) or _near(folder, rest)[0]:
                if _is_safe(parts, drop, here):
                    fits[drop] += 1
                break  # the longest rest is the one that is meant
    return fits.most_common(1)[0][0] if len(fits) == 1 else None


def _is_safe(parts: Sequence[str], drop: int, here: str) -> bool:
    """Whether a file that fits the end of a path is likely to be the one that is meant.

    The end has a folder, or the folder above it has the name of the one that is searched. An image
    of one split is none of another.
    """
    above = parts[drop - 1] if drop else here
    same = above.casefold() == here.casefold()
    return same or (drop < len(parts) - 1 and split_in(above) is None)
