"""A head that is trained on fewer images: would more of them help?"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from classify.data.dataset import Dataset
from classify.data.preprocessing import Floats
from classify.data.samples import SHARES, sample, subsets
from classify.scores.differences import difference_interval
from classify.scores.intervals import Comparison, Proportion
from classify.search.evaluate import evaluate
from classify.search.feasibility import fast_head
from classify.search.leaderboard import Result
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from classify.stored.out_of_core import Labels
from extract.core.console import log, muted
from extract.core.errors import HeadError
from extract.display.progress import progress

# What training on fewer rows may take, on the usual machine: the report is the same on each one.
_SIZES_SECONDS = 2.0
# Validation rows that heads trained on fewer rows are scored on.
_SIZES_ROWS = 10_000


class TrainingSize(NamedTuple):
    """Metric that ranks, of a head trained on ``rows`` images of the first split."""

    rows: int
    score: Proportion


class Gain(NamedTuple):
    """How much the metric rose from ``fewer`` to ``rows`` training images; a loss falls, below 0.

    Attributes:
        fewer: The second most training images.
        rows: The most.
        value: The difference of the metric on the same validation images.
        low: Lower end of its 95 % interval, for these two heads; None where there are few groups.
        high: Upper end.
    """

    fewer: int
    rows: int
    value: float
    low: float | None
    high: float | None


class TrainingSizes(NamedTuple):
    """Scores of a head by the number of its training images.

    Attributes:
        head: The best head without epochs that is fast, else logistic regression; None of a
            fine-tuned head, and where there is none.
        rows: The validation images that it is scored on: of many a random sample.
        sizes: Its scores, fewest images first; without the sizes at which it cannot be trained.
        gain: What the last step gained; None with fewer than two sizes.
    """

    head: str | None
    rows: int
    sizes: list[TrainingSize]
    gain: Gain | None = None


def train_on_fewer(dataset: Dataset, result: Result, seed: int = 0) -> TrainingSizes:
    """Train a fast head on an eighth, a quarter and half of the first split's training rows.

    Of very many rows the shares are smaller.
    """
    rows = sample(result.splits[0].validation, _SIZES_ROWS, seed)
    spec, factor = (None, 1.0) if result.finetuned else _size_head(result, dataset)
    if spec is None:
        return TrainingSizes(None, len(rows), [])
    sizes = _training_sizes(dataset, spec, result, rows, factor, seed)
    return TrainingSizes(_label(spec, result), len(rows), *sizes)


def _size_head(result: Result, dataset: Dataset) -> tuple[HeadSpec | None, float]:
    """Return the head to train on fewer rows, the best one that is fast, and the largest share."""
    layer = result.best.spec.layer
    specs = [e.spec for e in result.entries if e.spec.layer == layer and not e.spec.epochs]
    return fast_head(
        dataset,
        specs or [HeadSpec("logistic", layer=layer)],
        replace(result.splits[0], validation=result.splits[0].validation[:_SIZES_ROWS]),
        SHARES,
        _SIZES_SECONDS,
    )


def _label(spec: HeadSpec, result: Result) -> str:
    """Return the name of a head as the leaderboard has it."""
    return next((entry.label for entry in result.entries if entry.spec == spec), label(spec))


def _training_sizes(
    dataset: Dataset, spec: HeadSpec, result: Result, rows: Labels, factor: float, seed: int
) -> tuple[list[TrainingSize], Gain | None]:
    """Evaluate a head trained on parts of the first split's training rows, and on all of them."""
    split, trained = result.splits[0], []
    # Without folds it is on the leaderboard, trained on all rows.
    full = [e.evaluation for e in result.entries if e.spec == spec and len(result.splits) == 1]
    parts = subsets(dataset.y[split.train], seed, [factor * share for share in SHARES])
    parts += [] if full or factor < 1 else [np.arange(len(split.train))]
    with progress(len(parts), "parts", label="training on fewer images") as bar, muted():
        for part in parts:
            smaller = replace(split, train=split.train[part], validation=rows)
            try:
                ((_, own),) = evaluate(dataset, [spec], [smaller])
            except HeadError as error:
                log.debug("not trained on %d images: %s", len(part), error)
                continue
            trained.append((len(part), (own.answers, own.true_scores, own.areas)))
            bar.update(1)
    kept = np.isin(split.validation, rows)
    for own in full:
        results = own.answers[kept], own.true_scores[kept], own.areas[:, kept]
        trained.append((len(split.train), results))
    y, units, positive = dataset.y[rows], dataset.grouping.numbers[rows], dataset.positive_label
    comparison = Comparison(y, len(dataset.class_names), units, seed, positive)
    valued = [(count, comparison.values(result.metric, *results)) for count, results in trained]
    known = [(count, values) for count, values in valued if np.isfinite(values).all()]
    sizes = [
        TrainingSize(n, Proportion(float(v.mean()), *comparison.interval(result.metric, v)))
        for n, v in known
    ]
    return sizes, _last_gain(known, units, result.metric)


def _last_gain(valued: list[tuple[int, Floats]], units: Labels, metric: str) -> Gain | None:
    """Compare the last two sizes, row by row."""
    if len(valued) < 2:
        return None
    (fewer, before), (rows, after) = valued[-2:]
    change = after - before
    interval = difference_interval(change, units, bounded=metric != "loss")
    return Gain(fewer, rows, float(change.mean()), *interval)
