"""Every image that a run scored, with its scores, as ``predictions.csv``."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.out_of_core import Labels
from classify.data.preprocessing import Floats
from classify.data.splits import validation_order
from classify.search.leaderboard import Result
from extract.core.console import csv_text

# Of more classes only the scores of the true class and of the answer are written.
MOST_CLASSES = 1000


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
    columns = [f"score_{name}" for name in names]
    if len(names) > MOST_CLASSES:
        columns = ["score_of_truth", "score_of_answer"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(map(csv_text, ("key", "split", "group", "truth", "answer", *columns)))
        table.writerows(_lines(dataset, *_validation(result)))
        if result.test_scores is not None:
            test = result.splits[0].test
            table.writerows(_lines(dataset, test, ["test"] * len(test), result.test_scores))


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
    dataset: Dataset, rows: Labels, splits: Iterable[str], scores: Floats
) -> Iterator[list[Any]]:
    names, many = dataset.class_names, len(dataset.class_names) > MOST_CLASSES
    for row, split, own in zip(rows.tolist(), splits, scores, strict=True):
        truth, answer = int(dataset.y[row]), int(own.argmax())
        group = dataset.groups[row] if dataset.groups else ""
        text = dataset.keys[row], split, group, names[truth], names[answer]
        shown = own[[truth, answer]] if many else own
        yield [*map(csv_text, text), *(f"{round(score, 6):g}" for score in shown.tolist())]
