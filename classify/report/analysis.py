"""The numbers of a run and the analysis of its best head, for ``result.json`` and the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.samples import SHARES, sample, subsets
from classify.data.splits import TEST
from classify.labelling.issues import LabelIssues, find_label_issues
from classify.report import diagnostics
from classify.report.curves import Curve, class_curves, coverage_curve
from classify.report.projection import FeatureMap, map_features
from classify.scores.areas import class_thresholds
from classify.scores.intervals import Comparison, Proportion
from classify.scores.metrics import MATRIX_CLASSES, confusion_matrix, list_confusion
from classify.scores.operating_points import Coverage, Sensitivity, coverage, sensitivities
from classify.search.checkpoint import library_versions
from classify.search.evaluate import evaluate, training_sample
from classify.search.feasibility import fast_head
from classify.search.leaderboard import Result
from classify.search.ranking import Entry, to_json
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from classify.stored.out_of_core import Labels
from extract.core.console import log, muted
from extract.core.errors import HeadError
from extract.display.progress import progress

MISTAKES, PAIRS = 100, 12
# What training on fewer rows may take, on the usual machine: the report is the same on each one.
_SIZES_SECONDS = 2.0
# Validation rows that heads trained on fewer rows are scored on.
_SIZES_ROWS = 10_000


class TrainingSize(NamedTuple):
    """Metric that ranks, of a head trained on ``rows`` images of the first split."""

    rows: int
    score: Proportion


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
        coverage: Share and accuracy of the images with a least score.
        coverage_curve: Accuracy against that share.
        sensitivities: Of two classes, sensitivity for the positive one by specificity.
        calibration: Accuracy by score.
        calibration_error: Expected calibration error, 0 to 1.
        mistakes: The mistakes with the highest scores.
        wrong_rows: (E,) int64 rows of the dataset that are classified wrongly.
        size_head: The head that ``sizes`` is about: the best one without epochs that is fast, else
            logistic regression; None of a fine-tuned head, and where there is none.
        size_rows: The validation images that ``sizes`` is about: of many a random sample.
        sizes: Scores of that head by number of training images, fewest first; without the sizes at
            which it cannot be trained.
        maps: The features in two dimensions; empty where they have fewer.
        label_issues: The training and validation images whose label may be wrong.
    """

    confusion: Any
    classes: list[diagnostics.ClassMetrics]
    pairs: list[diagnostics.ConfusedPair]
    positive: diagnostics.Positive | None
    groups: list[diagnostics.GroupScore]
    roc: list[Curve]
    precision_recall: list[Curve]
    coverage: list[Coverage]
    coverage_curve: Curve
    sensitivities: list[Sensitivity]
    calibration: list[diagnostics.CalibrationBin]
    calibration_error: float
    mistakes: list[diagnostics.Mistake]
    wrong_rows: NDArray[np.int64]
    size_head: str | None
    size_rows: int
    sizes: list[TrainingSize]
    maps: list[FeatureMap]
    label_issues: LabelIssues

    def to_dict(self, keys: list[str]) -> dict[str, Any]:
        """Return every number as JSON values, with keys in place of row numbers."""
        plain = ["classes", "pairs", "positive", "groups", "roc", "precision_recall"]
        plain += ["coverage", "coverage_curve", "sensitivities"]
        plain += ["calibration", "calibration_error"]
        mistakes = [{k: v for k, v in m._asdict().items() if k != "row"} for m in self.mistakes]
        return {
            **{name: to_json(getattr(self, name)) for name in plain},
            "mistakes": {"count": len(self.wrong_rows), "most_confident": to_json(mistakes)},
            "label_issues": self.label_issues.to_dict(),
            "sized": self.size_head,
            "sized_on": self.size_rows,
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


def analyse(dataset: Dataset, result: Result, seed: int = 0) -> Analysis:
    """Analyse the best head of a finished run.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run, with scores.
        seed: Decides the rows of the smaller training sets.

    Returns:
        The analysis. For ``sizes`` a fast head is trained on an eighth, a quarter and half of the
        first split's training rows, or smaller shares of very many.
    """
    own, rows, scores = result.dataset, result.validation_rows, result.scores
    assert own is not None
    assert scores is not None
    scores = scores[: len(rows)]  # of the first repeat
    y, names, answers = dataset.y[rows], dataset.class_names, scores.argmax(axis=1)
    units, positive = dataset.grouping.numbers[rows], own.positive_label
    confusion = confusion_matrix(y, answers, len(names))
    thresholds = class_thresholds(y, scores)
    classes = diagnostics.class_metrics(y, scores, names, units, thresholds)
    bins, error = diagnostics.calibration(y, scores, units)
    spec, factor = (None, 1.0) if result.finetuned else _size_head(result, own)
    sized_on = sample(result.splits[0].validation, _SIZES_ROWS, seed)
    return Analysis(
        confusion=confusion,
        classes=classes,
        pairs=diagnostics.confused_pairs(confusion, names, PAIRS) if len(names) > 2 else [],
        positive=diagnostics.positive_metrics(classes, positive),
        groups=diagnostics.group_scores(y, scores, dataset.grouping.names[rows])
        if dataset.groups
        else [],
        roc=class_curves(y, scores, classes, thresholds, "roc_area", positive),
        precision_recall=class_curves(
            y, scores, classes, thresholds, "average_precision", positive
        ),
        coverage=coverage(y, scores, units),
        coverage_curve=coverage_curve(y, scores),
        sensitivities=sensitivities(y, scores, positive, units, seed),
        calibration=bins,
        calibration_error=error,
        mistakes=diagnostics.describe_mistakes(dataset, rows, scores, MISTAKES),
        wrong_rows=rows[answers != y],
        size_head=_label(spec, result) if spec else None,
        size_rows=len(sized_on),
        sizes=_training_sizes(own, spec, result, sized_on, factor, seed) if spec else [],
        maps=map_features(own.X, np.flatnonzero(dataset.split != TEST)),
        label_issues=find_label_issues(own, seed=seed),
    )


def _size_head(result: Result, dataset: Dataset) -> tuple[HeadSpec | None, float]:
    """Return the head to train on fewer rows, the best one that is fast, and the largest share."""
    layer = result.best.spec.layer
    specs = [e.spec for e in result.entries if e.spec.layer == layer and not e.spec.epochs]
    return fast_head(
        dataset,
        specs or [HeadSpec("logistic", layer=layer)],
        replace(result.splits[0], validation=result.splits[0].validation[:_SIZES_ROWS]),
        SHARES,
        _SIZES_SECONDS,
    )


def _label(spec: HeadSpec, result: Result) -> str:
    """Return the name of a head as the leaderboard has it."""
    return next((entry.label for entry in result.entries if entry.spec == spec), label(spec))


def _training_sizes(
    dataset: Dataset, spec: HeadSpec, result: Result, rows: Labels, factor: float, seed: int
) -> list[TrainingSize]:
    """Evaluate a head trained on parts of the first split's training rows, and on all of them."""
    split, trained = result.splits[0], []
    # Without folds it is on the leaderboard, trained on all rows.
    full = [e.evaluation for e in result.entries if e.spec == spec and len(result.splits) == 1]
    parts = subsets(dataset.y[split.train], seed, [factor * share for share in SHARES])
    parts += [] if full or factor < 1 else [np.arange(len(split.train))]
    with progress(len(parts), "fit", label="fewer images") as bar, muted():
        for part in parts:
            smaller = replace(split, train=split.train[part], validation=rows)
            try:
                ((_, own),) = evaluate(dataset, [spec], [smaller])
            except HeadError as error:
                log.debug("not trained on %d images: %s", len(part), error)
                continue
            trained.append((len(part), (own.answers, own.true_scores, own.areas)))
            bar.update(1)
    kept = np.isin(split.validation, rows)
    for own in full:
        results = own.answers[kept], own.true_scores[kept], own.areas[:, kept]
        trained.append((len(split.train), results))
    y, units, positive = dataset.y[rows], dataset.grouping.numbers[rows], dataset.positive_label
    comparison, sizes = Comparison(y, len(dataset.class_names), units, seed, positive), []
    for count, results in trained:
        values = comparison.values(result.metric, *results)
        if np.isfinite(values).all():
            interval = comparison.interval(result.metric, values)
            sizes.append(TrainingSize(count, Proportion(float(values.mean()), *interval)))
    return sizes
