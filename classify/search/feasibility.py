"""Check before training which candidates fit into memory and how each uses views."""

from dataclasses import replace

from classify.data.dataset import Dataset, budget_for_layer
from classify.data.memory_budget import free_memory
from classify.heads.registry import MOST_SUMMED, needs_memory
from classify.settings.config import TrainConfig
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from extract.core.console import log
from extract.core.errors import HeadError, SettingError


def drop_infeasible(dataset: Dataset, config: TrainConfig) -> TrainConfig:
    """Drop the candidates that do not fit into memory, and set ``views`` of the others.

    A second call changes nothing.

    Args:
        dataset: The rows; candidates without a layer use its layer.
        config: The candidates.

    Returns:
        The configuration with the remaining candidates and a fixed ``memory``.

    Raises:
        HeadError: A head that was asked for by name needs its features in memory, and they stay in
            the file; or no head remains.
        SettingError: A layer is unknown, or a candidate uses views that do not exist or do not fit
            into memory.
    """
    # Fixed, so that the layers are read later with the memory that is checked here.
    memory = config.memory or max(1, free_memory()) / 1e9
    layers = dict.fromkeys(spec.layer for spec in config.candidates)
    budgets = {layer: budget_for_layer(dataset, "+".join(layer), memory) for layer in layers}
    kept: list[HeadSpec] = []
    dropped: dict[str, dict[str, None]] = {}
    for spec in config.candidates:
        budget = budgets[spec.layer]
        if spec.views and not budget.holds_views and (spec.views != "none" or not dataset.views):
            raise SettingError(
                f"views: {spec.views} has no effect on {budget.layer}: {dataset.path} has no views "
                "that fit into memory; make some with extract-features --views, or see --memory"
            )
        reason = "" if budget.holds_features else needs_memory(spec, budget.shape)
        if reason:
            dropped.setdefault(budget.layer, {})[reason] = None
        else:
            views = spec.views or ("random" if spec.head in KERAS_HEADS else "all")
            kept.append(replace(spec, views=views) if budget.holds_views else spec)
    for layer, reasons in dropped.items():
        shown = ", ".join(reasons)
        if config.named or not kept:
            raise HeadError(
                f"{shown}: cannot be trained while the features of {layer} stay in "
                f"the file; expected dense or linear, or ridge or lda of at most {MOST_SUMMED} "
                "features, without pca; name one with --head, or extract with --pooling avg"
            )
        log.info("left out, for the features of %s stay in the file: %s", layer, shown)
    return replace(config, candidates=tuple(kept), memory=memory)
