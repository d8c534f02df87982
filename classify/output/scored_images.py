"""Every image that a run scored, with its scores, as ``predictions.csv``."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.preprocessing import Floats
from classify.data.splits import validation_order
from classify.search.leaderboard import Result
from classify.stored.out_of_core import Labels
from extract.display.tables import csv_text

# Of more classes only the scores of the true class and of the answer are written.
MOST_CLASSES = 1000
# The same of more scores: they would take longer to write than the head takes to train.
_MOST_SCORES = 10_000_000
# Scores that become text at a time.
_SCORES = 1 << 20


def write_scored_images(path: Path, dataset: Dataset, result: Result) -> None:
    """Write the validation images, scored by heads that did not see them, and the test images.

    The columns are ``key``, ``split`` (``validation``, ``test`` or the fold), ``group``, ``truth``,
    ``answer`` and a score of six decimals for each class.

    Args:
        path: The CSV file.
        dataset: The rows that were trained on.
        result: The result of the run, with scores.
    """
    names = dataset.class_names
    parts = [_validation(result)]
    if result.test_scores is not None:
        test = result.splits[0].test
        parts.append((test, ["test"] * len(test), result.test_scores))
    few = len(names) <= MOST_CLASSES and sum(part[2].size for part in parts) <= _MOST_SCORES
    columns = [f"score_{name}" for name in names] if few else ["score_of_truth", "score_of_answer"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(map(csv_text, ("key", "split", "group", "truth", "answer", *columns)))
        for part in parts:
            table.writerows(_lines(dataset, *part, few))


def _validation(result: Result) -> tuple[Labels, list[str], Floats]:
    """Return row, split and scores of each validation image, repeat by repeat."""
    assert result.scores is not None
    splits, repeats = result.splits, result.splits[-1].repeat + 1
    rows, names = [], []
    for place, split in enumerate(splits):
        fold = f"fold {place % (len(splits) // repeats) + 1}"
        name = fold if repeats == 1 else f"repeat {split.repeat + 1}, {fold}"
        names += [name if split.origin == "fold" else "validation"] * len(split.validation)
        rows.append(split.validation)
    order = validation_order(splits)
    return np.concatenate(rows)[order], [names[i] for i in order], result.scores


def _lines(
    dataset: Dataset, rows: Labels, splits: Iterable[str], scores: Floats, few: bool
) -> Iterator[list[Any]]:
    """Yield the line of each row; ``few`` says whether to write the scores of all classes."""
    truths, answers, names = dataset.y[rows], scores.argmax(axis=1), dataset.class_names
    shown = scores if few else scores[np.arange(len(rows))[:, None], np.stack([truths, answers], 1)]
    lines = zip(
        rows.tolist(), splits, truths.tolist(), answers.tolist(), _texts(shown), strict=True
    )
    for row, split, truth, answer, own in lines:
        group = dataset.groups[row] if dataset.groups else ""
        text = dataset.keys[row], split, group, names[truth], names[answer]
        yield [*map(csv_text, text), *own]


def _texts(scores: Floats) -> Iterator[list[str]]:
    """Yield the scores of each row with six decimals; equal ones become text once."""
    step = max(1, _SCORES // scores.shape[1])
    for start in range(0, len(scores), step):
        part = scores[start : start + step].astype(np.float64).round(6)
        values, places = np.unique(part, return_inverse=True)
        texts = np.array([f"{value:g}" for value in values.tolist()], dtype=object)
        yield from texts[places.reshape(part.shape)].tolist()
