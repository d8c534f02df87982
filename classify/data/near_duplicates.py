"""Near-duplicates in training: kept in one group, or warned of where they are on two sides."""

import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Features, Labels, StoredRows
from extract.core.console import log
from extract.core.errors import SettingError, count_of, quoted
from extract.images.digests import describe_leaks, group_by_digest
from extract.similarity.directions import Directions
from extract.similarity.near_duplicates import group_near, warn_of_chains
from extract.similarity.near_pairs import Pairs, find_pairs
from extract.similarity.threshold import choose_threshold

# Rows that are looked at before training, in runs of neighbours, and their bytes if they are read
# from the file. Copies are often neighbours by key.
_MOST_ROWS, _RUN, _MOST_BYTES = 3072, 256, 2**27
_MOST_LISTED = 1000  # pairs

_Found: TypeAlias = tuple[Labels, Labels, NDArray[Any]]
# The features that were searched last, a checksum of those in memory, and the pairs.
_last: list[tuple["weakref.ref[Features]", int, _Found]] = []


class NearPair(NamedTuple):
    """Two rows on two sides whose images are near-duplicates, and the cosine of their features."""

    first: int
    second: int
    cosine: float


def group_near_duplicates(X: Features, groups: Sequence[str] | None) -> list[str]:
    """Join the groups of rows that are near-duplicates under the first of their names.

    Args:
        X: (N, *shape) features.
        groups: N names, or None.

    Returns:
        N names.

    Raises:
        SettingError: There are too many pairs of near-duplicates.
    """
    directions = _directions(X, np.arange(len(X)))
    threshold = choose_threshold(directions)
    parts, _ = group_near(directions, threshold.cosine)
    numbers = len(directions) + np.arange(len(X))  # a row without a direction is alone
    numbers[directions.rows] = parts
    sizes = np.bincount(parts, minlength=1)
    found = f"{count_of(int((sizes > 1).sum()), 'group')} of near-duplicates stay together"
    log.info("%s: cosine of %.4f or more, %s", found, *threshold)
    warn_of_chains(int(sizes.max()), len(directions))
    return group_by_digest(np.stack([numbers, numbers], 1).view(np.uint8), groups)


def describe_all_leaks(
    X: Features,
    digests: Any,
    keys: Sequence[str],
    sides: tuple[Any, Any],
    noun: str,
    *,
    near: bool = True,
) -> Iterator[str]:
    """Yield a line about identical image files and one about near-duplicates on two sides.

    Args:
        X: (N, *shape) features.
        digests: (N, 16) uint8 of the image files, or None.
        keys: N names, for examples.
        sides: (N,) the side of each row, and (N,) those that no ``--groups`` changes.
        noun: The word for the sides, such as folds.
        near: Look for near-duplicates.
    """
    now, fixed = sides
    stuck = "" if digests is None else describe_leaks(digests, fixed, keys)
    remedy = "move or " if stuck else "give --groups digest, or "
    if digests is not None and (leaks := describe_leaks(digests, now, keys, noun, remedy)):
        yield leaks
    # With copies that are stuck, --groups near ends in an error as well.
    if near and (
        found := describe_near_leaks(X, digests, keys, now, noun, now if stuck else fixed)
    ):
        yield found


