"""Logistic regression with an l2 penalty, for a path of penalties.

L-BFGS takes a thousand steps where the variances of the features differ by many orders. So the rows
are coordinates along their principal components, each scaled by the curvature of the loss along it.
The scale changes the path to the solution, not the solution.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Labels
from extract.core.console import log
from extract.engines.memory import available_cores

MAX_ITERATIONS = 1000
# Largest gradient in the scaled basis; the same as a share of the penalty's curvature and of its
# root: with a weak penalty the loss is as flat as the penalty alone.
_TOLERANCE, _FLAT_TOLERANCE, _ROOT_TOLERANCE = 1e-7, 1e-4, 1e-6
# Rows in a block. Blocks are computed in threads and added in order: their number has no effect.
_ROWS = 512

Double = NDArray[np.float64]


def solve_path(
    rows: Double, y: Labels, penalties: Sequence[float], weights: Double
) -> Iterator[tuple[Double, Double]]:
    """Solve for every penalty, each from the solution before; warn where one does not converge.

    Args:
        rows: (n, r) centred rows, along their principal components.
        y: (n,) classes 0 to K - 1, each with a row.
        penalties: Values of ``C``, increasing.
        weights: (n,) weights of the losses.

    Yields:
        Coefficients (K or 1, r) and intercept (K or 1,) for each.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    # One BLAS thread was 25 times as fast as two on two busy cores: its products are small.
    with ThreadPoolExecutor(available_cores()) as threads, threadpool_limits(1, "blas"):
        problem = _Problem(rows, y, weights, threads)
        start = np.zeros((rows.shape[1] + 1, problem.outputs))
        for C in penalties:
            problem.scale_by(start, 1 / (C * len(y)))
            flat = _ROOT_TOLERANCE * np.sqrt(problem.penalty)
            tolerance = min(_TOLERANCE, flat, _FLAT_TOLERANCE * problem.penalty)
            options = {"maxiter": MAX_ITERATIONS, "gtol": tolerance, "ftol": 0.0}
            values = problem.scaled(start).ravel()
            end: Any = minimize(problem, values, jac=True, method="L-BFGS-B", options=options)
            if end.nit >= MAX_ITERATIONS:
                remedy = "its scores may be off; reduce C"
                log.warning("logistic: C=%g not converged in %d steps; %s", C, end.nit, remedy)
            start = problem.unscaled(end.x)
            yield start[:-1].T, start[-1]


class _Problem:
    """The mean loss and its gradient in the scaled basis.

    Attributes:
        outputs: K, or 1 for two classes.
        penalty: The curvature of the penalty, 1 / (C n).
    """

    def __init__(self, rows: Double, y: Labels, weights: Double, threads: Any) -> None:
        self._rows, self._y, self._weights = rows, y, weights / len(y)
        self._threads = threads
        classes = int(y.max()) + 1
        self.outputs, self.penalty = 1 if classes == 2 else classes, 0.0
        self._variances = np.einsum("nr,nr->r", rows, rows) / len(y)
        self._scale = np.ones((rows.shape[1] + 1, 1))

    def scale_by(self, start: Double, penalty: float) -> None:
        """Choose the scale from the curvature of the loss at the start."""
        self.penalty = penalty
        curvature = sum(self._map(start, self._curvature)) / self.outputs
        along = np.append(self._variances, 1.0) * curvature
        along[:-1] += penalty
        self._scale = 1 / np.sqrt(np.maximum(along, penalty))[:, None]

    def scaled(self, solution: Double) -> Double:
        """Return coefficients and intercept, (r + 1, outputs), in the scaled basis."""
        return solution / self._scale

    def unscaled(self, values: Double) -> Double:
        """Return coefficients and intercept from values in the scaled basis."""
        return values.reshape(-1, self.outputs) * self._scale

    def __call__(self, values: Double) -> tuple[float, Double]:
        """Return the loss and its gradient."""
        solution, penalty = self.unscaled(values), self.penalty
        loss, gradient = penalty * (solution[:-1] ** 2).sum() / 2, np.zeros_like(solution)
        for part, slope in self._map(solution, self._block_loss):
            loss += part
            gradient += slope
        gradient[:-1] += penalty * solution[:-1]
        return float(loss), (gradient * self._scale).ravel()

    def _map(self, solution: Double, compute: Any) -> Iterator[Any]:
        """Yield what a function returns for each block of rows, in order."""
        blocks = range(0, len(self._y), _ROWS)
        run = self._threads.map if len(blocks) > 1 else map
        return iter(run(lambda start: compute(solution, slice(start, start + _ROWS)), blocks))

    def _curvature(self, solution: Double, block: slice) -> float:
        scores = self._scores(solution, block)[0]
        return float((self._weights[block] @ (scores * (1 - scores))).sum())

    def _block_loss(self, solution: Double, block: slice) -> tuple[float, Double]:
        """Return the loss of a block of rows, without the penalty, and its gradient."""
        weights, y = self._weights[block], self._y[block]
        scores, losses = self._scores(solution, block)
        if self.outputs == 1:
            scores[:, 0] -= y
        else:
            scores[np.arange(len(y)), y] -= 1
        scores *= weights[:, None]
        slope = np.vstack([self._rows[block].T @ scores, scores.sum(axis=0)])
        return float(weights @ losses), slope

    def _scores(self, solution: Double, block: slice) -> tuple[Double, Double]:
        """Return scores (B, outputs) and cross-entropy (B,) of a block of rows."""
        y, z = self._y[block], self._rows[block] @ solution[:-1] + solution[-1]
        if self.outputs == 1:
            losses = np.logaddexp(0, np.where(y, -z[:, 0], z[:, 0]))
            return 1 / (1 + np.exp(-np.clip(z, -700, 700))), losses
        z -= z.max(axis=1, keepdims=True)
        true = z[np.arange(len(y)), y]
        np.exp(z, out=z)
        sums = z.sum(axis=1)
        z /= sums[:, None]
        return z, np.log(sums) - true
