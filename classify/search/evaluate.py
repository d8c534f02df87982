"""Train candidates on every split and evaluate them on its validation rows."""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.preprocessing import Floats, Transform
from classify.data.splits import Split, validation_order, validation_rows
from classify.heads import linear_head
from classify.heads.registry import LINEAR_HEADS, FittedHead, Head
from classify.heads.sklearn_head import SklearnHead
from classify.scores.areas import area_values
from classify.scores.pseudo_values import reduce_scores
from classify.settings.head_spec import KERAS_HEADS, HeadSpec, groups_of
from classify.stored.out_of_core import Features, Labels, iter_chunks
from classify.stored.views import FoldData, RandomViews, all_views

# Transformed rows of all folds, and scores of a batch of heads, are kept up to this size.
_KEEP_BYTES = 1 << 30
# Most weights of a compiled model of Keras heads that waits for the next heads of its shape.
_KEEP_WEIGHTS = 1 << 23
# Training rows that the training accuracy is measured on: 0.9 of them is 0.89 to 0.91 of all.
TRAINING_SAMPLE = 4000


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one candidate.

    Attributes:
        answers: (V,) int64 classes with the highest score, of the validation rows in their order.
        true_scores: (V,) float64 scores of the true classes, 0 to 1.
        areas: (2, V) float64 pseudo-values of the areas, see ``areas.area_values``.
        train_accuracy: Accuracy on the training rows, of more than ``TRAINING_SAMPLE`` on as many
            random ones; the mean of the folds.
        seconds: Its share of the training time, the sum of the folds.
        history: Its learning curves in the first fold; empty for heads without epochs.
        epochs: Number of epochs, with patience up to the best one; the median of the folds; 0 for
            heads without epochs.
        failed: Why the training failed; empty where it did not.
        scores: (V, K) scores of the validation rows.
        head: The trained head; None with folds.
    """

    answers: Labels = field(repr=False)
    true_scores: Floats = field(repr=False)
    areas: Floats = field(repr=False)
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
    size = getattr(dataset.X, "nbytes", 0) * (1 + views) * len(splits)  # 0: rows in the file
    # One is the fold of the next batch, where there are no folds.
    kept = len(splits) if size < _KEEP_BYTES else 1
    prepare = lru_cache(kept)(partial(prepare_fold, dataset, splits))
    rows, order = validation_rows(splits), validation_order(splits)
    # Heads that halving compares train as one model, however large their scores are.
    size = 8 * len(rows) * len(dataset.class_names)
    most = len(specs) if halving else max(1, _KEEP_BYTES // size)
    stacks: dict[Any, Any] = {}
    for batch in batches(specs, most):
        members = [specs[position] for position in batch]
        steps, with_views = members[0].transform or (), members[0].views in ("random", "all")
        folds = []
        for fold in range(len(splits)):
            transform, prepared = prepare(fold, steps, with_views)
            parts = _evaluate_fold(members, transform, prepared, halving, stacks)
            folds.append([replace(part, head=None) if folded else part for part in parts])
        if any(stack.size > _KEEP_WEIGHTS for stack in stacks.values()):
            stacks.clear()
        joined = [_join_folds(dataset, rows, parts, order) for parts in zip(*folds, strict=True)]
        # Failed candidates come last: the checkpoint writes them only after others.
        yield from sorted(zip(members, joined, strict=True), key=lambda pair: bool(pair[1].failed))


def _evaluate_fold(
    specs: Sequence[HeadSpec],
    transform: Transform,
    rows: FoldData,
    halving: bool,
    stacks: dict[Any, Any] | None = None,
) -> Iterator[Evaluation]:
    """Train heads together and evaluate each on both sides of a fold."""
    start = time.perf_counter()
    fitted = fit_batch(specs, rows, transform, halving, stacks)
    seconds = (time.perf_counter() - start) / len(specs)
    heads = [one.head for one in fitted]
    sample = _sample(len(rows.y))
    y = rows.y[sample]
    trained = _reduced_scores(heads, rows.X[sample], y, rows.classes, keep=False)
    held_out = rows.X_validation, rows.y_validation
    validated = _reduced_scores(heads, *held_out, rows.classes, keep=True)
    for spec, one, train, validation in zip(specs, fitted, trained, validated, strict=True):
        accuracy, history = float((train[0] == y).mean()), one.head.history
        losses = history.get("val_loss", [])
        epochs = int(np.argmin(losses)) + 1 if spec.patience and losses else len(losses)
        answers, true_scores, scores = validation
        areas = np.empty((2, 0))  # they need the scores of all folds
        results = areas, accuracy, seconds, history, epochs, one.head.failed or ""
        yield Evaluation(answers, true_scores, *results, scores, one)


def training_sample(count: int) -> int:
    """Return how many of the training rows are scored for the training accuracy."""
    return min(count, TRAINING_SAMPLE)


def _sample(count: int) -> Labels | slice:
    """Return the training rows that are scored: all, or the increasing positions of some."""
    size = training_sample(count)
    if size == count:
        return slice(None)
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def _reduced_scores(
    heads: Sequence[Head], X: Features, y: Labels, classes: int, keep: bool
) -> list[Any]:
    """Score rows chunk by chunk: answers, true scores and, to keep, scores of each head."""
    linear, chunks = [h for h in heads if isinstance(h, linear_head.LinearHead)], []
    for rows, features in iter_chunks(X, classes * max(1, len(linear))):
        # Linear heads that were trained together need one pass over the rows.
        scores: Any = linear_head.score_linear(linear, features) if linear else ()
        scores = scores or (head.predict_proba(features) for head in heads)
        chunks.append([(*reduce_scores(y[rows], s), s if keep else s[:0].copy()) for s in scores])
    by_head = zip(*chunks, strict=True)
    return [[np.concatenate(arrays) for arrays in zip(*parts, strict=True)] for parts in by_head]


def _join_folds(
    dataset: Dataset, rows: Labels, parts: Sequence[Evaluation], order: Labels
) -> Evaluation:
    """Join the evaluations of one candidate in each fold; ``order`` sorts the validation rows."""
    scores = _join_scores([part.scores for part in parts if part.scores is not None], order)
    return replace(
        parts[0],
        answers=np.concatenate([part.answers for part in parts])[order],
        true_scores=np.concatenate([part.true_scores for part in parts])[order],
        areas=area_values(dataset.y[rows], scores, dataset.positive_label),
        train_accuracy=float(np.mean([part.train_accuracy for part in parts])),
        seconds=sum(part.seconds for part in parts),
        epochs=sorted(part.epochs for part in parts)[len(parts) // 2],
        failed=next((part.failed for part in parts if part.failed), ""),
        scores=scores,
    )


def _join_scores(parts: Sequence[Floats], order: Labels) -> Floats:
    """Join the scores of the folds without another copy of them all."""
    scores = np.empty((len(order), parts[0].shape[1]), parts[0].dtype)
    ends = np.cumsum([len(part) for part in parts])
    for part, places in zip(parts, np.split(np.argsort(order), ends[:-1]), strict=True):
        scores[places] = part
    return scores


def evaluate_baseline(dataset: Dataset, splits: Sequence[Split]) -> Evaluation:
    """Evaluate the most frequent class of the training rows, with the classes' shares as scores.

    With folds these are all rows, so that one class is the answer in every fold.
    """
    rows, classes = validation_rows(splits), len(dataset.class_names)
    trained = np.unique(np.concatenate([split.train for split in splits]))
    shares = np.bincount(dataset.y[trained], minlength=classes) / len(trained)
    y, scores = dataset.y[rows], np.broadcast_to(shares, (len(rows), classes))
    areas = area_values(y, scores, dataset.positive_label)
    return Evaluation(*reduce_scores(y, scores), areas, 0.0, 0.0, {})


def batches(specs: Sequence[HeadSpec], most: int) -> list[list[int]]:
    """Group the positions of heads that are trained together; equal transforms are neighbours.

    Args:
        specs: The heads.
        most: Most heads in a group.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, spec in enumerate(specs):
        if spec.head not in KERAS_HEADS:
            shared = (spec.layer, spec.transform, spec.views)
            groups[shared if spec.head in LINEAR_HEADS else position].append(position)
    transforms = [spec.transform for spec in specs]
    parts = [
        group[start : start + most]
        for group in [*groups_of(specs), *groups.values()]
        for start in range(0, len(group), most)
    ]
    return sorted(parts, key=lambda batch: (transforms.index(transforms[batch[0]]), batch))


