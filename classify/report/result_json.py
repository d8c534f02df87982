"""The content of ``result.json``: every setting, number and version of a run."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from classify.data.dataset import Dataset
from classify.data.splits import group_names
from classify.search.leaderboard import Result
from classify.search.metrics import confusion_matrix
from classify.settings.head_spec import KERAS_HEADS
from classify.settings.sweep import label
from extract.trunks.backend import backend_name


def describe_run(dataset: Dataset, result: Result, store: str) -> dict[str, Any]:
    """Return every setting and number of a run as JSON values.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run.
        store: The store, as the user named it.

    Returns:
        The content of ``result.json`` without that of ``bundle.json``. ``best``, the analysis of
        the best head, is still None.
    """
    first, rows, views = result.splits[0], result.validation_rows, dataset.views
    y, K = dataset.y[rows], len(dataset.class_names)
    with_keras = any(entry.spec.head in KERAS_HEADS for entry in result.entries)
    libraries = ["headstart", "numpy", "scikit-learn"]
    libraries += ["keras", backend_name()] if with_keras else []
    return {
        "store": store,
        "fingerprint": dataset.fingerprint(),
        "metric": result.metric,
        # Fine-tuning uses plain images only.
        "views": asdict(views.spec) if views and not result.finetuned else None,
        "split": {
            "origin": first.origin,
            "folds": len(result.splits) if first.origin == "fold" else None,
            "train": len(first.train),
            "validation": len(rows),
            "test": len(first.test),
            "groups": dataset.groups and len(set(group_names(dataset))),
        },
        "candidates": [
            {
                "name": label(entry.spec),
                "settings": entry.spec.to_dict(),
                "scores": entry.scores,
                "interval": [entry.low, entry.high],
                "as_good": entry.as_good,
                "train_accuracy": entry.evaluation.train_accuracy,
                "epochs": entry.evaluation.epochs,
                "confusion": confusion_matrix(y, entry.evaluation.answers, K).tolist(),
                "history": entry.evaluation.history,
            }
            for entry in result.entries
        ],
        "finetuned": result.finetuned and result.finetuned.to_dict(),
        "best": None,
        "test": result.test and result.test._asdict(),
        "versions": {name: version(name) for name in libraries},
    }
