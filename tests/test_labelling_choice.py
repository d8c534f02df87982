"""The images to label next: unsure, different from each other, and the same ones each time."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from classify.labelling.choice import PART, POOL, _shares, choose_different, least_sure, unit_rows


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
    rows = unit_rows(X)
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


def test_many_are_chosen_in_parts() -> None:
    count = 3 * PART // 2
    X, owners = blobs([*[8] * count, 200], features=count + 1, spread=0.01)
    chosen = choose_different(X, count + 1)
    assert len(set(chosen.tolist())) == count + 1
    # At random about 60 % of the directions have a row among as many.
    assert len(set(owners[chosen].tolist())) > 0.8 * count
    np.testing.assert_array_equal(choose_different(X, count + 1), chosen)
    margins = np.random.default_rng(1).uniform(size=len(X))
    places = choose_different(X, count + 1, margins)
    assert np.all(np.diff(margins[places]) >= 0)
    assert len(set(places.tolist())) == count + 1


@pytest.mark.parametrize("copies", [0, 950, 999])
def test_copies_do_not_keep_parts_from_being_made(copies: int) -> None:
    X = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32)
    X[:copies] = 1
    for count in (PART + 1, 5 * PART, 1000):
        assert len(set(choose_different(X, count).tolist())) == count


def test_a_pool_of_very_many_is_no_larger_than_needed() -> None:
    margins = np.random.default_rng(0).uniform(size=50_000)
    assert [len(least_sure(margins, count)) for count in (1_999, 2_500, 30_000)] == [
        *(19_990, 20_000, 30_000)
    ]


def test_maps_are_averaged_over_their_positions() -> None:
    maps = np.random.default_rng(0).normal(size=(60, 3, 3, 5)).astype(np.float32)
    wanted = choose_different(maps.mean(axis=(1, 2)), 6)
    np.testing.assert_array_equal(choose_different(maps, 6), wanted)
    means = maps.astype(np.float64).mean(axis=(1, 2))
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(unit_rows(maps), means / lengths, atol=1e-6)


def test_no_part_gets_more_than_its_rows() -> None:
    labels, weights = np.array([0, 0, 1, 1, 1, 1]), np.array([9.0, 9, 1, 1, 1, 1])
    assert [_shares(labels, weights, count) for count in (1, 3, 5, 6)] == [
        *([1, 0], [2, 1], [2, 3], [2, 4])
    ]
