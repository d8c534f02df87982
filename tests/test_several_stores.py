"""Heads on several files of features: one leaderboard, and heads that predict from images."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify import load_dataset, predict_images, train_heads
from classify.cli import main as train_head
from classify.inference.bundle import load_head
from classify.predict_cli import main as predict
from extract import write_features
from extract.images.digests import digest_bytes
from extract.pipeline.run import run_extraction as extract_features
from tests.conftest import QUICK
from tests.test_inference_predict import draw

Made = tuple[Path, Path, Path]
LAYERS = ("small:conv1_relu", "large:conv_pw_1_relu")
JOINED = "+".join(LAYERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, and two stores of them: of another layer, size and type."""
    folder = tmp_path_factory.mktemp("several")
    draw(folder / "images")
    first, second = folder / "small.h5", folder / "large.h5"
    extract_features(folder / "images", first, **{**QUICK, "pooling": "avg"}, dtype="float16")
    settings: dict[str, Any] = {**QUICK, "pooling": "avg", "image_size": (48, 40)}
    extract_features(folder / "images", second, **{**settings, "layer": ("conv_pw_1_relu",)})
    return folder / "images", first, second


def test_one_command_ranks_every_layer_and_all_joined(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [shutil.copy(path, tmp_path) for path in made[1:]]
    before = [digest_bytes(Path(path).read_bytes()) for path in paths]
    words = [*map(str, paths), "--head", "logistic", "--head", "knn"]
    assert train_head(words) == 0
    shown, folder = capsys.readouterr(), tmp_path / "small_large_head"
    assert f"layers: {LAYERS[0]} of {paths[0]}; {LAYERS[1]} of {paths[1]}" in shown.err
    result = json.loads((folder / "result.json").read_text())
    assert result["store"] == [*map(str, paths)]
    layers = sorted("+".join(candidate["settings"]["layer"]) for candidate in result["candidates"])
    assert layers == sorted([*LAYERS, JOINED] * 2)
    assert [digest_bytes(Path(path).read_bytes()) for path in paths] == before
    page = (folder / "report.html").read_text().replace("<wbr>", "")
    assert all(str(path) in page for path in paths)
    # The same command continues from the candidates; another second file does not.
    known = (folder / "candidates.jsonl").read_bytes()
    assert train_head(words) == 0
    assert (folder / "candidates.jsonl").read_bytes() == known
    extract_features(made[0], paths[1], **{**QUICK, "layer": ("conv_pw_1_relu",)}, overwrite=True)
    assert train_head(words) == 0
    assert (folder / "candidates.jsonl").read_bytes().split(b"\n")[0] != known.split(b"\n")[0]


@pytest.mark.parametrize("number", [0, 1])
def test_a_head_on_one_of_the_stores_is_a_head_of_that_store(
    made: Made, tmp_path: Path, number: int
) -> None:
    settings: dict[str, Any] = {"head": "logistic", "folds": 3}
    train_heads(made[1:], layer=LAYERS[number], output=tmp_path / "of_two", **settings)
    train_heads(made[1 + number], output=tmp_path / "alone", **settings)
    described = [
        json.loads((tmp_path / n / "bundle.json").read_text()) for n in ("of_two", "alone")
    ]
    for one in described:
        one["settings"].pop("layer", None)
    assert described[0] == described[1]
    for file in ("transform.npz", "head.npz"):
        first, second = (np.load(tmp_path / name / file) for name in ("of_two", "alone"))
        assert all((first[key] == second[key]).all() for key in second.files)
    answers = [predict_images(made[0], tmp_path / name) for name in ("of_two", "alone")]
    assert [*answers[0]] == [*answers[1]]


def test_a_head_on_joined_layers_predicts_with_every_trunk(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "joined"
    train_heads(made[1:], layer=JOINED, head="logistic", folds=3, output=folder)
    head = load_head(folder)
    assert repr(head).count("mobilenet") == 2
    dataset = load_dataset(made[1:], JOINED)
    scores = head.predict_proba(dataset.X)
    source = tmp_path / "images"
    shutil.copytree(made[0], source)
    (source / "bright" / "0a.png").write_bytes(b"no image")
    for size in (1024, 7):
        monkeypatch.setattr("classify.inference.trunk._JOINED_IMAGES", size)
        predictions = predict_images(source, folder)
        found = {p.key: p for p in predictions}
        assert predictions.evaluation is not None
        assert predictions.evaluation.seen == predictions.evaluation.rows == len(scores)
        assert found["bright/0a.png"].reason
        for key, own in zip(dataset.keys, scores, strict=True):
            assert found[key].label == dataset.class_names[own.argmax()]
            assert found[key].score == pytest.approx(own.max(), abs=1e-4)
        assert len(found) == len(scores) + 1
    assert predict([str(folder), str(source), "--weights", str(made[1])]) == 2
    assert (
        "weights: found one file for several trunks (mobilenet, mobile" in capsys.readouterr().err
    )


def test_the_command_that_is_printed_works(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made[0], tmp_path / "images")
    paths = [str(tmp_path / name) for name in ("small.h5", "large.h5")]
    for path, layer in zip(paths, ("conv1_relu", "conv_pw_1_relu"), strict=True):
        settings: dict[str, Any] = {**QUICK, "pooling": "avg", "layer": (layer,)}
        extract_features(tmp_path / "images", path, **settings)
    for gone in (False, True):
        if gone:
            shutil.rmtree(tmp_path / "images")
        for layer in (*LAYERS, JOINED):
            folder = tmp_path / "head"
            words = [*paths, "--head", "lda", "--layer", layer, "-o", str(folder)]
            assert train_head(words) == 0
            last = capsys.readouterr().err.splitlines()[-1]
            if gone and layer == JOINED:
                assert "next:" not in last
                continue
            wanted = paths[LAYERS.index(layer)] if gone else tmp_path / "images"
            assert last == f"next: predict-images {folder} {wanted}"
            assert predict(last.split()[2:]) == 0
            capsys.readouterr()


def test_what_needs_one_trunk_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, model = [*map(str, made[1:])], str(tmp_path / "model.keras")
    words = [*paths, "--head", "logistic", "-o", str(tmp_path / "head"), "--export", model]
    assert train_head([*paths, "--finetune"]) == 2
    assert "finetune: found 2 files of features; expected one" in capsys.readouterr().err
    assert train_head([*words, "--layer", JOINED]) == 2
    assert "export: found a head on joined layers of several files" in capsys.readouterr().err
    assert not (tmp_path / "head").exists()
    assert train_head([*words, "--sweep", f"layer={JOINED},{LAYERS[0]}", "--folds", "3"]) in (0, 1)
    shown = capsys.readouterr().err
    best = json.loads((tmp_path / "head" / "bundle.json").read_text())
    if best["layer"] == JOINED:
        assert "is a head on joined layers of several files, and a model has one trunk" in shown
        assert f"train it alone with --head logistic --layer {LAYERS[0]}" in shown
    assert Path(model).exists() == (best["layer"] != JOINED)
    assert train_head([*words, "--layer", LAYERS[1]]) == 0
    assert Path(model).exists()


def test_a_renamed_folder_and_a_lost_image_are_said(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.copytree(made[0], tmp_path / "images")
    (tmp_path / "images" / "dark" / "3.png").unlink()
    (tmp_path / "images" / "bright").rename(tmp_path / "images" / "sunny")
    extract_features(tmp_path / "images", tmp_path / "other.h5", **QUICK)
    dataset = load_dataset([made[1], tmp_path / "other.h5"], "other:conv1_relu")
    assert len(dataset.y) == 23
    assert dataset.class_names == ("bright", "dark", "middling")
    text = "matched 23 of 24 images of .*; 8 under another key, by their bytes; 1 left out, which "
    assert any(np.char.find(message, "8 under another key") >= 0 for message in caplog.messages), (
        text
    )
    assert "another label of 8 images (first bright/0.png: sunny, not bright)" in caplog.text


def test_features_of_another_program_join_by_key(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = load_dataset(made[1]).keys
    X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    np.savez(tmp_path / "clip.npz", features=X, keys=np.array(keys))
    write_features(tmp_path / "clip.h5", X, keys=keys)
    paths = [made[1], tmp_path / "clip.h5"]
    dataset = load_dataset(paths, "clip:features+small:conv1_relu")
    assert (dataset.X[:, :3] == X).all()
    folder = tmp_path / "head"
    train_heads(paths, layer="clip:features+small:conv1_relu", head="lda", output=folder)
    assert predict([str(folder), str(made[0])]) == 1
    assert "in part features of another program; expected trunks" in capsys.readouterr().err
    # Of the layer of the other program alone it is a head of that file.
    train_heads(paths, layer="clip:features", head="lda", output=folder)
    assert predict([str(folder), str(tmp_path / "clip.npz")]) == 0
    train_heads(paths, layer="small:conv1_relu", head="lda", output=folder)
    assert predict([str(folder), str(made[0])]) == 0


def test_the_hold_out_does_not_depend_on_the_layer_that_is_read(made: Made, tmp_path: Path) -> None:
    keys = load_dataset(made[1]).keys
    X, labels = np.ones((24, 3), np.float32), [key.split("/")[0] for key in keys]
    write_features(tmp_path / "clip.h5", X, keys=keys, labels=labels)
    for paths in ([made[1], tmp_path / "clip.h5"], [tmp_path / "clip.h5", made[1]]):
        sides = [
            load_dataset(paths, layer).grouping.hashed.tolist()
            for layer in ("small:conv1_relu", "clip:features", "clip:features+small:conv1_relu")
        ]
        assert sides[0] == sides[1] == sides[2]
        assert (sides[0] == keys) == (paths[1] == made[1])


def test_features_of_another_program_among_several_are_said_once_before_training(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = load_dataset(made[1]).keys
    write_features(tmp_path / "clip.h5", np.random.default_rng(0).random((24, 3)), keys=keys)
    words = [str(made[1]), str(tmp_path / "clip.h5"), "--head", "lda", "-o", str(tmp_path / "head")]
    assert train_head(words) == 0
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "of another program" in line]
    assert line.startswith("warning: ")
    assert "heads on clip:features, alone or joined, label no images" in line
    assert train_head([*map(str, made[1:]), *words[2:-1], str(tmp_path / "both")]) == 0
    assert "another program" not in capsys.readouterr().err
