"""Train candidates on every split and evaluate them on its validation rows."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.out_of_core import Features, Labels, StoredRows, iter_chunks
from classify.data.preprocessing import Floats, Transform
from classify.data.splits import Split
from classify.heads.registry import FittedHead, Head
from classify.search.bootstrap import reduce_scores
from classify.search.fit import FoldData, batches, fit_batch, prepare_fold, score_all, uses_views
from classify.settings.head_spec import HeadSpec

# Transformed rows of all folds, and scores of a batch of heads, are kept up to this size.
_KEEP_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one candidate.

    Attributes:
        answers: (V,) int64 classes with the highest score, of the validation rows in their order.
        true_scores: (V,) float64 scores of the true classes, 0 to 1.
        train_accuracy: Accuracy on the training rows, the mean of the folds.
        seconds: Its share of the training time, the sum of the folds.
        history: Its learning curves in the first fold; empty for heads without epochs.
        epochs: Number of epochs, with patience up to the best one; the median of the folds; 0 for
            heads without epochs.
        failed: Why the training failed; empty where it did not.
        scores: (V, K) scores of the validation rows, with folds only and where memory allows it.
        head: The trained head; None with folds.
    """

    answers: Labels = field(repr=False)
    true_scores: Floats = field(repr=False)
    train_accuracy: float
    seconds: float
    history: dict[str, list[float]] = field(repr=False)
    epochs: int = 0
    failed: str = ""
    scores: Floats | None = field(default=None, repr=False)
    head: FittedHead | None = field(default=None, repr=False)


def evaluate(
    dataset: Dataset, specs: Sequence[HeadSpec], splits: Sequence[Split], halving: bool = False
) -> Iterator[tuple[HeadSpec, Evaluation]]:
    """Train candidates on every split, batch by batch, and yield each with its evaluation."""
    folded, views = len(splits) > 1, dataset.views.spec.views if dataset.views else 0
    cached = isinstance(dataset.X, StoredRows) or (
        dataset.X.nbytes * (1 + views) * len(splits) < _KEEP_BYTES
    )

    @lru_cache(maxsize=len(splits) if cached else 0)
    def prepare(steps: tuple[str, ...], with_views: bool, fold: int) -> tuple[Transform, FoldData]:
        return prepare_fold(dataset, splits[fold], steps, with_views)

    order = np.argsort(np.concatenate([split.validation for split in splits]))
    for batch in batches(specs):
        members = [specs[position] for position in batch]
        size = 8 * len(members) * len(dataset.y) * len(dataset.class_names)
        keep_scores = folded and (len(members) == 1 or size < _KEEP_BYTES)
        steps, with_views = members[0].transform or (), uses_views(members[0])
        folds = []
        for fold in range(len(splits)):
            transform, rows = prepare(steps, with_views, fold)
            parts = _evaluate_fold(members, transform, rows, halving, keep_scores)
            folds.append([replace(part, head=None) if folded else part for part in parts])
        joined = [_join_folds(parts, order) for parts in zip(*folds, strict=True)]
        # Failed candidates come last: the checkpoint writes them only after others.
        yield from sorted(zip(members, joined, strict=True), key=lambda pair: bool(pair[1].failed))


def _evaluate_fold(
    specs: Sequence[HeadSpec], transform: Transform, rows: FoldData, halving: bool, keep: bool
) -> Iterator[Evaluation]:
    """Train heads together and evaluate each on both sides of a fold."""
    start = time.perf_counter()
    fitted = fit_batch(specs, rows, transform, halving)
    seconds = (time.perf_counter() - start) / len(specs)
    heads = [one.head for one in fitted]
    trained = _reduced_scores(heads, rows.X, rows.y, keep=False)
    validated = _reduced_scores(heads, rows.X_validation, rows.y_validation, keep)
    for spec, head, train, validation in zip(specs, fitted, trained, validated, strict=True):
        losses = head.head.history.get("val_loss", [])
        yield Evaluation(
            answers=validation[0],
            true_scores=validation[1],
            train_accuracy=float((train[0] == rows.y).mean()),
            seconds=seconds,
            history=head.head.history,
            epochs=int(np.argmin(losses)) + 1 if spec.patience and losses else len(losses),
            failed=head.head.failed or "",
            scores=validation[2] if keep else None,
            head=head,
        )


def _reduced_scores(
    heads: Sequence[Head], X: Features, y: Labels, keep: bool
) -> list[list[NDArray[Any]]]:
    """Score rows chunk by chunk: answers, true scores and, to keep, scores of each head."""
    chunks = [
        [
            (*reduce_scores(y[rows], scores), scores[: len(scores) * keep])
            for scores in score_all(heads, x)
        ]
        for rows, x in iter_chunks(X)
    ]
    by_head = zip(*chunks, strict=True)
    return [[np.concatenate(arrays) for arrays in zip(*parts, strict=True)] for parts in by_head]


def _join_folds(parts: Sequence[Evaluation], order: Labels) -> Evaluation:
    """Join the evaluations of one candidate in each fold; ``order`` sorts the validation rows."""
    scores = [part.scores for part in parts if part.scores is not None]
    return replace(
        parts[0],
        answers=np.concatenate([part.answers for part in parts])[order],
        true_scores=np.concatenate([part.true_scores for part in parts])[order],
        train_accuracy=float(np.mean([part.train_accuracy for part in parts])),
        seconds=sum(part.seconds for part in parts),
        epochs=sorted(part.epochs for part in parts)[len(parts) // 2],
        failed=next((part.failed for part in parts if part.failed), ""),
        scores=np.concatenate(scores)[order] if scores else None,
    )
