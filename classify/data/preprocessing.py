"""What stands between the features and a head, fitted on the head's training rows alone."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, StoredRows, flatten, iter_chunks
from extract.core.errors import HeadError

FILE = "transform.npz"
# Rows transformed at a time: bounds the copies of wide rows.
_ROWS = 256
# Values worked on at a time: few enough to stay in the processor's cache.
_VALUES = 1 << 18

Floats = NDArray[np.floating]
# The arrays of one fitted step by name; empty for a step that learns nothing.
_Fitted = dict[str, NDArray[np.float32]]


class Transform:
    """Steps in the order given; with none, rows pass as they are, maps as maps.

    Rows of a store are transformed when they are read; a step that learns goes through them once.

    Attributes:
        steps: Names as in ``HeadSpec.transform``.
    """

    def __init__(self, steps: Sequence[str] = ()) -> None:
        self.steps = tuple(steps)
        self._fitted: list[_Fitted] = []

    def fit_apply(self, X: Features) -> Any:
        """Learn from these rows and transform them.

        Args:
            X: (N, *shape) float32 training rows.

        Returns:
            (N, D) float32, of the kind of ``X``; ``X`` itself without steps.

        Raises:
            HeadError: ``pca`` is asked for more components than the rows have.
        """
        self._fitted = []
        for step in self.steps:
            X = flatten(X)
            fitted = _fit(step, X)
            X = _apply(step, fitted, X)
            self._fitted.append(fitted)
        return X

    def apply(self, X: Features) -> Any:
        """Transform rows as the training rows were.

        Args:
            X: (N, *shape) float32.

        Returns:
            (N, D) float32, of the kind of ``X``; ``X`` itself without steps.
        """
        for step, fitted in zip(self.steps, self._fitted, strict=True):
            X = _apply(step, fitted, flatten(X))
        return X

    def learnt(self) -> list[tuple[str, _Fitted]]:
        """Return each step and the arrays that it has learnt, by name."""
        return list(zip(self.steps, self._fitted, strict=True))

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


def _fit(step: str, X: Any) -> _Fitted:
    """Learn what a step needs from (N, D) rows."""
    if step == "standardise":
        mean, spread, largest = _moments(X)
        # A feature that never changes is left at zero, not divided by rounding errors.
        still = spread <= 1e-6 * largest
        scale = np.where(still, 0, 1 / np.where(still, 1, spread))
        return {"mean": _single(mean), "scale": _single(scale)}
    if step.startswith("pca="):
        return _fit_pca(int(step.partition("=")[2]), X)
    return {}


def _moments(X: Features) -> tuple[Floats, Floats, Floats]:
    """Return each feature's mean, standard deviation and largest magnitude."""
    # One pass. Sums of squares lose no digits where they begin near the mean.
    some = np.arange(min(_ROWS, len(X)))
    near = (X.read(some) if isinstance(X, StoredRows) else X[some]).mean(axis=0, dtype=np.float64)
    sums, squares, largest = np.zeros_like(near), np.zeros_like(near), np.zeros_like(near)
    for _, piece in iter_chunks(X):
        step = max(1, _VALUES // len(near))
        for start in range(0, len(piece), step):
            rows = piece[start : start + step]
            moved = rows - near
            sums += moved.sum(axis=0)
            squares += np.einsum("nd,nd->d", moved, moved)
            np.maximum(largest, np.abs(rows).max(axis=0), out=largest)
    mean = sums / len(X)
    return near + mean, np.sqrt(np.maximum(squares / len(X) - mean**2, 0)), largest


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


def _apply(step: str, fitted: _Fitted, X: Features) -> Any:
    """Transform (N, D) rows, some at a time."""
    width = fitted["axes"].shape[1] if "axes" in fitted else X.shape[1]
    if isinstance(X, StoredRows):
        return X.behind(functools.partial(_apply, step, fitted), (width,))
    out = np.empty((len(X), width), np.float32)
    some = _ROWS if "axes" in fitted else max(1, _VALUES // width)
    for start in range(0, len(X), some):
        out[start : start + some] = _one_step(step, fitted, X[start : start + some])
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
