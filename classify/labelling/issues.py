"""Images whose label may be wrong: a head trained on other images scores another class higher.

Each image is scored by ``lda``, trained on four fifths of the other images, on the 128 strongest
directions of the features: that takes milliseconds, and finds as many wrong labels as slower heads,
see ``benchmarks/label_issues.py``. Candidates are the images whose class with the highest score is
not their label. The first one is that whose label scores least, relative to the highest score.

Source: a simpler relative of confident learning (Northcutt, Jiang and Chuang 2021, "Confident
learning: estimating uncertainty in dataset labels", https://arxiv.org/abs/1911.00068). That ranks
by the difference of the two scores, which ranks doubts between two similar classes before labels
of a very low score.
"""

import csv
import os
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.preprocessing import Floats
from classify.data.samples import sample
from classify.data.splits import FOLDS, Split, development_rows, leave_out_lone, split_folds
from classify.heads.linear_head import fit_linear
from classify.labelling.reduced_features import nearest_rows, strongest_directions
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.out_of_core import Labels, iter_chunks
from extract.core.console import log, muted, quiet_mode
from extract.core.errors import SplitError
from extract.display.tables import Described, csv_text
from extract.images.digests import digest_bytes, group_by_digest
from extract.images.item import SPLITS

# Rows that a head is trained on, at most.
_MOST_ROWS = 20_000
# A label has little support if another class scores this many times as much.
CLEAR = 10.0
# Issues in the file, at most.
MOST_ISSUES = 1000


class LabelIssue(NamedTuple):
    """An image whose label may be wrong.

    Attributes:
        row: Its row in the dataset.
        key: Its key.
        label: Its label.
        suggested: The class with the highest score.
        label_score: The score of the label, 0 to 1.
        suggested_score: The score of the suggested class.
        nearest: The key of the most similar other training or validation image.
        nearest_label: The label of that one.
        cosine: The cosine of the features of both, -1 to 1.
        split: ``train`` or ``validation`` in the file.
    """

    row: int
    key: str
    label: str
    suggested: str
    label_score: float
    suggested_score: float
    nearest: str
    nearest_label: str
    cosine: float
    split: str

    @property
    def is_clear(self) -> bool:
        """Whether the suggested class scores at least ten times as much as the label."""
        return round(self.label_score / self.suggested_score, 5) <= 1 / CLEAR


