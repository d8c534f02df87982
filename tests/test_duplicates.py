import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classify.dataset import load_dataset
from classify.splits import divide
from extract.duplicates import describe_leaks
from extract.run import extract_features
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
def test_only_the_same_picture_in_two_splits_is_a_leak(
    numbers: list[int], sides: list[int], wanted: str
) -> None:
    found = describe_leaks(digests(*numbers), np.array(sides, np.int8), "abc")
    assert (wanted in found) if wanted else found == ""


def test_extract_features_names_leaks(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    extract_features(pictures, tmp_path / "a.h5", **QUICK)
    assert "two splits" not in caplog.text
    shutil.copy(pictures / "train/cat/0.png", pictures / "validation/cat/9.png")
    # Twice broken is not twice the same.
    for split in ("train", "validation"):
        (pictures / split / "dog" / "8.png").touch()
    extract_features(pictures, tmp_path / "b.h5", **QUICK)
    assert "1 time (train/cat/0.png = validation/cat/9.png)" in caplog.text


def test_train_head_names_leaks_of_its_own_hold_out(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    y = [0, 1] * 20
    X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    made = load_dataset(make_store(X, y))
    split = divide(made)
    assert "two splits" not in caplog.text
    same = made.digests
    assert same is not None
    same[split.train[0]] = same[split.validation[0]]
    divide(replace(made, digests=same))
    assert "found the same picture in two splits 1 time" in caplog.text
