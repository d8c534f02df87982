"""Groups of rows that stay together, and the fold of each, so that each class can be trained.

A class can be trained in every fold if its groups are in two folds or more. To place groups so is
to colour a hypergraph: groups are its vertices, classes its edges, folds the colours, and no edge
has one colour. Where the usual order of the groups finds no such folds, they are searched for: the
group with the fewest folds left comes next, as in DSATUR, and the search goes back where none is
left. So it finds folds if there are any, within ``STEPS``.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

# Tries of a fold for a group, at least. Five thousand groups of a thousand classes took 0.3 s.
STEPS = 100_000
HOLD_OUT = 0.2


class Groups:
    """The groups of all rows; each attribute is computed once, when it is needed.

    Args:
        keys: N different keys.
        groups: N names of groups, "" for none, or None.
        digests: (N, 16) uint8 digests of the image files, zeros for none, or None.
    """

    def __init__(
        self,
        keys: Sequence[str],
        groups: Sequence[str] | None,
        digests: NDArray[np.uint8] | None = None,
    ) -> None:
        self._keys, self._groups, self._digests = keys, groups, digests

    @cached_property
    def names(self) -> NDArray[np.object_]:
        """(N,) the group of each row; a row without a group is named by its key."""
        names = self._keys
        if self._groups is not None:
            names = [group or key for group, key in zip(self._groups, self._keys, strict=True)]
        return np.array(names, dtype=object)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(N,) the number of the group of each row, 0 to G - 1; each row its own without groups."""
        if self._groups is None:
            return np.arange(len(self._keys))
        numbers = {name: number for number, name in enumerate(sorted(set(self.names)))}
        return np.fromiter(map(numbers.__getitem__, self.names), np.int64, len(self.names))

    @cached_property
    def hashed(self) -> NDArray[np.object_]:
        """(N,) the name of each row whose hash decides its side: group, digest, or key.

        A file that is moved or renamed keeps its digest, and so its side. Identical images that
        are in no group are on one side of a hold-out.
        """
        if self._digests is None:
            return self.names
        hashed, known = self.names.copy(), self._digests.any(axis=1)
        alone = known if self._groups is None else known & (np.array(self._groups, object) == "")
        for row in np.flatnonzero(alone).tolist():
            hashed[row] = self._digests[row].tobytes().hex()
        return hashed

    @cached_property
    def held_out(self) -> NDArray[np.bool_]:
        """(N,) whether a hold-out takes each row."""
        return held_out(self.hashed)

    def divide(self, rows: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
        """Return the rows of each group, the largest group first, equal ones by a seeded hash."""
        _, firsts, places = np.unique(self.numbers[rows], return_index=True, return_inverse=True)
        sizes = np.bincount(places)
        hashes = [hash_name(f"{seed} {name}") for name in self.hashed[rows[firsts]]]
        order = np.lexsort((np.array(hashes, np.uint64), -sizes))
        members = np.split(rows[np.argsort(places, kind="stable")], np.cumsum(sizes)[:-1])
        return [members[group] for group in order.tolist()]


def held_out(names: Iterable[str], share: float = HOLD_OUT) -> NDArray[np.bool_]:
    """Choose the names that are held out, about ``share`` of them.

    Only the BLAKE2b hash of a name decides, so that adding, removing or reordering names never
    moves another name to the other side.

    Args:
        names: Keys or groups.
        share: 0 to 1.

    Returns:
        (len(names),) bool.
    """
    return np.array([hash_name(name) < share * 2**64 for name in names], dtype=np.bool_)


def hash_name(name: str) -> int:
    """Return the first 64 bits of the BLAKE2b hash of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def place_groups(
    y: NDArray[np.int64], groups: Sequence[Sequence[int] | NDArray[np.int64]], folds: int
) -> Sequence[int]:
    """Return the fold of each group: the one with the fewest rows of its classes.

    Args:
        y: (N,) classes.
        groups: The rows of each group; large groups first.
        folds: Number of folds.

    Returns:
        A fold per group. A class is in one fold alone only where no other folds are found.
    """
    labels, placed = y.tolist(), []
    counts = [[0] * folds for _ in range(max(labels) + 1)]
    sizes = [0] * folds
    # Lists: of a million groups of one row, arrays take ten times as long.
    for rows in groups:
        added = Counter(labels[row] for row in rows).items()
        alike = [sum(counts[k][fold] * count for k, count in added) for fold in range(folds)]
        fold, _, _ = min(zip(range(folds), alike, sizes, strict=True), key=itemgetter(1, 2))
        for k, count in added:
            counts[k][fold] += count
        sizes[fold] += len(rows)
        placed.append(fold)
    if any(sum(map(bool, own)) == 1 for own in counts):
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
