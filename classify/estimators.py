"""Heads that need no Keras: linear ones as plain arrays, the others as scikit-learn made them.

Scores are probabilities. ``logistic`` and ``lda`` are made that way. ``ridge``, ``svm`` and
``naive_bayes`` give logits of no known scale: one number, fitted on training rows that the fit did
not see (without each picture, or its group, for ridge, three parts for the others), makes them
honest and changes no answer. ``knn`` and ``forest`` count votes; one vote more, shared as the
classes are in training, keeps the score of a class that got none above zero.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, StoredRows, flat
from classify.indices import check_indices
from classify.linear import (
    Plane,
    Span,
    discriminant,
    fitted_scale,
    join,
    logistic_path,
    logits,
    probabilities,
    ridge_path,
)
from classify.settings.head_spec import HeadSpec
from classify.sums import Sums

LINEAR_FILE, FILE = "head.npz", "head.skops"
# Types of scikit-learn's own that its trees are made of, and that skops does not list.
_TREES = {
    "forest": ["sklearn.tree._tree.Tree"],
    "boosting": ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"],
}
_PARTS = 3
# The scale of a ridge on more rows than this is fitted on an even sample of as many.
_SCALE_ROWS = 50_000

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


class LinearHead:
    """Logits that are linear in the features: ``logistic``, ``ridge`` and ``lda``.

    Attributes:
        spec: The settings; a head that was loaded has none of its own.
        history: Empty: there are no epochs.
        failed: None: it fits or it raises.
    """

    failed: str | None = None

    def __init__(self, spec: HeadSpec, plane: Plane | None = None, scale: float = 1.0) -> None:
        self.spec = spec
        self.history: dict[str, list[float]] = {}
        self._plane, self._scale = plane, scale

    def fit(self, X: Rows, y: Labels, X_validation: Rows, y_validation: Labels) -> "LinearHead":
        """Fit on (X, y); the validation rows are not looked at. See ``fit_linear`` for many."""
        fitted = fit_linear([self.spec], X, y)[0]
        self._plane, self._scale = fitted._plane, fitted._scale
        return self

    def predict_proba(self, X: Rows) -> NDArray[np.floating]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) scores, 0 to 1; each row sums to 1.
        """
        assert self._plane is not None
        return probabilities(logits(self._plane, flat(X)), self._scale)

    def softmax_weights(self) -> tuple[Rows, Rows]:
        """Return the (D, K) kernel and (K,) bias, float32, whose softmax is ``predict_proba``."""
        assert self._plane is not None
        coef, intercept = (self._scale * values for values in self._plane)
        if len(coef) == 1:
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0, intercept)
        return coef.T.astype(np.float32), intercept.astype(np.float32)

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""
        assert self._plane is not None
        outputs = 1 if classes == 2 else classes
        return self._plane.coef.shape == (outputs, math.prod(shape))

    def save(self, folder: Path) -> None:
        """Write the head into a folder, as ``head.npz``."""
        assert self._plane is not None
        np.savez(folder / LINEAR_FILE, **self._plane._asdict(), scale=self._scale)

    @classmethod
    def load(cls, folder: Path, head: str = "logistic") -> "LinearHead":
        """Read what ``save`` wrote; only plain arrays are read."""
        with (folder / LINEAR_FILE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            plane = Plane(file["coef"], file["intercept"])
            return cls(HeadSpec(head), plane, float(file["scale"]))


def score_linear(heads: Sequence[LinearHead], X: Rows) -> list[NDArray[np.floating]]:
    """Score rows with several heads at once: ``predict_proba`` of each in one pass over the rows.

    Args:
        heads: Trained on the same rows.
        X: (N, *shape) float32 features.

    Returns:
        (N, K) scores of each head.
    """
    planes = [head._plane for head in heads if head._plane is not None]
    z = np.split(logits(join(planes), flat(X)), len(heads), axis=1)
    return [probabilities(own, head._scale) for own, head in zip(z, heads, strict=True)]


def fit_linear(
    specs: Sequence[HeadSpec], X: Features, y: Labels, shows: Labels | None = None
) -> list[LinearHead]:
    """Fit linear heads together: the rows are reduced once, the penalties solved as a path.

    Args:
        specs: Heads out of ``logistic``, ``ridge`` and ``lda``; the latter two for rows of a store.
        X: (A, *shape) float32 features.
        y: (A,) int64 classes 0 to K - 1, each with a row.
        shows: (A,) which picture, or which group of them, each row shows; None where each
            shows its own.

    Returns:
        The fitted heads, in the order of ``specs``.
    """
    if isinstance(X, StoredRows):
        return _fit_by_sums(specs, flat(X), y)
    span = Span(flat(X))
    fitted: dict[HeadSpec, LinearHead] = {}
    for weight in {spec.class_weight for spec in specs}:
        path = [s for s in specs if s.head == "logistic" and s.class_weight == weight]
        planes: Iterable[Plane] = logistic_path(span, y, path) if path else ()
        fitted |= {s: LinearHead(s, plane) for s, plane in zip(path, planes, strict=True)}
    if path := [spec for spec in specs if spec.head == "ridge"]:
        for spec, (plane, alone) in zip(path, ridge_path(span, y, path, shows), strict=True):
            fitted[spec] = LinearHead(spec, plane, fitted_scale(alone, y))
    for spec in specs:
        if spec.head == "lda":
            fitted[spec] = LinearHead(spec, discriminant(span, y, spec))
    return [fitted[spec] for spec in specs]


def _fit_by_sums(specs: Sequence[HeadSpec], X: StoredRows, y: Labels) -> list[LinearHead]:
    """Fit ridge and lda in one pass over the rows, and another over some for ridge's scale."""
    sums = Sums(X, y)
    fitted = {s: LinearHead(s, sums.discriminant(s)) for s in specs if s.head == "lda"}
    path = [spec for spec in specs if spec.head == "ridge"]
    if path:
        some = slice(0, None, math.ceil(len(X) / _SCALE_ROWS))
        planes, alone = sums.ridge_path(path, X[some], y[some])
        for spec, plane, found in zip(path, planes, alone, strict=True):
            fitted[spec] = LinearHead(spec, plane, fitted_scale(found, y[some]))
    return [fitted[spec] for spec in specs]


class EstimatorHead:
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
    ) -> "EstimatorHead":
        """Fit on (X, y); the validation rows are not looked at.

        Args:
            X: (A, *shape) float32 features, vectors or feature maps.
            y: (A,) int64 classes 0 to K - 1, each with a row.
            X_validation: (B, *shape) float32, unused.
            y_validation: (B,) int64, unused.
            shows: (A,) which picture, or which group of them, each row shows; None where each
                shows its own.

        Returns:
            The head itself.
        """
        rows = flat(X)
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

        The rows of a picture are in one part, and those of a group that are of one class.
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
        parts, rows = self._parts, flat(X)
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
    def load(cls, folder: Path, head: str = "svm") -> "EstimatorHead":
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
