"""The numbers of a run and the analysis of its best head, for ``result.json`` and the report."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.out_of_core import StoredRows
from classify.data.splits import TEST, group_names
from classify.heads.registry import has_too_many_classes, needs_memory
from classify.report import diagnostics
from classify.report.curves import Curve, class_curves
from classify.report.projection import FeatureMap, map_features
from classify.scores.intervals import Comparison, units_of
from classify.scores.metrics import MATRIX_CLASSES, confusion_matrix, list_confusion
from classify.search.checkpoint import library_versions
from classify.search.evaluate import evaluate
from classify.search.leaderboard import Result
from classify.search.ranking import Entry, to_json
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from classify.settings.sweep import label
from extract.core.console import log, muted, progress
from extract.core.errors import HeadError

MISTAKES, PAIRS = 100, 12
_TRAINING_SHARES = (1 / 8, 1 / 4, 1 / 2)


class Mistake(NamedTuple):
    """An image that the head classifies wrongly with a high score.

    Attributes:
        row: Its row in the dataset.
        key: Its key.
        truth: Its class in the store.
        answer: The predicted class.
        score: The score of the predicted class, 0 to 1.
    """

    row: int
    key: str
    truth: str
    answer: str
    score: float


class TrainingSize(NamedTuple):
    """Metric that ranks, of a head trained on ``rows`` images of the first split."""

    rows: int
    score: diagnostics.Proportion


@dataclass(frozen=True)
class Analysis:
    """Diagnostics of the best head on the validation images.

    Attributes:
        confusion: (K, K) int64 counts, truth on the first axis; a sparse array.
        classes: Metrics of each class.
        pairs: The pairs of classes that are confused most often.
        positive: The positive class of two; None of more.
        groups: Scores of each group of images; empty without groups.
        roc: Curves of true against false positive rate; see ``curves.class_curves``.
        precision_recall: Curves of precision against recall.
        calibration: Accuracy by score.
        calibration_error: Expected calibration error, 0 to 1.
        mistakes: The mistakes with the highest scores.
        wrong_rows: (E,) int64 rows of the dataset that are classified wrongly.
        size_head: The head that ``sizes`` is about: the best one without epochs, else logistic
            regression; None of a fine-tuned head, and where the head needs features in memory or
            takes fewer classes.
        sizes: Scores of that head by number of training images, fewest first; without the sizes at
            which it cannot be trained.
        maps: The features in two dimensions; empty where they have fewer.
    """

    confusion: Any
    classes: list[diagnostics.ClassMetrics]
    pairs: list[diagnostics.ConfusedPair]
    positive: diagnostics.Positive | None
    groups: list[diagnostics.GroupScore]
    roc: list[Curve]
    precision_recall: list[Curve]
    calibration: list[diagnostics.CalibrationBin]
    calibration_error: float
    mistakes: list[Mistake]
    wrong_rows: NDArray[np.int64]
    size_head: str | None
    sizes: list[TrainingSize]
    maps: list[FeatureMap]

    def to_dict(self, keys: list[str]) -> dict[str, Any]:
        """Return every number as JSON values, with keys in place of row numbers."""
        plain = ["classes", "pairs", "positive", "groups", "roc", "precision_recall"]
        plain += ["calibration", "calibration_error"]
        mistakes = [{k: v for k, v in m._asdict().items() if k != "row"} for m in self.mistakes]
        return {
            **{name: to_json(getattr(self, name)) for name in plain},
            "mistakes": {"count": len(self.wrong_rows), "most_confident": to_json(mistakes)},
            "sized": self.size_head,
            "sizes": to_json(self.sizes),
            "maps": [
                {
                    "method": method,
                    "keys": [keys[row] for row in rows],
                    "x": points[:, 0].tolist(),
                    "y": points[:, 1].tolist(),
                    "explained": explained,
                }
                for method, rows, points, explained in self.maps
            ],
        }


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
    repeats = result.splits[-1].repeat + 1
    return {
        "store": store,
        "fingerprint": dataset.fingerprint(),
        "metric": result.metric,
        "notes": result.notes,
        "left_out": list(dataset.left_out),
        # Fine-tuning uses plain images only.
        "views": asdict(views.spec) if views and not result.finetuned else None,
        "split": {
            "origin": first.origin,
            "folds": len(result.splits) // repeats if first.origin == "fold" else None,
            "repeats": repeats,
            "train": len(first.train),
            "validation": len(rows),
            "test": len(first.test),
            "groups": dataset.groups and len(set(group_names(dataset))),
        },
        "candidates": [
            _describe(entry, y, K, with_confusion=K <= MATRIX_CLASSES or not place)
            for place, entry in enumerate(result.entries)
        ],
        "baseline": to_json(result.baseline),
        "finetuned": result.finetuned and result.finetuned.to_dict(),
        "best": None,
        "test": to_json(result.test),
        "versions": library_versions(entry.spec.head for entry in result.entries),
    }


def _describe(entry: Entry, y: NDArray[np.int64], K: int, with_confusion: bool) -> dict[str, Any]:
    """Return the settings and numbers of a candidate; of many classes only one has confusions."""
    own = entry.evaluation
    confusion = confusion_matrix(y, own.answers[: len(y)], K) if with_confusion else None
    return {
        "name": label(entry.spec),
        "settings": entry.spec.to_dict(),
        "scores": to_json(entry.scores),
        "interval": to_json([entry.low, entry.high]),
        "as_good": entry.as_good,
        "train_accuracy": to_json(own.train_accuracy),
        "epochs": own.epochs,
        "confusion": None if confusion is None else list_confusion(confusion),
        "history": to_json(own.history),
    }


def analyse(dataset: Dataset, result: Result, seed: int = 0) -> Analysis:
    """Analyse the best head of a finished run.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run, with scores.
        seed: Decides the rows of the smaller training sets.

    Returns:
        The analysis. For ``sizes`` a fast head is trained on an eighth, a quarter and half of the
        first split's training rows, and on all of them if it was not a candidate.
    """
    own, rows, scores = result.dataset, result.validation_rows, result.scores
    assert own is not None
    assert scores is not None
    scores = scores[: len(rows)]  # of the first repeat
    y, names, answers = dataset.y[rows], dataset.class_names, scores.argmax(axis=1)
    groups, positive = group_names(dataset)[rows], own.positive_label
    units = units_of(groups)
    confusion = confusion_matrix(y, answers, len(names))
    classes = diagnostics.class_metrics(y, scores, names, units)
    bins, error = diagnostics.calibration(y, scores, units)
    keys, best = [dataset.keys[row] for row in rows], scores.max(axis=1)
    mistakes = [
        Mistake(int(rows[i]), keys[i], names[y[i]], names[answers[i]], float(best[i]))
        for i in diagnostics.confident_mistakes(y, scores, MISTAKES)
    ]
    spec = _size_head(result, own)
    return Analysis(
        confusion=confusion,
        classes=classes,
        pairs=diagnostics.confused_pairs(confusion, names, PAIRS) if len(names) > 2 else [],
        positive=diagnostics.positive_metrics(classes, positive),
        groups=diagnostics.group_scores(y, scores, groups) if dataset.groups else [],
        roc=class_curves(y, scores, classes, "roc_area", positive),
        precision_recall=class_curves(y, scores, classes, "average_precision", positive),
        calibration=bins,
        calibration_error=error,
        mistakes=mistakes,
        wrong_rows=rows[answers != y],
        size_head=label(spec) if spec else None,
        sizes=_training_sizes(own, spec, result, seed) if spec else [],
        maps=map_features(own.X, np.flatnonzero(dataset.split != TEST)),
    )


def _size_head(result: Result, dataset: Dataset) -> HeadSpec | None:
    """Return the head to train on fewer rows: the best one without epochs, which is fast."""
    layer = result.best.spec.layer
    specs = (entry.spec for entry in result.entries if entry.spec.layer == layer)
    fast = (spec for spec in specs if spec.head not in KERAS_HEADS)
    spec = next(fast, HeadSpec("logistic", layer=layer))
    too_large = isinstance(dataset.X, StoredRows) and needs_memory(spec, dataset.X.shape[1:])
    crowded = has_too_many_classes(spec, len(dataset.y), len(dataset.class_names))
    return None if result.finetuned or too_large or crowded else spec


def _training_sizes(
    dataset: Dataset, spec: HeadSpec, result: Result, seed: int
) -> list[TrainingSize]:
    """Evaluate a head trained on parts of the first split's training rows, and on all of them."""
    split = result.splits[0]
    rows, metric, trained = split.validation, result.metric, []
    # Without folds it is on the leaderboard, trained on all rows.
    full = [e.evaluation for e in result.entries if e.spec == spec and len(result.splits) == 1]
    parts = subsets(dataset.y[split.train], seed)
    parts += [] if full else [np.arange(len(split.train))]
    with progress(len(parts), "fit", label="fewer images") as bar, muted():
        for part in parts:
            smaller = replace(split, train=split.train[part])
            try:
                ((_, evaluation),) = evaluate(dataset, [spec], [smaller])
            except HeadError as error:
                log.debug("not trained on %d images: %s", len(part), error)
                continue
            trained.append((len(part), evaluation))
            bar.update(1)
    trained += [(len(split.train), known) for known in full]
    y, groups, positive = dataset.y[rows], group_names(dataset)[rows], dataset.positive_label
    comparison, sizes = Comparison(y, len(dataset.class_names), groups, seed, positive), []
    for count, own in trained:
        values = comparison.values(metric, own.answers, own.true_scores, own.areas)
        if np.isfinite(values).all():
            score = diagnostics.Proportion(
                float(values.mean()), *comparison.interval(metric, values)
            )
            sizes.append(TrainingSize(count, score))
    return sizes


def subsets(y: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Draw growing subsets of the rows; each holds the one before it and every class.

    Args:
        y: (A,) classes.
        seed: Decides the draw.

    Returns:
        Increasing positions of about an eighth, a quarter and half of each class; without subsets
        of fewer than two rows per class on average.
    """
    generator = np.random.default_rng(seed)
    members = [generator.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    drawn: list[NDArray[np.int64]] = []
    for share in _TRAINING_SHARES:
        places = np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in members])
        fewest = max(2 * len(members), len(drawn[-1]) + 1 if drawn else 0)
        if fewest <= len(places) < len(y):
            drawn.append(np.sort(places))
    return drawn
