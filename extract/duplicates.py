"""The same picture in two splits: a head would be judged on what it was trained on."""

from collections.abc import Sequence

import numpy as np

from extract.item import few


def describe_leaks(digests: np.ndarray, sides: np.ndarray, keys: Sequence[str]) -> str:
    """Say which pictures are, byte for byte, on more than one side; empty if none is.

    Args:
        digests: (N, 16) uint8, of the pictures' files.
        sides: (N,) the split of each.
        keys: N names, for examples.
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
        f"found the same picture in two splits {few(pairs, 'time')}; expected each in one, for "
        "heads are judged on what they were trained on; remove one of each"
    )
