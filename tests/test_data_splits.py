"""No image changes sides, no group parts, and every side can do its work."""

import logging
import re
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classify.data.dataset import Dataset
from classify.data.splits import (
    development_rows,
    held_out,
    split_folds,
    split_rows,
    validation_rows,
)
from extract.core.config import TrunkSpec
from extract.core.errors import SplitError


def dataset(
    y: Sequence[int],
    split: Sequence[int] | None = None,
    keys: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] = ("cat", "dog"),
) -> Dataset:
    count = len(y)
    return Dataset(
        X=np.zeros((count, 2), np.float32),
        y=np.array(y, np.int64),
        keys=list(keys or (f"{i}.jpg" for i in range(count))),
        groups=None if groups is None else list(groups),
        split=np.array(split if split is not None else [0] * count, np.int8),
        class_names=tuple(class_names),
        layer="mixed7",
        trunk=TrunkSpec(),
        weights_sha256="",
        dtype="float32",
    )


def test_the_split_of_the_store_is_taken_where_it_has_one() -> None:
    split = split_rows(dataset([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2]))
    assert split.origin == "store"
    assert split.train.tolist() == [0, 1]
    assert split.validation.tolist() == [2, 3]
    assert split.test.tolist() == [4, 5]


def test_else_about_a_fifth_of_the_training_rows_is_held_out_and_test_rows_stay() -> None:
    split = split_rows(dataset([0, 1] * 1000, [0] * 1600 + [2] * 400))
    assert split.origin == "hold-out"
    assert split.test.tolist() == list(range(1600, 2000))
    assert len(split.validation) == pytest.approx(320, abs=60)
    together = np.concatenate([split.train, split.validation])
    assert sorted(together.tolist()) == list(range(1600))


def test_the_hash_is_what_it_was() -> None:
    # Another hash would move images that users have seen on one side.
    names = [f"cats/{i}.jpg" for i in range(20)]
    assert np.flatnonzero(held_out(names)).tolist() == [4, 12]


names = st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True)


@given(names, names, st.randoms())
def test_adding_and_reordering_moves_no_name(
    old: list[str], new: list[str], random: Random
) -> None:
    before = dict(zip(old, held_out(old).tolist(), strict=True))
    together = list(dict.fromkeys([*new, *old]))
    random.shuffle(together)
    after = dict(zip(together, held_out(together).tolist(), strict=True))
    assert {name: after[name] for name in old} == before


@given(st.lists(st.integers(0, 9), min_size=20, max_size=60))
def test_no_group_is_parted(numbers: list[int]) -> None:
    groups = [f"patient {number}" if number else "" for number in numbers]
    # A hundred rows without a group, so that both classes are surely on both sides.
    keys = [f"{row}.jpg" for row in range(100)]
    groups = [""] * 100 + groups
    keys += [f"more/{row}.jpg" for row in range(len(numbers))]
    split = split_rows(dataset([row % 2 for row in range(len(keys))], keys=keys, groups=groups))
    sides = [{groups[row] for row in side} - {""} for side in (split.train, split.validation)]
    assert not sides[0] & sides[1]


