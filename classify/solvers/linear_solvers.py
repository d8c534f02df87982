"""Linear heads with an l2 penalty, solved in the row space of the centred training rows.

A coefficient vector that is orthogonal to every centred training row changes no score and only adds
to the penalty. So the solution lies in the row space. With fewer rows than features (n < D), the
eigendecomposition of the Gram matrix X X' = Q s^2 Q' gives the coordinates T = Q s (n x r, r < n)
of the rows in an orthonormal basis of that space, the right singular vectors V' = diag(1/s) Q' X.
Every penalty is solved on T, and ``coef = W V'`` converts the solution W back to the features. V is
never formed: it is r vectors as wide as the features.

With more rows than features, X' X = V s^2 V' gives the same coordinates as T = X V. They cost a
product of all rows, which only logistic and ridge regression need.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.settings.head_spec import HeadSpec
from classify.solvers import logistic
from classify.stored.out_of_core import Labels, Rows

# Columns converted to float64 at a time; wider rows are multiplied in float32.
_COLUMNS = 4096
# Rows multiplied at a time.
_ROWS = 4096
# Eigenvalues below this share of the largest are rounding errors of float32 products.
_WIDE_ROUNDING = 1e-6
# Least value of 1 - leverage: far above float64's rounding errors, and far below the values of
# weak penalties on wide features, for which 1e-6 gave scores close to 0 and 1.
_MARGIN = 1e-9
TINY = np.finfo(np.float64).tiny

Double = NDArray[np.float64]


class LinearModel(NamedTuple):
    """Logits ``X @ coef.T + intercept``: (N, K), or (N, 1) for class 1 of 2.

    Attributes:
        coef: (K or 1, D) float64.
        intercept: (K or 1,) float64.
    """

    coef: Double
    intercept: Double

    def logits(self, X: NDArray[Any]) -> Double:
        """Return ``X @ coef.T + intercept``, (N, K) or (N, 1)."""
        return _product(X, self.coef.T) + self.intercept


class RowSpace:
    """Centred training rows in an orthonormal basis of their row space.

    Attributes:
        T: (n, r) float64 coordinates; with more rows than features, the centred rows themselves
            until ``find_components``.
        width: D, the number of features.
    """

    def __init__(self, X: Rows) -> None:
        self.width = X.shape[1]
        self._mean: Double = X.mean(axis=0, dtype=np.float64)
        self._X = X
        # Singular values, and the singular vectors of the smaller side.
        self._s: Double | None = None
        self._Q: Double | None = None
        self._V: Double | None = None
        if len(X) > self.width:
            self.T: Double = X - self._mean
            return
        rounding = _WIDE_ROUNDING if _is_wide(X) else len(X) * np.finfo(np.float64).eps
        values, vectors = np.linalg.eigh(_gram(X, self._mean))
        keep = values > rounding * max(values[-1], 0)
        self._s, self._Q = np.sqrt(values[keep]), vectors[:, keep]
        self.T = self._Q * self._s

    def find_components(self) -> Double:
        """Make T the coordinates along the principal components; return the singular values.

        No component is left out here: small variances can be what tells classes apart.
        """
        if self._s is None:
            values, self._V = np.linalg.eigh(self.T.T @ self.T)
            self._s = np.sqrt(np.maximum(values, 0))
            for start in range(
                0, len(self.T), _ROWS
            ):  # in place: the rows may fill half the memory
                self.T[start : start + _ROWS] = self.T[start : start + _ROWS] @ self._V
        return self._s

    def to_features(self, solutions: Sequence[tuple[Double, Double]]) -> list[LinearModel]:
        """Convert solutions on T to models of the features, in one pass over the rows for all.

        Args:
            solutions: Weights (K or 1, r) and bias (K or 1,) of each.
        """
        coef, bias = (np.concatenate(arrays) for arrays in zip(*solutions, strict=True))
        if self._V is not None:
            coef = coef @ self._V.T
        elif self._Q is not None:
            # The weights of the centred rows in each coefficient vector, (K, n).
            dual = coef / self._s @ self._Q.T
            coef = _product(dual, self._X) - dual.sum(axis=1, keepdims=True) * self._mean
        parts = (np.split(array, len(solutions)) for array in (coef, bias - coef @ self._mean))
        return [LinearModel(*model) for model in zip(*parts, strict=True)]

    def logistic_path(self, y: Labels, specs: Sequence[HeadSpec]) -> list[LinearModel]:
        """Solve logistic regression for every penalty, each starting from the next stronger one.

        Args:
            y: (n,) classes 0 to K - 1, each with a row.
            specs: Logistic heads that differ only in ``C``.

        Returns:
            A model per spec. Warns about a fit that did not converge.
        """
        counts, penalties = np.bincount(y), sorted({spec.C or 1.0 for spec in specs})
        balanced: Double = (
            len(y) / len(counts) / counts if specs[0].class_weight else np.ones(len(counts))
        )
        self.find_components()
        path = logistic.solve_path(self.T, y, penalties, balanced[y])
        solutions = dict(zip(penalties, path, strict=True))
        return self.to_features([solutions[spec.C or 1.0] for spec in specs])

    def ridge_path(
        self,
        y: Labels,
        specs: Sequence[HeadSpec],
        groups: Labels | None = None,
        kept: Labels | slice = slice(None),
    ) -> Iterator[tuple[LinearModel, Double]]:
        """Solve ridge regression onto -1 and 1 for every penalty, from one decomposition.

        Args:
            y: (n,) classes 0 to K - 1.
            specs: Ridge heads that differ only in ``alpha``.
            groups: (n,) the image, or the group of images, of each row; None if all differ.
            kept: The rows whose logits are needed: complete groups.

        Yields:
            For each spec the model and the leave-one-out logits, (n, K) or (n, 1): those of each
            kept row from a fit without its group.
        """
        counts = np.bincount(y)
        labels = slice(1 if len(counts) == 2 else 0, None)  # as in ``ridge_targets``
        bias = 2 * counts[labels] / len(y) - 1
        s = self.find_components()
        # Smaller ones are rounding errors, which a weak penalty would enlarge.
        least = np.sqrt(len(y) * np.finfo(np.float64).eps) * s.max(initial=0)
        s = np.where(s > least, s, np.inf)
        left = self.T / s if self._Q is None else self._Q  # (n, r)
        # left.T @ (targets - bias), without the (n, K) targets.
        projected = (
            2
            * (class_members(y, len(counts)) @ left - counts[:, None] * left.mean(axis=0))[labels].T
        )
        targets = ridge_targets(y[kept], len(counts))
        groups = None if groups is None else groups[kept]
        for spec in specs:
            shrunk = 1 / (1 + (spec.alpha or 0.0) / s**2)
            residuals = targets - (bias + left[kept] @ (shrunk[:, None] * projected))
            weights = ((shrunk / s)[:, None] * projected).T
            (model,) = self.to_features([(weights, bias)])
            yield model, targets - _leave_groups_out(left[kept], shrunk, residuals, groups, len(y))


def _is_wide(rows: NDArray[Any]) -> bool:
    """Return whether rows are multiplied in float32.

    Converting 37,632 features of a thousand rows takes ten times as long as the product itself.
    """
    return bool(max(rows.shape) > _COLUMNS)


def _product(left: NDArray[Any], right: NDArray[Any]) -> Double:
    """Multiply matrices in float64, very wide ones in float32."""
    dtype = np.float32 if _is_wide(right) else np.float64
    product = left.astype(dtype, copy=False) @ right.astype(dtype, copy=False)
    return np.asarray(product, np.float64)


def _gram(X: Rows, mean: Double) -> Double:
    """Return the (n, n) products of the centred rows.

    Products of very wide rows are float32 for each block of columns, and summed in float64: the
    error is 2e-7 of the largest eigenvalue, in half the time.
    """
    mean = mean.astype(np.float32) if _is_wide(X) else mean
    gram = np.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        centred = X[:, columns] - mean[columns]
        gram += centred @ centred.T
    return gram


def class_members(y: Labels, classes: int) -> Any:
    """Return (K, n): 1 where a row is of a class; sparse, for thousands of classes."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(y)), (y, np.arange(len(y)))), shape=(classes, len(y)))


