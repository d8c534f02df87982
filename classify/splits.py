"""Which rows train a head and which judge it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classify.dataset import Dataset
from extract.console import log
from extract.errors import SplitError

TRAIN, VALIDATION, TEST = 0, 1, 2
HOLD_OUT = 0.2


@dataclass(frozen=True)
class Split:
    """Positions of the rows in a dataset, increasing; no position is in two of them.

    Attributes:
        train: (A,) int64 rows that heads are fitted on.
        validation: (B,) int64 rows that heads are compared on.
        test: (C,) int64 rows that only the chosen head sees, once; may be empty.
        origin: ``store`` or ``hold-out``: where the validation rows come from.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    origin: str


def divide(dataset: Dataset) -> Split:
    """Divide a dataset by the store's splits, holding out validation rows where it has none.

    Args:
        dataset: The labelled rows.

    Returns:
        The split. Warns of classes without a validation row.

    Raises:
        SplitError: There are fewer than two classes, a side is empty, a class has no training row,
            or the store's splits part a group.
    """
    sides, origin = dataset.split, "store"
    if not (sides == VALIDATION).any():
        origin = "hold-out"
        names = _unit_names(dataset)
        sides = np.where((sides == TRAIN) & held_out(names), VALIDATION, sides)
    _check_classes(dataset, sides)
    _check_groups(dataset, sides)
    return Split(
        train=np.flatnonzero(sides == TRAIN),
        validation=np.flatnonzero(sides == VALIDATION),
        test=np.flatnonzero(sides == TEST),
        origin=origin,
    )


def held_out(names: Sequence[str], share: float = HOLD_OUT) -> NDArray[np.bool_]:
    """Say which names are held out: about ``share`` of them, each decided by itself alone.

    The BLAKE2b hash of the name decides, so that nothing that is added, removed or reordered moves
    a name to the other side.

    Args:
        names: Keys or groups.
        share: 0 to 1.

    Returns:
        (len(names),) bool.
    """
    hashes = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(h, "big") < share * 2**64 for h in hashes], dtype=np.bool_)


def _unit_names(dataset: Dataset) -> list[str]:
    """Return what stays together: a row's group, or its key where it has none."""
    if dataset.groups is None:
        return dataset.keys
    return [group or key for group, key in zip(dataset.groups, dataset.keys, strict=True)]


def _check_classes(dataset: Dataset, sides: NDArray[np.int8]) -> None:
    """Raise SplitError where no head could be trained or judged."""
    K = len(dataset.class_names)
    if K < 2:
        raise SplitError(
            f"classes: found {', '.join(dataset.class_names)}; expected two or more; "
            "put the pictures of each class in a folder of its own"
        )
    counts = {side: np.bincount(dataset.y[sides == side], minlength=K) for side in (0, 1)}
    if not counts[VALIDATION].any():
        raise SplitError(
            f"validation: none of {len(dataset.y)} labelled pictures; expected some to judge heads "
            "on; add pictures, or put some in a validation/ folder"
        )
    for side, what in ((TRAIN, "training"), (VALIDATION, "validation")):
        bare = [dataset.class_names[label] for label in np.flatnonzero(counts[side] == 0)]
        if bare and side == TRAIN:
            raise SplitError(
                f"classes: no {what} picture of {', '.join(bare)}; expected one or more of each "
                "class; add some, or leave the class out"
            )
        if bare:
            log.warning("no %s picture of %s: its share is not judged", what, ", ".join(bare))


def _check_groups(dataset: Dataset, sides: NDArray[np.int8]) -> None:
    """Raise SplitError where a group has rows on two sides."""
    seen: dict[str, int] = {}
    for group, side in zip(dataset.groups or [], sides.tolist(), strict=False):
        if group and seen.setdefault(group, side) != side:
            raise SplitError(
                f"group {group!r}: its pictures are in two splits; expected one; move them together"
            )
