"""Several stores of the same images: rows are matched, layers joined, and nothing else differs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classify import load_dataset, sweep
from classify.data.dataset import Dataset, with_layer
from classify.stored import out_of_core
from classify.stored.out_of_core import StoredRows, iter_chunks
from classify.stored.stores import list_layers, name_stores
from extract.core.errors import SettingError, StoreError
from extract.images.digests import digest_bytes
from extract.store.open import read_features
from tests.conftest import MakeStore

NONE = 1e-9  # GB: no room for anything
A, B = "a:conv1_relu", "b:conv1_relu"


def store_of(
    make_store: MakeStore,
    name: str,
    ids: list[int],
    keys: list[str] | None = None,
    value: float = 0.0,
    **options: Any,
) -> Path:
    """Make a store whose features and digests say which images its rows are of."""
    X = np.array([[i, value] for i in ids], np.float32)
    labels = options.pop("labels", [i % 2 for i in ids])
    path = make_store(X, labels, keys=keys or [f"{i}.jpg" for i in ids], name=name, **options)
    digests = [np.frombuffer(digest_bytes(str(i).encode()), np.uint8) for i in ids]
    with h5py.File(path, "r+") as file:
        file["digest"][...] = np.stack(digests)
    return path


def rows_of(dataset: Dataset) -> np.ndarray:
    return np.concatenate([rows for _, rows in iter_chunks(dataset.X)])


@pytest.mark.parametrize("memory", [None, NONE])
def test_rows_of_several_stores_are_of_the_same_images(
    make_store: MakeStore, memory: float | None
) -> None:
    random = np.random.default_rng(0)
    ids = [random.permutation(80)[:60].tolist() for _ in range(3)]
    # Of the second store a quarter has other keys, of the third all, so that their bytes decide.
    names: list[Callable[[int], str]] = [
        lambda i: f"{i:03d}.jpg",
        lambda i: f"{'moved/' * (i % 4 == 0)}{i:03d}.jpg",
        lambda i: f"{79 - i:03d}.png",
    ]
    paths = []
    for number, (own, name) in enumerate(zip(ids, names, strict=True)):
        keys = [name(i) for i in own]
        paths.append(store_of(make_store, f"{'abc'[number]}.h5", own, keys, number))
    made = load_dataset(paths, "a:conv1_relu+b:conv1_relu+c:conv1_relu", memory)
    assert isinstance(made.X, StoredRows) == (memory is not None)
    shared = [i for i in ids[0] if i in ids[1] and i in ids[2]]
    assert len(shared) not in (0, 60)
    wanted = np.repeat(np.array(shared, np.float32)[:, None], 6, axis=1)
    wanted[:, 1::2] = np.arange(3)
    assert (rows_of(made) == wanted).all()
    assert made.keys == [names[0](i) for i in shared]
    assert made.y.tolist() == [i % 2 for i in shared]
    # Another layer, and a part of the rows, have the same images.
    other = with_layer(made, "c:conv1_relu", memory)
    assert (rows_of(other) == wanted[:, 4:]).all()
    few = made.without(["dog"])
    assert few.keys == [names[0](i) for i in shared if i % 2 == 0]
    assert (rows_of(with_layer(few, B, memory)) == wanted[wanted[:, 0] % 2 == 0, 2:4]).all()


def test_what_does_not_match_is_counted(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = store_of(make_store, "a.h5", list(range(10)))
    keys = ["new.jpg", *(f"{i}.jpg" for i in range(3, 10)), "other.jpg"]
    second = store_of(make_store, "b.h5", [2, *range(3, 10), 50], keys)
    assert load_dataset([first, second], B).keys == [f"{i}.jpg" for i in range(2, 10)]
    assert (
        f"{second}: matched 8 of 10 images of {first}; 1 under another key, by their bytes; "
        "2 left out, which it lacks (first 0.jpg); 1 more in it not used"
    ) in caplog.messages
    assert f"layers: {A} of {first}; {B} of {second}" in caplog.messages
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_same_bytes_go_before_the_same_key(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Two files that changed their names, and one that was edited, are three cases."""
    first = store_of(make_store, "a.h5", [0, 1, 2, 3], ["a", "b", "c", "d"])
    second = store_of(make_store, "b.h5", [1, 0, 9, 3], ["a", "b", "c", "d"], value=1)
    assert load_dataset([first, second], B).X[:, 0].tolist() == [0, 1, 9, 3]
    found = f"{second}: 1 image of other bytes than in {first}, matched by key (first c)"
    assert found in caplog.messages


