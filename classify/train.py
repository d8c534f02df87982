"""Stage two from Python: ``train_heads`` does what the command train-head does, ``sweep`` a part.

Modules that need Keras are imported where they are used: other heads do without it.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from classify.activation.explain import explain_mistakes
from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import leave_out_lone
from classify.diagnosis.analysis import Analysis, analyse
from classify.inference import head_folder
from classify.inference.bundle import save_head, save_report
from classify.result import Result, draw_itself
from classify.search import search
from classify.search.feasibility import drop_infeasible
from classify.search.leaderboard import Result as Leaderboard
from classify.search.notes import with_notes
from classify.settings.config import (
    GROUPS,
    FinetuneConfig,
    LabelConfig,
    SearchSettings,
    TrainConfig,
    TrainSettings,
)
from classify.settings.head_spec import HeadSpec
from classify.settings.plan import Names, as_names, plan_run, take_labels
from classify.stored.stores import Paths, as_paths, list_layers
from extract.core.atomic import remove_leftovers
from extract.core.console import log, quiet_mode
from extract.core.errors import HeadError, SettingError
from extract.display.progress import step
from extract.limits.locks import locked
from extract.public import public
from extract.store.validate import check_there


@public(HeadSpec, TrainConfig, LabelConfig, FinetuneConfig)
def train_heads(  # noqa: PLR0913
    store: Paths,
    *,
    output: str | os.PathLike[str] | None = None,
    head: Names = (),
    sweep: Names = (),
    trials: int | None = None,
    groups: str = GROUPS[0],
    leave_out: Names = (),
    source: str | os.PathLike[str] = "",
    finetune: bool = False,
    export: Names | os.PathLike[str] = (),
    asserts: Names = (),
    on_result: Callable[[Leaderboard], object] | None = None,
    quiet: bool = False,
    **settings: Unpack[TrainSettings],
) -> Result:
    """Train heads on a file of features, keep the best in a folder and write its report.

    Args:
        store: The file of features, or several of the same images; see ``load_dataset``.
        output: The folder to make; by default the file's name without its ending, and ``_head``.
        head: Names of heads; by default the heads that have the given settings, or the usual ones.
        sweep: Settings to vary, such as ``"dropout=0,0.2"`` or ``"logistic.C=0.01:1:5"``.
        trials: Number of candidates to draw at random.
        groups: ``stored``, or ``digest`` or ``near``: copies stay together, too; or ``none``.
        leave_out: Names of classes whose images are not used.
        source: The place of the images, for the report, if they have moved.
        finetune: Then train the trunk's blocks above the cached layer together with the head.
        export: Places for the exported model: ``.keras``, ``.onnx``, ``.tflite`` or a folder.
        asserts: Least metrics, as in ``"macro_f1=0.8"``; a worse head goes to ``output.rejected``.
        on_result: Called with the result before the report is made, or with a part of it on Ctrl-C.
        quiet: Show no progress bar and log no notes.
        **settings: See below.

    Returns:
        The ranked candidates, the best head, and the folder where it was saved.

    Raises:
        HeadstartError: A setting, a file, its rows or a head cannot be used.

    Example:
        >>> train_heads("out.h5", head="logistic", C=0.1, labels="sex.csv")  # doctest: +SKIP
    """
    tables, layers = take_labels(settings), _layers_of(store, finetune)  # type: ignore[arg-type]
    config = plan_run(head, sweep, trials, finetune, settings, layers, asserts)
    paths, folder = _places(store, output, as_names(export), tables.labels)
    read = partial(load_dataset, paths, groups=groups, leave_out=leave_out, **vars(tables))
    with quiet_mode(quiet), locked(folder, HeadError, "train-head"):
        return _train(partial(read, source=source), folder, config, as_names(export), on_result)


@public(HeadSpec, TrainConfig)
def sweep(
    dataset: Dataset,
    *sweeps: str,
    head: Names = (),
    trials: int | None = None,
    quiet: bool = False,
    **settings: Unpack[SearchSettings],
) -> Result:
    """Train heads on a dataset and rank them; nothing is saved.

    Args:
        dataset: From ``load_dataset``.
        *sweeps: Settings to vary, such as ``"logistic.C=0.01:1:5"``.
        head: Names of heads; by default the heads that have the given settings, or the usual ones.
        trials: Number of candidates to draw at random.
        quiet: Show no progress bar and log no notes.
        **settings: See below.

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
    config = plan_run(head, sweeps, trials, False, settings)
    with quiet_mode(quiet):
        dataset = leave_out_lone(dataset, config)
        result = search.run(dataset, config.for_images(len(dataset.y)))
        return draw_itself(with_notes(result, dataset))


