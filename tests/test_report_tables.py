"""Tables of the report in a real browser: copied and saved with all digits, and printed."""

import csv
import json
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.report.report import write_report
from classify.search.leaderboard import Result
from extract import write_features
from extract.display.tables import csv_text
from tests.browser import opened
from tests.test_report_page import DROPPED, HEADS, IMAGE, SCRIPT, dataset, report

FORMULA = "=cmd|' /C calc'!A0"
Made = tuple[Path, Result, Analysis]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("tables")
    data: Dataset = dataset((FORMULA, 'a "b", c', SCRIPT), folder / "images")
    return report(data, folder / "report.html", (*HEADS, *DROPPED))


def save(page: Any, title: str) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save as CSV the table {title}", exact=True).click()
    path = download.value.path()
    assert download.value.suggested_filename == title.lower().replace(" ", "_") + ".csv"
    return list(csv.reader(StringIO(Path(path).read_bytes().decode("utf-8"), newline="")))


def test_a_saved_table_has_all_digits(browser: Any, made: Made) -> None:
    path, result, analysis = made
    with opened(browser, path) as page:
        heading, *rows = save(page, "Classes")
        assert heading == [
            *("class", "images", "recall", "recall low", "recall high"),
            *("precision", "precision low", "precision high", "F1", "F1 low", "F1 high"),
            *("ROC area", "average precision"),
        ]
        for row, of in zip(rows, analysis.classes, strict=True):
            numbers = [*of.recall, *of.precision, *of.f1, of.roc_area, of.average_precision]
            assert row[2:] == [f"{value:.6f}" for value in numbers]
        # As the files of the folder have them: no spreadsheet runs a name.
        assert [row[0] for row in rows] == [f"'{FORMULA}", 'a "b", c', SCRIPT]
        heading, *rows = save(page, "Leaderboard")
        assert heading[:5] == ["#", "head", "accuracy", "interval low", "interval high"]
        for row, entry in zip(rows, result.entries, strict=False):
            assert row[1] == entry.label
            ends = entry.scores["accuracy"], entry.low, entry.high
            assert row[2:5] == [f"{value:.6f}" for value in ends]


def test_a_copied_table_is_text_between_tabs(browser: Any, made: Made) -> None:
    path, _, analysis = made
    with opened(browser, path) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        copied = []
        for way in ("clipboard", "selection"):
            if way == "selection":  # where the clipboard is not there or not allowed
                page.evaluate("navigator.clipboard.writeText('')")
                page.evaluate(
                    "() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }"
                )
            button = page.get_by_role("button", name="Copy the table Classes", exact=True)
            button.focus()
            button.press("Enter")
            tools = page.locator("#classes .table-tools")
            page.wait_for_function("document.querySelector('#classes [role=status]').textContent")
            assert tools.get_by_role("status").inner_text() == "copied"
            assert page.evaluate("document.activeElement.textContent") == "Copy"
            copied.append(page.evaluate("navigator.clipboard.readText()").replace("\r", ""))
        assert copied[0] == copied[1]
        rows = [line.split("\t") for line in copied[0].split("\n")]
        assert [len(row) for row in rows] == [13] * 4
        assert rows[1][0] == f"'{FORMULA}"
        assert rows[1][2] == f"{analysis.classes[0].recall.value:.6f}"


