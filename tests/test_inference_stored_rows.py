"""Labels for rows of a file of features: the head's own scores, and no other trunk's features."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify import load_head, predict_images, train_heads
from classify.inference.head_folder import SEEN
from classify.predict_cli import main as predict_command
from extract import extract_features, write_features
from extract.core.console import log
from extract.core.errors import HeadError, SettingError, StoreError
from tests.conftest import QUICK, ROOT, MakeStore

Layers = Mapping[str, np.ndarray]


def some_features(count: int = 60, shape: tuple[int, ...] = (6,), kind: str = "float32") -> Any:
    """Features of two classes, the even rows and the odd rows."""
    random = np.random.default_rng(0)
    values = random.normal(size=(count, *shape))
    values[1::2] += 0.8
    return values.astype(kind)


def labels_of(count: int = 60) -> list[int]:
    return [row % 2 for row in range(count)]


def head_of(store: Path, folder: Path, **settings: Any) -> Path:
    train_heads(store, output=folder, quiet=True, **{"head": "logistic", **settings})
    return folder


def direct(store: Path, folder: Path, layers: Sequence[str]) -> np.ndarray:
    """The scores of a head on what h5py reads."""
    with h5py.File(store) as file:
        features = file["features"]
        parts = [features[layer] if layers else features for layer in layers or ("",)]
        rows = [part[:].astype(np.float32) for part in parts]
    X = rows[0] if len(rows) == 1 else np.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)
    return np.asarray(load_head(folder).head.predict_proba(X))


@pytest.mark.parametrize(
    ("features", "layer"),
    [
        (some_features(), None),
        (some_features(kind="float16"), None),
        (some_features(shape=(2, 3, 4)), None),
        ({"a": some_features(), "b": some_features(shape=(2, 2, 3))}, ("a",)),
        ({"a": some_features(), "b": some_features(shape=(2, 2, 3))}, ("a", "b")),
    ],
    ids=["vectors", "half", "maps", "of several", "joined"],
)
def test_scores_are_those_of_the_head_on_the_rows(
    make_store: MakeStore, tmp_path: Path, features: Any, layer: tuple[str, ...] | None
) -> None:
    store = make_store(features, labels_of())
    given = {"layer": layer} if layer else {}
    head = head_of(store, tmp_path / "head", **given)
    found = predict_images(store, head, scores=True, quiet=True)
    wanted = direct(store, head, layer or ())
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    assert [p.key for p in found] == [f"{row:06d}.png" for row in range(60)]
    assert [p.label for p in found] == [("cat", "dog")[i] for i in wanted.argmax(axis=1)]
    ordered = np.sort(wanted, axis=1)
    assert [p.score for p in found] == pytest.approx(ordered[:, 1], abs=1e-6)
    assert [p.margin for p in found] == pytest.approx(ordered[:, 1] - ordered[:, 0], abs=1e-6)


def test_scores_equal_scikit_learn_on_the_file(make_store: MakeStore, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head", transform=("standardise",), C=0.5, folds=3)
    with h5py.File(store) as file:
        X, y = file["features"][:].astype(np.float64), file["labels"][:]
    regression = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)
    wanted = make_pipeline(StandardScaler(), regression).fit(X, y)
    found = predict_images(store, head, scores=True, quiet=True)
    assert found.scores is not None
    # The head's scores are calibrated: its logits are multiplied by one number.
    odds = np.log(found.scores[:, 1] / found.scores[:, 0])
    times = odds / wanted.decision_function(X)
    np.testing.assert_allclose(times, np.median(times), rtol=1e-2)
    assert found.evaluation is not None
    assert found.evaluation.scores["accuracy"] == pytest.approx(wanted.score(X, y))


def test_a_file_of_shards_and_the_images_themselves_agree(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, index = tmp_path / "plain.h5", tmp_path / "index.h5"
    (images / "train/cat/broken.png").write_bytes(b"no image")
    settings: dict[str, Any] = {**QUICK, "max_bad": "50%", "quiet": True}
    extract_features(images, plain, **settings)
    monkeypatch.setattr("extract.store.shards.SHARD_ROWS", 2)
    extract_features(images, index, shards=str(tmp_path / "parts"), **settings)
    head = head_of(plain, tmp_path / "head")
    found = [
        predict_images(source, head, quiet=True, max_bad="50%") for source in (images, plain, index)
    ]
    assert [p.label for p in found[0]] == [p.label for p in found[1]]
    assert [p.score for p in found[0]] == pytest.approx([p.score for p in found[1]], abs=1e-5)
    assert list(found[1]) == list(found[2])
    (failed,) = (p for p in found[2] if p.reason)
    assert failed.key == "train/cat/broken.png"
    assert failed.reason == next(p.reason for p in found[0] if p.reason)


def test_no_heavy_library_is_imported(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(some_features(), labels_of())
    for name in ("logistic", "dense"):
        head = head_of(
            store, tmp_path / name, head=name, **({"epochs": 1} if name == "dense" else {})
        )
        script = (
            "import sys; from classify.predict_cli import main; main(sys.argv[1:]);"
            "heavy = ('tensorflow', 'keras', 'openvino', 'matplotlib');"
            "print([name for name in heavy if name in sys.modules])"
        )
        words = [sys.executable, "-c", script, str(head), str(store)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.splitlines()[-1] == "[]"


def test_unlabelled_rows_alone(make_store: MakeStore, tmp_path: Path) -> None:
    labels = [row % 2 if row % 3 else -1 for row in range(60)]
    store = make_store(some_features(), labels, failed=[3, 4])
    head = head_of(store, tmp_path / "head")
    whole = {p.key: p for p in predict_images(store, head, quiet=True)}
    found = predict_images(store, head, only="unlabelled", quiet=True)
    assert [p.key for p in found] == [f"{row:06d}.png" for row in range(0, 60, 3)]
    assert list(found) == [whole[p.key] for p in found]
    assert found[1] == ("000003.png", None, None, None, "is empty")
    assert (found.unreadable, found.tolerated, found.evaluation) == (1, 0, None)
    full = make_store(some_features(), labels_of(), name="full.h5")
    with pytest.raises(StoreError, match=r"nothing to label: each of its 60 images has a label$"):
        predict_images(full, head, only="unlabelled")
    part = make_store(some_features(), [-1, -1, *labels_of(58)], failed=[0, 1], name="part.h5")
    rest = r"nothing to label: each of its images has a label, or could not be read \(2\)$"
    with pytest.raises(StoreError, match=rest):
        predict_images(part, head, to_label=3)
    with pytest.raises(SettingError, match=r"only 'labelled' is unknown; nearest: unlabelled"):
        predict_images(full, head, only="labelled")


def test_a_row_with_nan_has_a_reason(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head")
    before = predict_images(store, head, quiet=True)
    with h5py.File(store, "r+") as file:
        file["features"][7, 2] = np.nan
    found = predict_images(store, head, quiet=True)
    assert found[7].label is None
    assert "not finite numbers" in str(found[7].reason)
    assert [*found[:7], *found[8:]] == [*before[:7], *before[8:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights_sha256": "1" * 64}, "weights of SHA-256 111111111111, not 000000000000"),
        ({"preprocess": "rescale"}, "--preprocess rescale, not auto"),
        ({"image_size": [64, 64]}, "--image-size 64, not 32"),
        ({"precision": "bfloat16"}, "--precision bfloat16, not float32"),
        ({"pooling": "max"}, "--pooling max, not avg"),
        ({"trunk": "mobilenet_v2"}, "--trunk mobilenet_v2, not mobilenet"),
        ({"calibration_sha256": "2" * 64}, "other calibration images"),
    ],
    ids=str,
)
def test_other_features_are_refused(
    make_store: MakeStore, tmp_path: Path, change: Mapping[str, Any], said: str
) -> None:
    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head")
    with h5py.File(store, "r+") as file:
        file.attrs.update(change)
    with pytest.raises(HeadError) as caught:
        predict_images(store, head)
    assert f"made with {said}; expected features as {head} was trained on; label an" in str(
        caught.value
    )


def test_other_layers_and_shapes_are_refused(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store({"a": some_features(), "b": some_features(shape=(3,))}, labels_of())
    head = head_of(store, tmp_path / "head", layer=("a", "b"))
    single = make_store({"a": some_features()}, labels_of(), name="single.h5")
    with pytest.raises(HeadError, match=r"single.h5: no layer b, only a; expected features as"):
        predict_images(single, head)
    wide = {"a": some_features(), "b": some_features(shape=(4,))}
    with pytest.raises(HeadError, match=r"wide.h5: shape \(10,\); expected .* on, \(9,\); label"):
        predict_images(make_store(wide, labels_of(), name="wide.h5"), head)


def test_features_of_another_program_in_a_file(
    tmp_path: Path, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = tmp_path / "out.h5", tmp_path / "other.h5"
    write_features(store, some_features(), labels=labels_of(), quiet=True)
    write_features(other, some_features(20), quiet=True)
    head = head_of(store, tmp_path / "head")
    caplog.clear()
    found = predict_images(other, head)
    assert (len(found), found.evaluation) == (20, None)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    ours = make_store(some_features(), labels_of())
    predict_images(ours, head)
    assert "the head was not made by extract-features' trunk; both must hold" in caplog.text


def test_rows_of_the_training_are_no_test(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(some_features(), labels_of(), [0] * 30 + [1] * 10 + [2] * 20)
    head = head_of(store, tmp_path / "head")
    evaluation = predict_images(store, head, quiet=True).evaluation
    assert evaluation is not None
    assert (evaluation.rows, evaluation.seen) == (60, 40)
    assert predict_command([str(head), str(store)]) == 0
    said = capsys.readouterr().err
    assert "40 of these 60 images are training or validation images of the head: no test" in said
    # The same images under other keys.
    moved = make_store(
        some_features(), labels_of(), keys=[f"{i}.jpg" for i in range(60)], name="m.h5"
    )
    evaluation = predict_images(moved, head, quiet=True).evaluation
    assert evaluation is not None
    assert evaluation.seen == 40
    for content in (b"", b"damaged", None):
        (head / SEEN).unlink() if content is None else (head / SEEN).write_bytes(content)
        assert predict_command([str(head), str(store)]) == 0
        assert "may include training images: no test" in capsys.readouterr().err


def test_coverage_and_the_accuracy_of_the_others(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head", C=1.0)
    scores = direct(store, head, ())
    sure = scores.max(axis=1) >= 0.8
    right = scores.argmax(axis=1) == labels_of()
    assert 0 < sure.sum() < 60
    found = predict_images(store, head, min_score=0.8, quiet=True)
    assert [p.label is not None for p in found] == sure.tolist()
    assert (found.unsure, found.unreadable) == ((~sure).sum(), 0)
    evaluation = found.evaluation
    assert evaluation is not None
    assert (evaluation.rows, evaluation.unsure) == (sure.sum(), (~sure).sum())
    assert evaluation.coverage == pytest.approx(sure.mean())
    assert evaluation.scores["accuracy"] == pytest.approx(right[sure].mean())
    assert predict_command([str(head), str(store), "--min-score", "0.8"]) == 0
    unsure = f"coverage {sure.mean():.3f} ({(~sure).sum()} of 60 are unsure)"
    assert unsure in capsys.readouterr().err
    none = predict_images(store, head, min_score=1, quiet=True).evaluation
    assert none is not None
    assert (none.rows, none.unsure, none.coverage) == (0, 60, 0)
    assert np.isnan(none.scores["accuracy"])
    assert predict_command([str(head), str(store), "--min-score", "1"]) == 0
    expected = "none of 60 labelled images gets an answer; coverage 0.000 (60 of 60 are unsure)"
    assert expected in capsys.readouterr().err


def test_the_output_is_checked_and_written(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head")
    words = [str(head), str(store), "--scores", "-q"]
    assert predict_command(words) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0])[5:] == ["score_cat", "score_dog"]
    assert predict_command([*words, "--format", "json", "-o", str(tmp_path / "p.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [str(line["scores"]["dog"]) for line in lines] == [row["score_dog"] for row in rows]
    before = store.read_bytes()
    assert predict_command([*words, "-o", str(store)]) == 1
    assert store.read_bytes() == before
    capsys.readouterr()
    for more, message in (
        (["--top", "2"], "top and scores cannot be combined: scores has every class"),
        (["--workers", "2"], "workers: has no effect on"),
        (["--weights", "x"], "weights: has no effect on"),
        (["-o", "chart.png"], "scores: has no effect on chart.png, which is a chart"),
    ):
        assert predict_command([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert predict_command([str(store), "--trunk", "mobilenet"]) == 2
    assert "a file of features; expected images; give DIR" in capsys.readouterr().err
    assert predict_command([str(head), str(tmp_path), "--only", "unlabelled"]) == 2
    assert "expected a file of features; make it with extract-features" in capsys.readouterr().err


def test_an_unfinished_file_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(some_features(), labels_of())
    head = head_of(store, tmp_path / "head")
    with h5py.File(store, "r+") as file:
        file["status"][5:7] = 0
    with pytest.raises(StoreError, match="2 of 60 images have no features yet; run the same"):
        predict_images(store, head)


def test_a_head_on_half_precision_takes_float32_as_it_was_trained(
    make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = make_store(some_features(kind="float16"), labels_of(), name="half.h5")
    single = make_store(some_features(), labels_of(), name="single.h5")
    head = head_of(half, tmp_path / "head")
    found = [predict_images(path, head, scores=True, quiet=True) for path in (half, single)]
    np.testing.assert_array_equal(found[0].scores, found[1].scores)
    head = head_of(single, tmp_path / "other")
    caplog.set_level("INFO", log.name)
    predict_images(half, head)
    assert "half.h5 has float16 features: scores differ in the third digit" in caplog.text
