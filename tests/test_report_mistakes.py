"""The mistakes and near-duplicates of the report in a real browser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.activation.explain import Explained, explain_mistakes
from classify.data.near_duplicates import list_near_leaks
from classify.diagnosis.analysis import analyse
from classify.report.report import write_report
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from tests.browser import opened
from tests.test_report_page import dataset

NAMES = ("<b>cat</b>", "dog", "eel")


@pytest.fixture(scope="module")
def explained_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Explained, Any]:
    """A page whose features are flattened maps of 2 x 2 positions of images that are there."""
    folder = tmp_path_factory.mktemp("mistakes")
    flat = dataset(NAMES, folder / "images", count=60)
    generator = np.random.default_rng(2)
    X = generator.normal(size=(len(flat.y), 2, 2, 4)).astype(np.float32)
    X[np.arange(len(X)), 1, 0, flat.y] += 1
    training, validation = (np.flatnonzero(flat.split == side) for side in (0, 1))
    X[validation[0]] = X[training[3]] + 1e-4
    made = replace(flat, X=X)
    result = run(made, TrainConfig((HeadSpec("logistic"),)))
    analysis = analyse(made, result)
    explained = explain_mistakes(result, analysis.mistakes)
    write_report(folder / "report.html", made, result, analysis, "out.h5", explained)
    return folder / "report.html", explained, analysis


def test_each_mistake_has_its_overlay_and_neighbours(
    browser: Any, explained_page: tuple[Path, Explained, Any]
) -> None:
    path, explained, analysis = explained_page
    assert explained.method == "exact"
    with opened(browser, path) as page:
        figures = page.locator("#mistakes .mistakes > figure")
        assert figures.count() == len(explained.rows) == 24
        first = figures.first
        assert analysis.mistakes[0].key in first.inner_text()
        assert first.locator(".pair img").count() == 2
        alternative = first.locator("img.overlay").get_attribute("alt")
        assert analysis.mistakes[0].answer in alternative
        assert explained.overlays[0].place in alternative
        assert first.locator(".nearest img").count() == 3
        assert f"{explained.nearest[0][0].cosine:.2f}" in first.inner_text()
        assert "2 \N{MULTIPLICATION SIGN} 2 positions" in page.inner_text("#mistakes")


def test_overlays_can_be_hidden_and_rows_show_their_image(
    browser: Any, explained_page: tuple[Path, Explained, Any]
) -> None:
    path, _, analysis = explained_page
    with opened(browser, path) as page:
        button = page.locator("#hide-overlays")
        overlay = page.locator("#mistakes .overlay").first
        assert overlay.is_visible()
        button.click()
        assert not overlay.is_visible()
        assert button.get_attribute("aria-pressed") == "true"
        button.press("Enter")
        assert overlay.is_visible()
        page.locator("#all-mistakes summary").click()
        rows = page.locator("#all-mistakes tbody tr")
        assert rows.count() == len(analysis.mistakes) == len(analysis.wrong_rows)
        shown = rows.nth(2).locator("th button")
        shown.press("Enter")
        assert rows.nth(2).locator("img").is_visible()
        assert shown.get_attribute("aria-expanded") == "true"
        shown.press("Enter")
        assert rows.nth(2).locator("img").count() == 0
        assert page.locator('#mistakes a[href="predictions.csv"]').count() == 1


def test_without_scripts_everything_is_there(
    browser: Any, explained_page: tuple[Path, Explained, Any]
) -> None:
    with opened(browser, explained_page[0], java_script_enabled=False) as page:
        assert page.locator("#mistakes .overlay").first.is_visible()
        assert page.locator("#mistakes .nearest img").first.is_visible()
        assert not page.locator("#hide-overlays").is_visible()


def test_near_duplicates_on_two_sides_are_shown(
    browser: Any, explained_page: tuple[Path, Explained, Any]
) -> None:
    path, explained, _ = explained_page
    assert len(explained.near) == 1
    with opened(browser, path) as page:
        assert "One pair" in page.inner_text("#near-duplicates")
        text = page.inner_text("#near-duplicates figure")
        assert "training image" in text
        assert "validation image" in text
        assert "cosine 1.000" in text


def test_near_pairs_by_brute_force() -> None:
    generator = np.random.default_rng(7)
    X = generator.normal(size=(300, 32)).astype(np.float32)
    sides = np.arange(300) % 3
    X[10], X[21] = X[3] * 2, X[6] + 1e-3  # 10 and 3 are on two sides; 21 and 6 are on one
    X[101] = X[100]  # a copy
    found, count = list_near_leaks(X, sides)
    assert count == 2
    assert [(pair.first, pair.second) for pair in found] == [(3, 10), (100, 101)]
    assert [pair.cosine for pair in found] == pytest.approx([1, 1], abs=1e-6)
    assert list_near_leaks(X, np.zeros(300, int)) == ([], 0)


def test_of_many_near_pairs_the_first_are_listed() -> None:
    X = np.random.default_rng(3).normal(size=(120, 16)).astype(np.float32)
    X[:80] = X[0] + np.linspace(0, 1e-3, 80)[:, None].astype(np.float32)
    sides = np.arange(120) % 2
    found, count = list_near_leaks(X, sides)
    assert count == 40 * 40
    assert len(found) == 1000
    assert [pair.cosine for pair in found] == sorted([pair.cosine for pair in found])[::-1]
    assert all(sides[pair.first] != sides[pair.second] for pair in found)
