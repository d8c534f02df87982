"""What is settled before anything is trained: who can be, and what each makes of views."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from classify.data.dataset import Dataset, budget_for_layer
from classify.data.memory_budget import free_memory
from classify.data.out_of_core import StoredRows
from classify.heads.registry import MOST_SUMMED, needs_memory
from classify.settings.config import TrainConfig
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from extract.core.console import log
from extract.core.errors import HeadError, SettingError


class _Held(NamedTuple):
    """What memory holds of a layer: features of a shape, or none of them, and their views."""

    layer: str
    shape: tuple[int, ...]
    features: bool
    views: bool


def drop_infeasible(dataset: Dataset, config: TrainConfig) -> TrainConfig:
    """Leave out the candidates that there is no memory for, and say what the others make of views.

    Settled settings stay as they are when they are settled again.

    Args:
        dataset: The rows; its layer is used by candidates that name none.
        config: The candidates.

    Returns:
        The same, with the candidates that can be trained and with the ``memory`` that is theirs.

    Raises:
        HeadError: A head that was asked for by name needs features in memory that are not, or there
            is no other one.
        SettingError: A layer is unknown, or views are asked for that there are none of, or no
            memory for.
    """
    layers = dict.fromkeys(spec.layer for spec in config.candidates)
    if config.memory is None and len(layers) > 1:
        # What is said now of a layer must hold when its turn comes.
        config = replace(config, memory=max(1, free_memory()) / 1e9)
    held = {layer: _held(dataset, layer, config.memory) for layer in layers}
    _check_views(dataset, config.candidates, held)
    usual = [
        replace(spec, views=spec.views or ("random" if spec.head in KERAS_HEADS else "all"))
        if held[spec.layer].views
        else spec
        for spec in config.candidates
    ]
    return replace(config, candidates=tuple(_able(usual, held, config.named)))


def _held(dataset: Dataset, layer: tuple[str, ...], memory: float | None) -> _Held:
    """Look at the layer that is read already, or foresee another one."""
    name = "+".join(layer) or dataset.layer
    if name == dataset.layer or dataset.path is None:
        stored = isinstance(dataset.X, StoredRows)
        return _Held(dataset.layer, dataset.X.shape[1:], not stored, dataset.views is not None)
    room = budget_for_layer(dataset, name, memory)
    return _Held(name, room.shape, room.holds_features, room.holds_views)


def _check_views(
    dataset: Dataset, specs: Sequence[HeadSpec], held: dict[tuple[str, ...], _Held]
) -> None:
    """Raise SettingError where views are asked for and are not to be had."""
    for spec in specs:
        of = held[spec.layer]
        if spec.views and not of.views and (spec.views != "none" or not dataset.views):
            raise SettingError(
                f"views: {spec.views} has no effect on {of.layer}, for {dataset.path} holds none, "
                "or more than memory does; make some with extract-features --views, or see --memory"
            )


def _able(
    specs: Sequence[HeadSpec], held: dict[tuple[str, ...], _Held], named: bool
) -> list[HeadSpec]:
    """Leave out the heads that need features in memory which are not, or refuse to."""
    able, missing = [], dict[str, list[str]]()
    for spec in specs:
        of = held[spec.layer]
        reason = "" if of.features else needs_memory(spec, of.shape)
        if reason:
            missing.setdefault(of.layer, []).append(reason)
        else:
            able.append(spec)
    for layer, reasons in missing.items():
        shown = ", ".join(dict.fromkeys(reasons))
        if named or not able:
            raise HeadError(
                f"{shown}: not to be trained while the features of {layer} stay in the file; "
                f"expected dense or linear, or ridge or lda of {MOST_SUMMED} features at most, "
                "without pca; name one with --head, or extract with --pooling avg"
            )
        log.info("left out, for the features of %s stay in the file: %s", layer, shown)
    return able
