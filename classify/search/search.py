"""Search: evaluate the candidates, rank them, train the best and test it once."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from classify.data.dataset import Dataset, with_layer
from classify.data.preprocessing import Floats
from classify.data.splits import Split, choose_splits, validation_rows
from classify.heads.registry import FittedHead
from classify.scores.areas import AREAS
from classify.scores.intervals import Comparison
from classify.scores.metrics import measure
from classify.search.checkpoint import Checkpoint
from classify.search.evaluate import evaluate, evaluate_baseline
from classify.search.feasibility import drop_infeasible, keep_to_budget
from classify.search.leaderboard import Result
from classify.search.ranking import Entry, metric_scores, rank, rank_key
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label_all
from classify.stored.out_of_core import Labels
from extract.core.console import log
from extract.core.errors import HeadError, SettingError, count_of
from extract.display.progress import progress, step


class Stopped(KeyboardInterrupt):
    """Ctrl-C; ``result`` ranks the evaluated candidates, None where there are none."""

    def __init__(self, result: Result | None, total: int) -> None:
        done = len(result.entries) if result else 0
        super().__init__(f"{done} of {total} candidates are done; the same command continues")
        self.result = result


def run(dataset: Dataset, config: TrainConfig, folder: Path | None = None) -> Result:
    """Evaluate and rank the candidates, and train the best one.

    Args:
        dataset: The labelled rows; candidates without a layer use its layer.
        config: The candidates and how they are compared.
        folder: Folder of the checkpoint; None keeps none.

    Returns:
        The ranked candidates and the best head.

    Raises:
        HeadError: No head could be trained, or a head that was asked for by name needs its
            features in memory.
        SettingError: A layer is unknown, or views do not exist or do not fit into memory.
        SplitError: The rows cannot be split.
        StoreError: The store cannot be read, or has changed.
        Stopped: Ctrl-C; it carries the result so far.
    """
    dataset = dataset.with_positive(config.positive)
    config = drop_infeasible(dataset, config)
    splits = choose_splits(dataset, config)
    comparison = compare_on(dataset, validation_rows(splits), config)
    checkpoint = Checkpoint(folder, dataset, splits, config)
    config, budget = keep_to_budget(dataset, config, checkpoint)
    try:
        leading = _evaluate_missing(dataset, config, checkpoint, comparison)
    except KeyboardInterrupt:
        leading = None
    known = {s: checkpoint.evaluations[s] for s in config.candidates if s in checkpoint.evaluations}
    baseline = evaluate_baseline(dataset, splits)
    ranked = rank(known, config.metric, comparison, baseline, dataset.class_names)
    numbers = ranked[0], config.metric, splits, ranked[1], comparison.units
    result = Result(*numbers, budget=budget, seed=config.seed)
    failures = [evaluation.failed for evaluation in known.values() if evaluation.failed]
    for failure in failures if result.entries else ():
        log.warning("%s; left out of the ranking", failure)
    if leading is not None and not result.entries:
        raise HeadError(failures[0])
    if leading is None:
        raise Stopped(result if result.entries else None, len(config.candidates))
    best = result.best
    own = _with_layer(dataset, best.spec, config.memory)
    head = best.evaluation.head or _refit(own, best, splits[0])
    scores = _validate(own, best.spec, splits, head, leading.get(best.spec))
    return _tested(replace(result, head=head, dataset=own, scores=scores), head, own)


def _validate(
    dataset: Dataset, spec: HeadSpec, splits: list[Split], head: FittedHead, kept: Floats | None
) -> Floats:
    """Return the scores of the validation rows: of folds, those that were kept, if any."""
    if len(splits) == 1:
        return head.predict_proba(dataset.X[splits[0].validation])
    scores = next(evaluate(dataset, [spec], splits))[1].scores if kept is None else kept
    assert scores is not None
    return scores


def _tested(result: Result, head: FittedHead, dataset: Dataset) -> Result:
    """Score the chosen head on the test rows, once."""
    test = result.splits[0].test
    test_scores = head.predict_proba(dataset.X[test]) if len(test) else None
    measured = None if test_scores is None else measure(dataset.y[test], test_scores)
    return replace(result, test=measured, test_scores=test_scores)


def compare_on(dataset: Dataset, rows: Labels, config: TrainConfig) -> Comparison:
    """Return the comparison of heads on some rows.

    Raises:
        SettingError: The metric is not defined on them.
    """
    y, positive, groups = dataset.y[rows], dataset.positive_label, dataset.grouping.numbers[rows]
    wanted = range(len(dataset.class_names)) if positive is None else [positive]
    if config.metric in AREAS and not any(0 < (y == label).sum() < len(y) for label in wanted):
        found = f"found {len(y)} validation images of one class"
        raise SettingError(f"metric: {config.metric} needs two; {found}; use another metric")
    return Comparison(y, len(dataset.class_names), groups, config.seed, positive)


def _evaluate_missing(
    dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint, comparison: Comparison
) -> dict[HeadSpec, Any]:
    """Evaluate the candidates that the checkpoint lacks, and return the scores of the best."""
    candidates, known = config.candidates, checkpoint.evaluations
    kept = dict[HeadSpec, Any]()
    scores = {
        spec: metric_scores(comparison, known[spec])
        for spec in candidates
        if spec in known and not known[spec].failed
    }
    labels = label_all(candidates)
    if known:
        log.info("%d of %s are from an earlier run", len(known), count_of(len(candidates), "head"))
    if len(known) == len(candidates):
        return kept
    with progress(len(candidates), "heads", done=len(known), label="training") as bar:
        for layer in dict.fromkeys(spec.layer for spec in candidates):
            missing = [spec for spec in candidates if spec.layer == layer and spec not in known]
            own = _with_layer(dataset, missing[0], config.memory) if missing else dataset
            for spec, evaluation in evaluate(own, missing, checkpoint.splits, config.halving):
                checkpoint.add(spec, evaluation)
                if not evaluation.failed:
                    scores[spec] = metric_scores(comparison, evaluation)
                    # The best will be one of these, or one of those evaluated later.
                    leading = [_first(scores, metric) for metric in (config.metric, "loss")]
                    kept = {
                        s: kept.get(s, evaluation.scores) for s in leading if s in {*kept, spec}
                    }
                    best = scores[leading[0]][config.metric]
                    bar.set_postfix_str(f"best {config.metric} {best:.3f}: {labels[leading[0]]}")
                bar.update(1)
    return kept


def _first(scores: Mapping[HeadSpec, Mapping[str, float]], metric: str) -> HeadSpec:
    return min(scores, key=lambda spec: rank_key(metric, scores[spec]))


def _with_layer(dataset: Dataset, spec: HeadSpec, memory: float | None) -> Dataset:
    """Return the dataset with the features of a candidate's layers."""
    return with_layer(dataset, "+".join(spec.layer), memory)


def _refit(dataset: Dataset, best: Entry, split: Split) -> FittedHead:
    """Train the best candidate on all rows except the test rows.

    A head with epochs trains as many as in its evaluation, whatever its patience or halving; so
    the validation rows only draw its curves.
    """
    spec = best.spec
    if epochs := best.evaluation.epochs:
        spec = replace(spec, epochs=epochs, patience=None)
    with step("training the best head again") if epochs else nullcontext():
        ((_, evaluation),) = evaluate(dataset, [spec], [replace(split, train=split.refit_rows)])
    if evaluation.failed or not evaluation.head:
        raise HeadError(evaluation.failed)
    return evaluation.head
