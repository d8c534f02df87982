"""Linear heads as plain arrays: logistic, ridge and lda."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, StoredRows, flatten
from classify.heads.linear_solvers import (
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
from classify.heads.streaming_solvers import Sums
from classify.settings.head_spec import HeadSpec

LINEAR_FILE = "head.npz"

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
        return probabilities(logits(self._plane, flatten(X)), self._scale)

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
    z = np.split(logits(join(planes), flatten(X)), len(heads), axis=1)
    return [probabilities(own, head._scale) for own, head in zip(z, heads, strict=True)]


def fit_linear(
    specs: Sequence[HeadSpec], X: Features, y: Labels, shows: Labels | None = None
) -> list[LinearHead]:
    """Fit linear heads together: the rows are reduced once, the penalties solved as a path.

    Args:
        specs: Heads out of ``logistic``, ``ridge`` and ``lda``; the latter two for rows of a store.
        X: (A, *shape) float32 features.
        y: (A,) int64 classes 0 to K - 1, each with a row.
        shows: (A,) which image, or which group of them, each row shows; None where each
            shows its own.

    Returns:
        The fitted heads, in the order of ``specs``.
    """
    if isinstance(X, StoredRows):
        return _fit_by_sums(specs, flatten(X), y)
    span = Span(flatten(X))
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
