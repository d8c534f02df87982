"""Scores and the truth -> numbers. Pure: nothing here knows of heads or files."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What a score of the true class counts for at least, in every loss.
LOWEST = 1e-7


class Metrics(NamedTuple):
    """How well scores agree with the truth.

    Attributes:
        rows: How many rows were looked at.
        accuracy: Share of rows whose highest score is at their own class, 0 to 1.
        loss: Mean negative natural logarithm of the score of the true class; 0 is best.
        macro_f1: Mean F1 of the classes that occur in the truth or in the answers, 0 to 1.
        confusion: (K, K) counts; ``confusion[t][p]`` rows are of class t and were taken for p.
    """

    rows: int
    accuracy: float
    loss: float
    macro_f1: float
    confusion: list[list[int]]


def measure(y: NDArray[np.int64], scores: NDArray[np.floating]) -> Metrics:
    """Measure scores against the truth.

    Args:
        y: (N,) true classes, 0 to K - 1; at least one row.
        scores: (N, K) scores, 0 to 1, each row summing to 1.

    Returns:
        The metrics. Equal scores count for the lower class, as ``argmax`` has it.
    """
    confusion = confusion_matrix(y, scores.argmax(axis=1), scores.shape[1])
    return Metrics(
        rows=len(y),
        accuracy=float(np.trace(confusion) / len(y)),
        loss=log_loss(y, scores),
        macro_f1=macro_f1(confusion),
        confusion=confusion.tolist(),
    )


def confusion_matrix(
    y: NDArray[np.int64], answers: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count the rows of each true class (first axis) by the class answered (second).

    Args:
        y: (N,) true classes, 0 to ``classes`` - 1.
        answers: (N,) answered classes, likewise.
        classes: K.

    Returns:
        (K, K) int64 counts that sum to N.
    """
    counts = np.bincount(y * classes + answers, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def log_loss(y: NDArray[np.int64], scores: NDArray[np.floating]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    A score of 0 would cost infinitely much: ``LOWEST`` bounds it, at 16 nats, whatever the type.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.

    Returns:
        0 or more.
    """
    true = scores[np.arange(len(y)), y].clip(LOWEST, 1)
    return float(-np.log(true, dtype=np.float64).mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 of the classes that occur in the truth or in the answers.

    Args:
        confusion: (K, K) counts, truth on the first axis.

    Returns:
        0 to 1.
    """
    # F1 = 2 TP / (2 TP + FP + FN), and the rows and columns of a class sum to just that.
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = occurs > 0
    return float((2 * np.diag(confusion)[seen] / occurs[seen]).mean())
