"""Division of the rows into training, validation and test rows."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.folds import place_groups
from classify.data.near_duplicates import describe_all_leaks
from classify.settings.config import TrainConfig
from classify.stored.out_of_core import Labels
from extract.core.console import log
from extract.core.errors import MOST_LISTED, SplitError, quoted

TRAIN, VALIDATION, TEST = 0, 1, 2
# Folds of data that is too small for a hold-out.
FOLDS = 5
_MADE = re.compile("[0-9a-f]{32}")  # a group that --groups made, named after a digest
_Sides = NDArray[np.signedinteger]  # (N,) TRAIN, VALIDATION or TEST


@dataclass(frozen=True)
class Split:
    """Increasing positions of rows in a dataset; no position is in two of the arrays.

    Attributes:
        train: (A,) int64 rows that heads are fitted on.
        validation: (B,) int64 rows that heads are compared on.
        test: (C,) int64 rows that only the chosen head is measured on, once; may be empty.
        origin: Source of the validation rows: ``store``, ``hold-out`` or ``fold``.
        repeat: Number of the division into folds, from 0.
    """

    train: Labels
    validation: Labels
    test: Labels
    origin: str
    repeat: int = 0

    @property
    def refit_rows(self) -> Labels:
        """Rows that the chosen head is trained on: with folds all but the test rows."""
        if self.origin != "fold":
            return self.train
        return np.sort(np.concatenate([self.train, self.validation]))


def choose_splits(dataset: Dataset, config: TrainConfig) -> list[Split]:
    """Divide a dataset by its own splits, else by holding rows out or, with folds, into folds.

    Folds are also made where too little would be held out to compare heads on, but not for halving
    or fine-tuning, which need one split.

    Raises:
        SplitError: See ``split_rows`` and ``split_folds``.
    """
    folds = config.folds
    if not folds and _can_fold(config) and not _holds_out(dataset):
        folds = min(FOLDS, len(set(dataset.grouping.numbers[development_rows(dataset)].tolist())))
        log.info(
            "too few images or groups to hold a fifth of them out: compared in %d folds", folds
        )
    if not folds:
        return [split_rows(dataset)]
    return [
        replace(split, repeat=repeat)
        for repeat in range(config.repeats or 1)
        for split in split_folds(dataset, folds, config.seed + repeat, warn=repeat == 0)
    ]


def leave_out_lone(dataset: Dataset, config: TrainConfig) -> Dataset:
    """Leave out, with a warning, the classes that cannot be both trained and validated.

    Those are classes whose images are in one group, or that have one image, if the rows are divided
    into folds, or if that group is held out. A second call changes nothing.

    Args:
        dataset: The labelled rows.
        config: See ``choose_splits``.

    Raises:
        SplitError: Fewer than two classes remain.
    """
    if not config.folds and (dataset.split == VALIDATION).any():
        return dataset
    lone = _groups_of_classes(dataset) == 1
    names = np.array(dataset.class_names, dtype=object)
    if not config.folds:
        untrained = ~np.isin(np.arange(len(names)), dataset.y[_hold_out(dataset) == TRAIN])
        gone = names[lone & untrained]
        smaller = dataset.without(gone) if len(gone) else dataset  # it knows who is held out
        if not _can_fold(config) or _holds_out(smaller):
            lone &= untrained
    if not lone.any():
        return dataset
    shown, other = (", ".join(map(quoted, names[side])) for side in (lone, ~lone))
    remedy = "add images" + (", or divide the groups with --groups none" if dataset.groups else "")
    if (~lone).sum() < 2:
        found = f"found one image or group of {shown}" + (f", more of {other}" if other else "")
        raise SplitError(
            f"classes: {found}; expected two or more of at least two classes; {remedy}"
        )
    reason = f"with one image or group, which cannot be both trained and validated on; {remedy}"
    log.warning("left out: %s, %s", shown, reason)
    return dataset.without(names[lone])


def _can_fold(config: TrainConfig) -> bool:
    return not (config.halving or config.finetune)


def _hold_out(dataset: Dataset) -> _Sides:
    """Return the side of each row, with a part of the training rows held out."""
    held = (dataset.split == TRAIN) & dataset.grouping.held_out
    return np.where(held, VALIDATION, dataset.split)


def _holds_out(dataset: Dataset) -> bool:
    """Return whether there is a validation split, or enough is held out to compare heads on.

    Each class needs training rows, and more than three quarters of those with two groups or more
    need validation rows.
    """
    if (dataset.split == VALIDATION).any():
        return True
    sides, groups = _hold_out(dataset), _groups_of_classes(dataset)
    trained, validated = (
        np.bincount(dataset.y[sides == side], minlength=len(groups)) > 0
        for side in (TRAIN, VALIDATION)
    )
    several = groups > 1
    missing = int((several & ~validated).sum())
    return bool(trained[groups > 0].all() and 4 * missing < several.sum())


def _groups_of_classes(dataset: Dataset) -> Labels:
    """Return the number of groups of each class outside the test split; a row may be one alone."""
    rows, K = development_rows(dataset), len(dataset.class_names)
    pairs = np.unique(K * dataset.grouping.numbers[rows] + dataset.y[rows])
    return np.bincount(pairs % K, minlength=K)


def split_rows(dataset: Dataset) -> Split:
    """Divide a dataset by the store's splits; without validation rows, hold some out.

    Args:
        dataset: The labelled rows.

    Returns:
        The split. Warns about classes without validation rows.

    Raises:
        SplitError: There are fewer than two classes, or no validation rows; or a class has no
            training rows, or a group is in two splits.
    """
    sides, origin = dataset.split, "store"
    if not (sides == VALIDATION).any():
        origin = "hold-out"
        sides = _hold_out(dataset)
    _check_classes(dataset, sides)
    _check_groups(dataset, sides)
    _warn_of_leaks(dataset, sides, "splits", sides if origin == "store" else dataset.split == TEST)
    return _split(sides, origin)


def split_folds(dataset: Dataset, folds: int, seed: int = 0, warn: bool = True) -> list[Split]:
    """Divide all rows except the test rows into folds; each fold is the validation rows once.

    Groups stay together and classes are spread evenly. The order of the rows has no effect: groups
    are taken by size, then by hash, and each goes to the fold with the fewest rows of its classes.
    If a class is in one fold alone then, other folds are searched for; see ``place_groups``.

    Args:
        dataset: The labelled rows.
        folds: Number of folds, 2 or more.
        seed: Seed of the hash.
        warn: Warn of identical images and near-duplicates in two folds.

    Returns:
        One split per fold.

    Raises:
        SplitError: There are fewer than two classes, a class without training rows in some fold,
            or a group with rows in and outside the test split.
    """
    rows = development_rows(dataset)
    _check_groups(dataset, np.where(dataset.split == TEST, TEST, TRAIN))
    groups = dataset.grouping.divide(rows, seed)
    if folds > (most := len(groups)):
        found = f"found {folds} for {most} images or groups; expected at most {most}"
        raise SplitError(f"folds: {found}; choose fewer folds")
    fold_of_row = np.full(len(dataset.y), -1)
    placed = place_groups(dataset.y, groups, folds)
    fold_of_row[np.concatenate(groups)] = np.repeat(placed, [len(group) for group in groups])
    rest = np.where(fold_of_row < 0, TEST, TRAIN)
    folded = [np.where(fold_of_row == fold, VALIDATION, rest) for fold in range(folds)]
    for sides in folded:
        _check_classes(dataset, sides, warn=False)
    if warn:
        _warn_of_leaks(dataset, fold_of_row, "folds", dataset.split == TEST)
    return [_split(sides, "fold") for sides in folded]


def _split(sides: _Sides, origin: str) -> Split:
    train, validation, test = (np.flatnonzero(sides == side) for side in (TRAIN, VALIDATION, TEST))
    return Split(train, validation, test, origin)


def development_rows(dataset: Dataset) -> Labels:
    """Return the positions of all rows outside the test split, increasing."""
    return np.flatnonzero(dataset.split != TEST)


def validation_rows(splits: Sequence[Split]) -> Labels:
    """Return the validation rows of all splits, increasing within each repeat."""
    return np.concatenate([split.validation for split in splits])[validation_order(splits)]


def validation_order(splits: Sequence[Split]) -> Labels:
    """Return the order that sorts the joined validation rows of all splits, repeat by repeat."""
    rows = np.concatenate([split.validation for split in splits])
    repeats = np.repeat([s.repeat for s in splits], [len(s.validation) for s in splits])
    return np.lexsort((rows, repeats))


def _check_classes(dataset: Dataset, sides: _Sides, warn: bool = True) -> None:
    """Raise SplitError where no head could be trained or compared."""
    names = dataset.class_names
    if len(names) < 2:
        expected = "expected two or more; add images, or labels, of another class"
        raise SplitError(f"classes: found {', '.join(names)}; {expected}")
    missing_train, missing = (
        [names[label] for label in np.setdiff1d(np.arange(len(names)), dataset.y[sides == side])]
        for side in (TRAIN, VALIDATION)
    )
    if len(missing) == len(names):
        expected = (
            "expected some to compare heads on; add images, or put some in a validation/ folder"
        )
        raise SplitError(f"validation: none of {len(dataset.y)} labelled images; {expected}")
    if missing_train:
        flags = " ".join(f"--leave-out {shlex.quote(name)}" for name in missing_train[:MOST_LISTED])
        expected = f"expected one or more of each class; add some, or give {flags}"
        raise SplitError(f"classes: no training image of {', '.join(missing_train)}; {expected}")
    if missing and warn:
        log.warning("no validation image of %s: not validated", ", ".join(missing))


def _check_groups(dataset: Dataset, sides: _Sides) -> None:
    """Raise SplitError where a group has rows in two splits."""
    first_rows: dict[str, int] = {}
    for row, group in enumerate(dataset.groups or []):
        first = first_rows.setdefault(group, row) if group else row
        if sides[first] != sides[row]:
            pair = f"{quoted(dataset.keys[first])} and {quoted(dataset.keys[row])}"
            if _MADE.fullmatch(group):
                copies = "near-duplicates" if dataset.near_joined else "copies"
                found = f"found {copies} in two splits of the file, {pair}; expected one"
                raise SplitError(f"groups: {found}; move or remove one of each")
            found = f"its images {pair} are in two splits; expected one"
            raise SplitError(f"group {group!r}: {found}; move them together or remove one")


def _warn_of_leaks(dataset: Dataset, sides: _Sides, noun: str, fixed: NDArray[Any]) -> None:
    rows = dataset.X, dataset.digests, dataset.keys
    for line in describe_all_leaks(*rows, (sides, fixed), noun, near=not dataset.near_joined):
        log.warning("%s: %s", dataset.path, line)
