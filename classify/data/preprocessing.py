"""Transforms of the features in front of a head, fitted on its training rows only."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Features, Rows, StoredRows, flatten, iter_chunks, rough_mean
from extract.core.errors import HeadError
from extract.limits.unpacked import read_arrays

FILE = "transform.npz"
# Rows projected at a time: bounds the copies of wide rows.
_ROWS = 256
# Values transformed at a time: few enough to stay in the processor's cache.
_VALUES = 1 << 18
# Steps of a saved transform; no step stands twice in a row, and there are few.
_MOST_STEPS = 100

Floats = NDArray[np.floating]
# The arrays of one fitted step by name; empty for a step that has nothing to fit.
_Fitted = dict[str, Rows]


class Transform:
    """Steps in the order given; without any, rows are unchanged and feature maps stay maps.

    Rows of a store are transformed when they are read; fitting a step reads them once.

    Attributes:
        steps: Names as in ``HeadSpec.transform``.
    """

    def __init__(self, steps: Sequence[str] = ()) -> None:
        self.steps = tuple(steps)
        self._fitted: list[_Fitted] = []

    def fit_apply(self, X: Features) -> Any:
        """Fit the steps on these rows and transform them.

        Args:
            X: (N, *shape) float32 training rows.

        Returns:
            (N, D) float32, of the kind of ``X``; ``X`` itself without steps.

        Raises:
            HeadError: ``pca`` has more components than the rows.
        """
        self._fitted = []
        for step in self.steps:
            X = flatten(X)
            self._fitted.append(_fit(step, X))
            X = _apply(step, self._fitted[-1], X)
        return X

    def apply(self, X: Features) -> Any:
        """Transform rows as the training rows.

        Args:
            X: (N, *shape) float32.

        Returns:
            (N, D) float32, of the kind of ``X``; ``X`` itself without steps.
        """
        for step, fitted in zip(self.steps, self._fitted, strict=True):
            X = _apply(step, fitted, flatten(X))
        return X

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of a transformed row of this shape; None if the steps do not take it."""
        for fitted in self._fitted:
            width = (math.prod(shape),)
            if any(fitted[name].shape != width for name in ("mean", "scale") if name in fitted):
                return None
            axes = fitted.get("axes")
            if axes is not None and (axes.ndim != 2 or axes.shape[:1] != width):
                return None
            shape = width if axes is None else axes.shape[1:]
        return shape

    def learnt(self) -> list[tuple[str, _Fitted]]:
        """Return each step and its fitted arrays by name."""
        return list(zip(self.steps, self._fitted, strict=True))

    def save(self, folder: Path) -> None:
        """Write the steps and their fitted arrays to ``transform.npz``."""
        arrays: dict[str, Any] = {"steps": np.array(self.steps, dtype=np.str_)}
        for i, fitted in enumerate(self._fitted):
            arrays |= {f"{i}.{name}": values for name, values in fitted.items()}
        np.savez(folder / FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Transform":
        """Read a saved transform; only plain arrays are read."""
        arrays = read_arrays(folder / FILE)
        if (count := arrays["steps"].size) > _MOST_STEPS:
            raise ValueError(f"found {count:,} steps; expected at most {_MOST_STEPS}")
        transform = cls([str(step) for step in arrays["steps"]])
        transform._fitted = [
            {name.partition(".")[2]: arrays[name] for name in arrays if name.startswith(f"{i}.")}
            for i in range(count)
        ]
        return transform


def _fit(step: str, X: Any) -> _Fitted:
    """Fit one step on (N, D) rows."""
    if step == "standardise":
        return _fit_scaling(X)
    return _fit_pca(int(step.removeprefix("pca=")), X) if step.startswith("pca=") else {}


def _fit_scaling(X: Features) -> _Fitted:
    """Find the mean and one over the standard deviation of each feature in one pass."""
    origin = rough_mean(X)
    sums, squares, largest = np.zeros((3, len(origin)))
    step = max(1, _VALUES // len(origin))
    for _, chunk in iter_chunks(X):
        for start in range(0, len(chunk), step):
            rows = chunk[start : start + step]
            centred = rows - origin
            sums += centred.sum(axis=0)
            squares += np.einsum("nd,nd->d", centred, centred)
            np.maximum(largest, np.abs(rows).max(axis=0), out=largest)
    mean = sums / len(X)
    spread = np.sqrt(np.maximum(squares / len(X) - mean**2, 0))
    # A constant feature becomes zero instead of a multiple of rounding errors.
    constant = spread <= 1e-6 * largest
    scale = np.where(constant, 0, 1 / np.where(constant, 1, spread))
    return {"mean": (origin + mean).astype(np.float32), "scale": scale.astype(np.float32)}


def _fit_pca(count: int, X: Rows) -> _Fitted:
    """Find the axes of the largest variance from the smaller of the two Gram matrices."""
    from threadpoolctl import threadpool_limits

    most = min(len(X) - 1, X.shape[1])
    if count > most:
        found = f"found pca={count} for {len(X)} training rows of {X.shape[1]} features"
        raise HeadError(f"transform: {found}; expected at most {most}; choose fewer components")
    mean = X.mean(axis=0, dtype=np.float64)
    centred = X - mean.astype(np.float32)
    tall = len(X) >= X.shape[1]
    gram = (centred.T @ centred if tall else centred @ centred.T).astype(np.float64)
    # Its steps are small: two threads took ten times as long on two busy cores.
    with threadpool_limits(1, "blas"):
        vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    axes = vectors if tall else centred.T @ vectors.astype(np.float32)
    axes = axes / np.maximum(np.linalg.norm(axes, axis=0), np.finfo(np.float32).tiny)
    # The sign of an axis is arbitrary; it must not depend on the order of the rows.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(count)] < 0, -1, 1)
    return {"mean": mean.astype(np.float32), "axes": axes.astype(np.float32)}


def _apply(step: str, fitted: _Fitted, X: Features) -> Any:
    """Apply one step to (N, D) rows, in batches."""
    width = fitted["axes"].shape[1] if "axes" in fitted else X.shape[1]
    if isinstance(X, StoredRows):
        return X.map(functools.partial(_apply, step, fitted), (width,))
    out = np.empty((len(X), width), np.float32)
    batch = _ROWS if "axes" in fitted else max(1, _VALUES // width)
    for start in range(0, len(X), batch):
        out[start : start + batch] = _apply_to_batch(step, fitted, X[start : start + batch])
    return out


def _apply_to_batch(step: str, fitted: _Fitted, rows: Rows) -> Floats:
    if step == "standardise":
        return (rows - fitted["mean"]) * fitted["scale"]
    if step == "sqrt":
        return np.copysign(np.sqrt(np.abs(rows)), rows)
    if step == "l2":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)
    return (rows - fitted["mean"]) @ fitted["axes"]
