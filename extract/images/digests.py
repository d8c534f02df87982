"""The same image twice: a head would be judged on what it was trained on."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from extract.core.errors import ImageError, listed
from extract.core.prefetch import map_in_threads
from extract.images.item import Item, read_item


def describe_leaks(
    digests: np.ndarray,
    sides: np.ndarray,
    keys: Sequence[str],
    noun: str = "splits",
    remedy: str = "",
) -> str:
    """Say which images are, byte for byte, on more than one side; empty if none is.

    Args:
        digests: (N, 16) uint8, of the images' files.
        sides: (N,) the split of each.
        keys: N names, for examples.
        noun: What the sides are.
        remedy: What to do instead of removing one, with ", or " behind it.
    """
    first: dict[bytes, int] = {}
    pairs = []
    for row, digest in enumerate(map(bytes, digests)):
        earlier = first.setdefault(digest, row)
        if sides[earlier] != sides[row]:
            pairs.append(f"{keys[earlier]} = {keys[row]}")
    if not pairs:
        return ""
    return (
        f"found the same image in two {noun} {listed(pairs, 'time')}; expected each in one, for "
        f"heads are judged on what they were trained on; {remedy}remove one of each"
    )


def group_by_digest(digests: np.ndarray, groups: Sequence[str] | None = None) -> list[str]:
    """Name what stays together where images that are the same byte for byte do.

    An image's name is its digest, alone or not, so that a copy that is added moves nothing; with
    groups, the first of those that it or a copy of it belongs to, or that those lead to.

    Args:
        digests: (N, 16) uint8, of the images' files.
        groups: N names of groups, "" for none; they are joined where they share an image.

    Returns:
        N names.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    own = [bytes(digest).hex() for digest in digests]
    if groups is None or not own:
        return own
    names = [group or digest for group, digest in zip(groups, own, strict=True)]
    distinct, one = np.unique(own, return_inverse=True)
    other = len(distinct) + np.unique(names, return_inverse=True)[1]
    size = int(other.max()) + 1
    links = coo_array((np.ones(len(own)), (one, other)), (size, size))
    parts = connected_components(links, directed=False)[1][one].tolist()
    first: dict[int, tuple[bool, str]] = {}
    for part, group, name in zip(parts, groups, names, strict=True):
        first[part] = min(first.get(part, (True, name)), (not group, name))
    return [first[part][1] for part in parts]


DIGEST_BYTES = 16


def digest_bytes(content: bytes) -> bytes:
    """Return the BLAKE2b-128 digest of a file's content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


# Threads that read; a disk or a network is what they wait for.
_READERS = 8


def read_digests(items: Iterable[Item]) -> Iterator[bytes]:
    """Yield the digest of each image's file as it is now, nothing where it cannot be read."""
    return (digest or b"" for digest in map_in_threads(_digest, items, _READERS, 2 * _READERS))


def _digest(item: Item) -> bytes:
    try:
        return digest_bytes(read_item(item))
    except ImageError:
        return b""
