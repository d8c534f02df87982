"""Candidates x folds -> a ranked Result. Judging rows choose; the test rows are touched once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset, load_dataset
from classify.data.out_of_core import iter_chunks
from classify.data.preprocessing import Transform
from classify.data.splits import Split, group_names, split_folds, split_rows, validation_rows
from classify.heads.registry import FittedHead
from classify.search.bootstrap import Bootstrap
from classify.search.checkpoint import Checkpoint
from classify.search.evaluate import Outcome, divided, evaluate
from classify.search.feasibility import drop_infeasible
from classify.search.fit import fit_batch, transformed
from classify.search.leaderboard import Result, rank
from classify.search.metrics import measure
from classify.settings.config import TrainConfig
from classify.settings.head_spec import DEFAULTS, HeadSpec, groups_of
from classify.settings.sweep import choose_heads, label, make_candidates, parse_sweep
from extract.core.console import log, progress
from extract.core.errors import HeadError


class Stopped(KeyboardInterrupt):
    """Ctrl-C; what was finished before it is in ``result``, None where that is nothing."""

    def __init__(self, result: Result | None, total: int) -> None:
        done = len(result.entries) if result else 0
        super().__init__(f"{done} of {total} candidates are done; the same command goes on")
        self.result = result


class _Lead:
    """Out-of-fold scores of the best candidate so far; those of all might not fit into memory.

    Args:
        metric: What ranks.
        draws: Resampled rows.
    """

    def __init__(self, metric: str, draws: Bootstrap) -> None:
        self._metric, self._draws = metric, draws
        self._place: tuple[float, ...] = ()
        self.spec: HeadSpec | None = None
        self.scores: NDArray[np.floating] | None = None

    def offer(self, spec: HeadSpec, outcome: Outcome, scores: NDArray[np.floating] | None) -> None:
        """Keep the scores of a candidate that goes before the one that is kept."""
        sign = 1 if self._metric == "loss" else -1
        value = self._draws.value(self._metric, outcome.judged)
        place = sign * round(value, 9), self._draws.value("loss", outcome.judged)
        if not self._place or place < self._place:
            self._place, self.spec, self.scores = place, spec, scores


def sweep(dataset: Dataset, *settings: str, **options: Any) -> Result:
    """Try heads on a dataset and rank them; what ``train-head`` does, for notebooks.

    Args:
        dataset: From ``load_dataset``.
        *settings: What to vary, as behind ``--sweep``: ``"logistic.C=0.01:1:5"``.
        **options: ``head``, a name or several; ``trials``; the fields of HeadSpec; and the fields
            of TrainConfig but for ``candidates``.

    Returns:
        The ranked candidates and the best head, trained.

    Raises:
        SettingError: A setting is unknown or can have no effect.
        SplitError: The rows cannot be divided.
    """
    heads = options.pop("head", ())
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    trials, varied = options.pop("trials", None), dict(parse_sweep(text) for text in settings)
    names = ("folds", "halving", "metric", "seed", "memory", "assert_accuracy")
    running = {name: options.pop(name) for name in names if name in options}
    running["named"] = bool(heads)
    chosen = choose_heads(heads, options, varied)
    if any("seed" in DEFAULTS.get(head, {}) for head in chosen):
        options["seed"] = running.get("seed")  # it is of the run, and of those heads that have one
    candidates = make_candidates(chosen, options, varied, trials, running.get("seed", 0))
    return run(dataset, TrainConfig(candidates, **running))


def run(dataset: Dataset, config: TrainConfig, folder: Path | None = None) -> Result:
    """Try every candidate, rank them, and train the best on all rows that may train.

    Args:
        dataset: The labelled rows; its layer is used by candidates that name none.
        config: The candidates and how they are judged.
        folder: Where finished candidates are kept and found again; None keeps nothing.

    Returns:
        The ranked candidates and the best head.

    Raises:
        HeadError: No head could be trained, or one that was asked for by name needs features in
            memory that are not.
        SettingError: A layer is unknown, or there are no views, or no memory for them.
        SplitError: The rows cannot be divided.
        Stopped: Ctrl-C; it carries what was finished.
    """
    config = drop_infeasible(dataset, config)
    splits = (
        split_folds(dataset, config.folds, config.seed) if config.folds else [split_rows(dataset)]
    )
    judging = validation_rows(splits)
    names = group_names(dataset)
    y = dataset.y[judging]
    draws = Bootstrap(y, len(dataset.class_names), [names[row] for row in judging], config.seed)
    known: dict[HeadSpec, Outcome] = {}
    heads: dict[HeadSpec, FittedHead] = {}
    halved = config.candidates if config.halving else ()
    journal = Checkpoint(folder, dataset.fingerprint(), splits, halved)
    lead = _Lead(config.metric, draws)

    def ranked() -> Result | None:
        done = [s for s in config.candidates if s in known and not known[s].failed]
        if not done:
            return None
        for failed in filter(None, (outcome.failed for outcome in known.values())):
            log.warning("%s; left out of the ranking", failed)
        entries = rank(done, [known[spec] for spec in done], config.metric, draws)
        return Result(entries, config.metric, splits)

    try:
        _try_all(dataset, config, splits, journal, (known, heads, lead))
    except KeyboardInterrupt:
        raise Stopped(ranked(), len(config.candidates)) from None
    result = ranked()
    if result is None:
        raise HeadError(known[config.candidates[0]].failed)
    best = result.best.spec
    own = _with_layer(dataset, best, config.memory)
    head = heads.get(best) or _refit(own, best, result.best.outcome.epochs, splits)
    test = None
    if len(splits[0].test):
        rows = splits[0].test
        test = measure(own.y[rows], head.predict_proba(own.X[rows]))
    scores = lead.scores if lead.spec == best else None
    if scores is None:
        scores = _scores(own, best, splits, head)
    return replace(result, head=head, test=test, dataset=own, scores=scores)


def _scores(
    dataset: Dataset, spec: HeadSpec, splits: Sequence[Split], head: FittedHead
) -> NDArray[np.floating]:
    """Score the judging rows: by the head itself where one split judges, else trained again."""
    if len(splits) == 1:
        judged = iter_chunks(dataset.X[splits[0].validation])
        return np.concatenate([head.predict_proba(X) for _, X in judged])
    (tried,) = evaluate(dataset, [spec], splits)
    assert tried.scores is not None
    return tried.scores


def _with_layer(dataset: Dataset, spec: HeadSpec, memory: float | None) -> Dataset:
    """Return the dataset with the layers that a candidate takes."""
    layer = "+".join(spec.layer) or dataset.layer
    if layer == dataset.layer or dataset.path is None:
        return dataset
    return replace(load_dataset(dataset.path, layer, memory), groups=dataset.groups)


def _try_all(
    dataset: Dataset,
    config: TrainConfig,
    splits: Sequence[Split],
    journal: Checkpoint,
    kept: tuple[dict[HeadSpec, Outcome], dict[HeadSpec, FittedHead], _Lead],
) -> None:
    """Fill ``kept`` with every candidate's outcome, and with heads where one split judges."""
    known, heads, lead = kept
    candidates = config.candidates
    known |= _recalled(dataset, config, journal)
    best = 0.0
    with progress(len(candidates), "head", done=len(known), label="heads") as bar:
        for layer in dict.fromkeys(spec.layer for spec in candidates):
            missing = [s for s in candidates if s.layer == layer and s not in known]
            if not missing:
                continue
            own = _with_layer(dataset, missing[0], config.memory)
            for spec, outcome, head, scores in evaluate(own, missing, splits, config.halving):
                known[spec] = outcome
                lead.offer(spec, outcome, scores)
                journal.add(spec, own.layer, outcome)
                if head is not None:
                    heads[spec] = head
                right = outcome.judged.answers == _truth(own, splits)
                if right.mean() > best and not outcome.failed:
                    best = float(right.mean())
                    bar.set_postfix_str(f"best {best:.3f} {label(spec)}")
                bar.update(1)


