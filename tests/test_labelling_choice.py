"""The images to label next: unsure, different from each other, and the same ones each time."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from classify.labelling.choice import POOL, choose_different, least_sure, normalise


def blobs(
    sizes: list[int], features: int = 8, spread: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Rows around as many directions as there are sizes, and the number of each one's direction."""
    random = np.random.default_rng(0)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.eye(len(sizes), features)
    X = centres[owners] + spread * random.normal(size=(len(owners), features))
    lengths = random.uniform(0.5, 20, (len(owners), 1))  # lengths have no effect
    order = random.permutation(len(owners))
    return (X * lengths)[order].astype(np.float32), owners[order]


def test_each_cluster_gets_one_and_the_largest_is_first() -> None:
    X, owners = blobs([50, 5, 20, 2])
    for seed in range(5):
        assert owners[choose_different(X, 4, seed=seed)].tolist() == [0, 2, 1, 3]
    np.testing.assert_array_equal(choose_different(X, 4), choose_different(X, 4))


def test_the_chosen_row_is_the_nearest_to_the_centre_that_scikit_learn_finds() -> None:
    X, _ = blobs([40, 30, 20], spread=0.2)
    weights = np.random.default_rng(1).uniform(0.05, 1, len(X))
    rows = normalise(X)
    model = KMeans(3, n_init=5, random_state=0).fit(rows, sample_weight=weights)
    distances = model.transform(rows)
    wanted = {int(column.argmin()) for column in distances.T}
    assert set(choose_different(X, 3, 1 - weights).tolist()) == wanted


def test_margins_weigh_and_order() -> None:
    X, _ = blobs([30, 30])
    margins = np.random.default_rng(2).uniform(0, 1, 60)
    chosen = choose_different(X, 6, margins)
    assert np.all(np.diff(margins[chosen]) >= 0)
    assert len(set(chosen.tolist())) == 6
    # Of two tight clusters of one direction each, the centre follows the unsure rows.
    line = np.array([[1, a] for a in np.linspace(0, 0.5, 21)], np.float32)
    unsure = np.where(np.arange(21) < 5, 0.0, 0.999)
    assert choose_different(line, 1, unsure).item() < choose_different(line, 1).item()


def test_all_are_chosen_once_where_there_are_no_more() -> None:
    X, _ = blobs([3, 4])
    assert sorted(choose_different(X, 99).tolist()) == list(range(7))
    copies = np.ones((10, 4), np.float32)
    assert len(set(choose_different(copies, 6).tolist())) == 6
    zeros = np.zeros((5, 2, 2, 3), np.float32)  # maps, of nothing
    assert sorted(choose_different(zeros, 5).tolist()) == list(range(5))
    assert len(choose_different(copies, 3, np.ones(10))) == 3  # all are sure


@pytest.mark.parametrize("count", [1, 3, 30])
def test_the_pool_has_the_lowest_margins(count: int) -> None:
    margins = np.random.default_rng(0).uniform(size=200)
    pool = least_sure(margins, count)
    assert len(pool) == min(200, POOL * count)
    assert np.all(np.diff(pool) > 0)
    rest = np.setdiff1d(np.arange(200), pool)
    assert not len(rest) or margins[pool].max() <= margins[rest].min()
