"""Heads on features that another program made: training, the report, predictions, refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from classify import load_dataset, load_head, predict_images, sweep, train_heads
from classify.cli import main as train
from classify.predict_cli import main as predict
from extract import HeadError, SettingError, SourceError, StoreError, write_features
from extract.show_cli import main as show

NAMES = np.array(["cat", "dog", "emu"])


def draw(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around three centres, and their classes."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(3, 8))
    y = generator.integers(0, 3, rows)
    return (centres[y] + generator.normal(size=(rows, 8))).astype(np.float32), y


@pytest.fixture
def store(tmp_path: Path) -> Path:
    X, y = draw(90, 1)
    X[4, 2] = np.nan
    groups = [f"g{row // 3}" for row in range(90)]
    split = ["train"] * 60 + ["validation"] * 15 + ["test"] * 15
    settings: Any = {"split": split, "groups": groups, "max_bad": "10%"}
    write_features(tmp_path / "out.h5", X, labels=NAMES[y], **settings)
    return tmp_path / "out.h5"


def test_a_head_scores_new_vectors_as_scikit_learn_does(store: Path, tmp_path: Path) -> None:
    result = train_heads(store, output=tmp_path / "head", head="logistic", C=0.5, transform=())
    X, y = draw(90, 1)
    seen = np.setdiff1d(np.arange(60), [4])
    direct = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cholesky", max_iter=1000)
    direct.fit(X[seen].astype(float), y[seen])
    new, truth = draw(40, 2)
    np.savez(tmp_path / "new.npz", vectors=new.astype(np.float64), y=NAMES[truth])
    found = predict_images(tmp_path / "new.npz", tmp_path / "head", top=3)
    scores = {(p.key, p.label): p.score for p in found}
    wanted = direct.predict_proba(new)
    own = np.array([[scores[f"{row:09d}", name] for name in NAMES] for row in range(40)], float)
    np.testing.assert_allclose(own, wanted, atol=1e-4)
    assert found.evaluation
    assert found.evaluation.rows == 40
    assert found.evaluation.scores["accuracy"] == (wanted.argmax(1) == truth).mean()
    assert found.evaluation.seen == 0
    np.savez(tmp_path / "old.npz", vectors=X[5:].astype(np.float64), y=NAMES[y[5:]])
    again = predict_images(tmp_path / "old.npz", tmp_path / "head").evaluation
    assert again is not None
    assert (again.rows, again.seen) == (85, 70)
    assert result.test
    assert result.test.accuracy == direct.score(X[75:], y[75:])
    assert load_head(tmp_path / "head").trunk.trunk == ""
    assert "no trunk" in repr(load_head(tmp_path / "head"))


def test_folds_sweeps_and_the_report_without_images(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset(store)
    assert len(dataset.y) == 89  # the row with NaN is left out
    assert show([str(store)]) == 0
    said = capsys.readouterr().out
    assert "out.h5: 90 rows, " in said
    assert "1 row could not be read:" in said
    assert len(sweep(dataset, "ridge.alpha=1,10", folds=3).entries) == 2
    words = [str(store), "-o", str(tmp_path / "head"), "--head", "ridge", "--folds", "3"]
    assert train([*words, "--source", "photos"]) == 0
    said = capsys.readouterr().err
    assert "source: has no effect on features of another program" in said
    page = (tmp_path / "head/report.html").read_text()
    assert '<div class="gone">features of another program</div>' in page
    assert "none: features of another program" in page
    assert "image size" not in page
    described = json.loads((tmp_path / "head/bundle.json").read_text())
    assert (described["trunk"], described["format_version"]) == (None, 2)


def test_predictions_in_the_order_of_the_file_in_each_form(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_heads(store, output=tmp_path / "head", head="ridge", quiet=True)
    X, _ = draw(3, 3)
    X[1] = np.inf
    np.savez(tmp_path / "new.npz", X=X, keys=["b", "=a", "c"])
    words = [str(tmp_path / "head"), str(tmp_path / "new.npz"), "--top", "2"]
    assert predict(words) == 4
    said = capsys.readouterr()
    rows = list(csv.reader(said.out.splitlines()))
    assert [row[0] for row in rows] == ["key", "b", "b", "'=a", "c", "c"]
    assert "stdout: 2 rows labelled, 1 unreadable; " in said.err
    assert rows[3][1:] == ["", "", "", "has NaN or infinity in 8 of 8 features"]
    best = load_head(tmp_path / "head").predict_proba(X[[0]])[0]
    assert rows[1][1:3] == [NAMES[best.argmax()], f"{best.max():.6f}".rstrip("0")]
    lines = [*words, "--format", "json", "-o", str(tmp_path / "new.jsonl"), "--max-bad", "1"]
    assert predict(lines) == 0
    assert json.loads((tmp_path / "new.jsonl").read_text().splitlines()[0])["key"] == "b"
    np.save(tmp_path / "one.npy", X[:1])
    assert predict([words[0], str(tmp_path / "one.npy"), "-o", str(tmp_path / "chart.svg")]) == 0
    assert "<svg" in (tmp_path / "chart.svg").read_text()


def test_a_head_of_a_trunk_warns_of_features_that_may_be_others(
    make_store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    X, y = draw(30, 1)
    train_heads(
        make_store(X, y, class_names=NAMES), output=tmp_path / "head", head="ridge", quiet=True
    )
    np.savez(tmp_path / "new.npz", X=X)
    predict_images(tmp_path / "new.npz", tmp_path / "head", quiet=True)
    trained = "the head was trained on features of mobilenet, conv1_relu"
    assert f"{trained}; {tmp_path / 'new.npz'} must hold the same" in caplog.text


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_predictions_do_not_become_labels(ending: str, store: Path, tmp_path: Path) -> None:
    train_heads(store, output=tmp_path / "head", head="ridge", quiet=True)
    np.save(tmp_path / "new.npy", draw(3, 3)[0])
    beside = tmp_path / f"new.{ending}"
    with pytest.raises(HeadError, match="has the place of the table that describes the rows of"):
        predict_images(tmp_path / "new.npy", tmp_path / "head", output=beside)
    assert not beside.exists()
    predict_images(tmp_path / "new.npy", tmp_path / "head", output=tmp_path / "a.csv")
    (tmp_path / "a.csv").rename(beside)
    with pytest.raises(SourceError, match=f"found predictions of predict-images in new.{ending} "):
        predict_images(tmp_path / "new.npy", tmp_path / "head")


def test_rows_without_labels_name_the_flag_for_them(tmp_path: Path) -> None:
    write_features(tmp_path / "out.h5", draw(3, 1)[0])
    with pytest.raises(
        StoreError, match=r"none of 3 rows has features and a label; .*name them: ext"
    ):
        train_heads(tmp_path / "out.h5", output=tmp_path / "head")


def test_what_needs_images_or_a_trunk_is_refused(store: Path, images: Path, tmp_path: Path) -> None:
    head, vectors = tmp_path / "head", tmp_path / "new.npz"
    with pytest.raises(HeadError, match="finetune: found features of another program"):
        train_heads(store, output=head, finetune=True)
    with pytest.raises(HeadError, match="export: found a head on features of another program"):
        train_heads(store, output=head, head="ridge", export=tmp_path / "model.keras")
    assert not head.exists()
    train_heads(store, output=head, head="ridge", quiet=True)
    with pytest.raises(HeadError, match="the head takes features of another program, and SOURCE"):
        predict_images(images, head)
    np.savez(vectors, X=draw(3, 3)[0][:, :5])
    with pytest.raises(HeadError, match=r"found features of shape \(5,\); expected \(8,\), as"):
        predict_images(vectors, head)
    with pytest.raises(
        SettingError, match=r"found .*new\.npz, features of another program; expected"
    ):
        predict_images(vectors, trunk="vgg16")
    with pytest.raises(SettingError, match=r"batch_size: has no effect on .*new\.npz"):
        predict_images(vectors, head, batch_size=3)
