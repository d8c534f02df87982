"""Candidates x folds -> a ranked Result. Judging rows choose; the test rows are touched once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.candidates import choose_heads, label, make_candidates, parse_sweep
from classify.config import HeadSpec, TrainConfig
from classify.dataset import Dataset, load_dataset
from classify.journal import Journal
from classify.metrics import Resampling, judge, measure
from classify.result import Outcome, Result, join_outcomes, rank
from classify.splits import Split, cross_divide, divide, unit_names
from classify.train import Division, FittedHead, batches, fit_batch, transformed
from classify.transforms import Transform
from extract.console import progress

# Transformed rows are kept for the next batch of heads where all folds of them fit into this.
_KEEP_BYTES = 1 << 30


class Stopped(KeyboardInterrupt):
    """Ctrl-C; what was finished before it is in ``result``, None where that is nothing."""

    def __init__(self, result: Result | None, total: int) -> None:
        done = len(result.entries) if result else 0
        super().__init__(f"{done} of {total} candidates are done; the same command goes on")
        self.result = result


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
    names = ("folds", "metric", "seed", "assert_accuracy")
    running = {name: options.pop(name) for name in names if name in options}
    chosen = choose_heads(heads, options, varied)
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
        HeadError: A head could not be trained.
        SplitError: The rows cannot be divided.
        Stopped: Ctrl-C; it carries what was finished.
    """
    splits = cross_divide(dataset, config.folds, config.seed) if config.folds else [divide(dataset)]
    judging = np.sort(np.concatenate([split.validation for split in splits]))
    names = unit_names(dataset)
    y = dataset.y[judging]
    draws = Resampling(y, len(dataset.class_names), [names[row] for row in judging], config.seed)
    known: dict[HeadSpec, Outcome] = {}
    heads: dict[HeadSpec, FittedHead] = {}
    journal = Journal(folder, dataset.fingerprint(), splits)

    def ranked() -> Result | None:
        done = [spec for spec in config.candidates if spec in known]
        if not done:
            return None
        entries = rank(done, [known[spec] for spec in done], config.metric, draws)
        return Result(entries, config.metric, splits)

    try:
        _try_all(dataset, config.candidates, splits, journal, (known, heads))
    except KeyboardInterrupt:
        raise Stopped(ranked(), len(config.candidates)) from None
    result = ranked()
    assert result is not None
    best = result.best.spec
    own = _with_layer(dataset, best)
    head = heads.get(best) or _refit(own, best, splits)
    test = None
    if len(splits[0].test):
        rows = splits[0].test
        test = measure(own.y[rows], head.predict_proba(own.X[rows]))
    return replace(result, head=head, test=test, layer=own.layer, shape=own.X.shape[1:])


def _with_layer(dataset: Dataset, spec: HeadSpec) -> Dataset:
    """Return the dataset with the layers that a candidate takes."""
    layer = "+".join(spec.layer) or dataset.layer
    if layer == dataset.layer or dataset.path is None:
        return dataset
    return load_dataset(dataset.path, layer)


def _try_all(
    dataset: Dataset,
    candidates: Sequence[HeadSpec],
    splits: Sequence[Split],
    journal: Journal,
    kept: tuple[dict[HeadSpec, Outcome], dict[HeadSpec, FittedHead]],
) -> None:
    """Fill ``kept`` with every candidate's outcome, and with heads where one split judges."""
    known, heads = kept
    for spec in candidates:
        outcome = journal.get(spec, "+".join(spec.layer) or dataset.layer)
        if outcome:
            known[spec] = outcome
    best = 0.0
    with progress(len(candidates), "head", done=len(known), label="heads") as bar:
        for layer in dict.fromkeys(spec.layer for spec in candidates):
            missing = [s for s in candidates if s.layer == layer and s not in known]
            if not missing:
                continue
            own = _with_layer(dataset, missing[0])
            for spec, outcome, head in _outcomes(own, missing, splits):
                known[spec] = outcome
                journal.add(spec, own.layer, outcome)
                if head is not None:
                    heads[spec] = head
                right = outcome.judged.answers == _truth(own, splits)
                if right.mean() > best:
                    best = float(right.mean())
                    bar.set_postfix_str(f"best {best:.3f} {label(spec)}")
                bar.update(1)


def _truth(dataset: Dataset, splits: Sequence[Split]) -> Any:
    return dataset.y[np.sort(np.concatenate([split.validation for split in splits]))]


def _outcomes(
    dataset: Dataset, specs: Sequence[HeadSpec], splits: Sequence[Split]
) -> Iterator[tuple[HeadSpec, Outcome, FittedHead | None]]:
    """Train candidates on every split, batch by batch, and say what each did."""
    front = _Front(dataset, splits)
    for batch in batches(specs):
        some = [specs[position] for position in batch]
        parts: list[list[Outcome]] = [[] for _ in some]
        last: list[FittedHead | None] = [None] * len(some)
        for fold in range(len(splits)):
            transform, rows = front.rows(some[0].transform or (), fold)
            for fit in fit_batch(some, rows, transform):
                head = fit.fitted.head
                right = head.predict_proba(rows.X).argmax(axis=1) == rows.y
                judged = judge(rows.y_validation, head.predict_proba(rows.X_validation))
                outcome = Outcome(judged, float(right.mean()), fit.seconds, head.history)
                parts[fit.position].append(outcome)
                last[fit.position] = fit.fitted if len(splits) == 1 else None
        for spec, found, kept in zip(some, parts, last, strict=True):
            yield spec, join_outcomes(found, splits), kept


class _Front:
    """The transformed rows of each fold, kept while the next heads have the same transform."""

    def __init__(self, dataset: Dataset, splits: Sequence[Split]) -> None:
        self._dataset, self._splits = dataset, splits
        self._kept: dict[tuple[tuple[str, ...], int], tuple[Transform, Division]] = {}

    def rows(self, steps: tuple[str, ...], fold: int) -> tuple[Transform, Division]:
        """Return the transform fitted on a fold's training rows, and both its sides behind it."""
        if (steps, fold) in self._kept:
            return self._kept[steps, fold]
        transform = Transform(steps)
        split = self._splits[fold]
        rows = _divided(self._dataset, split.train, split.validation)
        made = transform, transformed(transform, rows)
        if self._dataset.X.nbytes * len(self._splits) < _KEEP_BYTES:
            self._kept = {key: value for key, value in self._kept.items() if key[0] == steps}
            self._kept[steps, fold] = made
        return made


def _divided(dataset: Dataset, train: Any, judging: Any) -> Division:
    return Division(dataset.X[train], dataset.y[train], dataset.X[judging], dataset.y[judging])


def _refit(dataset: Dataset, spec: HeadSpec, splits: Sequence[Split]) -> FittedHead:
    """Train the chosen candidate for good: behind folds on all rows that are not for the test.

    With patience something must say when to stop, so the first fold keeps judging; without, the
    judging rows only draw the curves.
    """
    train, judging = splits[0].train, splits[0].validation
    if len(splits) > 1 and spec.patience is None:
        train = np.sort(np.concatenate([train, judging]))
    transform = Transform(spec.transform or ())
    rows = transformed(transform, _divided(dataset, train, judging))
    return next(fit_batch([spec], rows, transform)).fitted
