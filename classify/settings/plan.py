"""Heads, settings, sweeps and trials, as a user gives them -> the candidates of a run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from classify.settings.config import BUDGET, FinetuneConfig, LabelConfig, TrainConfig
from classify.settings.head_spec import DEFAULTS, KERAS_HEADS, USUAL_HEADS
from classify.settings.sweep import choose_heads, make_candidates, parse_sweeps
from extract.core.errors import SettingError
from extract.core.flags import describe

Names = str | Sequence[str]
# The settings that are no settings of heads.
_RUNNING, _TUNING = ([name for name, _ in describe(kind)] for kind in (TrainConfig, FinetuneConfig))


def as_names(names: Names | os.PathLike[str]) -> tuple[str, ...]:
    """Return one name or path, or several, as texts."""
    several = (names,) if isinstance(names, str | os.PathLike) else names
    return tuple(os.fspath(name) for name in several)


def take_labels(settings: dict[str, Any]) -> LabelConfig:
    """Return the settings of labels, and take them out of all settings."""
    names = [declared.name for declared in fields(LabelConfig)]
    given = {name: settings.pop(name) for name in names if name in settings}
    given = {name: value for name, value in given.items() if value is not None}
    if "labels" in given:
        given["labels"] = as_names(given["labels"])
    return LabelConfig(**given)


def plan_run(
    head: Names,
    sweeps: Names,
    trials: int | None,
    finetune: bool,
    settings: Mapping[str, Any],
    layers: Sequence[str | tuple[str, ...]] = (),
    asserts: Names = (),
) -> TrainConfig:
    """Turn heads, their settings, sweeps and trials into candidates, and check everything.

    Of several layers each is tried, unless the settings or a sweep name some.
    """
    names = as_names(head)
    given = {name: value for name, value in settings.items() if value is not None}
    running = {name: given.pop(name) for name in _RUNNING if name in given}
    tuning = {name: given.pop(name) for name in _TUNING if name in given}
    if tuning and not finetune:
        raise SettingError(f"{next(iter(tuning))}: has no effect without --finetune")
    varied = parse_sweeps(as_names(sweeps), given | {"seed": running.get("seed") or None})
    heads = choose_heads(names, given, varied)
    if not (names or varied or finetune or heads != USUAL_HEADS):
        running.setdefault("budget", BUDGET)
    elif "budget" in running:
        expected = "expected no --head, --sweep, --finetune or setting of a head"
        raise SettingError(f"budget: has no effect on heads that you choose; {expected}")
    if finetune:
        # By default the heads that can be trained further, on the output of the blocks.
        heads = heads if names else tuple(h for h in heads if h in KERAS_HEADS) or heads
        given.setdefault("transform", ())
    seed = running.get("seed", 0)
    if seed and any("seed" in DEFAULTS.get(name, {}) for name in heads):
        given["seed"] = seed  # it is of the run, and of the heads that have one
    every_layer = len(layers) > 1 and not given.get("layer") and (None, "layer") not in varied
    if every_layer:
        varied = {**varied, (None, "layer"): layers}
    candidates = make_candidates(heads, given, varied, trials, seed)
    config = FinetuneConfig(**tuning) if finetune else None
    sized = "batch_size" in given or any(setting == "batch_size" for _, setting in varied)
    running |= {"named": bool(names) and not every_layer, "batch_size_given": sized}
    return TrainConfig(candidates, finetune=config, asserts=as_names(asserts), **running)
