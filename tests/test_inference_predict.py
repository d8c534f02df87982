"""The whole line on small images: features, head, labels, and what predicting refuses."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.predict import label_images
from classify.inference.predict import predict_images as label_source
from classify.inference.trunk import open_engine
from classify.output.predictions import (
    Answers,
    Prediction,
    Predictions,
    check_replaced,
    write_predictions,
)
from classify.predict_cli import main as predict_images
from classify.settings.prediction import PredictConfig
from extract.core.errors import HeadError, SettingError
from extract.engines.base import Engine
from extract.images.item import Item
from extract.pipeline.run import run_extraction as extract_features
from extract.pipeline.stream import Timings
from extract.sources.listing import list_source
from extract.store.open import open_store
from tests.conftest import QUICK

Made = tuple[Path, Path, Path]


def draw(root: Path) -> None:
    """Draw 24 images: what is dark, middling or bright is a class, which any trunk can see."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("bright", "dark", "middling")):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = generator.integers(0, 60, (40, 30, 3)) + (190, 5, 100)[label]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(scope="module", params=["dense", "logistic"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, their store and a head that was trained on it."""
    folder = tmp_path_factory.mktemp(request.param)
    draw(folder / "images")
    # Half precision, so that another type on the way to the head would show.
    extract_features(folder / "images", folder / "out.h5", dtype="float16", **QUICK)
    settings = {
        "dense": ["--units", "16", "--epochs", "30", "--learning-rate", "0.01"],
        "logistic": [],
    }
    words = [str(folder / "out.h5"), "--head", request.param, *settings[request.param]]
    assert train_head(words) == 0
    return folder / "images", folder / "out.h5", folder / "out_head"


@pytest.fixture(scope="module")
def opened(made: Made) -> tuple[TrainedHead, Engine]:
    bundle = load_head(made[2])
    return bundle, open_engine(bundle, batch_size=7)


def predict(
    bundle: TrainedHead, items: Sequence[Item], engine: Engine, top: int = 1
) -> list[Prediction]:
    return label_images(items, engine, bundle, PredictConfig(top=top)).predictions


def test_scores_equal_the_head_on_the_stored_features(
    made: Made, opened: tuple[TrainedHead, Engine]
) -> None:
    bundle, engine = opened
    found = predict(bundle, list_source(made[0]).items, engine, top=3)
    with open_store(made[1]) as store:
        X = store.read("conv1_relu", slice(None)).astype(np.float32)
        keys, labels = store.keys, store.labels
    scores = bundle.head.predict_proba(X)
    assert [p.key for p in found] == [key for key in keys for _ in range(3)]
    order = np.argsort(-scores, axis=1)
    assert [p.label for p in found] == [bundle.class_names[i] for i in order.ravel()]
    wanted = np.take_along_axis(scores, order, axis=1).ravel()
    np.testing.assert_allclose([p.score for p in found if p.score is not None], wanted, atol=1e-5)
    right = [p.label == bundle.class_names[y] for p, y in zip(found[::3], labels, strict=True)]
    assert np.mean(right) > 0.9


