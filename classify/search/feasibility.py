"""Which candidates are trained: those that fit into memory, and default heads within a budget."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from classify.data.dataset import Dataset, budget_for_layer
from classify.data.splits import Split
from classify.heads.registry import MOST_SUMMED, SUMMED_HEADS, needs_memory
from classify.search.checkpoint import Checkpoint
from classify.search.costs import USUAL_MACHINE, Machine, Shape, measure_machine, work_of
from classify.settings.config import TrainConfig
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from classify.settings.sweep import label
from classify.stored.memory_budget import free_memory
from classify.stored.out_of_core import StoredRows
from extract.core.console import log
from extract.core.errors import HeadError, SettingError

# svm trains a machine for each pair of classes, boosting a tree for each class in each step, and a
# forest has a number for each class in each node.
_MOST_CLASSES = {"svm": 300, "boosting": 300, "forest": 1000}
# Scores of the rows, which logistic computes in each step: 4 GB.
_MOST_LOGITS = 10**8
# Longer training is announced.
_LONG_SECONDS = 600
# Of heads that are trained together, each but the first one takes this share of its time alone.
_SHARED = 0.2


class Budget(NamedTuple):
    """The time for the default heads.

    Attributes:
        seconds: That of all together.
        left_out: Label -> estimated seconds of the heads that would take longer.
    """

    seconds: float
    left_out: Mapping[str, float]


def estimate(
    dataset: Dataset,
    specs: Sequence[HeadSpec],
    splits: Sequence[Split],
    machine: Machine,
    memory: float | None = None,
) -> dict[HeadSpec, float]:
    """Estimate how long each head takes in all splits, trained alone.

    Args:
        dataset: The rows.
        specs: The heads.
        splits: The training and validation rows.
        machine: How fast the machine is.
        memory: See ``TrainConfig``.
    """
    layers = {spec.layer for spec in specs}
    parts = {layer: budget_for_layer(dataset, "+".join(layer), memory) for layer in layers}
    seconds = {}
    for spec in specs:
        views = dataset.views.spec.views if dataset.views and spec.views == "all" else 0
        layer, K = parts[spec.layer], len(dataset.class_names)
        shape = Shape(
            max((1 + views) * len(split.train) for split in splits),
            max(len(split.validation) for split in splits),
            math.prod(layer.shape),
            K,
            not layer.holds_features,
        )
        seconds[spec] = len(splits) * machine.seconds(work_of(spec, shape))
    return seconds


def fast_head(
    dataset: Dataset, specs: Sequence[HeadSpec], split: Split, shares: Sequence[float], most: float
) -> tuple[HeadSpec | None, float]:
    """Return the first head that is fast on shares of the training rows, and a factor of them.

    A usual machine decides, not this one: the same run chooses the same head.

    Args:
        dataset: The rows, with the features of the heads.
        specs: The heads.
        split: The training and validation rows.
        shares: Shares of the training rows that one head is trained on.
        most: Seconds for all of them.

    Returns:
        None where none is fast on a thousandth of the rows; the factor is 1, a half, and so on.
    """
    stored, rows = isinstance(dataset.X, StoredRows), len(dataset.y)
    fit = [
        spec
        for spec in specs
        if not has_too_many_classes(spec, rows, len(dataset.class_names))
        and not (stored and needs_memory(spec, dataset.X.shape[1:]))
    ]
    for factor in (0.5**power for power in range(11)):
        # Reading a part of the rows from a file takes as long as reading all.
        counts = [1 if stored else factor * share for share in shares]
        parts = [replace(split, train=split.train[: round(n * len(split.train))]) for n in counts]
        costs = [estimate(dataset, fit, [part], USUAL_MACHINE) for part in parts]
        for spec in fit:
            if sum(cost[spec] for cost in costs) <= most:
                return spec, factor
    return None, 1.0


def keep_to_budget(
    dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint
) -> tuple[TrainConfig, Budget | None]:
    """Drop the default heads that do not fit into the budget, and announce long training.

    The cheapest heads are taken first, and one always. The choice is kept in the checkpoint: the
    same command makes it again when the machine is busier, or less busy.

    Args:
        dataset: The rows.
        config: The candidates; without a ``budget`` all are kept.
        checkpoint: Also has the splits.
    """
    specs, splits = config.candidates, checkpoint.splits
    if config.budget is None:
        missing = [spec for spec in specs if spec not in checkpoint.evaluations]
        usual = estimate(dataset, missing, splits, USUAL_MACHINE, config.memory)
        if sum(usual.values()) > _LONG_SECONDS / 10:  # else it is not worth a measurement
            _announce(estimate(dataset, missing, splits, measure_machine(), config.memory))
        return config, None
    left_out = checkpoint.choice(config)
    if left_out is None:
        missing = [spec for spec in specs if spec not in checkpoint.evaluations]
        seconds = dict.fromkeys(specs, 0.0)
        seconds |= estimate(dataset, missing, splits, measure_machine(), config.memory)
        order, total = sorted(specs, key=lambda spec: seconds[spec]), 0.0
        left_out = {}
        for spec in order:
            total += seconds[spec]
            if total > config.budget and spec != order[0]:
                left_out[label(spec)] = seconds[spec]
        checkpoint.choose(config, left_out)
    if left_out:
        shown = ", ".join(f"{name} (about {_duration(s)})" for name, s in left_out.items())
        remedy = "name them with --head to train them"
        log.info("left out by --budget %g: %s; %s", config.budget, shown, remedy)
    kept = tuple(spec for spec in specs if label(spec) not in left_out)
    return replace(config, candidates=kept), Budget(config.budget, left_out)


def _announce(seconds: Mapping[HeadSpec, float]) -> None:
    """Say how long the training takes where it takes long."""
    heads = dict[str, float]()
    for spec, own in sorted(seconds.items(), key=lambda pair: -pair[1]):
        together = spec.head in heads and spec.head in (*KERAS_HEADS, *SUMMED_HEADS)
        heads[spec.head] = heads.get(spec.head, 0.0) + own * (_SHARED if together else 1)
    if (total := sum(heads.values())) > _LONG_SECONDS:
        shown = ", ".join(f"{head} about {_duration(own)}" for head, own in heads.items())
        log.info("training takes about %s: %s", _duration(total), shown)


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"


def drop_infeasible(dataset: Dataset, config: TrainConfig) -> TrainConfig:
    """Drop the candidates that do not fit into memory, and set ``views`` of the others.

    A second call changes nothing.

    Args:
        dataset: The rows; candidates without a layer use its layer.
        config: The candidates.

    Returns:
        The configuration with the remaining candidates and a fixed ``memory``.

    Raises:
        HeadError: A head that was asked for by name cannot be trained on so many classes, or needs
            its features in memory, and they stay in the file; or no head remains.
        SettingError: A layer is unknown, or a candidate uses views that do not exist or do not fit
            into memory.
    """
    config = _drop_crowded(dataset, config)
    # Fixed, so that the layers are read later with the memory that is checked here.
    memory = config.memory or max(1, free_memory()) / 1e9
    layers = dict.fromkeys(spec.layer for spec in config.candidates)
    budgets = {layer: budget_for_layer(dataset, "+".join(layer), memory) for layer in layers}
    kept: list[HeadSpec] = []
    dropped: dict[str, list[str]] = defaultdict(list)
    for spec in config.candidates:
        budget = budgets[spec.layer]
        if spec.views and not budget.holds_views and (spec.views != "none" or not dataset.views):
            found = f"{dataset.path} has no views that fit into memory"
            remedy = "make some with extract-features --views, or see --memory"
            raise SettingError(
                f"views: {spec.views} has no effect on {budget.layer}: {found}; {remedy}"
            )
        if not budget.holds_features and (reason := needs_memory(spec, budget.shape)):
            dropped[budget.layer].append(reason)
        else:
            views = spec.views or ("random" if spec.head in KERAS_HEADS else "all")
            kept.append(replace(spec, views=views) if budget.holds_views else spec)
    for layer, reasons in dropped.items():
        shown = ", ".join(dict.fromkeys(reasons))
        if config.named or not kept:
            found = f"{shown}: cannot be trained while the features of {layer} stay in the file"
            expected = f"dense or linear, or ridge or lda of at most {MOST_SUMMED} features"
            remedy = "name one with --head, or extract with --pooling avg"
            raise HeadError(f"{found}; expected {expected}, without pca; {remedy}")
        log.info("left out, for the features of %s stay in the file: %s", layer, shown)
    return replace(config, candidates=tuple(kept), memory=memory)


def _drop_crowded(dataset: Dataset, config: TrainConfig) -> TrainConfig:
    """Drop the candidates that cannot be trained on as many classes as the dataset has."""
    rows, K = len(dataset.y), len(dataset.class_names)
    reasons = {s: has_too_many_classes(s, rows, K) for s in config.candidates}
    if not any(reasons.values()):
        return config
    kept = tuple(spec for spec, reason in reasons.items() if not reason)
    shown = ", ".join(dict.fromkeys(filter(None, reasons.values())))
    found = f"{rows:,} rows of {K:,}"
    if config.named or not kept:
        remedy = "use lda, ridge, knn or dense, or linear, which is logistic trained in epochs"
        raise HeadError(f"{shown}; found {found} classes; {remedy}")
    log.info("left out, for %s; found %s classes", shown, found)
    return replace(config, candidates=kept)


def has_too_many_classes(spec: HeadSpec, rows: int, classes: int) -> str:
    """Say why a head would need more memory than there is; empty if it would not.

    Args:
        spec: The head.
        rows: Training rows.
        classes: K.
    """
    if classes > (most := _MOST_CLASSES.get(spec.head, classes)):
        return f"{spec.head} takes at most {most:,} classes"
    if spec.head != "logistic" or classes <= 1000 or rows * classes <= _MOST_LOGITS:
        return ""
    return "logistic of more than 1,000 classes takes at most 100 million rows times classes"
