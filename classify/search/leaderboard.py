"""The leaderboard: candidates ranked by their results on rows that they were not trained on."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classify.data.dataset import Dataset
from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats
from classify.data.splits import Split, validation_rows
from classify.heads.registry import FittedHead
from classify.search.evaluate import Evaluation
from classify.search.intervals import FEWEST_GROUPS, Comparison
from classify.search.metrics import Metrics
from classify.settings.config import METRICS
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from extract.core.console import html_table
from extract.core.errors import count_of


class Entry(NamedTuple):
    """One line of the leaderboard.

    Attributes:
        spec: The candidate.
        scores: Metric -> value on the validation rows.
        low: Lower end of the 95 % confidence interval of the metric that ranks; None of few groups.
        high: Upper end.
        as_good: Whether it is not significantly worse than the head with the best metric.
        evaluation: Its results.
    """

    spec: HeadSpec
    scores: dict[str, float]
    low: float | None
    high: float | None
    as_good: bool
    evaluation: Evaluation

    def name(self) -> str:
        """Return the candidate's label, with its epoch if halving stopped the training."""
        done, asked = self.evaluation.epochs, self.spec.epochs or 0
        return label(self.spec) + (f" (epoch {done} of {asked})" if 0 < done < asked else "")

    def __repr__(self) -> str:
        return f"Entry({self.name()!r}, scores={self.scores}, as_good={self.as_good})"


class Baseline(NamedTuple):
    """The most frequent training class as the answer to every image, with the classes' shares.

    Attributes:
        answer: The class.
        scores: Metric -> value on the validation rows.
        low: Lower end of the 95 % confidence interval of the metric that ranks; None of few groups.
        high: Upper end.
        beaten: Whether the best head is significantly better.
    """

    answer: str
    scores: dict[str, float]
    low: float | None
    high: float | None
    beaten: bool


class Finetuned(NamedTuple):
    """Results of training the trunk's upper blocks together with the best head.

    Attributes:
        layer: The layer below the blocks.
        epochs: Passes over the training maps.
        best_epoch: The pass whose weights were kept; 0 where the head alone was better.
        before: Metrics of the head alone on the validation rows.
        after: Metrics of blocks and head on the validation rows.
        scores: Metric -> value, of blocks and head.
        low: Lower end of the 95 % confidence interval of the metric that ranks.
        high: Upper end.
        learning_rate: Learning rate of SGD.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each pass.
    """

    layer: str
    epochs: int
    best_epoch: int
    before: Metrics
    after: Metrics
    scores: dict[str, float]
    low: float | None
    high: float | None
    learning_rate: float
    history: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return self._asdict() | {"before": self.before._asdict(), "after": self.after._asdict()}

    def __repr__(self) -> str:
        kept = f"epoch {self.best_epoch} of {self.epochs}" if self.best_epoch else "the head alone"
        accuracy = f"accuracy {self.before.accuracy:.4f} -> {self.after.accuracy:.4f}"
        loss = f"loss {self.before.loss:.4f} -> {self.after.loss:.4f}"
        return f"fine-tuned above {self.layer}: {accuracy}, {loss} ({kept})"


def metric_scores(comparison: Comparison, evaluation: Evaluation) -> dict[str, float]:
    """Return the value of every metric; NaN where it is not defined."""
    parts = evaluation.answers, evaluation.true_scores, evaluation.areas
    return {name: float(comparison.values(name, *parts).mean()) for name in METRICS}


def rank_key(metric: str, scores: Mapping[str, float]) -> tuple[float, float]:
    """Return the sort key of a candidate: the best metric first, then the lowest loss."""
    sign = 1 if metric == "loss" else -1
    return sign * round(scores[metric], 9), scores["loss"]


