"""Two heads in the report: the table without a script, and any pair with their images."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from classify.diagnosis.analysis import Analysis
from classify.diagnosis.comparison import choose_heads
from classify.search.leaderboard import Result
from classify.settings.head_spec import HeadSpec
from tests.browser import opened
from tests.test_report_page import HEADS, IMAGE, SCRIPT, dataset, report

Made = tuple[Path, Result, Analysis]
NAMES = (SCRIPT, '"><b onclick=alert(2)>&amp;', "$5_{x}$")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("three")
    made = dataset(NAMES, folder / "images", count=40)
    return report(made, folder / "report.html", (*HEADS, HeadSpec("lda")))


def shown(page: Any) -> dict[str, int]:
    cells = page.locator("#two-heads [data-count]")
    return {str(c.get_attribute("data-count")): int(c.inner_text()) for c in cells.all()}


def counted(result: Result, first: Any, second: Any) -> dict[str, int]:
    """The numbers of NumPy."""
    assert result.dataset is not None
    y = result.dataset.y[result.validation_rows]
    a, b = (entry.evaluation.answers == y for entry in (first, second))
    parts = {"both_right": a & b, "only_first": a & ~b, "only_second": b & ~a}
    return {name: int(of.sum()) for name, of in (parts | {"both_wrong": ~a & ~b}).items()}


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def check_words(text: str, found: dict[str, int], low: float, high: float) -> None:
    """Compare the words with scipy's test and the counts."""
    count = sum(found.values())
    difference = (found["only_first"] - found["only_second"]) / count
    assert f"a difference of {points(difference)} percentage points" in text
    assert f"confidence interval {points(low)} to {points(high)}" in text
    uneven = found["only_first"] + found["only_second"]
    p = binomtest(found["only_first"], uneven).pvalue if uneven else 1
    assert ("p < 0.001" if p < 0.001 else f"p = {p:.3f}") in text


def test_without_a_script_the_best_is_compared_with_another_kind(browser: Any, three: Made) -> None:
    path, result, analysis = three
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    first, second = choose_heads(result.entries)[:2]
    assert first is result.best
    assert first.spec.head != second.spec.head
    found = shown(page)
    assert found == counted(result, first, second)
    pair = analysis.comparisons[0]
    assert pair.low is not None
    assert pair.high is not None
    check_words(page.inner_text("#two-heads .difference"), found, pair.low, pair.high)
    assert page.locator("#two-heads .pickers").is_hidden()
    context.close()


def test_the_selects_show_every_pair(browser: Any, three: Made) -> None:
    path, result, analysis = three
    heads = choose_heads(result.entries)
    assert len(heads) == 4
    made = result.dataset
    assert made is not None
    y = made.y[result.validation_rows]
    with opened(browser, path) as page:
        first_select, second_select = page.locator("#first-head"), page.locator("#second-head")
        options = first_select.locator("option").all_inner_texts()
        assert options == [head.name() for head in heads]
        for first, second in itertools.permutations(heads, 2):
            first_select.select_option(first.name())
            second_select.select_option(second.name())
            assert first_select.input_value() == first.name()
            found = counted(result, first, second)
            assert shown(page) == found
            pair = next(
                p
                for p in analysis.comparisons
                if {p.first, p.second} == {first.name(), second.name()}
            )
            assert pair.low is not None
            assert pair.high is not None
            ends = pair.low, pair.high
            if pair.first != first.name():
                ends = -pair.high, -pair.low
            check_words(page.inner_text("#two-heads .difference"), found, *ends)
            sides = page.locator("#two-heads .sides > div")
            for side, own, other in zip(sides.all(), (first, second), (second, first), strict=True):
                assert f"Only {own.name()} is right" in side.locator("h3").inner_text()
                only = (own.evaluation.answers == y) & (other.evaluation.answers != y)
                keys = {made.keys[row] for row in result.validation_rows[only]}
                assert side.locator("figure:visible").count() <= 6
                for more in side.locator("summary").all():
                    more.click()
                listed = side.locator("code").all_inner_texts()
                assert len(listed) == min(24, len(keys))
                assert set(listed) <= keys
                for figure in side.locator("figure").all()[:2]:
                    row = made.keys.index(figure.locator("code").inner_text())
                    at = int(np.flatnonzero(result.validation_rows == row)[0])
                    text = figure.inner_text()
                    for head in (own, other):
                        answer = NAMES[head.evaluation.answers[at]]
                        assert f"{head.name()}: {answer}" in text


def test_the_same_choice_twice_swaps_the_heads(browser: Any, three: Made) -> None:
    with opened(browser, three[0]) as page:
        first, second = page.locator("#first-head"), page.locator("#second-head")
        before = first.input_value(), second.input_value()
        counts = shown(page)
        first.select_option(before[1])
        assert (first.input_value(), second.input_value()) == before[::-1]
        assert shown(page)["only_first"] == counts["only_second"]
        second.select_option(before[1])
        assert (first.input_value(), second.input_value()) == before
        assert shown(page) == counts
        # By the keyboard, with names for both.
        assert page.get_by_label("First head").count() == 1
        first.focus()
        page.keyboard.press("ArrowDown")
        assert first.input_value() != before[0]


def test_the_images_are_there_and_names_stay_text(browser: Any, three: Made) -> None:
    with opened(browser, three[0]) as page:
        sides = page.locator("#two-heads .sides")
        assert sides.locator("img").count() > 0
        assert IMAGE in sides.inner_text()
        assert page.locator("#two-heads script, #two-heads b, #two-heads [onclick]").count() == 0


def test_one_head_has_no_such_section(browser: Any, tmp_path: Path) -> None:
    found = report(dataset(("a", "b")), tmp_path / "report.html", HEADS[:1])
    with opened(browser, found[0]) as page:
        assert page.locator("#two-heads").count() == 0
        assert "Two heads" not in page.inner_text("nav")


def test_with_groups_the_interval_is_the_one_to_trust(tmp_path: Path) -> None:
    made = dataset(("a", "b", "c"), count=40)
    groups = [f"site {row // 3 % 8 if row % 2 else row}" for row in range(len(made.y))]
    grouped = replace(made, groups=groups, split=np.zeros(len(made.y), np.int8))
    path, _, _ = report(grouped, tmp_path / "report.html", HEADS, 3)
    text = path.read_text(encoding="utf-8")
    assert "so trust the interval" in text
    assert re.search(r"<p class=\"difference\"[^>]*>Accuracy", text)
