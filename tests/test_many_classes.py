"""Thousands of classes through every command: what is written stays small, nothing takes hours."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.activation.explain import Explained
from classify.cli import main as train_head
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import analyse
from classify.figures.confusion import MOST_CELLS, draw_confusion
from classify.figures.drawing import to_svg
from classify.heads.registry import FittedHead
from classify.inference.bundle import save_head, save_report
from classify.predict_cli import main as predict_images
from classify.scores.calibration import scale_sample
from classify.scores.metrics import confusion_matrix, list_confusion
from classify.search.feasibility import drop_infeasible
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.cli import main as extract_features
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError
from extract.show_cli import main as show_features
from tests.browser import opened

LDA, KNN = HeadSpec("lda"), HeadSpec("knn")


def dataset(K: int, count: int = 4, width: int = 16) -> Dataset:
    """Half of the rows train, the other half validates."""
    generator = np.random.default_rng(0)
    y = np.tile(np.arange(K), count)
    X = generator.normal(size=(K, width))[y] + 0.5 * generator.normal(size=(len(y), width))
    split = np.repeat([0, 1], K * count // 2).astype(np.int8)
    keys, names = [f"{row}.jpg" for row in range(len(y))], tuple(f"class {n:05d}" for n in range(K))
    spec = TrunkSpec("mobilenet", weights="none", image_size=(32, 32))
    return Dataset(X.astype("f4"), y, keys, None, split, names, spec.layer[0], spec, "", "float32")


def test_of_many_classes_the_confusions_of_the_best_head_are_listed(tmp_path: Path) -> None:
    for K in (200, 201):
        made = dataset(K)
        result = run(made, TrainConfig((LDA, KNN)))
        folder = tmp_path / str(K)
        save_head(folder, made, result, "made.h5")
        analysis = analyse(made, result)
        explained = Explained.left_out(analysis.mistakes, "")
        save_report(folder, made, result, analysis, explained, {})
        written = json.loads((folder / "result.json").read_text())
        confusions = [candidate["confusion"] for candidate in written["candidates"]]
        answers = result.best.evaluation.answers
        wanted = confusion_matrix(made.y[result.validation_rows], answers, K).toarray()
        if K == 200:
            assert confusions[0] == wanted.tolist()
            assert np.shape(confusions) == (2, 200, 200)
        else:
            found = np.zeros((K, K), int)
            for truth, answer, count in confusions[0]:
                found[truth, answer] += count
                assert count
            assert found.tolist() == wanted.tolist()
            assert confusions[1] is None
        assert [of["name"] for of in written["best"]["classes"]] == list(made.class_names)


def test_a_sparse_matrix_of_confusions_is_the_dense_one() -> None:
    y, answers = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    assert list_confusion(confusion_matrix(y, answers, 3)) == [[1, 1, 0], [0, 0, 0], [0, 0, 2]]
    cells = list_confusion(confusion_matrix(y, answers, 10**6))
    assert cells == [[0, 0, 1], [0, 1, 1], [2, 2, 2]]


def test_cells_of_many_classes_are_merged() -> None:
    K = 4 * MOST_CELLS
    y = np.arange(K)
    text = to_svg(draw_confusion("c", confusion_matrix(y, (y + 1) % K, K), [""] * K))
    assert len(text) < 200_000
    assert text.count("<text") == 2


def test_scores_in_pieces_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataset(60, count=40)
    result = run(made, TrainConfig((LDA, KNN)))
    assert isinstance(result.head, FittedHead)
    whole = result.head.predict_proba(made.X)
    monkeypatch.setattr("classify.stored.out_of_core.SCORE_BYTES", 8 * 60 * 7)
    np.testing.assert_allclose(result.head.predict_proba(made.X), whole, atol=1e-12)
    again = run(made, TrainConfig((LDA, KNN)))
    for one, other in zip(result.entries, again.entries, strict=True):
        assert one.scores == pytest.approx(other.scores)
        assert one.evaluation.train_accuracy == other.evaluation.train_accuracy


def test_the_scale_of_scores_needs_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(scale_sample(np.arange(20_000), 10_000)) == 1667
    assert len(scale_sample(np.arange(20_000), 100)) == 20_000
    groups = np.arange(20_000) // 4
    kept = scale_sample(groups, 10_000)
    assert np.bincount(groups[kept])[np.unique(groups[kept])].tolist() == [4] * 417
    made = dataset(60, count=40)
    heads = (HeadSpec("ridge"), HeadSpec("naive_bayes"))
    pairs = [f"{row // 120}, {row % 60}" for row in range(len(made.y))]  # each of one class
    for grouped in (None, pairs):
        own = replace(made, groups=grouped)
        monkeypatch.undo()
        before = {entry.spec: entry.scores for entry in run(own, TrainConfig(heads)).entries}
        monkeypatch.setattr("classify.scores.calibration._MOST_LOGITS", 60 * 300)
        for entry in run(own, TrainConfig(heads)).entries:
            assert entry.scores["accuracy"] == before[entry.spec]["accuracy"]
            assert entry.scores["loss"] == pytest.approx(before[entry.spec]["loss"], abs=0.05)


@pytest.mark.parametrize(
    ("head", "K", "message"),
    [
        ("svm", 301, "svm takes at most 300 classes"),
        ("boosting", 301, "boosting takes at most 300 classes"),
        ("forest", 1001, "forest takes at most 1,000 classes"),
        ("logistic", 5001, "logistic of more than 1,000 classes takes at most 100 million rows"),
    ],
)
def test_heads_that_would_take_hours_are_left_out_or_refused(
    head: str, K: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, spec = dataset(K, width=2), HeadSpec(head)
    fewer = dataset(K // 2, width=2)
    with caplog.at_level(logging.INFO, "headstart"):
        kept = drop_infeasible(made, TrainConfig((LDA, spec), named=False)).candidates
        assert drop_infeasible(fewer, TrainConfig((spec,))).candidates == (spec,)
    assert kept == (LDA,)
    assert f"; found {4 * K:,} rows of {K:,} classes" in caplog.text
    assert f"left out, for {message}" in caplog.text
    for config in (TrainConfig((LDA, spec)), TrainConfig((spec,), named=False)):
        with pytest.raises(HeadError, match=f"{message}.*; found .*; use lda, ridge, knn"):
            drop_infeasible(made, config)


def write_arrays(path: Path, K: int) -> None:
    """Write images of 4 x 4 pixels: of each class two that train and two that validate."""
    generator = np.random.default_rng(0)
    plain = generator.integers(40, 216, (K, 4, 4, 3))
    names, arrays = np.array([f"kind {n:05d} of ten thousand" for n in range(K)]), dict[str, Any]()
    for split in ("train", "val"):
        pixels = np.repeat(plain, 2, axis=0) + generator.integers(-40, 41, (2 * K, 4, 4, 3))
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": np.repeat(names, 2)}
    np.savez(path, **arrays)


@pytest.mark.slow
def test_ten_thousand_classes_pass_through_every_command(
    browser: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import keras

    K = 10_000
    monkeypatch.chdir(tmp_path)
    image = keras.Input((4, 4, 3))
    keras.Model(image, keras.layers.Flatten(name="flat")(image)).save("trunk.keras")
    write_arrays(tmp_path / "images.npz", K)
    trunk = ["--trunk", "trunk.keras", "--layer", "flat", "--preprocess", "rescale"]
    assert extract_features(["images.npz", "out.h5", *trunk, "--batch-size", "256"]) == 0
    assert show_features(["out.h5", "--verify"]) == 0
    assert "9,960 more" in capsys.readouterr().out
    assert train_head(["out.h5", "--head", "lda", "--head", "knn"]) == 0
    assert (tmp_path / "out_head/result.json").stat().st_size < 5_000_000
    assert (tmp_path / "out_head/report.html").stat().st_size < 2_000_000
    written = json.loads((tmp_path / "out_head/result.json").read_text())
    assert len(written["class_names"]) == len(written["best"]["classes"]) == K
    assert sum(count for *_, count in written["candidates"][0]["confusion"]) == 2 * K
    with opened(browser, tmp_path / "out_head/report.html") as page:
        assert page.locator("#classes tbody tr").count() == 200
        assert "The other 9,800 are in result.json" in page.inner_text("#classes")
        assert "Each cell stands for 20" in page.inner_text("#confusions")
    with np.load("images.npz") as arrays:
        np.savez("few.npz", x=arrays["x_val"][::4000])
    assert predict_images(["out_head", "few.npz", "--top", "3", "-o", "few.csv"]) == 0
    rows = list(csv.DictReader((tmp_path / "few.csv").read_text().splitlines()))
    assert len(rows) == 3 * 5
    assert {row["label"] for row in rows} <= set(written["class_names"])
