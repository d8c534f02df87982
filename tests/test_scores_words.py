"""Shares in words and figures: never all, or none, where it is not so."""

import math

import numpy as np
import pytest

from classify.scores.words import (
    metric_name,
    percent,
    percent_range,
    percentage_points,
    share_in_words,
)
from classify.settings.config import METRICS


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "none of them"),
        (1, "all of them"),
        (0.95, "about 19 in 20"),
        (0.9, "about 9 in 10"),
        (0.855, "about 17 in 20"),
        (0.8, "about 4 in 5"),
        (0.7, "about 7 in 10"),
        (0.67, "about 2 in 3"),
        (0.5, "about half"),
        (0.525, ""),
        (0.985, "about 98 in 100"),
        (0.98, "about 49 in 50"),
        (0.997, "more than 99 in 100"),
        (0.003, "less than 1 in 100"),
        (0.25, "about 1 in 4"),
    ],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert share_in_words(share) == words


def test_words_are_within_two_points_of_the_share() -> None:
    said = 0
    for share in np.linspace(0.01, 0.99, 197):
        words = share_in_words(share).removeprefix("about ").replace("half", "1 in 2")
        if words:
            part, whole = map(int, words.split(" in "))
            assert abs(part / whole - share) <= 0.02 + 1e-9
            assert abs(part / whole - share) <= 0.3 * min(share, 1 - share) + 0.005
            said += 1
    assert said > 170


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 %"),
        (1, "100 %"),
        (0.9996, "99.9 %"),
        (1 - 1e-9, "99.9 %"),
        (1e-9, "0.1 %"),
        (0.0625, "6.3 %"),  # a half is rounded up, as in JavaScript
        (0.37, "37.0 %"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


def test_every_share_is_within_a_tenth() -> None:
    for whole in (7, 64, 5000):
        for part in range(1, whole):
            value = float(percent(part / whole).split("\N{NO-BREAK SPACE}")[0])
            assert math.isclose(value, 100 * part / whole, abs_tol=0.09)


def test_ranges_and_differences() -> None:
    assert percent_range(0.9996, 1).replace("\N{NO-BREAK SPACE}", " ") == "99.9 to 100 %"
    assert percentage_points(0.0125) == "+1.2"
    assert percentage_points(-0.05) == "\N{MINUS SIGN}5.0"
    assert percentage_points(-0.0001) == percentage_points(0.0) == "+0.0"


def test_metrics_have_one_name() -> None:
    assert [metric_name(metric) for metric in METRICS] == [
        *("accuracy", "balanced accuracy", "macro F1", "loss", "ROC area", "average precision")
    ]
