"""Every head by name: how it is made, loaded and fitted behind a transform."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, iter_chunks
from classify.data.preprocessing import Transform
from classify.heads import keras_head, linear_head, sklearn_head
from classify.heads.keras_head import DenseHead
from classify.heads.linear_head import LinearHead
from classify.heads.sklearn_head import SklearnHead
from classify.settings.head_spec import KERAS_HEADS, HeadSpec

LINEAR_HEADS = ("logistic", "ridge", "lda")

# These need the products of all features with each other, and those of so many, 134 MB.
SUMMED_HEADS, MOST_SUMMED = ("ridge", "lda"), 4096

FILES = {sklearn_head.FILE, linear_head.LINEAR_FILE, keras_head.FILE}

Rows = NDArray[np.float32]

Labels = NDArray[np.int64]


class Head(Protocol):
    """What every head can do; ``tests/test_heads_contract.py`` holds each of them to it."""

    history: dict[str, list[float]]
    failed: str | None

    def fit(self, X: Rows, y: Labels, X_validation: Rows, y_validation: Labels) -> "Head":
        """Train on (X, y)."""

    def predict_proba(self, X: Rows) -> NDArray[np.floating]:
        """Score each class for each row, (N, K)."""

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""

    def save(self, folder: Path) -> None:
        """Write the head into a folder."""


def _kind(name: str) -> type[DenseHead] | type[LinearHead] | type[SklearnHead]:
    if name in KERAS_HEADS:
        return DenseHead
    return LinearHead if name in LINEAR_HEADS else SklearnHead


def _loader(name: str) -> Callable[[Path], Head]:
    if name in KERAS_HEADS:
        return DenseHead.load
    kind = LinearHead if name in LINEAR_HEADS else SklearnHead
    return lambda folder: kind.load(folder, name)


# By HeadSpec.head; what loads a saved head of that kind.
_NAMES = (*KERAS_HEADS, *LINEAR_HEADS, "svm", "knn", "forest", "boosting", "naive_bayes")

HEADS: Mapping[str, Callable[[HeadSpec], Head]] = {name: _kind(name) for name in _NAMES}

LOADERS: Mapping[str, Callable[[Path], Head]] = {name: _loader(name) for name in _NAMES}


class FittedHead(NamedTuple):
    """A trained head and what stands in front of it.

    Attributes:
        transform: Fitted on the head's own training rows.
        head: The head; it takes transformed rows.
    """

    transform: Transform
    head: Head

    def predict_proba(self, X: Features) -> NDArray[np.floating]:
        """Score each class for each row of features as they are stored, (N, K)."""
        found = [self.head.predict_proba(rows) for _, rows in iter_chunks(self.transform.apply(X))]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether it takes rows of this shape and scores this many classes."""
        try:
            row = self.transform.apply(np.zeros((1, *shape), np.float32))
        except ValueError:  # the steps were fitted on rows of another width
            return False
        return self.head.fits(row.shape[1:], classes)

    def save(self, folder: Path) -> None:
        """Write both into a folder."""
        self.transform.save(folder)
        self.head.save(folder)

    @classmethod
    def load(cls, folder: Path, name: str) -> "FittedHead":
        """Read what ``save`` wrote for a head of this name."""
        return cls(Transform.load(folder), LOADERS[name](folder))


def needs_memory(spec: HeadSpec, shape: tuple[int, ...]) -> str:
    """Say why a head cannot be trained while rows of a shape stay in the file, or nothing."""
    if any(step.startswith("pca=") for step in spec.transform or ()):
        return "pca"
    wide = math.prod(shape)
    if spec.head in SUMMED_HEADS:
        return f"{spec.head} of {wide} features" if wide > MOST_SUMMED else ""
    return "" if spec.head in KERAS_HEADS else spec.head
