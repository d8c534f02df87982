"""Two heads on the same validation images: where they disagree, and which one is better.

Source of the test: Q. McNemar, Note on the sampling error of the difference between correlated
proportions or percentages (1947).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from classify.data.dataset import Dataset
from classify.scores.differences import difference_interval
from classify.search.leaderboard import Result
from classify.search.ranking import Entry, to_json
from classify.stored.out_of_core import Labels

# Heads that are compared with each other, and images of each side of a pair.
_MOST_HEADS, _MOST_ROWS = 6, 24


class Disagreement(NamedTuple):
    """An image that one head of two classifies correctly: its row, and what both predict."""

    row: int
    first: str
    second: str


class HeadPair(NamedTuple):
    """Two heads on the same validation images.

    Attributes:
        first: A head.
        second: Another one.
        both_right: Images that both classify correctly.
        only_first: Images that only the first one classifies correctly.
        only_second: Images that only the second one classifies correctly.
        both_wrong: Images that neither classifies correctly.
        difference: Accuracy of the first less that of the second, -1 to 1.
        low: Lower end of its paired 95 % confidence interval; None where there are few groups.
        high: Upper end.
        p_value: Exact p value of McNemar's test, which takes every image as independent.
        first_rows: The images where only the first is right, those where the scores of the true
            class differ most first.
        second_rows: Likewise where only the second is right.
    """

    first: str
    second: str
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    first_rows: list[Disagreement]
    second_rows: list[Disagreement]

    @property
    def rows(self) -> list[int]:
        """The rows of all images that are listed."""
        return [one.row for one in (*self.first_rows, *self.second_rows)]

    def to_dict(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the numbers as JSON values, with keys in place of row numbers."""
        plain = self._asdict()
        for name in ("first_rows", "second_rows"):
            plain[name] = [
                {"key": keys[one.row], "first": one.first, "second": one.second}
                for one in plain[name]
            ]
        return dict(to_json(plain))


def compare_heads(dataset: Dataset, result: Result) -> list[HeadPair]:
    """Compare the best heads of a run in pairs, the best ones of different kinds first.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run.

    Returns:
        Every pair of at most six heads; empty of one head. With repeated folds the answers are
        those of the first repeat, and all are those before fine-tuning.
    """
    rows = result.validation_rows
    units, chosen = dataset.grouping.numbers[rows], choose_heads(result.entries)
    return [
        _compare(dataset, rows, units, first, second)
        for place, first in enumerate(chosen)
        for second in chosen[place + 1 :]
    ]


def choose_heads(entries: Sequence[Entry], most: int = _MOST_HEADS) -> list[Entry]:
    """Return the best head of each kind, then others whose answers differ from these.

    Args:
        entries: The leaderboard.
        most: Most heads.
    """
    kinds: dict[str, Entry] = {}
    for entry in entries:
        kinds.setdefault(entry.spec.head, entry)
    chosen = list(kinds.values())[:most]
    for entry in entries:
        answers = entry.evaluation.answers
        if len(chosen) < most and not any(
            np.array_equal(answers, other.evaluation.answers) for other in chosen
        ):
            chosen.append(entry)
    return chosen


def _compare(
    dataset: Dataset, rows: Labels, units: Labels, first: Entry, second: Entry
) -> HeadPair:
    """Compare two heads; see ``compare_heads``."""
    y, names = dataset.y[rows], dataset.class_names
    own, other = (entry.evaluation.answers[: len(y)] for entry in (first, second))
    gap = np.abs(first.evaluation.true_scores - second.evaluation.true_scores)[: len(y)]
    right, other_right = own == y, other == y
    sides = right & ~other_right, other_right & ~right
    listed = [
        [
            Disagreement(int(rows[i]), names[own[i]], names[other[i]])
            # Further decimals depend on the number of threads.
            for i in sorted(np.flatnonzero(side), key=lambda i: -gap[i].round(6))[:_MOST_ROWS]
        ]
        for side in sides
    ]
    counts = int(sides[0].sum()), int(sides[1].sum())
    return HeadPair(
        first.name(),
        second.name(),
        int((right & other_right).sum()),
        *counts,
        int((~right & ~other_right).sum()),
        (counts[0] - counts[1]) / len(y),
        *difference_interval(right.astype(np.float64) - other_right, units),
        mcnemar(*counts),
        *listed,
    )


def mcnemar(first: int, second: int) -> float:
    """Return McNemar's exact p value: the two-sided one of a fair coin.

    Args:
        first: Images that only the first head classifies correctly.
        second: Images that only the second one does.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))
