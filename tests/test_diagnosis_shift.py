"""Whether training and validation images look different: true alarms, false ones, and the area."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import Ridge

from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import Split, split_rows
from classify.diagnosis import shift
from classify.diagnosis.shift import compare_splits, find_leaks
from extract import write_features
from extract.core.config import TrunkSpec


def dataset(y: np.ndarray, X: np.ndarray, groups: list[str] | None = None) -> Dataset:
    keys = [f"{row}.png" for row in range(len(y))]
    names = tuple(f"class {label}" for label in range(y.max() + 1))
    spec = TrunkSpec("mobilenet", weights="none", image_size=(32, 32))
    split = np.zeros(len(y), np.int8)
    return Dataset(X.astype(np.float32), y, keys, groups, split, names, "a", spec, "", "float32")


def divide(held: np.ndarray) -> Split:
    return Split(np.flatnonzero(~held), np.flatnonzero(held), np.zeros(0, np.int64), "store")


def labelled(generator: np.random.Generator, count: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that lie far apart, of different sizes."""
    y = generator.choice(K, count, p=np.arange(1, K + 1) / np.arange(1, K + 1).sum())
    y[:K] = np.arange(K)
    return y, generator.normal(size=(count, 20)) + 4 * generator.normal(size=(K, 20))[y]


def test_other_images_are_noticed() -> None:
    generator = np.random.default_rng(0)
    y, X = labelled(generator, 300, 3)
    held = generator.random(300) < 0.3
    X[held, :3] += 1.0
    found = compare_splits(dataset(y, X), divide(held))
    assert found is not None
    assert found.is_notable
    assert found.area > 0.75
    assert 0.5 < found.chance < 0.65
    assert (found.training, found.validation) == (int((~held).sum()), int(held.sum()))


@pytest.mark.parametrize("kind", ["images", "other shares of the classes", "groups", "maps"])
def test_false_alarms_are_as_rare_as_said(kind: str) -> None:
    """In 50 divisions at random; each is a false alarm with a probability of 1 % at most."""
    alarms = 0
    for seed in range(50):
        generator = np.random.default_rng(seed)
        y, X = labelled(generator, 160, 3)
        held, groups = generator.random(160) < 0.4, None
        if kind == "other shares of the classes":
            # The classes alone would tell the splits apart.
            held = generator.random(160) < np.array([0.1, 0.5, 0.9])[y]
        if kind == "groups":
            # Images of a group are all but equal, and in one split.
            numbers = np.arange(160) // 2
            y, groups = y[numbers * 2], [f"g{n}" for n in numbers]
            X = generator.normal(size=(80, 20))[numbers] + 0.01 * X
            held = (generator.random(80) < 0.4)[numbers]
        if kind == "maps":
            X = X[:, None, None, :] + generator.normal(size=(160, 2, 2, 20))
        found = compare_splits(dataset(y, X, groups), divide(held), seed)
        assert found is not None
        alarms += found.area > found.chance
    assert alarms <= binom.ppf(0.99, 50, 0.01)


def test_the_area_is_that_of_ridge_regression_by_scikit_learn() -> None:
    """In folds, of features and splits that are centred by class, counted pair by pair."""
    generator = np.random.default_rng(1)
    y, X = labelled(generator, 90, 3)
    X[:40, 0] += 0.7
    sides, folds = (np.arange(90) < 40).astype(np.int64), np.arange(90) % 5
    centred = np.stack([X[row] - X[y == y[row]].mean(axis=0) for row in range(90)])
    targets = np.array([sides[row] - sides[y == y[row]].mean() for row in range(90)])
    expected = np.zeros(90)
    for fold in range(5):
        own = folds == fold
        model = Ridge(alpha=1e-3 * 90, fit_intercept=False).fit(centred[~own], targets[~own])
        expected[own] = model.predict(centred[own])
    scores = shift._predict(shift._centre(X, y), shift._centre(sides[:, None], y), folds)
    assert np.allclose(scores[:, 0], expected)
    pairs = [
        expected[b] > expected[a]
        for a in range(90)
        for b in range(90)
        if sides[b] > sides[a] and y[a] == y[b] and folds[a] == folds[b]
    ]
    areas = shift._areas(scores, sides[:, None] == 1, y * 5 + folds)
    assert np.allclose(areas, np.mean(pairs))


def test_few_images_folds_and_hold_outs_are_not_compared() -> None:
    generator = np.random.default_rng(0)
    y, X = labelled(generator, 100, 2)
    held = np.arange(100) < 50
    split, rows = divide(held), dataset(y, X)
    assert compare_splits(rows, split) is not None
    assert compare_splits(rows, replace(split, origin="hold-out")) is None
    assert compare_splits(rows, replace(split, origin="fold")) is None
    assert compare_splits(rows, divide(np.arange(100) < 19)) is None
    # No class is in both.
    assert compare_splits(dataset(held.astype(np.int64), X), split) is None
    assert compare_splits(dataset(y, np.ones_like(X)), split) is not None  # equal features
    found = compare_splits(dataset(y, np.ones_like(X)), split)
    assert found is not None
    assert not found.is_notable


def test_of_many_images_some_of_every_class_are_compared() -> None:
    generator = np.random.default_rng(0)
    y, X = np.repeat(np.arange(3), [9000, 900, 100]), generator.normal(size=(10000, 4))
    rows, sides = shift._choose(dataset(y, X), divide(np.arange(10000) % 2 == 0), generator)
    assert np.bincount(sides).tolist() == [1000, 1000]
    assert len(set(rows.tolist())) == 2000
    assert np.bincount(y[rows]).min() == 100


def test_rows_that_stay_in_the_file_give_the_same(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y, X = labelled(generator, 120, 2)
    X[::3] += 0.5
    labels, split = [f"c{label}" for label in y], ["validation", "train", "train"] * 40
    path = tmp_path / "made.h5"
    write_features(path, X.astype(np.float32), labels=labels, split=split)
    found = [
        compare_splits(d, split_rows(d))
        for d in (load_dataset(path, memory=m) for m in (None, 1e-6))
    ]
    assert found[0] is not None
    assert found[0] == found[1]


def test_copies_on_two_sides_are_named() -> None:
    generator = np.random.default_rng(0)
    y, X = labelled(generator, 60, 2)
    digests = generator.integers(0, 256, (60, 16), dtype=np.uint8)
    digests[7], X[7] = digests[30], X[30]
    rows = replace(dataset(y, X), digests=digests)
    assert find_leaks(rows, [divide(np.arange(60) < 20)]) == [
        "found the same image in two splits 1 time (7.png = 30.png)"
    ]
    assert find_leaks(rows, [divide(np.arange(60) >= 31)]) == []
    folds = [replace(divide(np.arange(60) % 2 == side), origin="fold") for side in (0, 1)]
    assert "two folds" in find_leaks(rows, folds)[0]
