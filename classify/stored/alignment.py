"""The rows of several stores that are of the same image.

A row of the first store and one of another store are of the same image if they have the same key
and their image files the same bytes; or the same bytes under two keys, such as those of a renamed
folder; or, where neither holds, the same key. Of several rows of the same bytes the first one of
the file is taken: the same bytes have the same features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Labels
from extract.core.console import log
from extract.core.errors import StoreError, count_of, quoted
from extract.core.row_block import DONE, PENDING
from extract.images.item import SPLITS
from extract.store.open import Store


class Match(NamedTuple):
    """The rows of another store that have the images of the first store's rows.

    Attributes:
        rows: (N,) int64 rows of the other store; -1 without one.
        by_digest: (N,) bool, matched under another key by the bytes of the image file.
        changed: (N,) bool, matched by a key whose image files differ.
    """

    rows: Labels
    by_digest: NDArray[np.bool_]
    changed: NDArray[np.bool_]


def align(stores: Sequence[Store], rows: Labels, compare: bool = True) -> list[Labels]:
    """Return the rows of each store, image by image, for images that every store has.

    What does not match, and labels, splits and groups that differ from the first store's, are
    logged: one line for each other store.

    Args:
        stores: The open stores.
        rows: The increasing rows of the first store that are used.
        compare: Whether labels, splits and groups of the files are compared.

    Raises:
        StoreError: A store is unfinished, or has none of the images.
    """
    first, *others = stores
    matches = [_match(first, rows, other) for other in others]
    for other, match in zip(others, matches, strict=True):
        _report(first, rows, other, match)
        kept = match.rows >= 0
        if compare:
            _report_conflicts(first, rows[kept], other, match.rows[kept])
    every = np.all([np.ones(len(rows), bool), *(m.rows >= 0 for m in matches)], axis=0)
    aligned = [rows[every], *(match.rows[every] for match in matches)]
    if not len(aligned[0]):
        names = ", ".join(str(store.path) for store in stores)
        raise StoreError(f"{names}: no image is in all of them; expected some; leave a file out")
    return aligned


def _match(first: Store, rows: Labels, other: Store) -> Match:
    """Find each row of the first store in another store, by key and by digest."""
    if missing := int((other.status == PENDING).sum()):
        found = f"{missing} of {len(other.keys)} images have no features yet"
        raise StoreError(f"{other.path}: {found}; run the same extract-features command again")
    done = np.flatnonzero(other.status == DONE)
    by_key = {other.keys[row]: row for row in done.tolist()}
    same_key = np.array([by_key.get(first.keys[row], -1) for row in rows.tolist()], np.int64)
    own, known = _digests(first)[rows], _digests(other)
    # Of equal digests the first row stays.
    by_digest = dict(zip(_as_bytes(known[done[::-1]]), done[::-1].tolist(), strict=True))
    by_digest.pop(bytes(16), None)
    same_bytes = np.array([by_digest.get(one, -1) for one in _as_bytes(own)], np.int64)
    both = (same_key >= 0) & own.any(axis=1) & known[same_key].any(axis=1)
    changed = both & (own != known[same_key]).any(axis=1)
    moved = ((same_key < 0) | changed) & (same_bytes >= 0)
    return Match(np.where(moved, same_bytes, same_key), moved, changed & ~moved)


def _digests(store: Store) -> NDArray[np.uint8]:
    """Return the digests of the image files; zeros where there are none.

    Another program's features have digests of their own numbers.
    """
    digests = store.digests()
    return digests if store.spec.trunk else np.zeros_like(digests)


def _as_bytes(digests: NDArray[np.uint8]) -> list[bytes]:
    values: list[bytes] = np.ascontiguousarray(digests).view("V16").ravel().tolist()
    return values


def _report(first: Store, rows: Labels, other: Store, match: Match) -> None:
    """Log what two stores do not have in common; raise StoreError if they share no image."""
    lacking, count = np.flatnonzero(match.rows < 0), count_of(len(rows), "image")
    if len(lacking) == len(rows):
        found = f"has none of the {count} of {first.path}; found keys such as"
        examples = f"{quoted(other.keys[0])}, there {quoted(first.keys[rows[0]])}"
        remedy = "expected the same images; extract both files from one place"
        raise StoreError(f"{other.path}: {found} {examples}; {remedy}")
    parts = []
    if match.by_digest.any():
        parts.append(f"{int(match.by_digest.sum())} under another key, by their bytes")
    if len(lacking):
        key = quoted(first.keys[rows[lacking[0]]])
        parts.append(f"{len(lacking)} left out, which it lacks (first {key})")
    used = np.isin(np.arange(len(other.keys)), match.rows)
    if more := int(((other.status == DONE) & ~used).sum()):
        parts.append(f"{more} more in it not used")
    if parts:
        matched = f"matched {len(rows) - len(lacking)} of {count} of {first.path}"
        log.info("%s: %s; %s", other.path, matched, "; ".join(parts))
    if match.changed.any():
        key = quoted(first.keys[rows[match.changed][0]])
        found = f"{count_of(int(match.changed.sum()), 'image')} of other bytes than in {first.path}"
        log.warning("%s: %s, matched by key (first %s)", other.path, found, key)


def _report_conflicts(first: Store, rows: Labels, other: Store, own: Labels) -> None:
    """Log the labels, splits and groups of the same images that differ; the first store's hold."""
    parts = []
    for noun, values in (("label", _labels), ("split", _splits), ("group", _groups)):
        pairs = zip(values(first, rows), values(other, own), strict=True)
        differ = [(i, *pair) for i, pair in enumerate(pairs) if all(pair) and pair[0] != pair[1]]
        if differ:
            i, there, here = differ[0]
            example = f"first {quoted(first.keys[rows[i]])}: {quoted(here)}, not {quoted(there)}"
            parts.append(f"another {noun} of {count_of(len(differ), 'image')} ({example})")
    if parts:
        found = f"found {'; '.join(parts)}"
        log.warning("%s: %s; those of %s are used", other.path, found, first.path)


def _labels(store: Store, rows: Labels) -> list[str]:
    names = (*store.class_names, "")  # -1 is no label
    return [names[label] for label in store.labels[rows].tolist()]


def _splits(store: Store, rows: Labels) -> list[str]:
    return [SPLITS[split] for split in store.split[rows].tolist()]


def _groups(store: Store, rows: Labels) -> list[str]:
    groups = store.groups
    return [""] * len(rows) if groups is None else [groups[row] for row in rows.tolist()]
