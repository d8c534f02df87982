"""Linear heads with an l2 penalty, solved where they live: in the span of the training rows.

A penalty on the length of the coefficients leaves them no part that is orthogonal to every centred
training row, for such a part adds length and changes no score. So with fewer rows than features the
rows are turned, once, into their coordinates T (n x r, r < n) in an orthonormal basis of their own
span; every penalty is solved there, and ``coef = W V'`` leads back. The basis V itself, r vectors
as wide as the features, is never formed: V' = diag(1/s) Q' X with the Gram matrix X X' = Q s^2 Q'.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.config import HeadSpec
from classify.rows import StoredRows, pieces
from extract.console import log

MAX_ITERATIONS = 1000
# scikit-learn's own 1e-4 leaves scores 1e-3 from the minimum; the path is quick enough for this.
_TOLERANCE = 1e-7
# Columns widened to float64 at a time; rows of more are multiplied as they are.
_COLUMNS = 4096
# Rows whose mean is where sums begin.
_NEAR = 256

Double = NDArray[np.float64]


class Plane(NamedTuple):
    """A linear head: ``X @ coef.T + intercept`` are the logits, (N, K), or (N, 1) for class 1 of 2.

    Attributes:
        coef: (K or 1, D) float64.
        intercept: (K or 1,) float64.
    """

    coef: Double
    intercept: Double


class Span:
    """Centred training rows in coordinates of their own, (n, r) float64 with r the smaller side.

    Attributes:
        T: The coordinates; the centred rows themselves where there are more rows than features.
        width: D, the number of features.
    """

    def __init__(self, X: NDArray[np.float32]) -> None:
        self.width = X.shape[1]
        self._mean: Double = X.mean(axis=0, dtype=np.float64)
        self._X = X
        self._Q: Double | None = None
        if len(X) > self.width:
            self.T: Double = X - self._mean
            return
        values, vectors = np.linalg.eigh(_gram(X, self._mean))
        keep = values > len(X) * np.finfo(np.float64).eps * max(values[-1], 0)
        self._lengths, self._Q = np.sqrt(values[keep]), vectors[:, keep]
        self.T = self._Q * self._lengths

    def factors(self) -> tuple[Double, Double, Double]:
        """Return the singular vectors and values of T: (n, r), (r,), (r, r); float64."""
        if self._Q is None:
            return np.linalg.svd(self.T, full_matrices=False)
        return self._Q, self._lengths, np.eye(len(self._lengths))

    def plane(self, weights: Double, bias: Double) -> Plane:
        """Lead a solution back to the features.

        Args:
            weights: (K or 1, r) for the coordinates.
            bias: (K or 1,).

        Returns:
            The same head on features that are not centred.
        """
        coef = weights
        if self._Q is not None:
            # The head as a sum of centred rows, (K, n).
            onto = weights / self._lengths @ self._Q.T
            coef = _product(onto, self._X) - onto.sum(axis=1, keepdims=True) * self._mean
        return Plane(coef, bias - coef @ self._mean)


def _product(left: NDArray[Any], right: NDArray[Any]) -> Double:
    """Multiply matrices in float64, very wide ones in float32.

    Widening 37,632 features of a thousand rows takes ten times as long as the product itself.
    """
    wide = max(right.shape) > _COLUMNS
    dtype = np.float32 if wide else np.float64
    product = left.astype(dtype, copy=False) @ right.astype(dtype, copy=False)
    return np.asarray(product, np.float64)


def _gram(X: NDArray[np.float32], mean: Double) -> Double:
    """Return the (n, n) products of the centred rows, summed in float64."""
    gram = np.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        centred = X[:, part] - mean[part]
        gram += centred @ centred.T
    return gram


def logistic_path(span: Span, y: NDArray[np.int64], specs: Sequence[HeadSpec]) -> Iterator[Plane]:
    """Solve logistic regression for every penalty, from the strongest, each starting at the last.

    Args:
        span: The training rows.
        y: (n,) classes 0 to K - 1, each with a row.
        specs: Logistic heads that differ in ``C`` alone.

    Yields:
        A head for each spec, in their order. Warns of one that did not settle.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    first = specs[0]
    solver = LogisticRegression(
        max_iter=MAX_ITERATIONS,
        tol=_TOLERANCE,
        warm_start=True,
        class_weight=first.class_weight,
    )
    solved: dict[float, tuple[Double, Double]] = {}
    for C in sorted({spec.C or 1.0 for spec in specs}):
        solver.set_params(C=C)
        # Thousands of small products: on two busy cores BLAS' threads wait for each other, and one
        # thread was 25 times as fast as two.
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in one line
            solver.fit(span.T, y)
        if solver.n_iter_.max() >= MAX_ITERATIONS:
            log.warning(
                "logistic: C=%g not settled after %d steps; a lower C helps", C, MAX_ITERATIONS
            )
        solved[C] = solver.coef_.copy(), solver.intercept_.copy()
    for spec in specs:
        yield span.plane(*solved[spec.C or 1.0])


