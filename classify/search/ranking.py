"""The ranking: candidates ordered by their results, and the results of what they compete with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classify.scores.intervals import Comparison
from classify.scores.metrics import Metrics
from classify.search.evaluate import Evaluation
from classify.settings.config import METRICS
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label_all
from extract.core.errors import quoted


def to_json(value: Any) -> Any:
    """Return measured numbers for JSON, at every depth.

    They have six decimals, because further ones depend on the number of threads. Named tuples are
    dictionaries, and NaN is None.
    """
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 6)
    return value


class Entry(NamedTuple):
    """One line of the leaderboard.

    Attributes:
        spec: The candidate.
        scores: Metric -> value on the validation rows.
        low: Lower end of the 95 % confidence interval of the metric that ranks; None where
            there are few groups.
        high: Upper end.
        as_good: Whether it is not significantly worse than the head with the best metric.
        evaluation: Its results.
        label: Its short name.
    """

    spec: HeadSpec
    scores: dict[str, float]
    low: float | None
    high: float | None
    as_good: bool
    evaluation: Evaluation
    label: str

    def name(self) -> str:
        """Return the label, with its epoch if halving stopped the training."""
        done, asked = self.evaluation.epochs, self.spec.epochs or 0
        return self.label + (f" (epoch {done} of {asked})" if 0 < done < asked else "")

    def __repr__(self) -> str:
        return f"Entry({self.name()!r}, scores={self.scores}, as_good={self.as_good})"


class Baseline(NamedTuple):
    """The most frequent training class as the answer to every image, with the classes' shares.

    Attributes:
        answer: The class.
        scores: Metric -> value on the validation rows.
        low: Lower end of the 95 % confidence interval of the metric that ranks; None where
            there are few groups.
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
        return {**to_json(self), "learning_rate": self.learning_rate}

    def __repr__(self) -> str:
        kept = f"epoch {self.best_epoch} of {self.epochs}" if self.best_epoch else "the head alone"
        accuracy = f"accuracy {self.before.accuracy:.4f} -> {self.after.accuracy:.4f}"
        loss = f"loss {self.before.loss:.4f} -> {self.after.loss:.4f}"
        return f"fine-tuned above {quoted(self.layer)}: {accuracy}, {loss} ({kept})"


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
    labels = label_all(known)
    entries = [
        Entry(spec, own, *interval, as_good, known[spec], labels[spec])
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
