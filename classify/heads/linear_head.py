"""Linear heads as plain arrays: logistic, ridge and lda."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, Labels, Rows, StoredRows, flatten
from classify.data.views import FoldData
from classify.heads.linear_solvers import LinearModel, RowSpace, fit_logit_scale, probabilities
from classify.heads.streaming_solvers import RowStatistics
from classify.settings.head_spec import HeadSpec

FILE = "head.npz"

# The scale of a ridge on more rows than this is fitted on an evenly spaced sample of this size.
_SCALE_ROWS = 50_000
# It is fitted on at most so many logits, 134 MB; more of them hardly change it.
_SCALE_VALUES = 2**24


class LinearHead:
    """Logits that are linear in the features: ``logistic``, ``ridge`` and ``lda``.

    Attributes:
        spec: The settings; the defaults for a loaded head.
        history: Empty: there are no epochs.
        failed: None: a fit succeeds or raises.
    """

    failed: str | None = None

    def __init__(self, spec: HeadSpec, model: Any = None, scale: float = 1.0) -> None:
        self.spec = spec
        self.history: dict[str, list[float]] = {}
        self._model, self._scale = model, scale

    def fit(self, rows: FoldData) -> "LinearHead":
        """Fit on the training rows; ``fit_linear`` fits many heads."""
        return fit_linear([self.spec], rows.X, rows.y, rows.groups)[0]

    def predict_proba(self, X: Rows) -> NDArray[np.floating]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) scores, 0 to 1; each row sums to 1.
        """
        return probabilities(self._model.logits(flatten(X)), self._scale)

    def softmax_weights(self) -> tuple[Rows, Rows]:
        """Return the (D, K) kernel and (K,) bias, float32, whose softmax is ``predict_proba``."""
        coef, intercept = (self._scale * values for values in self._model)
        if len(coef) == 1:
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0, intercept)
        return coef.T.astype(np.float32), intercept.astype(np.float32)

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Return whether the head takes rows of this shape and scores this many classes."""
        return bool(self._model.coef.shape == (1 if classes == 2 else classes, math.prod(shape)))

    def save(self, folder: Path) -> None:
        """Write the head to ``head.npz`` in a folder."""
        np.savez(folder / FILE, **self._model._asdict(), scale=self._scale)

    @classmethod
    def load(cls, folder: Path, head: str = "logistic") -> "LinearHead":
        """Read a saved head; only plain arrays are read."""
        with (folder / FILE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            model = LinearModel(file["coef"], file["intercept"])
            return cls(HeadSpec(head), model, float(file["scale"]))


def score_linear(heads: Sequence[LinearHead], X: Rows) -> list[NDArray[np.floating]]:
    """Score rows with several heads: ``predict_proba`` of each in one pass over the rows.

    Args:
        heads: Trained on the same rows.
        X: (N, *shape) float32 features.

    Returns:
        (N, K) scores of each head.
    """
    stacked = LinearModel(*map(np.concatenate, zip(*(h._model for h in heads), strict=True)))
    parts = np.split(stacked.logits(flatten(X)), len(heads), axis=1)
    return [probabilities(z, head._scale) for z, head in zip(parts, heads, strict=True)]


def fit_linear(
    specs: Sequence[HeadSpec], X: Features, y: Labels, groups: Labels | None = None
) -> list[LinearHead]:
    """Fit linear heads together: the rows are decomposed once for all penalties.

    Args:
        specs: ``logistic``, ``ridge`` and ``lda`` heads; of rows of a store only the latter two.
        X: (A, *shape) float32 features.
        y: (A,) int64 classes 0 to K - 1, each with a row.
        groups: (A,) the image, or the group of images, of each row; None if all differ.

    Returns:
        The fitted heads, in the order of ``specs``.
    """
    X = flatten(X)
    ridge, lda = ([spec for spec in specs if spec.head == name] for name in ("ridge", "lda"))
    models: dict[HeadSpec, LinearModel] = {}
    kept: Any
    ridge_fits: Any
    if isinstance(X, StoredRows):
        statistics = RowStatistics(X, y)
        sample = scale_sample(np.arange(len(X)), len(statistics.counts))
        sample = sample[:: math.ceil(len(sample) / _SCALE_ROWS)]
        models |= {spec: statistics.discriminant(spec) for spec in lda}
        y = y[sample]
        kept, ridge_fits = slice(None), statistics.ridge_path(ridge, X[sample], y)
    else:
        space = RowSpace(X)
        for weight in {spec.class_weight for spec in specs}:
            path = [s for s in specs if s.head == "logistic" and s.class_weight == weight]
            models |= zip(path, space.logistic_path(y, path) if path else (), strict=True)
        models |= {spec: space.discriminant(y, spec) for spec in lda}
        kept = scale_sample(np.arange(len(y)) if groups is None else groups, int(y.max()) + 1)
        ridge_fits = space.ridge_path(y, ridge, groups, kept)
    heads = {spec: LinearHead(spec, model) for spec, model in models.items()}
    for spec, (model, left_out) in zip(ridge, ridge_fits if ridge else (), strict=True):
        heads[spec] = LinearHead(spec, model, fit_logit_scale(left_out, y[kept]))
    return [heads[spec] for spec in specs]


def scale_sample(groups: Labels, classes: int) -> Labels:
    """Return the rows that the scale of the scores is fitted on: of thousands of classes fewer.

    Args:
        groups: (N,) whole numbers; all rows of a group are taken, or none.
        classes: K.
    """
    return np.flatnonzero(groups % math.ceil(len(groups) * classes / _SCALE_VALUES) == 0)
