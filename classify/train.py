"""Fit many heads on one division of the rows, each behind its transform."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, pieces
from classify.data.preprocessing import Transform
from classify.data.views import DrawnRows, Views, all_views
from classify.heads import keras_head, linear_head, sklearn_head
from classify.heads.keras_head import DenseHead
from classify.heads.linear_head import LinearHead
from classify.heads.sklearn_head import EstimatorHead
from classify.settings.head_spec import KERAS_HEADS, HeadSpec, groups_of

LINEAR_HEADS = ("logistic", "ridge", "lda")
# These need the products of all features with each other, and those of so many, 134 MB.
SUMMED_HEADS, MOST_SUMMED = ("ridge", "lda"), 4096
FILES = {sklearn_head.FILE, linear_head.LINEAR_FILE, keras_head.FILE}

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


class Head(Protocol):
    """What every head can do; ``tests/test_heads.py`` holds each of them to it."""

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


def _kind(name: str) -> type[DenseHead] | type[LinearHead] | type[EstimatorHead]:
    if name in KERAS_HEADS:
        return DenseHead
    return LinearHead if name in LINEAR_HEADS else EstimatorHead


def _loader(name: str) -> Callable[[Path], Head]:
    if name in KERAS_HEADS:
        return DenseHead.load
    kind = LinearHead if name in LINEAR_HEADS else EstimatorHead
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
        found = [self.head.predict_proba(rows) for _, rows in pieces(self.transform.apply(X))]
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


class Fit(NamedTuple):
    """A head just trained, which of the asked for it is, and the seconds that it took."""

    position: int
    fitted: FittedHead
    seconds: float


class Division(NamedTuple):
    """Rows to train on and rows to judge on: (A, *shape) and (B, *shape) float32, and classes.

    ``views`` are those of the rows to train on, None where they are not wanted; ``groups`` are
    (A,) numbers of their groups, None where a fit without one could not be judged.

    The features are arrays, or ``rows.StoredRows``.
    """

    X: Any
    y: Labels
    X_validation: Any
    y_validation: Labels
    views: Views | None = None
    groups: Labels | None = None


def needs_memory(spec: HeadSpec, shape: tuple[int, ...]) -> str:
    """Say why a head cannot be trained while rows of a shape stay in the file, or nothing."""
    if any(step.startswith("pca=") for step in spec.transform or ()):
        return "pca"
    wide = math.prod(shape)
    if spec.head in SUMMED_HEADS:
        return f"{spec.head} of {wide} features" if wide > MOST_SUMMED else ""
    return "" if spec.head in KERAS_HEADS else spec.head


def batches(specs: Sequence[HeadSpec]) -> list[list[int]]:
    """Group positions of heads that are trained in one go, those with one transform in a row."""
    found, linear = groups_of(specs), dict[tuple[object, ...], list[int]]()
    for position, spec in enumerate(specs):
        if spec.head in LINEAR_HEADS:
            linear.setdefault((spec.layer, spec.transform, spec.views), []).append(position)
        elif spec.head not in KERAS_HEADS:
            found.append([position])
    first = {s.transform: i for i, s in reversed(list(enumerate(specs)))}
    return sorted(
        [*found, *linear.values()], key=lambda batch: (first[specs[batch[0]].transform], batch)
    )


def score_all(heads: Sequence[Head], X: Rows) -> list[NDArray[np.floating]]:
    """Score rows with heads that were trained together, (N, K) each."""
    linear = [head for head in heads if isinstance(head, LinearHead)]
    if len(linear) == len(heads):
        return linear_head.score_linear(linear, X)
    return [head.predict_proba(X) for head in heads]


def fit_batch(
    specs: Sequence[HeadSpec], rows: Division, transform: Transform, halving: bool = False
) -> Iterator[Fit]:
    """Train heads that share a transform.

    Args:
        specs: One batch of ``batches``.
        rows: What to train on, transformed already.
        transform: What transformed them.
        halving: See ``TrainConfig``.

    Yields:
        Each head; those of one model share its seconds evenly. One of no use has ``failed``.
    """
    start = time.perf_counter()
    X, y, shows, judging = rows.X, rows.y, rows.groups, rows[2:4]
    if rows.views and specs[0].views == "all":
        X, y, shows = all_views(X, y, rows.views)
        shows = shows if rows.groups is None else rows.groups[shows]
    if specs[0].head in LINEAR_HEADS:
        fitted: Sequence[Head] = linear_head.fit_linear(specs, X, y, shows)
    elif specs[0].head in KERAS_HEADS:
        drawn = DrawnRows(X, rows.views) if rows.views and specs[0].views == "random" else X
        fitted = keras_head.fit_heads(specs, drawn, y, *judging, halving=halving)
    else:
        fitted = [EstimatorHead(spec).fit(X, y, *judging, shows) for spec in specs]
    seconds = (time.perf_counter() - start) / len(specs)
    for position, head in enumerate(fitted):
        yield Fit(position, FittedHead(transform, head), seconds)


def transformed(transform: Transform, rows: Division) -> Division:
    """Fit a transform on the plain training rows and apply it to both sides, and to views."""
    X, views = transform.fit_apply(rows.X), rows.views
    if views:
        count, shape = views.features.shape[:2], rows.X.shape[1:]
        features = transform.apply(views.features.reshape(-1, *shape))
        views = views._replace(features=features.reshape(*count, *X.shape[1:]))
    return rows._replace(X=X, X_validation=transform.apply(rows.X_validation), views=views)