def test_an_unreadable_image_becomes_a_row_with_a_reason_and_moves_no_other(
    made: Made, opened: tuple[TrainedHead, Engine], tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    sources = sorted(made[0].rglob("*.png"))[:20]
    for i, path in enumerate(sources):
        shutil.copy(path, flat / f"{i:02d}.png")
    (flat / "05b.png").write_bytes(b"no image")
    (flat / "99.png").write_bytes(b"")
    bundle, engine = opened
    found = predict(bundle, list_source(flat).items, engine)
    failed = [p for p in found if p.reason is not None]
    assert [(p.key, p.label, p.score) for p in failed] == [
        ("05b.png", None, None),
        ("99.png", None, None),
    ]
    assert all(p.reason for p in failed)
    whole = {p.key: p for p in predict(bundle, list_source(made[0]).items, engine)}
    for p in found:
        if p.reason is None:
            same = whole[str(sources[int(p.key[:2])].relative_to(made[0]))]
            assert p.label == same.label
            assert p.score == pytest.approx(same.score, abs=1e-5)


def test_one_image_is_a_batch_of_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def note(items: Any, engine: Engine, *given: Any) -> Answers:
        sizes.append(engine.batch_size)
        return label_images(items, engine, *given)

    monkeypatch.setattr("classify.inference.predict.label_images", note)
    image = next((made[0] / "dark").iterdir())
    label_source(image, made[2], quiet=True)
    label_source(image, trunk="mobilenet", weights="none", quiet=True)
    assert sizes == [1, 1]


def test_more_labels_than_classes_gives_all(made: Made, opened: tuple[TrainedHead, Engine]) -> None:
    found = predict(opened[0], list_source(made[0] / "dark").items[:1], opened[1], top=99)
    assert {p.label for p in found} == {"bright", "dark", "middling"}
    assert sum(p.score or 0 for p in found) == pytest.approx(1, abs=1e-5)


def test_other_weights_are_refused_before_anything_runs(opened: tuple[TrainedHead, Engine]) -> None:
    other = replace(opened[0], weights_sha256="f" * 64)
    with pytest.raises(HeadError, match=r"none has SHA-256 \w{12}; expected f{12}, which"):
        open_engine(other)


def test_weights_that_have_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    draw(tmp_path / "images")
    paths = [tmp_path / f"{name}.weights.h5" for name in ("first", "second", "gone")]
    for path in paths[:2]:
        keras.applications.MobileNet(weights=None, include_top=False).save_weights(path)
    settings = {**QUICK, "weights": str(paths[0])}
    extract_features(tmp_path / "images", tmp_path / "out.h5", **settings)
    assert train_head([str(tmp_path / "out.h5"), "--head", "logistic"]) == 0
    words = [str(tmp_path / "out_head"), str(tmp_path / "images")]
    assert predict_images(words) == 0
    paths[0].rename(paths[2])
    capsys.readouterr()
    assert predict_images(words) == 1
    assert (
        "is gone; expected the file that made the features; put it back, or say where it is now"
        in (capsys.readouterr().err)
    )
    assert predict_images([*words, "--weights", str(paths[1])]) == 1
    shown = capsys.readouterr()
    assert "which made the features; put it back, or say where it is now with" in shown.err
    assert not shown.out
    assert predict_images([*words, "--weights", str(paths[2])]) == 0


def answered(**settings: Any) -> Answers:
    """The answers for four images, of which one could not be read."""
    answers = Answers(
        ["a/ä,1.png", "b.png", "c.png", "d.png"], ['says "x"', "x", "=z"], PredictConfig(**settings)
    )
    answers.add(np.array([3, 0]), np.array([[0.25, 0.25, 0.5], [0.98765432, 0.01234568, 0]]))
    answers.fail(2, "is empty")
    answers.add(np.array([1]), np.array([[0.25, 0.375, 0.375]]))
    return answers


def _written(form: str, **settings: Any) -> str:
    file = io.StringIO(newline="")
    write_predictions(Predictions(answered(**settings), 0, Timings()), file, form)
    return file.getvalue()


def test_swapped_words_are_told_apart(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict_images([str(made[0]), str(made[2])]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"predict-images: {made[2]}: found a head in the place of SOURCE; expected DIR before "
        "SOURCE; swap them\n"
    )


def test_a_source_of_too_long_a_name_is_no_bug(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_images([str(made[2]), "k" * 300]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_csv() -> None:
    text = _written("csv")
    assert text.splitlines()[0] == "key,label,score,margin,reason"
    assert "\r" not in text
    assert list(csv.reader(io.StringIO(text)))[1:] == [
        ["a/ä,1.png", 'says "x"', "0.987654", "0.975309", ""],
        ["b.png", "x", "0.375", "0.0", ""],
        ["c.png", "", "", "", "is empty"],
        ["d.png", "'=z", "0.5", "0.25", ""],
    ]


def test_json_lines() -> None:
    text = _written("json")
    assert "ä" in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {
        **{"key": "a/ä,1.png", "label": 'says "x"', "score": 0.987654, "margin": 0.975309},
        "reason": None,
    }
    none = {"label": None, "score": None, "margin": None}
    assert lines[2] == {"key": "c.png", **none, "reason": "is empty"}


def test_the_scores_of_all_classes() -> None:
    rows = list(csv.DictReader(io.StringIO(_written("csv", scores=True))))
    names = ['score_says "x"', "score_x", "score_=z"]
    assert list(rows[0]) == ["key", "label", "score", "margin", "reason", *names]
    assert [[row[name] for name in names] for row in rows] == [
        ["0.987654", "0.012346", "0.0"],
        ["0.25", "0.375", "0.375"],
        ["", "", ""],
        ["0.25", "0.25", "0.5"],
    ]
    lines = [json.loads(line) for line in _written("json", scores=True).splitlines()]
    assert lines[1]["scores"] == {'says "x"': 0.25, "x": 0.375, "=z": 0.375}
    assert set(lines[2]["scores"].values()) == {None}
    with pytest.raises(SettingError, match="top and scores cannot be combined"):
        PredictConfig(top=2, scores=True)


def test_a_low_score_is_no_label_and_no_failure() -> None:
    found = Predictions(answered(min_score=0.5, top=2), 0, Timings())
    assert [(p.key, p.label) for p in found] == [
        ("a/ä,1.png", 'says "x"'),
        ("a/ä,1.png", "x"),
        ("b.png", None),
        ("c.png", None),
        ("d.png", "=z"),
        ("d.png", 'says "x"'),
    ]
    assert found[2] == ("b.png", None, 0.375, 0.0, "score 0.375 below 0.5")
    assert (found.unsure, found.unreadable) == (1, 1)
    assert found.summary().startswith("2 images labelled, 1 unsure, 1 unreadable; ")
    # A score just below is not shown as one that is high enough.
    answers = Answers(["a"], ["x", "y"], PredictConfig(min_score=0.6))
    answers.add(np.array([0]), np.array([[0.59999, 0.40001]]))
    assert answers.best[0].reason == "score 0.5999 below 0.6"


def test_predictions_are_replaced_whichever_version_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for heading in ("key,label,score,reason", "key,label,score,margin,reason,score_a,'score_=z"):
        path.write_text(f"{heading}\r\na,b,1,\n")
        check_replaced(path)
    for heading in ("key,label,score", "key,label,suggested_label", "label,key,score,reason"):
        path.write_text(f"{heading}\na,b,1\n")
        with pytest.raises(HeadError, match="holds something else"):
            check_replaced(path)


# The same from Python.


def test_python_does_what_the_command_does(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "labels.csv"
    found = label_source(made[0], made[2], top=2, output=written, batch_size=7, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert predict_images([str(made[2]), str(made[0]), "--top", "2", "-q"]) == 0
    assert capsys.readouterr().out == written.read_text()
    assert [p.key for p in found] == [
        row["key"] for row in csv.DictReader(written.read_text().splitlines())
    ]
    assert (len(found), found.unreadable, found.tolerated) == (48, 0, 0)
    assert found.timings.trunk > 0
    assert isinstance(found[0], Prediction)
    lines = repr(found).splitlines()
    assert lines[0].startswith("24 images labelled, 0 unreadable; ")
    assert len(lines) == 12
    assert lines[1].startswith("bright/0.png  bright  0.")
    assert found._repr_html_().count("<tr>") == 12


def test_python_tolerates_what_it_is_told_to(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "<b>.png").write_bytes((made[0] / "dark" / "0.png").read_bytes())
    found = label_source(tmp_path, str(made[2]), max_bad="50%")
    assert (found.unreadable, found.tolerated) == (1, 1)
    assert "<b>" not in found._repr_html_()
    with pytest.raises(SettingError, match="max_bad: found 'many'"):
        label_source(tmp_path, made[2], max_bad="many")
    with pytest.raises(SettingError, match="trunk: has no effect with"):
        label_source(tmp_path, made[2], trunk="vgg16")
    with pytest.raises(SettingError, match="top: found 0"):
        label_source(tmp_path, made[2], top=0)


def test_a_head_says_in_a_line_what_it_is(made: Made) -> None:
    kind = "dense" if "dense" in str(made[2]) else "logistic"
    assert repr(load_head(str(made[2]))) == (
        f"TrainedHead: {kind}, 3 classes (bright, dark, middling), trunk mobilenet, "
        "layer conv1_relu"
    )


@pytest.mark.parametrize(
    "name", ["table.csv", "store.h5", "photo.jpg", "notes.jsonl", "photo.png", "other.png"]
)
def test_an_input_is_never_an_output(made: Made, tmp_path: Path, name: str) -> None:
    images, store, head = made
    first = next(images.rglob("*.png"))
    shutil.copy(first, tmp_path / "photo.png")
    shutil.copy(first, tmp_path / "photo.jpg")
    shutil.copy(store, tmp_path / "store.h5")
    (tmp_path / "table.csv").write_text("path,label\nphoto.png,dark\n")
    (tmp_path / "notes.jsonl").write_text('{"path": "photo.png"}\n')
    shutil.copy(next(images.rglob("1.png")), tmp_path / "other.png")
    before = (tmp_path / name).read_bytes()
    source = tmp_path / {"photo.png": name, "other.png": "photo.jpg"}.get(name, "table.csv")
    with pytest.raises(HeadError, match=r"is read by this command|holds something else"):
        label_source(source, head, output=tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    # Predictions, charts and an empty file are replaced.
    for ending in ("png", "svg", "pdf"):
        for _ in range(2):
            label_source(tmp_path / "photo.jpg", head, output=tmp_path / f"chart.{ending}")
    (tmp_path / "found.csv").touch()
    for form in ("csv", "csv", "json", "csv"):
        label_source(source, head, output=tmp_path / "found.csv", format=form)


def test_labelled_images_are_compared_with_their_labels(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "site"
    shutil.copytree(made[0], images)
    # Two wrong labels, and a class that the head does not know.
    (images / "dark/0.png").rename(images / "bright/d0.png")
    (images / "dark/1.png").rename(images / "bright/d1.png")
    shutil.copytree(images / "middling", images / "purple")
    found = label_source(images, made[2]).evaluation
    assert found is not None
    assert found.rows == 24
    assert found.class_names == ("bright", "dark", "middling")
    assert found.confusion.tolist() == [[8, 2, 0], [0, 6, 0], [0, 0, 8]]
    assert found.scores["accuracy"] == pytest.approx(22 / 24)
    assert found.scores["macro_f1"] == pytest.approx((16 / 18 + 12 / 14 + 1) / 3)
    for metric, (low, high) in found.intervals.items():
        assert low is not None
        assert high is not None
        assert low < found.scores[metric] < high
    assert predict_images([str(made[2]), str(images), "-o", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().err
    assert "not compared: 8 images of 1 class (purple) that the head does not know" in said
    assert "accuracy 0.917 (95 % CI 0.7" in said
    assert "true class  bright  dark  middling\nbright           8     2         0\n" in said
    # The head was trained on them; one that has changed since is another image.
    assert found.seen == 24
    assert "24 of these 24 images are training or validation images of the head: no test" in said
    Image.new("RGB", (30, 40), (10, 10, 10)).save(images / "dark/7.png")
    changed = label_source(images, made[2]).evaluation
    assert changed is not None
    assert (changed.rows, changed.seen) == (24, 23)
    # One image, or images of unknown classes alone, are not compared.
    assert label_source(images / "purple/0.png", made[2]).evaluation is None
    shutil.move(images / "purple", tmp_path / "other/purple")
    assert label_source(tmp_path / "other", made[2]).evaluation is None


def test_many_classes_are_told_by_their_confusions() -> None:
    from classify.output.evaluation import evaluate_labels

    names = [f"class {number:02}" for number in range(30)]
    items = [Item(f"{i}", "", i % 30, 0, group=f"{i // 30}") for i in range(90)]
    answers = [
        Prediction(item.key, names[0 if item.label == 7 else item.label], 1.0) for item in items
    ]
    found = evaluate_labels(items, answers, names, names)
    assert found is not None
    lines = str(found._replace(seen=0)).splitlines()
    assert lines[0].startswith("accuracy 0.967 (no interval of few groups), macro_f1 0.9")
    assert lines[1:] == ["3 of 3 class 07 are predicted as class 00"]
