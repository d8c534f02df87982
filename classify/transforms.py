"""What stands between the features and a head, fitted on the head's training rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import HeadError

FILE = "transform.npz"
# Rows transformed at a time: bounds the copies of wide rows, and what a step holds in float64.
_ROWS = 256

Floats = NDArray[np.floating]
# The arrays of one fitted step by name; empty for a step that learns nothing.
_Fitted = dict[str, NDArray[np.float32]]


class Transform:
    """Steps in the order given; with none, rows pass as they are, maps as maps.

    Attributes:
        steps: Names as in ``HeadSpec.transform``.
    """

    def __init__(self, steps: Sequence[str] = ()) -> None:
        self.steps = tuple(steps)
        self._fitted: list[_Fitted] = []

    def fit_apply(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Learn from these rows and transform them.

        Args:
            X: (N, *shape) float32 training rows.

        Returns:
            (N, D) float32, ``X`` itself without steps.

        Raises:
            HeadError: ``pca`` is asked for more components than the rows have.
        """
        self._fitted = []
        for step in self.steps:
            X = X.reshape(len(X), -1)
            fitted = _fit(step, X)
            X = _apply(step, fitted, X)
            self._fitted.append(fitted)
        return X

    def apply(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transform rows as the training rows were.

        Args:
            X: (N, *shape) float32.

        Returns:
            (N, D) float32, ``X`` itself without steps.
        """
        for step, fitted in zip(self.steps, self._fitted, strict=True):
            X = _apply(step, fitted, X.reshape(len(X), -1))
        return X

    def save(self, folder: Path) -> None:
        """Write the steps and what they learnt, as ``transform.npz``."""
        learnt: dict[str, Any] = {
            f"{i}.{name}": values
            for i, fitted in enumerate(self._fitted)
            for name, values in fitted.items()
        }
        np.savez(folder / FILE, steps=np.array(self.steps, dtype=np.str_), **learnt)

    @classmethod
    def load(cls, folder: Path) -> "Transform":
        """Read what ``save`` wrote; only plain arrays are read."""
        with (folder / FILE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            transform = cls([str(step) for step in file["steps"]])
            transform._fitted = [
                {name.partition(".")[2]: file[name] for name in file if name.startswith(f"{i}.")}
                for i in range(len(transform.steps))
            ]
        return transform


def _fit(step: str, X: NDArray[np.float32]) -> _Fitted:
    """Learn what a step needs from (N, D) rows."""
    if step == "standardise":
        spread = X.std(axis=0, dtype=np.float64)
        # A feature that never changes is left at zero, not divided by rounding errors.
        still = spread <= 1e-6 * np.abs(X).max(axis=0)
        scale = np.where(still, 0, 1 / np.where(still, 1, spread))
        return {"mean": _single(X.mean(axis=0, dtype=np.float64)), "scale": _single(scale)}
    if step.startswith("pca="):
        return _fit_pca(int(step.partition("=")[2]), X)
    return {}


def _fit_pca(count: int, X: NDArray[np.float32]) -> _Fitted:
    """Find the directions of the largest variance, from the smaller of the two Gram matrices."""
    most = min(len(X) - 1, X.shape[1])
    if count > most:
        raise HeadError(
            f"transform: found pca={count} for {len(X)} training rows of {X.shape[1]} features; "
            f"expected at most {most}; ask for fewer components"
        )
    mean = X.mean(axis=0, dtype=np.float64)
    centred = X - _single(mean)
    tall = len(X) >= X.shape[1]
    gram = (centred.T @ centred if tall else centred @ centred.T).astype(np.float64)
    vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    axes = vectors if tall else centred.T @ _single(vectors)
    axes = axes / np.maximum(np.linalg.norm(axes, axis=0), np.finfo(np.float32).tiny)
    # An axis has no sign of its own; the same rows in another order must give the same one.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(count)] < 0, -1, 1)
    return {"mean": _single(mean), "axes": _single(axes)}


def _apply(step: str, fitted: _Fitted, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform (N, D) rows, some at a time."""
    width = fitted["axes"].shape[1] if "axes" in fitted else X.shape[1]
    out = np.empty((len(X), width), np.float32)
    for start in range(0, len(X), _ROWS):
        rows = X[start : start + _ROWS]
        out[start : start + _ROWS] = _one_step(step, fitted, rows)
    return out


def _one_step(step: str, fitted: _Fitted, rows: NDArray[np.float32]) -> Floats:
    if step == "standardise":
        return (rows - fitted["mean"]) * fitted["scale"]
    if step == "sqrt":
        return np.copysign(np.sqrt(np.abs(rows)), rows)
    if step == "l2":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)
    return (rows - fitted["mean"]) @ fitted["axes"]


def _single(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)
