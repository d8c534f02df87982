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

from classify.settings.head_spec import HeadSpec
from extract.core.console import log

MAX_ITERATIONS = 1000
# scikit-learn's own 1e-4 leaves scores 1e-3 from the minimum; the path is quick enough for this.
_TOLERANCE = 1e-7
# Columns widened to float64 at a time; rows of more are multiplied as they are.
_COLUMNS = 4096
# Eigenvalues below this share of the largest are rounding errors of float32 products.
_WIDE_ROUNDING = 1e-6
# A variance within the classes below this share of that between them is rounding errors.
_NO_SPREAD = 1e-10
# What a fit that follows each row leaves of it, at least: far above float64's rounding errors, and
# far below what a weak penalty leaves on wide features, where 1e-6 made scores all but sure.
LEFT_OVER = 1e-9

Double = NDArray[np.float64]


class Plane(NamedTuple):
    """A linear head: ``X @ coef.T + intercept`` are the logits, (N, K), or (N, 1) for class 1 of 2.

    Attributes:
        coef: (K or 1, D) float64.
        intercept: (K or 1,) float64.
    """

    coef: Double
    intercept: Double


def join(planes: Sequence[Plane]) -> Plane:
    """Return heads of one shape as one that gives their logits side by side."""
    coefs, intercepts = zip(*planes, strict=True)
    return Plane(np.concatenate(coefs), np.concatenate(intercepts))


def part(plane: Plane, count: int) -> list[Plane]:
    """Undo ``join``."""
    pairs = zip(np.split(plane.coef, count), np.split(plane.intercept, count), strict=True)
    return [Plane(*pair) for pair in pairs]


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
        rounding = _WIDE_ROUNDING if _is_wide(X) else len(X) * np.finfo(np.float64).eps
        keep = values > rounding * max(values[-1], 0)
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

    def planes(self, solutions: Sequence[tuple[Double, Double]]) -> list[Plane]:
        """Lead several solutions back at once: wide rows pass through memory once for all."""
        weights, biases = zip(*solutions, strict=True)
        return part(self.plane(np.concatenate(weights), np.concatenate(biases)), len(solutions))


def _is_wide(rows: NDArray[Any]) -> bool:
    """Whether rows are multiplied as they are, in float32.

    Widening 37,632 features of a thousand rows takes ten times as long as the product itself.
    """
    return bool(max(rows.shape) > _COLUMNS)


def _product(left: NDArray[Any], right: NDArray[Any]) -> Double:
    """Multiply matrices in float64, very wide ones in float32."""
    dtype = np.float32 if _is_wide(right) else np.float64
    product = left.astype(dtype, copy=False) @ right.astype(dtype, copy=False)
    return np.asarray(product, np.float64)


def _gram(X: NDArray[np.float32], mean: Double) -> Double:
    """Return the (n, n) products of the centred rows.

    Those of very wide rows are summed in float32 over some columns at a time, the sums in float64:
    2e-7 of the largest eigenvalue away, in half the time.
    """
    mean = mean.astype(np.float32) if _is_wide(X) else mean
    gram = np.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        centred = X[:, columns] - mean[columns]
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
        max_iter=MAX_ITERATIONS, tol=_TOLERANCE, warm_start=True, class_weight=first.class_weight
    )
    solved: dict[float, tuple[Double, Double]] = {}
    rank = span.T.shape[1]
    # Rows that are all the same span nothing, and scikit-learn wants a feature.
    rows = span.T if rank else np.zeros((len(y), 1))
    for C in sorted({spec.C or 1.0 for spec in specs}):
        solver.set_params(C=C)
        # Thousands of small products: on two busy cores BLAS' threads wait for each other, and one
        # thread was 25 times as fast as two.
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in one line
            solver.fit(rows, y)
        if solver.n_iter_.max() >= MAX_ITERATIONS:
            log.warning(
                "logistic: C=%g not settled after %d steps; a lower C helps", C, MAX_ITERATIONS
            )
        solved[C] = solver.coef_[:, :rank].copy(), solver.intercept_.copy()
    yield from span.planes([solved[spec.C or 1.0] for spec in specs])


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
        shows: (n,) which image, or which group of them, each row shows; None where each
            shows its own.

    Yields:
        For each spec the head, and the (n, K) or (n, 1) logits that each row gets from a fit
        without its image: the residual of a linear smoother, divided by what the image's rows
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
    """Return the residuals of rows in a fit without their image, from those in a fit with it."""
    mean = 1 / len(left)
    if shows is None:
        # A weak penalty on few rows fits each row by itself: no residual is left to divide.
        own = np.minimum((left**2) @ shrunk + mean, 1 - LEFT_OVER)
        return np.asarray(residuals / (1 - own[:, None]))
    unseen = np.asarray(residuals / (1 + LEFT_OVER - (left**2) @ shrunk - mean)[:, None])
    order, ends = np.argsort(shows, kind="stable"), np.cumsum(np.bincount(shows))
    for rows in np.split(order, ends[:-1]):
        if len(rows) > 1:
            mean_root = np.full((len(rows), 1), np.sqrt(mean))
            half = np.hstack([left[rows] * np.sqrt(shrunk), mean_root])
            unseen[rows] = _solve(half, residuals[rows])
    return unseen


def _solve(half: Double, right: Double) -> Double:
    """Solve (1 + LEFT_OVER - half half') x = right on the smaller side (Woodbury's identity)."""
    ground = 1 + LEFT_OVER
    if len(half) <= half.shape[1]:
        return np.asarray(np.linalg.solve(ground * np.eye(len(half)) - half @ half.T, right))
    inner = ground * np.eye(half.shape[1]) - half.T @ half
    return np.asarray((right + half @ np.linalg.solve(inner, half.T @ right)) / ground)


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
    return span.plane(*separate(means, covariance, counts, span.width, spec.shrinkage or 0.0))


def separate(
    means: Double, covariance: Double, counts: NDArray[np.int64], width: int, share: float
) -> tuple[Double, Double]:
    """Solve for a discriminant.

    Args:
        means: (K, r) of each class, less the mean of all rows.
        covariance: (r, r) within the classes; it is used up.
        counts: (K,) rows of each class.
        width: D, the number of features.
        share: As ``shrinkage``.

    Returns:
        Weights, (K or 1, r), and bias, (K or 1,).
    """
    within = np.trace(covariance)
    between = counts @ (means**2).sum(axis=1) / counts.sum()
    if within <= _NO_SPREAD * between:
        # Rows that equal their class's mean say nothing of its spread: that of all stands for it.
        within, covariance[:] = between, 0
    ground = share * within / width
    covariance *= 1 - share
    covariance[np.diag_indices_from(covariance)] += ground + np.finfo(np.float64).tiny
    weights = np.linalg.solve(covariance, means.T).T
    bias = np.log(counts / counts.sum()) - (means * weights).sum(axis=1) / 2
    if len(counts) == 2:
        weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
    return np.asarray(weights), np.asarray(bias)


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
