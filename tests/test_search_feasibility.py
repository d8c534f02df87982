"""The default heads keep to a budget of time, and heads that the user chose are trained."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classify.cli import main as train_head
from classify.data.dataset import load_dataset
from classify.data.samples import SHARES
from classify.data.splits import choose_splits
from classify.search import feasibility
from classify.search.costs import USUAL_MACHINE, Shape, measure_machine, work_of
from classify.search.feasibility import estimate, fast_head
from classify.search.search import run
from classify.settings.config import BUDGET, TrainConfig
from classify.settings.head_spec import DEFAULTS, USUAL_HEADS, HeadSpec
from classify.settings.plan import plan_run
from extract.core.errors import SettingError
from tests.conftest import MakeStore

LDA, RIDGE, SVM, KNN = (HeadSpec(name) for name in ("lda", "ridge", "svm", "knn"))


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    generator = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = generator.normal(size=(120, 6)).astype(np.float32)
    X[:, 0] += 2 * y
    return make_store(X, y.tolist(), np.repeat([0, 1], 60).tolist())


@pytest.mark.parametrize("head", DEFAULTS)
def test_more_of_anything_costs_more(head: str) -> None:
    spec, small = HeadSpec(head), Shape(1000, 200, 64, 10)
    cost = USUAL_MACHINE.seconds(work_of(spec, small))
    assert 0 < cost < 60
    for name in ("train", "features", "classes"):
        larger = small._replace(**{name: 4 * getattr(small, name)})
        assert USUAL_MACHINE.seconds(work_of(spec, larger)) > cost
    assert USUAL_MACHINE.seconds(work_of(spec, small._replace(stored=True))) > cost


def test_a_test_of_the_machine_is_quick_and_plausible() -> None:
    machine = measure_machine()
    assert 1e8 < machine.flops < 1e14
    assert 1e7 < machine.streamed < 1e13


def test_folds_are_paid_one_by_one(store: Path) -> None:
    dataset = load_dataset(store)
    for folds in (2, 4):
        splits = choose_splits(dataset, TrainConfig((LDA,), folds=folds))
        one = estimate(dataset, [LDA], splits[:1], USUAL_MACHINE)[LDA]
        found = estimate(dataset, [LDA], splits, USUAL_MACHINE)[LDA]
        assert found == pytest.approx(folds * one, rel=0.1)


def test_the_cheapest_heads_are_taken_and_one_always(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headstart")
    dataset, config = load_dataset(store), TrainConfig((SVM, RIDGE, LDA), named=False)
    splits = choose_splits(dataset, config)
    seconds = estimate(dataset, config.candidates, splits, measure_machine())
    cheapest = min(seconds, key=seconds.__getitem__)
    one = run(dataset, replace(config, budget=1e-9))
    assert [entry.spec for entry in one.entries] == [cheapest]
    assert one.budget
    assert set(one.budget.left_out) == {"svm", "ridge", "lda"} - {cheapest.head}
    assert (
        f"left out by --budget 1e-09: {next(iter(one.budget.left_out))} (about 1 s)" in caplog.text
    )
    assert "name them with --head to train them" in caplog.text
    everything = run(dataset, replace(config, budget=1e9))
    assert len(everything.entries) == 3
    assert everything.budget == (1e9, {})
    assert run(dataset, TrainConfig((RIDGE, LDA))).budget is None


def test_a_run_that_goes_on_keeps_its_choice(store: Path, tmp_path: Path) -> None:
    dataset = load_dataset(store)
    config = TrainConfig((RIDGE, LDA, KNN), named=False, budget=1e-9)
    first = run(dataset, config, tmp_path)
    (kept,) = first.entries
    # As a machine that was less busy had chosen.
    file = tmp_path / "candidates.jsonl"
    lines = file.read_text().splitlines()
    key, _ = json.loads(lines[1])
    for left_out in ({}, {"lda": 100.0}):
        lines[1] = json.dumps([key, {"left_out": left_out}])
        file.write_text("\n".join(lines) + "\n")
        again = run(dataset, config, tmp_path)
        assert {e.spec.head for e in again.entries} == {"ridge", "lda", "knn"} - left_out.keys()
        assert again.budget == (1e-9, left_out)
    # A damaged choice is made again, and so is that of another budget or of other candidates. What
    # is known costs nothing.
    lines[1] = json.dumps([key, {"left_out": {"lda": "long"}}])
    file.write_text("\n".join(lines) + "\n")
    assert kept.spec in [entry.spec for entry in run(dataset, config, tmp_path).entries]
    assert len(run(dataset, replace(config, budget=1e9), tmp_path).entries) == 3
    fewer = replace(config, candidates=(RIDGE, LDA))
    assert len(run(dataset, fewer, tmp_path).entries) == 2


def test_only_default_heads_have_a_budget() -> None:
    config = plan_run((), (), None, False, {"seed": 3, "transform": "none"})
    assert config.budget == BUDGET
    assert tuple(spec.head for spec in config.candidates) == USUAL_HEADS
    assert plan_run((), (), None, False, {"budget": 5.0}).budget == 5
    for head, sweeps, finetune, settings in (
        ("lda", (), False, {}),
        ((), ("dropout=0,0.2",), False, {}),
        ((), ("transform=none,standardise",), False, {}),
        ((), (), False, {"epochs": 3}),
        ((), (), True, {}),
    ):
        assert plan_run(head, sweeps, None, finetune, settings).budget is None
        with pytest.raises(SettingError, match="budget: has no effect on heads that you choose"):
            plan_run(head, sweeps, None, finetune, {**settings, "budget": 5.0})


def test_several_layers_keep_to_one_budget() -> None:
    assert plan_run((), (), None, False, {}, ["mixed5", "mixed7"]).budget == BUDGET
    assert plan_run("lda", (), None, False, {}, ["mixed5", "mixed7"]).budget is None


def test_what_was_left_out_is_in_the_files(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    assert train_head([str(store), "--budget", "1e-9", "-o", str(folder), "--quiet"]) == 0
    written = json.loads((folder / "result.json").read_text())
    (trained,) = written["candidates"]
    assert written["budget"]["seconds"] == 1e-9
    assert {trained["name"], *written["budget"]["left_out"]} == set(USUAL_HEADS)
    page = (folder / "report.html").read_text()
    assert "did not fit into --budget 1e-09" in page
    assert "svm" in page


def test_long_training_is_announced(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "headstart")
    dataset, config = load_dataset(store), TrainConfig((RIDGE, LDA))
    run(dataset, config)
    assert "training takes" not in caplog.text
    monkeypatch.setattr(feasibility, "_LONG_SECONDS", 0)
    run(dataset, config)
    assert "training takes about 1 s: " in caplog.text


def test_fewer_images_are_for_a_fast_head(store: Path) -> None:
    dataset = load_dataset(store)
    (split,) = choose_splits(dataset, TrainConfig((LDA,)))
    dense = HeadSpec("dense")
    assert fast_head(dataset, [KNN, LDA], split, SHARES, 10) == (KNN, 1)
    assert fast_head(dataset, [dense, LDA], split, SHARES, 4) == (LDA, 1)
    assert fast_head(dataset, [dense], split, SHARES, 1e-9) == (None, 1)
    # Many rows: smaller shares of them.
    wide = replace(dataset, X=np.zeros((120, 400), np.float32))
    costs = [
        estimate(wide, [LDA], [replace(split, train=split.train[: round(f * 60)])], USUAL_MACHINE)
        for share in SHARES
        for f in [share / 4]
    ]
    most = sum(cost[LDA] for cost in costs)
    assert fast_head(wide, [LDA], split, SHARES, most) == (LDA, 0.25)
