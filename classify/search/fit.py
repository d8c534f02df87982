"""Fit many heads on one division of the rows, each behind its transform."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Labels, Rows
from classify.data.preprocessing import Transform
from classify.data.views import RandomViews, Views, all_views
from classify.heads import linear_head
from classify.heads.linear_head import LinearHead
from classify.heads.registry import LINEAR_HEADS, FittedHead, Head
from classify.heads.sklearn_head import SklearnHead
from classify.settings.head_spec import KERAS_HEADS, HeadSpec, groups_of


class Fit(NamedTuple):
    """A head just trained, which of the asked for it is, and the seconds that it took."""

    position: int
    fitted: FittedHead
    seconds: float


class FoldData(NamedTuple):
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
    specs: Sequence[HeadSpec], rows: FoldData, transform: Transform, halving: bool = False
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
        drawn = RandomViews(X, rows.views) if rows.views and specs[0].views == "random" else X
        from classify.heads import keras_head

        fitted = keras_head.fit_heads(specs, drawn, y, *judging, halving=halving)
    else:
        fitted = [SklearnHead(spec).fit(X, y, *judging, shows) for spec in specs]
    seconds = (time.perf_counter() - start) / len(specs)
    for position, head in enumerate(fitted):
        yield Fit(position, FittedHead(transform, head), seconds)


def transformed(transform: Transform, rows: FoldData) -> FoldData:
    """Fit a transform on the plain training rows and apply it to both sides, and to views."""
    X, views = transform.fit_apply(rows.X), rows.views
    if views:
        count, shape = views.features.shape[:2], rows.X.shape[1:]
        features = transform.apply(views.features.reshape(-1, *shape))
        views = views._replace(features=features.reshape(*count, *X.shape[1:]))
    return rows._replace(X=X, X_validation=transform.apply(rows.X_validation), views=views)
