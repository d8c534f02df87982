"""The commands of stage two in process: exit codes, stdout and stderr apart, what is made."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from classify.cli import main as train_head
from classify.cli import train_head_parser
from classify.inference.bundle import load_head
from classify.predict_cli import main as predict_images
from classify.predict_cli import predict_images_parser
from classify.settings.config import FinetuneConfig, LabelConfig, TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.settings.prediction import PredictConfig
from classify.train import train_heads
from extract import write_features
from extract.cli import main as extract_features_command
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.errors import HeadError
from extract.pipeline.run import run_extraction as extract_features
from tests.conftest import QUICK, MakeStore

QUICK_DENSE = ["--units", "8", "--epochs", "2"]


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    X = generator.normal(size=(60, 4)).astype(np.float32)
    X[:, 0] += 4 * labels
    return make_store(X, labels.tolist(), np.repeat([0, 1, 2], 20).tolist(), failed=[7])


def test_two_heads_a_table_and_a_folder(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(store), "--head", "dense", "--head", "logistic", *QUICK_DENSE]
    assert train_head(words) == 0
    shown = capsys.readouterr()
    table = [line.split() for line in shown.out.splitlines()]
    assert table[0] == [
        "rank",
        "head",
        "accuracy",
        "low",
        "high",
        "as",
        "good",
        "training",
        "seconds",
    ]
    assert [line[0] for line in table[1:]] == ["1", "2", "-", "best:", "test"]
    folder = store.with_name("made_head")
    result = json.loads((folder / "result.json").read_text())
    for line, candidate in zip(table[1:3], result["candidates"], strict=True):
        numbers = [candidate["scores"]["accuracy"], *candidate["interval"]]
        assert [f"{value:.4f}" for value in numbers] == [word for word in line if "." in word][:3]
    assert f"accuracy {result['test']['accuracy']:.4f}" in shown.out.splitlines()[-1]
    assert result["settings"]["head"] == "logistic"
    leaderboard = list(csv.DictReader((folder / "result.csv").read_text().splitlines()))
    heads = [*(candidate["name"] for candidate in result["candidates"]), "always cat"]
    assert [row["head"] for row in leaderboard] == heads
    assert "left out: 1 image that could not be read" in shown.err
    assert "trained on 19 images, best of 2 on 20 (its validation split)" in shown.err
    assert shown.err.splitlines()[-1] == f"next: predict-images {folder} {store}"


def test_the_same_command_again_writes_the_same_result(store: Path) -> None:
    results = []
    for name in ("a", "a"):
        out = store.with_name(name)
        assert train_head([str(store), *QUICK_DENSE, "-q", "-o", str(out)]) == 0
        results.append((out / "result.json").read_bytes())
    assert results[0] == results[1]


def test_a_head_below_what_is_asked_for_is_kept_and_fails(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--head", "knn", "--neighbours", "19", "--assert-accuracy", "1"]
    assert train_head([str(store), *words]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train-head: accuracy: found 0.")
    assert "expected 1 or more" in line
    assert not store.with_name("made_head").exists()
    assert (store.with_name("made_head.rejected") / "result.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_failed_gate_leaves_the_former_head_as_it_was(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.with_name("made_head")
    assert train_head([str(store), "--head", "logistic"]) == 0
    before = contents(folder)
    words = ["--head", "lda", "--assert", "macro_f1=0.99", "--assert", "loss=0.001"]
    assert train_head([str(store), *words]) == 1
    assert contents(folder) == before
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train-head: macro_f1: found 0.")
    assert "; loss: found " in said
    assert "expected 0.001 or less; the head is in " in said
    rejected = json.loads((folder.with_name("made_head.rejected") / "result.json").read_text())
    assert rejected["settings"]["head"] == "lda"
    assert train_head([str(store), "--head", "lda", "--assert", "accuracy=0.01"]) == 0
    assert f"{folder}: replaced logistic, accuracy 0." in capsys.readouterr().err
    assert json.loads((folder / "result.json").read_text())["settings"]["head"] == "lda"


def test_every_scored_image_is_in_predictions_csv(store: Path) -> None:
    assert train_head([str(store), "--head", "logistic", "-q"]) == 0
    folder = store.with_name("made_head")
    result = json.loads((folder / "result.json").read_text())
    lines = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    counts = {
        split: sum(line["split"] == split for line in lines) for split in ("validation", "test")
    }
    assert counts == {"validation": 20, "test": 20}
    for split, accuracy in (
        ("validation", result["candidates"][0]["scores"]["accuracy"]),
        ("test", result["test"]["accuracy"]),
    ):
        own = [line for line in lines if line["split"] == split]
        assert np.mean([line["truth"] == line["answer"] for line in own]) == pytest.approx(accuracy)
    names = [name for name in lines[0] if name.startswith("score_")]
    assert names == [f"score_{name}" for name in result["class_names"]]
    for line in lines:
        assert sum(float(line[name]) for name in names) == pytest.approx(1, abs=1e-6)
        assert max(names, key=lambda name: float(line[name])) == f"score_{line['answer']}"


def test_predictions_have_six_decimals_and_of_very_many_scores_two_columns(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, names in ((160, ["score_cat", "score_dog"]), (79, ["score_of_truth"])):
        monkeypatch.setattr("classify.output.scored_images._MOST_SCORES", most)
        monkeypatch.setattr("classify.output.scored_images._SCORES", 10)  # rows in pieces
        result = train_heads(store, head="lda", quiet=True)
        assert result.folder
        lines = list(csv.DictReader((result.folder / "predictions.csv").read_text().splitlines()))
        known = np.concatenate([result.scores, result.test_scores])
        labels = {name: label for label, name in enumerate(["cat", "dog"])}
        for line, own in zip(lines, known.tolist(), strict=True):
            wanted = own if len(names) == 2 else [own[labels[line["truth"]]]]
            assert [line[name] for name in names] == [f"{round(score, 6):g}" for score in wanted]
            answer = line.get("score_of_answer", f"{round(max(own), 6):g}")
            assert answer == f"{round(max(own), 6):g}"
        assert ("score_of_answer" in lines[0]) == (len(names) == 1)


@pytest.mark.parametrize("head", ["ridge", "lda"])
def test_the_number_of_threads_changes_nothing_that_is_written(
    head: str, tmp_path: Path, make_store: MakeStore
) -> None:
    # Enough features for sums that differ with the threads, and images that differ by rounding.
    generator = np.random.default_rng(3)
    y = np.arange(480) % 6
    centres = generator.normal(size=(6, 200)) * 0.22
    X = np.abs(centres[y] + generator.normal(size=(480, 200))).astype(np.float32)
    split = np.repeat([0, 1, 2], [336, 96, 48])
    store = make_store(X, y.tolist(), split.tolist(), class_names=tuple("abcdef"))
    out, one, two = (tmp_path / name for name in ("out", "one", "two"))
    for threads, kept in ((1, one), (2, two)):
        with threadpool_limits(threads):
            train_heads(store, head=head, output=out, quiet=True)
        out.rename(kept)
    written = {path.name for path in one.iterdir()}
    # The weights of the head differ in their last digits, and the others hold seconds.
    for name in written - {"head.npz", "candidates.jsonl", "timing.json", "report.html"}:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_a_head_of_another_question_is_not_replaced(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    first, second, wider = (tmp_path / f"{name}.h5" for name in ("first", "second", "wider"))
    questions = ("llama", "okapi"), ("day", "night"), ("okapi", "puma")
    for path, names in zip((first, second, wider), questions, strict=True):
        write_features(path, X, labels=[0, 1] * 20, class_names=names, quiet=True)
    out = tmp_path / "head"
    train_heads(first, head="ridge", output=out, quiet=True)
    before = (out / "bundle.json").read_bytes()
    expected = (
        r"found a head that knows 2 classes \(llama, okapi\), none of 2 classes \(day, night\)"
    )
    with pytest.raises(HeadError, match=expected):
        train_heads(second, head="ridge", output=out, quiet=True)
    assert (out / "bundle.json").read_bytes() == before
    train_heads(wider, head="ridge", output=out, quiet=True)  # a class may come or go


def test_lines_end_on_windows_as_elsewhere(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = Path.open

    def open_there(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        if not {"b", "r"} & set(mode) and not given:
            named["newline"] = "\r\n" if named.get("newline") is None else named["newline"]
        return former(path, mode, *given, **named)

    monkeypatch.setattr(Path, "open", open_there)
    words = [str(store), "--head", "logistic", "-q"]
    folder = store.with_name("made_head")
    assert train_head(words) == 0
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("bundle.json", "result.json", "timing.json", "result.csv", "candidates.jsonl"):
        assert b"\r" not in written[name], name
    assert train_head(words) == 0  # the checkpoint is of these rows, and nothing is trained again
    assert (folder / "candidates.jsonl").read_bytes() == written["candidates.jsonl"]


def test_quiet_says_nothing_but_the_result(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_head([str(store), "--head", "logistic", "-q"]) == 0
    shown = capsys.readouterr()
    assert "logistic" in shown.out
    assert all(line.startswith("warning: ") for line in shown.err.splitlines())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--head", "dens"], 2, "head 'dens' is unknown; nearest: dense"),
        (["--head", "logistic", "--dropout", "0.5"], 2, "dropout: has no effect"),
        (["--head", "dense", "--C", "0.5"], 2, "C: has no effect"),
        (["--optimizer", "adam", "--momentum", "0.9"], 2, "momentum: has no effect"),
        (["--nesterov"], 2, "nesterov: has no effect"),
        (["--sweep", "dense.dropuot=0,1"], 2, "nearest: dropout"),
        (["--head", "dense", "--sweep", "dropout=0", "--dropout", "0.1"], 2, "expected it once"),
        (["--head", "dense", "--trials", "4"], 2, "trials: found 4"),
        (["--folds", "1"], 2, "folds: found 1"),
        (["--folds", "200", "--head", "logistic"], 1, "folds: found 200"),
        (["--assert-accuracy", "95"], 2, "--assert-accuracy: found 95"),
        (["--assert", "macrof1=0.5"], 2, "nearest: macro_f1"),
        (["--assert", "macro_f1"], 2, "assert: found 'macro_f1'; expected METRIC=X"),
        (["--assert", "accuracy=95"], 2, "expected a number above 0, at most 1"),
        (
            ["--assert", "accuracy=0.9", "--assert-accuracy", "0.8"],
            2,
            "assert: found accuracy twice",
        ),
        (["--repeats", "3"], 2, "repeats: has no effect without --folds"),
        (["--positive", "cta"], 2, "positive 'cta' is unknown; nearest: cat"),
        (["--head", "logistic", "--transform", "pca=99"], 1, "found pca=99 for 19 training rows"),
        (["--epochs", "0"], 2, "epochs: found 0"),
        (["--layer", "mixed7"], 2, "layer 'mixed7' is unknown"),
        (["-o", "/proc/none/head"], 1, "no folder"),
        (["-o", "/sys/head"], 1, "/sys/head: cannot be written: "),
        (["--head", "lda", "--export", "/sys/m.keras"], 1, "/sys/m.keras: cannot be written: "),
        (["--optimizer", "sgd", "--learning-rate", "1e30", *QUICK_DENSE], 1, "the loss is nan"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str], code: int, message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_head([str(store), *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.splitlines()[-1]
    assert line.startswith("train-head: ")
    assert message in line
    assert not store.with_name("made_head").exists()


@pytest.fixture
def two_layers(make_store: MakeStore) -> Path:
    """A store whose second layer tells the classes apart."""
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    high = X[:, :3] + 4 * (np.arange(40) % 2)[:, None].astype(np.float32)
    return make_store({"low": X, "high": high}, [0, 1] * 20, [0, 0, 1, 1] * 10)


def names_in(folder: Path) -> set[str]:
    return {c["name"] for c in json.loads((folder / "result.json").read_text())["candidates"]}


def test_every_layer_is_tried_and_the_best_kept(
    two_layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_head([str(two_layers), "--head", "lda", "--head", "knn"]) == 0
    folder = two_layers.with_name("made_head")
    assert names_in(folder) == {f"{h} layer={y}" for h in ("lda", "knn") for y in ("low", "high")}
    head = load_head(folder)
    assert (head.layer, head.shape) == ("high", (3,))
    # What a layer names is not tried for others.
    for words, names in (
        (["--layer", "low"], {"lda layer=low"}),
        (["--sweep", "layer=low,low+high"], {"lda layer=low", "lda layer=low+high"}),
        (["--trials", "1"], {"lda layer=high"}),
    ):
        assert train_head([str(two_layers), "--head", "lda", *words]) == 0
        assert names_in(folder) == names
    capsys.readouterr()
    assert train_head([str(two_layers), "--head", "linear", "--finetune"]) == 2
    found = "--layer: found low, high; --finetune expects one; name it with --layer"
    assert capsys.readouterr().err.splitlines()[-1] == f"train-head: {found}"


def test_a_sweep_of_one_heads_layer_leaves_every_layer_to_the_others(two_layers: Path) -> None:
    words = ["--head", "lda", "--head", "knn", "--sweep", "lda.layer=high"]
    assert train_head([str(two_layers), *words]) == 0
    names = names_in(two_layers.with_name("made_head"))
    assert names == {"lda layer=high", "knn layer=low", "knn layer=high"}


def test_a_layer_that_memory_does_not_hold_is_left_out(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(40, 500)).astype(np.float32)
    X[:, :2] += 4 * (np.arange(40) % 2)[:, None]
    path = make_store({"wide": X, "narrow": X[:, :2]}, [0, 1] * 20, [0, 0, 1, 1] * 10)
    words = [str(path), "--head", "knn", "--memory", "0.00005"]
    assert train_head(words) == 0
    assert names_in(path.with_name("made_head")) == {"knn layer=narrow"}
    assert "left out, for the features of wide stay in the file: knn" in capsys.readouterr().err
    assert train_head([*words, "--layer", "wide"]) == 1


def test_the_command_that_extraction_prints_works(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = images.with_name("out.h5")
    layers = [f for name in ("conv1_relu", "conv_pw_1_relu") for f in ("--layer", name)]
    words = ["--trunk", "mobilenet", "--weights", "none", "--image-size", "32", *layers]
    assert extract_features_command([str(images), str(out), *words]) == 0
    command = capsys.readouterr().err.splitlines()[-1].removeprefix("next: train-head ")
    assert train_head([command, "--head", "lda"]) == 0
    assert len(names_in(out.with_name("out_head"))) == 2


def test_few_images_are_compared_in_folds(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    # The first, the fourth and the last are held out: no dog, and all of fox.
    path = make_store(X, [0, 0, 1, 0, 1, 1, 0, 1, 2], class_names=("cat", "dog", "fox"))
    assert train_head([str(path), "--head", "lda"]) == 0
    said = capsys.readouterr().err
    assert "warning: left out: fox, with one image or group, which cannot be both trained" in said
    assert (
        said.count("too few images or groups to hold a fifth of them out: compared in 5 folds") == 1
    )
    assert "lda, trained on 8 images, best of 1 on 8 in 5 folds" in said
    folder = path.with_name("made_head")
    result = json.loads((folder / "result.json").read_text())
    assert (result["split"]["origin"], result["split"]["folds"]) == ("fold", 5)
    assert result["left_out"] == ["fox"]
    assert result["class_names"] == list(load_head(folder).class_names) == ["cat", "dog"]
    assert "in 5 folds" in (folder / "report.html").read_text()


def test_classes_are_left_out_by_name_in_every_layer(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("cat", "dog", "fox", "fruit bat")
    X = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    # Of the last class there is no training image.
    path = make_store(
        {"low": X, "high": X}, [0, 1, 2, 3] * 20, [0, 0, 0, 1, 1, 1, 1, 1] * 10, class_names=names
    )
    assert train_head([str(path), "--head", "lda"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("add some, or give --leave-out 'fruit bat'")
    words = ["--leave-out", "fruit bat", "--leave-out", "dog"]
    assert train_head([str(path), "--head", "lda", "--head", "ridge", *words]) == 0
    assert "left out: 40 images of fruit bat, dog" in capsys.readouterr().err
    folder = path.with_name("made_head")
    result = json.loads((folder / "result.json").read_text())
    assert (result["left_out"], result["class_names"]) == (["fruit bat", "dog"], ["cat", "fox"])
    assert len(names_in(folder)) == 4
    assert sum(map(sum, result["candidates"][0]["confusion"])) == 20
    assert train_head([str(path), "--leave-out", "frog"]) == 2
    assert "--leave-out: class 'frog' is unknown; nearest: fox, dog" in capsys.readouterr().err


def test_a_flag_that_argparse_does_not_know(store: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_head([str(store), "--no-such-flag"])
    assert stopped.value.code == 2


def test_a_store_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("none.h5", "none/made.h5"):
        assert train_head([str(tmp_path / name)]) == 1
        assert f"{name}: no such file; make it" in capsys.readouterr().err


def test_the_folder_is_looked_at_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert train_head([str(tmp_path / "none.h5"), "-o", str(tmp_path)]) == 1
    assert "found thesis.tex" in capsys.readouterr().err


def test_a_store_without_a_validation_split(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    path = make_store(X, [0, 1] * 100)
    assert train_head([str(path), "--head", "logistic"]) == 0
    assert re.search(r"best of 1 on \d+ \(held out by a hash\)", capsys.readouterr().err)


def test_a_logistic_head_never_loads_keras(store: Path) -> None:
    script = (
        "import sys; from classify.cli import main as train_head; code = train_head(sys.argv[1:]);"
        "print(code, [n for n in ('keras', 'tensorflow', 'jax', 'torch') if n in sys.modules])"
    )
    words = [sys.executable, "-c", script, str(store), "--head", "logistic"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; import classify.cli, classify.predict_cli;"
        "classify.cli.train_head_parser().format_help();"
        "classify.predict_cli.predict_images_parser().format_help();"
        "heavy = ('numpy', 'sklearn', 'skops', 'keras', 'h5py', 'matplotlib', 'PIL', 'tensorflow');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("parser", [train_head_parser, predict_images_parser])
def test_every_long_flag_is_a_field_and_says_its_default(parser: Callable[[], object]) -> None:
    settings = {
        field.name
        for kind in (
            *(HeadSpec, TrainConfig, LabelConfig, FinetuneConfig, PredictConfig),
            *(ExtractConfig, TrunkSpec),
        )
        for field in fields(kind)
    }
    allowed = (
        settings
        | {"help", "version", "quiet", "verbose", "log", "output", "sweep", "trials"}
        | {"export", "groups", "assert", "leave_out", "source", "list_trunks"}
    )
    text = parser().format_help()  # type: ignore[attr-defined]
    flags = set(re.findall(r"--([A-Za-z][a-z0-9-]*)", text))
    assert {flag.replace("-", "_") for flag in flags} <= allowed
    if parser is train_head_parser:
        assert {field.name for field in fields(HeadSpec)} <= {f.replace("-", "_") for f in flags}
        for shown in ("1024", "0.2", "rmsprop", "30", "20", "0", "off", "logistic 0.03, svm 3.0"):
            assert f"(default: {shown})" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep", "svm.kernel=rbf,"], "kernel '' is unknown; known: linear, rbf"),
        (["--sweep", "dense.optimizer=rmsprop,"], "optimizer '' is unknown"),
        (
            ["--sweep", "dense.seed=1,2", "--seed", "3"],
            "sweep: found dense.seed=1,2 and another seed",
        ),
    ],
)
def test_a_value_of_a_sweep_is_checked(
    store: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_head([str(store), *words]) == 2
    assert message in capsys.readouterr().err


# predict-images


@pytest.fixture
def trained(images: Path) -> Path:
    store = images.with_name("out.h5")
    extract_features(images, store, **QUICK)
    assert train_head([str(store), "--head", "logistic"]) == 0
    return store.with_name("out_head")


def test_predict_to_stdout_and_to_a_file(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert predict_images([str(trained), "--top", "2", str(images)]) == 0
    shown = capsys.readouterr()
    rows = list(csv.DictReader(shown.out.splitlines()))
    assert len(rows) == 16
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    assert {row["label"] for row in rows} == {"cat", "dog"}
    assert shown.err.splitlines()[-1].startswith("stdout: 8 images labelled, 0 unreadable; ")
    out = trained.with_name("labels.jsonl")
    words = [str(trained), str(images), "--format", "json", "-o", str(out)]
    assert predict_images(words) == 0
    assert capsys.readouterr().out == ""
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["key"] for line in lines] == [row["key"] for row in rows[::2]]
    assert [line["label"] for line in lines] == [row["label"] for row in rows[::2]]
    assert not list(out.parent.glob(".labels*"))


@pytest.mark.parametrize(("max_bad", "code"), [([], 4), (["--max-bad", "1"], 0)])
def test_unreadable_images_are_listed_and_counted(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str], max_bad: list[str], code: int
) -> None:
    (images / "train" / "cat" / "bad.png").write_bytes(b"")
    capsys.readouterr()
    assert predict_images([str(trained), str(images), *max_bad]) == code
    shown = capsys.readouterr()
    (row,) = [row for row in csv.DictReader(shown.out.splitlines()) if row["reason"]]
    assert (row["key"], row["label"], row["score"]) == ("train/cat/bad.png", "", "")
    assert f"warning: train/cat/bad.png: {row['reason']}" in shown.err


def test_one_image(trained: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert predict_images([str(trained), str(images / "train" / "cat" / "0.png")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--top", "0"], 2, "top: found 0"),
        (["--workers", "0"], 2, "workers: found 0"),
        (["--max-bad", "x"], 2, "--max-bad: found 'x'"),
        (["-o", "/dev/null"], 1, "not a regular file"),
        (["-o", "/proc/none/x.csv"], 1, "no folder"),
        (["-o", "/sys/x.csv"], 1, "/sys/x.csv: cannot be written: "),
    ],
    ids=str,
)
def test_what_cannot_be_predicted(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_images([str(tmp_path), str(tmp_path), *words]) == code
    assert message in capsys.readouterr().err


def test_a_folder_without_a_head_and_a_source_without_images(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_images([str(images), str(images)]) == 1
    assert "no readable bundle.json" in capsys.readouterr().err
    shutil.rmtree(images)
    assert predict_images([str(trained), str(images)]) == 1
    assert "predict-images: " in capsys.readouterr().err


def test_ctrl_c_before_the_head_is_saved_keeps_the_leaderboard(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    words = [str(store), "--head", "logistic", "--head", "knn"]
    with monkeypatch.context() as patch:
        patch.setattr("classify.train.save_head", stop)
        assert train_head(words) == 130
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == [
        "rank",
        "1",
        "2",
        "-",
        "best:",
        "test",
    ]
    assert "stopped." in shown.err
    assert not (store.with_name("made_head") / "bundle.json").exists()
    kept = (store.with_name("made_head") / "candidates.jsonl").read_bytes()
    assert train_head(words) == 0
    assert (store.with_name("made_head") / "candidates.jsonl").read_bytes() == kept


_STOPPABLE = """
import sys
from classify.cli import main as train_head
raise SystemExit(train_head(sys.argv[1:]))
"""


def test_ctrl_c_while_the_report_is_drawn_costs_the_report_alone(store: Path) -> None:
    # A head that takes a while to be trained on fewer images, for the report.
    words = [str(store), "--head", "forest", "--trees", "1000"]
    folder = store.with_name("made_head")
    command = [sys.executable, "-c", _STOPPABLE, *words, "-v"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        assert any("writing the report" in line for line in it.stderr)
        it.send_signal(signal.SIGINT)
        out, said = it.stdout.read(), it.stderr.read()
    assert it.returncode == 130, said
    assert f"stopped. the head is saved in {folder}, its report is not" in said
    assert "forest trees=1000" in out
    assert not (folder / "report.html").exists()
    assert json.loads((folder / "result.json").read_text())["best"] is None
    assert load_head(folder).class_names == ("cat", "dog")
    assert sorted(path.name for path in store.parent.iterdir()) == ["made.h5", "made_head"]
    kept = (folder / "candidates.jsonl").read_bytes()
    assert train_head(words) == 0
    assert (folder / "candidates.jsonl").read_bytes() == kept
    assert (folder / "report.html").exists()
    assert json.loads((folder / "result.json").read_text())["best"]


# The images of the report.


@pytest.fixture
def mistaken(images: Path) -> Path:
    """Images of which one of the validation images is a training image of the other class."""
    shutil.copy(images / "train" / "cat" / "0.png", images / "validation" / "dog" / "0.png")
    return images


KNN = ["--head", "knn", "--neighbours", "1"]


def thumbnails(store: Path) -> int:
    assert train_head([str(store), *KNN]) == 0
    return (store.with_name("out_head") / "report.html").read_text().count('src="data:image/webp')


@pytest.mark.parametrize("form", ["folder", "table", "root"])
def test_the_report_shows_images_from_any_folder(
    form: str, mistaken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, table, root = mistaken.parent, mistaken.parent / "images.csv", {}
    keys = sorted(str(path.relative_to(home)) for path in mistaken.rglob("*.png"))
    if form == "root":
        (home / "tables").mkdir()
        table, root = home / "tables" / "images.csv", {"root": "."}
    rows = [",".join((key, key.split("/")[2], key.split("/")[1])) for key in keys]
    table.write_text("\n".join(["path,label,split", *rows]))
    monkeypatch.chdir(home)
    source = "images" if form == "folder" else str(table.relative_to(home))
    extract_features(source, "out.h5", **QUICK, **root)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert thumbnails(home / "out.h5") > 0


def test_the_report_shows_images_that_have_moved(
    mistaken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = mistaken.with_name("out.h5"), mistaken.with_name("moved")
    extract_features(mistaken, out, **QUICK)
    shown = thumbnails(out)
    mistaken.rename(moved)
    capsys.readouterr()
    assert thumbnails(out) == 0
    assert capsys.readouterr().err.count("to show; say where they are with --source\n") == 1
    report, words = out.with_name("out_head") / "report.html", [str(out), *KNN, "--source"]
    assert train_head([*words, str(moved)]) == 0
    assert "source" not in capsys.readouterr().err
    assert report.read_text().count('src="data:image/webp') == shown > 0
    for wrong in (moved / "train", moved.with_name("nowhere")):
        assert train_head([*words, str(wrong), "-q"]) == 0
        line = f"warning: source: {wrong} holds none of the 8 images to show"
        assert capsys.readouterr().err.count(line) == 1
        assert "data:image/webp" not in report.read_text()
    # As older files have it: relative, and read from another folder.
    with h5py.File(out, "r+") as file:
        file.attrs["source"] = "moved"
    elsewhere = out.with_name("elsewhere")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert thumbnails(out) == shown
    monkeypatch.chdir(out.parent)
    assert thumbnails(out) == shown


_HELD = """
import sys
from classify import train_heads
def wait(result):
    print("ranked", flush=True)
    sys.stdin.readline()
train_heads(sys.argv[1], output=sys.argv[2], head="lda", on_result=wait)
"""


def test_two_runs_into_one_folder_do_not_mix(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.with_name("new")
    words = [str(store), "-o", str(folder), "--head", "knn"]
    command = [sys.executable, "-c", _HELD, str(store), str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for killed in (True, False):
        with subprocess.Popen(command, **pipes) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "ranked\n"
            before = (folder / "candidates.jsonl").read_bytes()
            capsys.readouterr()
            assert train_head(words) == 1
            found = "another train-head is writing to it; expected one at a time"
            remedy = "wait for it, or name another place"
            line = capsys.readouterr().err.splitlines()[-1]
            assert line == f"train-head: {folder}: {found}; {remedy}"
            assert (folder / "candidates.jsonl").read_bytes() == before
            first.kill() if killed else first.communicate("\n")
        if not killed:
            assert load_head(folder).name == "lda"
        assert train_head(words) == 0
        assert load_head(folder).name == "knn"
    assert sorted(path.name for path in store.parent.iterdir()) == ["made.h5", "new"]


def test_help_says_what_an_unset_gamma_is() -> None:
    said = " ".join(train_head_parser().format_help().split())
    assert "rbf kernel (default: one over the sum of the features' variances)" in said
