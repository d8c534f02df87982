"""Near-duplicates in training: the warning, its sample, and --groups near."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.cli import main as train
from classify.data import near_duplicates
from classify.data.dataset import load_dataset
from classify.data.splits import split_folds, split_rows
from classify.diagnosis.shift import find_leaks
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.core.errors import SplitError
from tests.conftest import MakeStore
from tests.test_similarity_near_duplicates import clusters

COPY = np.random.default_rng(9)


def copied(count: int = 120, copies: int = 3, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Features of images and of noisy copies behind them, and the image of each row."""
    X = clusters(count, width, 7)
    origins = np.tile(np.arange(count), 1 + copies)
    noise = 1 + 0.03 * COPY.standard_normal((len(origins), width))
    noise[:count] = 1
    return (X[origins] * noise).astype("f"), origins


def test_copies_in_two_folds_are_named_in_one_line(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(120, 64, 7)
    X[80], X[100] = X[3] * 1.01 + 0.001, X[4]
    dataset = load_dataset(make_store(X, [0, 1] * 60))
    folds = split_folds(dataset, 4)
    fold = {int(row): i for i, split in enumerate(folds) for row in split.validation}
    crossing = [pair for pair in [(3, 80), (4, 100)] if fold[pair[0]] != fold[pair[1]]]
    assert crossing  # by the hash of the keys
    (line,) = [record.getMessage() for record in caplog.records if "near-dup" in record.message]
    assert f"found near-duplicates in two folds: {2 * len(crossing)} images (" in line
    pairs = [f"({one:06d}.png ~ {other:06d}.png, cosine 1.000)" for one, other in crossing]
    assert any(pair in line for pair in pairs)
    assert line.endswith("give --groups near")


def test_nothing_is_said_without_copies_or_within_one_split(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(120, 64, 7)
    split_folds(load_dataset(make_store(X, [0, 1] * 60)), 4)
    X[[80, 81]] = X[[82, 83]]
    split = [0] * 80 + [1] * 40
    split_rows(load_dataset(make_store(X, [0, 1] * 60, split, name="b.h5")))
    assert "near-duplicates" not in caplog.text
    X[90] = X[10]
    split_rows(load_dataset(make_store(X, [0, 1] * 60, split, name="d.h5")))
    assert "000010.png ~ 000090.png" in caplog.text
    assert "see show-features --near, and move or remove one of each" in caplog.text


def test_a_run_searches_once(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    X = clusters(120, 64, 7)
    X[90] = X[10]
    path = make_store(X, [0, 1] * 60, [0] * 80 + [1] * 40)
    sides = np.repeat([0, 1], [80, 40])
    searches, search = list[int](), near_duplicates._search

    def spy(*asked: Any) -> Any:
        searches.append(0)
        return search(*asked)

    monkeypatch.setattr(near_duplicates, "_search", spy)
    for memory in (1.0, 1e-6):  # in memory, and from the file
        searches.clear()
        dataset = load_dataset(path, memory=memory)
        result = run(dataset, TrainConfig((HeadSpec("linear", epochs=2),)))
        assert "000010.png ~ 000090.png" in find_leaks(dataset, result.splits)[0]
        assert result.dataset
        listed, count = near_duplicates.list_near_leaks(result.dataset.X, sides)
        assert [(pair.first, pair.second) for pair in listed] == [(10, 90)]
        assert (len(searches), count) == (1, 1)
    whole = load_dataset(path)
    for label in (50, 51):  # another image now, in the same array
        whole.X[label] = whole.X[label + 35]
        _, count = near_duplicates.list_near_leaks(whole.X, sides)
        assert count == label - 48


def test_identical_files_are_named_once(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(60, 64, 7)
    X[50] = X[10]
    digests = np.arange(60 * 16).reshape(60, 16).astype(np.uint8)
    digests[50] = digests[10]
    said = near_duplicates.describe_near_leaks(
        X, digests, [str(row) for row in range(60)], np.arange(60) // 30, "splits", np.zeros(60)
    )
    assert said == ""
    digests[50] = 7
    said = near_duplicates.describe_near_leaks(
        X, digests, [str(row) for row in range(60)], np.arange(60) // 30, "splits", np.zeros(60)
    )
    assert "(10 ~ 50, cosine 1.000)" in said


def test_of_many_rows_a_sample_is_read(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_MOST_ROWS", 100)
    monkeypatch.setattr(near_duplicates, "_RUN", 25)
    X = clusters(600, 32, 1)
    X[1] = X[0]  # neighbours, in the first run
    X[40] = X[30]  # in no run
    path = make_store(X, [0, 1] * 300, [1, 0, 0, 1] * 150)
    for memory in (1.0, 1e-6):  # in memory, and from the file
        caplog.clear()
        dataset = load_dataset(path, memory=memory)
        assert isinstance(dataset.X, np.ndarray) == (memory == 1.0)
        split_rows(dataset)
        assert "2 images in a sample of 100 of 600 (000000.png ~ 000001.png" in caplog.text
    # A row of the file may be large.
    monkeypatch.setattr(near_duplicates, "_MOST_BYTES", 32 * 4 * 10)
    caplog.clear()
    split_rows(load_dataset(path, memory=1e-6))
    assert "in a sample of 10 of 600" in caplog.text


def test_groups_near_keeps_copies_in_one_fold(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X, origins = copied()
    caplog.set_level(logging.INFO)
    path = make_store(X, (origins % 2).tolist())
    dataset = load_dataset(path, groups="near")
    for split in split_folds(dataset, 5):
        assert not set(origins[split.train]) & set(origins[split.validation])
    assert len(set(dataset.groups or [])) == 120
    assert "120 groups of near-duplicates stay together: cosine of 0." in caplog.text
    assert "found near-duplicates" not in caplog.text
    out_of_core = load_dataset(path, groups="near", memory=1e-6)
    assert out_of_core.groups == dataset.groups


def test_groups_near_joins_stored_groups(make_store: MakeStore) -> None:
    X = clusters(60, 64, 7)
    X[20], X[30] = X[10], X[31]
    groups = ["a" if row in (10, 11) else "b" if row in (20, 21) else "" for row in range(60)]
    path = make_store(X, [0, 1] * 30, groups=groups)
    joined = load_dataset(path, groups="near").groups or []
    assert [row for row, name in enumerate(joined) if name == "a"] == [10, 11, 20, 21]
    assert joined[30] == joined[31]
    assert len(set(joined)) == 60 - 3 - 1
    assert load_dataset(path).groups == groups


def test_rows_of_zeros_are_alone(make_store: MakeStore) -> None:
    X = clusters(60, 64, 7)
    X[[5, 6]] = 0
    X[40] = X[30]
    names = load_dataset(make_store(X, [0, 1] * 30), groups="near").groups or []
    assert len(set(names)) == 59
    assert names[40] == names[30]


def test_a_split_of_the_file_that_parts_copies_is_refused(make_store: MakeStore) -> None:
    X = clusters(60, 64, 7)
    X[50] = X[10]
    path = make_store(X, [0, 1] * 30, [0] * 40 + [1] * 20)
    with pytest.raises(
        SplitError, match=r"near-duplicates in two splits of the file, 000010\.png and"
    ):
        split_rows(load_dataset(path, groups="near"))


def test_groups_are_offered_where_they_end_in_no_error(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(120, 64, 7)
    X[80], X[100] = X[3] * 1.01 + 0.001, X[4]
    for name, split in (("a.h5", [0] * 110 + [2] * 10), ("b.h5", [0] * 90 + [2] * 30)):
        path = make_store(X, [0, 1] * 60, split, name=name)
        caplog.clear()
        split_folds(load_dataset(path), 4)
        offered = "give --groups near" in caplog.text
        assert offered == ("move or remove one of each" not in caplog.text)
        if offered:
            split_folds(load_dataset(path, groups="near"), 4)
            continue
        with pytest.raises(SplitError, match=r"000004\.png and 000100\.png; expected"):
            split_folds(load_dataset(path, groups="near"), 4)
    assert not offered


def test_copies_no_longer_raise_the_accuracy(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X, origins = copied()
    labels = np.random.default_rng(0).integers(0, 2, 120)[origins]  # nothing can be learned
    path = make_store(X, labels.tolist())
    accuracy = {}
    for groups in ("stored", "near"):
        out = tmp_path / groups
        flags = ["--head", "knn", "--folds", "5", "--groups", groups, "-o", str(out)]
        assert train([str(path), *flags]) == 0
        assert ("found near-duplicates in two folds" in capsys.readouterr().err) == (
            groups == "stored"
        )
        result = json.loads((out / "result.json").read_text())
        accuracy[groups] = result["candidates"][0]["scores"]["accuracy"]
        # As for other groups: their number, and each one's scores in the report.
        assert result["split"]["groups"] == (120 if groups == "near" else None)
    assert accuracy["stored"] > 0.95
    assert accuracy["near"] < 0.65


def test_a_large_group_is_warned_of_as_by_show_features(caplog: pytest.LogCaptureFixture) -> None:
    X = clusters(60, 64, 7)
    X[:30] = X[30]
    near_duplicates.group_near_duplicates(X, None)
    (line,) = caplog.messages
    assert line.startswith("near: one group holds 31 of 60 images, perhaps linked by a chain; ")
