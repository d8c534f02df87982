"""Sums over rows, the heads that they solve: lda, and ridge of rows that stay in the file."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from classify.settings.head_spec import HeadSpec
from classify.solvers import linear_solvers
from classify.solvers.linear_solvers import TINY, Double, LinearModel
from classify.stored.out_of_core import Labels, Rows, StoredRows, iter_chunks, rough_mean

# A variance within classes below this share of the variance between them is a rounding error.
_NO_SPREAD = 1e-10


class RowStatistics:
    """The sufficient statistics of ridge and lda, from one pass over the rows.

    Attributes:
        counts: (K,) rows of each class.
        mean: (D,) mean of all rows.
        means: (K, D) mean of each class minus ``mean``.
        products: (D, D) products of the centred features, summed over the rows.
    """

    counts: Labels
    mean: Double
    means: Double
    products: Double

    def __init__(self, X: Any, y: Labels) -> None:
        counts, origin = np.bincount(y), rough_mean(X)
        sums: Double = np.zeros((len(counts), len(origin)))
        products: Double = np.zeros((len(origin), len(origin)))
        for positions, rows in iter_chunks(X):
            centred = rows - origin
            products += centred.T @ centred
            sums += linear_solvers.class_members(y[positions], len(counts)) @ centred
        self._set(origin, counts, sums, products)

    def _set(self, origin: Double, counts: Labels, sums: Double, products: Double) -> None:
        """Take sums over the rows minus an origin; the products are overwritten."""
        offset = sums.sum(axis=0) / counts.sum()
        products -= counts.sum() * np.outer(offset, offset)
        self.counts, self.products, self.mean = counts, products, origin + offset
        self.means = sums / counts[:, None] - offset

    def without(self, rows: Rows | Double, y: Labels) -> "RowStatistics":
        """Return the statistics of the other rows, of which each class has one."""
        rest, centred, K = copy.copy(self), rows - self.mean, len(self.counts)
        sums = self.means * self.counts[:, None] - linear_solvers.class_members(y, K) @ centred
        counts = self.counts - np.bincount(y, minlength=K)
        rest._set(self.mean, counts, sums, self.products - centred.T @ centred)
        return rest

    def discriminant_path(
        self, specs: Sequence[HeadSpec], folds: Iterable[tuple[Any, Labels]], width: int
    ) -> list[tuple[LinearModel, Double, Labels]]:
        """Solve linear discriminant analysis for every shrinkage.

        Args:
            specs: The lda heads.
            folds: Rows and their classes, which are left out in turn.
            width: The number of features, of which the rows may be coordinates.

        Returns:
            For each spec the model, the logits of the rows of each fold from a fit without it, and
            their classes; without folds, the logits of the class means, and no classes.
        """
        left_out: list[list[Double]] = [[] for _ in specs]
        labels = [np.array([], np.int64)]
        for rows, y in folds:
            rest = self.without(rows, y)
            labels.append(y)
            for parts, spec in zip(left_out, specs, strict=True):
                parts.append(rest.discriminant(spec, width).logits(rows))
        models = [self.discriminant(spec, width) for spec in specs]
        return [
            (
                model,
                np.concatenate(parts or [model.logits(self.mean + self.means)]),
                np.concatenate(labels),
            )
            for model, parts in zip(models, left_out, strict=True)
        ]

    def discriminant(self, spec: HeadSpec, width: int) -> LinearModel:
        """Solve linear discriminant analysis with a shrunk covariance, as scikit-learn's ``lsqr``.

        Args:
            spec: Its ``shrinkage``, above 0, is the share of the mean variance of all features.
            width: The number of features.
        """
        counts, means, shrinkage = self.counts, self.means, spec.shrinkage or 0.0
        covariance = (self.products - (means.T * counts) @ means) / counts.sum()
        within = np.trace(covariance)
        between = counts @ (means**2).sum(axis=1) / counts.sum()
        if within <= _NO_SPREAD * between:
            # All rows equal their class mean: use the spread of the means instead.
            within, covariance[:] = between, 0
        covariance *= 1 - shrinkage
        covariance[np.diag_indices_from(covariance)] += shrinkage * within / width + TINY
        weights = np.linalg.solve(covariance, means.T).T
        bias = np.log(counts / counts.sum()) - (means * weights).sum(axis=1) / 2
        if len(counts) == 2:
            weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
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