def rank(
    evaluations: Mapping[HeadSpec, Evaluation],
    metric: str,
    comparison: Comparison,
    baseline: Evaluation,
    class_names: Sequence[str],
) -> tuple[list[Entry], Baseline | None]:
    """Rank the candidates that did not fail.

    Those that are not significantly worse than the head with the best metric come first, the lowest
    loss ahead; then the others by the metric.

    Args:
        evaluations: The results of each candidate.
        metric: The metric that ranks, in ``config.METRICS``.
        comparison: The validation rows.
        baseline: The results of the most frequent class.
        class_names: K names.

    Returns:
        The candidates, best first, and the baseline; nothing where all candidates failed.
    """
    known = {spec: own for spec, own in evaluations.items() if not own.failed}
    results = [*known.values(), baseline]
    values = [comparison.values(metric, r.answers, r.true_scores, r.areas) for r in results]
    scores = [metric_scores(comparison, result) for result in results]
    keys = [rank_key(metric, own) for own in scores[:-1]]
    if not keys:
        return [], None
    good = comparison.not_worse(metric, values, keys.index(min(keys))).tolist()
    ends = [comparison.interval(metric, own) for own in values]
    entries = [
        Entry(spec, own, *interval, as_good, known[spec])
        for spec, own, interval, as_good in zip(known, scores, ends, good, strict=False)
    ]
    answer = class_names[int(np.bincount(baseline.answers).argmax())]
    return sorted(entries, key=_place(metric)), Baseline(
        answer, scores[-1], *ends[-1], beaten=not good[-1]
    )


def _place(metric: str) -> Callable[[Entry], tuple[Any, ...]]:
    """Return the sort key of entries; see ``rank``."""

    def key(entry: Entry) -> tuple[Any, ...]:
        metric_first = rank_key(metric, entry.scores)
        loss_first = entry.scores["loss"], *metric_first
        return (0, *loss_first) if entry.as_good else (1, *metric_first)

    return key


