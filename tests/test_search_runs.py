"""Which candidate is kept, what each row is used for, and that a stopped run goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import classify
from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import split_rows
from classify.diagnosis.analysis import analyse
from classify.heads.keras_head import DenseHead
from classify.scores.metrics import measure
from classify.search import evaluate as module
from classify.search.checkpoint import FILE, Checkpoint
from classify.search.evaluate import fit_batch
from classify.search.ranking import Finetuned
from classify.search.search import Stopped, run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, SettingError
from extract.display.width import cells
from tests.conftest import MakeStore

BEFORE = Path(__file__).parent / "before" / "heads"
WEAK = HeadSpec("logistic", C=1e-7)
STRONG = HeadSpec("logistic", C=1.0)
SMALL: dict[str, Any] = {"units": (8,), "epochs": 2, "learning_rate": 0.01}
SEVERAL = (STRONG, HeadSpec("knn"), HeadSpec("lda"), HeadSpec("svm"))


def dataset(test_rows: int = 0) -> Dataset:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = generator.normal(size=(90, 6)).astype(np.float32)
    X[np.arange(90), y] += 2
    split = np.repeat([0, 1], [60, 30]).astype(np.int8)
    split[90 - test_rows :] = 2
    keys = [f"{row}.jpg" for row in range(90)]
    names = ("a", "<b>", "c")
    return Dataset(X, y, keys, None, split, names, "mixed7", TrunkSpec(), "", "float32")


@pytest.mark.parametrize("reverse", [False, True])
def test_the_best_on_the_validation_rows_is_chosen(reverse: bool) -> None:
    # Thirty features of noise: the weaker the penalty, the more a head overfits.
    noise = np.random.default_rng(1).normal(size=(90, 30)).astype(np.float32)
    made = replace(dataset(), X=np.hstack([dataset().X, noise]))
    candidates = [HeadSpec("logistic", C=C) for C in (1e-3, 100.0)]
    result = run(made, TrainConfig(tuple(reversed(candidates) if reverse else candidates)))
    mild, overfitted = result.entries
    assert mild.spec.C == 1e-3
    assert mild.evaluation.train_accuracy < overfitted.evaluation.train_accuracy
    assert result.head is not None
    found = measure(made.y[60:], result.head.predict_proba(made.X[60:]))
    assert mild.scores["accuracy"] == pytest.approx(found.accuracy)
    assert mild.scores["loss"] == pytest.approx(found.loss, abs=1e-4)
    assert mild.scores["macro_f1"] == pytest.approx(found.macro_f1)
    assert mild.low is not None
    assert mild.high is not None
    assert mild.low <= mild.scores["accuracy"] <= mild.high


def test_equal_accuracies_are_settled_by_the_loss_and_marked() -> None:
    made = dataset()
    made.X[np.arange(90), made.y] += 100
    result = run(made, TrainConfig((WEAK, STRONG)))
    strong, weak = result.entries
    # A head that is not faster is not recommended.
    for seconds, told in ((0.0, True), (1e6, False)):
        other = weak._replace(evaluation=replace(weak.evaluation, seconds=seconds))
        said = replace(result, entries=[strong, other]).advice()
        assert "; 1 head marked = is not significantly worse" in said
        assert ("; the fastest of them is logistic C=1e-07" in said) == told
    assert (strong.spec, weak.spec) == (STRONG, WEAK)
    assert strong.scores["accuracy"] == weak.scores["accuracy"] == 1
    assert strong.as_good
    assert weak.as_good
    by_loss = run(made, TrainConfig((WEAK, STRONG), metric="loss")).entries
    assert [entry.as_good for entry in by_loss] == [True, False]


@pytest.mark.parametrize("folds", [None, 3])
def test_test_rows_are_for_the_chosen_head_alone_and_train_nothing(folds: int | None) -> None:
    made = dataset(test_rows=15)
    garbled = replace(made, X=np.concatenate([made.X[:75], made.X[75:] * -50]))
    first, second = (run(d, TrainConfig(SEVERAL, folds)) for d in (made, garbled))
    assert first.head is not None
    assert first.test == measure(made.y[75:], first.head.predict_proba(made.X[75:]))
    assert [e.scores for e in first.entries] == [e.scores for e in second.entries]
    assert first.test != second.test


def test_with_folds_the_head_is_trained_on_all_rows_except_the_test_rows() -> None:
    made = dataset(test_rows=15)
    result = run(made, TrainConfig((STRONG,), 5))
    alone = replace(made, split=np.where(made.split == 2, 2, 0).astype(np.int8))
    (direct,) = run(alone, TrainConfig((STRONG,), 5)).entries
    assert result.entries[0].scores == direct.scores
    judged = np.concatenate([split.validation for split in result.splits])
    assert sorted(judged.tolist()) == list(range(75))


def test_the_same_seed_gives_the_same_ranking_and_another_other_folds() -> None:
    first, again, other = (run(dataset(), TrainConfig(SEVERAL, 3, seed=s)) for s in (0, 0, 1))

    def numbers(result: Any) -> list[Any]:
        return [(e.spec, e.scores, e.low, e.high, e.as_good) for e in result.entries]

    assert numbers(first) == numbers(again) != numbers(other)


def test_in_a_notebook_the_seed_is_that_of_the_heads_too() -> None:
    results = [classify.sweep(dataset(), head=["dense", "lda"], seed=s, **SMALL) for s in (0, 3)]
    found = [{e.spec.head: e.spec.seed for e in result.entries} for result in results]
    assert found == [{"dense": 0, "lda": None}, {"dense": 3, "lda": None}]
    other = classify.sweep(dataset(), head="lda", seed=3)
    assert other.best.spec.seed is None
    # The analysis that its figures show needs it.
    assert other.seed == 3


@pytest.mark.parametrize("folds", [None, 3])
def test_scores_are_no_surer_for_images_of_one_group(folds: int | None) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    scenes = generator.normal(size=(150, 100))
    scenes[np.arange(150), y] += 1.5
    # Bursts of five shots of each scene, nearly alike.
    X = np.repeat(scenes, 5, axis=0) + generator.normal(scale=0.2, size=(750, 100))
    made = replace(
        dataset(),
        X=X.astype(np.float32),
        y=np.repeat(y, 5),
        keys=[f"{row}.jpg" for row in range(750)],
        groups=[f"scene {row // 5}" for row in range(750)],
        split=np.repeat([0, 1], [300, 450]).astype(np.int8),
    )
    heads = tuple(HeadSpec(name) for name in ("ridge", "lda", "svm", "naive_bayes"))
    losses = {e.spec.head: e.scores["loss"] for e in run(made, TrainConfig(heads, folds)).entries}
    assert max(losses.values()) < np.log(3), losses


# Stopping and going on.


def test_a_stopped_run_ranks_what_is_done_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(dataset(), TrainConfig(SEVERAL, 3))
    # Of the first batch, the two linear heads, three folds; of the second one.
    real, calls = fit_batch, [0]

    def stops(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "fit_batch", stops)
    with pytest.raises(Stopped, match="2 of 4 candidates are done") as stopped:
        run(dataset(), TrainConfig(SEVERAL, 3), tmp_path / "head")
    assert stopped.value.result is not None
    assert len(stopped.value.result.entries) == 2
    calls[0] = 100
    with (tmp_path / "head" / FILE).open("a") as file:
        file.write('["cut off by a ki')
    result = run(dataset(), TrainConfig(SEVERAL, 3), tmp_path / "head")
    # Three folds of each of the two others; the best one on all rows; and its three folds again,
    # because the checkpoint has no scores.
    assert calls[0] == 100 + 3 * 2 + 1 + 3
    assert result.scores is not None
    assert whole.scores is not None
    np.testing.assert_allclose(result.scores, whole.scores, atol=1e-6)
    assert [e.spec for e in result.entries] == [e.spec for e in whole.entries]
    assert [e.scores for e in result.entries] == [e.scores for e in whole.entries]


def test_keras_heads_are_kept_group_by_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = tuple(
        HeadSpec(**{**SMALL, "units": (width,)}, seed=s) for width in (4, 8) for s in (0, 1)
    )
    real, calls = fit_batch, [0]

    def stops(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "fit_batch", stops)
    with pytest.raises(Stopped, match="2 of 4 candidates are done") as stopped:
        run(dataset(), TrainConfig(specs), tmp_path / "head")
    assert stopped.value.result is not None
    assert {entry.spec for entry in stopped.value.result.entries} == set(specs[:2])


def test_a_failed_head_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = HeadSpec(**{**SMALL, "learning_rate": 1e30}, optimizer="sgd")
    for _ in range(2):  # the second time from the checkpoint
        caplog.clear()
        result = run(dataset(), TrainConfig((lost, STRONG)), tmp_path / "head")
        assert [entry.spec for entry in result.entries] == [STRONG]
        assert "the loss is nan in epoch 1" in caplog.text
        assert "left out of the ranking" in caplog.text
    with pytest.raises(HeadError, match="the loss is nan in epoch 1"):
        run(dataset(), TrainConfig((lost,)))


def test_halving_marks_who_was_stopped_and_who_goes_on(tmp_path: Path) -> None:
    rates = (1e-5, 1e-4, 1e-3, 3e-2)
    settings = {**SMALL, "epochs": 8}
    specs = tuple(HeadSpec(**{**settings, "learning_rate": rate}) for rate in rates)
    config = TrainConfig(specs, halving=True)
    result = run(dataset(), config, tmp_path / "head")
    epochs = {entry.spec.learning_rate: entry.evaluation.epochs for entry in result.entries}
    assert epochs == {1e-5: 1, 1e-4: 1, 1e-3: 2, 3e-2: 8}
    assert [entry.name() for entry in result.entries if entry.spec.learning_rate == 1e-3] == [
        "dense units=8 learning_rate=0.001 epochs=8 (epoch 2 of 8)"
    ]
    whole = (tmp_path / "head" / FILE).read_text().splitlines()
    # A kill in the midst of a group: the whole group is tried again.
    (tmp_path / "head" / FILE).write_text("\n".join([*whole[:3], ""]))
    again = run(dataset(), config, tmp_path / "head")
    assert [(e.spec, e.scores, e.evaluation.epochs) for e in again.entries] == [
        (e.spec, e.scores, e.evaluation.epochs) for e in result.entries
    ]
    # Other rivals, or no halving: nothing is taken over.
    for other in (TrainConfig(specs[1:], halving=True), TrainConfig(specs)):
        run(dataset(), other, tmp_path / "head")
        lines = (tmp_path / "head" / FILE).read_text().splitlines()
        assert lines[0] != whole[0]
        assert len(lines) == 1 + len(other.candidates)


@pytest.mark.parametrize("halving", [False, True])
def test_a_head_fitted_again_is_the_head_that_was_evaluated(halving: bool, tmp_path: Path) -> None:
    settings = {**SMALL, "epochs": 12, "learning_rate": 0.1}
    specs = tuple(HeadSpec(**settings, patience=2, seed=seed) for seed in (0, 1))
    config = TrainConfig(specs, halving=halving)
    first, again = (run(dataset(), config, tmp_path / "head") for _ in range(2))
    assert first.head is not None
    assert again.head is not None
    assert first.best.evaluation.epochs < 12
    np.testing.assert_allclose(
        first.head.predict_proba(dataset().X), again.head.predict_proba(dataset().X), atol=1e-4
    )


def test_behind_folds_a_patient_head_trains_as_long_as_it_paid_in_most() -> None:
    spec = HeadSpec(**{**SMALL, "epochs": 30, "learning_rate": 0.1}, patience=2)
    made = dataset()
    result = run(made, TrainConfig((spec,), 3))
    best = []
    for split in result.splits:
        sides = (made.X[split.train], made.y[split.train])
        head = DenseHead(spec).fit(
            FoldData(*sides, made.X[split.validation], made.y[split.validation])
        )
        best.append(int(np.argmin(head.history["val_loss"])) + 1)
    assert result.best.evaluation.epochs == sorted(best)[1] < 30
    alone = DenseHead(replace(spec, epochs=sorted(best)[1], patience=None))
    wanted = alone.fit(FoldData(made.X, made.y, made.X, made.y)).predict_proba(made.X)
    assert result.head is not None
    np.testing.assert_allclose(result.head.predict_proba(made.X), wanted, atol=1e-4)


@pytest.mark.parametrize("change", ["features", "labels", "folds"])
def test_candidates_of_other_rows_are_tried_again(change: str, tmp_path: Path) -> None:
    made = dataset()
    run(made, TrainConfig((STRONG,), 3), tmp_path / "head")
    former = (tmp_path / "head" / FILE).read_text()
    if change == "features":
        made = replace(made, X=made.X + 1)
    if change == "labels":
        made = replace(made, y=(made.y + 1) % 3)
    run(made, TrainConfig((STRONG,), 4 if change == "folds" else 3), tmp_path / "head")
    after = (tmp_path / "head" / FILE).read_text()
    assert after.splitlines()[0] != former.splitlines()[0]
    assert len(after.splitlines()) == 2


# Layers, and the Python API.


def test_the_layer_is_a_setting(make_store: MakeStore) -> None:
    y = np.arange(40) % 2
    noise = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    telling = noise[:, :3] + 3 * y[:, None]
    path = make_store(
        {"conv1_relu": noise, "conv_pw_1": telling.astype(np.float32)},
        y.tolist(),
        np.repeat([0, 1], 20).tolist(),
    )
    made = load_dataset(path, "conv1_relu")
    result = classify.sweep(
        made, "layer=conv1_relu,conv_pw_1,conv1_relu+conv_pw_1", head="logistic", C=1.0
    )
    assert len(result.entries) == 3
    assert result.best.spec.layer != ("conv1_relu",)
    assert result.entries[-1].spec.layer == ("conv1_relu",)
    assert result.dataset is not None
    assert result.dataset.layer == "+".join(result.best.spec.layer)
    assert result.dataset.X.shape[1] in (3, 8)
    assert load_dataset(path, "conv1_relu+conv_pw_1").X.shape == (40, 8)
    # What was read for the head is not read again for the report.
    path.unlink()
    assert analyse(made, result).maps


def test_a_result_shows_itself() -> None:
    result = classify.sweep(dataset(), "logistic.C=0.01:1:3", head=["logistic", "knn"], folds=3)
    assert len(result.entries) == 4
    lines = str(result).splitlines()
    assert lines[0].split()[:3] == ["rank", "head", "accuracy"]
    assert len(lines) == 7
    assert lines[-2].split()[:4] == ["-", "always", "a", "0.3333"]
    assert lines[-1].startswith(f"best: {result.rows()[1][1]}, accuracy ")
    assert result._repr_html_().count("<tr>") == 6
    whole, narrow = result.text(), result.text(55)
    assert whole == (str(result), [])
    assert narrow.dropped == ["rank", "training", "seconds"]
    assert all(cells(line) <= 55 for line in narrow.text.split("\n"))
    assert " ".join(narrow.text.split()).endswith(result.advice())


def test_settings_that_do_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="C: has no effect"):
        classify.sweep(dataset(), head="knn", C=1.0)


def test_a_checkpoint_is_plain_json(tmp_path: Path) -> None:
    run(dataset(), TrainConfig(SEVERAL), tmp_path / "head")
    lines = (tmp_path / "head" / FILE).read_text().splitlines()
    assert [len(json.loads(line)) for line in lines] == [3, *[2] * 4]


def test_damaged_lines_of_a_checkpoint_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    whole = run(dataset(), TrainConfig(SEVERAL), folder)
    first, *lines = (folder / FILE).read_bytes().split(b"\n")
    # Zeros, as a power cut leaves them; no line of ours; one that a kill has cut off.
    damaged = [first, lines[0], bytes(len(lines[1])), b'["key", {}]', lines[3], lines[2][:50]]
    (folder / FILE).write_bytes(b"\n".join(damaged))
    config = TrainConfig(SEVERAL)
    checkpoint = Checkpoint(folder, dataset(), whole.splits, config)
    assert len(checkpoint.evaluations) == 2
    assert (folder / FILE).read_bytes() == b"\n".join([*damaged[:-1], b""])
    assert run(dataset(), TrainConfig(SEVERAL), folder).scores is not None
    assert len(Checkpoint(folder, dataset(), whole.splits, config).evaluations) == 4


def test_advice_counts_in_words() -> None:
    made = dataset(test_rows=1)
    result = run(made, TrainConfig(SEVERAL))
    best, *others = result.entries
    assert result.test is not None
    assert str(result.test).endswith("(1 image)")
    several = [other._replace(as_good=True) for other in others]
    advice = replace(result, entries=[best, *several]).advice().splitlines()[0]
    assert advice.startswith(
        f"best: {result.rows()[1][1]}, accuracy {best.scores['accuracy']:.3f} "
        f"(95 % CI {best.low:.3f} to {best.high:.3f}); 3 heads marked = are not significantly worse"
    )
    alone = replace(result, entries=[best], test=None).advice()
    assert alone.endswith(f"(95 % CI {best.low:.3f} to {best.high:.3f})")


def test_objects_with_arrays_have_a_short_repr() -> None:
    heads = (*SEVERAL, HeadSpec(**{**SMALL, "epochs": 30}))
    result = run(dataset(test_rows=15), TrainConfig(heads, 3))
    text = repr(result)
    assert text.startswith("Result of 5 candidates, ranked by accuracy; best: ")
    assert len(text.splitlines()) < 4
    assert repr(replace(result, entries=result.entries[:1])).startswith("Result of 1 candidate, ")
    assert result.test is not None
    assert repr(result.test) == str(result.test)
    X, y = np.zeros((500, 4), np.float32), np.zeros(500, np.int64)
    tuned = Finetuned("a", 2, 1, result.test, result.test, {}, 1, 1, 0.1, {"loss": [0.1] * 9999})
    objects = [*result.entries, *(entry.evaluation for entry in result.entries), result.test, tuned]
    for one in [text, *objects, FoldData(X, y, X, y), measure(np.arange(200), np.eye(200))]:
        assert len(repr(one)) < 500, one
    assert str(tuned).startswith("fine-tuned above a: accuracy ")


@pytest.mark.parametrize("head", sorted(path.name for path in BEFORE.iterdir()))
def test_a_checkpoint_of_an_earlier_version_is_kept_and_evaluated_again(
    head: str, tmp_path: Path
) -> None:
    shutil.copyfile(BEFORE / head / FILE, tmp_path / FILE)
    stored = json.loads((BEFORE / head / "result.json").read_text())
    made = load_dataset(BEFORE.parent / "one.h5")
    first, line = (tmp_path / FILE).read_text().splitlines()
    # It does not say with which libraries it was evaluated.
    stored_settings = json.loads(json.loads(line)[0])
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored_settings.items()
    }
    config = TrainConfig((HeadSpec(**{**settings, "layer": ()}),))
    assert json.loads(first)["fingerprint"] == stored["fingerprint"] == made.fingerprint
    assert not Checkpoint(tmp_path, made, [split_rows(made)], config).evaluations
    (candidate,) = stored["candidates"]
    kept = run(made, config, tmp_path)
    assert kept.best.scores["accuracy"] == candidate["scores"]["accuracy"]
    assert (tmp_path / FILE).read_text().splitlines()[:2] == [first, line]
    assert Checkpoint(tmp_path, made, [split_rows(made)], config).evaluations


@pytest.mark.parametrize(
    ("library", "again"), [("scikit-learn", {"lda", "linear"}), ("tensorflow", {"linear"})]
)
def test_candidates_of_other_versions_are_evaluated_again(
    library: str, again: set[str], tmp_path: Path
) -> None:
    config = TrainConfig((HeadSpec("linear", epochs=1), HeadSpec("lda")))
    first = run(dataset(), config, tmp_path)
    content = (tmp_path / FILE).read_text()
    other = re.sub(rf"({library}\W+)[\d.]+", r"\g<1>0.1", content)
    assert other != content
    (tmp_path / FILE).write_text(other)
    known = Checkpoint(tmp_path, dataset(), first.splits, config).evaluations
    assert {spec.head for spec in known} == {"linear", "lda"} - again
    run(dataset(), config, tmp_path)
    assert len(Checkpoint(tmp_path, dataset(), first.splits, config).evaluations) == 2
    assert (tmp_path / FILE).read_text().startswith(other)


def test_a_checkpoint_of_heads_of_scikit_learn_names_their_libraries_alone(tmp_path: Path) -> None:
    run(dataset(), TrainConfig(SEVERAL), tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines()[1:]
    named = [set(json.loads(json.loads(line)[0])["versions"]) for line in lines]
    assert named == [{"headstart", "numpy", "scikit-learn"}] * 4


def test_the_backend_of_keras_is_known_without_keras(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    script = (
        "import sys; from extract.trunks.configuration import backend_name;"
        "print(backend_name(), 'keras' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    for words, expected in (({}, "jax"), ({"KERAS_BACKEND": "torch"}, "torch")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**environment, **words},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected, "False"]


def test_the_batches_of_many_images_are_larger_and_the_result_says_so() -> None:
    y = np.arange(5200) % 3
    X = np.eye(3, dtype=np.float32)[y]
    split = (np.arange(5200) % 5 == 0).astype(np.int8)
    many = replace(dataset(), X=X, y=y, keys=[f"{n}.jpg" for n in range(5200)], split=split)
    sizes = []
    runs: list[tuple[str, dict[str, Any]]]
    runs = [("epochs=1", {}), ("epochs=1", {"batch_size": 900}), ("batch_size=800", {"epochs": 1})]
    for swept, given in runs:
        result = classify.sweep(many, swept, head="linear", learning_rate=0.1, **given)
        sizes.append(result.best.spec.to_dict()["batch_size"])
    assert sizes == [32, 900, 800]