def ridge_targets(y: Labels, classes: int) -> Double:
    """Return 1 for the class of each row and -1 for others, (n, K), or (n, 1) for class 1 of 2."""
    labels = np.arange(classes)[1 if classes == 2 else 0 :]
    return np.where(y[:, None] == labels, 1.0, -1.0)


def leave_one_out(residuals: Double, leverage: Double) -> Double:
    """Return the residual of each row in a fit without it: residual / (1 - leverage).

    The leverage, the diagonal of the hat matrix, is close to 1 where a weak penalty fits each row.
    """
    return np.asarray(residuals / (1 - np.minimum(leverage, 1 - _MARGIN)[:, None]))


def _leave_groups_out(
    left: Double, shrunk: Double, residuals: Double, groups: Labels | None, count: int
) -> Double:
    """Return the residuals of rows in a fit without their group: (I - H_gg)^-1 residuals_g."""
    mean, leverage = 1 / count, (left**2) @ shrunk  # 1 / n is the part of the intercept
    if groups is None:
        return leave_one_out(residuals, leverage + mean)
    left_out = np.asarray(residuals / (1 + _MARGIN - leverage - mean)[:, None])
    order, ends = np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))
    for rows in np.split(order, ends[:-1]):
        if len(rows) > 1:
            root = np.full((len(rows), 1), np.sqrt(mean))
            half = np.hstack([left[rows] * np.sqrt(shrunk), root])
            left_out[rows] = _solve(half, residuals[rows])
    return left_out


def _solve(half: Double, right: Double) -> Double:
    """Solve (1 + margin - half half') x = right on the smaller side (Woodbury's identity)."""
    ridge = 1 + _MARGIN
    if len(half) <= half.shape[1]:
        return np.asarray(np.linalg.solve(ridge * np.eye(len(half)) - half @ half.T, right))
    inner = ridge * np.eye(half.shape[1]) - half.T @ half
    return np.asarray((right + half @ np.linalg.solve(inner, half.T @ right)) / ridge)
