"""A head on labelled images that it was not trained on: metrics and confusions as text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.report.diagnostics import confused_pairs
from classify.scores.intervals import Comparison, Interval
from classify.scores.metrics import confusion_matrix
from extract.core.console import log
from extract.core.errors import count_of, listed, quoted
from extract.images.item import Item

METRICS = ("accuracy", "macro_f1")
# A wider table does not fit into a terminal; of more classes the largest confusions are named.
_MOST_CLASSES, _MOST_PAIRS, _WIDTH = 12, 10, 14


class Evaluation(NamedTuple):
    """Answers for labelled images, compared with their labels.

    Attributes:
        rows: Number of compared images.
        scores: ``accuracy`` and ``macro_f1``.
        intervals: Their 95 % confidence intervals; without ends of fewer than ten groups.
        class_names: The classes that occur as label or as answer.
        confusion: Counts of these classes, labels on the first axis.
    """

    rows: int
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]

    def __str__(self) -> str:
        parts = []
        for metric in METRICS:
            low, high = self.intervals[metric]
            ends = (
                "no interval of few groups" if low is None else f"95 % CI {low:.3f} to {high:.3f}"
            )
            parts.append(f"{metric} {self.scores[metric]:.3f} ({ends})")
        lines = self._table() if len(self.class_names) <= _MOST_CLASSES else self._pairs()
        return "\n".join([f"{', '.join(parts)} of {count_of(self.rows, 'labelled image')}", *lines])

    def _table(self) -> list[str]:
        names = [quoted(name) for name in self.class_names]
        names = [n if len(n) <= _WIDTH else f"{n[: _WIDTH - 1]}…" for n in names]
        first = max(map(len, [*names, "true class"]))
        widths = [max(len(name), len(str(self.rows))) for name in names]
        cells = zip(names, widths, strict=True)
        lines = ["  ".join(["true class".ljust(first), *(n.rjust(w) for n, w in cells)])]
        for name, counts in zip(names, self.confusion.tolist(), strict=True):
            numbers = (str(n).rjust(w) for n, w in zip(counts, widths, strict=True))
            lines.append("  ".join([name.ljust(first), *numbers]))
        return lines

    def _pairs(self) -> list[str]:
        from scipy.sparse import csr_array

        pairs = confused_pairs(csr_array(self.confusion), self.class_names, _MOST_PAIRS)
        named = ((p, quoted(p.truth), quoted(p.answer)) for p in pairs)
        return [f"{p.rows} of {p.of} {y} are predicted as {answer}" for p, y, answer in named]


def evaluate_labels(
    items: Sequence[Item],
    answers: Sequence[str | None],
    class_names: Sequence[str],
    known: Sequence[str],
) -> Evaluation | None:
    """Compare the answers for images with the labels that their source gives.

    Args:
        items: The images.
        answers: The predicted class of each; None of an image that could not be read.
        class_names: The classes of the source.
        known: The classes of the head; images of others are left out, which a note tells.

    Returns:
        None where no image that was read has a label that the head knows.
    """
    labelled = [
        (item, class_names[item.label], answer)
        for item, answer in zip(items, answers, strict=True)
        if item.label >= 0 and answer is not None
    ]
    order = {name: label for label, name in enumerate(known)}
    judged = [entry for entry in labelled if entry[1] in order]
    if strange := sorted({truth for _, truth, _ in labelled} - set(order)):
        found = count_of(len(labelled) - len(judged), "image")
        classes = listed(strange, "class")
        log.info("not compared: %s of %s that the head does not know", found, classes)
    if not judged:
        return None
    names = sorted({name for _, *pair in judged for name in pair}, key=order.__getitem__)
    place = {name: number for number, name in enumerate(names)}
    y = np.array([place[truth] for _, truth, _ in judged])
    given = np.array([place[answer] for *_, answer in judged])
    groups = [item.group or item.key for item, *_ in judged]
    comparison, rest = Comparison(y, len(names), groups, 0), (np.ones(len(y)), np.empty((2, 0)))
    values = {metric: comparison.values(metric, given, *rest) for metric in METRICS}
    return Evaluation(
        len(y),
        {metric: float(own.mean()) for metric, own in values.items()},
        {metric: comparison.interval(metric, own) for metric, own in values.items()},
        tuple(names),
        confusion_matrix(y, given, len(names)).toarray(),
    )