def ridge_path(
    span: Span,
    y: NDArray[np.int64],
    specs: Sequence[HeadSpec],
    shows: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Plane, Double]]:
    """Solve ridge regression onto -1 and 1 for every penalty, from one factorisation.

    Args:
        span: The training rows.
        y: (n,) classes 0 to K - 1.
        specs: Ridge heads that differ in ``alpha`` alone.
        shows: (n,) which picture each row shows; None where each shows its own.

    Yields:
        For each spec the head, and the (n, K) or (n, 1) logits that each row gets from a fit
        without its picture: the residual of a linear smoother, divided by what the picture's rows
        have no part in.
    """
    targets = np.where(y[:, None] == np.arange(y.max() + 1), 1.0, -1.0)
    targets = targets[:, 1:] if targets.shape[1] == 2 else targets
    bias = targets.mean(axis=0)
    left, lengths, right = span.factors()
    onto = left.T @ (targets - bias)
    for spec in specs:
        shrunk = lengths**2 / (lengths**2 + (spec.alpha or 0.0))
        fitted = bias + left @ (shrunk[:, None] * onto)
        safe = np.maximum(lengths, np.finfo(np.float64).tiny)
        weights = (right.T @ ((shrunk / safe)[:, None] * onto)).T
        yield span.plane(weights, bias), targets - _unseen(left, shrunk, targets - fitted, shows)


def _unseen(
    left: Double, shrunk: Double, residuals: Double, shows: NDArray[np.int64] | None
) -> Double:
    """Return the residuals of rows in a fit without their picture, from those in a fit with it."""
    mean = 1 / len(left)
    if shows is None:
        # A weak penalty on few rows fits each row by itself: no residual is left to divide.
        own = np.minimum((left**2) @ shrunk + mean, 1 - 1e-6)
        return np.asarray(residuals / (1 - own[:, None]))
    unseen = np.empty_like(residuals)
    for picture in range(shows.max() + 1):
        rows = np.flatnonzero(shows == picture)
        part = (left[rows] * shrunk) @ left[rows].T + mean
        unseen[rows] = np.linalg.solve((1 + 1e-6) * np.eye(len(rows)) - part, residuals[rows])
    return unseen


def discriminant(span: Span, y: NDArray[np.int64], spec: HeadSpec) -> Plane:
    """Solve linear discriminant analysis with a shrunk covariance, as scikit-learn's ``lsqr``.

    Args:
        span: The training rows.
        y: (n,) classes 0 to K - 1, each with a row.
        spec: Its ``shrinkage``, above 0, is the share of the mean variance of all D features.

    Returns:
        The head.
    """
    counts = np.bincount(y)
    means = np.stack([span.T[y == label].mean(axis=0) for label in range(len(counts))])
    within = span.T - means[y]
    covariance = within.T @ within / len(y)
    return span.plane(*_separate(means, covariance, counts, span.width, spec.shrinkage or 0.0))


def _separate(
    means: Double, covariance: Double, counts: NDArray[np.int64], width: int, share: float
) -> tuple[Double, Double]:
    """Return weights (K or 1, r) and bias of a discriminant; ``covariance`` is used up."""
    ground = share * np.trace(covariance) / width
    covariance *= 1 - share
    covariance[np.diag_indices_from(covariance)] += ground + np.finfo(np.float64).tiny
    weights = np.linalg.solve(covariance, means.T).T
    bias = np.log(counts / counts.sum()) - (means * weights).sum(axis=1) / 2
    if len(counts) == 2:
        weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
    return np.asarray(weights), np.asarray(bias)


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
        for places, rows in pieces(X):
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
        weights, bias = _separate(self.means, covariance, self.counts, len(self.mean), share)
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
        for places, some in pieces(X):
            turned = (some - self.mean) @ vectors
            targets = np.where(y[places, None] == labels, 1.0, -1.0)
            for alone, inverse in zip(found, inverses, strict=True):
                own = np.minimum(turned**2 @ inverse + 1 / rows, 1 - 1e-6)
                residual = targets - bias - turned @ (inverse[:, None] * onto)
                alone.append(targets - residual / (1 - own[:, None]))
        return planes, [np.concatenate(parts) for parts in found]


def logits(plane: Plane, X: NDArray[Any]) -> Double:
    """Return ``X @ coef.T + intercept``, (N, K) or (N, 1)."""
    return _product(X, plane.coef.T) + plane.intercept


def probabilities(z: Double, scale: float = 1.0) -> Double:
    """Turn logits into scores.

    Args:
        z: (N, K) logits, or (N, 1) for class 1 of 2.
        scale: What the logits are multiplied by first.

    Returns:
        (N, K) scores, 0 to 1; each row sums to 1.
    """
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    z = scale * (z - z.max(axis=1, keepdims=True))
    powers = np.exp(z)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fitted_scale(z: Double, y: NDArray[np.int64]) -> float:
    """Find the one number to multiply logits by that makes them most likely.

    It changes no answer, only how sure the answers are.

    Args:
        z: (N, K) or (N, 1) logits of rows that the head was not fitted on.
        y: (N,) their classes.

    Returns:
        Above 0.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(y))

    def loss(power: float) -> float:
        true = probabilities(z, float(np.exp(power)))[rows, y]
        return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())

    spread = np.log(max(float(z.std()), 1e-12))
    # From guesses that are all but even to ones that are all but sure.
    return float(np.exp(minimize_scalar(loss, bounds=(-6 - spread, 6 - spread)).x))
