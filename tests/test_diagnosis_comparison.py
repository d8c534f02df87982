"""Two heads on the same images: counts, the paired interval and McNemar's test."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from classify.diagnosis.analysis import analyse
from classify.diagnosis.comparison import choose_heads, compare_heads, mcnemar
from classify.scores.differences import difference_interval
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from tests.test_report_analysis import SEVERAL, WEAK, dataset


@pytest.fixture(scope="module")
def result() -> Result:
    return run(dataset(), TrainConfig(SEVERAL, 3))


def test_the_counts_are_those_of_numpy(result: Result) -> None:
    made = dataset()
    pairs = compare_heads(made, result)
    chosen = choose_heads(result.entries)
    wanted = list(itertools.combinations(chosen, 2))
    assert [(p.first, p.second) for p in pairs] == [(a.name(), b.name()) for a, b in wanted]
    y = made.y[result.validation_rows]
    for pair, entries in zip(pairs, wanted, strict=True):
        answers = [entry.evaluation.answers for entry in entries]
        table = np.zeros((2, 2), int)
        np.add.at(table, tuple((own == y).astype(int) for own in answers), 1)
        counts = [[pair.both_wrong, pair.only_second], [pair.only_first, pair.both_right]]
        assert table.tolist() == counts
        difference = (answers[0] == y).mean() - (answers[1] == y).mean()
        assert pair.difference == pytest.approx(difference)
        assert pair.low is not None
        assert pair.high is not None
        assert pair.low <= pair.difference <= pair.high
        shared = binomtest(pair.only_first, pair.only_first + pair.only_second).pvalue
        assert pair.p_value == pytest.approx(shared)
        for rows, is_right in ((pair.first_rows, 0), (pair.second_rows, 1)):
            side = (answers[is_right] == y) & (answers[1 - is_right] != y)
            gap = np.abs(np.subtract(*(entry.evaluation.true_scores for entry in entries)))
            order = np.flatnonzero(side)[np.argsort(-gap[side].round(6), kind="stable")][:24]
            assert [one.row for one in rows] == result.validation_rows[order].tolist()
            names = [[made.class_names[own[i]] for own in answers] for i in order]
            assert [[one.first, one.second] for one in rows] == names


def test_the_best_head_of_each_kind_comes_first(result: Result) -> None:
    chosen = choose_heads(result.entries)
    kinds = [entry.spec.head for entry in chosen]
    assert sorted(kinds[:3]) == ["knn", "lda", "logistic"]
    assert chosen[0] is result.best
    assert len(chosen) == 4
    assert len(choose_heads(result.entries, most=2)) == 2
    # A head with the answers of another one says nothing.
    twin = replace(WEAK, C=2e-7)
    same = run(dataset(), TrainConfig((WEAK, twin), 3)).entries
    assert np.array_equal(same[0].evaluation.answers, same[1].evaluation.answers)
    assert len(choose_heads(same)) == 1


def test_one_head_is_compared_with_none() -> None:
    made = dataset()
    only = run(made, TrainConfig((HeadSpec("knn"),)))
    assert compare_heads(made, only) == []


def test_of_repeated_folds_the_first_answers_count() -> None:
    made = dataset()
    found = compare_heads(made, run(made, TrainConfig(SEVERAL, 3, repeats=2)))
    for pair in found:
        parts = pair.both_right, pair.only_first, pair.only_second, pair.both_wrong
        assert sum(parts) == 120


def test_the_pairs_are_in_the_record(result: Result) -> None:
    made = dataset()
    written = json.loads(json.dumps(analyse(made, result).to_dict(made.keys), allow_nan=False))
    pairs = compare_heads(made, result)
    assert len(written["comparisons"]) == len(pairs) == 6
    for shown, pair in zip(written["comparisons"], pairs, strict=True):
        assert shown["only_first"] == pair.only_first
        assert shown["p_value"] == pytest.approx(pair.p_value, abs=1e-6)
        assert [one["key"] for one in shown["first_rows"]] == [
            made.keys[one.row] for one in pair.first_rows
        ]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 9), (40, 60), (0, 30)])
def test_mcnemar_is_the_binomial_test_of_scipy(first: int, second: int) -> None:
    wanted = binomtest(first, first + second).pvalue if first + second else 1
    assert mcnemar(first, second) == pytest.approx(wanted)


def test_the_interval_allows_for_groups() -> None:
    # Of a group all images are alike: so few heads are told apart, however many images there are.
    made = dataset(count=240)
    alone = run(made, TrainConfig((WEAK, HeadSpec("knn")), 3))
    y, places = made.y[alone.validation_rows], np.arange(240)
    groups = [f"group {place % 20}" for place in places]
    pair, grouped = (compare_heads(one, alone)[0] for one in (made, replace(made, groups=groups)))
    first, second = (entry.evaluation.answers == y for entry in choose_heads(alone.entries))
    values = first.astype(float) - second
    assert (pair.low, pair.high) == difference_interval(values, places)
    assert (grouped.low, grouped.high) == difference_interval(values, places % 20)
    assert grouped.p_value == pair.p_value


def test_few_groups_give_no_interval() -> None:
    made = dataset(count=240)
    result = run(made, TrainConfig((WEAK, HeadSpec("knn")), 3))
    few = replace(made, groups=[f"group {place % 9}" for place in range(240)])
    (pair,) = compare_heads(few, result)
    assert (pair.low, pair.high) == (None, None)
    assert pair.p_value <= 1
