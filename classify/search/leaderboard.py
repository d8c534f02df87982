"""The result of a search: its leaderboard, and the head that it chose."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from classify.data.dataset import Dataset
from classify.data.preprocessing import Floats
from classify.data.splits import Split, validation_rows
from classify.heads.registry import FittedHead
from classify.scores.intervals import FEWEST_GROUPS
from classify.scores.metrics import Metrics
from classify.search.feasibility import Budget
from classify.search.ranking import Baseline, Entry, Finetuned, rank_key
from classify.settings.config import METRICS
from classify.stored.out_of_core import Labels
from extract.core.errors import count_of, quoted
from extract.display.tables import html_table
from extract.display.width import fit_table, wrap

# The columns that a narrow terminal does without, one after the other: seconds, accuracy in
# training, rank, and the ends of the interval.
_LEAST_IMPORTANT = ((7,), (6,), (0,), (3, 4))


class Board(NamedTuple):
    """The leaderboard as text, and the columns that had no room."""

    text: str
    dropped: list[str]


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
        budget: The budget of the default heads, and what it left out; None of other heads.
        folder: Where ``train_heads`` saved the head; None where nothing was saved.
        seed: What decided everything random.
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
    budget: Budget | None = None
    folder: Path | None = None
    seed: int = 0

    @property
    def validation_rows(self) -> Labels:
        """The rows of the dataset that the heads are compared on, increasing."""
        return validation_rows([split for split in self.splits if not split.repeat])

    @property
    def best(self) -> Entry:
        """The first entry."""
        return self.entries[0]

    @property
    def score_range(self) -> tuple[float, float]:
        """The lowest and the highest end of the candidates' intervals.

        The baseline, which is far below, would make them all short.
        """
        ends = [e for one in self.entries for e in (one.low, one.high, one.scores[self.metric])]
        known = [end for end in ends if end is not None and math.isfinite(end)] or [0.0]
        return min(known), max(known)

    @property
    def accuracy(self) -> float:
        """The accuracy of the head on the validation rows."""
        return self.score("accuracy")

    def score(self, metric: str) -> float:
        """Return a metric of the head on the validation rows."""
        return (self.finetuned or self.best).scores[metric]

    def missed(self, limits: Mapping[str, float]) -> str:
        """Describe the metrics that are below their limits, or a loss above; empty for none."""
        missed = []
        for metric, limit in limits.items():
            value, sign = self.score(metric), -1 if metric == "loss" else 1
            if not sign * value >= sign * limit:  # NaN misses as well
                expected = f"{limit:g} or {'less' if metric == 'loss' else 'more'}"
                missed.append(f"{metric}: found {value:.4f}; expected {expected}")
        return "; ".join(missed)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the leaderboard as text: a heading, a row per candidate, and the baseline."""
        rows: list[tuple[str, ...]]
        rows = [("rank", "head", self.metric, "low", "high", "as good", "training", "seconds")]
        for place, entry in enumerate(self.entries, 1):
            training, seconds = entry.evaluation.train_accuracy, entry.evaluation.seconds
            ends = "=" * entry.as_good, f"{training:.4f}", f"{seconds:.2f}"
            rows.append((str(place), entry.name(), *self._numbers(entry), *ends))
        if self.baseline:
            name = f"always {quoted(self.baseline.answer)}"
            numbers = self._numbers(self.baseline)
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
                score = f"{top.label}: {top.scores[self.metric]:.3f}"
                has = "has" if len(others) == 1 else "have"
                text += f" but {has} a higher loss ({score})"
            fastest = min(others, key=lambda entry: entry.evaluation.seconds)
            if fastest.evaluation.seconds < self.best.evaluation.seconds:
                text += f"; the fastest of them is {fastest.label}"
        test = f"test of {self.best.label}: {self.test}" if self.test else ""
        return "\n".join(filter(None, [text, str(self.finetuned or ""), test]))

    def _best(self) -> str:
        best, score = self.best, f"{self.metric} {self.best.scores[self.metric]:.3f}"
        interval = f"no interval: {self.units} groups, {FEWEST_GROUPS} of like size needed"
        if best.low is not None and best.high is not None:
            interval = f"95 % CI {best.low:.3f} to {best.high:.3f}"
        return f"best: {best.label}, {score} ({interval})"

    def summary(self) -> str:
        """Describe in one line the best head, its training rows and its validation rows."""
        first, validation = self.splits[0], len(self.validation_rows)
        origins = {"store": "(its validation split)", "hold-out": "(held out by a hash)"}
        source = origins.get(first.origin, f"in {self.divisions()}")
        name, training = self.best.label, count_of(len(first.refit_rows), "image")
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
        return self.text().text

    def text(self, width: int | None = None) -> "Board":
        """Return the leaderboard as text; what is wider than ``width`` cells loses columns."""
        table = fit_table(self.rows(), width, name=1, drop=_LEAST_IMPORTANT)
        advice = (wrap(line, width) for line in self.advice().split("\n"))
        return Board("\n".join([*table.lines, *advice]), table.dropped)

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
            rows.append([place, entry.label, *_cells(entry), *ends])
        if self.baseline:
            worse, answer = int(not self.baseline.beaten), self.baseline.answer
            rows.append(["", f"always {answer}", *_cells(self.baseline), worse, "", ""])
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _cells(line: Entry | Baseline) -> list[str]:
    """Return all metrics and the interval with six decimals; empty where there is no value."""
    numbers = *line.scores.values(), line.low, line.high
    return ["" if n is None or math.isnan(n) else f"{n:.6f}" for n in numbers]
