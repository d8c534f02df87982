"""Views train beside their image, never judge, and never part from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from classify import sweep
from classify.cli import main as train_head
from classify.data.dataset import budget_for_layer, load_dataset
from classify.data.preprocessing import Transform
from classify.heads.keras_head import fit_heads
from classify.heads.registry import FittedHead, head_class
from classify.search import evaluate as module
from classify.search.evaluate import batches, fit_batch, transformed
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.solvers.linear_solvers import RowSpace
from classify.stored.views import FoldData, RandomViews, Views, all_views
from extract.core.errors import SettingError
from tests.conftest import MakeStore

SMALL: dict[str, Any] = {"units": (8,), "epochs": 2, "learning_rate": 0.01}


def numbered(make_store: MakeStore, layers: int = 1) -> Path:
    """A store in which the first feature of each row, and of its views, is the row's number."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 5)).astype("f4")
    X[np.arange(40), 1 + np.arange(40) % 2] += 2
    split = [int(row % 4 == 3) for row in range(40)]
    failed = [5]
    owners = [row for row in range(40) if not split[row] and row not in failed]
    X[:, 0] = np.arange(40)
    views = X[owners][:, None] + generator.normal(size=(len(owners), 3, 5)).astype("f4") / 9
    views[..., 0] = np.array(owners)[:, None]
    names = ("conv1_relu", "conv_pw_1_relu")[:layers]
    labels = [row % 2 for row in range(40)]
    return make_store(dict.fromkeys(names, X), labels, split, failed=failed, views=views)


def drawn(count: int = 50, views: int = 3) -> RandomViews:
    """Rows of which every third has no views; the feature says row and view."""
    plain = np.arange(count, dtype="f4")[:, None]
    owners = np.flatnonzero(np.arange(count) % 3)
    shown = owners[:, None, None] + (1 + np.arange(views))[:, None] / 10
    return RandomViews(plain, Views(shown.astype("f4"), owners))


def test_views_are_read_of_the_rows_asked_for(make_store: MakeStore) -> None:
    dataset = load_dataset(numbered(make_store))
    assert dataset.views is not None
    positions = np.array([0, 2, 3, 5, 30])
    found = dataset.views.of(positions)
    # Positions 3 and 5 are rows 3, of the validation split, and 6, for row 5 has failed.
    assert dataset.X[positions, 0].tolist() == [0, 2, 3, 6, 31]
    assert found.owners.tolist() == [0, 1, 3]
    assert found.features.shape == (3, 3, 5)
    assert (found.features[..., 0] == np.array([[0], [2], [6]])).all()


def test_layers_are_joined_view_by_view(make_store: MakeStore) -> None:
    dataset = load_dataset(numbered(make_store, 2), "conv1_relu+conv_pw_1_relu")
    assert dataset.views is not None
    found = dataset.views.of(np.arange(4)).features
    assert found.shape == (3, 3, 10)
    assert np.array_equal(found[..., :5], found[..., 5:])


def test_all_views_are_rows_that_know_their_image() -> None:
    plain, y = np.array([[1.0], [2], [3]], "f4"), np.array([0, 1, 0])
    views = Views(np.array([[[2.1], [2.2]], [[3.1], [3.2]]], "f4"), np.array([1, 2]))
    X, classes, shows = all_views(plain, y, views)
    assert X.ravel().tolist() == pytest.approx([1, 2, 3, 2.1, 2.2, 3.1, 3.2])
    assert classes.tolist() == [0, 1, 0, 1, 1, 0, 0]
    assert shows.tolist() == [0, 1, 2, 1, 1, 2, 2]


@given(seed=st.integers(0, 99), epoch=st.integers(0, 99), order=st.permutations(range(50)))
@settings(max_examples=25, deadline=None)
def test_a_draw_is_a_function_of_seed_and_epoch(seed: int, epoch: int, order: list[int]) -> None:
    rows, again = drawn(), drawn()
    rows.draw(seed, epoch)
    again.draw(seed + 1, epoch)
    again.draw(seed, epoch)
    places = np.array(order)
    shown = rows[places].ravel()
    assert np.array_equal(shown, again[np.arange(50)].ravel()[places])
    assert np.array_equal(np.round(shown - places, 1) == 0, again.shown[places] == 0)
    assert (np.floor(shown) == places).all()
    assert (shown[places % 3 == 0] == places[places % 3 == 0]).all()


def test_every_view_comes_as_often_as_the_plain_one() -> None:
    rows, counts = drawn(), np.zeros(4)
    for epoch in range(300):
        rows.draw(0, epoch)
        counts += np.bincount(rows.shown[rows.views.owners], minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.02)


def test_maps_become_vectors_with_their_views() -> None:
    maps = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype("f4")
    views = Views(np.stack([maps, -maps], axis=1), np.arange(4))
    flat = RandomViews(maps, views).flat()
    assert flat.shape == (4, 12)
    flat.shown[:] = 2
    assert np.array_equal(flat[np.array([2, 0])], -maps[[2, 0]].reshape(2, 12))


