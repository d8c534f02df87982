"""Notes on a result: what its best score does not say."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from classify.data.dataset import Dataset
from classify.scores.calibration import calibration_error
from classify.scores.intervals import FEWEST_GROUPS, Comparison
from classify.search.leaderboard import Result
from extract.core.console import log
from extract.core.errors import count_of, quoted

# One class with more of the validation images than this decides the accuracy.
_MOST = 2 / 3
# A smaller calibration error is also that of few images.
_BADLY_CALIBRATED = 0.1


def with_notes(result: Result, dataset: Dataset) -> Result:
    """Add notes to a result, and warn of each.

    Args:
        result: A result with scores.
        dataset: The rows that it is about.
    """
    notes = (*_on_baseline(result), *_on_classes(result, dataset), *_on_scores(result, dataset))
    for note in notes:
        log.warning("%s", note)
    return replace(result, notes=notes)


def _on_baseline(result: Result) -> Iterator[str]:
    baseline = result.baseline
    if baseline and not baseline.beaten:
        score = f"{result.metric} {baseline.scores[result.metric]:.4f}"
        if result.best.low is None:
            groups = count_of(result.units, "group")
            found = f"found {groups}; expected {FEWEST_GROUPS} of like size or more"
            answer = f"always answering {quoted(baseline.answer)} ({score})"
            yield f"cannot test whether a head is better than {answer}: {found}"
            return
        yield (
            f"no head is significantly better than always answering {quoted(baseline.answer)} "
            f"({score}); add images, or try other heads or another layer"
        )


def _on_classes(result: Result, dataset: Dataset) -> Iterator[str]:
    """Say how rare classes fare where one class has most images and the accuracy ranks."""
    y, K = dataset.y[result.validation_rows], len(dataset.class_names)
    counts, scores = np.bincount(y, minlength=K), result.scores
    common = int(counts.argmax())
    if result.metric != "accuracy" or counts[common] <= _MOST * len(y) or scores is None:
        return
    present = np.flatnonzero(counts)
    rare = int(present[counts[present].argmin()])
    right = scores[: len(y)].argmax(axis=1) == y
    share, names = counts[common] / len(y), dataset.class_names
    better = (
        "balanced_accuracy, or average_precision" if K == 2 else "balanced_accuracy or macro_f1"
    )
    yield (
        f"{share:.1%} of the validation images are {quoted(names[common])}: balanced accuracy "
        f"{result.score('balanced_accuracy'):.4f}, recall of {quoted(names[rare])} "
        f"{right[y == rare].mean():.4f} of {counts[rare]}; rank with --metric {better}"
    )


def _on_scores(result: Result, dataset: Dataset) -> Iterator[str]:
    """Warn where the scores of the best head are no probabilities."""
    rows = result.validation_rows
    if result.scores is None:
        return
    y, scores = dataset.y[rows], result.scores[: len(rows)]
    error, sure = calibration_error(y, scores), float(scores.max(axis=1).mean())
    groups = dataset.grouping.numbers[rows]
    right = scores.argmax(axis=1) == y
    low, high = Comparison(y, len(dataset.class_names), groups, 0).interval("accuracy", 1.0 * right)
    outside = low is not None and high is not None and not low <= sure <= high
    if error > _BADLY_CALIBRATED and outside:
        yield (
            f"the scores of {result.best.label} are badly calibrated: {sure:.3f} on average, "
            f"where {right.mean():.3f} of the answers are right (calibration error {error:.3f})"
        )
