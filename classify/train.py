"""Stage two from Python: ``train_heads`` does what the command train-head does, ``sweep`` a part.

Modules that need Keras are imported where they are used: other heads do without it.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from classify.data.dataset import Dataset, load_dataset
from classify.inference.bundle import check_target, save_head, save_report
from classify.report.analysis import analyse
from classify.search import search
from classify.search.feasibility import drop_infeasible
from classify.search.leaderboard import Result
from classify.settings.config import GROUPS, FinetuneConfig, TrainConfig
from classify.settings.head_spec import DEFAULTS, KERAS_HEADS, HeadSettings
from classify.settings.sweep import choose_heads, make_candidates, parse_sweeps
from extract.core.atomic import remove_leftovers
from extract.core.console import log, quiet_mode
from extract.core.errors import HeadError, SettingError
from extract.core.flags import check_keywords
from extract.store.validate import check_there

Names = str | Sequence[str]


@check_keywords
def train_heads(  # noqa: PLR0913
    store: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    head: Names = (),
    sweep: Names = (),
    trials: int | None = None,
    folds: int | None = None,
    groups: str = GROUPS[0],
    halving: bool = False,
    metric: str = "accuracy",
    seed: int = 0,
    memory: float | None = None,
    assert_accuracy: float | None = None,
    finetune: bool = False,
    finetune_epochs: int | None = None,
    finetune_learning_rate: float | None = None,
    export: Names = (),
    on_result: Callable[[Result], object] | None = None,
    quiet: bool = False,
    **settings: Unpack[HeadSettings],
) -> Result:
    """Train heads on a file of features, keep the best in a folder and write its report.

    Args:
        store: The file of features.
        output: The folder to make; by default the file's name without its ending, and ``_head``.
        head: Names of heads; by default the heads that have the other settings, without any the
            usual ones.
        sweep: Settings to vary, such as ``"dropout=0,0.2"`` or ``"logistic.C=0.01:1:5"``.
        trials: Number of candidates to draw at random.
        folds: Cross-validate with so many folds instead of one validation split.
        groups: Images that stay in one split: ``stored``, the groups in the file, or ``digest``,
            also images that are byte for byte the same.
        halving: Stop the worse half of the Keras heads that train as one model early.
        metric: ``accuracy``, ``balanced_accuracy``, ``macro_f1`` or ``loss``.
        seed: Decides everything random.
        memory: GB that features may take, with their copies in training; features that need more
            are read from the file. By default the free memory.
        assert_accuracy: Lowest accuracy of the best head that is no failure, 0 to 1.
        finetune: Then train the trunk's blocks above the cached layer together with the head.
        finetune_epochs: Epochs of fine-tuning.
        finetune_learning_rate: Learning rate of fine-tuning.
        export: Files or folders for the exported model: ``.keras``, ``.onnx`` or a SavedModel.
        on_result: Is called with the result before the report is made, and where Ctrl-C stops
            the search, with the heads that are done.
        quiet: Show no progress bar and log no notes.
        **settings: Settings of the heads; see ``HeadSpec``.

    Returns:
        The ranked candidates and the best head; ``folder`` is where it was saved.

    Raises:
        SettingError: A setting is unknown, out of range or has no effect.
        StoreError: The file cannot be read, is unfinished or has no labelled row.
        SplitError: The rows cannot be divided.
        HeadError: A head cannot be trained, saved or exported, or is below ``assert_accuracy``.

    Example:
        >>> from classify import train_heads
        >>> train_heads("out.h5", head="logistic", C=0.1)  # doctest: +SKIP
    """
    began = time.perf_counter()
    tuning = _finetune_config(finetune, finetune_epochs, finetune_learning_rate)
    running = {"folds": folds, "halving": halving, "metric": metric, "memory": memory}
    config = _plan(
        (head, settings, sweep, trials), seed, tuning, assert_accuracy=assert_accuracy, **running
    )
    path = Path(store)
    folder = Path(output) if output else path.with_name(f"{path.stem}_head")
    with quiet_mode(quiet):
        if not output:  # the folder is beside the file: a wrong path is that of the file
            check_there(path)
        targets = _as_names(export)
        dataset, config, trunk = _prepare(path, folder, config, groups, targets)
        timing = {"read": time.perf_counter() - began}
        result = _fit(dataset, config, folder, on_result)
        timing["train"] = time.perf_counter() - began - timing["read"]
        save_head(folder, dataset, result, str(store))
        _export(result, folder, trunk, targets)
        _save_report(folder, dataset, result, seed, str(store), timing)
        timing["all"] = time.perf_counter() - began
        steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in timing.items())
        log.info("%s: %s; %s", folder, result.summary(), steps)
        _check_result(result, assert_accuracy, bool(targets))
    return replace(result, folder=folder)


@check_keywords
def sweep(  # noqa: PLR0913
    dataset: Dataset,
    *sweeps: str,
    head: Names = (),
    trials: int | None = None,
    folds: int | None = None,
    halving: bool = False,
    metric: str = "accuracy",
    seed: int = 0,
    memory: float | None = None,
    quiet: bool = False,
    **settings: Unpack[HeadSettings],
) -> Result:
    """Train heads on a dataset and rank them; nothing is saved.

    Args:
        dataset: From ``load_dataset``.
        *sweeps: Settings to vary, such as ``"logistic.C=0.01:1:5"``.
        head: See ``train_heads``, also for ``trials`` to ``memory``.
        trials: Number of candidates to draw at random.
        folds: Number of folds.
        halving: Stop the worse half of the Keras heads early.
        metric: The metric that ranks.
        seed: Decides everything random.
        memory: GB that features may take.
        quiet: Show no progress bar and log no notes.
        **settings: Settings of the heads; see ``HeadSpec``.

    Returns:
        The ranked candidates and the best head, trained.

    Raises:
        SettingError: A setting is unknown or has no effect.
        SplitError: The rows cannot be divided.
        HeadError: No head could be trained.

    Example:
        >>> from classify import load_dataset, sweep
        >>> sweep(load_dataset("out.h5"), "logistic.C=0.01:1:5", folds=5)  # doctest: +SKIP
    """
    running = {"folds": folds, "halving": halving, "metric": metric, "memory": memory}
    config = _plan((head, settings, sweeps, trials), seed, None, **running)
    with quiet_mode(quiet):
        return search.run(dataset, config)


def _as_names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _plan(
    choice: tuple[Names, Mapping[str, Any], Names, int | None],
    seed: int,
    finetune: FinetuneConfig | None,
    **running: Any,
) -> TrainConfig:
    """Turn heads, their settings, sweeps and trials into candidates, and check everything."""
    names, sweeps, trials = _as_names(choice[0]), _as_names(choice[2]), choice[3]
    settings = {name: value for name, value in choice[1].items() if value is not None}
    varied = parse_sweeps(sweeps, settings)
    heads = choose_heads(names, settings, varied)
    if finetune:
        # By default the heads that can be trained further, on the output of the blocks.
        heads = heads if names else tuple(h for h in heads if h in KERAS_HEADS) or heads
        settings.setdefault("transform", ())
    if seed and any("seed" in DEFAULTS.get(name, {}) for name in heads):
        settings["seed"] = seed  # it is of the run, and of the heads that have one
    candidates = make_candidates(heads, settings, varied, trials, seed)
    return TrainConfig(candidates, seed=seed, named=bool(names), finetune=finetune, **running)


def _finetune_config(
    finetune: bool, epochs: int | None, learning_rate: float | None
) -> FinetuneConfig | None:
    values = {"finetune_epochs": epochs, "finetune_learning_rate": learning_rate}
    given = {name: value for name, value in values.items() if value is not None}
    if given and not finetune:
        raise SettingError(f"{next(iter(given))}: has no effect without --finetune")
    return FinetuneConfig(**given) if finetune else None  # type: ignore[arg-type]


def _prepare(
    store: Path, folder: Path, config: TrainConfig, groups: str, targets: Sequence[str]
) -> tuple[Dataset, TrainConfig, Any]:
    """Read the features, and refuse what cannot work before anything is built or trained."""
    from classify.inference import export

    if targets:
        export.check_targets(targets, config.candidates)
    remove_leftovers(folder.resolve())
    check_target(folder)
    # A candidate without a layer takes the only one of the file.
    layers = ["+".join(spec.layer) for spec in config.candidates]
    dataset = load_dataset(store, layers[0] if all(layers) else None, config.memory, groups)
    if config.finetune:
        from classify.finetune.finetune import check_maps

        check_maps(dataset)
    else:
        config = drop_infeasible(dataset, config)
    return dataset, config, export.open_trunk(dataset) if targets else None


def _fit(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    on_result: Callable[[Result], object] | None,
) -> Result:
    """Search for the best head, and fine-tune it if that was asked for."""
    run = search.run
    if config.finetune:
        from classify.finetune.finetune import run
    try:
        result = run(dataset, config, folder)
    except search.Stopped as stopped:
        if stopped.result and on_result:
            on_result(stopped.result)
        raise
    if on_result:
        on_result(result)
    return result


def _export(result: Result, folder: Path, trunk: Any, targets: Sequence[str]) -> None:
    from classify.inference import export

    if targets and export.can_export(result):
        export.export_best(folder, trunk, targets)


def _save_report(
    folder: Path,
    dataset: Dataset,
    result: Result,
    seed: int,
    store: str,
    timing: dict[str, float],
) -> None:
    """Analyse the head that was saved, and write the report beside it."""
    began = time.perf_counter()
    try:
        log.debug("%s: saved; the analysis for the report follows", folder)
        save_report(folder, dataset, result, analyse(dataset, result, seed), store, timing)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the head is saved in {folder}, its report is not; the same command goes on"
        ) from None
    timing["report"] = time.perf_counter() - began


def _check_result(result: Result, assert_accuracy: float | None, exported: bool) -> None:
    """Raise HeadError where the best head cannot be exported or is not accurate enough."""
    if exported:
        from classify.inference import export

        export.check_head(result)
    if assert_accuracy is not None and result.accuracy < assert_accuracy:
        raise HeadError(
            f"accuracy: found {result.accuracy:.4f}; expected {assert_accuracy} or more, as "
            "--assert-accuracy says; try other heads, or more images"
        )