def test_copies_take_the_first_row_of_their_bytes(make_store: MakeStore) -> None:
    first = store_of(make_store, "a.h5", [0, 0, 1, 1], ["a", "b", "c", "d"], labels=[0, 0, 1, 1])
    second = store_of(make_store, "b.h5", [1, 1, 0], ["x", "y", "z"], value=1)
    with h5py.File(second, "r+") as file:
        file["features"][:, 1] = [5, 6, 7]
    assert load_dataset([first, second], B).X[:, 1].tolist() == [7, 7, 5, 5]


def test_labels_and_splits_are_those_of_the_first_store(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    ids, split = list(range(8)), [0, 0, 0, 0, 1, 1, 2, 2]
    group = list("ppqqrrss")
    first = store_of(make_store, "a.h5", ids, split=split, groups=group)
    labels, classes = [0, 1, 2, 1, -1, 1, 0, 1], ("bird", "dog", "fox")
    second = store_of(
        make_store, "b.h5", ids, labels=labels, class_names=classes, split=[0] * 8, groups=group
    )
    made = load_dataset([first, second], B)
    assert made.class_names == ("cat", "dog")
    assert made.y.tolist() == [0, 1] * 4
    assert made.split.tolist() == split
    assert made.groups == group
    found = "another label of 3 images (first 0.jpg: bird, not cat); another split of 4 "
    found += "images (first 4.jpg: train, not validation)"
    assert f"{second}: found {found}; those of {first} are used" in caplog.messages


def test_labels_of_a_table_are_of_the_first_stores_keys(
    make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = store_of(make_store, "a.h5", list(range(8)))
    second = store_of(make_store, "b.h5", list(range(7, 0, -1)), labels=[0] * 7)
    (tmp_path / "size.csv").write_text("key,label\n5.jpg,small\n3.jpg,large\n0.jpg,large\n")
    for layer, column in ((A, 0), (B, 0), (f"{A}+{B}", 2)):
        made = load_dataset([first, second], layer, labels=tmp_path / "size.csv")
        assert made.keys == ["3.jpg", "5.jpg"]
        assert [made.class_names[label] for label in made.y] == ["large", "small"]
        assert made.X[:, column].tolist() == [3, 5]
    assert "another label" not in caplog.text
    for groups in ("digest", "near"):
        assert load_dataset([first, second], B, groups=groups).groups is not None


def test_stores_that_do_not_fit_together_are_refused(make_store: MakeStore, tmp_path: Path) -> None:
    first = store_of(make_store, "a.h5", list(range(6)))
    other = store_of(make_store, "b.h5", list(range(10, 16)))
    with pytest.raises(
        StoreError,
        match=r"b.h5: has none of the 6 images of .*a.h5; found keys such as 10.jpg, there "
        "0.jpg; expected the same images",
    ):
        load_dataset([first, other], A)
    with pytest.raises(SettingError, match="the same file; name it once"):
        load_dataset([first, tmp_path / "." / "a.h5"], A)
    with pytest.raises(SettingError, match="store: found no file"):
        load_dataset([])
    with pytest.raises(StoreError, match=r"none.h5: no such file"):
        load_dataset([first, tmp_path / "none.h5"], A)
    halves = [store_of(make_store, f"{n}.h5", ids) for n, ids in (("c", [0, 1]), ("d", [4, 5]))]
    with pytest.raises(StoreError, match="no image is in all of them"):
        load_dataset([first, *halves], A)
    second = store_of(make_store, "e.h5", list(range(6)))
    message = f"layer: the stores hold {A}, e:conv1_relu; name one, as in load_dataset(['{first}', "
    with pytest.raises(SettingError) as caught:
        load_dataset([first, second])
    assert str(caught.value).startswith(message)
    with pytest.raises(SettingError, match=f"unknown layer.*nearest.*{A}|{A}"):
        load_dataset([first, second], "conv1_relu")
    with h5py.File(second, "r+") as file:
        file["status"][3] = 0
    with pytest.raises(StoreError, match=r"e.h5: 1 of 6 images have no features yet"):
        load_dataset([first, second], A)


def test_names_of_stores_are_different_and_can_be_swept(make_store: MakeStore) -> None:
    names = ["x/out.h5", "y/out.h5", "a+b=c,d:e.h5", "z/out.h5", "out_2.h5"]
    assert name_stores(list(map(Path, names))) == ["out", "out_2", "a_b_c_d_e", "out_3", "out_2_2"]
    assert name_stores([Path("out.h5")]) == [""]
    X = np.zeros((4, 2), np.float32)
    one = [make_store(X, [0, 1, 0, 1], name=f"{name}.h5") for name in "ab"]
    assert list_layers(one) == [(A,), (B,), (A, B)]
    assert list_layers(one[:1]) == [("conv1_relu",)]
    two = make_store({"conv1_relu": X, "conv_pw_1": X}, [0, 1, 0, 1], name="c.h5")
    assert list_layers([one[0], two]) == [(A,), ("c:conv1_relu",), ("c:conv_pw_1",)]


def noisy(count: int, seed: int, noise: float, scale: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    X = random.normal(size=(count, 5)) * noise
    X[:, 0] += np.arange(count) % 2
    return (scale * X).astype(np.float32)


def test_joined_layers_are_those_of_scikit_learn(make_store: MakeStore) -> None:
    """The rule is numpy.concatenate, and the head's own transform on all of it."""
    y = [0, 1] * 60
    parts = [noisy(120, 0, 0.7), noisy(120, 1, 0.7, 100)]
    paths = [make_store(X, y, name=f"{n}.h5") for n, X in zip("ab", parts, strict=True)]
    made = load_dataset(paths, A)
    result = sweep(made, f"layer={A},{B},{A}+{B}", head="logistic", folds=5)
    layers = {(A,): parts[0], (B,): parts[1], (A, B): np.concatenate(parts, axis=1)}
    for entry in result.entries:
        X, truth = layers[entry.spec.layer], np.array(y)
        scores = np.empty(120)
        for split in result.splits:
            head = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, tol=1e-8))
            head.fit(X[split.train], truth[split.train])
            own = truth[split.validation]
            scores[split.validation] = head.predict_proba(X[split.validation])[
                np.arange(len(own)), own
            ]
        assert entry.scores["accuracy"] == pytest.approx((scores > 0.5).mean(), abs=1e-9)
        assert entry.scores["loss"] == pytest.approx(-np.log(scores).mean(), abs=1e-5)
    best = {entry.spec.layer: entry.scores["accuracy"] for entry in result.entries}
    assert best[(A, B)] > max(best[(A,)], best[(B,)])


def test_views_are_those_of_the_layers_own_store(make_store: MakeStore) -> None:
    ids = list(range(6))
    views = np.arange(6 * 2 * 2, dtype=np.float32).reshape(6, 2, 2)
    first = store_of(make_store, "a.h5", ids)
    order = [3, 1, 0, 2, 5, 4]
    second = store_of(make_store, "b.h5", order, views=views[order])
    made = load_dataset([first, second], A)
    assert made.views is None
    own = with_layer(made, B)
    assert own.views is not None
    found = own.views.of(np.array([0, 2, 3]))
    assert (found.features == views[[0, 2, 3]]).all()
    assert found.owners.tolist() == [0, 1, 2]
    assert with_layer(made, f"{A}+{B}").views is None
    assert with_layer(made, f"{B}+{A}").views is None
    with pytest.raises(SettingError, match=f"views: all has no effect on {A}\\+{B}"):
        sweep(made, f"layer={A}+{B}", head="knn", views="all")


def test_a_store_that_is_replaced_is_not_read_on(make_store: MakeStore) -> None:
    first = store_of(make_store, "a.h5", list(range(8)))
    second = store_of(make_store, "b.h5", list(range(8)), value=1)
    every: list[Callable[[Dataset], Any]] = [
        lambda made: with_layer(made, B),
        lambda made: sweep(made, f"layer={B}", head="lda", folds=2),
    ]
    for value, again in enumerate(every, 2):
        made = load_dataset([first, second], A)
        store_of(make_store, "new.h5", list(range(8)), value=value)
        shutil.move(second.with_name("new.h5"), second)
        with pytest.raises(StoreError, match=r"b.h5: changed while it was read"):
            again(made)


def test_the_fingerprint_is_of_every_store(make_store: MakeStore) -> None:
    first = store_of(make_store, "a.h5", list(range(8)))
    prints = set()
    for value in (1, 2):
        (first.parent / "b.h5").unlink(missing_ok=True)
        second = store_of(make_store, "b.h5", list(range(8)), value=value)
        made = load_dataset([first, second], A)
        assert made.fingerprint == load_dataset([first, second], A).fingerprint
        prints |= {made.fingerprint, load_dataset([second], None).fingerprint}
    assert len(prints) == 4
    assert load_dataset([first]).fingerprint == load_dataset(first).fingerprint


@pytest.mark.parametrize("memory", [None, NONE])
@pytest.mark.parametrize("layer", [B, f"{A}+{B}"])
def test_rows_in_another_order_are_read_in_the_order_of_their_store(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, memory: float | None, layer: str
) -> None:
    """No block of a store is read once for each of its rows."""
    random, count = np.random.default_rng(0), 600
    order = random.permutation(count)
    parts = [random.normal(size=(count, 8)).astype(np.float32) for _ in "ab"]
    keys = [f"{i}.jpg" for i in range(count)]
    paths = []
    for name, ids, X in zip("ab", (np.arange(count), order), parts, strict=True):
        paths.append(make_store(X[ids], (ids % 2).tolist(), keys=[keys[i] for i in ids], name=name))
        with h5py.File(paths[-1], "r+") as file:
            file["digest"][...] = file["digest"][...][ids]
    reads = list[slice]()

    def count_reads(path: Path, layers: Any, ranges: list[slice]) -> Any:
        reads.extend(ranges)
        return read_features(path, layers, ranges)

    monkeypatch.setattr(out_of_core, "read_features", count_reads)
    monkeypatch.setattr(out_of_core, "BLOCK_BYTES", 20 * 64)
    monkeypatch.setattr(out_of_core, "WINDOW_BYTES", 200 * 64)
    monkeypatch.setattr(out_of_core, "PIECE_BYTES", 40 * 64)
    made = load_dataset(paths, layer, memory)
    wanted = np.concatenate([parts["ab".index(name[0])] for name in layer.split("+")], axis=1)
    assert isinstance(made.X, StoredRows) == (memory is not None)
    assert len(reads) <= (4 if memory else 1) * 2 * (count / 20 + 1)
    assert (rows_of(made) == wanted).all()
    if isinstance(made.X, StoredRows):
        chosen = np.arange(1, count, 3)
        assert (made.X[chosen].read(np.arange(200)) == wanted[chosen]).all()
        narrow = made.X.map(lambda block: block[:, :4], (4,))
        assert (narrow.read(chosen) == wanted[chosen, :4]).all()
        epoch = out_of_core.Epoch(made.X, [0, 1])
        assert sorted(epoch.order) == list(range(count))
        assert (epoch.take(0, count) == wanted[epoch.order]).all()
