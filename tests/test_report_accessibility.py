"""Pages are accessible, as far as axe-core can tell: light, dark, on a phone, and in use."""

from pathlib import Path
from typing import Any

import pytest

from classify import predict_images
from extract import extract_features, find_near_duplicates
from tests.browser import opened
from tests.conftest import QUICK
from tests.test_report_page import DROPPED, HEADS, dataset, report

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}},
}


def violations(page: Any) -> list[str]:
    """Return the rules of axe-core that a page breaks, each with the elements that do."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']]}" for one in found]


def use(page: Any) -> None:
    """Use what a reader can use: folded parts, sliders, buttons, menus, points and cells."""
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    for slider in page.locator("input[type=range]:visible").all():
        slider.press("ArrowRight")
    for menu in page.locator("select:visible").all():
        menu.select_option(index=menu.locator("option").count() - 1)
    page.evaluate("document.querySelectorAll('main button').forEach(button => button.click())")
    for part in ("#map", "#confusions"):
        for item in page.locator(f"{part} svg [tabindex='0']:visible").all()[:1]:
            item.focus()
            item.press("Enter")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of three, two and sixty classes, and pages of images."""
    folder = tmp_path_factory.mktemp("pages")
    three = dataset(("cat", "dog", "eel"), folder / "images")
    sixty = dataset(tuple(f"class {number}" for number in range(60)), count=6)
    settings: dict[str, Any] = {**QUICK, "quiet": True}
    store, near, ask = folder / "out.h5", folder / "near.html", folder / "ask.html"
    extract_features(folder / "images/0", store, **settings)
    find_near_duplicates(store, 0.5, page=near)
    predict_images(store, to_label=5, page=ask, output=folder / "ask.csv", quiet=True)
    return {
        "near-duplicates": near,
        "images to label": ask,
        "three classes": report(three, folder / "three.html", (*HEADS, *DROPPED))[0],
        "two classes": report(dataset(("cat", "dog")), folder / "two.html")[0],
        "sixty classes": report(sixty, folder / "sixty.html", HEADS[:1])[0],
    }


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["three classes", "two classes", "sixty classes"])
def test_reports(name: str, screen: str, browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages[name], **SCREENS[screen]) as page:
        if (name, screen) == ("three classes", "light"):  # a check takes seconds
            assert violations(page) == []
        use(page)
        assert violations(page) == []


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["near-duplicates", "images to label"])
def test_pages_of_images(name: str, screen: str, browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages[name], **SCREENS[screen]) as page:
        assert page.locator("img").count() > 1
        assert violations(page) == []


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("document.querySelector('h1').style.color = '#ccc'", "color-contrast"),
        ("document.querySelector('main').append(document.createElement('button'))", "button-name"),
        ("document.documentElement.lang = ''", "html-has-lang"),
    ],
)
def test_a_violation_is_found(
    planted: str, rule: str, browser: Any, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["two classes"]) as page:
        page.evaluate(planted)
        assert [one.split(":")[0] for one in violations(page)] == [rule]