@pytest.mark.parametrize("folds", [None, 3])
def test_views_go_where_their_image_goes(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, folds: int | None
) -> None:
    dataset, seen = load_dataset(numbered(make_store)), []

    def recorded(specs: Any, rows: FoldData, *rest: Any) -> list[FittedHead]:
        seen.append(rows)
        return fit_batch(specs, rows, *rest)

    monkeypatch.setattr(module, "fit_batch", recorded)
    for how in ("all", "none"):
        seen.clear()
        spec = HeadSpec("knn", transform=(), views=how)
        result = run(dataset, TrainConfig((spec,), folds))
        assert result.best.spec == spec
        for rows in seen[: folds or 1]:
            assert not set(rows.X[:, 0]) & set(rows.X_validation[:, 0])
            if how == "none":
                assert rows.views is None
                continue
            assert rows.views is not None
            owned = rows.X[rows.views.owners, 0]
            assert (rows.views.features[..., 0] == owned[:, None]).all()
            # Every training image that has views is there with them.
            assert set(owned) == {row for row in rows.X[:, 0] if row % 4 != 3}


def test_transforms_learn_from_plain_rows_and_change_views_too() -> None:
    plain = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")
    views = Views(np.stack([plain, plain * 3], axis=1), np.arange(6))
    y = np.arange(6) % 2
    transform = Transform(["standardise"])
    rows = transformed(transform, FoldData(plain, y, plain, y, views))
    assert rows.views is not None
    np.testing.assert_allclose(rows.X.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(rows.views.features[:, 0], rows.X, atol=1e-6)
    np.testing.assert_allclose(rows.views.features[:, 1], transform.apply(plain * 3), atol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "ridge", "lda", "svm", "knn", "naive_bayes"])
