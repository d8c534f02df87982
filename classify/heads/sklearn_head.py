"""Heads that need no Keras: linear ones as plain arrays, the others as scikit-learn made them.

Scores are probabilities. ``logistic`` and ``lda`` are made that way. ``ridge``, ``svm`` and
``naive_bayes`` give logits of no known scale: one number, fitted on training rows that the fit did
not see (without each image, or its group, for ridge, three parts for the others), makes them
honest and changes no answer. ``knn`` and ``forest`` count votes; one vote more, shared as the
classes are in training, keeps the score of a class that got none above zero.
"""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import flatten
from classify.heads.linear_head import Labels, Rows
from classify.heads.linear_solvers import fitted_scale, probabilities
from classify.settings.head_spec import HeadSpec


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


FILE = "head.skops"
# Types of scikit-learn's own that its trees are made of, and that skops does not list.
_TREES = {
    "forest": ["sklearn.tree._tree.Tree"],
    "boosting": ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"],
}
_PARTS = 3


class SklearnHead:
    """A classifier of scikit-learn: ``svm``, ``knn``, ``forest``, ``boosting``, ``naive_bayes``.

    Attributes:
        spec: The settings; a head that was loaded has none of its own.
        history: Empty: there are no epochs.
        failed: None: it fits or it raises.
    """

    failed: str | None = None

    def __init__(self, spec: HeadSpec, parts: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.history: dict[str, list[float]] = {}
        self._parts = parts or {}

    def fit(
        self,
        X: Rows,
        y: Labels,
        X_validation: Rows,
        y_validation: Labels,
        shows: Labels | None = None,
    ) -> "SklearnHead":
        """Fit on (X, y); the validation rows are not looked at.

        Args:
            X: (A, *shape) float32 features, vectors or feature maps.
            y: (A,) int64 classes 0 to K - 1, each with a row.
            X_validation: (B, *shape) float32, unused.
            y_validation: (B,) int64, unused.
            shows: (A,) which image, or which group of them, each row shows; None where each
                shows its own.

        Returns:
            The head itself.
        """
        rows = flatten(X)
        given: NDArray[Any] = rows
        self._parts = {"width": rows.shape[1], "scale": 1.0, "prior": np.bincount(y) / len(y)}
        if self.spec.head == "svm":
            # Products once, in BLAS, for the fit, its parts and every later C; libsvm's own are
            # 20 times slower on wide rows.
            gamma = self.spec.gamma or 1 / max(float(rows.var(axis=0).sum()), 1e-12)
            self._parts |= {"rows": rows, "gamma": gamma if self.spec.kernel == "rbf" else 0.0}
            given = _kernel(rows, rows, self._parts["gamma"])
        if self.spec.head in ("svm", "naive_bayes"):
            shows = np.arange(len(y)) if shows is None else shows
            self._parts["scale"] = self._honest_scale(given, y, shows)
        self._parts["estimator"] = _fit(self.spec, given, y)
        vars(self._parts["estimator"]).pop("_feature_subsample_rng", None)  # see ``load``
        return self

    def _honest_scale(self, given: NDArray[Any], y: Labels, shows: Labels) -> float:
        """Fit the scale of the logits on three parts of the training rows, each left out once.

        The rows of an image are in one part, and those of a group that are of one class.
        """
        parts = min(_PARTS, *(len(set(shows[y == k].tolist())) for k in range(y.max() + 1)))
        if parts < 2:
            return 1.0
        part = np.empty(len(y), np.int64)
        for label in range(y.max() + 1):
            members = np.flatnonzero(y == label)
            part[members] = np.unique(shows[members], return_inverse=True)[1] % parts
        found: list[NDArray[np.float64]] = []
        for left_out in range(parts):
            fit_on, judge_on = np.flatnonzero(part != left_out), np.flatnonzero(part == left_out)
            columns = fit_on if self.spec.head == "svm" else slice(None)
            estimator = _fit(self.spec, given[fit_on][:, columns], y[fit_on])
            found.append(_logits(estimator, given[judge_on][:, columns]))
        order = np.argsort(np.concatenate([np.flatnonzero(part == i) for i in range(parts)]))
        return fitted_scale(np.concatenate(found)[order], y)

    def predict_proba(self, X: Rows) -> NDArray[np.floating]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) scores, 0 to 1; each row sums to 1.
        """
        parts, rows = self._parts, flatten(X)
        estimator = parts["estimator"]
        if self.spec.head in ("svm", "naive_bayes"):
            given = _kernel(rows, parts["rows"], parts["gamma"]) if "rows" in parts else rows
            return probabilities(_logits(estimator, given), parts["scale"])
        scores = np.asarray(estimator.predict_proba(rows), np.float64)
        if self.spec.head == "boosting":
            return scores
        votes = estimator.n_neighbors if self.spec.head == "knn" else len(estimator.estimators_)
        return np.asarray((votes * scores + parts["prior"]) / (votes + 1))

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""
        found = self._parts["width"], len(self._parts["estimator"].classes_)
        return found == (math.prod(shape), classes)

    def save(self, folder: Path) -> None:
        """Write the head into a folder, as ``head.skops``."""
        import skops.io

        skops.io.dump(self._parts, folder / FILE)

    @classmethod
    def load(cls, folder: Path, head: str = "svm") -> "SklearnHead":
        """Read what ``save`` wrote. Only types of skops' own list and trees are made: no code runs.

        Args:
            folder: Where it was written.
            head: Its name.
        """
        import skops.io

        with zipfile.ZipFile(folder / FILE) as file:
            described = json.dumps(json.loads(file.read("schema.json")))
        # It may ask for a pool of any size, of which NumPy mixes each number with each other.
        if "RandomGenerator" in described:
            raise ValueError("a generator of random numbers, which no head has")
        parts = skops.io.load(folder / FILE, trusted=_TREES.get(head, []))
        check_indices(head, parts)
        return cls(HeadSpec(head), parts)


def _fit(spec: HeadSpec, X: NDArray[Any], y: Labels) -> Any:
    """Fit scikit-learn's classifier."""
    estimator = _make(spec, len(y)).fit(X, y)
    if spec.head == "naive_bayes" and not estimator.var_.any():
        estimator.var_ += 1  # where no feature varies it would divide by nothing
    return estimator


