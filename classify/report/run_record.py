"""The settings and numbers of a run for ``result.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.activation.explain import Explained
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.diagnosis.sweeps import find_sweeps
from classify.report.provenance import describe_origin
from classify.report.summary import summarise
from classify.scores.metrics import MATRIX_CLASSES, confusion_matrix, list_confusion
from classify.search.checkpoint import library_versions
from classify.search.evaluate import training_sample
from classify.search.leaderboard import Result
from classify.search.ranking import Entry, to_json


def describe_run(dataset: Dataset, result: Result, store: str | Sequence[str]) -> dict[str, Any]:
    """Return every setting and number of a run as JSON values.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run.
        store: The store or stores, as the user named them.

    Returns:
        The content of ``result.json`` without that of ``bundle.json``. ``best``, the analysis of
        the best head, is still None.
    """
    first, rows = result.splits[0], result.validation_rows
    views = (result.dataset or dataset).views
    y, K = dataset.y[rows], len(dataset.class_names)
    repeats = result.splits[-1].repeat + 1
    return {
        "store": store,
        **describe_origin(dataset),
        "seed": result.seed,
        "fingerprint": dataset.fingerprint,
        "metric": result.metric,
        "notes": result.notes,
        "left_out": list(dataset.left_out),
        # The estimated seconds differ from run to run.
        "budget": result.budget
        and {"seconds": result.budget.seconds, "left_out": list(result.budget.left_out)},
        # Fine-tuning uses plain images only.
        "views": asdict(views.spec) if views and not result.finetuned else None,
        "split": {
            "origin": first.origin,
            "folds": len(result.splits) // repeats if first.origin == "fold" else None,
            "repeats": repeats,
            "train": len(first.train),
            "train_scored": training_sample(len(first.train)),
            "validation": len(rows),
            "test": len(first.test),
            "groups": dataset.groups and int(dataset.grouping.numbers.max()) + 1,
        },
        "candidates": [
            _describe(entry, y, K, with_confusion=K <= MATRIX_CLASSES or not place)
            for place, entry in enumerate(result.entries)
        ],
        "sweeps": [sweep.to_dict() for sweep in find_sweeps(result.entries)],
        "baseline": to_json(result.baseline),
        "finetuned": result.finetuned and result.finetuned.to_dict(),
        "best": None,
        "test": to_json(result.test),
        "versions": library_versions(entry.spec.head for entry in result.entries),
    }


def describe_analysis(
    dataset: Dataset, result: Result, analysis: Analysis, explained: Explained
) -> dict[str, Any]:
    """Return what the report says of the best head as JSON values: ``summary`` and ``best``."""
    best = analysis.to_dict(dataset.keys)
    best["mistakes"]["explained"] = explained.to_dict(dataset.keys)
    return {"summary": summarise(dataset, result, analysis).to_list(), "best": best}


def describe_timing(result: Result, timing: Mapping[str, float]) -> dict[str, Any]:
    """Return the seconds of each step, and of each candidate in the order of the leaderboard."""
    candidates = [round(entry.evaluation.seconds, 3) for entry in result.entries]
    return {name: round(spent, 3) for name, spent in timing.items()} | {"candidates": candidates}


def _describe(entry: Entry, y: NDArray[np.int64], K: int, with_confusion: bool) -> dict[str, Any]:
    """Return the settings and numbers of a candidate; of many classes only one has confusions."""
    own = entry.evaluation
    confusion = confusion_matrix(y, own.answers[: len(y)], K) if with_confusion else None
    return {
        "name": entry.label,
        "settings": entry.spec.to_dict(),
        "scores": to_json(entry.scores),
        "interval": to_json([entry.low, entry.high]),
        "as_good": entry.as_good,
        "train_accuracy": to_json(own.train_accuracy),
        "epochs": own.epochs,
        "confusion": None if confusion is None else list_confusion(confusion),
        "history": to_json(own.history),
    }