def test_a_row_without_a_group_is_held_out_by_its_key() -> None:
    keys = [f"{i}.jpg" for i in range(200)]
    alone = split_rows(dataset([0, 1] * 100, keys=keys))
    grouped = split_rows(dataset([0, 1] * 100, keys=keys, groups=[""] * 200))
    assert grouped.validation.tolist() == alone.validation.tolist()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            dataset([0, 0, 0], [0, 0, 1], class_names=["cat"]),
            "classes: found cat; expected two or more; put the images of each class in a folder "
            "of its own",
        ),
        (
            dataset([0, 1, 1], [0, 0, 2], keys=["b", "c", "d"]),
            "validation: none of 3 labelled images; expected some to compare heads on; add "
            "images, or put some in a validation/ folder",
        ),
        (
            dataset([0, 1], [1, 1]),
            "classes: no training image of cat, dog; expected one or more of each class; add "
            "some, or leave the class out",
        ),
        (dataset([0, 1, 0], [0, 1, 1]), "no training image of dog"),
        (dataset([0, 1, 0], [0, 2, 1]), "no training image of dog"),
        (
            dataset([0, 1, 0], [0, 0, 1], groups=["a", "b", "a"]),
            "group 'a': its images 0.jpg and 2.jpg are in two splits; expected one; move them "
            "together or remove one",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(made: Dataset, message: str) -> None:
    with pytest.raises(SplitError) as raised:
        split_rows(made)
    assert re.search(f"{re.escape(message)}(;|$)", str(raised.value))


def test_a_class_that_is_not_judged_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headstart"):
        split_rows(dataset([0, 1, 0, 1], [0, 0, 1, 1]))
        assert not caplog.messages
        split_rows(dataset([0, 1, 2, 0], [0, 0, 0, 1], class_names=("cat", "dog", "fox")))
    assert caplog.messages == ["no validation image of dog, fox: not validated"]


# Folds.


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 1)), min_size=12, max_size=40),
    st.integers(2, 4),
    st.randoms(),
)
def test_folds_part_no_group_judge_each_row_once_and_mind_no_order(
    rows: list[tuple[int, int]], folds: int, random: Random
) -> None:
    groups = [""] * 40 + [f"patient {number}" if number else "" for number, _ in rows]
    y = [row % 2 for row in range(40)] + [label for _, label in rows]
    keys = [f"{row}.jpg" for row in range(len(y))]
    splits = split_folds(dataset(y, keys=keys, groups=groups), folds)
    judged = np.concatenate([split.validation for split in splits])
    assert sorted(judged.tolist()) == list(range(len(y)))
    for split in splits:
        sides = [{groups[row] for row in side} - {""} for side in (split.train, split.validation)]
        assert not sides[0] & sides[1]
        assert sorted([*split.train.tolist(), *split.validation.tolist()]) == sorted(judged)
    order = list(range(len(y)))
    random.shuffle(order)
    moved = dataset(
        [y[i] for i in order], keys=[keys[i] for i in order], groups=[groups[i] for i in order]
    )
    for split, again in zip(splits, split_folds(moved, folds), strict=True):
        assert {order[row] for row in again.validation} == set(split.validation.tolist())


def test_classes_are_spread_evenly_over_folds_and_test_rows_stay_out() -> None:
    y = [0] * 50 + [1] * 25 + [0, 1] * 5
    made = dataset(y, [0] * 75 + [2] * 10)
    for split in split_folds(made, 5):
        assert np.bincount(np.array(y)[split.validation]).tolist() == [10, 5]
        assert sorted([*split.train.tolist(), *split.validation.tolist()]) == list(range(75))
        assert split.test.tolist() == list(range(75, 85))
        assert split.origin == "fold"


def test_a_class_may_lack_in_a_fold_if_it_can_be_trained(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headstart"):
        splits = split_folds(dataset([0] * 6 + [1] * 2), 3)
    assert sorted(int((split.validation >= 6).sum()) for split in splits) == [0, 1, 1]
    assert not caplog.text  # it is judged in another fold


def test_large_groups_are_placed_before_small_ones() -> None:
    groups = ["", "", "", "", "big", "big", "big", "big"]
    for split in split_folds(dataset([0, 1] * 4, groups=groups), 2):
        assert len(split.validation) == 4


def test_the_rows_that_judge_are_those_of_all_folds() -> None:
    made = dataset([0, 1] * 10, [0] * 16 + [2] * 4)
    splits = split_folds(made, 4)
    assert validation_rows(splits).tolist() == list(range(16))
    assert validation_rows(splits[:1]).tolist() == splits[0].validation.tolist()


def test_the_chosen_head_is_trained_on_all_rows_outside_the_test_split_of_folds() -> None:
    made = dataset([0, 1] * 10, [0] * 16 + [2] * 4)
    assert development_rows(made).tolist() == list(range(16))
    for split in split_folds(made, 4):
        assert split.refit_rows.tolist() == list(range(16))
    alone = split_rows(dataset([0, 1, 0, 1], [0, 0, 1, 1]))
    assert alone.refit_rows.tolist() == [0, 1]


def test_another_seed_gives_other_folds() -> None:
    made = dataset([0, 1] * 20)
    first, again, other = (split_folds(made, 4, seed)[0].validation.tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert split_folds(made, 4)[0].validation.tolist() == first


@pytest.mark.parametrize(
    ("made", "folds", "message"),
    [
        (dataset([0, 1] * 3), 7, "found 7 for 6 images or groups; .*; choose fewer folds$"),
        (dataset([0, 0, 0, 0, 1]), 2, "no training image of dog"),
        (dataset([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 2]), 2, "no training image of dog"),
        (dataset([0, 1] * 3, groups=["a", "b"] * 3), 2, "no training image of"),
    ],
)
def test_folds_that_cannot_be(made: Dataset, folds: int, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_folds(made, folds)