def _make(spec: HeadSpec, rows: int) -> Any:
    """Return scikit-learn's classifier, not fitted; loads only the module that has it."""
    if spec.head == "svm":
        from sklearn.svm import SVC

        return SVC(kernel="precomputed", C=spec.C, class_weight=spec.class_weight, cache_size=1)
    if spec.head == "knn":
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(min(spec.neighbours or 1, rows), algorithm="brute")
    if spec.head == "naive_bayes":
        from sklearn.naive_bayes import GaussianNB

        return GaussianNB()
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    common = {"class_weight": spec.class_weight, "random_state": spec.seed}
    if spec.head == "forest":
        return RandomForestClassifier(spec.trees, n_jobs=-1, **common)
    return HistGradientBoostingClassifier(
        max_iter=spec.trees, learning_rate=spec.step, early_stopping=False, **common
    )


def _logits(estimator: Any, given: NDArray[Any]) -> NDArray[np.float64]:
    """Return (N, K) logits, or (N, 1) for class 1 of 2."""
    if hasattr(estimator, "decision_function"):
        found = np.asarray(estimator.decision_function(given))
        return found[:, None] if found.ndim == 1 else found
    return np.asarray(estimator.predict_joint_log_proba(given))


def _kernel(X: Rows, fitted: Rows, gamma: float) -> NDArray[np.float64]:
    """Return the (N, A) products of rows, or of their images under an rbf kernel."""
    products = (X @ fitted.T).astype(np.float64)
    if not gamma:
        return products
    lengths = [(rows.astype(np.float64) ** 2).sum(axis=1) for rows in (X, fitted)]
    apart = lengths[0][:, None] + lengths[1] - 2 * products
    return np.asarray(np.exp(-gamma * np.maximum(apart, 0)))
