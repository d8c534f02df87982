"""The fold of each group of rows, such that each class can be trained in every fold.

A class can be trained in every fold if its groups are in two folds or more. To place groups so is
to colour a hypergraph: groups are its vertices, classes its edges, folds the colours, and no edge
has one colour. Where the usual order of the groups finds no such folds, they are searched for: the
group with the fewest folds left comes next, as in DSATUR, and the search goes back where none is
left. So it finds folds if there are any, within ``STEPS``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Tries of a fold for a group, at least. Five thousand groups of a thousand classes took 0.3 s.
STEPS = 100_000


def place_groups(
    y: NDArray[np.int64], groups: Sequence[Sequence[int]], folds: int
) -> Sequence[int]:
    """Return the fold of each group: the one with the fewest rows of its classes.

    Args:
        y: (N,) classes.
        groups: The rows of each group; large groups first.
        folds: Number of folds.

    Returns:
        A fold per group. A class is in one fold alone only where no other folds are found.
    """
    counts, placed = np.zeros((folds, int(y.max()) + 1)), []
    for rows in groups:
        added = np.bincount(y[rows], minlength=counts.shape[1])
        fold = min(range(folds), key=lambda f: (counts[f] @ added, counts[f].sum()))
        counts[fold] += added
        placed.append(fold)
    if ((counts > 0).sum(axis=0) == 1).any():
        return _Search([Counter(y[rows].tolist()) for rows in groups], folds).run() or placed
    return placed


class _Search:
    """Places groups into folds.

    Args:
        groups: Class -> number of rows, of each group; large groups first.
        folds: Number of folds.
    """

    def __init__(self, groups: Sequence[Mapping[int, int]], folds: int) -> None:
        classes = 1 + max(max(group) for group in groups)
        self._groups, self._classes = groups, [np.array(list(group)) for group in groups]
        self._rows = [np.array(list(group.values())) for group in groups]
        self._members: list[list[int]] = [[] for _ in range(classes)]
        for number, group in enumerate(groups):
            for label in group:
                self._members[label].append(number)
        # Rows and groups of each class in each fold, and groups of each class without a fold.
        self._counts = np.zeros((folds, classes))
        self._placed = np.zeros((folds, classes), np.int64)
        self._left = np.array([len(members) for members in self._members])
        self._fold = np.full(len(groups), -1)

    def run(self) -> list[int] | None:
        """Return the fold of each group, or None where there is no solution or it is not found."""
        if len(self._groups) < len(self._counts) or (self._left == 1).any():
            return None
        path: list[tuple[int, Iterator[int]]] = [self._next()]
        for _ in range(STEPS + 10 * len(self._groups)):
            group, choices = path[-1]
            if self._fold[group] >= 0:
                self._place(group, int(self._fold[group]), -1)
            fold = next(choices, None)
            if fold is None:
                path.pop()
                if not path:
                    return None
                continue
            self._place(group, fold, 1)
            if (self._fold >= 0).all():
                return [int(fold) for fold in self._fold]
            path.append(self._next())
        return None

    def _place(self, group: int, fold: int, sign: int) -> None:
        """Put a group into a fold, or take it out again."""
        classes = self._classes[group]
        self._counts[fold, classes] += sign * self._rows[group]
        self._placed[fold, classes] += sign
        self._left[classes] -= sign
        self._fold[group] = fold if sign > 0 else -1

    def _next(self) -> tuple[int, Iterator[int]]:
        """Return the group with the fewest folds left, and these, in the order to try them."""
        forbidden: dict[int, set[int]] = {}
        used = self._placed > 0
        for label in np.flatnonzero((self._left == 1) & (used.sum(axis=0) == 1)).tolist():
            last = next(group for group in self._members[label] if self._fold[group] < 0)
            forbidden.setdefault(last, set()).add(int(used[:, label].argmax()))
        unplaced = np.flatnonzero(self._fold < 0)
        group = min(forbidden, key=lambda g: (-len(forbidden[g]), g), default=int(unplaced[0]))
        return group, iter(self._choices(group, forbidden.get(group, set()), len(unplaced)))

    def _choices(self, group: int, forbidden: set[int], unplaced: int) -> list[int]:
        """Return the folds that a group may go to, the one with the fewest rows alike first.

        Empty folds are alike, so that one of them is enough.
        """
        sizes, classes = self._counts.sum(axis=1), self._classes[group]
        empty = np.flatnonzero(sizes == 0).tolist()
        alike = self._counts[:, classes] @ self._rows[group]
        filled = [f for f in range(len(sizes)) if sizes[f] and f not in forbidden]
        filled.sort(key=lambda fold: (alike[fold], sizes[fold]))
        return empty[:1] + (filled if unplaced > len(empty) else [])
