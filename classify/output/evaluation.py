"""A head on labelled images that it was not trained on: metrics and confusions as text."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from classify.diagnosis.diagnostics import confused_pairs
from classify.scores.intervals import NO_INTERVAL, Comparison, Interval
from classify.scores.metrics import confusion_matrix
from extract.core.console import log
from extract.core.errors import count_of, listed, quoted
from extract.display.width import cells, fit_table, shorten, wrap
from extract.images.item import Item

METRICS = ("accuracy", "macro_f1")
# A wider table does not fit into a terminal; of more classes the largest confusions are named.
_MOST_CLASSES, _MOST_PAIRS, _WIDTH = 12, 10, 14


class Evaluation(NamedTuple):
    """Answers for labelled images, compared with their labels.

    Attributes:
        rows: Number of compared images; 0 where the best score of each was too low.
        scores: ``accuracy`` and ``macro_f1``, NaN without compared images.
        intervals: Their 95 % confidence intervals; without ends of fewer than ten groups.
        class_names: The classes that occur as label or as answer.
        confusion: Counts of these classes, labels on the first axis.
        unsure: Number of labelled images without an answer, as their best score was too low.
        seen: Number of the compared images that the head was trained or chosen on; None where its
            folder does not say, and of a complete model.
    """

    rows: int
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    unsure: int = 0
    seen: int | None = None

    @property
    def coverage(self) -> float:
        """The share of the labelled images that got an answer, 0 to 1."""
        return self.rows / (self.rows + self.unsure)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Return the metrics and the confusions; what is wider than ``width`` cells is shorter."""
        both = self.rows + self.unsure
        coverage = f"coverage {self.coverage:.3f} ({self.unsure:,} of {both:,} are unsure)"
        if not self.rows:
            return f"none of {count_of(both, 'labelled image')} gets an answer; {coverage}"
        parts = []
        for metric in METRICS:
            low, high = self.intervals[metric]
            ends = (
                "no interval of few groups" if low is None else f"95 % CI {low:.3f} to {high:.3f}"
            )
            parts.append(f"{metric} {self.scores[metric]:.3f} ({ends})")
        lines = self._table() if len(self.class_names) <= _MOST_CLASSES else []
        if not lines or (width and max(map(cells, lines)) > width):
            lines = self._pairs()
        text = f"{', '.join(parts)} of {count_of(self.rows, 'labelled image')}"
        if self.unsure:
            text += f"; {coverage}"
        return "\n".join(wrap(line, width) for line in [text, *self._warn(), *lines])

    def _warn(self) -> list[str]:
        """Say that the head knows some of the images."""
        if self.seen == 0:
            return []
        if self.seen is None:
            return ["these may include training images: no test on new images"]
        which = "training or validation images of the head: no test on new images"
        return [f"{self.seen:,} of these {count_of(self.rows, 'image')} are {which}"]

    def _table(self) -> list[str]:
        names = [quoted(name) for name in self.class_names]
        names = [shorten(name, _WIDTH) for name in names]
        rows = [["true class", *names]]
        for name, counts in zip(names, self.confusion.tolist(), strict=True):
            rows.append([name, *map(str, counts)])
        return ["columns: predicted class", *fit_table(rows, None).lines]

    def _pairs(self) -> list[str]:
        from scipy.sparse import csr_array

        pairs = confused_pairs(csr_array(self.confusion), self.class_names, _MOST_PAIRS)
        named = ((p, quoted(p.truth), quoted(p.answer)) for p in pairs)
        return [f"{p.rows} of {p.of} {y} are predicted as {answer}" for p, y, answer in named]


class Answer(Protocol):
    """The answer for one image; without a label its score is None where it could not be read."""

    @property
    def label(self) -> str | None:
        """The class name."""

    @property
    def score(self) -> float | None:
        """The best score, 0 to 1."""


def evaluate_labels(
    items: Sequence[Item],
    answers: Sequence[Answer],
    class_names: Sequence[str],
    known: Sequence[str],
) -> Evaluation | None:
    """Compare the answers for images with the labels that their source gives.

    Args:
        items: The images.
        answers: The answer for each.
        class_names: The classes of the source.
        known: The classes of the head; images of others are left out, which a note tells.

    Returns:
        None where no image that could be read has a label that the head knows.
    """
    labelled = [
        (item, class_names[item.label], answer.label)
        for item, answer in zip(items, answers, strict=True)
        if item.label >= 0 and answer.score is not None
    ]
    order = {name: label for label, name in enumerate(known)}
    both = [entry for entry in labelled if entry[1] in order]
    if strange := sorted({truth for _, truth, _ in labelled} - set(order)):
        found = count_of(len(labelled) - len(both), "image")
        classes = listed(strange, "class")
        log.info("not compared: %s of %s that the head does not know", found, classes)
    compared = [(item, truth, answer) for item, truth, answer in both if answer is not None]
    if not both:
        return None
    if not compared:
        scores, intervals = dict.fromkeys(METRICS, math.nan), dict.fromkeys(METRICS, NO_INTERVAL)
        return Evaluation(0, scores, intervals, (), np.zeros((0, 0), np.int64), len(both))
    names = sorted({name for _, *pair in compared for name in pair}, key=order.__getitem__)
    place = {name: number for number, name in enumerate(names)}
    y = np.array([place[truth] for _, truth, _ in compared])
    given = np.array([place[answer] for *_, answer in compared])
    groups = [item.group or item.key for item, *_ in compared]
    comparison, rest = Comparison(y, len(names), groups, 0), (np.ones(len(y)), np.empty((2, 0)))
    values = {metric: comparison.values(metric, given, *rest) for metric in METRICS}
    return Evaluation(
        len(y),
        {metric: float(own.mean()) for metric, own in values.items()},
        {metric: comparison.interval(metric, own) for metric, own in values.items()},
        tuple(names),
        confusion_matrix(y, given, len(names)).toarray(),
        len(both) - len(compared),
    )
