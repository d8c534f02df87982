"""The confusion matrix of the report: its cells, colours, table and images, in a real browser."""

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array
from sklearn.metrics import confusion_matrix as sklearn_confusion

from classify.diagnosis.analysis import Analysis
from classify.figures.confusion import count_cells, draw_confusion, to_page
from classify.figures.drawing import to_svg
from classify.report.confusion_cells import CellImages, choose_rows
from classify.scores.words import percent
from classify.search.leaderboard import Result
from tests.browser import opened
from tests.test_report_page import HEADS, SCRIPT, dataset, report

NAMES = (SCRIPT, '"><b onclick=alert(2)>&amp;', "$5_{x}$")
Made = tuple[Path, Result, Analysis]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("three")
    return report(dataset(NAMES, folder / "images"), folder / "report.html")


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = dataset(tuple(f"class {i}" for i in range(30)))
    return report(made, tmp_path_factory.mktemp("thirty") / "report.html", HEADS[:1])


def answers_of(found: Made) -> tuple[Any, Any]:
    """True classes and answers of the validation images."""
    _, result, _ = found
    assert result.dataset is not None
    assert result.scores is not None
    return result.dataset.y[result.validation_rows], result.scores.argmax(axis=1)


# Numbers.


@pytest.mark.parametrize("K", [2, 30, 500, 501, 1000, 1501])
def test_the_cells_are_those_of_scikit_learn(K: int) -> None:
    generator = np.random.default_rng(K)
    y, answers = generator.integers(0, K, (2, 3000))
    answers = np.where(generator.random(3000) < 0.5, y, answers)
    whole = sklearn_confusion(y, answers, labels=np.arange(K))
    cells = count_cells(csr_array(whole))
    width = -(-K // 500)
    side = -(-K // width)
    merged = np.zeros((side, side), int)
    for truth, answer in zip(y, answers, strict=True):
        # Of neighbours in one cell of the diagonal only correct predictions count.
        merged[truth // width, answer // width] += (
            truth == answer or truth // width != answer // width
        )
    assert (cells.side, cells.width) == (side, width)
    np.testing.assert_array_equal(cells.places, np.flatnonzero(merged))
    np.testing.assert_array_equal(cells.counts, merged[merged > 0])
    np.testing.assert_array_equal(cells.truths, np.bincount(y // width, minlength=side))
    np.testing.assert_array_equal(cells.answers, np.bincount(answers // width, minlength=side))


def test_the_images_of_the_cells_are_wrong_ones_first() -> None:
    generator = np.random.default_rng(0)
    y, scores = generator.integers(0, 4, 4000), generator.dirichlet(np.full(4, 0.7), 4000)
    answers = scores.argmax(axis=1)
    cells = count_cells(csr_array(sklearn_confusion(y, answers)))
    rows, places = choose_rows(cells, y, scores)
    assert len(set(rows.tolist())) == len(rows) == 16 * 24
    np.testing.assert_array_equal(places, 4 * y[rows] + answers[rows])
    wrong = (y != answers)[rows]
    assert wrong[: 12 * 24].all()
    assert not wrong[12 * 24 :].any()
    assert sorted(places[:12]) == sorted(set(places[: 12 * 24]))
    for place in set(places.tolist()):
        of = np.flatnonzero(4 * y + answers == place)
        wanted = of[np.argsort(-scores[of].max(axis=1).round(6), kind="stable")][:24]
        np.testing.assert_array_equal(rows[places == place], wanted)


@pytest.mark.parametrize("K", [60, 1000])
def test_of_many_images_the_data_stay_small(K: int) -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, K, 100_000)
    answers = np.where(generator.random(100_000) < 0.6, y, generator.integers(0, K, 100_000))
    scores = np.zeros((100_000, K), np.float32)
    scores[np.arange(100_000), answers] = generator.random(100_000)
    made = dataset(("a", "b"))
    made = replace(made, y=y, keys=[f"some folder/{i}.jpg" for i in range(100_000)])
    made = replace(made, class_names=tuple(f"class {i}" for i in range(K)))

    class AllRows:
        validation_rows = np.arange(100_000)

    AllRows.scores = scores  # type: ignore[attr-defined]
    whole = csr_array((np.ones(100_000, int), (y, answers)), (K, K))
    cells = CellImages(whole, made, AllRows)  # type: ignore[arg-type]
    assert len(cells.rows) <= 2000
    assert len(json.dumps(cells.to_page())) < 700_000


# What is seen.


def colour_at(page: Any, row: int, column: int, corner: float = 0.12) -> tuple[int, ...]:
    """The colour that the browser paints near the corner of a cell, beside its number."""
    box = page.evaluate(
        """([row, column, corner]) => {
          const svg = document.querySelector(".matrix svg");
          const [left, top, width, height, x0, x1] = JSON.parse(svg.dataset.axes)[0];
          const side = x1 - x0;
          const at = new DOMPoint(left + (column + corner) * width / side,
            top + (row + corner) * height / side).matrixTransform(svg.getScreenCTM());
          return [at.x, at.y];
        }""",
        [row, column, corner],
    )
    clip = {"x": round(box[0]), "y": round(box[1]), "width": 2, "height": 2}
    return tuple(
        np.asarray(Image.open(BytesIO(page.screenshot(clip=clip))).convert("RGB"))[0, 0].tolist()
    )


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("K", [30, 60, 300])
def test_a_single_image_stands_out(
    scheme: str, K: int, browser: Any, thirty: Made, tmp_path: Path
) -> None:
    # One image of many is confused: the weakest colours.
    counts = np.diag(np.full(K, 10**4))
    counts[1, 3], counts[2, 2], counts[2, 3] = 1, 1, 10**4
    figure = to_page(draw_confusion("confusion", csr_array(counts), [f"c{i}" for i in range(K)]))
    text = thirty[0].read_text(encoding="utf-8")
    text = re.sub(r"<svg [^>]*true classes by.*?</svg>", lambda _: figure, text, flags=re.DOTALL)
    path = tmp_path / "report.html"
    path.write_text(
        text.replace('<script type="application/json"', "<!--").replace("</body>", "-->")
    )
    size = {"width": 1600, "height": 2200}
    with opened(browser, path, color_scheme=scheme, viewport=size) as page:
        empty, wrong, right, full = (
            colour_at(page, *at) for at in [(1, 4), (1, 3), (2, 2), (2, 3)]
        )
        assert contrast(empty, wrong) >= 3
        assert contrast(empty, right) >= 3
        assert contrast(empty, full) > 7
        if K == 30:  # and so do the numbers in the cells
            colours = page.evaluate(
                "[...document.querySelectorAll('.matrix text')].filter(t => "
                "['1', '10000'].includes(t.textContent)).map(t => getComputedStyle(t).fill)"
            )
            inks = {tuple(map(int, re.findall(r"\d+", colour))) for colour in colours}
            for cell in (wrong, right, full):
                assert max(contrast(cell, ink) for ink in inks) >= 4.5
            shown = page.locator(".matrix text").get_by_text("1", exact=True).first
            ink = shown.evaluate("t => getComputedStyle(t).fill")
            assert contrast(wrong, tuple(map(int, re.findall(r"\d+", ink)))) >= 4.5


@pytest.mark.parametrize("width", [1440, 390])
def test_numbers_and_names_have_eleven_pixels(browser: Any, thirty: Made, width: int) -> None:
    with opened(browser, thirty[0], viewport={"width": width, "height": 800}) as page:
        sizes = page.evaluate(
            "[...document.querySelectorAll('.matrix text')].map(t => parseFloat("
            "getComputedStyle(t).fontSize) * t.getScreenCTM().a || 99)"
        )
        heights = [size for size in sizes if size > 0.1]
        assert min(heights) >= 10.9
        numbers = page.locator(".matrix text").evaluate_all("all => all.map(t => t.textContent)")
        y, answers = answers_of(thirty)
        wanted = sklearn_confusion(y, answers).ravel()
        assert sorted(int(n) for n in numbers if n.isdigit()) == sorted(wanted[wanted > 0])
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # Every number is inside its cell.
        widest = page.evaluate(
            "Math.max(...[...document.querySelectorAll('.matrix text')].filter(t => "
            "/^\\d+$/.test(t.textContent)).map(t => t.getBBox().width))"
        )
        axes = json.loads(page.locator(".matrix svg").get_attribute("data-axes"))[0]
        assert widest < axes[2] / 30


def test_the_table_has_every_pair(browser: Any, three: Made) -> None:
    y, answers = answers_of(three)
    wanted = sklearn_confusion(y, answers)
    with opened(browser, three[0]) as page:
        details = page.locator("#confusions details")
        details.locator("summary").click()
        rows = details.locator("tbody tr")
        lines = [tuple(row.locator("th, td").all_inner_texts()) for row in rows.all()]
        names = [name.strip() for name in NAMES]
        cells = {(names[t], names[a]): wanted[t, a] for t in range(3) for a in range(3) if t != a}
        assert {line[:2]: int(line[2]) for line in lines} == {
            pair: count for pair, count in cells.items() if count
        }
        for truth, answer, count, of_truth, of_answer in lines:
            t, a = names.index(truth), names.index(answer)
            assert of_truth.startswith(f"{100 * int(count) / wanted[t].sum():.1f}")
            assert of_answer.startswith(f"{100 * int(count) / wanted[:, a].sum():.1f}")
        details.get_by_role("button", name="images").click()
        shown = [int(n) for n in details.locator("tbody td:nth-child(3)").all_inner_texts()]
        assert shown == sorted(shown, reverse=True)


def test_a_long_table_says_what_it_leaves_out(browser: Any, thirty: Made) -> None:
    y, answers = answers_of(thirty)
    wrong = sklearn_confusion(y, answers)
    pairs = int((wrong > 0).sum() - (wrong.diagonal() > 0).sum())
    with opened(browser, thirty[0]) as page:
        details = page.locator("#confusions details")
        assert pairs > 200
        assert f"The 200 most frequent of {pairs} pairs" in details.locator("summary").inner_text()
        details.locator("summary").click()
        assert details.locator("tbody tr").count() == 200
        assert "predictions.csv next to this report lists every image" in details.inner_text()


# What it does.


def expected(found: Made, row: int, column: int) -> str:
    y, answers = answers_of(found)
    assert found[1].dataset is not None
    names = found[1].dataset.class_names
    whole = sklearn_confusion(y, answers)
    share = percent(whole[row, column] / whole[row].sum())
    return (
        f"{whole[row, column]} of {whole[row].sum()} images of {names[row]} "
        f"predicted as {names[column]} ({share})"
    )


def test_the_arrow_keys_move_and_a_live_region_speaks(browser: Any, three: Made) -> None:
    with opened(browser, three[0]) as page:
        region = page.locator("#confusions .matrix")
        said = page.locator("#confusions [aria-live=polite]")
        assert region.locator("[tabindex]").count() == 0
        page.locator("nav a[href='#confusions']").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert region.evaluate("e => e === document.activeElement")
        assert said.text_content().startswith(expected(three, 0, 0))
        for key, cell in (
            *(
                ("ArrowRight", (0, 1)),
                ("ArrowDown", (1, 1)),
                ("End", (1, 2)),
                ("ArrowRight", (1, 2)),
            ),
            *(("PageDown", (2, 2)), ("Home", (2, 0)), ("ArrowUp", (1, 0)), ("ArrowLeft", (1, 0))),
        ):
            page.keyboard.press(key)
            assert said.text_content().startswith(expected(three, *cell)), key
            assert page.locator(".cell-tip").inner_text().startswith(expected(three, *cell))
            marked = page.locator(".matrix .on text").all_text_contents()
            assert len(marked) == 2
        y, answers = answers_of(three)
        column = sklearn_confusion(y, answers)[:, 0]
        share = percent(column[1] / column.sum())
        assert f"{share} of the {column.sum()} predictions of" in said.text_content()
        page.keyboard.press("Escape")
        assert page.locator(".cell-tip").is_hidden()
        page.keyboard.press("Tab")  # one tab stop
        assert not region.evaluate("e => e.contains(document.activeElement)")


def test_a_click_and_enter_show_the_images_of_a_cell(browser: Any, three: Made) -> None:
    y, answers = answers_of(three)
    result = three[1]
    assert result.dataset is not None
    with opened(browser, three[0]) as page:
        page.locator("#confusions .matrix").focus()
        panel = page.locator("#cell-images")
        assert panel.is_hidden()
        for cell in ((0, 0), (0, 1), (2, 2)):
            page.locator("#confusions .matrix svg").scroll_into_view_if_needed()
            place = page.evaluate(
                """([row, column]) => {
                  const svg = document.querySelector(".matrix svg");
                  const [left, top, width, height, x0, x1] = JSON.parse(svg.dataset.axes)[0];
                  const at = new DOMPoint(left + (column + .5) * width / (x1 - x0),
                    top + (row + .5) * height / (x1 - x0)).matrixTransform(svg.getScreenCTM());
                  return [at.x, at.y];
                }""",
                cell,
            )
            page.mouse.move(*place)
            assert page.locator(".cell-tip").inner_text().startswith(expected(three, *cell))
            page.mouse.click(*place)
            assert panel.locator("h3").inner_text() == expected(three, *cell)
            rows = result.validation_rows[(y == cell[0]) & (answers == cell[1])]
            keys = {result.dataset.keys[row] for row in rows}
            assert set(panel.locator("code").all_inner_texts()) == keys
        page.mouse.move(0, 0)
        page.locator("#confusions .matrix").press("Home")
        page.keyboard.press("Enter")
        assert panel.locator("h3").inner_text() == expected(three, 2, 0)


def test_without_a_script_the_matrix_and_the_table_are_there(browser: Any, three: Made) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(three[0].as_uri())
    assert page.locator("#matrix-help").is_hidden()
    assert page.locator("#cell-images").is_hidden()
    assert page.locator("#confusions details").count() == 1
    assert page.locator(".matrix text").count() > 6
    context.close()


def test_of_many_classes_a_cell_names_its_neighbours(browser: Any, tmp_path: Path) -> None:
    made = dataset(tuple(f"class {i:03}" for i in range(502)), count=4)
    found = report(made, tmp_path / "report.html", HEADS[2:])
    with opened(browser, found[0]) as page:
        region = page.locator("#confusions .matrix")
        region.focus()
        page.keyboard.press("End")
        page.keyboard.press("PageDown")
        said = page.locator("#confusions [aria-live=polite]").text_content()
        y, answers = answers_of(found)
        count = int(((y == answers) & (y >= 500)).sum())
        assert said.startswith(
            f"{count} of 4 images of class 500 to class 501 predicted as class 500 to class 501"
        )


def test_on_paper_the_cells_have_colours_of_their_own() -> None:
    drawing = draw_confusion("confusion", csr_array(np.array([[3, 1], [0, 2]])), ["a", "b"])
    assert "mask" not in to_svg(drawing)
    assert to_page(drawing).count("<mask") == 2
