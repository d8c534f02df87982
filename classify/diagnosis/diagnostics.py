"""Diagnostics of one head, computed from its scores and the true classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.scores.areas import Thresholds, iter_classes
from classify.scores.calibration import calibration_bins, calibration_error
from classify.scores.intervals import Proportion, proportion
from classify.scores.pseudo_values import reduce_scores

Labels = NDArray[np.int64]
Scores = NDArray[np.floating]


class ClassMetrics(NamedTuple):
    """How well one class is told from all others.

    Attributes:
        name: The class.
        rows: Validation images of the class.
        answered: Images that the head predicts as the class.
        precision: Proportion of ``answered`` that are of the class.
        recall: Proportion of ``rows`` that are predicted as the class.
        f1: Harmonic mean of precision and recall.
        roc_area: Area under the ROC curve of the class against all others; None unless some images
            are of the class and some are not.
        average_precision: Average precision of the class; None in the same cases.
    """

    name: str
    rows: int
    answered: int
    precision: Proportion
    recall: Proportion
    f1: Proportion
    roc_area: float | None
    average_precision: float | None


class CalibrationBin(NamedTuple):
    """Images whose highest score lies in one tenth of 0 to 1.

    Attributes:
        rows: Number of images, 1 or more.
        score: Mean of their highest scores.
        accuracy: Proportion of them that are classified correctly.
    """

    rows: int
    score: float
    accuracy: Proportion


class Positive(NamedTuple):
    """The positive class of two.

    Attributes:
        name: The class.
        sensitivity: Its recall.
        specificity: The recall of the other class.
    """

    name: str
    sensitivity: Proportion
    specificity: Proportion


class GroupScore(NamedTuple):
    """Accuracy and mean loss of the ``rows`` images of a group."""

    name: str
    rows: int
    accuracy: float
    loss: float


class ConfusedPair(NamedTuple):
    """``rows`` of the ``of`` images of the class ``truth`` are predicted as ``answer``.

    In all, ``answered`` images are predicted as ``answer``.
    """

    truth: str
    answer: str
    rows: int
    of: int
    answered: int


def class_metrics(
    y: Labels,
    scores: Scores,
    names: tuple[str, ...],
    units: Labels,
    thresholds: Sequence[Thresholds | None],
) -> list[ClassMetrics]:
    """Compute the metrics of each class against all others.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        names: K names.
        units: (N,) unit of each row: its group, or itself.
        thresholds: From ``areas.class_thresholds``.

    Returns:
        One per class, in the order of ``names``.
    """
    answers, classes = scores.argmax(axis=1), []
    for label, truth, _ in iter_classes(y, scores):
        answered = answers == label
        rows, hits = truth | answered, truth & answered
        # F1 = 2 J / (1 + J), where J = hits / (true or predicted) is a proportion.
        jaccard = proportion(hits[rows], units[rows])
        f1 = Proportion(*(part and 2 * part / (1 + part) for part in jaccard))
        areas: tuple[float | None, ...] = (None, None)
        if counts := thresholds[label]:
            areas = counts.area(), counts.average_precision()
        precision, recall = (proportion(hits[part], units[part]) for part in (answered, truth))
        sizes = int(truth.sum()), int(answered.sum())
        classes.append(ClassMetrics(names[label], *sizes, precision, recall, f1, *areas))
    return classes


def positive_metrics(classes: list[ClassMetrics], positive: int | None) -> Positive | None:
    """Return the metrics of the positive class of two; None of more classes."""
    if positive is None:
        return None
    return Positive(classes[positive].name, classes[positive].recall, classes[1 - positive].recall)


def calibration(y: Labels, scores: Scores, units: Labels) -> tuple[list[CalibrationBin], float]:
    """Compare the scores of the predicted classes with the accuracy, in ten bins.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.
        units: (N,) unit of each row.

    Returns:
        The bins that have rows, and the expected calibration error.
    """
    places, counts, sums, _ = calibration_bins(y, scores)
    right = scores.argmax(axis=1) == y
    bins = []
    for place in np.flatnonzero(counts):
        rows = places == place
        accuracy = proportion(right[rows], units[rows])
        bins.append(CalibrationBin(int(rows.sum()), float(sums[place] / rows.sum()), accuracy))
    return bins, calibration_error(y, scores)


def group_scores(y: Labels, scores: Scores, groups: NDArray[np.object_]) -> list[GroupScore]:
    """Score the images of each group, the lowest accuracy first, then the highest loss.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        groups: (N,) names of groups.
    """
    names, units = np.unique(groups.astype(str), return_inverse=True)
    answers, true_scores = reduce_scores(y, scores)
    rows = np.bincount(units)
    accuracy = np.bincount(units, answers == y) / rows
    loss = np.bincount(units, -np.log(true_scores)) / rows
    lines = zip(names.tolist(), rows.tolist(), accuracy.tolist(), loss.tolist(), strict=True)
    return sorted((GroupScore(*line) for line in lines), key=lambda g: (g.accuracy, -g.loss))


def confused_pairs(confusion: Any, names: tuple[str, ...], most: int) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often.

    Args:
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        names: K names.
        most: Largest number of pairs.

    Returns:
        The pairs that occur, most rows first.
    """
    cells, (answered, rows) = confusion.tocoo(), (confusion.sum(axis=i).tolist() for i in (0, 1))
    pairs = np.stack([cells.row, cells.col, cells.data], axis=1)[cells.row != cells.col]
    order = np.argsort(-pairs[:, 2], kind="stable")[:most]
    return [
        ConfusedPair(names[truth], names[answer], count, rows[truth], answered[answer])
        for truth, answer, count in pairs[order].tolist()
    ]


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


def describe_mistakes(dataset: Dataset, rows: Labels, scores: Scores, most: int) -> list[Mistake]:
    """Return the mistakes among some rows with the highest scores, at most ``most``.

    Args:
        dataset: The rows that were trained on.
        rows: (N,) some of them.
        scores: (N, K) their scores.
        most: Mistakes to return.
    """
    y, names, answers = dataset.y[rows], dataset.class_names, scores.argmax(axis=1)
    return [
        Mistake(
            int(rows[i]),
            dataset.keys[rows[i]],
            names[y[i]],
            names[answers[i]],
            float(scores[i, answers[i]]),
        )
        for i in confident_mistakes(y, scores, most)
    ]


def confident_mistakes(y: Labels, scores: Scores, most: int) -> NDArray[np.int64]:
    """Return the positions of at most ``most`` wrong predictions, the highest score first.

    Scores that differ after six decimals are equal: their order would depend on the threads.
    """
    wrong = np.flatnonzero(scores.argmax(axis=1) != y)
    return wrong[np.argsort(-scores.max(axis=1)[wrong].round(6), kind="stable")][:most]
