"""Which rows train a head and which judge it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from extract.core.console import log
from extract.core.errors import SplitError, quoted
from extract.images.digests import describe_leaks

TRAIN, VALIDATION, TEST = 0, 1, 2
HOLD_OUT = 0.2
_GROUP_THEM = "give --groups digest, or "


@dataclass(frozen=True)
class Split:
    """Positions of the rows in a dataset, increasing; no position is in two of them.

    Attributes:
        train: (A,) int64 rows that heads are fitted on.
        validation: (B,) int64 rows that heads are compared on.
        test: (C,) int64 rows that only the chosen head sees, once; may be empty.
        origin: ``store``, ``hold-out`` or ``fold``: where the validation rows come from.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    origin: str


def split_rows(dataset: Dataset) -> Split:
    """Divide a dataset by the store's splits, holding out validation rows where it has none.

    Args:
        dataset: The labelled rows.

    Returns:
        The split. Warns of classes without a validation row.

    Raises:
        SplitError: There are fewer than two classes, a side is empty, a class has no training row,
            or the splits part a group.
    """
    sides, origin = dataset.split, "store"
    if not (sides == VALIDATION).any():
        origin = "hold-out"
        names = group_names(dataset)
        sides = np.where((sides == TRAIN) & held_out(names), VALIDATION, sides)
    _check_classes(dataset, sides)
    _check_groups(dataset, sides)
    remedy = "" if origin == "store" else _GROUP_THEM
    _warn_of_leaks(dataset, sides, "splits", remedy)
    return Split(
        train=np.flatnonzero(sides == TRAIN),
        validation=np.flatnonzero(sides == VALIDATION),
        test=np.flatnonzero(sides == TEST),
        origin=origin,
    )


def split_folds(dataset: Dataset, folds: int, seed: int = 0) -> list[Split]:
    """Divide all rows but the test rows into folds, each of which judges once.

    No group is parted, classes are spread evenly, and the order of the rows decides nothing: names
    are taken by size and then by a hash, each to the fold that has fewest rows of its classes.

    Args:
        dataset: The labelled rows.
        folds: How many, 2 or more.
        seed: Decides the hash.

    Returns:
        One split a fold.

    Raises:
        SplitError: There are fewer than two classes, a fold leaves one without training row, or
            the test split parts a group.
    """
    _check_groups(dataset, np.where(dataset.split == TEST, TEST, TRAIN))
    rows = np.flatnonzero(dataset.split != TEST)
    names = group_names(dataset)
    members: dict[str, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(names[row], []).append(row)
    if folds > len(members):
        raise SplitError(
            f"folds: found {folds} for {len(members)} images or groups; expected no more than "
            "that; ask for fewer"
        )
    K = len(dataset.class_names)
    counts = np.zeros((folds, K))
    fold_of_row = np.full(len(dataset.y), -1)
    for name in sorted(members, key=lambda name: (-len(members[name]), _hash(f"{seed} {name}"))):
        brings = np.bincount(dataset.y[members[name]], minlength=K)
        fold = min(range(folds), key=lambda f: (counts[f] @ brings, counts[f].sum()))
        counts[fold] += brings
        fold_of_row[members[name]] = fold
    for fold in range(folds):
        sides = np.where(fold_of_row == fold, VALIDATION, TRAIN)
        _check_classes(dataset, np.where(fold_of_row < 0, TEST, sides), warn=False)
    _warn_of_leaks(dataset, fold_of_row, "folds", _GROUP_THEM)
    return [
        Split(
            train=np.flatnonzero((fold_of_row >= 0) & (fold_of_row != fold)),
            validation=np.flatnonzero(fold_of_row == fold),
            test=np.flatnonzero(fold_of_row < 0),
            origin="fold",
        )
        for fold in range(folds)
    ]


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
    return np.array([_hash(name) < share * 2**64 for name in names], dtype=np.bool_)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def validation_rows(splits: Sequence[Split]) -> NDArray[np.int64]:
    """Return the rows that judge in any of the splits, increasing."""
    return np.sort(np.concatenate([split.validation for split in splits]))


def group_names(dataset: Dataset) -> list[str]:
    """Return what stays together: a row's group, or its key where it has none."""
    if dataset.groups is None:
        return dataset.keys
    return [group or key for group, key in zip(dataset.groups, dataset.keys, strict=True)]


def _check_classes(dataset: Dataset, sides: NDArray[np.signedinteger], warn: bool = True) -> None:
    """Raise SplitError where no head could be trained or judged."""
    K = len(dataset.class_names)
    if K < 2:
        raise SplitError(
            f"classes: found {', '.join(dataset.class_names)}; expected two or more; "
            "put the images of each class in a folder of its own"
        )
    counts = {side: np.bincount(dataset.y[sides == side], minlength=K) for side in (0, 1)}
    if not counts[VALIDATION].any():
        raise SplitError(
            f"validation: none of {len(dataset.y)} labelled images; expected some to judge heads "
            "on; add images, or put some in a validation/ folder"
        )
    for side, what in ((TRAIN, "training"), (VALIDATION, "validation")):
        bare = [dataset.class_names[label] for label in np.flatnonzero(counts[side] == 0)]
        if bare and side == TRAIN:
            raise SplitError(
                f"classes: no {what} image of {', '.join(bare)}; expected one or more of each "
                "class; add some, or leave the class out"
            )
        if bare and warn:
            log.warning("no %s image of %s: its share is not judged", what, ", ".join(bare))


def _check_groups(dataset: Dataset, sides: NDArray[np.signedinteger]) -> None:
    """Raise SplitError where a group has rows on two sides."""
    seen: dict[str, int] = {}
    for row, group in enumerate(dataset.groups or []):
        earlier = seen.setdefault(group, row) if group else row
        if sides[earlier] != sides[row]:
            raise SplitError(
                f"group {group!r}: its images {quoted(dataset.keys[earlier])} and "
                f"{quoted(dataset.keys[row])} are in two splits; expected one; move them together "
                "or remove one"
            )


def _warn_of_leaks(
    dataset: Dataset, sides: NDArray[np.signedinteger], noun: str, remedy: str
) -> None:
    """Name images that are on two sides, byte for byte."""
    if dataset.digests is not None and (
        leaks := describe_leaks(dataset.digests, sides, dataset.keys, noun, remedy)
    ):
        log.warning("%s: %s", dataset.path, leaks)
