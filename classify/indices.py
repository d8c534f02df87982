"""Whether the indices of a loaded classifier stay inside its arrays.

Compiled code takes them on trust: a tree's node names its children and a feature, a support vector
machine the rows of its kernel, a neighbour its class. A wrong one reads foreign memory, or goes in
a circle for ever.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_indices(head: str, parts: Mapping[str, Any]) -> None:
    """Raise ValueError where a head of scikit-learn would be led outside of its arrays.

    Args:
        head: Its name.
        parts: Its ``estimator``, the ``width`` of the rows that it takes and, for ``svm``, the
            ``rows`` that it was fitted on.
    """
    check = _CHECKS.get(head)
    if check and not check(parts["estimator"], parts):
        raise ValueError(f"{head} with indices outside of its arrays")


def _forest(estimator: Any, parts: Mapping[str, Any]) -> bool:
    trees = [found.tree_ for found in estimator.estimators_]
    return all(
        0 < tree.node_count <= tree.capacity
        and _leads_down(tree.children_left, tree.children_right, tree.children_left != -1)
        and _within(tree.feature[tree.children_left != -1], parts["width"])
        for tree in trees
    )


def _boosting(estimator: Any, parts: Mapping[str, Any]) -> bool:
    return all(
        len(nodes)
        and _leads_down(nodes["left"], nodes["right"], nodes["is_leaf"] == 0)
        and _within(nodes["feature_idx"][nodes["is_leaf"] == 0], parts["width"])
        and not nodes["is_categorical"].any()
        for trees in estimator._predictors
        for nodes in (tree.nodes for tree in trees)
    )


def _leads_down(left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_]) -> bool:
    """Say whether both children of each inner node come after it, so that every path ends."""
    nodes = np.arange(len(inner))[inner]
    return all(
        (found[inner] > nodes).all() and _within(found[inner], len(inner))
        for found in (left, right)
    )


def _svm(estimator: Any, parts: Mapping[str, Any]) -> bool:
    classes, vectors = len(estimator.classes_), len(estimator.support_)
    counts = estimator._n_support
    shapes = (estimator._dual_coef_.shape, estimator._intercept_.shape, counts.shape)
    pairs = classes * (classes - 1) // 2
    return bool(
        estimator.kernel == "precomputed"
        and not estimator._sparse
        and shapes == ((classes - 1, vectors), (pairs,), (classes,))
        and _within(estimator.support_, len(parts["rows"]))
        and _within(counts, vectors + 1)
        and counts.sum() == vectors
    )


def _knn(estimator: Any, parts: Mapping[str, Any]) -> bool:
    rows = len(estimator._y)
    # scikit-learn divides by the number of rows.
    return bool(
        0 < rows == estimator.n_samples_fit_
        and estimator._fit_X.shape == (rows, parts["width"])
        and _within(estimator._y, len(estimator.classes_))
    )


def _within(found: NDArray[Any], end: int) -> bool:
    """Say whether indices are from 0 to below an end."""
    return bool(((found >= 0) & (found < end)).all())


_CHECKS: Mapping[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "forest": _forest,
    "boosting": _boosting,
    "svm": _svm,
    "knn": _knn,
}
