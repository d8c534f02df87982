"""Parts of the rows, drawn at random."""

from collections.abc import Sequence

import numpy as np

from classify.stored.out_of_core import Labels

# Shares of the training rows that show whether more rows would help.
SHARES = (1 / 8, 1 / 4, 1 / 2)


def sample(rows: Labels, most: int, seed: int) -> Labels:
    """Return at most ``most`` of some increasing rows, at random."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def subsets(y: Labels, seed: int, shares: Sequence[float] = SHARES) -> list[Labels]:
    """Draw growing subsets of the rows; each holds the one before it and every class.

    Args:
        y: (A,) classes.
        seed: Decides the draw.
        shares: Increasing shares.

    Returns:
        Increasing positions of about these shares of each class; without subsets of fewer than two
        rows per class on average.
    """
    generator = np.random.default_rng(seed)
    members = [generator.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    drawn: list[Labels] = []
    for share in shares:
        places = np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in members])
        fewest = max(2 * len(members), len(drawn[-1]) + 1 if drawn else 0)
        if fewest <= len(places) < len(y):
            drawn.append(np.sort(places))
    return drawn