def _recalled(
    dataset: Dataset, config: TrainConfig, journal: Checkpoint
) -> dict[HeadSpec, Outcome]:
    """Return what an earlier run found; with halving, of whole groups alone."""
    found = {s: journal.get(s, "+".join(s.layer) or dataset.layer) for s in config.candidates}
    for group in groups_of(config.candidates) if config.halving else []:
        rivals = [config.candidates[position] for position in group]
        if not all(found[spec] for spec in rivals):
            found |= dict.fromkeys(rivals)
    return {spec: outcome for spec, outcome in found.items() if outcome}


def _truth(dataset: Dataset, splits: Sequence[Split]) -> Any:
    return dataset.y[validation_rows(splits)]


def _refit(dataset: Dataset, spec: HeadSpec, epochs: int, splits: Sequence[Split]) -> FittedHead:
    """Train the chosen candidate for good: behind folds on all rows that are not for the test.

    A head with epochs gets as many as it had when it was judged, up to its best one with patience
    and until it was stopped with halving; so the judging rows only draw its curves.
    """
    if epochs:
        spec = replace(spec, epochs=epochs, patience=None)
    train, judging = splits[0].train, splits[0].validation
    if len(splits) > 1:
        train = np.sort(np.concatenate([train, judging]))
    transform = Transform(spec.transform or ())
    rows = transformed(transform, divided(dataset, spec, train, judging))
    fitted = next(fit_batch([spec], rows, transform)).fitted
    if fitted.head.failed:
        raise HeadError(fitted.head.failed)
    return fitted
