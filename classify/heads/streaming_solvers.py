"""Linear heads of rows that memory does not hold, from sums over one pass of the file."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import StoredRows, iter_chunks
from classify.heads.linear_solvers import LEFT_OVER, Double, Plane, separate
from classify.settings.head_spec import HeadSpec

# Rows whose mean is where sums begin.
_NEAR = 256


class Sums:
    """What ridge and lda need of rows that memory does not hold, from one pass over them.

    The solutions are those of ``ridge_path`` and ``discriminant``, by way of the products of the
    features in the place of the rows.

    Attributes:
        counts: (K,) rows of each class.
        mean: (D,) of all rows.
        means: (K, D) of each class, less ``mean``.
        products: (D, D) of the rows less ``mean``, summed over the rows.
    """

    def __init__(self, X: StoredRows, y: NDArray[np.int64]) -> None:
        self.counts = np.bincount(y)
        # Sums of squares lose no digits where they begin near the mean.
        near = X.read(np.arange(min(_NEAR, len(X)))).mean(axis=0, dtype=np.float64)
        sums: Double = np.zeros((len(self.counts), len(near)))
        self.products: Double = np.zeros((len(near), len(near)))
        for places, rows in iter_chunks(X):
            moved = rows - near
            self.products += moved.T @ moved
            sums += (y[places] == np.arange(len(sums))[:, None]).astype(np.float64) @ moved
        off = sums.sum(axis=0) / len(y)
        self.products -= len(y) * np.outer(off, off)
        self.mean: Double = near + off
        self.means: Double = sums / self.counts[:, None] - off

    def discriminant(self, spec: HeadSpec) -> Plane:
        """Solve linear discriminant analysis, as the function of this name."""
        between = (self.means.T * self.counts) @ self.means
        covariance = (self.products - between) / self.counts.sum()
        share = spec.shrinkage or 0.0
        weights, bias = separate(self.means, covariance, self.counts, len(self.mean), share)
        return Plane(weights, bias - weights @ self.mean)

    def ridge_path(
        self, specs: Sequence[HeadSpec], X: StoredRows, y: NDArray[np.int64]
    ) -> tuple[list[Plane], list[Double]]:
        """Solve ridge regression for every penalty, as the function of this name.

        Args:
            specs: Ridge heads that differ in ``alpha`` alone.
            X: Some of the training rows.
            y: Their classes.

        Returns:
            For each spec the head, and the logits that each of these rows gets from a fit without
            it, (n, K) or (n, 1).
        """
        labels = np.arange(len(self.counts))[1 if len(self.counts) == 2 else 0 :]
        rows = self.counts.sum()
        bias = 2 * self.counts[labels] / rows - 1
        values, vectors = np.linalg.eigh(self.products)
        # The centred rows times the targets, in the directions of the vectors: (D, K or 1).
        onto = vectors.T @ (2 * self.counts[labels, None] * self.means[labels]).T
        inverses = [1 / (np.maximum(values, 0) + (spec.alpha or 0.0)) for spec in specs]
        planes = []
        for inverse in inverses:
            coef = (vectors @ (inverse[:, None] * onto)).T
            planes.append(Plane(coef, bias - coef @ self.mean))
        found: list[list[Double]] = [[] for _ in specs]
        for places, some in iter_chunks(X):
            turned = (some - self.mean) @ vectors
            targets = np.where(y[places, None] == labels, 1.0, -1.0)
            for alone, inverse in zip(found, inverses, strict=True):
                own = np.minimum(turned**2 @ inverse + 1 / rows, 1 - LEFT_OVER)
                residual = targets - bias - turned @ (inverse[:, None] * onto)
                alone.append(targets - residual / (1 - own[:, None]))
        return planes, [np.concatenate(parts) for parts in found]
