"""Logistic regression on badly scaled rows, and in any number of threads."""

import os

import numpy as np
import pytest

from classify.solvers import logistic
from classify.solvers.linear_solvers import RowSpace

Pair = tuple[np.ndarray, np.ndarray]


def uneven_rows(classes: int, count: int, width: int = 40) -> Pair:
    """Noise whose principal components have variances of very different orders."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(count, width)) @ np.diag(np.arange(1.0, width + 1) ** -3)
    X = X @ generator.normal(size=(width, width))
    space = RowSpace((X - X.mean(axis=0)) / X.std(axis=0))
    space.find_components()
    return space.T, np.arange(count) % classes


@pytest.mark.parametrize("classes", [2, 4])
def test_noise_of_uneven_variances_takes_few_steps(
    classes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    X, y = uneven_rows(classes, 400)
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 60)  # without a scale, hundreds
    penalties = np.logspace(-3, 3, 13).tolist()
    for C, (coef, intercept) in zip(
        penalties, logistic.solve_path(X, y, penalties, np.ones(400)), strict=True
    ):
        # The gradient of the loss and of its penalty is zero in the solution.
        z = X @ coef.T + intercept
        z = np.hstack([np.zeros((400, 1)), z]) if classes == 2 else z
        scores = np.exp(z - z.max(axis=1, keepdims=True))
        apart = scores / scores.sum(axis=1, keepdims=True) - np.eye(classes)[y]
        apart = apart[:, 1:] if classes == 2 else apart
        np.testing.assert_allclose(C * apart.T @ X, -coef, atol=1e-3 * np.abs(coef).max())
        np.testing.assert_allclose(apart.sum(axis=0), 0, atol=1e-3)
    assert "not converged" not in caplog.text


def test_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = uneven_rows(3, 2 * logistic._ROWS + 500, width=8)
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        path = list(logistic.solve_path(X, y, [0.01, 1.0], np.ones(len(y))))
        found.append(b"".join(array.tobytes() for pair in path for array in pair))
    assert found[0] == found[1] == found[2]
