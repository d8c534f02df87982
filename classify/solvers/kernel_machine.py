"""The least-squares support vector machine on landmarks, which replaces the exact svm of many rows.

Each class against all others has a machine that is linear in the kernel between a row and some
random training rows, the landmarks (Nystroem's approximation). Squared errors take the place of
hinge losses, so that sums over the rows solve all machines at once:

    minimise |w|^2 / 2 + C / 2 * sum of weight * (target - (w . z + intercept))^2

where z are the coordinates of a row in the space of the landmarks: L^-1 k for K = L L'.
Source: Suykens and Vandewalle, Least squares support vector machine classifiers, 1999.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.scores.calibration import deal_folds, fit_logit_scale, left_out_folds
from classify.settings.head_spec import HeadSpec
from classify.solvers.linear_solvers import ridge_targets
from classify.stored.out_of_core import Labels, Rows

# Values of the kernel at a time, 64 MB.
_VALUES = 1 << 23
# Share of the mean square of the landmarks that keeps equal landmarks apart.
_JITTER = 1e-6

Double = NDArray[np.float64]


def kernel(X: NDArray[Any], fitted: NDArray[Any], gamma: float) -> Double:
    """Return the (N, A) kernel: products of rows, or with a gamma the rbf kernel."""
    products = (X @ fitted.T).astype(np.float64)
    if not gamma:
        return np.asarray(products)
    squares = [(rows.astype(np.float64) ** 2).sum(axis=1) for rows in (X, fitted)]
    distances = squares[0][:, None] + squares[1] - 2 * products
    return np.asarray(np.exp(-gamma * np.maximum(distances, 0)))


def kernel_blocks(X: Rows, fitted: Rows, gamma: float) -> Iterator[Double]:
    """Yield the kernel block by block."""
    step = max(1, _VALUES // len(fitted))
    for start in range(0, len(X), step):
        yield kernel(X[start : start + step], fitted, gamma)


def fit_svm(
    spec: HeadSpec, X: Rows, y: Labels, gamma: float, groups: Labels | None = None
) -> dict[str, Any]:
    """Fit the svm of many rows.

    Args:
        spec: Its ``C``, ``class_weight`` and number of ``landmarks``.
        X: (n, D) rows.
        y: (n,) classes 0 to K - 1, each with a row.
        gamma: Width of the rbf kernel; 0 for the linear kernel.
        groups: (n,) the image, or the group of images, of each row; None if all differ.

    Returns:
        ``rows``: the landmarks; ``estimator``: machines of scikit-learn that are linear in the
        kernel with them; ``scale``: the scale of the logits, fitted on rows left out in turn.
    """
    from sklearn.svm import LinearSVC

    landmarks = X[np.sort(np.random.default_rng(0).permutation(len(X))[: spec.landmarks])]
    counts, fold = np.bincount(y), deal_folds(y, groups)
    weights = len(y) / len(counts) / counts if spec.class_weight else np.ones(len(counts))
    sums = _WhiteSums(landmarks, gamma, spec.C or 1.0)
    for k in np.unique(fold):
        sums.add(int(k), X[fold == k], y[fold == k], weights)
    left_out, labels = [], [np.array([], np.int64)]
    for _, out in left_out_folds(y, groups):
        coef, intercept = sums.solve(without=int(fold[out[0]]))
        blocks = kernel_blocks(X[out], landmarks, gamma)
        left_out += [block @ coef.T + intercept for block in blocks]
        labels.append(y[out])
    coef, intercept = sums.solve()
    if not left_out:
        left_out.append(kernel(landmarks, landmarks, gamma) @ coef.T + intercept)
    svm = LinearSVC(C=spec.C)
    svm.coef_, svm.intercept_, svm.classes_ = coef, intercept, np.arange(len(counts))
    svm.n_features_in_ = len(landmarks)
    scale = fit_logit_scale(np.concatenate(left_out), np.concatenate(labels))
    return {"rows": landmarks, "estimator": svm, "scale": scale}


class _WhiteSums:
    """Sums over the rows of each fold, in coordinates in which the penalty is the same for all.

    The last coordinate is that of the intercept, which has no penalty.
    """

    def __init__(self, landmarks: Rows, gamma: float, C: float) -> None:
        self._landmarks, self._gamma = landmarks, gamma
        exact = landmarks.astype(np.float64)  # rounding in float32 could make it indefinite
        own = kernel(exact, exact, gamma)
        own[np.diag_indices_from(own)] += _JITTER * max(float(own.trace()) / len(own), 1e-12)
        self._root = np.eye(len(own) + 1)
        self._root[:-1, :-1] = np.linalg.cholesky(own)
        self._penalty = np.append(np.full(len(own), 1 / C), 0.0)
        self._sums: dict[int, tuple[Double, Double]] = {}

    def add(self, fold: int, X: Rows, y: Labels, weights: Double) -> None:
        """Add the rows of a fold, with a weight for each class."""
        K, width, done = len(weights), len(self._root), 0
        products, targets = np.zeros((width, width)), np.zeros((width, 1 if K == 2 else K))
        for block in kernel_blocks(X, self._landmarks, self._gamma):
            labels = y[done : done + len(block)]
            root, done = np.sqrt(weights[labels])[:, None], done + len(block)
            values = root * np.hstack([block, np.ones((len(block), 1))])
            products += values.T @ values
            targets += values.T @ (root * ridge_targets(labels, K))
        self._sums[fold] = self._whiten(self._whiten(products).T), self._whiten(targets)

    def _whiten(self, values: Double) -> Double:
        from scipy.linalg import solve_triangular

        return np.asarray(solve_triangular(self._root, values, lower=True))

    def solve(self, without: int | None = None) -> tuple[Double, Double]:
        """Return coefficients (K or 1, M) and intercept of all rows, or of those out of a fold."""
        from scipy.linalg import cho_factor, cho_solve, solve_triangular

        kept = [sums for fold, sums in self._sums.items() if fold != without]
        left = np.diag(self._penalty)
        right = np.zeros_like(kept[0][1])
        for products, targets in kept:
            left += products
            right += targets
        # Next to large sums a tiny penalty would be rounded away.
        least = np.finfo(np.float64).eps * float(left.trace())
        left[np.diag_indices_from(left)] += np.append(np.full(len(left) - 1, least), 0.0)
        solution = cho_solve(cho_factor(left, overwrite_a=True), right)
        solution = solve_triangular(self._root, solution, lower=True, trans="T")
        return solution[:-1].T, solution[-1]
