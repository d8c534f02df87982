"""Neighbours from bounds in float32 are those of scikit-learn in float64."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from classify.solvers import neighbours


def rows_of(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "width", "k"),
    [(1, 3, 1), (7, 3, 5), (7, 3, 7), (130, 8, 5), (3000, 300, 5), (900, 40, 200)],
)
def test_neighbours_are_those_of_scikit_learn(
    count: int, width: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, X = rows_of(count, width, 0), rows_of(60, width, 1)
    X[3] *= 1e3  # rows of very different lengths
    fitted[-1] *= 1e3
    monkeypatch.setattr(neighbours, "_BOUNDS", 7 * count)  # several blocks
    direct = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(fitted.astype(np.float64))
    wanted, places = direct.kneighbors(X.astype(np.float64))
    distances, found = neighbours.nearest(X, fitted, k)
    np.testing.assert_array_equal(found, places)
    np.testing.assert_allclose(distances, wanted, rtol=1e-6)


def test_rounding_of_float32_decides_nothing() -> None:
    # In float32 the distances of rows so far from zero are noise.
    fitted, X = ((1000 + rows_of(n, 50, n) / 64).astype(np.float32) for n in (2000, 40))
    apart = ((X[:, None].astype(np.float64) - fitted) ** 2).sum(axis=2)
    wanted = np.argsort(apart, axis=1, kind="stable")[:, :5]
    distances, found = neighbours.nearest(X, fitted, 5)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(distances**2, np.take_along_axis(apart, wanted, axis=1))


def test_of_rows_at_the_same_distance_the_first_are_taken() -> None:
    fitted = np.repeat(rows_of(40, 6, 0), 5, axis=0)[::-1].copy()
    distances, found = neighbours.nearest(fitted[::9], fitted, 3)
    assert (found == np.arange(0, 200, 9)[:, None] // 5 * 5 + np.arange(3)).all()
    assert not distances.any()


def test_features_beyond_float32_are_compared_as_well() -> None:
    fitted = rows_of(300, 6, 0) * np.float32(1e25)
    _, found = neighbours.nearest(fitted[:40] * np.float32(1.001), fitted, 2)
    assert (found[:, 0] == np.arange(40)).all()


def test_votes_are_those_of_scikit_learn() -> None:
    fitted, X, y = rows_of(400, 12, 0), rows_of(50, 12, 1), np.arange(400) % 7
    X[::5] = fitted[:10]
    direct = KNeighborsClassifier(weights="distance", algorithm="kd_tree").fit(fitted, y)
    found = neighbours.vote(X, fitted, y, 7, 5)
    np.testing.assert_allclose(found, direct.predict_proba(X))
