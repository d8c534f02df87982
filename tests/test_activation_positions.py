"""Contributions of positions: exact for linear heads, Keras' gradient for others, and covering."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from classify.activation import positions
from classify.activation.gradients import log_odds_gradient
from classify.activation.positions import COVERED, EXACT, GRADIENT, contributions
from classify.data.preprocessing import Transform
from classify.heads.registry import FittedHead
from classify.search.evaluate import fit_batch
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.errors import HeadError
from extract.trunks.backend import load_keras

N, SIDES, CHANNELS = 60, (3, 2), 5
ROWS = np.arange(7)


def make_maps(K: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    y = np.arange(N) % K
    maps = generator.exponential(size=(N, *SIDES, CHANNELS)).astype(np.float32)
    maps[np.arange(N), 1, 0, y] += 6
    return maps, y


def pooled(maps: np.ndarray, pooling: str) -> np.ndarray:
    if pooling == "none":
        return maps
    return np.asarray(maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2)))


def fit(spec: HeadSpec, X: np.ndarray, y: np.ndarray) -> FittedHead:
    transform = Transform(spec.transform or ())
    rows = transform.fit_apply(X)
    return fit_batch([spec], FoldData(rows, y, rows, y), transform)[0]


def log_odds(head: FittedHead, X: np.ndarray, classes: np.ndarray, others: np.ndarray) -> Any:
    scores = head.predict_proba(X).astype(np.float64)
    rows = np.arange(len(X))
    return np.log(scores[rows, classes] / scores[rows, others])


EPOCHS: Any = {"epochs": 3, "learning_rate": 0.01}
LINEAR = [
    *(HeadSpec(name) for name in ("logistic", "ridge", "lda")),
    HeadSpec("linear", **EPOCHS),
    HeadSpec("logistic", transform=("standardise",)),
    HeadSpec("ridge", transform=("standardise", "pca=4")),
]


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("spec", LINEAR, ids=lambda s: "-".join([s.head, *(s.transform or ())]))
def test_contributions_of_linear_heads_sum_to_the_log_odds(
    spec: HeadSpec, K: int, pooling: str
) -> None:
    maps, y = make_maps(K)
    X = pooled(maps, pooling)
    head = fit(spec, X, y)
    classes, others = np.full(len(ROWS), K - 1), np.zeros(len(ROWS), int)
    found = contributions(head, maps[ROWS], pooling, classes, others)
    assert found.method == EXACT
    expected = log_odds(head, X[ROWS], classes, others)
    assert found.positions.sum(axis=(1, 2)) + found.constant == pytest.approx(expected, abs=1e-4)
    # What no position contributes is the bias: the same for all images, so the sum is exact.
    assert np.ptp(found.constant) < 1e-5
    assert np.ptp(expected) > 0.1
    # An image whose features are all zero has the constant only; a flattened one that is the mean.
    zero = np.zeros_like(X[:1])
    start = X.mean(axis=0, keepdims=True) if pooling == "none" and spec.transform else zero
    assert found.constant[0] == pytest.approx(
        log_odds(head, start, classes[:1], others[:1])[0], abs=1e-4
    )


def test_one_position_is_credited_with_what_it_adds() -> None:
    maps, y = make_maps(3)
    head = fit(HeadSpec("logistic"), pooled(maps, "avg"), y)
    alone = np.zeros_like(maps[:1])
    alone[0, 2, 1] = maps[0, 2, 1]
    classes, others = np.array([1]), np.array([2])
    found = contributions(head, maps[:1], "avg", classes, others)
    added = log_odds(head, pooled(alone, "avg"), classes, others)
    added -= log_odds(head, pooled(0 * alone, "avg"), classes, others)
    assert found.positions[0, 2, 1] == pytest.approx(added[0], abs=1e-5)


DENSE = [
    HeadSpec("dense", units=(6,), activation=name, dropout=0.3, **EPOCHS)
    for name in ("relu", "gelu", "elu", "selu", "silu", "tanh")
]
DENSE += [
    HeadSpec("dense", units=(6, 4), batch_normalisation=True, dropout=0.3, **EPOCHS),
    HeadSpec("dense", units=(6,), transform=("standardise", "pca=4"), **EPOCHS),
]


def assert_close(found: np.ndarray, expected: np.ndarray, share: float = 1e-4) -> None:
    """No value differs by more than a share of the largest one."""
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() < share * np.abs(expected).max()


def gradient_in_keras(head: FittedHead, X: np.ndarray, classes: Any, others: Any) -> np.ndarray:
    """The gradient of the log odds by TensorFlow, of the transform and the Keras model."""
    import tensorflow as tf

    load_keras()
    start = x = tf.Variable(X, dtype=tf.float32)
    with tf.GradientTape() as tape:
        for name, arrays in head.transform.learnt():
            x = x - arrays["mean"]
            x = x * arrays["scale"] if name == "standardise" else x @ arrays["axes"]
        model: Any = head.head
        scores = model.model(x, training=False)
        if scores.shape[1] == 1:
            scores = tf.concat([1 - scores, scores], axis=1)
        rows = np.arange(len(X))
        odds = tf.math.log(
            tf.gather_nd(scores, np.stack([rows, classes], 1))
            / tf.gather_nd(scores, np.stack([rows, others], 1))
        )
    return np.asarray(tape.gradient(odds, start))


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("spec", DENSE, ids=lambda s: f"{s.activation}-{len(s.units)}")
def test_the_gradient_is_that_of_keras(spec: HeadSpec, K: int) -> None:
    maps, y = make_maps(K)
    X = pooled(maps, "avg")
    head = fit(spec, X, y)
    classes, others = y[ROWS], (y[ROWS] + 1) % K
    found = log_odds_gradient(head, X[ROWS], classes, others)
    assert found is not None
    assert not found.is_linear
    expected = gradient_in_keras(head, X[ROWS], classes, others)
    assert_close(found.values, expected)
    known = log_odds(head, X[ROWS], classes, others)
    assert found.log_odds == pytest.approx(known, abs=1e-4)
    explained = contributions(head, maps[ROWS], "avg", classes, others)
    assert explained.method == GRADIENT
    by_hand = (maps[ROWS] * expected[:, None, None]).sum(axis=3) / np.prod(SIDES)
    assert_close(explained.positions, by_hand)


OTHERS = [
    *(HeadSpec(name) for name in ("svm", "knn", "naive_bayes")),
    HeadSpec("forest", trees=20),
    HeadSpec("boosting", trees=5),
    HeadSpec("logistic", transform=("l2",)),
]


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize("spec", OTHERS, ids=lambda s: s.head + "-".join(s.transform or ()))
def test_positions_of_other_heads_are_covered_in_turn(spec: HeadSpec, pooling: str) -> None:
    maps, y = make_maps(3)
    head = fit(spec, pooled(maps, pooling), y)
    classes, others = y[ROWS], (y[ROWS] + 1) % 3
    found = contributions(head, maps[ROWS], pooling, classes, others)
    assert found.method == COVERED
    for row in (0, 4):
        for place in np.ndindex(*SIDES):
            covered = maps[row].astype(np.float64)
            rest = np.ones(SIDES, bool)
            rest[place] = False
            covered[place] = covered[rest].mean(axis=0)
            both = np.stack([maps[row], covered]).astype(np.float32)
            two = [np.repeat(labels[row : row + 1], 2) for labels in (classes, others)]
            full, less = log_odds(head, pooled(both, pooling), *two)
            assert found.positions[row][place] == pytest.approx(full - less, abs=2e-3)
    assert spec.head in ("forest", "knn", "boosting") or np.abs(found.positions).max() > 0.01


@pytest.mark.parametrize("pooling", ["max", "none"])
def test_covering_is_bounded(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, y = make_maps(3)
    head = fit(HeadSpec("svm"), pooled(maps, pooling), y)
    asked = head, maps[ROWS], pooling, y[ROWS], (y[ROWS] + 1) % 3
    whole, sizes = contributions(*asked), list[int]()
    cover = positions._covered

    def spy(image: np.ndarray, *others: Any) -> np.ndarray:
        covered = cover(image, *others)
        sizes.append(len(covered) * image.size)
        return covered

    block = 2 * maps[0].size
    monkeypatch.setattr(positions, "_covered", spy)
    monkeypatch.setattr(positions, "_BLOCK", block)
    found = contributions(*asked)
    assert max(sizes) == block
    assert len(sizes) == len(ROWS) * np.prod(SIDES) / 2
    assert found.positions == pytest.approx(whole.positions, abs=1e-5)
    monkeypatch.setattr(positions, "_MOST_VALUES", len(ROWS) * np.prod(SIDES) * maps[0].size - 1)
    with pytest.raises(HeadError, match="covering 6 positions of 5 channels in 7 images takes"):
        contributions(*asked)


def test_the_object_is_where_the_contributions_are() -> None:
    # Each class has its channel, at one position of each map.
    maps, y = make_maps(3)
    for spec in (HeadSpec("logistic"), replace(DENSE[0], epochs=30), HeadSpec("svm")):
        head = fit(spec, pooled(maps, "avg"), y)
        found = contributions(head, maps, "avg", y, (y + 1) % 3)
        best = found.positions.reshape(N, -1).argmax(axis=1)
        assert (best == np.ravel_multi_index((1, 0), SIDES)).mean() > 0.7
