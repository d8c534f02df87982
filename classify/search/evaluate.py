"""Candidates trained and judged on every split, those that can be together in one go."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.out_of_core import StoredRows, iter_chunks
from classify.data.preprocessing import Transform
from classify.data.splits import Split, group_names
from classify.heads.registry import FittedHead
from classify.search.bootstrap import Judged, judge
from classify.search.fit import Fit, FoldData, batches, fit_batch, score_all, transformed
from classify.settings.head_spec import HeadSpec
from extract.core.errors import SettingError


class Outcome(NamedTuple):
    """What one candidate did.

    Attributes:
        judged: Its answers on the judging rows, in the order of the rows.
        train_accuracy: Mean over the folds of its accuracy on the rows that it was trained on.
        seconds: Its share of the time that training took, all folds together.
        history: Its curves in the first fold; empty for heads without epochs.
        epochs: How many epochs it was trained for, with patience up to the best one; the median
            of the folds; 0 for heads without epochs.
        failed: Why it is of no use; empty where it trained.
    """

    judged: Judged
    train_accuracy: float
    seconds: float
    history: dict[str, list[float]]
    epochs: int = 0
    failed: str = ""


def join_outcomes(parts: Sequence[Outcome], splits: Sequence[Split]) -> Outcome:
    """Put what a candidate did in each fold into the order of the rows."""
    order = np.argsort(np.concatenate([split.validation for split in splits]), kind="stable")
    judged = Judged(
        np.concatenate([part.judged.answers for part in parts])[order],
        np.concatenate([part.judged.true_scores for part in parts])[order],
    )
    accuracy = float(np.mean([part.train_accuracy for part in parts]))
    return Outcome(
        judged,
        accuracy,
        sum(part.seconds for part in parts),
        parts[0].history,
        sorted(part.epochs for part in parts)[len(parts) // 2],
        next((part.failed for part in parts if part.failed), ""),
    )


# Transformed rows are kept for the next batch of heads where all folds of them fit into this.
_KEEP_BYTES = 1 << 30


class Tried(NamedTuple):
    """A candidate and what it did.

    Attributes:
        spec: The candidate.
        outcome: What it did, all folds together.
        head: The trained head where one split judges, else None.
        scores: (J, K) scores of the judging rows where folds judge and memory holds those of all
            that were trained with it, else None.
    """

    spec: HeadSpec
    outcome: Outcome
    head: FittedHead | None
    scores: NDArray[np.floating] | None


def evaluate(
    dataset: Dataset, specs: Sequence[HeadSpec], splits: Sequence[Split], halving: bool = False
) -> Iterator[Tried]:
    """Train candidates on every split, batch by batch, and say what each did."""
    front = _Front(dataset, splits)
    for batch in batches(specs):
        some = [specs[position] for position in batch]
        parts: list[list[Outcome]] = [[] for _ in some]
        last: list[FittedHead | None] = [None] * len(some)
        scores: list[list[NDArray[np.floating]]] = [[] for _ in some]
        size = 8 * len(some) * len(dataset.y) * len(dataset.class_names)
        keep = len(splits) > 1 and (len(some) == 1 or size < _KEEP_BYTES)
        for fold in range(len(splits)):
            transform, rows = front.rows(some[0], fold)
            fits = list(fit_batch(some, rows, transform, halving))
            judged = _judged(fits, some, rows, keep)
            for fit, (outcome, found) in zip(fits, judged, strict=True):
                parts[fit.position].append(outcome)
                last[fit.position] = fit.fitted if len(splits) == 1 else None
                scores[fit.position].append(found)
        order = np.argsort(np.concatenate([split.validation for split in splits]))
        joined = [np.concatenate(made)[order] if keep else None for made in scores]
        done = [join_outcomes(found, splits) for found in parts]
        tried = map(Tried, some, done, last, joined)
        # Those of no use last: the journal keeps them beside others.
        yield from sorted(tried, key=lambda one: bool(one.outcome.failed))


def _judged(
    fits: Sequence[Fit], specs: Sequence[HeadSpec], rows: FoldData, keep: bool
) -> Iterator[tuple[Outcome, NDArray[np.floating]]]:
    """Judge heads that were trained together: all in one pass over the rows.

    Yields:
        What each did, and its scores of the judging rows, (0, K) unless they are to be kept.
    """
    heads = [fit.fitted.head for fit in fits]
    right = np.zeros(len(heads))
    for places, X in iter_chunks(rows.X):
        answers = [found.argmax(axis=1) for found in score_all(heads, X)]
        right += [(found == rows.y[places]).sum() for found in answers]
    parts: list[list[Judged]] = [[] for _ in heads]
    scores: list[list[NDArray[np.floating]]] = [[] for _ in heads]
    for places, X in iter_chunks(rows.X_validation):
        for part, made, found in zip(parts, scores, score_all(heads, X), strict=True):
            part.append(judge(rows.y_validation[places], found))
            made.append(found if keep else found[:0])
    for part, made, count, fit, head in zip(parts, scores, right, fits, heads, strict=True):
        outcome = Outcome(
            Judged(*(np.concatenate(values) for values in zip(*part, strict=True))),
            float(count / len(rows.y)),
            fit.seconds,
            head.history,
            _epochs(specs[fit.position], head.history),
            head.failed or "",
        )
        yield outcome, np.concatenate(made)


def _epochs(spec: HeadSpec, history: dict[str, list[float]]) -> int:
    """Return how many epochs are in a head: with patience, up to its best one."""
    losses = history.get("val_loss", [])
    return int(np.argmin(losses)) + 1 if spec.patience and losses else len(losses)


class _Front:
    """The transformed rows of each fold, kept while the next heads have the same transform."""

    def __init__(self, dataset: Dataset, splits: Sequence[Split]) -> None:
        self._dataset, self._splits = dataset, splits
        self._kept: dict[tuple[Any, int], tuple[Transform, FoldData]] = {}

    def rows(self, spec: HeadSpec, fold: int) -> tuple[Transform, FoldData]:
        """Return the transform fitted on a fold's training rows, and both its sides behind it."""
        steps = spec.transform or (), spec.views in ("random", "all")
        if (steps, fold) in self._kept:
            return self._kept[steps, fold]
        transform = Transform(spec.transform or ())
        split = self._splits[fold]
        rows = divided(self._dataset, spec, split.train, split.validation)
        made = transform, transformed(transform, rows)
        X, shown = self._dataset.X, 1 + (rows.views.features.shape[1] if rows.views else 0)
        if isinstance(X, StoredRows) or X.nbytes * shown * len(self._splits) < _KEEP_BYTES:
            self._kept = {key: value for key, value in self._kept.items() if key[0] == steps}
            self._kept[steps, fold] = made
        return made


def divided(
    dataset: Dataset, spec: HeadSpec, train: NDArray[np.int64], judging: NDArray[np.int64]
) -> FoldData:
    """Return rows to train and to judge a candidate on, and the views that it trains on.

    Raises:
        SettingError: It wants views, for which there is no memory.
    """
    X, y, views = dataset.X, dataset.y, None
    if spec.views in ("random", "all"):
        if not dataset.views:
            raise SettingError(f"views: no memory for those of {dataset.layer}; see --memory")
        views = dataset.views.of(train)
    return FoldData(X[train], y[train], X[judging], y[judging], views, _groups(dataset, train))


def _groups(dataset: Dataset, train: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Number the groups of training rows; None where one of them is all there is of a class."""
    if dataset.groups is None:
        return None
    names, y = group_names(dataset), dataset.y[train]
    numbers = np.unique([names[row] for row in train], return_inverse=True)[1]
    several = all(len(set(numbers[y == label].tolist())) > 1 for label in np.unique(y))
    return numbers if several else None
