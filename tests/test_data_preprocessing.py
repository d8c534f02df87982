"""Each step against scikit-learn's own, and that only training rows teach."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classify.data.preprocessing import Transform
from extract.core.errors import HeadError

STEPS = ["standardise", "sqrt", "l2", "pca=3"]


def rows(count: int = 40, width: int = 6, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(count, width)) * np.arange(1, width + 1) + 2).astype(np.float32)


def test_standardise_is_scikit_learns() -> None:
    from sklearn.preprocessing import StandardScaler

    X, new = rows(), rows(seed=1)
    transform = Transform(["standardise"])
    scaler = StandardScaler().fit(X)
    np.testing.assert_allclose(transform.fit_apply(X), scaler.transform(X), atol=1e-5)
    np.testing.assert_allclose(transform.apply(new), scaler.transform(new), atol=1e-5)


def test_a_feature_that_never_changes_becomes_zero() -> None:
    X = rows()
    X[:, 2] = 0.1
    transform = Transform(["standardise"])
    assert (transform.fit_apply(X)[:, 2] == 0).all()
    assert (transform.apply(rows(seed=1))[:, 2] == 0).all()


def test_sqrt_keeps_the_sign_and_l2_the_direction() -> None:
    X = np.array([[4, -9, 0], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(Transform(["sqrt"]).fit_apply(X), [[2, -3, 0], [0, 0, 0]])
    unit = Transform(["l2"]).fit_apply(X)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 0], atol=1e-6)
    np.testing.assert_allclose(unit[0] * np.sqrt(97), X[0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 6), (20, 60)], ids=str)
def test_pca_is_scikit_learns_but_for_signs(shape: tuple[int, int]) -> None:
    from sklearn.decomposition import PCA

    X, new = rows(*shape), rows(*shape, seed=1)
    transform = Transform(["pca=3"])
    found = PCA(3, svd_solver="full").fit(X)
    np.testing.assert_allclose(
        abs(transform.fit_apply(X)), abs(found.transform(X)), rtol=1e-4, atol=1e-2
    )
    np.testing.assert_allclose(
        abs(transform.apply(new)), abs(found.transform(new)), rtol=1e-4, atol=1e-2
    )


def test_more_components_than_rows_is_an_error() -> None:
    with pytest.raises(HeadError, match=r"found pca=5 for 5 training rows .* at most 4"):
        Transform(["pca=5"]).fit_apply(rows(5))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(STEPS), max_size=3, unique=True), st.permutations(range(40)))
def test_any_order_of_steps_and_rows(steps: list[str], order: list[int]) -> None:
    X, new = rows(), rows(7, seed=1)
    first, second = Transform(steps), Transform(steps)
    found = first.fit_apply(X)
    assert found.dtype == np.float32
    assert found.shape == (40, 3 if "pca=3" in steps else 6)
    np.testing.assert_allclose(second.fit_apply(X[order]), found[order], atol=1e-3)
    np.testing.assert_array_equal(first.apply(X), found)
    # Rows that are only transformed teach nothing.
    before = first.apply(new)
    first.apply(new * 100)
    np.testing.assert_array_equal(first.apply(new), before)


def test_without_steps_maps_stay_maps_and_with_them_they_are_vectors() -> None:
    X = rows(12, 12).reshape(12, 2, 2, 3)
    assert Transform().fit_apply(X) is X
    assert Transform(["sqrt"]).fit_apply(X).shape == (12, 12)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    X, new = rows(), rows(7, seed=1)
    transform = Transform(["sqrt", "l2", "standardise", "pca=3"])
    transform.fit_apply(X)
    transform.save(tmp_path)
    loaded = Transform.load(tmp_path)
    assert loaded.steps == transform.steps
    np.testing.assert_array_equal(loaded.apply(new), transform.apply(new))