@dataclass(frozen=True)
class Result:
    """The leaderboard and the best head.

    Attributes:
        entries: The candidates, best first; see ``rank``.
        metric: The metric that ranks.
        splits: The split of the rows, or one split per fold.
        baseline: The most frequent class as the answer to every image.
        units: Number of independent validation images: of groups, where there are any.
        notes: What should be known of the scores: a baseline that no head beats, and the like.
        head: The best candidate, trained on all training rows; None after Ctrl-C.
        test: Metrics of the head on the test rows; None without test rows.
        dataset: The rows with the features of the head's layer; None after Ctrl-C.
        finetuned: Results of fine-tuning; None without.
        scores: (V, K) scores, 0 to 1, of the best candidate on ``validation_rows``, by heads that
            were not trained on them, and after those of the first repeat those of the others; None
            after Ctrl-C.
        test_scores: (T, K) scores of the head on the test rows; None without.
        folder: Where ``train_heads`` saved the head; None where nothing was saved.
    """

    entries: list[Entry]
    metric: str
    splits: list[Split]
    baseline: Baseline | None = None
    units: int = 0
    notes: tuple[str, ...] = ()
    head: FittedHead | None = None
    test: Metrics | None = None
    dataset: Dataset | None = None
    finetuned: Finetuned | None = None
    scores: Floats | None = None
    test_scores: Floats | None = None
    folder: Path | None = None

    @property
    def validation_rows(self) -> Labels:
        """The rows of the dataset that the heads are compared on, increasing."""
        return validation_rows([split for split in self.splits if not split.repeat])

    @property
    def best(self) -> Entry:
        """The first entry."""
        return self.entries[0]

    @property
    def accuracy(self) -> float:
        """The accuracy of the head on the validation rows."""
        return self.score("accuracy")

    def score(self, metric: str) -> float:
        """Return a metric of the head on the validation rows."""
        return (self.finetuned or self.best).scores[metric]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the leaderboard as text: a heading, a row per candidate, and the baseline."""
        rows: list[tuple[str, ...]]
        rows = [("rank", "head", self.metric, "low", "high", "as good", "training", "seconds")]
        for place, entry in enumerate(self.entries, 1):
            training, seconds = entry.evaluation.train_accuracy, entry.evaluation.seconds
            ends = "=" * entry.as_good, f"{training:.4f}", f"{seconds:.2f}"
            rows.append((str(place), entry.name(), *self._numbers(entry), *ends))
        if self.baseline:
            name, numbers = f"always {self.baseline.answer}", self._numbers(self.baseline)
            rows.append(("-", name, *numbers, "" if self.baseline.beaten else "=", "", ""))
        return rows

    def _numbers(self, line: Entry | Baseline) -> list[str]:
        """Return the metric that ranks and its interval as text."""
        numbers = line.scores[self.metric], line.low, line.high
        return ["-" if n is None or math.isnan(n) else f"{n:.4f}" for n in numbers]

    def advice(self) -> str:
        """Name the best head, the heads that are not significantly worse, and the test result."""
        text, others = self._best(), [entry for entry in self.entries[1:] if entry.as_good]
        if others:
            verb = "is" if len(others) == 1 else "are"
            text += f"; {count_of(len(others), 'head')} marked = {verb} not significantly worse"
            top = min(self.entries, key=lambda entry: rank_key(self.metric, entry.scores))
            if top.scores[self.metric] != self.best.scores[self.metric]:
                score = f"{label(top.spec)}: {top.scores[self.metric]:.3f}"
                text += f" but have a higher loss ({score})"
            fastest = min(others, key=lambda entry: entry.evaluation.seconds)
            if fastest.evaluation.seconds < self.best.evaluation.seconds:
                text += f"; the fastest of them is {label(fastest.spec)}"
        test = f"test of {label(self.best.spec)}: {self.test}" if self.test else ""
        return "\n".join(filter(None, [text, str(self.finetuned or ""), test]))

    def _best(self) -> str:
        best, score = self.best, f"{self.metric} {self.best.scores[self.metric]:.3f}"
        interval = f"no interval: {self.units} groups, {FEWEST_GROUPS} of like size needed"
        if best.low is not None and best.high is not None:
            interval = f"95 % CI {best.low:.3f} to {best.high:.3f}"
        return f"best: {label(best.spec)}, {score} ({interval})"

    def summary(self) -> str:
        """Describe in one line the best head, its training rows and its validation rows."""
        first, validation = self.splits[0], len(self.validation_rows)
        origins = {"store": "(its validation split)", "hold-out": "(held out by a hash)"}
        source = origins.get(first.origin, f"in {self.divisions()}")
        name, training = label(self.best.spec), count_of(len(first.refit_rows), "image")
        best = f"best of {len(self.entries)} on {validation} {source}"
        return f"{name}, trained on {training}, {best}"

    def divisions(self) -> str:
        """Return the number of folds and of their repeats in words."""
        repeats = self.splits[-1].repeat + 1
        folds = f"{len(self.splits) // repeats} folds"
        return folds if repeats == 1 else f"{folds}, {repeats} times"

    def __repr__(self) -> str:
        count = count_of(len(self.entries), "candidate")
        return f"Result of {count}, ranked by {self.metric}; {self._best()}"

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        line = "  ".join(f"{{:{'<' if i == 1 else '>'}{width}}}" for i, width in enumerate(widths))
        return "\n".join([*(line.format(*row).rstrip() for row in rows), self.advice()])

    def _repr_html_(self) -> str:
        heading, *rows = self.rows()
        return html_table(heading, rows, self.advice())

    def write_csv(self, path: Path) -> None:
        """Write the leaderboard with every metric, and no seconds: same seed, same bytes."""
        names = ["rank", "head", *METRICS, "low", "high", "as_good", "training", "epochs"]
        rows: list[list[Any]] = [names]
        for place, entry in enumerate(self.entries, 1):
            training, epochs = f"{entry.evaluation.train_accuracy:.6f}", entry.evaluation.epochs
            ends = int(entry.as_good), training, epochs
            rows.append([place, label(entry.spec), *_cells(entry), *ends])
        if self.baseline:
            worse, answer = int(not self.baseline.beaten), self.baseline.answer
            rows.append(["", f"always {answer}", *_cells(self.baseline), worse, "", ""])
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _cells(line: Entry | Baseline) -> list[str]:
    """Return all metrics and the interval with six decimals; empty where there is no value."""
    numbers = *line.scores.values(), line.low, line.high
    return ["" if n is None or math.isnan(n) else f"{n:.6f}" for n in numbers]