def test_every_table_can_be_copied_and_none_on_paper(browser: Any, made: Made) -> None:
    with opened(browser, made[0]) as page:
        assert page.locator("main table").count() == page.locator(".table-tools").count() > 5
        names = page.locator(".table-tools button").evaluate_all(
            "all => all.map(button => button.ariaLabel)"
        )
        assert len(set(names)) == len(names)
        page.emulate_media(media="print")
        kept = page.locator("th button:visible, .legend button:visible").count()
        assert page.locator("button:visible").count() == kept
        assert page.locator("#map .legend:visible").last.inner_text().startswith(FORMULA)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(made[0].as_uri())
    assert page.locator(".table-tools").count() == 0
    assert page.locator("table:visible").count() > 5
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_scrolls_has_a_shadow_there(browser: Any, made: Made, scheme: str) -> None:
    """The side that hides more of the table differs from its middle, the other one does not."""
    size = {"width": 390, "height": 800}
    with opened(browser, made[0], viewport=size, color_scheme=scheme) as page:
        scroll = page.locator("#leaderboard .scroll")
        assert scroll.evaluate("box => box.scrollWidth > box.clientWidth + 30")

        def edge(side: str) -> int:
            pixels = np.asarray(Image.open(BytesIO(scroll.screenshot())).convert("L"), int)
            row = pixels[4]  # above the text of the heading
            return int(abs(row[-2 if side == "right" else 1] - row[len(row) // 2]))

        assert edge("right") > 12
        assert edge("left") < 4
        scroll.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        assert edge("right") < 4
        assert edge("left") > 12


def test_no_heading_is_last_on_a_page_of_paper(browser: Any, made: Made, tmp_path: Path) -> None:
    with opened(browser, made[0]) as page:
        headings = page.locator("main section > h2, main section > h3").all_inner_texts()
        page.pdf(path=tmp_path / "report.pdf", format="A4")
    pages = pypdfium2.PdfDocument(tmp_path / "report.pdf")
    found = []
    for sheet in pages:
        text = sheet.get_textpage()
        lowest = min(part.get_bounds()[1] for part in sheet.get_objects())
        for heading in headings:
            place = text.search(heading, match_case=True, match_whole_word=True)
            while match := place.get_next():
                _, bottom, _, top = text.get_charbox(match[0])
                line = text.get_text_bounded(0, bottom - 1, sheet.get_width(), top + 1)
                if line.strip() == heading:
                    found.append(heading)
                    # Its figure, table or images begin on the same page.
                    assert bottom - lowest > 90, heading
    assert set(headings) <= set(found)


def test_settings_tell_how_to_make_the_head_again(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    X[::2] += 2
    store = tmp_path / "a <b>.h5"
    write_features(store, X, labels=["yes", "no"] * 30)
    words = ["--head", "lda", "--seed", "7", "-o", str(tmp_path / "head")]
    monkeypatch.setattr("sys.argv", ["/usr/bin/train-head", str(store), *words])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert train_head() == 0
    described = json.loads((tmp_path / "head/result.json").read_text(encoding="utf-8"))
    assert described["date"] == "1970-01-02 00:00 UTC"
    assert described["seed"] == 7
    with opened(browser, tmp_path / "head/report.html") as page:
        lines = page.locator("#settings tbody tr").evaluate_all(
            "rows => rows.map(row =>"
            " [...row.cells].map(cell => cell.dataset.value ?? cell.textContent))"
        )
        rows = save(page, "Settings")
    shown = {(part, name): value for part, name, value in lines}
    assert rows == [["of", "setting", "value"], *([csv_text(c) for c in line] for line in lines)]
    assert shown["training", "command"] == described["command"]
    assert described["command"].startswith("train-head '")
    assert shown["training", "seed"] == "7"
    assert shown["training", "date"] == shown["features", "written"] == "1970-01-02 00:00 UTC"
    assert f"scikit-learn {described['versions']['scikit-learn']}" in shown["training", "versions"]
    assert shown["features", "file"] == str(store)
    assert "h5py" in shown["features", "versions"]
    assert shown["features", "trunk"] == "none: features of another program"


def test_code_in_new_places_is_text(browser: Any, made: Made, tmp_path: Path) -> None:
    _, result, analysis = made
    parts = ("file", "written", "command", "engine", "weights", "source")
    described = {
        "date": SCRIPT,
        "command": IMAGE,
        "versions": {SCRIPT: IMAGE},
        "features": [{name: f"{name} {SCRIPT}" for name in parts} | {"versions": [IMAGE]}],
    }
    assert result.dataset is not None
    rows = replace(result.dataset, label_columns=IMAGE)
    result, analysis = replace(result, notes=(SCRIPT,)), replace(analysis, leaks=[IMAGE])
    path = tmp_path / "report.html"
    write_report(path, rows, result, analysis, SCRIPT, None, described)
    with opened(browser, path) as page:
        said = page.locator("#settings").text_content()
        assert all(f"{name} {SCRIPT}" in said for name in parts)
        assert f"{SCRIPT} {IMAGE}" in said
        assert IMAGE in page.inner_text(".watch")
        assert SCRIPT in page.locator("header details").text_content()
        assert FORMULA in page.inner_text(".lead")
        assert page.locator("[onerror], script:not([type]):not(body > *)").count() == 0
        assert [row[-1] for row in save(page, "Settings")].count(IMAGE) == 3


def test_the_date_alone_is_that_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    write_features(tmp_path / "out.h5", X, labels=["yes", "no"] * 30)
    texts = []
    for epoch in ("", "86400"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        words = [str(tmp_path / "out.h5"), "--head", "lda", "-o", str(tmp_path / "head")]
        assert train_head(words) == 0
        described = json.loads((tmp_path / "head/result.json").read_text(encoding="utf-8"))
        texts.append((described.pop("date"), described["features"][0].pop("written"), described))
    assert texts[0][0] >= texts[0][1] > "2023"
    assert texts[1][:2] == ("1970-01-02 00:00 UTC",) * 2
    assert texts[0][2] == texts[1][2]
    assert texts[1][2]["command"] == ""  # no command: this is a test
