"""Labels that other images speak against, ranked, in a file that a person corrects."""

import csv
import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import classify
from classify.data.dataset import Dataset, load_dataset
from classify.data.label_tables import read_labels
from classify.labelling import issues as rooms
from classify.labelling.issues import LabelIssue, LabelIssues, find_label_issues
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.train import train_heads
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError
from extract.store.open import open_store
from tests.conftest import MakeStore

COUNT, K = 300, 3


def clusters(count: int = COUNT, planted: int = 12, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Three clear classes with some wrong labels, and the rows of these."""
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % K
    means = 4 * generator.standard_normal((K, 8))
    X = (means[truth] + generator.standard_normal((count, 8))).astype(np.float32)
    rows = np.sort(generator.choice(count, planted, replace=False))
    y = truth.copy()
    y[rows] = (y[rows] + 1) % K
    split = np.where(np.arange(count) % 5 == 4, 1, 0).astype(np.int8)
    made = Dataset(
        X=X,
        y=y,
        keys=[f"{n:03}.jpg" for n in range(count)],
        groups=None,
        split=split,
        class_names=("ant", "bee", "cat"),
        layer="mixed7",
        trunk=TrunkSpec(),
        weights_sha256="",
        dtype="float32",
    )
    return made, rows


def test_planted_labels_come_first_and_with_the_right_class() -> None:
    made, rows = clusters()
    found = find_label_issues(made)
    assert sorted(issue.row for issue in found.issues[: len(rows)]) == rows.tolist()
    assert (found.scored, found.count) == (COUNT, len(found.issues))
    for issue in found.issues[: len(rows)]:
        truth = made.class_names[issue.row % K]
        assert (issue.key, issue.suggested) == (made.keys[issue.row], truth)
        assert issue.label == made.class_names[made.y[issue.row]] != truth
        assert issue.split == ("validation" if issue.row % 5 == 4 else "train")
    ratios = [issue.label_score / issue.suggested_score for issue in found.issues]
    assert np.round(ratios, 5).tolist() == np.round(sorted(ratios), 5).tolist()
    assert found.clear == sum(issue.is_clear for issue in found.issues) >= len(rows)
    assert f"first   {found.issues[0].key}: " in repr(found)


def test_the_classes_are_those_of_scikit_learn_on_the_same_folds() -> None:
    made, _ = clusters(planted=40, seed=3)
    splits, _ = rooms._make_folds(made, TrainConfig((HeadSpec("lda"),), folds=5), 0)
    answers = np.empty_like(made.y)
    for split in splits:
        peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        fitted = peer.fit(made.X[split.train], made.y[split.train])
        answers[split.validation] = fitted.predict(made.X[split.validation])
    wanted = {row: made.class_names[answers[row]] for row in np.flatnonzero(answers != made.y)}
    assert {issue.row: issue.suggested for issue in find_label_issues(made).issues} == wanted


def test_the_most_similar_image_is_the_nearest_other_one_outside_the_test_split() -> None:
    made, _ = clusters(planted=30)
    made.split[:40] = 2
    X = made.X.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = find_label_issues(made)
    assert found.scored == COUNT - 40
    assert found.issues
    for issue in found.issues:
        assert issue.row >= 40
        cosines = X @ X[issue.row]
        cosines[[*range(40), issue.row]] = -2
        assert (issue.nearest, issue.nearest_label) == (
            made.keys[cosines.argmax()],
            made.class_names[made.y[cosines.argmax()]],
        )
        assert issue.cosine == pytest.approx(cosines.max(), abs=1e-5)


def test_maps_have_the_cosine_of_similar_images() -> None:
    made, _ = clusters(planted=30)
    shifts = np.random.default_rng(5).normal(size=(COUNT, 2, 3, 8)).astype(np.float32)
    maps = made.X[:, None, None, :] + 3 * shifts
    maps[7] = 0  # it has no direction
    means = maps.astype(np.float64).mean(axis=(1, 2))
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    X = means / np.where(lengths > 0, lengths, 1)
    issues = find_label_issues(replace(made, X=maps)).issues
    assert len(issues) > 10
    for issue in issues:
        cosines = X @ X[issue.row]
        cosines[issue.row] = -2
        assert issue.cosine == pytest.approx(cosines.max(), abs=1e-5)
        assert made.keys[cosines.argmax()] == issue.nearest


def test_identical_images_and_groups_stay_in_one_fold() -> None:
    made, _ = clusters()
    numbers = np.arange(COUNT) // 4
    digests = np.stack([numbers % 256, numbers // 256, *[numbers * 0 + 1] * 14], 1).astype(np.uint8)
    for given in (
        replace(made, digests=digests),
        replace(made, groups=[f"{number}" for number in numbers]),
    ):
        splits, _ = rooms._make_folds(given, TrainConfig((HeadSpec("lda"),), folds=5), 0)
        for split in splits:
            assert not {*numbers[split.train]} & {*numbers[split.validation]}


def test_a_class_of_one_image_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    made, rows = clusters()
    y = made.y.copy()
    y[1] = 3
    lone = replace(made, y=y, class_names=("ant", "bee", "cat", "dog"))
    with caplog.at_level(logging.INFO, "headstart"):
        found = find_label_issues(lone)
    assert found.scored == COUNT - 1
    assert {*rows.tolist()} - {1} <= {issue.row for issue in found.issues}
    assert not caplog.text  # the search has said it, if it must be said


def test_what_cannot_be_divided_has_no_issues_and_says_why() -> None:
    made, _ = clusters()
    found = find_label_issues(replace(made, groups=["one"] * COUNT))
    assert found.issues == []
    assert "found one image or group of" in found.problem
    assert "not checked" in repr(found)
    assert found.to_csv().splitlines()[0].startswith("rank,key,label,suggested,label_score")


def test_labels_that_nothing_speaks_against_give_none() -> None:
    made, _ = clusters(planted=0)
    means = np.eye(8)[np.arange(COUNT) % K] * 100
    found = find_label_issues(replace(made, X=(made.X + means).astype(np.float32)))
    assert (found.count, found.clear, found.issues) == (0, 0, [])


def test_features_that_stay_in_the_file_give_the_same(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = clusters(planted=30)
    path = make_store(made.X.reshape(COUNT, 2, 2, 2), made.y.tolist(), class_names=made.class_names)
    inside, outside = load_dataset(path), load_dataset(path, memory=1e-9)
    assert not isinstance(outside.X, np.ndarray)
    monkeypatch.setattr("classify.stored.out_of_core.PIECE_BYTES", 1000)
    assert find_label_issues(outside).to_csv() == find_label_issues(inside).to_csv()


def test_of_many_issues_the_first_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = clusters(planted=30)
    everything = find_label_issues(made)
    monkeypatch.setattr(rooms, "MOST_ISSUES", 5)
    monkeypatch.setattr(rooms, "_MOST_ROWS", 60)
    few = find_label_issues(made)
    assert len(few.issues) == 5
    assert few.count >= 30
    assert {issue.row for issue in few.issues} <= {issue.row for issue in everything.issues[:40]}


def test_the_same_seed_gives_the_same_file() -> None:
    made, _ = clusters(planted=30)
    assert find_label_issues(made).to_csv() == find_label_issues(made).to_csv()


def test_names_are_text_in_the_file() -> None:
    issue = LabelIssue(0, "a,b.jpg", "=cat", 'd"og', 0.1, 0.9, "x\n.jpg", "cat", -0.5, "train")
    lines = list(csv.reader(io.StringIO(LabelIssues([issue], 1, 0, 9).to_csv())))
    cells = ["1", "a,b.jpg", "'=cat", 'd"og', "0.1000", "0.9000", "x\n.jpg", "cat", "-0.5000"]
    assert lines[1] == [*cells, "train"]


def test_the_functions_are_public() -> None:
    assert classify.find_label_issues is find_label_issues
    assert classify.LabelIssues is LabelIssues
    assert "likeliest first" in (find_label_issues.__doc__ or "")


@pytest.fixture
def trained(make_store: MakeStore, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    made, rows = clusters()
    path = make_store(made.X, made.y.tolist(), class_names=made.class_names)
    folder = tmp_path / "head"
    train_heads(path, output=folder, head="lda", quiet=True)
    return path, folder, rows


def correct(path: Path, copy: Path, truth: Any) -> None:
    """Put the right labels into the column of the file, as a person does."""
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["label"] = truth(line)
    with copy.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, lines[0].keys())
        table.writeheader()
        table.writerows(lines)


def test_a_corrected_copy_is_a_table_of_labels(
    trained: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    path, folder, rows = trained
    correct(folder / "label_issues.csv", tmp_path / "fixed.csv", lambda line: line["suggested"])
    with open_store(path) as store:
        labels = read_labels(store, ["stored", str(tmp_path / "fixed.csv")])
        stored = store.labels
    assert {*rows.tolist()} <= {*np.flatnonzero(labels.labels != stored).tolist()}
    assert (labels.labels[rows] == rows % K).all()
    train_heads(path, output=folder, head="lda", quiet=True)  # the file as it was is replaced


def test_a_file_that_was_corrected_in_place_is_not_replaced(
    trained: tuple[Path, Path, np.ndarray],
) -> None:
    path, folder, _ = trained
    edited = folder / "label_issues.csv"
    correct(edited, edited, lambda line: line["suggested"])
    before = edited.read_bytes()
    with pytest.raises(HeadError, match=r"label_issues.csv: found labels that were edited; expec"):
        train_heads(path, output=folder, head="lda", quiet=True)
    assert edited.read_bytes() == before
    edited.unlink()
    train_heads(path, output=folder, head="lda", quiet=True)
    assert edited.is_file()
