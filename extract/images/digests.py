"""Digests of image files: the same image twice, in one group or in two splits."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from operator import not_

import numpy as np

from extract.core.errors import ImageError, listed
from extract.images.item import Item, read_item
from extract.limits.image_size import under_way
from extract.limits.prefetch import map_in_threads

DIGEST_BYTES = 16
# Threads that read; they wait for a disk or a network.
_READERS = 8


def digest_bytes(content: bytes) -> bytes:
    """Return the BLAKE2b-128 digest of a file's content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def read_digests(items: Iterable[Item]) -> Iterator[bytes]:
    """Yield the digest of each image file as it is now, empty for a file that cannot be read."""

    def read_digest(item: Item) -> bytes:
        try:
            with under_way():
                return digest_bytes(read_item(item))
        except ImageError:
            return b""

    return (digest or b"" for digest in map_in_threads(read_digest, items, _READERS, 2 * _READERS))


def describe_leaks(
    digests: np.ndarray, sides: np.ndarray, keys: Sequence[str], noun: str = "splits", fix: str = ""
) -> str:
    """Name the images that are in two splits, byte for byte; return "" without any.

    Args:
        digests: (N, 16) uint8, of the image files.
        sides: (N,) the split of each image.
        keys: N names, for examples.
        noun: The word for the sides, such as folds.
        fix: Another fix than removing an image, followed by ", or ".
    """
    low, high = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2).T
    order = np.lexsort((high, low))  # stable: of equal digests the first row comes first
    starts = np.append(True, (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0))[: len(order)]
    firsts = np.empty_like(order)
    firsts[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    parted = np.flatnonzero(sides[firsts] != sides).tolist()
    if not parted:
        return ""
    pairs = listed((f"{keys[firsts[row]]} = {keys[row]}" for row in parted), "time")
    expected = "expected each image in one, or validation scores are too high"
    return f"found the same image in two {noun} {pairs}; {expected}; {fix}remove one of each"


def group_by_digest(digests: np.ndarray, groups: Sequence[str] | None = None) -> list[str]:
    """Return a group for each image, so that identical images are in one group.

    Without groups, the name of a group is the digest of its images, so a copy that is added changes
    no other name. With groups, those that share an image are joined under their first name.

    Args:
        digests: (N, 16) uint8, of the image files.
        groups: N names of groups, "" for none.

    Returns:
        N names.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    digest_names = [bytes(digest).hex() for digest in digests]
    if groups is None or not digest_names:
        return digest_names
    names = [group or digest for group, digest in zip(groups, digest_names, strict=True)]
    # A graph that links each digest to the names of its images; a connected part is one group.
    distinct, digest_nodes = np.unique(digest_names, return_inverse=True)
    name_nodes = len(distinct) + np.unique(names, return_inverse=True)[1]
    size = int(name_nodes.max()) + 1
    links = coo_array((np.ones(len(names)), (digest_nodes, name_nodes)), (size, size))
    parts = connected_components(links, directed=False)[1][digest_nodes].tolist()
    # Names of groups come before digests; the first name of a part is the last one assigned here.
    ranked = sorted(zip(parts, map(not_, groups), names, strict=True), reverse=True)
    first = {part: name for part, _, name in ranked}
    return [first[part] for part in parts]
