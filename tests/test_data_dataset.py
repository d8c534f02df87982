"""From the store to arrays: which rows, which layer, and what is refused."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from classify.data.dataset import load_dataset
from classify.data.splits import leave_out_lone
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.core.config import TrunkSpec
from extract.core.errors import SettingError, SplitError, StoreError
from extract.store.format import Layout, create_store
from tests.conftest import MakeStore, items_of


def features(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def test_rows_with_label_and_features_in_the_order_of_the_store(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = features(6, 2, 2, 3)
    path = make_store(X, [0, -1, 1, 1, 0, 1], [0, 0, 0, 1, 2, 1], failed=[3], groups=list("abcdef"))
    with caplog.at_level(logging.INFO, "headstart"):
        found = load_dataset(path)
    rows = [0, 2, 4, 5]
    np.testing.assert_array_equal(found.X, X[rows])
    assert found.X.dtype == np.float32
    assert found.y.tolist() == [0, 1, 0, 1]
    assert found.keys == [f"{row:06d}.png" for row in rows]
    assert found.groups == list("acef")
    assert found.split.tolist() == [0, 0, 2, 1]
    assert found.class_names == ("cat", "dog")
    assert (found.layer, found.trunk.trunk) == ("conv1_relu", "mobilenet")
    assert (found.weights_sha256, found.dtype) == ("0" * 64, "float32")
    assert "left out: 1 image that could not be read" in caplog.text
    assert "left out: 1 image without a label" in caplog.text


def test_a_dataset_shows_itself_in_a_few_lines(make_store: MakeStore) -> None:
    names = ["a<b>", *(f"class {label} {'x' * 300}" for label in range(1, 200))]
    labels, split = [0, 0, 1, 199], [0, 1, 2, 0]
    path = make_store(features(4, 2, 2, 3), labels, split, class_names=names)
    text = repr(load_dataset(path))
    lines = text.splitlines()
    assert lines[:3] == ["Dataset", f"  file      {path}", "  images    4"]
    assert lines[3].startswith(f"  classes   a<b> 2, class 1 {'x' * 29}... 1, ")
    assert lines[3].endswith("and 190 more")
    assert lines[4:] == [
        "  features  conv1_relu, (2, 2, 3) float32, in memory",
        "  splits    training 2, validation 1, test 1",
    ]
    assert len(text) < 1000
    assert repr(load_dataset(path, memory=1e-9)).splitlines()[4].endswith("read from the file")
    table = load_dataset(path)._repr_html_()
    assert table.startswith("<table><tr><td>file</td>")
    assert "<td>a&lt;b&gt; 2, class 1 x" in table
    assert len(table) < 1200


def test_half_precision_is_widened(make_store: MakeStore) -> None:
    X = features(4, 3).astype(np.float16)
    found = load_dataset(make_store(X, [0, 1, 0, 1]))
    assert found.X.dtype == np.float32
    assert found.dtype == "float16"
    np.testing.assert_array_equal(found.X, X.astype(np.float32))
    assert found.groups is None


def test_one_layer_of_several(make_store: MakeStore) -> None:
    path = make_store({"conv1_relu": features(4, 3), "conv_pw_1": features(4, 5)}, [0, 1, 0, 1])
    assert load_dataset(path, "conv_pw_1").X.shape == (4, 5)
    with pytest.raises(SettingError) as raised:
        load_dataset(path)
    assert str(raised.value) == (
        "layer: the store holds conv1_relu, conv_pw_1; name one, as in "
        f"load_dataset('{path}', 'conv1_relu')"
    )
    with pytest.raises(SettingError, match="layer 'conv_pw1' is unknown; nearest: conv_pw_1"):
        load_dataset(path, "conv_pw1")


@pytest.mark.parametrize("memory", [None, 1e-9])
def test_classes_are_left_out_by_name(
    memory: float | None, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X, names = features(8, 3), ("cat", "dog", "fox")
    views = X[:6, None]
    labels, split = [0, 1, 2, 0, 1, 2, 0, 2], [0] * 6 + [1] * 2
    path = make_store(X, labels, split, class_names=names, views=views, groups=list("abcdefgh"))
    with caplog.at_level(logging.INFO, "headstart"):
        found = load_dataset(path, memory=memory, leave_out="dog")
    assert "left out: 2 images of dog" in caplog.text
    rows = [0, 2, 3, 5, 6, 7]
    assert found.class_names == ("cat", "fox")
    assert found.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.keys == [f"{row:06d}.png" for row in rows]
    assert found.groups == list("acdfgh")
    assert found.left_out == ("dog",)
    stored = found.X if memory is None else found.X.read(np.arange(6))
    np.testing.assert_array_equal(stored, X[rows])
    # The same as leaving it out later.
    later = load_dataset(path, memory=memory).without(["dog"])
    assert (later.keys, later.y.tolist()) == (found.keys, found.y.tolist())
    for made in (found, later) if memory is None else ():
        assert made.views is not None
        of = made.views.of(np.array([1, 3, 4]))
        assert of.owners.tolist() == [0, 1]
        np.testing.assert_array_equal(of.features[:, 0], X[[2, 5]])
    assert later.fingerprint != load_dataset(path, memory=memory).fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Dog"], "leave_out: class 'Dog' is unknown; nearest: dog; known: cat, dog, fox"),
        (["dog", "fox"], "leave_out: leaves cat; expected two classes or more; name fewer"),
    ],
)
def test_classes_that_cannot_be_left_out(
    names: list[str], message: str, make_store: MakeStore
) -> None:
    path = make_store(features(6, 3), [0, 1, 2] * 2, class_names=("cat", "dog", "fox"))
    with pytest.raises(SettingError) as raised:
        load_dataset(path, leave_out=names)
    assert str(raised.value) == message


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.h5"
    spec = TrunkSpec("mobilenet", weights="none")
    attributes = {**spec.to_dict(), "class_names": ("cat",), "dtype": "float32"}
    attributes |= {"precision": "float32", "calibration_sha256": "", "weights_sha256": "ab"}
    create_store(
        path, Layout(items_of(["a", "b"], [0, 0], [0, 0]), {spec.layer[0]: (3,)}, attributes)
    )
    with pytest.raises(StoreError, match=r"2 of 2 images have no features yet.*same extract"):
        load_dataset(path)


def test_images_without_any_label_are_refused(make_store: MakeStore) -> None:
    path = make_store(features(3, 2), [-1, -1, -1], class_names=())
    with pytest.raises(StoreError, match="extract features from class folders"):
        load_dataset(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(make_store: MakeStore, value: float) -> None:
    path = make_store(features(4, 3), [0, 1, 0, 1])
    with h5py.File(path, "r+") as file:
        file["features"][2, 1] = value
    with pytest.raises(
        StoreError, match=r"features of 1 images are not finite .*first 000002\.png"
    ):
        load_dataset(path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    h5py.File(path, "w").close()
    with pytest.raises(StoreError, match="another program"):
        load_dataset(path)
    with pytest.raises(StoreError, match="no such file"):
        load_dataset(tmp_path / "none.h5")


def test_groups_can_be_divided(make_store: MakeStore) -> None:
    X = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    path = make_store(X, [0] * 20 + [1] * 20, groups=["a"] * 20 + ["b"] * 20)
    config = TrainConfig((HeadSpec("ridge"),), folds=2)
    remedy = "add images, or divide the groups with --groups none"
    with pytest.raises(SplitError, match=remedy):
        leave_out_lone(load_dataset(path), config)
    divided = load_dataset(path, groups="none")
    assert divided.groups is None
    assert leave_out_lone(divided, config) is divided
