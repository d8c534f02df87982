"""Fit heads on the training rows of one split, each behind its transform."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from classify.data.dataset import Dataset
from classify.data.out_of_core import Rows
from classify.data.preprocessing import Floats, Transform
from classify.data.splits import Split, group_names
from classify.data.views import FoldData, RandomViews, all_views
from classify.heads import linear_head
from classify.heads.registry import LINEAR_HEADS, FittedHead, Head
from classify.heads.sklearn_head import SklearnHead
from classify.settings.head_spec import KERAS_HEADS, HeadSpec, groups_of


def batches(specs: Sequence[HeadSpec]) -> list[list[int]]:
    """Group the positions of heads that are trained together; equal transforms are neighbours."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, spec in enumerate(specs):
        if spec.head not in KERAS_HEADS:
            shared = (spec.layer, spec.transform, spec.views)
            groups[shared if spec.head in LINEAR_HEADS else position].append(position)
    transforms = [spec.transform for spec in specs]
    heads = [*groups_of(specs), *groups.values()]
    return sorted(heads, key=lambda batch: (transforms.index(transforms[batch[0]]), batch))


def score_all(heads: Sequence[Head], X: Rows) -> list[Floats]:
    """Score rows with heads that were trained together, (N, K) each."""
    linear = [head for head in heads if isinstance(head, linear_head.LinearHead)]
    if len(linear) == len(heads):
        return linear_head.score_linear(linear, X)
    return [head.predict_proba(X) for head in heads]


def fit_batch(
    specs: Sequence[HeadSpec], rows: FoldData, transform: Transform, halving: bool = False
) -> list[FittedHead]:
    """Train heads that share a transform.

    Args:
        specs: One batch of ``batches``.
        rows: The transformed rows.
        transform: The fitted transform.
        halving: See ``TrainConfig``.

    Returns:
        The heads in the order of ``specs``. A head whose training failed has ``failed``.
    """
    if rows.views and specs[0].views == "all":
        X, y, images = all_views(rows.X, rows.y, rows.views)
        groups = images if rows.groups is None else rows.groups[images]
        rows = rows._replace(X=X, y=y, views=None, groups=groups)
    elif rows.views and specs[0].views == "random":
        rows = rows._replace(X=RandomViews(rows.X, rows.views))
    if specs[0].head in LINEAR_HEADS:
        heads: Sequence[Head] = linear_head.fit_linear(specs, rows.X, rows.y, rows.groups)
    elif specs[0].head in KERAS_HEADS:
        from classify.heads import keras_head

        heads = keras_head.fit_heads(specs, rows, halving)
    else:
        heads = [SklearnHead(spec).fit(*rows[:4], rows.groups) for spec in specs]
    return [FittedHead(transform, head) for head in heads]


def transformed(transform: Transform, rows: FoldData) -> FoldData:
    """Fit a transform on the plain training rows and apply it to all rows and views."""
    X, views = transform.fit_apply(rows.X), rows.views
    if views:
        count, shape = views.features.shape[:2], rows.X.shape[1:]
        features = transform.apply(views.features.reshape(-1, *shape))
        views = views._replace(features=features.reshape(*count, *X.shape[1:]))
    return rows._replace(X=X, X_validation=transform.apply(rows.X_validation), views=views)


def prepare_fold(
    dataset: Dataset, splits: Sequence[Split], fold: int, steps: Sequence[str], with_views: bool
) -> tuple[Transform, FoldData]:
    """Read the rows of a split, and the views of its training rows, and transform them."""
    X, y, train, validation = dataset.X, dataset.y, splits[fold].train, splits[fold].validation
    views = dataset.views.of(train) if dataset.views and with_views else None
    groups = None
    if dataset.groups is not None:
        groups = np.unique(group_names(dataset)[train], return_inverse=True)[1]
        # No group can be left out where a class has only one.
        if any(len(np.unique(groups[y[train] == label])) < 2 for label in np.unique(y[train])):
            groups = None
    rows = FoldData(X[train], y[train], X[validation], y[validation], views, groups)
    transform = Transform(steps)
    return transform, transformed(transform, rows)