def fit_batch(
    specs: Sequence[HeadSpec],
    rows: FoldData,
    transform: Transform,
    halving: bool = False,
    stacks: dict[Any, Any] | None = None,
) -> list[FittedHead]:
    """Train heads that share a transform.

    Args:
        specs: One batch of ``batches``.
        rows: The transformed rows.
        transform: The fitted transform.
        halving: See ``TrainConfig``.
        stacks: Keeps the compiled model of Keras heads for the next fold or transform.

    Returns:
        The heads in the order of ``specs``. A head whose training failed has ``failed``.
    """
    if rows.views and specs[0].views == "all":
        X, y, images = all_views(rows.X, rows.y, rows.views)
        groups = images if rows.groups is None else rows.groups[images]
        rows = rows._replace(X=X, y=y, views=None, groups=groups)
    elif rows.views and specs[0].views == "random":
        rows = rows._replace(X=RandomViews(rows.X, rows.views))
    if specs[0].head in LINEAR_HEADS:
        heads: Sequence[Head] = linear_head.fit_linear(specs, rows.X, rows.y, rows.groups)
    elif specs[0].head in KERAS_HEADS:
        from classify.heads import keras_head

        heads = keras_head.fit_heads(specs, rows, halving, stacks=stacks)
    else:
        heads = [SklearnHead(spec).fit(rows) for spec in specs]
    return [FittedHead(transform, head) for head in heads]


def transformed(transform: Transform, rows: FoldData) -> FoldData:
    """Fit a transform on the plain training rows and apply it to all rows and views."""
    X, views = transform.fit_apply(rows.X), rows.views
    if views:
        count, shape = views.features.shape[:2], rows.X.shape[1:]
        features = transform.apply(views.features.reshape(-1, *shape))
        views = views._replace(features=features.reshape(*count, *X.shape[1:]))
    return rows._replace(X=X, X_validation=transform.apply(rows.X_validation), views=views)


def prepare_fold(
    dataset: Dataset, splits: Sequence[Split], fold: int, steps: Sequence[str], with_views: bool
) -> tuple[Transform, FoldData]:
    """Read the rows of a split, and the views of its training rows, and transform them."""
    X, y, train, validation = dataset.X, dataset.y, splits[fold].train, splits[fold].validation
    views = dataset.views.of(train) if dataset.views and with_views else None
    groups = None
    if dataset.groups is not None:
        groups = np.unique(dataset.grouping.numbers[train], return_inverse=True)[1]
        # No group can be left out where a class has only one.
        if any(len(np.unique(groups[y[train] == label])) < 2 for label in np.unique(y[train])):
            groups = None
    rows = FoldData(X[train], y[train], X[validation], y[validation], views, groups)
    transform = Transform(steps)
    return transform, transformed(transform, rows)
