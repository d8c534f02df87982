"""Linear heads as plain arrays: logistic, ridge and lda."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from classify.scores.calibration import (
    FOLDS,
    fit_logit_scale,
    left_out_folds,
    probabilities,
    scale_sample,
)
from classify.settings.head_spec import HeadSpec
from classify.solvers.linear_solvers import LinearModel, RowSpace
from classify.solvers.row_statistics import RowStatistics
from classify.stored.out_of_core import PIECE_BYTES, Features, Labels, Rows, StoredRows, flatten
from classify.stored.views import FoldData
from extract.limits.unpacked import read_arrays

FILE = "head.npz"

# Out of core, the scale is fitted on a sample of the rows: for ridge evenly spaced ones, this many;
# for lda one fold of about ``PIECE_BYTES``, which is read into memory.
_SCALE_ROWS = 50_000
_Fold: TypeAlias = tuple[NDArray[Any], Labels]  # rows that are left out, and their classes


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
        count, (coef, intercept) = 1 if classes == 2 else classes, self._model
        return bool(coef.shape == (count, math.prod(shape)) and intercept.shape == (count,))

    def save(self, folder: Path) -> None:
        """Write the head to ``head.npz`` in a folder."""
        np.savez(folder / FILE, **self._model._asdict(), scale=self._scale)

    @classmethod
    def load(cls, folder: Path, head: str = "logistic") -> "LinearHead":
        """Read a saved head; only plain arrays are read."""
        arrays = read_arrays(folder / FILE)
        model = LinearModel(arrays["coef"], arrays["intercept"])
        return cls(HeadSpec(head), model, float(arrays["scale"]))


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
    heads: dict[HeadSpec, LinearHead] = {}
    kept: Any
    ridge_fits: Any
    if isinstance(X, StoredRows):
        statistics = RowStatistics(X, y)
        if lda:
            heads |= _fit_lda(lda, statistics, _left_out(X, y, groups), X.shape[1])
        sample = scale_sample(np.arange(len(X)), len(statistics.counts))
        sample = sample[:: math.ceil(len(sample) / _SCALE_ROWS)]
        y = y[sample]
        kept, ridge_fits = slice(None), statistics.ridge_path(ridge, X[sample], y)
    else:
        space = RowSpace(X)
        if lda:  # first, so that it is the same alone and with others
            statistics, folds = RowStatistics(space.T, y), _left_out(space.T, y, groups)
            for spec, head in _fit_lda(lda, statistics, folds, X.shape[1]).items():
                heads[spec] = LinearHead(spec, space.to_features([head._model])[0], head._scale)
        for weight in {spec.class_weight for spec in specs}:
            path = [s for s in specs if s.head == "logistic" and s.class_weight == weight]
            models = space.logistic_path(y, path) if path else ()
            heads |= {s: LinearHead(s, model) for s, model in zip(path, models, strict=True)}
        kept = scale_sample(np.arange(len(y)) if groups is None else groups, int(y.max()) + 1)
        ridge_fits = space.ridge_path(y, ridge, groups, kept)
    for spec, (model, left_out) in zip(ridge, ridge_fits if ridge else (), strict=True):
        heads[spec] = LinearHead(spec, model, fit_logit_scale(left_out, y[kept]))
    return [heads[spec] for spec in specs]


def _fit_lda(
    specs: Sequence[HeadSpec], statistics: RowStatistics, folds: Iterator[_Fold], width: int
) -> dict[HeadSpec, LinearHead]:
    """Fit lda heads, whose scale is fitted on folds that are left out in turn."""
    fits = statistics.discriminant_path(specs, folds, width)
    return {
        spec: LinearHead(spec, model, fit_logit_scale(left_out, y))
        for spec, (model, left_out, y) in zip(specs, fits, strict=True)
    }


def _left_out(X: Any, y: Labels, groups: Labels | None) -> Iterator[_Fold]:
    """Yield the rows of each fold, or of one small fold where rows are read from a file."""
    if not isinstance(X, StoredRows):
        yield from ((X[rows], y[rows]) for _, rows in left_out_folds(y, groups))
        return
    count = max(FOLDS, math.ceil(4 * math.prod(X.shape) / PIECE_BYTES))
    for _, rows in islice(left_out_folds(y, groups, count), 1):
        yield X.read(rows), y[rows]
