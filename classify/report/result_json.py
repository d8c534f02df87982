"""What ``result.json`` says of a run: every setting, number and version."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.splits import group_names
from classify.search.leaderboard import Entry, Result
from classify.search.metrics import confusion_matrix
from classify.settings.head_spec import KERAS_HEADS
from classify.settings.sweep import label
from extract.trunks.backend import load_keras


def describe_run(dataset: Dataset, result: Result, store: str) -> dict[str, Any]:
    """Return every setting and number of a run, as JSON can hold them.

    Args:
        dataset: What was trained on.
        result: What came of it.
        store: The store, as the user named it.

    Returns:
        What ``result.json`` holds beside ``bundle.json``; ``best``, what is seen when the best head
        is looked at closely, is still to come.
    """
    first, judging = result.splits[0], result.validation_rows
    return {
        "store": store,
        "fingerprint": dataset.fingerprint(),
        "metric": result.metric,
        # Fine-tuning sees plain images alone.
        "views": asdict(dataset.views.spec) if dataset.views and not result.finetuned else None,
        "split": {
            "origin": first.origin,
            "folds": len(result.splits) if first.origin == "fold" else None,
            "train": len(first.train),
            "validation": len(judging),
            "test": len(first.test),
            "groups": dataset.groups and len(set(group_names(dataset))),
        },
        "candidates": [_line(dataset, entry, dataset.y[judging]) for entry in result.entries],
        "finetuned": result.finetuned and result.finetuned.to_dict(),
        "best": None,
        "test": result.test and result.test._asdict(),
        "versions": _versions(result),
    }


def _line(dataset: Dataset, entry: Entry, y: NDArray[np.int64]) -> dict[str, Any]:
    """Return what is known of one candidate."""
    answers = entry.evaluation.answers
    return {
        "name": label(entry.spec),
        "settings": entry.spec.to_dict(),
        "scores": entry.scores,
        "interval": [entry.low, entry.high],
        "as_good": entry.as_good,
        "train_accuracy": entry.evaluation.train_accuracy,
        "epochs": entry.evaluation.epochs,
        "confusion": confusion_matrix(y, answers, len(dataset.class_names)).tolist(),
        "history": entry.evaluation.history,
    }


def _versions(result: Result) -> dict[str, str]:
    names = ["headstart", "numpy", "scikit-learn"]
    if any(entry.spec.head in KERAS_HEADS for entry in result.entries):
        names += ["keras", load_keras().backend.backend()]
    return {name: version(name) for name in names}
