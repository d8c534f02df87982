"""The analysis of the best head of a run, for ``result.json`` and the report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.splits import TEST
from classify.diagnosis import diagnostics
from classify.diagnosis.comparison import HeadPair, compare_heads
from classify.diagnosis.curves import Curve, class_curves, coverage_curve
from classify.diagnosis.projection import FeatureMap, start_maps
from classify.diagnosis.shift import Shift, compare_splits, find_leaks
from classify.diagnosis.training_sizes import TrainingSizes, train_on_fewer
from classify.labelling.issues import LabelIssues, find_label_issues
from classify.scores.areas import class_thresholds
from classify.scores.metrics import confusion_matrix
from classify.scores.operating_points import (
    Coverage,
    Sensitivity,
    Thresholds,
    count_thresholds,
    coverage,
    sensitivities,
)
from classify.search.leaderboard import Result
from classify.search.ranking import to_json

MISTAKES, PAIRS = 500, 12


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
        thresholds: Images at each threshold of a slider.
        sensitivities: Of two classes, sensitivity for the positive one by specificity.
        calibration: Accuracy by score.
        calibration_error: Expected calibration error, 0 to 1.
        mistakes: The mistakes with the highest scores.
        wrong_rows: (E,) int64 rows of the dataset that are classified wrongly.
        fewer_images: Scores of a fast head by the number of its training images.
        maps: The features in two dimensions; empty where they have fewer.
        label_issues: The training and validation images whose label may be wrong.
        comparisons: Pairs of heads on the same images.
        shift: Whether training and validation images look different; None where it is not tested.
        leaks: Lines about images with copies or near-duplicates on another side of the division.
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
    thresholds: Thresholds
    sensitivities: list[Sensitivity]
    calibration: list[diagnostics.CalibrationBin]
    calibration_error: float
    mistakes: list[diagnostics.Mistake]
    wrong_rows: NDArray[np.int64]
    fewer_images: TrainingSizes
    maps: list[FeatureMap]
    label_issues: LabelIssues
    comparisons: list[HeadPair]
    shift: Shift | None
    leaks: list[str]

    def to_dict(self, keys: list[str]) -> dict[str, Any]:
        """Return every number as JSON values, with keys in place of row numbers."""
        plain = ["classes", "pairs", "positive", "groups", "roc", "precision_recall"]
        plain += ["coverage", "coverage_curve", "thresholds", "sensitivities"]
        plain += ["calibration", "calibration_error"]
        mistakes = [{k: v for k, v in m._asdict().items() if k != "row"} for m in self.mistakes]
        return {
            **{name: to_json(getattr(self, name)) for name in plain},
            "mistakes": {"count": len(self.wrong_rows), "most_confident": to_json(mistakes)},
            "label_issues": self.label_issues.to_dict(),
            "comparisons": [pair.to_dict(keys) for pair in self.comparisons],
            "shift": to_json(self.shift),
            "leaks": self.leaks,
            "sized": self.fewer_images.head,
            "sized_on": self.fewer_images.rows,
            "sizes": to_json(self.fewer_images.sizes),
            "gain": to_json(self.fewer_images.gain),
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


def analyse(dataset: Dataset, result: Result) -> Analysis:
    """Analyse the best head of a finished run.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run, with scores.

    Returns:
        The analysis.
    """
    own, rows, scores, seed = result.dataset, result.validation_rows, result.scores, result.seed
    assert own is not None
    assert scores is not None
    finish_maps = start_maps(own.X, np.flatnonzero(dataset.split != TEST))
    scores = scores[: len(rows)]  # of the first repeat
    y, names, answers = dataset.y[rows], dataset.class_names, scores.argmax(axis=1)
    units, positive = dataset.grouping.numbers[rows], own.positive_label
    confusion = confusion_matrix(y, answers, len(names))
    thresholds = class_thresholds(y, scores)
    classes = diagnostics.class_metrics(y, scores, names, units, thresholds)
    bins, error = diagnostics.calibration(y, scores, units)
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
        thresholds=count_thresholds(y, scores, positive),
        sensitivities=sensitivities(y, scores, positive, units, seed),
        calibration=bins,
        calibration_error=error,
        mistakes=diagnostics.describe_mistakes(dataset, rows, scores, MISTAKES),
        wrong_rows=rows[answers != y],
        fewer_images=train_on_fewer(own, result, seed),
        label_issues=find_label_issues(own, seed=seed),
        comparisons=compare_heads(dataset, result),
        shift=compare_splits(own, result.splits[0], seed),
        leaks=find_leaks(own, result.splits),
        maps=finish_maps(),  # last: all else runs beside t-SNE
    )
