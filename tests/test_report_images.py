"""The small images of the report: which ones, how many, and what scripts know of them."""

import json
import os
import re
from base64 import b64decode
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.report import images
from classify.report.images import _spread
from extract.gallery import thumbnails
from extract.gallery.thumbnails import Place, Wanted, read_thumbnails
from extract.images.digests import digest_bytes
from extract.limits import prefetch
from tests.browser import opened
from tests.test_report_page import SCRIPT, dataset, report


def page_data(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'id="page-data">(.*?)</script>', text)
    assert found
    return json.loads(found[1])["images"]


def test_the_data_of_the_page_are_those_of_the_result(tmp_path: Path) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    path, result, analysis = report(made, tmp_path / "report.html")
    data, scores = page_data(path), result.scores
    assert scores is not None
    assert sorted(map(int, data["rows"])) == list(range(len(made.y)))
    answers = dict(zip(result.validation_rows.tolist(), scores, strict=True))
    large = {m.row for m in analysis.mistakes[:24]}
    large |= {issue.row for issue in analysis.label_issues.issues[:12]}
    for text, (key, label, answer, score, split, image) in data["rows"].items():
        row = int(text)
        assert key == made.keys[row]
        assert data["names"][str(label)] == made.class_names[made.y[row]]
        if row in answers:
            assert (answer, split) == (answers[row].argmax(), 1)
            assert score == pytest.approx(answers[row].max(), abs=1e-4)
        else:
            assert (answer, score, split) == (None, None, 0)
        if row in large:
            assert data["reasons"][image] == "shown on the page"
        else:
            kind, encoded = image.split(",")
            assert kind == "data:image/webp;base64"
            small = Image.open(BytesIO(b64decode(encoded)))
            original = Image.open(tmp_path / "images" / key).resize((96, 64))
            assert small.size == (96, 96)
            middle = np.asarray(small.convert("L"), float)[16:80]
            assert (
                np.corrcoef(middle.ravel(), np.asarray(original.convert("L")).ravel())[0, 1] > 0.8
            )


def test_important_images_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    _, result, analysis = report(made, tmp_path / "report.html")
    monkeypatch.setattr(images, "_MOST_IMAGES", 4)
    large = [m.row for m in analysis.mistakes[:2]]
    trained = np.flatnonzero(made.split == 0)[:3].tolist()
    found = images.read_images(made, result, analysis, large, [*trained, large[0]])
    others = [m.row for m in analysis.mistakes[2:3]]
    assert [*found.thumbnails] == [*large, *trained, *others]
    assert found.large == {*large}
    sides = [
        Image.open(BytesIO(b64decode(t.image.split(",")[1]))).size
        for t in found.thumbnails.values()
    ]
    assert sides == [(144, 144)] * 2 + [(96, 96)] * 4
    assert found.rows.tolist() == list(range(len(made.y)))  # the map has all
    row = found.to_page(made, result)["rows"][
        str(int(np.setdiff1d(found.rows, [*found.thumbnails])[0]))
    ]
    assert found.to_page(made, result)["reasons"][row[5]] == "left out to keep the page small"


def test_a_page_is_no_larger_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    _, result, analysis = report(made, tmp_path / "report.html")
    monkeypatch.setattr(images, "_MOST_CHARACTERS", 20_000)
    found = images.read_images(made, result, analysis, [0])
    used = sum(len(image.image) for row, image in found.thumbnails.items() if row)
    assert 15_000 < used <= 20_000
    assert found.thumbnails[0].image


def test_optional_images_are_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    _, result, analysis = report(made, tmp_path / "report.html")
    monkeypatch.setattr(images, "_SECONDS", -1.0)
    found = images.read_images(made, result, analysis, [3, 4])
    assert found.known == 2
    assert {t.reason for row, t in found.thumbnails.items() if row > 4} == {"left out to save time"}


def test_long_and_hostile_names(tmp_path: Path) -> None:
    made = dataset((SCRIPT, "</script><b>"))
    made.keys[0] = "\N{SNOWMAN}" * 5000
    made = replace(made, digests=None)
    path, _, _ = report(made, tmp_path / "report.html")
    data = page_data(path)
    assert len(data["rows"]["0"][0]) == 301
    assert set(data["names"].values()) == {SCRIPT, "</script><b>"}
    assert data["reasons"] == ["image not found"]


def test_the_beginning_of_a_spread_is_spread() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.normal(size=(900, 2)), generator.normal(9, 1, (100, 2))])
    order = _spread(points)
    assert sorted(order) == list(range(1000))
    for count in (50, 200):
        far = (order[:count] >= 900).mean()
        assert abs(far - 0.1) <= 0.1
        nearest = np.linalg.norm(points[:, None] - points[order[:count]], axis=2).min(axis=1)
        drawn = generator.permutation(1000)[:count]
        random = np.linalg.norm(points[:, None] - points[drawn], axis=2).min(axis=1)
        assert nearest.mean() < random.mean()
    assert [len(_spread(points[:n])) for n in (0, 1, 2, 3)] == [0, 1, 2, 3]