@dataclass(frozen=True, repr=False)
class LabelIssues(Described):
    """Images whose label may be wrong, the likeliest first.

    Attributes:
        issues: At most a thousand of them.
        count: How many there are, with those that are not in ``issues``.
        clear: How many of these have a suggested class that scores ten times as much as the label.
        scored: How many images were looked at.
        problem: Why none were; empty where they were.
    """

    issues: list[LabelIssue]
    count: int = 0
    clear: int = 0
    scored: int = 0
    problem: str = ""

    def _facts(self) -> dict[str, Any]:
        if self.problem:
            return {"images": f"not checked: {self.problem}"}
        first = self.issues[0] if self.issues else None
        return {
            "images": f"{self.scored:,}",
            "issues": f"{self.count:,}, of them {self.clear:,} with ten times the label's score",
            **({"first": f"{first.key}: {first.label}, or {first.suggested}?"} if first else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, and the digest of the file, for ``result.json``."""
        numbers = {"scored": self.scored, "count": self.count, "clear": self.clear}
        digest = digest_bytes(self.to_csv().encode()).hex()
        return numbers | {"problem": self.problem or None, "digest": digest}

    def to_csv(self) -> str:
        """Return the issues, by rank, as CSV; ``label`` is for ``train-head --labels``."""
        names = [name for name in LabelIssue._fields if name != "row"]
        table = csv.writer(text := StringIO(), lineterminator="\n")
        table.writerow(["rank", *names])
        for rank, issue in enumerate(self.issues, 1):
            cells = (getattr(issue, name) for name in names)
            table.writerow(
                [rank, *(csv_text(c) if isinstance(c, str) else f"{c:.4f}" for c in cells)]
            )
        return text.getvalue()

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_csv`` to a file."""
        Path(path).write_text(self.to_csv(), encoding="utf-8", newline="\n")


def find_label_issues(dataset: Dataset, *, seed: int = 0, quiet: bool = False) -> LabelIssues:
    """Find training and validation images whose label may be wrong; test images are not used.

    Every image is scored by an ``lda`` head that was trained on other images: in five folds, which
    keep groups and identical images together. No label is known to be wrong: look at the images.

    Args:
        dataset: From ``load_dataset``.
        seed: Decides the folds.
        quiet: Show no progress bar and log no notes.

    Returns:
        The issues, the likeliest first; ``problem`` says why there are none where no folds can be
        made.

    Raises:
        StoreError: The features stay in the file, which has changed.

    Example:
        >>> from classify import find_label_issues, load_dataset
        >>> find_label_issues(load_dataset("out.h5")).issues[:3]  # doctest: +SKIP
    """
    with quiet_mode(quiet):
        config = TrainConfig((HeadSpec("lda"),), folds=FOLDS)
        try:
            with muted():
                splits, usable = _make_folds(dataset, config, seed)
        except SplitError as error:
            log.debug("no label issues: %s", error)
            return LabelIssues([], problem=str(error))
        answers, own, best = _score(dataset, splits, usable, seed)
    rows = np.sort(np.concatenate([split.validation for split in splits]))
    doubtful = rows[answers[rows] != dataset.y[rows]]
    # Rounded: the last digits depend on the number of threads.
    ratio = (own[doubtful] / best[doubtful]).round(5)
    ranked = doubtful[np.lexsort((doubtful, ratio))]
    listed = _describe(dataset, ranked[:MOST_ISSUES], rows, answers, own, best)
    clear = int((ratio <= 1 / CLEAR).sum())
    return LabelIssues(listed, len(ranked), clear, len(rows))


def _make_folds(
    dataset: Dataset, config: TrainConfig, seed: int
) -> tuple[list[Split], NDArray[np.bool_]]:
    """Return the folds in rows of the dataset, and the classes that are trained in each of them."""
    kept = leave_out_lone(dataset, config)
    usable = np.isin(dataset.class_names, kept.class_names)
    places = np.flatnonzero(usable[dataset.y])
    if kept.digests is not None:
        kept = replace(kept, groups=group_by_digest(kept.digests, kept.groups))
    most = len(set(kept.grouping.numbers[development_rows(kept)].tolist()))
    splits = split_folds(kept, min(FOLDS, most), seed)
    parts = ("train", "validation", "test")
    return [
        replace(split, **{part: places[getattr(split, part)] for part in parts}) for split in splits
    ], usable


def _score(
    dataset: Dataset, splits: list[Split], usable: NDArray[np.bool_], seed: int
) -> tuple[Labels, Floats, Floats]:
    """Return, of each row, the class that other images suggest, and its label's and its score."""
    development = np.sort(np.concatenate([split.validation for split in splits]))
    # Linear heads take float64, too, which is what keeps digits apart from threads.
    reduced: Any = strongest_directions(dataset.X, development, seed)
    classes = np.flatnonzero(usable)
    answers = np.zeros(len(dataset.y), np.int64)
    own, best = np.zeros((2, len(dataset.y)))
    for split in splits:
        train = _thinned(dataset.y, split.train, seed)
        y = np.searchsorted(classes, dataset.y[train])
        (head,) = fit_linear([HeadSpec("lda")], reduced[train], y)
        for part, X in iter_chunks(reduced[split.validation], len(classes)):
            rows = split.validation[part]
            scores = head.predict_proba(X)
            labels = np.searchsorted(classes, dataset.y[rows])
            best[rows], own[rows] = scores.max(axis=1), scores[np.arange(len(rows)), labels]
            answers[rows] = classes[scores.argmax(axis=1)]
    return answers, own, best


def _thinned(y: Labels, rows: Labels, seed: int) -> Labels:
    """Return at most about ``_MOST_ROWS`` of the training rows, with some of each class."""
    drawn = sample(rows, _MOST_ROWS, seed)
    missing = rows[~np.isin(y[rows], y[drawn])]
    return np.union1d(drawn, missing)


def _describe(
    dataset: Dataset, issues: Labels, rows: Labels, answers: Labels, own: Floats, best: Floats
) -> list[LabelIssue]:
    """Return what is known of some rows; neighbours are among ``rows``."""
    names, keys, y = dataset.class_names, dataset.keys, dataset.y
    nearest, cosines = nearest_rows(dataset.X, issues, rows)
    return [
        LabelIssue(
            row,
            keys[row],
            names[y[row]],
            names[answers[row]],
            float(own[row]),
            float(best[row]),
            keys[near],
            names[y[near]],
            cosine,
            SPLITS[dataset.split[row]],
        )
        for row, near, cosine in zip(
            issues.tolist(), nearest.tolist(), cosines.tolist(), strict=True
        )
    ]
