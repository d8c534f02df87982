"""Rows that stay in the file: what is read, in which order, and that heads come out the same."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from classify.data.dataset import Dataset, load_dataset
from classify.data.preprocessing import Transform
from classify.heads.keras_head import fit_heads
from classify.heads.linear_head import fit_linear
from classify.scores.calibration import deal_folds, fit_logit_scale
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored import out_of_core as module
from classify.stored.memory_budget import free_memory
from classify.stored.out_of_core import Epoch, StoredRows, flatten, iter_chunks
from classify.stored.views import FoldData
from extract.core.errors import HeadError, StoreError
from tests.conftest import MakeStore

COUNT = 900
# GB: no room for anything.
NONE = 1e-9


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 rows, windows of 60, pieces of 15."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 500)
    monkeypatch.setattr(module, "WINDOW_BYTES", 10_000)
    monkeypatch.setattr(module, "PIECE_BYTES", 2_500)


def features(width: int = 40) -> np.ndarray:
    """Rows sorted by class, as a store of class folders has them."""
    X = np.random.default_rng(0).normal(size=(COUNT, width)).astype(np.float32) + 5
    X[np.arange(COUNT), np.arange(COUNT) * 3 // COUNT] += 2
    return X


@pytest.fixture
def path(make_store: MakeStore, small_blocks: None) -> Path:
    labels = (np.arange(COUNT) * 3 // COUNT).tolist()
    split = (np.arange(COUNT) % 5 == 0).astype(int).tolist()
    X = features().reshape(COUNT, 2, 2, 10)
    return make_store(X, labels, split, class_names=("a", "b", "c"))


@pytest.fixture
def pair(path: Path) -> tuple[Dataset, Dataset]:
    """One store in memory, and left in the file."""
    return load_dataset(path), load_dataset(path, memory=NONE)


def everything(X: Any) -> np.ndarray:
    return np.concatenate([rows for _, rows in iter_chunks(X)])


# What is read.


def test_memory_decides_and_it_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = COUNT * 40 * 4
    with caplog.at_level(logging.INFO, "headstart"):
        held, left = (load_dataset(path, memory=share * size / 1e9) for share in (4.1, 3.9))
    assert isinstance(held.X, np.ndarray)
    assert isinstance(left.X, StoredRows)
    assert left.X.shape == held.X.shape == (COUNT, 2, 2, 10)
    assert caplog.messages[0].endswith("900 rows of 40 features, 0.1 MB, in memory")
    assert "0.1 MB, read from the file while training: 4 times as much" in caplog.messages[1]
    assert 0 < free_memory() < 2**50


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(places=st.sets(st.integers(0, COUNT - 1), min_size=1), seed=st.integers(0, 3))
def test_any_rows_are_read_and_an_epoch_holds_each_once(
    pair: tuple[Dataset, Dataset], places: set[int], seed: int
) -> None:
    held, left = pair
    chosen = np.array(sorted(places))
    some, wanted = left.X[chosen], held.X[chosen]
    np.testing.assert_array_equal(some.read(np.arange(len(some))), wanted)
    np.testing.assert_array_equal(everything(some), wanted)
    for epoch in (Epoch(some), Epoch(some, [seed, 1])):
        assert sorted(epoch.order) == list(range(len(some)))
        for _ in range(2):
            found = [epoch.take(i, min(i + 7, len(some))) for i in range(0, len(some), 7)]
            np.testing.assert_array_equal(np.concatenate(found), wanted[epoch.order])
    assert Epoch(some, [seed, 1]).order.tolist() == epoch.order.tolist()


def test_an_epoch_mixes_classes_that_lie_apart(pair: tuple[Dataset, Dataset]) -> None:
    order = Epoch(pair[1].X, [0, 0]).order
    assert order.tolist() != Epoch(pair[1].X, [0, 1]).order.tolist()
    # Each window of 60 rows has rows of each class, though the file is sorted by class.
    classes = pair[0].y[order]
    assert all(len(set(classes[i : i + 60])) == 3 for i in range(0, COUNT, 60))


def test_layers_are_joined_and_half_precision_is_widened(
    make_store: MakeStore, small_blocks: None
) -> None:
    X = features().astype(np.float16)
    layers = {"conv1_relu": X[:, :30].reshape(COUNT, 5, 6), "conv_pw_1": X[:, 30:]}
    made = make_store(layers, [0, 1] * (COUNT // 2))
    found = load_dataset(made, "conv1_relu+conv_pw_1", NONE)
    np.testing.assert_array_equal(everything(found.X), X.astype(np.float32))
    assert everything(load_dataset(made, "conv1_relu", NONE).X).shape == (COUNT, 5, 6)


def test_features_that_are_not_finite_are_refused(make_store: MakeStore) -> None:
    X = features()
    X[7, 1] = np.inf
    made = make_store(X, [0, 1] * (COUNT // 2))
    with pytest.raises(StoreError, match=r"features of 1 images .*first 000007\.png"):
        load_dataset(made, memory=NONE)


def test_a_file_that_is_gone_is_an_error(pair: tuple[Dataset, Dataset], path: Path) -> None:
    path.unlink()
    with pytest.raises(StoreError, match="no such file"):
        everything(pair[1].X)


def test_a_file_that_goes_while_a_head_trains_is_an_error(
    pair: tuple[Dataset, Dataset], path: Path
) -> None:
    held, left = pair
    path.unlink()
    rows = FoldData(left.X, left.y, held.X[:60], held.y[:60])
    with pytest.raises(StoreError, match="no such file"):
        fit_heads([HeadSpec("linear", epochs=2)], rows)


def test_the_fingerprint_counts_all_rows(pair: tuple[Dataset, Dataset]) -> None:
    held, left = pair
    assert held.fingerprint == replace(held, X=held.X.copy()).fingerprint
    for row in (1, 450, COUNT - 1):
        other = held.X.copy()
        other[row, 0, 0, 0] += 1e-3
        assert replace(held, X=other).fingerprint != held.fingerprint
    assert left.fingerprint != held.fingerprint
    # Features that are not read count by what made them.
    calibrated = [replace(left, calibration_sha256=digit * 64) for digit in ("0", "1")]
    assert len({made.fingerprint for made in (left, *calibrated)}) == 3


# Transforms and heads.


@pytest.mark.parametrize(
    "steps", [(), ("standardise",), ("sqrt", "l2"), ("sqrt", "standardise", "l2")], ids=str
)
def test_transforms_are_the_same(steps: tuple[str, ...], pair: tuple[Dataset, Dataset]) -> None:
    held, left = (Transform(steps) for _ in range(2))
    wanted, found = held.fit_apply(pair[0].X), left.fit_apply(pair[1].X)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(everything(found), wanted, atol=1e-5)


def test_a_still_feature_far_from_zero_becomes_zero(
    make_store: MakeStore, small_blocks: None
) -> None:
    X = features() * 1e-3 + 1000
    X[:, 3] = 0.1
    made = make_store(X, [0, 1] * (COUNT // 2))
    held, left = load_dataset(made), load_dataset(made, memory=NONE)
    found = everything(Transform(["standardise"]).fit_apply(left.X))
    assert (found[:, 3] == 0).all()
    wanted = Transform(["standardise"]).fit_apply(held.X)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("folds", [None, 3])
def test_ridge_and_lda_are_the_direct_solutions(
    folds: int | None, classes: int, pair: tuple[Dataset, Dataset]
) -> None:
    specs = (
        *(HeadSpec("ridge", alpha=alpha) for alpha in (1e-2, 1.0, 300.0)),
        *(HeadSpec("lda", shrinkage=share) for share in (0.01, 0.5)),
    )
    names = ("a", "b", "c")[:classes]
    results = [
        run(replace(made, y=made.y % classes, class_names=names), TrainConfig(specs, folds))
        for made in pair
    ]
    held, left = ({e.spec: e for e in result.entries} for result in results)
    for spec in specs:
        here, there = dict(left[spec].scores), dict(held[spec].scores)
        # The scale of lda is fitted on one fold here, and on three in memory.
        loose = 0.05 if spec.head == "lda" else 1e-6
        assert here.pop("loss") == pytest.approx(there.pop("loss"), abs=loose)
        # Areas compare scores across folds and, of three classes, across images, so that the scale
        # moves them, too.
        assert here == pytest.approx(there, abs=5e-3 if spec.head == "lda" else 1e-6)
        np.testing.assert_array_equal(left[spec].evaluation.answers, held[spec].evaluation.answers)
        assert left[spec].evaluation.train_accuracy == held[spec].evaluation.train_accuracy
    best = results[0].best.spec
    if best != results[1].best.spec:  # the scale of lda decides between its shrinkages
        assert {result.best.spec.head for result in results} == {"lda"}
        return
    wanted, found = (
        result.head.predict_proba(made.X)
        for result, made in zip(results, pair, strict=True)
        if result.head
    )
    if best.head == "lda":  # they differ by their scale
        logits = [np.log(p) - np.log(p).mean(axis=1)[:, None] for p in (found, wanted)]
        assert np.corrcoef(*map(np.ravel, logits))[0, 1] > 0.999
    else:
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_scale_of_lda_is_fitted_on_rows_that_are_left_out(
    pair: tuple[Dataset, Dataset],
) -> None:
    X, y, spec = pair[0].X.reshape(COUNT, -1).astype(np.float64), pair[0].y, HeadSpec("lda")
    (held,), (left,) = (fit_linear([spec], made.X, made.y) for made in pair)
    for found, wanted in zip(left._model, held._model, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    out = deal_folds(y) == 0
    direct = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=spec.shrinkage)
    logits = direct.fit(X[~out], y[~out]).decision_function(X[out]).reshape(out.sum(), -1)
    assert left._scale == pytest.approx(fit_logit_scale(logits, y[out]), rel=1e-3)


def test_keras_heads_learn_and_are_seeded(pair: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    specs = (
        HeadSpec(units=(16,), epochs=8, learning_rate=0.01, transform=("standardise",)),
        HeadSpec("linear", epochs=8, learning_rate=0.01, batch_size=32),
    )
    first, again = (run(pair[1], TrainConfig(specs), tmp_path / name) for name in "ab")
    for entry, other in zip(first.entries, again.entries, strict=True):
        assert entry.scores["accuracy"] > 0.75
        assert entry.scores == other.scores
        assert entry.evaluation.history == other.evaluation.history
    # What goes on from the journal is the same head.
    resumed = run(pair[1], TrainConfig(specs), tmp_path / "a")
    assert first.head is not None
    assert resumed.head is not None
    X = pair[0].X
    np.testing.assert_allclose(
        resumed.head.predict_proba(X), first.head.predict_proba(X), atol=1e-4
    )
    held = run(pair[0], TrainConfig(specs))
    for entry in first.entries:
        (same,) = [e for e in held.entries if e.spec == entry.spec]
        assert entry.scores["accuracy"] == pytest.approx(same.scores["accuracy"], abs=0.1)


@pytest.mark.parametrize("size", [1000, 64, 7])
def test_the_last_batch_is_filled_and_counts_each_row_once(
    size: int, pair: tuple[Dataset, Dataset]
) -> None:
    # With one step an epoch of zero length the curves are those of the first weights.
    spec = HeadSpec("linear", epochs=1, batch_size=size, learning_rate=1e-12)
    held, left = (
        fit_heads([spec], FoldData(made.X[:300], made.y[::3], made.X[300:310], made.y[300:310]))[0]
        for made in pair
    )
    for curve, values in held.history.items():
        assert left.history[curve] == pytest.approx(values, abs=1e-4), curve


def test_who_needs_memory_is_left_out_or_refused(
    pair: tuple[Dataset, Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    lda, svm, pca = HeadSpec("lda"), HeadSpec("svm"), HeadSpec("ridge", transform=("pca=3",))
    with caplog.at_level(logging.INFO, "headstart"):
        result = run(pair[1], TrainConfig((svm, lda, pca), named=False))
    assert [entry.spec for entry in result.entries] == [lda]
    assert "left out, for the features of conv1_relu stay in the file: svm, pca" in caplog.text
    for config in (TrainConfig((svm, lda)), TrainConfig((svm,), named=False)):
        with pytest.raises(HeadError, match=r"svm: .* expected dense or linear, or ridge or lda"):
            run(pair[1], config)


def test_products_of_too_many_features_are_refused(
    pair: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.registry.MOST_SUMMED", 39)
    with pytest.raises(HeadError, match="ridge of 40 features"):
        run(pair[1], TrainConfig((HeadSpec("ridge"),)))


def test_maps_are_flattened_once(pair: tuple[Dataset, Dataset]) -> None:
    vectors = flatten(pair[1].X)
    assert vectors.shape == (COUNT, 40)
    assert flatten(vectors) is vectors
    np.testing.assert_array_equal(everything(vectors), pair[0].X.reshape(COUNT, -1))


_LARGE = """
import re, sys
from classify.stored import out_of_core
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.data.dataset import load_dataset
from classify.search.search import run
out_of_core.WINDOW_BYTES, out_of_core.PIECE_BYTES = 2**24, 2**22
dataset = load_dataset(sys.argv[1], memory=0.01)
spec = HeadSpec("lda") if sys.argv[2] == "lda" else HeadSpec("linear", epochs=2, batch_size=512)
result = run(dataset, TrainConfig((spec,)))
# Not getrusage, whose peak begins with that of the process before.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(int(peak) * 1024, result.best.scores["accuracy"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "lda"])
def test_memory_does_not_grow_with_the_file(head: str, make_store: MakeStore) -> None:
    peaks = []
    for count in (40_000, 120_000):  # 0.12 and 0.37 GB
        X = np.random.default_rng(0).normal(size=(count, 768)).astype(np.float32)
        labels = np.arange(count) * 2 // count
        X[:, :50] += labels[:, None]
        path = make_store(X, labels.tolist(), name=f"{count}.h5")
        del X
        words = [sys.executable, "-c", _LARGE, str(path), head]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peak, accuracy = done.stdout.split()
        assert float(accuracy) > 0.9
        peaks.append(float(peak))
        path.unlink()
    assert peaks[1] - peaks[0] < 0.1e9