def test_thumbnails_come_in_order_from_threads(tmp_path: Path) -> None:
    wanted = []
    for number in range(60):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 20), (4 * number, 0, 255 - 4 * number)).save(path)
        digest = digest_bytes(path.read_bytes()) if number % 7 else b"another"
        wanted.append(Wanted(path.name, digest, side=32))
    found = read_thumbnails(wanted, Place(None, str(tmp_path)))
    for number, (image, reason) in enumerate(found):
        if number % 7:
            pixels = np.asarray(Image.open(BytesIO(b64decode(image.split(",")[1]))))
            assert pixels.shape == (32, 32, 3)
            assert abs(pixels[16, 16].astype(int) - [4 * number, 0, 255 - 4 * number]).max() < 12
        else:
            assert reason == "image changed since extraction"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_an_image_that_hangs_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    content, fifo = (tmp_path / "a.png").read_bytes(), tmp_path / "fifo"
    os.mkfifo(fifo)
    wanted = [Wanted(str(number), digest_bytes(content), side=32) for number in range(20)]
    # As on a disk that does not answer.
    monkeypatch.setattr(
        thumbnails,
        "open_reader",
        lambda *_: lambda key: content if int(key) % 9 else fifo.read_bytes(),
    )
    monkeypatch.setattr(prefetch, "LIMIT_SECONDS", 0.5)
    found = read_thumbnails(wanted, Place(None, str(tmp_path)))
    late = [number for number, one in enumerate(found) if not one.image]
    assert late == [0, 9, 18]
    assert {found[number].reason for number in late} == {"took longer than 0.5 s to read"}
    monkeypatch.setattr(prefetch, "MOST_STUCK", 0)
    assert [one.reason for one in read_thumbnails(wanted, Place(None, str(tmp_path)))] == [
        "took longer than 0.5 s to read"
    ] * 20
    for _ in range(8):  # ends the threads
        with suppress(OSError):
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def test_jpeg_takes_the_place_of_webp_where_pillow_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: False)
    text = thumbnails._encode(np.zeros((8, 8, 3), np.uint8))
    assert Image.open(BytesIO(b64decode(text.split(",")[1]))).format == "JPEG"


# In a browser.


def test_a_figure_shows_a_row_as_text(browser: Any, tmp_path: Path) -> None:
    made = dataset((SCRIPT, '"><b onclick=alert(2)>'), tmp_path / "images")
    path, _, analysis = report(made, tmp_path / "report.html")
    mistake, trained = analysis.mistakes[0], int(np.flatnonzero(made.split == 0)[0])
    with opened(browser, path) as page:
        show = "row => { document.body.append(imageFigure(row)); }"
        page.evaluate(show, mistake.row)
        page.evaluate(show, trained)
        first, second = page.locator("body > figure.small").all()
        assert mistake.key in first.inner_text()
        assert f"labelled {mistake.truth}" in first.inner_text()
        assert f"predicted as {mistake.answer} {mistake.score:.2f}" in first.inner_text()
        assert first.locator("img").evaluate("i => i.naturalWidth") == 144  # that of the list
        assert "training image" in second.inner_text()
        assert "predicted" not in second.inner_text()
        assert second.locator("img").evaluate("i => i.naturalWidth") == 96


def test_the_tooltip_stays_inside_and_closes(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    path, _, _ = report(made, tmp_path / "report.html")
    for width in (1000, 390):
        with opened(browser, path, viewport={"width": width, "height": 700}) as page:
            page.evaluate(
                """() => { for (const [left, top] of [[0, 0], [innerWidth - 40, 660], [170, 300]]) {
                const style = `position: fixed; left: ${left}px; top: ${top}px`;
                const b = element("button", { style }, "x");
                document.body.append(b); tipFor(b, 5); } }"""
            )
            tip = page.locator("#tip")
            for button in page.locator("body > button").all():
                assert tip.is_hidden()
                button.hover()
                assert tip.is_visible()
                assert made.keys[5] in tip.inner_text()
                assert button.get_attribute("aria-describedby") == "tip"
                box = tip.bounding_box()
                assert box
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
                assert box["y"] >= 0
                assert box["y"] + box["height"] <= 700
                page.keyboard.press("Escape")
                assert tip.is_hidden()
                assert button.get_attribute("aria-describedby") is None
                page.mouse.move(width / 2, 2)
            page.locator("body > button").first.focus()
            assert tip.is_visible()
            page.keyboard.press("Tab")
            page.keyboard.press("Escape")
            assert tip.is_hidden()
