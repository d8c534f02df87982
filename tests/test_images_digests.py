import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from classify import sweep
from classify.cli import main as train_head
from classify.data.dataset import load_dataset
from classify.data.splits import split_folds, split_rows
from classify.search.search import _with_layer
from classify.settings.head_spec import HeadSpec
from extract.core.errors import SettingError, SplitError
from extract.images.digests import describe_leaks, group_by_digest
from extract.pipeline.run import run_extraction as extract_features
from tests.conftest import QUICK, MakeStore


def digests(*numbers: int) -> np.ndarray:
    return np.array([[number] * 16 for number in numbers], np.uint8)


@pytest.mark.parametrize(
    ("numbers", "sides", "wanted"),
    [
        ([1, 2, 3], [0, 1, 2], ""),
        ([1, 1, 2], [0, 0, 1], ""),
        ([1, 2, 1], [0, 1, 1], "1 time (a = c)"),
        ([1, 1, 1], [0, 1, 2], "2 times (a = b, a = c)"),
        ([], [], ""),
    ],
)
def test_only_the_same_image_in_two_splits_is_a_leak(
    numbers: list[int], sides: list[int], wanted: str
) -> None:
    found = describe_leaks(digests(*numbers), np.array(sides, np.int8), "abc")
    assert (wanted in found) if wanted else found == ""


def test_extract_features_names_leaks(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    extract_features(images, tmp_path / "a.h5", **QUICK)
    assert "two splits" not in caplog.text
    shutil.copy(images / "train/cat/0.png", images / "validation/cat/9.png")
    # Twice broken is not twice the same.
    for split in ("train", "validation"):
        (images / split / "dog" / "8.png").touch()
    extract_features(images, tmp_path / "b.h5", **QUICK)
    assert "1 time (train/cat/0.png = validation/cat/9.png)" in caplog.text


def test_copies_are_on_one_side_of_a_hold_out_but_not_of_folds(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    y = [0, 1] * 20
    X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    made = load_dataset(make_store(X, y))
    split = split_rows(made)
    same = made.digests
    assert same is not None
    same[split.train[:4]] = same[split.validation[0]]
    copied = replace(made, digests=same)
    divided = split_rows(copied)
    assert {*split.train[:4].tolist(), int(split.validation[0])} <= {*divided.validation.tolist()}
    assert "two splits" not in caplog.text
    split_folds(copied, 5, 0)
    assert "found the same image in two folds" in caplog.text
    assert "give --groups digest, or remove one of each" in caplog.text


def test_splits_of_the_file_that_share_an_image_are_for_their_maker_to_mend(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = copied_store(make_store, [0, 1, 2, 0] * 10)
    with caplog.at_level(logging.WARNING, "headstart"):
        split_rows(load_dataset(path))
    assert caplog.messages[0].startswith(f"{path}: found the same image in two splits 12 times")
    assert caplog.messages[0].endswith("; move or remove one of each")


@pytest.mark.parametrize(
    ("numbers", "groups", "together"),
    [
        ([1, 2, 1], None, "aba"),
        ([1, 2, 1], ["", "", ""], "aba"),
        # A copy goes where its group goes, and joins two of them, and those of its copies.
        ([1, 2, 1], ["x", "x", ""], "aaa"),
        ([1, 1, 2, 3], ["x", "y", "y", ""], "aaab"),
        ([1, 2, 2, 3, 3, 4], ["w", "w", "x", "x", "y", "y"], "aaaaaa"),
        ([], [], ""),
    ],
)
def test_copies_are_of_one_group(
    numbers: list[int], groups: list[str] | None, together: str
) -> None:
    found = group_by_digest(digests(*numbers).reshape(-1, 16), groups)
    assert ["ab"[sorted(set(found), key=found.index).index(name)] for name in found] == list(
        together
    )


def test_a_copy_that_is_added_moves_no_other() -> None:
    alone, _ = group_by_digest(digests(1, 2))
    assert group_by_digest(digests(3, 1, 1))[1:] == [alone, alone]
    assert group_by_digest(digests(1, 2), ["burst", ""])[0] == "burst"


def copied_store(make_store: MakeStore, split: list[int] | None = None) -> tuple[Path, np.ndarray]:
    """Forty images, of which each is there twice, as different rows; and which is which."""
    image = np.random.default_rng(0).permutation(40) // 2
    X = np.random.default_rng(1).normal(size=(20, 4)).astype("float32")[image]
    path = make_store(X, (image % 2).tolist(), split)
    same = np.repeat(image[:, None].astype(np.uint8), 16, 1)
    with h5py.File(path, "r+") as file:
        file["digest"][:] = same
    return path, image


def test_copies_stay_in_one_fold_and_on_one_side_where_that_is_asked_for(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path, image = copied_store(make_store)
    apart = load_dataset(path)
    split_folds(apart, 4)
    assert "the same image in two folds" in caplog.text
    assert "give --groups digest, or remove one of each" in caplog.text
    caplog.clear()
    together = load_dataset(path, groups="digest")
    for split in (*split_folds(together, 4), split_rows(together)):
        assert not set(image[split.train]) & set(image[split.validation])
    assert "the same image" not in caplog.text
    assert together.fingerprint != apart.fingerprint
    # Copies of one image are not counted twice.
    widths = []
    for dataset in (together, apart):
        entry = sweep(dataset, head="logistic", folds=4).entries[0]
        assert entry.low is not None
        assert entry.high is not None
        widths.append(entry.high - entry.low)
    assert widths[0] > widths[1]


def test_layers_that_are_read_later_keep_copies_together(make_store: MakeStore) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    path = make_store({"conv1_relu": X, "conv_pw_1_relu": X}, [0, 1] * 10)
    made = load_dataset(path, "conv1_relu", groups="digest")
    other = _with_layer(made, HeadSpec("logistic", layer=("conv_pw_1_relu",)), None)
    assert other.groups == made.groups


def test_copies_that_the_splits_of_the_file_part_are_refused(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = copied_store(make_store, [0, 1, 2, 0] * 10)
    made = load_dataset(path, groups="digest")
    for parted in (lambda: split_rows(made), lambda: split_folds(made, 4)):
        with pytest.raises(
            SplitError, match=r"^groups: found copies in .*, 0000\d\d.png and 0000\d\d.png;"
        ):
            parted()
    assert train_head([str(path), "--head", "logistic", "--groups", "digest"]) == 1
    said = capsys.readouterr().err
    assert "found copies in two splits of the file" in said
    assert not re.search("[0-9a-f]{32}", said)
    with pytest.raises(SettingError, match="groups 'digests' is unknown; nearest: digest"):
        load_dataset(path, groups="digests")


@pytest.mark.parametrize("test_images", [0, 10])
def test_groups_are_offered_only_outside_the_test_split(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture, test_images: int
) -> None:
    path, _ = copied_store(make_store, [2] * test_images + [0] * (40 - test_images))
    with caplog.at_level(logging.WARNING, "headstart"):
        split_folds(load_dataset(path), 4)
    assert ("--groups digest" in caplog.text) == (not test_images)
    assert ("; move or remove one of each" in caplog.text) == (test_images > 0)


def test_train_head_groups_copies(make_store: MakeStore, tmp_path: Path) -> None:
    path, _ = copied_store(make_store)
    words = ["--head", "logistic", "--folds", "4", "-q", "-o", str(tmp_path / "head")]
    for more, groups in (([], None), (["--groups", "digest"], 20)):
        assert train_head([str(path), *words, *more]) == 0
        assert json.loads((tmp_path / "head/result.json").read_text())["split"]["groups"] == groups
