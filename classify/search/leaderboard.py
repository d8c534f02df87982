"""The leaderboard: candidates ranked by their results on rows that they were not trained on."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from classify.data.dataset import Dataset
from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats
from classify.data.splits import Split, validation_rows
from classify.heads.registry import FittedHead
from classify.search.bootstrap import Bootstrap, confidence_interval, not_significantly_worse
from classify.search.evaluate import Evaluation
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
        low: Lower end of the 95 % confidence interval of the metric that ranks.
        high: Upper end.
        as_good: Whether it is not significantly worse than the best; True for the best itself.
        evaluation: Its results.
    """

    spec: HeadSpec
    scores: dict[str, float]
    low: float
    high: float
    as_good: bool
    evaluation: Evaluation

    def name(self) -> str:
        """Return the candidate's label, with its epoch if halving stopped the training."""
        done, asked = self.evaluation.epochs, self.spec.epochs or 0
        return label(self.spec) + (f" (epoch {done} of {asked})" if 0 < done < asked else "")

    def __repr__(self) -> str:
        return f"Entry({self.name()!r}, scores={self.scores}, as_good={self.as_good})"


class Finetuned(NamedTuple):
    """Results of training the trunk's upper blocks together with the best head.

    Attributes:
        layer: The layer below the blocks.
        epochs: Passes over the training maps.
        best_epoch: The pass whose weights were kept; 0 where the head alone was better.
        before: Metrics of the head alone on the validation rows.
        after: Metrics of blocks and head on the validation rows.
        score: The metric that ranks, of blocks and head.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        learning_rate: Learning rate of SGD.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each pass.
    """

    layer: str
    epochs: int
    best_epoch: int
    before: Metrics
    after: Metrics
    score: float
    low: float
    high: float
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


def rank_key(metric: str, values: Mapping[str, Floats]) -> tuple[float, float]:
    """Return the sort key of a candidate: the best metric first, then the lowest loss."""
    sign = 1 if metric == "loss" else -1
    return sign * round(float(values[metric][0]), 9), float(values["loss"][0])


def rank(
    evaluations: Mapping[HeadSpec, Evaluation], metric: str, bootstrap: Bootstrap
) -> list[Entry]:
    """Rank the candidates that did not fail, best first.

    Args:
        evaluations: The results of each candidate.
        metric: The metric that ranks, in ``config.METRICS``.
        bootstrap: Resamples of the validation rows.
    """
    values = {
        spec: bootstrap.values(evaluation.answers, evaluation.true_scores)
        for spec, evaluation in evaluations.items()
        if not evaluation.failed
    }
    ranked, entries = sorted(values, key=lambda spec: rank_key(metric, values[spec])), []
    for spec in ranked:
        scores = {name: float(values[spec][name][0]) for name in METRICS}
        best, own = values[ranked[0]][metric], values[spec][metric]
        as_good = not_significantly_worse(best, own, metric != "loss")
        entries.append(Entry(spec, scores, *confidence_interval(own), as_good, evaluations[spec]))
    return entries


@dataclass(frozen=True)
class Result:
    """The leaderboard and the best head.

    Attributes:
        entries: The candidates, best first.
        metric: The metric that ranks.
        splits: The split of the rows, or one split per fold.
        head: The best candidate, trained on all training rows; None after Ctrl-C.
        test: Metrics of the head on the test rows; None without test rows.
        dataset: The rows with the features of the head's layer; None after Ctrl-C.
        finetuned: Results of fine-tuning; None without.
        scores: (V, K) scores, 0 to 1, of the best candidate on ``validation_rows``, by heads that
            were not trained on them; None after Ctrl-C.
        folder: Where ``train_heads`` saved the head; None where nothing was saved.
    """

    entries: list[Entry]
    metric: str
    splits: list[Split]
    head: FittedHead | None = None
    test: Metrics | None = None
    dataset: Dataset | None = None
    finetuned: Finetuned | None = None
    scores: Floats | None = None
    folder: Path | None = None

    @property
    def validation_rows(self) -> Labels:
        """The rows of the dataset that the heads are compared on, increasing."""
        return validation_rows(self.splits)

    @property
    def best(self) -> Entry:
        """The first entry."""
        return self.entries[0]

    @property
    def accuracy(self) -> float:
        """The accuracy of the head on the validation rows."""
        return self.finetuned.after.accuracy if self.finetuned else self.best.scores["accuracy"]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the leaderboard as text: a heading, then one row per candidate."""
        rows: list[tuple[str, ...]]
        rows = [("rank", "head", self.metric, "low", "high", "as good", "training", "seconds")]
        for place, entry in enumerate(self.entries, 1):
            numbers = [f"{n:.4f}" for n in (entry.scores[self.metric], entry.low, entry.high)]
            training, seconds = entry.evaluation.train_accuracy, entry.evaluation.seconds
            ends = "=" * entry.as_good, f"{training:.4f}", f"{seconds:.2f}"
            rows.append((str(place), entry.name(), *numbers, *ends))
        return rows

    def advice(self) -> str:
        """Name the best head, the heads that are not significantly worse, and the test result."""
        text, others = self._best(), [entry for entry in self.entries[1:] if entry.as_good]
        if others:
            verb = "is" if len(others) == 1 else "are"
            text += f"; {count_of(len(others), 'head')} marked = {verb} not significantly worse"
            fastest = min(others, key=lambda entry: entry.evaluation.seconds)
            if fastest.evaluation.seconds < self.best.evaluation.seconds:
                text += f"; the fastest of them is {label(fastest.spec)}"
        test = f"test of {label(self.best.spec)}: {self.test}" if self.test else ""
        return "\n".join(filter(None, [text, str(self.finetuned or ""), test]))

    def _best(self) -> str:
        best, score = self.best, f"{self.metric} {self.best.scores[self.metric]:.3f}"
        return f"best: {label(best.spec)}, {score} (95 % CI {best.low:.3f} to {best.high:.3f})"

    def summary(self) -> str:
        """Describe in one line the best head, its training rows and its validation rows."""
        first, validation = self.splits[0], len(self.validation_rows)
        origins = {"store": "(its validation split)", "hold-out": "(held out by a hash)"}
        source = origins.get(first.origin, f"in {len(self.splits)} folds")
        name, training = label(self.best.spec), count_of(len(first.refit_rows), "image")
        best = f"best of {len(self.entries)} on {validation} {source}"
        return f"{name}, trained on {training}, {best}"

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
            numbers = *entry.scores.values(), entry.low, entry.high, entry.evaluation.train_accuracy
            *shown, training = (f"{number:.6f}" for number in numbers)
            marks = int(entry.as_good), training, entry.evaluation.epochs
            rows.append([place, label(entry.spec), *shown, *marks])
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