def test_all_is_a_fit_on_plain_rows_and_views(name: str, make_store: MakeStore) -> None:
    dataset = load_dataset(numbered(make_store))
    assert dataset.views is not None
    train = np.flatnonzero(dataset.split == 0)
    X, y = dataset.X[train], dataset.y[train]
    rows = FoldData(X, y, X, y, dataset.views.of(train))
    spec = HeadSpec(name, transform=(), views="all")
    (found,) = fit_batch([spec], rows, Transform())
    wide, classes, _ = all_views(X, y, dataset.views.of(train))
    (direct,) = fit_batch(
        [HeadSpec(name, transform=())], FoldData(wide, classes, X, y), Transform()
    )
    ours, theirs = (fitted.predict_proba(dataset.X) for fitted in (found, direct))
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    if name not in (
        "ridge",
        "lda",
        "svm",
        "naive_bayes",
    ):  # whose scale leaves images out, not rows
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def images_of_three(spread: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise without any class in it: 20 images, of which some have two views more."""
    generator = np.random.default_rng(0)
    plain, y = generator.normal(size=(20, 30)).astype("f4"), np.arange(20) % 2
    owners = np.arange(0, 20, 3)
    near = plain[owners, None] + spread * generator.normal(size=(len(owners), 2, 30))
    return all_views(plain, y, Views(near.astype("f4"), owners))


def test_ridge_leaves_an_image_out_with_its_views() -> None:
    X, y, shows = images_of_three()
    spec = HeadSpec("ridge", alpha=3.0)
    _, alone = next(RowSpace(X).ridge_path(y, [spec], shows))
    direct = cross_val_predict(
        RidgeClassifier(alpha=3.0),
        X.astype(np.float64),
        y,
        groups=shows,
        cv=LeaveOneGroupOut(),
        method="decision_function",
    )
    np.testing.assert_allclose(alone[:, 0], direct, atol=1e-3)


@pytest.mark.parametrize("name", ["svm", "lda", "naive_bayes"])
def test_scores_are_no_surer_for_views_of_the_same_images(name: str) -> None:
    # There is nothing to be learnt here, but a row is easily told by another view of itself.
    X, y, shows = images_of_three(spread=0.01)
    spec = HeadSpec(name)
    apart, parted = (
        head_class(name)(spec).fit(FoldData(X, y, X, y, groups=by)) for by in (shows, None)
    )
    sure = [np.abs(head.predict_proba(X) - 0.5).mean() for head in (apart, parted)]
    assert sure[0] < sure[1]


def test_drawn_views_that_equal_their_image_change_nothing() -> None:
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(30, 4)).astype("f4"), np.arange(30) % 3
    same = RandomViews(X, Views(np.repeat(X[:, None], 2, axis=1), np.arange(30)))
    spec = HeadSpec("dense", **SMALL)
    one, other = (fit_heads([spec], FoldData(rows, y, X, y))[0] for rows in (X, same))
    assert one.history == other.history
    further = RandomViews(X, Views(np.repeat(X[:, None] * 2, 2, axis=1), np.arange(30)))
    assert fit_heads([spec], FoldData(further, y, X, y))[0].history != one.history


def test_the_usual_choice_is_the_heads_own(make_store: MakeStore) -> None:
    dataset = load_dataset(numbered(make_store))
    result = run(dataset, TrainConfig((HeadSpec("dense", **SMALL), HeadSpec("knn"))))
    assert {e.spec.head: e.spec.views for e in result.entries} == {"dense": "random", "knn": "all"}
    again = run(dataset, TrainConfig((HeadSpec("dense", **SMALL), HeadSpec("knn"))))
    # As text, for a metric that is not defined is NaN, which equals nothing.
    assert repr(result.entries) == repr(again.entries)


def test_views_can_be_swept(make_store: MakeStore) -> None:
    dataset = load_dataset(numbered(make_store))
    result = sweep(dataset, "views=none,random,all", head=["dense", "knn"], folds=3, **SMALL)
    tried = {(entry.spec.head, entry.spec.views) for entry in result.entries}
    assert tried == {
        *(("dense", how) for how in ("none", "random", "all")),
        *(("knn", how) for how in ("none", "all")),
    }
    assert all(f"views={entry.spec.views}" in entry.name() for entry in result.entries)


def test_heads_of_other_views_are_no_batch() -> None:
    specs = [HeadSpec(head, views=how) for head in ("linear", "lda") for how in ("all", "none")]
    assert sorted(batches(specs, 9)) == [[0], [1], [2], [3]]


def test_without_views_in_the_file_the_setting_is_an_error(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_store(np.ones((4, 3), "f4"), [0, 1] * 2, split=[0, 0, 1, 1])
    assert train_head([str(path), "--head", "knn", "--views", "all"]) == 2
    assert "views: all has no effect on conv1_relu: " in capsys.readouterr().err
    assert not path.with_name("made_head").exists()


def test_views_that_memory_does_not_hold_are_left_out(make_store: MakeStore) -> None:
    path = numbered(make_store)
    assert load_dataset(path, memory=1e-3).views is not None
    dataset = load_dataset(path, memory=5e-6)
    assert isinstance(dataset.X, np.ndarray)
    assert dataset.views is None
    assert run(dataset, TrainConfig((HeadSpec("knn"),))).best.spec.views is None
    assert train_head([str(path), "--head", "knn", "--views", "all", "--memory", "5e-6"]) == 2


def test_the_budget_of_a_layer_says_what_loading_it_gives(make_store: MakeStore) -> None:
    path = numbered(make_store, layers=2)
    joined = "conv1_relu+conv_pw_1_relu"
    for memory in (1e-3, 2e-5, 5e-6, 1e-9):
        first, both = (load_dataset(path, layer, memory) for layer in ("conv1_relu", joined))
        for dataset in (first, both):
            budget = budget_for_layer(first, dataset.layer, memory)
            assert (budget.layer, budget.shape) == (dataset.layer, dataset.X.shape[1:])
            assert budget.holds_features == isinstance(dataset.X, np.ndarray)
            assert budget.holds_views == (dataset.views is not None)
        assert budget_for_layer(first, "", memory).layer == "conv1_relu"


def test_a_larger_layer_whose_views_memory_does_not_hold(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path, memory = numbered(make_store, layers=2), 2e-5
    joined = ("conv1_relu", "conv_pw_1_relu")
    dataset = load_dataset(path, "conv1_relu", memory)
    specs = tuple(HeadSpec("knn", layer=layer) for layer in ((), joined))
    # It is trained without them, as any layer is whose views memory does not hold.
    made = {
        e.spec.layer: e.spec.views for e in run(dataset, TrainConfig(specs, memory=memory)).entries
    }
    assert made == {(): "all", joined: None}
    words = [str(path), "--head", "knn", "--sweep", f"layer=conv1_relu,{'+'.join(joined)}"]
    words += ["--memory", str(memory)]
    assert train_head([*words, "--views", "all"]) == 2
    assert "views: all has no effect on conv1_relu+conv_pw_1_relu" in capsys.readouterr().err
    assert train_head([*words[:3], "--sweep", "layer=conv1_relu,conv9", *words[5:]]) == 2
    assert "layer 'conv9' is unknown" in capsys.readouterr().err
    assert not path.with_name("made_head").exists()  # nothing was trained before that
    assert train_head([*words, "--views", "none"]) == 0


def test_a_draw_without_epochs_is_an_error() -> None:
    with pytest.raises(SettingError, match="views: random has no effect with --head knn"):
        HeadSpec("knn", views="random")


def test_the_record_says_what_was_made_of_views(make_store: MakeStore) -> None:
    path = numbered(make_store)
    folder = path.with_name("made_head")
    assert train_head([str(path), "--head", "knn", "--head", "lda", "--views", "none"]) == 0
    record = json.loads((folder / "result.json").read_text())
    assert record["views"] | {"views": 3, "rotation": 40.0} == record["views"]
    assert {line["settings"]["views"] for line in record["candidates"]} == {"none"}
    lines = (folder / "candidates.jsonl").read_text().splitlines()
    assert train_head([str(path), "--head", "knn", "--views", "all"]) == 0
    assert len((folder / "candidates.jsonl").read_text().splitlines()) == len(lines) + 1
