"""Metrics of scores against true classes; independent of heads and files."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Labels
from extract.core.errors import count_of

# Lower bound of the score of the true class in every loss.
LOWEST = 1e-7
# A confusion matrix of more classes is listed cell by cell: nearly all of them are zero.
MATRIX_CLASSES = 200


class Metrics(NamedTuple):
    """Metrics of scores against true classes.

    Attributes:
        rows: Number of rows.
        accuracy: Share of rows whose true class has the highest score, 0 to 1.
        loss: Mean negative natural logarithm of the score of the true class; 0 is best.
        macro_f1: Mean F1 of the classes that occur as true class or as answer, 0 to 1.
        confusion: Rows by class and answer, as ``list_confusion`` returns them.
    """

    rows: int
    accuracy: float
    loss: float
    macro_f1: float
    confusion: list[list[int]]

    def __repr__(self) -> str:
        shown = {"accuracy": self.accuracy, "loss": self.loss, "macro F1": self.macro_f1}
        scores = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        return f"{scores} ({count_of(self.rows, 'image')})"


def measure(y: Labels, scores: NDArray[np.floating]) -> Metrics:
    """Measure scores against the true classes.

    Args:
        y: (N,) true classes, 0 to K - 1; at least one row.
        scores: (N, K) scores, 0 to 1, each row summing to 1.

    Returns:
        The metrics. Of equal scores the lower class is the answer, as in ``argmax``.
    """
    confusion = confusion_matrix(y, scores.argmax(axis=1), scores.shape[1])
    accuracy = float(confusion.trace() / len(y))
    counts = list_confusion(confusion)
    return Metrics(len(y), accuracy, log_loss(y, scores), macro_f1(confusion), counts)


def confusion_matrix(y: Labels, answers: Labels, classes: int) -> Any:
    """Count the rows by true class (first axis) and answer (second axis).

    Args:
        y: (N,) true classes, 0 to ``classes`` - 1.
        answers: (N,) classes that are answered, likewise.
        classes: K.

    Returns:
        (K, K) int64 counts, a sparse array: of 10,000 classes a dense one has 800 MB.
    """
    from scipy.sparse import coo_array

    counts = coo_array((np.ones(len(y), np.int64), (y, answers)), shape=(classes, classes))
    return counts.tocsr()


def list_confusion(confusion: Any) -> list[list[int]]:
    """Return a confusion matrix for JSON.

    Args:
        confusion: From ``confusion_matrix``.

    Returns:
        K rows of K counts; of more than ``MATRIX_CLASSES`` classes the cells that are not zero,
        each as [true class, answer, count].
    """
    if confusion.shape[0] <= MATRIX_CLASSES:
        return list(confusion.toarray().tolist())
    cells = confusion.tocoo()
    return list(np.stack([cells.row, cells.col, cells.data], axis=1).tolist())


def log_loss(y: Labels, scores: NDArray[np.floating]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    Scores below ``LOWEST`` count as ``LOWEST``: one row costs at most 16 nats.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores, 0 to 1.

    Returns:
        0 or more.
    """
    true = scores[np.arange(len(y)), y].clip(LOWEST, 1)
    return float(-np.log(true, dtype=np.float64).mean())


def macro_f1(confusion: Any) -> float:
    """Return the mean F1 of the classes that occur as true class or as answer.

    Args:
        confusion: From ``confusion_matrix``.

    Returns:
        0 to 1.
    """
    # F1 = 2 TP / (2 TP + FP + FN); a row and a column of a class sum to the denominator.
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = occurs > 0
    return float((2 * confusion.diagonal()[seen] / occurs[seen]).mean())