def _layers_of(store: Paths, finetune: bool) -> list[tuple[str, ...]]:
    """Return the layers to try; raise SettingError for several files and fine-tuning."""
    paths = as_paths(store)
    if finetune and len(paths) > 1:
        found = f"found {len(paths)} files of features; expected one, with maps of its trunk"
        raise SettingError(f"finetune: {found}; name one file, or leave --finetune out")
    return list_layers(paths)


def _places(
    store: Paths,
    output: str | os.PathLike[str] | None,
    targets: Sequence[str],
    tables: Sequence[str],
) -> tuple[list[Path], Path]:
    """Return the files of features, and the folder to make: by default beside the first file.

    Raises:
        HeadError: A result would have the place of a table.
    """
    paths = as_paths(store)
    for path in paths if not output else ():
        check_there(path)  # a wrong path is that of the file, not of the folder
    usual = paths[0].with_name("_".join([*(path.stem for path in paths), "head"]))
    folder = Path(output or usual)
    head_folder.check_inputs((folder, *targets), tables)
    return paths, folder


def _train(
    read: Callable[..., Dataset],
    folder: Path,
    config: TrainConfig,
    targets: Sequence[str],
    on_result: Callable[[Leaderboard], object] | None,
) -> Result:
    """Search, save, export and report."""
    began = time.perf_counter()
    dataset, config, trunks = _prepare(read, folder, config, targets)
    timing = {"read": time.perf_counter() - began}
    former = head_folder.read_checkpoint(folder)
    result = _fit(dataset, config, folder, on_result)
    timing["train"] = time.perf_counter() - began - timing["read"]
    failure = result.missed(config.limits())
    if failure:
        folder = head_folder.reject(folder, former)
    replaced = head_folder.describe_head(folder)
    stores = [str(path) for path in dataset.paths]
    save_head(folder, dataset, result, stores if len(stores) > 1 else stores[0])
    if trunks and not failure:
        from classify.export import export

        export.export_best(folder, result, trunks, targets)
    analysis = _save_report(folder, dataset, result, config, timing)
    timing["all"] = time.perf_counter() - began
    log.info("%s: %s; in %.1f s", folder, result.summary(), timing["all"])
    log.debug("%s", ", ".join(f"{step} {seconds:.1f} s" for step, seconds in timing.items()))
    log.info("report: %s", folder / head_folder.REPORT)
    if replaced:
        log.info("%s: replaced %s", folder, replaced)
    if failure:
        raise HeadError(f"{failure}; the head is in {folder}; try other heads, or more images")
    if trunks:
        export.check_head(result)
    return draw_itself(replace(result, folder=folder), analysis)


def _prepare(
    read: Callable[..., Dataset], folder: Path, config: TrainConfig, targets: Sequence[str]
) -> tuple[Dataset, TrainConfig, dict[Any, Any]]:
    """Read the features, and refuse what cannot work before anything is built or trained."""
    from classify.export import export

    if targets:
        export.check_targets(targets, config.candidates, folder)
    remove_leftovers(Path(os.path.realpath(folder)))
    head_folder.check_target(folder)
    # A candidate without a layer takes the only one of the file.
    layers = ["+".join(spec.layer) for spec in config.candidates]
    dataset = read(layer=layers[0] if all(layers) else None, memory=config.memory)
    dataset = leave_out_lone(dataset, config)
    head_folder.check_question(folder, dataset.class_names)
    config = config.for_images(len(dataset.y))
    makers = export.makers_of(targets, dataset, config.candidates)
    if config.finetune:
        from classify.finetune.finetune import check_maps

        check_maps(dataset)
    else:
        config = drop_infeasible(dataset, config)
    return dataset, config, {made_by.trunk: export.open_trunk(made_by) for made_by in makers}


def _fit(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    on_result: Callable[[Leaderboard], object] | None,
) -> Leaderboard:
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
    result = with_notes(result, dataset)
    if on_result:
        on_result(result)
    return result


def _save_report(
    folder: Path,
    dataset: Dataset,
    result: Leaderboard,
    config: TrainConfig,
    timing: dict[str, float],
) -> Analysis:
    """Analyse the head that was saved, and write the report beside it."""
    began = time.perf_counter()
    missing = "its report is not"
    try:
        with step("writing the report"):
            analysis = analyse(dataset, result)
            explained = explain_mistakes(result, analysis.mistakes, config.overlays)
            timing["overlays"] = explained.seconds
            save_report(folder, dataset, result, analysis, explained, timing, config.figures)
        if explained.is_interrupted:
            missing = "so is its report, without overlays"
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        saved = f"the head is saved in {folder}, {missing}"
        raise KeyboardInterrupt(f"{saved}; the same command goes on") from None
    timing["report"] = time.perf_counter() - began
    return analysis
