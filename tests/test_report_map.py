"""The maps of the report in a real browser, and colours that stay apart."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from classify.diagnosis.analysis import Analysis
from classify.figures.drawing import SERIES
from classify.figures.feature_map import MARKERS
from classify.figures.result_figures import map_styles
from classify.search.leaderboard import Result
from tests.browser import opened
from tests.conftest import ROOT
from tests.test_report_page import IMAGE, SCRIPT, dataset, report

Shown = tuple[Path, Any, Result, Analysis]
NAMES = (SCRIPT, '"><b onclick=alert(2)>&amp;', "$5_{x}$")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A report of 120 images of three classes, on two maps."""
    folder = tmp_path_factory.mktemp("map")
    made = dataset(NAMES, folder / "images", count=40)
    return (folder / "report.html", made, *report(made, folder / "report.html")[1:])


def places(page: Any, name: str, analysis: Analysis) -> NDArray[np.float64]:
    """Where the images of a map are in the window, from the numbers of the analysis."""
    method = {"map_pca": "PCA", "map_tsne": "t-SNE"}[name]
    (points,) = (found.points for found in analysis.maps if found.method == method)
    # Matplotlib adds 5 % on each side; of the drawing, 0.35 and 0.05 inches are no axes.
    box = page.locator(f"[data-map={name}] svg").bounding_box()
    scale = box["width"] / (5.6 * 72)
    low, high = points.min(axis=0), points.max(axis=0)
    share = (points - low + 0.05 * (high - low)) / (1.1 * (high - low))
    width, height = (5.6 - 0.4) * 72, (4.4 - 0.4) * 72
    x = 0.35 * 72 + share[:, 0] * width
    y = 0.05 * 72 + (1 - share[:, 1]) * height
    return np.stack([box["x"] + scale * x, box["y"] + scale * y], axis=1)


def described(made: Any, result: Result, row: int) -> list[str]:
    """What the tooltip of a row says."""
    names, lines = made.class_names, [f"labelled {made.class_names[made.y[row]]}"]
    if row in result.validation_rows:
        assert result.scores is not None
        scores = result.scores[result.validation_rows.tolist().index(row)]
        lines.append(f"predicted as {names[scores.argmax()]} {scores.max():.2f}")
    split = "validation" if row in result.validation_rows else "training"
    return [*lines, f"{split} image", made.keys[row]]


# The pointer.


@pytest.mark.parametrize("name", ["map_pca", "map_tsne"])
def test_the_pointer_shows_the_image_of_a_mark(name: str, browser: Any, shown: Shown) -> None:
    path, made, result, analysis = shown
    with opened(browser, path, viewport={"width": 1200, "height": 900}) as page:
        page.locator(f"[data-map={name}]").scroll_into_view_if_needed()
        where = places(page, name, analysis)
        apart = np.linalg.norm(where[:, None] - where, axis=2)
        np.fill_diagonal(apart, np.inf)
        alone = np.argsort(-apart.min(axis=1))[:6].tolist()
        assert {made.split[row] for row in alone} == {0, 1}
        for row in alone:
            page.mouse.move(*where[row])
            assert page.locator("#tip").is_visible()
            lines = page.locator("#tip figcaption > *").all_inner_texts()
            assert lines == described(made, result, row)
            assert page.locator("#tip img").evaluate("image => image.naturalWidth") in (96, 144)
            for other in ("map_pca", "map_tsne"):
                ring = page.locator(f"[data-map={other}] circle.here").bounding_box()
                middle = ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2
                assert middle == pytest.approx(places(page, other, analysis)[row], abs=1)
        page.mouse.move(2, 2)
        page.locator("#tip").wait_for(state="hidden")
        assert page.locator("circle.here").first.get_attribute("r") == "0"


def test_a_click_keeps_an_image(browser: Any, shown: Shown) -> None:
    path, made, _, analysis = shown
    with opened(browser, path, viewport={"width": 1200, "height": 900}) as page:
        page.locator("[data-map=map_tsne]").scroll_into_view_if_needed()
        where = places(page, "map_tsne", analysis)
        page.mouse.click(*where[3])
        first = page.locator("#tip").inner_text()
        page.mouse.move(*where[90])
        page.mouse.move(2, 2)
        page.wait_for_timeout(300)
        assert page.locator("#tip").inner_text() == first
        page.mouse.click(2, 2)
        assert page.locator("#tip").is_hidden()
        page.mouse.click(*where[3])
        page.mouse.click(*where[3])
        assert page.locator("#tip").is_hidden()
        page.mouse.click(*where[3])
        page.keyboard.press("Escape")
        assert page.locator("#tip").is_hidden()
        page.mouse.move(*where[90])
        assert made.keys[90] in page.locator("#tip").inner_text()