def describe_near_leaks(
    X: Features, digests: Any, keys: Sequence[str], sides: Any, noun: str, fixed: Any
) -> str:
    """Name near-duplicates that are on two sides, in a bounded sample; return "" without any.

    Args:
        X: (N, *shape) features.
        digests: (N, 16) uint8 of the image files, or None; identical files are left out here.
        keys: N names, for an example.
        sides: (N,) the side of each row.
        noun: The word for the sides, such as folds.
        fixed: (N,) the sides that no ``--groups`` changes; it is offered for pairs within them.
    """
    rows = _sample(X)
    first, second, cosine = _find_sampled(X, rows)
    stuck = (fixed[first] != fixed[second]).any()
    parted = sides[first] != sides[second]
    if digests is not None:
        parted &= (digests[first] != digests[second]).any(axis=1)
    if not parted.any():
        return ""
    first, second, cosine = first[parted], second[parted], cosine[parted]
    best = int(cosine.argmax())
    pair = f"{quoted(keys[first[best]])} ~ {quoted(keys[second[best]])}, cosine {cosine[best]:.3f}"
    count = count_of(len(np.union1d(first, second)), "image")
    sampled = f" in a sample of {len(rows):,} of {len(X):,}" if len(rows) < len(X) else ""
    remedy = "give --groups near"
    if stuck:
        remedy = "see show-features --near, and move or remove one of each"
    found = f"found near-duplicates in two {noun}: {count}{sampled} ({pair})"
    return f"{found}; expected each with its copies in one, or scores are too high; {remedy}"


def list_near_leaks(X: Features, sides: Labels) -> tuple[list[NearPair], int]:
    """Return near-duplicates and copies that are on two sides, in a bounded sample.

    Args:
        X: (N, *shape) features.
        sides: (N,) the side of each row.

    Returns:
        The first thousand pairs, the highest cosine first, and the number of all.
    """
    first, second, cosine = _find_sampled(X, _sample(X))
    parted = sides[first] != sides[second]
    first, second, cosine = first[parted], second[parted], cosine[parted].round(6)
    order = np.lexsort([second, first, -cosine])[:_MOST_LISTED]
    columns = first[order].tolist(), second[order].tolist(), cosine[order].tolist()
    return list(map(NearPair, *columns)), len(first)


def _find_sampled(X: Features, rows: Labels) -> _Found:
    """Return all pairs of near-duplicates among some rows with their cosines.

    A run asks for them several times, so the last answer is kept as long as its features are.
    """
    state = zlib.crc32(np.ascontiguousarray(X[rows]).data) if isinstance(X, np.ndarray) else 0
    if _last and _last[0][0]() is X and _last[0][1] == state:
        return _last[0][2]
    found = _search(X, rows)
    _last[:] = [(weakref.ref(X, lambda _: _last.clear()), state, found)]
    return found


def _search(X: Features, rows: Labels) -> _Found:
    directions, none = _directions(X, rows), np.empty(0, np.int64)
    if len(directions) < 2:
        return none, none, np.empty(0)
    try:
        pairs = find_pairs(directions, choose_threshold(directions, len(X)).cosine)
    except SettingError:  # more pairs than memory holds: nothing that a few could say
        return none, none, np.empty(0)
    return _with_copies(directions, pairs)


def _sample(X: Features) -> Labels:
    """Return all rows, or runs of neighbours that are evenly spaced."""
    most = _MOST_ROWS
    if isinstance(X, StoredRows):
        most = max(1, min(most, _MOST_BYTES // (4 * int(np.prod(X.shape[1:])))))
    if len(X) <= most:
        return np.arange(len(X))
    run = min(_RUN, most)
    starts = np.linspace(0, len(X) - run, most // run).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(run))


def _directions(X: Features, rows: Labels) -> Directions:
    def read(part: Labels) -> NDArray[np.floating]:
        return X.read(part) if isinstance(X, StoredRows) else X[part]

    return Directions(read, rows, 4 * int(np.prod(X.shape[1:])))


def _with_copies(directions: Directions, pairs: Pairs) -> tuple[Labels, Labels, NDArray[Any]]:
    """Return the rows of pairs, and of each exact copy with the first one, with their cosines."""
    copies = np.flatnonzero(directions.firsts != np.arange(len(directions)))
    first = np.concatenate([pairs.first, directions.firsts[copies]])
    second = np.concatenate([pairs.second, copies])
    cosine = np.concatenate([pairs.cosine, np.ones(len(copies))])
    return directions.rows[first], directions.rows[second], cosine
