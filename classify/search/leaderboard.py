"""What a run has found: heads ranked by what they did on rows that they did not see."""

import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.splits import Split, validation_rows
from classify.heads.registry import FittedHead
from classify.search.bootstrap import Bootstrap, confidence_interval, not_significantly_worse
from classify.search.evaluate import Outcome
from classify.search.metrics import Metrics
from classify.settings.config import METRICS
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label

_HEADING = ("rank", "head", "score", "low", "high", "as good", "training", "seconds")


class Entry(NamedTuple):
    """One line of the leaderboard.

    Attributes:
        spec: The candidate.
        scores: Metric -> value on the judging rows.
        low: Lower end of the 95 % interval of the metric that ranks.
        high: Upper end.
        as_good: Whether the best head's lead over it could be chance; True for the best itself.
        outcome: What it did.
    """

    spec: HeadSpec
    scores: dict[str, float]
    low: float
    high: float
    as_good: bool
    outcome: Outcome

    def name(self) -> str:
        """Return the candidate's label, and where it stands if training ended before its time."""
        done, asked = self.outcome.epochs, self.spec.epochs or 0
        return label(self.spec) + (f" (epoch {done} of {asked})" if 0 < done < asked else "")


class Finetuned(NamedTuple):
    """What training the trunk's upper blocks together with the best head did.

    Attributes:
        layer: The layer above which the blocks stand.
        epochs: Passes over the training maps.
        best_epoch: The pass whose weights were kept; 0 where the head alone was better.
        before: What the head alone does on the validation rows.
        after: What both do on them.
        score: The metric that ranks, of both.
        low: Lower end of its 95 % interval.
        high: Upper end.
        learning_rate: Size of the steps.
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
        """Return the fields as JSON can hold them."""
        return {
            **self._asdict(),
            "before": self.before._asdict(),
            "after": self.after._asdict(),
        }

    def __str__(self) -> str:
        kept = f"epoch {self.best_epoch} of {self.epochs}" if self.best_epoch else "the head alone"
        return (
            f"fine-tuned above {self.layer}: accuracy {self.before.accuracy:.4f} -> "
            f"{self.after.accuracy:.4f}, loss {self.before.loss:.4f} -> {self.after.loss:.4f} "
            f"({kept})"
        )


def rank(
    specs: Sequence[HeadSpec], outcomes: Sequence[Outcome], metric: str, draws: Bootstrap
) -> list[Entry]:
    """Rank candidates, best first.

    Args:
        specs: The candidates.
        outcomes: What each did.
        metric: What ranks them, in ``config.METRICS``; the loss settles what is equal.
        draws: Resampled rows, the same for each candidate.

    Returns:
        One entry a candidate.
    """
    sign = 1 if metric == "loss" else -1
    rows = []
    for spec, outcome in zip(specs, outcomes, strict=True):
        values = {name: draws.values(name, outcome.judged) for name in METRICS}
        scores = {name: float(found[0]) for name, found in values.items()}
        rows.append((spec, outcome, scores, values[metric]))
    rows.sort(key=lambda row: (sign * round(row[2][metric], 9), row[2]["loss"]))
    best = rows[0][3]
    return [
        Entry(
            spec,
            scores,
            *confidence_interval(values),
            not_significantly_worse(best, values, metric != "loss"),
            outcome,
        )
        for spec, outcome, scores, values in rows
    ]


@dataclass(frozen=True)
class Result:
    """The leaderboard, and the head that leads it.

    Attributes:
        entries: The candidates, best first.
        metric: What ranks them.
        splits: One division of the rows, or one a fold.
        head: The best candidate, trained on all rows that may train; None of a stopped run.
        test: What that head does on the test rows; None where there are none.
        dataset: The rows, with the features of the layer that head takes; None of a stopped run.
        finetuned: What fine-tuning did to that head; None without.
        scores: (J, K) scores, 0 to 1, of the best candidate on the J judging rows, in the order of
            ``judging``, none of them trained on; None of a stopped run.
        folder: Where ``train_heads`` saved the head; None where nothing was saved.
    """

    entries: list[Entry]
    metric: str
    splits: list[Split]
    head: FittedHead | None = None
    test: Metrics | None = None
    dataset: Dataset | None = None
    finetuned: Finetuned | None = None
    scores: NDArray[np.floating] | None = None
    folder: Path | None = None

    @property
    def judging(self) -> NDArray[np.int64]:
        """The rows of the dataset that judged, increasing."""
        return validation_rows(self.splits)

    @property
    def best(self) -> Entry:
        """The first of the entries."""
        return self.entries[0]

    @property
    def accuracy(self) -> float:
        """The accuracy of the head on the judging rows."""
        if self.finetuned:
            return self.finetuned.after.accuracy
        return self.best.scores["accuracy"]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the leaderboard as text: the heading, then a row a candidate."""
        made: list[tuple[str, ...]] = [(*_HEADING[:2], self.metric, *_HEADING[3:])]
        for place, entry in enumerate(self.entries, 1):
            numbers = (entry.scores[self.metric], entry.low, entry.high)
            made.append(
                (
                    str(place),
                    entry.name(),
                    *(f"{number:.4f}" for number in numbers),
                    "=" if entry.as_good else "",
                    f"{entry.outcome.train_accuracy:.4f}",
                    f"{entry.outcome.seconds:.2f}",
                )
            )
        return made

    def advice(self) -> str:
        """Say which head to use, and how sure that is."""
        others = [entry for entry in self.entries[1:] if entry.as_good]
        text = (
            f"use {label(self.best.spec)}: {self.metric} {self.best.scores[self.metric]:.4f} "
            f"({self.best.low:.4f} to {self.best.high:.4f})"
        )
        if others:
            quick = min(others, key=lambda entry: entry.outcome.seconds)
            text += f"; {len(others)} more (=) may be as good"
            if quick.outcome.seconds < self.best.outcome.seconds:
                text += f", the quickest {label(quick.spec)}"
        if self.finetuned:
            text += f"\n{self.finetuned}"
        if self.test:
            text += (
                f"\ntest of {label(self.best.spec)}: accuracy {self.test.accuracy:.4f}, "
                f"loss {self.test.loss:.4f}, macro F1 {self.test.macro_f1:.4f} "
                f"({self.test.rows} images)"
            )
        return text

    def summary(self) -> str:
        """Say in a line what was tried on what."""
        first = self.splits[0]
        judging = sum(len(split.validation) for split in self.splits)
        judges = {
            "store": f"{judging} (its validation split)",
            "hold-out": f"{judging} (held out by a hash)",
            "fold": f"{judging} in {len(self.splits)} folds",
        }[first.origin]
        rows = len(first.train) + len(first.validation) * (first.origin == "fold")
        best = label(self.best.spec)
        return f"{best}, trained on {rows} images, best of {len(self.entries)} on {judges}"

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if name == "head" else cell.rjust(width)
                for cell, width, name in zip(row, widths, _HEADING, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self.advice()])

    def _repr_html_(self) -> str:
        heading, *rows = self.rows()
        lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in heading) + "</tr>"]
        lines += [
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        ]
        return f"<table>{''.join(lines)}</table><p>{html.escape(self.advice())}</p>"

    def write_csv(self, path: Path) -> None:
        """Write the leaderboard, every metric and no seconds: same seed, same bytes."""
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(
                ["rank", "head", *METRICS, "low", "high", "as_good", "training", "epochs"]
            )
            for place, entry in enumerate(self.entries, 1):
                numbers = [*entry.scores.values(), entry.low, entry.high]
                shown = [f"{number:.6f}" for number in [*numbers, entry.outcome.train_accuracy]]
                marks = [int(entry.as_good), shown.pop(), entry.outcome.epochs]
                table.writerow([place, label(entry.spec), *shown, *marks])