# The keyboard.


def test_the_tooltip_of_a_finger_closes_elsewhere(browser: Any, shown: Shown) -> None:
    screen: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "has_touch": True}
    with opened(browser, shown[0], is_mobile=True, reduced_motion="reduce", **screen) as page:
        mark, tip = page.locator("#map .frame svg use").nth(5), page.locator("#tip")
        page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        page.locator("#map .frame").first.scroll_into_view_if_needed()

        def tap() -> None:
            box = mark.bounding_box()
            page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            tip.wait_for(state="visible")

        tap()
        page.touchscreen.tap(385, 5)
        tip.wait_for(state="hidden")
        tap()
        page.evaluate("scrollBy(0, 40)")
        tip.wait_for(state="hidden")


def test_arrow_keys_go_from_image_to_image(browser: Any, shown: Shown) -> None:
    path, made, result, analysis = shown
    with opened(browser, path, viewport={"width": 1200, "height": 900}) as page:
        assert page.locator("[data-map] [tabindex]").count() == 2  # one stop a map
        choice = page.locator("#map-tools button").last
        choice.focus()
        page.keyboard.press("Tab")
        frame = page.locator("[data-map=map_pca] .frame")
        assert frame.evaluate("frame => frame === document.activeElement")
        where = places(page, "map_pca", analysis)
        seen = []
        for key in ("", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
            if key:
                page.keyboard.press(key)
            lines = page.locator("#tip figcaption > *").all_inner_texts()
            row = made.keys.index(lines[-1])
            assert lines == described(made, result, row)
            said = page.locator("#map [aria-live]").inner_text()
            assert said == f"{lines[-1]}, {', '.join(lines[:-1])}"
            seen.append(row)
        steps = np.diff(where[seen], axis=0)
        assert [
            step[axis] * sign > 0
            for step, axis, sign in zip(steps, (0, 1, 0, 1), (1, -1, -1, 1), strict=True)
        ] == [True] * 4
        page.keyboard.press("Escape")
        assert page.locator("#tip").is_hidden()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.locator("#tip.kept").is_hidden()  # the next map shows its own


def test_every_image_is_reached_with_the_keyboard(browser: Any, shown: Shown) -> None:
    with opened(browser, shown[0]) as page:
        reached = page.evaluate(
            """() => maps.map(map => {
            const seen = new Set([map.points[0]]);
            for (const point of seen) for (const step of Object.values(steps)) {
              map.at = point;
              seen.add(neighbour(map, step));
            }
            return seen.size; })"""
        )
        assert reached == [120, 120]


def test_images_at_one_place_are_reached(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"))
    made = replace(made, X=np.repeat(made.X[:8], 5, axis=0))
    path, _, _ = report(made, tmp_path / "report.html")
    with opened(browser, path) as page:
        reached = page.evaluate(
            """() => { const map = maps[0], seen = new Set([map.points[0]]);
            for (const point of seen) for (const step of Object.values(steps)) {
              map.at = point;
              seen.add(neighbour(map, step));
            }
            return seen.size; }"""
        )
        assert reached == 40


# Classes and splits.


def test_a_class_is_isolated(browser: Any, shown: Shown) -> None:
    path, made, _, analysis = shown
    with opened(browser, path, viewport={"width": 1200, "height": 900}) as page:
        buttons = page.locator("#map-classes button")
        assert [text.strip() for text in buttons.all_inner_texts()] == [*NAMES]
        buttons.nth(1).focus()
        page.keyboard.press("Enter")
        pressed = [button.get_attribute("aria-pressed") for button in buttons.all()]
        assert pressed == ["false", "true", "false"]
        rings = int(np.isin(analysis.wrong_rows, np.flatnonzero(made.y != 1)).sum())
        assert rings > 0
        faded = page.locator("[data-map=map_pca] .faded").count()
        assert faded == (made.y != 1).sum() + rings
        where = places(page, "map_pca", analysis)
        for row in (0, 2, 60):  # a mark that is faded shows nothing, or another one near it
            page.mouse.move(2, 2)
            page.mouse.move(*where[row])
            if page.locator("#tip").is_visible():
                assert f"labelled {NAMES[1]}" in page.locator("#tip").inner_text()
        page.keyboard.press("Enter")
        assert page.locator(".faded").count() == 0


def test_of_many_classes_a_grey_one_is_isolated(browser: Any, tmp_path: Path) -> None:
    names = tuple(f"{IMAGE} {number}" for number in range(24))
    made = dataset(names, count=4)
    path, _, analysis = report(made, tmp_path / "report.html")
    styles = map_styles(made, analysis)
    assert len(styles) == len(SERIES)
    grey = next(label for label in range(24) if label not in styles)
    with opened(browser, path) as page:
        page.locator("#map-tools select").select_option(label=names[grey])
        marks = page.locator('[data-map=map_pca] [id*="-points-"] use')
        assert marks.count() == 96
        clear = page.locator('[data-map=map_pca] [id*="-points-"] use:not(.faded)')
        assert clear.count() == 4
        page.locator("#map-tools select").select_option(value="")
        assert page.locator(".faded").count() == 0


def test_splits_differ_in_shape_and_by_a_switch_in_colour(browser: Any, shown: Shown) -> None:
    path = shown[0]
    marks = '[data-map=map_pca] [id*="-points-"][id$="{}"]'
    look = """all => all.map(group => {
        const { fill, fillOpacity, stroke } = getComputedStyle(group.querySelector("use"));
        const isHollow = fill === "none" || Number(fillOpacity) === 0;
        return [isHollow, isHollow ? stroke : fill]; })"""
    with opened(browser, path) as page:
        assert page.locator("#map-marks").inner_text().split("\n")[0].strip() == "validation (60)"
        for split in ("train", "validation"):
            groups = page.locator(marks.format(split))
            assert groups.locator("use").count() == 60
            before = groups.evaluate_all(look)
            assert {hollow for hollow, _ in before} == {split == "train"}
            page.get_by_role("button", name="split", exact=True).click()
            colours = {colour for _, colour in groups.evaluate_all(look)}
            assert len(colours) == 1
            page.get_by_role("button", name="class", exact=True).click()
            assert groups.evaluate_all(look) == before
            assert len({colour for _, colour in before}) == 3


def test_in_folds_all_images_are_scored(browser: Any, tmp_path: Path) -> None:
    path, _, _ = report(dataset(("cat", "dog")), tmp_path / "report.html", folds=4)
    with opened(browser, path) as page:
        assert "scored in folds (40)" in page.locator("#map-marks").inner_text()
        assert page.get_by_role("button", name="split", exact=True).count() == 0


# How it looks.


def test_the_legend_has_the_shapes_of_the_map() -> None:
    text = (ROOT / "classify/report/page/macros.html").read_text()
    assert len(re.findall(r'^  "M', text, re.MULTILINE)) == len(MARKERS)


def test_text_is_large_enough(browser: Any, shown: Shown) -> None:
    for width in (1200, 390):
        with opened(browser, shown[0], viewport={"width": width, "height": 800}) as page:
            sizes = page.locator(".maps svg text").evaluate_all(
                "all => all.map(t => parseFloat(getComputedStyle(t).fontSize)"
                " * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"
            )
            assert len(sizes) >= 2
            assert min(sizes) >= 11


# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color
# vision deficiency", https://doi.org/10.1109/TVCG.2009.113: severity 1, of linear RGB.
VISION: dict[str, list[list[float]]] = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def palette(scheme: str) -> dict[str, NDArray[np.float64]]:
    """The colours of the style sheet by name, as linear RGB."""
    text = (ROOT / "classify/report/page/style/base.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    block = blocks[0] if scheme == "light" else blocks[1]
    found = re.findall(r"--(\w+): #(\w{6});", block)
    colours = {
        name: np.array([int(c[i : i + 2], 16) for i in (0, 2, 4)]) / 255 for name, c in found
    }
    return {
        name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        for name, c in colours.items()
    }


def lab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab of linear RGB, under D65."""
    ratio = colours @ TO_XYZ.T / [0.95047, 1, 1.08883]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_lab_is_right_where_it_is_known() -> None:
    known = lab(np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]], float))
    wanted = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.19, -107.86]]
    np.testing.assert_allclose(known, np.array(wanted), atol=0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_eight_colours_stay_apart(scheme: str, vision: str) -> None:
    colours = palette(scheme)
    series = np.array([colours[f"s{number}"] for number in range(len(SERIES))])
    seen = lab(np.clip(series @ np.array(VISION[vision]).T, 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)[~np.eye(len(SERIES), dtype=bool)]
    assert len(SERIES) == 8
    # A distance of about 2.3 is just seen between large areas, side by side.
    assert apart.min() >= (28 if vision == "usual" else 20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_graphics_have_contrast(scheme: str) -> None:
    colours = palette(scheme)
    light = {name: float(colour @ TO_XYZ[1]) for name, colour in colours.items()}
    for name in (*(f"s{number}" for number in range(8)), "train", "held", "bad", "muted"):
        for ground in ("page", "card"):
            low, high = sorted([light[name], light[ground]])
            assert (high + 0.05) / (low + 0.05) >= 3, (name, ground)
