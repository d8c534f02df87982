"""Fit candidates on one split and measure them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from classify.config import HeadSpec
from classify.dataset import Dataset
from classify.estimators import LogisticHead
from classify.heads import DenseHead
from classify.metrics import Metrics, measure
from classify.splits import Split

# Features and classes.
_Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


class Head(Protocol):
    """What every head can do; ``tests/test_heads.py`` holds each of them to it."""

    history: dict[str, list[float]]

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.int64],
        X_validation: NDArray[np.float32],
        y_validation: NDArray[np.int64],
    ) -> "Head":
        """Train on (X, y)."""

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.floating]:
        """Score each class for each row, (N, K)."""

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""

    def save(self, folder: Path) -> None:
        """Write the head into a folder."""


# By HeadSpec.head; what loads a saved head of that kind.
HEADS: Mapping[str, Callable[[HeadSpec], Head]] = {"dense": DenseHead, "logistic": LogisticHead}
LOADERS: Mapping[str, Callable[[Path], Head]] = {
    "dense": DenseHead.load,
    "logistic": LogisticHead.load,
}


@dataclass(frozen=True)
class Result:
    """One trained candidate and how well it does.

    Attributes:
        spec: Its settings.
        head: The head itself.
        train: Metrics on the training rows, without dropout.
        validation: Metrics on the validation rows.
        seconds: Time the fit took, the first one's loading of its library included.
    """

    spec: HeadSpec
    head: Head
    train: Metrics
    validation: Metrics
    seconds: float


@dataclass(frozen=True)
class Run:
    """What training some candidates on one split has shown.

    Attributes:
        split: Which rows trained and which judged.
        results: One a candidate, in their order.
        chosen: The result with the highest validation accuracy.
        test: Metrics of the chosen head on the test rows; None where there are none.
    """

    split: Split
    results: list[Result]
    chosen: Result
    test: Metrics | None

    def table(self) -> str:
        """Lay out the results, a line a head, and the test of the chosen one."""
        lines = [
            f"{'':<10}{'training':>18}{'validation':>20}",
            f"{'head':<10}{'accuracy':>10}{'loss':>8}"
            f"{'accuracy':>12}{'loss':>8}{'macro F1':>10}{'seconds':>9}",
        ]
        lines += [
            f"{result.spec.head:<10}{result.train.accuracy:>10.4f}{result.train.loss:>8.4f}"
            f"{result.validation.accuracy:>12.4f}{result.validation.loss:>8.4f}"
            f"{result.validation.macro_f1:>10.4f}{result.seconds:>9.1f}"
            for result in self.results
        ]
        if self.test:
            lines.append(
                f"test of {self.chosen.spec.head}: accuracy {self.test.accuracy:.4f}, "
                f"loss {self.test.loss:.4f}, macro F1 {self.test.macro_f1:.4f} "
                f"({self.test.rows} pictures)"
            )
        return "\n".join(lines)


def train(dataset: Dataset, split: Split, candidates: Sequence[HeadSpec]) -> Run:
    """Fit every candidate on the training rows, choose on the validation rows, test once.

    Args:
        dataset: The labelled rows.
        split: Which of them train, judge and test.
        candidates: The heads to train, one or more.

    Returns:
        Every candidate's result and the chosen one: the highest validation accuracy, and between
        equals the lowest validation loss.

    Raises:
        HeadError: A head's loss did not stay finite.
    """
    fit_on = dataset.X[split.train], dataset.y[split.train]
    judge_on = dataset.X[split.validation], dataset.y[split.validation]
    results = [_fit(spec, fit_on, judge_on) for spec in candidates]
    chosen = min(results, key=lambda r: (-r.validation.accuracy, r.validation.loss))
    # The test rows are for the chosen head only: rows that help to choose no longer test.
    test = None
    if len(split.test):
        test = measure(dataset.y[split.test], chosen.head.predict_proba(dataset.X[split.test]))
    return Run(split, results, chosen, test)


def _fit(spec: HeadSpec, fit_on: _Rows, judge_on: _Rows) -> Result:
    start = time.perf_counter()
    head = HEADS[spec.head](spec).fit(*fit_on, *judge_on)
    seconds = time.perf_counter() - start
    (X, y), (X_validation, y_validation) = fit_on, judge_on
    return Result(
        spec=spec,
        head=head,
        train=measure(y, head.predict_proba(X)),
        validation=measure(y_validation, head.predict_proba(X_validation)),
        seconds=seconds,
    )
