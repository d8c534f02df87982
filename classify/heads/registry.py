"""All heads by name, and a head together with the transform in front of it."""

import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from classify.data.preprocessing import Floats, Transform
from classify.heads import keras_head, linear_head, sklearn_head
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from classify.stored.out_of_core import Features, Rows, iter_chunks
from classify.stored.views import FoldData

LINEAR_HEADS = ("logistic", "ridge", "lda")
# These can be fitted out-of-core, from a matrix of products of this many features at most (134 MB).
SUMMED_HEADS, MOST_SUMMED = ("ridge", "lda"), 4096
# Fewer rows are scored at once, however many classes there are.
_FEW_ROWS = 1024
# The file of a saved head; which one depends on its kind.
FILES = {linear_head.FILE, sklearn_head.FILE, keras_head.FILE}


class Head(Protocol):
    """The contract of every head; ``tests/test_heads_contract.py`` checks it.

    Attributes:
        history: Curves of the fit by name; empty for heads without epochs.
        failed: Why the head cannot be used, or None.
    """

    history: dict[str, list[float]]
    failed: str | None

    def __init__(self, spec: HeadSpec) -> None:
        """Create an untrained head."""

    def fit(self, rows: FoldData) -> "Head":
        """Train and return the trained head; only Keras heads use the validation rows."""

    def predict_proba(self, X: Rows) -> Floats:
        """Score each class for each row, (N, K)."""

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Return whether the head takes rows of this shape and scores this many classes."""

    def save(self, folder: Path) -> None:
        """Write the head into a folder."""

    @classmethod
    def load(cls, folder: Path, head: str) -> "Head":
        """Read a saved head of this name."""


def head_class(name: str) -> type[Head]:
    """Return the class of a head by its name in ``HeadSpec.head``; none loads Keras."""
    if name in KERAS_HEADS:
        return keras_head.DenseHead
    return linear_head.LinearHead if name in LINEAR_HEADS else sklearn_head.SklearnHead


class FittedHead(NamedTuple):
    """A trained head and the transform in front of it.

    Attributes:
        transform: Fitted on the head's own training rows.
        head: The head; it takes transformed rows.
    """

    transform: Transform
    head: Head

    def predict_proba(self, X: Features) -> Floats:
        """Score each class for each row of features as they are stored, (N, K)."""
        rows, score = self.transform.apply(X), self.head.predict_proba
        if len(rows) <= _FEW_ROWS:
            return np.concatenate([score(chunk) for _, chunk in iter_chunks(rows)])
        _, first = next(iter_chunks(rows[:1]))
        row = score(first)
        scores = np.empty((len(rows), row.shape[1]), row.dtype)
        for part, chunk in iter_chunks(rows, row.shape[1]):
            scores[part] = score(chunk)
        return scores

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Return whether it takes rows of this shape and scores this many classes."""
        row = self.transform.shape_after(shape)
        return row is not None and self.head.fits(row, classes)

    def save(self, folder: Path) -> None:
        """Write both into a folder."""
        self.transform.save(folder)
        self.head.save(folder)

    @classmethod
    def load(cls, folder: Path, name: str) -> "FittedHead":
        """Read a saved head of this name and its transform."""
        return cls(Transform.load(folder), head_class(name).load(folder, name))


def needs_memory(spec: HeadSpec, shape: tuple[int, ...]) -> str:
    """Name the setting that needs features in memory; empty if the head can be fitted without."""
    if any(step.startswith("pca=") for step in spec.transform or ()):
        return "pca"
    width = math.prod(shape)
    if spec.head in SUMMED_HEADS:
        return f"{spec.head} of {width} features" if width > MOST_SUMMED else ""
    return "" if spec.head in KERAS_HEADS else spec.head
