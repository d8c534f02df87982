"""Heads of scikit-learn: svm, knn, forest, boosting and naive_bayes.

Scores are probabilities. ``svm`` and ``naive_bayes`` give logits of an unknown scale: temperature
scaling fits it on training rows that the fit did not see, and changes no answer. ``knn`` and
``forest`` count votes: one more vote, divided evenly, keeps the score of a class without votes
above zero, and changes no answer either.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.scores.calibration import fit_logit_scale, left_out_folds, probabilities
from classify.settings.head_spec import HeadSpec
from classify.solvers import kernel_machine, naive_bayes, neighbours
from classify.solvers.kernel_machine import kernel_blocks
from classify.stored.out_of_core import SCORE_BYTES, Labels, Rows, flatten
from classify.stored.views import FoldData
from extract.limits.skops import check_skops

FILE = "head.skops"
# Types of scikit-learn's trees, which not every skops trusts by default.
_TREES = {
    "forest": ["sklearn.tree._tree.Tree"],
    "boosting": [
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    ],
}
_SCALED = ("svm", "naive_bayes")
# Each pair of classes has a vote. With scikit-learn's default of 1e-3, rounding decided one vote in
# a hundred where 300 classes had two or three rows each.
_SVM_TOLERANCE = 1e-6
# Training rows whose scores are saved with the head.
_EXAMPLES = 3


class SklearnHead:
    """A classifier of scikit-learn: ``svm``, ``knn``, ``forest``, ``boosting``, ``naive_bayes``.

    Attributes:
        spec: The settings; the defaults for a loaded head.
        history: Empty: there are no epochs.
        failed: None: a fit succeeds or raises.
    """

    failed: str | None = None

    def __init__(self, spec: HeadSpec, parts: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.history: dict[str, list[float]] = {}
        self._parts = parts or {}

    def fit(self, rows: FoldData) -> "SklearnHead":
        """Fit on the training rows, and return the head itself."""
        X, y = flatten(rows.X), rows.y
        even = np.full(rows.classes, 1 / rows.classes)
        self._parts = {"width": X.shape[1], "scale": 1.0, "prior": even}
        if self.spec.head == "svm":
            # One BLAS product serves every fit; libsvm's own are 20 times slower on wide rows.
            gamma = self.spec.gamma or 1 / max(float(X.var(axis=0).sum()), 1e-12)
            self._parts |= {"rows": X, "gamma": gamma if self.spec.kernel == "rbf" else 0.0}
        if self.spec.landmarks:
            parts = kernel_machine.fit_svm(self.spec, X, y, self._parts["gamma"], rows.groups)
            self._parts |= parts
        else:
            if self.spec.head == "svm":
                X = kernel_machine.kernel(X, X, self._parts["gamma"])
            self._parts["estimator"] = _fit(self.spec, X, y)
            if self.spec.head in _SCALED:
                self._parts["scale"] = self._fit_scale(X, y, rows.groups)
        # A file holds no random number generator, see ``load``, and no loss, whose type has another
        # name in each version of scikit-learn.
        for name in ("_feature_subsample_rng", "_loss"):
            vars(self._parts["estimator"]).pop(name, None)
        # What another version of scikit-learn must predict.
        example = flatten(rows.X)[:_EXAMPLES]
        self._parts |= {"example": example, "example_scores": self.predict_proba(example)}
        return self

    def _fit_scale(self, rows: NDArray[Any], y: Labels, groups: Labels | None) -> float:
        """Fit the scale of the logits by cross-validation on the training rows."""
        left_out, labels = [], []
        for train, out in left_out_folds(y, groups):
            columns = train if self.spec.head == "svm" else slice(None)
            estimator = _fit(self.spec, rows[train][:, columns], y[train])
            left_out.append(_logits(estimator, rows[out][:, columns]))
            labels.append(y[out])
        if not left_out:
            return fit_logit_scale(_logits(self._parts["estimator"], rows), np.array([], np.int64))
        return fit_logit_scale(np.concatenate(left_out), np.concatenate(labels))

    def predict_proba(self, X: Rows) -> NDArray[np.floating]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) scores, 0 to 1; each row sums to 1.
        """
        parts, rows, estimator = self._parts, flatten(X), self._parts["estimator"]
        if self.spec.head in (*_SCALED, "boosting"):
            fitted = parts.get("rows")
            blocks = [rows] if fitted is None else kernel_blocks(rows, fitted, parts["gamma"])
            logits = np.concatenate([_logits(estimator, block) for block in blocks])
            return probabilities(logits, parts["scale"])
        if self.spec.head == "knn":
            votes, classes = estimator.n_neighbors, len(estimator.classes_)
            scores = neighbours.vote(rows, estimator._fit_X, estimator._y, classes, votes)
        else:
            votes = len(estimator.estimators_)
            scores = np.asarray(estimator.predict_proba(rows), np.float64)
        return np.asarray((votes * scores + parts["prior"]) / (votes + 1))

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Return whether the head takes rows of this shape and scores this many classes."""
        size = self._parts["width"], len(self._parts["estimator"].classes_)
        return size == (math.prod(shape), classes)

    def save(self, folder: Path) -> None:
        """Write the head to ``head.skops`` in a folder."""
        import skops.io

        skops.io.dump(self._parts, folder / FILE)

    @classmethod
    def load(cls, folder: Path, head: str = "svm") -> "SklearnHead":
        """Read a saved head. No code runs: only trees and types that skops trusts are created.

        Args:
            folder: The folder that it was written to.
            head: Its name.
        """
        import skops.io
        from sklearn.exceptions import InconsistentVersionWarning

        check_skops(folder / FILE)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = skops.io.load(folder / FILE, trusted=_TREES.get(head, []))
        check_indices(head, parts)
        loaded = cls(HeadSpec(head), parts)
        other = any(issubclass(one.category, InconsistentVersionWarning) for one in caught)
        if other and "example" in parts:
            scores = loaded.predict_proba(parts["example"])
            if not np.allclose(scores, parts["example_scores"], atol=1e-3):
                raise ValueError("found other scores than those of the version that trained it")
        return loaded


def _fit(spec: HeadSpec, X: NDArray[Any], y: Labels) -> Any:
    """Fit scikit-learn's classifier."""
    with warnings.catch_warnings():
        # Of a few images per class it says that they look like numbers to be predicted.
        warnings.filterwarnings("ignore", "The number of unique classes")
        return _create(spec, X, y)


