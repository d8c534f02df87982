"""Linear heads of out-of-core rows, from statistics of one pass over the file."""

from collections.abc import Iterator, Sequence

import numpy as np

from classify.data.out_of_core import Labels, StoredRows, iter_chunks, rough_mean
from classify.heads import linear_solvers
from classify.heads.linear_solvers import Double, LinearModel
from classify.settings.head_spec import HeadSpec


class RowStatistics:
    """The sufficient statistics of ridge and lda.

    The solutions are those of ``RowSpace``, with the eigenvectors of the products of the features
    as the basis.

    Attributes:
        counts: (K,) rows of each class.
        mean: (D,) mean of all rows.
        means: (K, D) mean of each class minus ``mean``.
        products: (D, D) products of the centred features, summed over the rows.
    """

    def __init__(self, X: StoredRows, y: Labels) -> None:
        self.counts = np.bincount(y)
        origin = rough_mean(X)
        sums: Double = np.zeros((len(self.counts), len(origin)))
        self.products: Double = np.zeros((len(origin), len(origin)))
        for positions, rows in iter_chunks(X):
            centred = rows - origin
            self.products += centred.T @ centred
            members = y[positions] == np.arange(len(sums))[:, None]
            sums += members.astype(np.float64) @ centred
        offset = sums.sum(axis=0) / len(y)
        self.products -= len(y) * np.outer(offset, offset)
        self.mean: Double = origin + offset
        self.means: Double = sums / self.counts[:, None] - offset

    def discriminant(self, spec: HeadSpec) -> LinearModel:
        """Solve linear discriminant analysis."""
        between = (self.means.T * self.counts) @ self.means
        covariance = (self.products - between) / self.counts.sum()
        weights, bias = linear_solvers.solve_discriminant(
            self.means, covariance, self.counts, len(self.mean), spec.shrinkage or 0.0
        )
        return LinearModel(weights, bias - weights @ self.mean)

    def ridge_path(
        self, specs: Sequence[HeadSpec], X: StoredRows, y: Labels
    ) -> Iterator[tuple[LinearModel, Double]]:
        """Solve ridge regression for every penalty.

        Args:
            specs: Ridge heads that differ only in ``alpha``.
            X: A sample of n training rows.
            y: Their classes.

        Yields:
            For each spec the model and the leave-one-out logits of the sample, (n, K) or (n, 1).
        """
        rows, first = self.counts.sum(), 1 if len(self.counts) == 2 else 0
        counts, means = self.counts[first:], self.means[first:]
        bias = 2 * counts / rows - 1
        values, vectors = np.linalg.eigh(self.products)
        # The centred rows times the targets, in the basis of the eigenvectors: (D, K or 1).
        projected = vectors.T @ (2 * counts[:, None] * means).T
        targets = linear_solvers.ridge_targets(y, len(self.counts))
        inverses = [1 / (np.maximum(values, 0) + (spec.alpha or 0.0)) for spec in specs]
        left_out: list[list[Double]] = [[] for _ in specs]
        for positions, chunk in iter_chunks(X):
            rotated = (chunk - self.mean) @ vectors
            for parts, inverse in zip(left_out, inverses, strict=True):
                residuals = targets[positions] - bias - rotated @ (inverse[:, None] * projected)
                leverage = rotated**2 @ inverse + 1 / rows
                residuals = linear_solvers.leave_one_out(residuals, leverage)
                parts.append(targets[positions] - residuals)
        for inverse, parts in zip(inverses, left_out, strict=True):
            coef = (vectors @ (inverse[:, None] * projected)).T
            yield LinearModel(coef, bias - coef @ self.mean), np.concatenate(parts)