def _create(spec: HeadSpec, X: NDArray[Any], y: Labels) -> Any:
    """Import only the module of the classifier, and fit it."""
    weight, seed = spec.class_weight, spec.seed
    if spec.head == "svm":
        from sklearn.svm import SVC

        svm = SVC(kernel="precomputed", C=spec.C, class_weight=weight, cache_size=1)
        return svm.set_params(tol=_SVM_TOLERANCE).fit(X, y)
    if spec.head == "knn":
        from sklearn.neighbors import KNeighborsClassifier

        knn = KNeighborsClassifier(min(spec.neighbours or 1, len(y)), algorithm="brute")
        # Plain votes of a few images are ties, of which the lowest class would be the answer.
        return knn.set_params(weights="distance").fit(X, y)
    if spec.head == "naive_bayes":
        return naive_bayes.fit(X, y, spec.var_smoothing or 0.0)
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    if spec.head == "forest":
        forest = RandomForestClassifier(spec.trees, n_jobs=-1, random_state=seed)
        return forest.set_params(class_weight=weight).fit(X, y)
    boosting = HistGradientBoostingClassifier(max_iter=spec.trees, learning_rate=spec.step)
    boosting.set_params(early_stopping=False, class_weight=weight, random_state=seed)
    return boosting.fit(X, y)


def _logits(estimator: Any, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return (N, K) logits, or (N, 1) for class 1 of 2."""
    if hasattr(estimator, "decision_function"):
        # It has a value for each pair of classes in memory.
        step = max(1, SCORE_BYTES // (8 * math.comb(len(estimator.classes_), 2)))
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        logits = np.concatenate([estimator.decision_function(part) for part in parts])
        return logits.reshape(len(rows), -1)
    return naive_bayes.logits(estimator, rows)


def check_indices(head: str, parts: Mapping[str, Any]) -> None:
    """Raise ValueError if an index in a saved head lies outside its array: it could crash.

    Args:
        head: Its name.
        parts: Its ``estimator``, the ``width`` of its rows and, for ``svm``, the ``rows`` that it
            was fitted on.
    """
    estimator, width = parts["estimator"], parts["width"]
    if head == "forest":
        valid = all(
            tree.node_count <= tree.capacity
            and _is_tree(tree.children_left, tree.children_right, tree.feature, width)
            for tree in (fitted.tree_ for fitted in estimator.estimators_)
        )
    elif head == "boosting":
        trees = [tree.nodes for trees in estimator._predictors for tree in trees]
        valid = all(
            not tree["is_categorical"].any()
            and _is_tree(left, tree["right"], tree["feature_idx"], width)
            for tree in trees
            for left in [np.where(tree["is_leaf"], -1, tree["left"].astype(np.int64))]
        )
    elif head == "svm":
        valid = _is_svm(estimator, len(parts["rows"]))
    else:
        valid = head != "knn" or _is_knn(estimator, width)
    if not valid:
        raise ValueError(f"{head} with indices outside of its arrays")


def _is_tree(left: Any, right: Any, feature: Any, width: int) -> bool:
    """Return whether every path ends: the children of a node come after it; a leaf has -1."""
    nodes = np.flatnonzero(left != -1)
    children = np.stack([left[nodes], right[nodes]])
    ordered = len(left) > 0 and bool((children > nodes).all())
    return ordered and _within(children, len(left)) and _within(feature[nodes], width)


def _is_svm(svm: Any, rows: int) -> bool:
    classes = len(svm.classes_)
    if hasattr(svm, "coef_") and not hasattr(svm, "support_"):
        machines = 1 if classes == 2 else classes
        return bool((svm.coef_.shape, svm.intercept_.shape) == ((machines, rows), (machines,)))
    vectors, counts = len(svm.support_), svm._n_support
    shapes = [array.shape for array in (svm._dual_coef_, svm._intercept_, counts)]
    return bool(
        (svm.kernel, svm._sparse) == ("precomputed", False)
        and shapes == [(classes - 1, vectors), (math.comb(classes, 2),), (classes,)]
        and _within(svm.support_, rows)
        and _within(counts, vectors + 1)
        and counts.sum() == vectors
    )


def _is_knn(estimator: Any, width: int) -> bool:
    rows = len(estimator._y)  # scikit-learn divides by it
    return bool(
        0 < rows == estimator.n_samples_fit_
        and estimator._fit_X.shape == (rows, width)
        and _within(estimator._y, len(estimator.classes_))
        and 0 < estimator.n_neighbors <= rows
    )


def _within(indices: NDArray[Any], end: int) -> bool:
    return bool(((indices >= 0) & (indices < end)).all())
