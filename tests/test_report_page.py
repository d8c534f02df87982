"""The report in a real browser: what is on it, that it sorts, loads nothing and runs no name."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis, analyse
from classify.report.report import _lead, write_report
from classify.scores.words import percent
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.core.config import TrunkSpec
from extract.gallery.page import Card, Section, write_gallery
from extract.gallery.thumbnails import Thumbnail
from extract.images.digests import digest_bytes
from extract.limits import prefetch
from tests.browser import opened
from tests.conftest import ROOT, MakeStore

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
HEADS = (HeadSpec("logistic", C=1.0), HeadSpec("logistic", C=1e-7), HeadSpec("knn"))
DROPPED = tuple(
    HeadSpec("dense", units=(8,), epochs=3, learning_rate=0.01, dropout=dropout)
    for dropout in (0.5, 0.0)
)


def dataset(names: tuple[str, ...], source: Path | None = None, count: int = 20) -> Dataset:
    """Rows that are told apart but for a few, of images that lie in ``source`` where given."""
    generator = np.random.default_rng(0)
    K = len(names)
    y = np.arange(K * count) % K
    X = generator.normal(size=(len(y), K + 4)).astype(np.float32)
    X[np.arange(len(y)), y] += 1.5
    split = (np.arange(len(y)) // K % 2).astype(np.int8)
    keys = [f"{y[row]}/{IMAGE} {row}.png" for row in range(len(y))]
    digests = np.zeros((len(y), 16), np.uint8)
    for row, key in enumerate(keys if source else ()):
        path = Path(source or "", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        digests[row] = np.frombuffer(digest_bytes(path.read_bytes()), np.uint8)
    spec = TrunkSpec("mobilenet", weights="none", image_size=(32, 32))
    made = Dataset(X, y, keys, None, split, names, spec.layer[0], spec, "", "float32")
    return replace(made, source=str(source or "/nowhere/images"), digests=digests)


def report(
    made: Dataset, path: Path, heads: tuple[HeadSpec, ...] = HEADS, folds: int | None = None
) -> tuple[Path, Result, Analysis]:
    result = run(made, TrainConfig(heads, folds))
    analysis = analyse(made, result)
    write_report(path, made, result, analysis, f"{IMAGE}.h5")
    return path, result, analysis


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, Analysis]:
    folder = tmp_path_factory.mktemp("hostile")
    made = dataset((SCRIPT, '"><b onclick=alert(2)>&amp;', "$5_{x}$"), folder / "images")
    return report(made, folder / "report.html")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, Analysis]:
    path = tmp_path_factory.mktemp("swept") / "report.html"
    return report(dataset(("cat", "dog")), path, (*HEADS, *DROPPED))


# Names that would be code.


def test_names_are_text(browser: Any, hostile: tuple[Path, Result, Analysis]) -> None:
    path, _, analysis = hostile
    assert analysis.mistakes
    with opened(browser, path) as page:
        text = page.inner_text("body")
        assert SCRIPT in text
        assert '"><b onclick=alert(2)>&amp;' in text
        assert f"{IMAGE}.h5" in text
        assert analysis.mistakes[0].key in page.inner_text("#mistakes")
        assert "<script>alert(1)</scr" in "".join(page.locator("svg text").all_text_contents())
        assert "$5_{x}$" in page.locator("#confusions svg text").all_text_contents()
        assert page.locator("script:not([type])").count() == 1
        assert page.locator("[onclick], [onerror], [onload]").count() == 0


def test_a_script_that_was_put_in_does_not_run(
    browser: Any, hostile: tuple[Path, Result, Analysis], tmp_path: Path
) -> None:
    altered = tmp_path / "altered.html"
    text = hostile[0].read_text(encoding="utf-8")
    added = (
        "<main><script>document.title = 'gone'</script><i id=added style='color: red'></i>"
        "<style>body { display: none }</style>"
    )
    altered.write_text(text.replace("<main>", added))
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(altered.as_uri())
    assert page.title() != "gone"
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    colours = "['#added', 'main'].map(s => getComputedStyle(document.querySelector(s)).color)"
    assert len(set(page.evaluate(colours))) == 1
    assert ["Content Security Policy" in line for line in refused] == [True] * 3
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")
    page.close()


def test_a_gallery_loads_nothing_and_styles_itself(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "gallery.html"
    cards = [Card(IMAGE, Thumbnail("", SCRIPT), [SCRIPT])]
    write_gallery(path, SCRIPT, IMAGE, [Section(IMAGE, cards)])
    with opened(browser, path) as page:
        assert page.inner_text("h1") == SCRIPT
        assert page.inner_text("code") == IMAGE
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.images')).display") == "grid"
        )
        assert page.locator("script, [style], [onerror]").count() == 0
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<main>", "<main><p style='color: red'>"), encoding="utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert len(refused) == 1
    page.close()


def test_nothing_in_the_file_points_outside(hostile: tuple[Path, Result, Analysis]) -> None:
    text = hostile[0].read_text(encoding="utf-8")
    tags = re.findall(r"<[^>]+>", text)
    addresses = re.findall(r'(?:src|href)="([^"]+)"|url\(([^)]+)\)', "".join(tags))
    assert addresses
    # The table of all predictions lies in the folder of the page.
    addresses = [a or b for a, b in addresses if a != "predictions.csv"]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in text
    assert not re.findall(r"<[^>]* style=", text)
    assert "unsafe" not in text


def test_no_identifier_is_there_twice(browser: Any, swept: tuple[Path, Result, Analysis]) -> None:
    with opened(browser, swept[0]) as page:
        names = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(names) == len(set(names))
        used = page.evaluate(
            "[...document.querySelectorAll('use')].map(u => u.href.baseVal.slice(1))"
        )
        assert set(used) <= set(names)


# What is on it.


def test_scripts_round_shares_as_templates_do(
    browser: Any, hostile: tuple[Path, Result, Analysis]
) -> None:
    shares = [(part, whole) for whole in (1, 7, 16, 64, 5000) for part in range(whole + 1)]
    with opened(browser, hostile[0]) as page:
        found = page.evaluate(
            "shares => shares.map(([part, whole]) => percent(part, whole))", shares
        )
        assert found == [percent(part / whole) for part, whole in shares]


def test_what_is_said_first(browser: Any, hostile: tuple[Path, Result, Analysis]) -> None:
    path, result, _ = hostile
    with opened(browser, path) as page:
        said = str(page.text_content("header"))
        assert page.inner_text("h1").startswith("Use logistic C=1")
        assert f"{100 * result.best.scores['accuracy']:.1f}".removesuffix(".0") in said
        assert "the 30 images of the validation split" in said
        assert "is trained on 30" in said
        assert (
            f"{len(result.validation_rows)} images that it was not trained on, of 3"
            in page.inner_text(".lead")
        )
        assert "Test split" not in said


def test_every_section_is_there_and_none_is_empty(
    browser: Any, swept: tuple[Path, Result, Analysis]
) -> None:
    with opened(browser, swept[0]) as page:
        headings = page.locator("h2").all_inner_texts()
        assert headings == [
            *("Leaderboard", "Sweeps", "Learning curves", "Confusions", "Classes", "Scores"),
            *(
                "Two heads",
                "Would more images help?",
                "Map of the features",
                "Most confident mistakes",
            ),
            *("Label issues", "Settings"),
        ]
        for link in page.locator("nav a").all():
            assert page.locator(str(link.get_attribute("href"))).count() == 1
        # Confusion, ROC, precision-recall, calibration, coverage, sizes, two learning curves, two
        # sweeps, seconds, maps.
        count = 11 + len(swept[2].maps)
        assert page.locator("svg[role=img][aria-label]").count() == count
        for drawing in page.locator("svg[role=img]").all():
            box = drawing.bounding_box()
            assert box["width"] > 100
            assert box["height"] > 100


def test_dropouts_stand_side_by_side(browser: Any, swept: tuple[Path, Result, Analysis]) -> None:
    with opened(browser, swept[0], viewport={"width": 1200, "height": 800}) as page:
        panels = page.locator("#learning figure")
        assert [t.split("\n")[0] for t in panels.locator("h3").all_inner_texts()] == [
            "dropout 0",
            "dropout 0.5",
        ]
        first, second = (panel.bounding_box() for panel in panels.all())
        assert first["y"] == second["y"]
        assert first["x"] < second["x"]


def test_without_keras_heads_there_are_no_curves(
    browser: Any, hostile: tuple[Path, Result, Analysis]
) -> None:
    with opened(browser, hostile[0]) as page:
        assert page.locator("#learning").count() == 0
        assert "Learning curves" not in page.inner_text("nav")


def test_every_number_of_the_tables_is_in_the_record(
    browser: Any, hostile: tuple[Path, Result, Analysis]
) -> None:
    path, result, analysis = hostile
    with opened(browser, path) as page:
        shown = page.locator("#leaderboard tbody tr").all()
        for line, entry in zip(shown, [*result.entries, result.baseline], strict=True):
            assert entry is not None
            for value in (*entry.scores.values(), entry.low, entry.high):
                assert f"{value:.3f}" in line.inner_text()
        lines = page.locator("#classes tbody tr").all_inner_texts()
        for text, of in zip(lines, analysis.classes, strict=True):
            for share in (of.precision, of.recall, of.f1):
                assert f"{share.value:.2f}" in text
                assert f"{share.low:.2f}\N{EN DASH}{share.high:.2f}" in text
            assert f"{of.roc_area:.3f}" in text


def test_a_training_accuracy_on_a_sample_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hostile: tuple[Path, Result, Analysis]
) -> None:
    said = "The training accuracy is that of 9 random training images."
    assert "random training images" not in hostile[0].read_text()
    monkeypatch.setattr("classify.search.evaluate.TRAINING_SAMPLE", 9)
    assert said in report(dataset(("a", "b")), tmp_path / "report.html")[0].read_text()


def test_mistakes_are_shown_with_images_and_keys(
    browser: Any, hostile: tuple[Path, Result, Analysis]
) -> None:
    with opened(browser, hostile[0]) as page:
        images = page.locator("#mistakes img")
        assert images.count() == min(24, len(hostile[2].mistakes)) > 0
        sizes = images.evaluate_all("all => all.map(i => [i.complete, i.naturalWidth])")
        assert sizes == [[True, 144]] * len(sizes)


def test_images_of_an_archive_are_shown_until_it_is_gone(tmp_path: Path) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    path, _, analysis = report(replace(made, source=packed), tmp_path / "report.html")
    issues = analysis.label_issues.issues
    assert min(len(analysis.mistakes), len(issues)) > 0
    shown = min(24, len(analysis.mistakes)) + min(12, len(issues))
    assert path.read_text().count('src="data:image/webp') == shown
    Path(packed).unlink()
    path, _, _ = report(replace(made, source=packed), tmp_path / "report.html")
    assert "data:image/webp" not in path.read_text()
    assert "source not available" in path.read_text()


@pytest.mark.parametrize("change", ["gone", "changed", "damaged", "elsewhere"])
def test_an_image_that_is_not_the_one_is_not_shown(
    change: str, browser: Any, tmp_path: Path
) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    _, _, analysis = report(made, tmp_path / "report.html")
    first = analysis.mistakes[0]
    image = tmp_path / "images" / first.key
    if change == "gone":
        image.unlink()
    elif change == "changed":
        Image.new("RGB", (9, 9)).save(image)
    elif change == "damaged":
        image.write_bytes(b"no image")
        assert made.digests is not None
        made.digests[first.row] = np.frombuffer(digest_bytes(b"no image"), np.uint8)
    else:
        (tmp_path / "images").rename(tmp_path / "moved")
    path, _, _ = report(made, tmp_path / "report.html")
    said = {"changed": "changed since", "damaged": "is not an image"}
    with opened(browser, path) as page:
        shown = page.locator("#mistakes figure").first
        assert said.get(change, "image not found") in shown.inner_text()
        assert first.key in shown.inner_text()
        missing = len(analysis.mistakes) if change == "elsewhere" else 1
        assert page.locator("#mistakes .gone").count() == missing
        assert page.locator("#mistakes img").count() == len(analysis.mistakes) - missing
        note = page.locator("#mistakes .note")
        assert note.count() == (change == "elsewhere")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
@pytest.mark.parametrize("kind", ["fifo", "device", "outside", "absolute", "linked device"])
def test_no_key_leads_to_another_file(kind: str, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"), tmp_path / "images")
    path, _, analysis = report(made, tmp_path / "report.html")
    shown = path.read_text().count('src="data:image/webp')
    first = analysis.mistakes[0]
    places = 1 + (first.row in [issue.row for issue in analysis.label_issues.issues[:12]])
    image, outside = tmp_path / "images" / first.key, tmp_path / "outside.png"
    image.rename(outside)
    if kind == "fifo":
        os.mkfifo(image)
    elif kind == "linked device":
        image.symlink_to("/dev/zero")
    else:
        key = {"device": "/dev/zero", "outside": "../outside.png", "absolute": str(outside)}[kind]
        made.keys[first.row] = key
    path, _, _ = report(made, tmp_path / "report.html")
    assert path.read_text().count('src="data:image/webp') == shown - places
    assert path.read_text().count('class="gone">image not found') == places


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_images_that_are_not_read_in_time_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, fifo = dataset(("cat", "dog"), tmp_path / "images"), tmp_path / "fifo"
    os.mkfifo(fifo)
    # As on a disk that does not answer.
    monkeypatch.setattr(
        "extract.gallery.thumbnails.open_reader", lambda *_: lambda _: fifo.read_bytes()
    )
    monkeypatch.setattr(prefetch, "LIMIT_SECONDS", 0.2)
    path, _, analysis = report(made, tmp_path / "report.html")
    fifo.open("wb").close()  # ends the thread
    shown = len(analysis.mistakes) + len(analysis.label_issues.issues)
    assert path.read_text().count('class="gone">took longer than 0.2 s to read') == shown > 0
    assert "data:image/webp" not in path.read_text()


def test_a_head_without_a_mistake_has_no_list_of_them(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"))
    made.X[np.arange(len(made.y)), made.y] += 100
    with opened(browser, report(made, tmp_path / "report.html")[0]) as page:
        assert page.locator("#mistakes").count() == 0
        assert "100" in page.inner_text(".score")


def test_many_classes_stay_readable(browser: Any, tmp_path: Path) -> None:
    names = tuple(f"class number {i} of a long name" for i in range(70))
    path, _, analysis = report(dataset(names, count=6), tmp_path / "report.html", HEADS[:1], 3)
    with opened(browser, path) as page:
        # No numbers in cells and no names beside 70 rows, but the worst pairs in words.
        assert len(page.locator("#confusions svg text").all()) == 2
        assert page.locator("#confusions .pairs tbody tr").count() == len(analysis.pairs) > 3
        assert page.locator("#classes tbody tr").count() == 70
        assert page.locator("#map-classes li").count() == 9  # and the grey ones
        assert "8 classes with the most mistakes" in page.inner_text("#map")
        assert "in 3 folds" in str(page.text_content("header"))
        assert page.locator("#all-mistakes tbody tr").count() == len(analysis.mistakes)


def test_a_test_split_is_told_apart(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"))
    made.split[-10:] = 2
    path, result, _ = report(made, tmp_path / "report.html")
    assert result.test is not None
    with opened(browser, path) as page:
        said = str(page.text_content("header"))
        assert "Test split" in said
        assert f"of 10 images, loss {result.test.loss:.3f}" in said


# How it behaves.


def test_sorting(browser: Any, hostile: tuple[Path, Result, Analysis]) -> None:
    path, result, _ = hostile
    with opened(browser, path) as page:
        table = page.locator("#leaderboard table")

        def column(place: int) -> list[str]:
            return [
                row.strip()
                for row in table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()
            ]

        def sort(name: str) -> str | None:
            heading = table.get_by_role("columnheader", name=name, exact=False).first
            heading.get_by_role("button").click()
            assert table.locator("[aria-sort]").count() == 1
            return str(heading.get_attribute("aria-sort"))

        lines = [*result.entries, result.baseline]
        scores = [f"{line.scores['accuracy']:.3f}" for line in lines if line]
        assert column(3) == scores
        assert sort("accuracy") == "descending"
        assert column(3) == sorted(scores, reverse=True)
        assert sort("accuracy") == "ascending"
        assert column(3) == sorted(scores)
        assert column(3)[0] != column(3)[-1]
        names = column(2)
        assert sort("head") == "ascending"
        assert column(2) == sorted(names)
        assert sort("head") == "descending"
        assert column(2) == sorted(names, reverse=True)
        # By the keyboard.
        table.get_by_role("columnheader", name="#").get_by_role("button").press("Enter")
        assert column(1) == ["1", "2", "3", ""]


def test_what_is_not_known_sorts_last(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog", "eel"))
    made.split[made.y == 2] = 0  # no eel to judge by
    with opened(browser, report(made, tmp_path / "report.html", HEADS[:1])[0]) as page:
        table = page.locator("#classes table")
        for _ in range(2):
            table.get_by_role("button", name="ROC area").click()
            assert table.locator("tbody th").all_inner_texts()[-1] == "eel"


def test_light_dark_and_paper(browser: Any, hostile: tuple[Path, Result, Analysis]) -> None:
    colours = []
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        with opened(browser, hostile[0], color_scheme=scheme) as page:
            page.emulate_media(media=media, color_scheme=scheme)
            colours.append(
                page.evaluate(
                    "['body', '#scores svg text', '#map [id$=validation] use'].map(s => {"
                    "const style = getComputedStyle(document.querySelector(s));"
                    "return s === 'body' ? [style.backgroundColor, style.color] : style.fill })"
                )
            )
    light, dark, paper = colours
    assert light[0] != dark[0]
    assert all(a != b for a, b in zip(light[1:], dark[1:], strict=True))
    assert paper[1:] == light[1:]

    def brightness(colour: str) -> int:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    page_light, ink_light, page_dark, ink_dark = map(brightness, (*light[0], *dark[0]))
    assert min(page_light, ink_dark) > 600
    assert max(page_dark, ink_light) < 200


@pytest.mark.parametrize("which", ["hostile", "swept"])
def test_a_phone_needs_no_sideways_scrolling(
    which: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)[0]
    with opened(browser, path, viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        table = page.locator("#leaderboard .scroll").bounding_box()
        assert table["x"] + table["width"] <= 390


def test_the_bars_have_the_scale_of_the_candidates(
    browser: Any, hostile: tuple[Path, Result, Analysis]
) -> None:
    path, result, _ = hostile
    lows, highs = zip(*((entry.low or 0, entry.high or 0) for entry in result.entries), strict=True)
    low, high = min(lows), max(highs)
    assert result.baseline
    assert (result.baseline.low or 0) < low
    with opened(browser, path) as page:
        bars = page.locator("#leaderboard .bar rect")
        places = bars.evaluate_all(
            "all => all.map(r => ['x', 'width'].map(n => r.getAttribute(n)))"
        )
        found = np.array([[float(end.rstrip("%")) for end in ends] for ends in places])
        expected = [[a - low, b - a] for a, b in zip(lows, highs, strict=True)]
        np.testing.assert_allclose(found, 100 * np.array(expected) / (high - low), atol=0.01)
        last = page.locator("#leaderboard tbody tr").last
        assert last.locator("svg").count() == 0
        assert last.locator(".interval").inner_text() == (
            f"{result.baseline.low:.3f}\N{EN DASH}{result.baseline.high:.3f}"
        )


def test_only_groups_with_a_name_are_listed(tmp_path: Path) -> None:
    for name, shown in (("farm", True), ("f" * 30, False)):
        made = dataset(("cat", "dog"))
        made = replace(made, groups=[f"{name}{i % 40:02}" for i in range(len(made.y))])
        text = report(made, tmp_path / "report.html", HEADS[:1])[0].read_text(encoding="utf-8")
        assert ('<section id="groups">' in text) == ('href="#groups"' in text) == shown


def test_it_prints_and_unfolds(browser: Any, tmp_path: Path) -> None:
    made = dataset(("cat", "dog"), count=300)
    made.X[:] = np.random.default_rng(1).normal(size=made.X.shape)
    with opened(browser, report(made, tmp_path / "report.html", HEADS[:1])[0]) as page:
        assert page.pdf(format="A4")[:5] == b"%PDF-"
        tables = page.locator("details:not(:has(figure))")
        assert page.locator("details[open]").count() == tables.count() >= 2
        page.emulate_media(media="print")
        rows = page.locator("#all-mistakes tbody tr")
        assert rows.count() > 40 == page.locator("#all-mistakes tbody tr:visible").count()
        assert f"The first 40 of {rows.count()}" in page.inner_text("#all-mistakes .paper")


def with_seconds(result: Result, seconds: float) -> Result:
    """A result whose candidates took so long: the clock alone differs from run to run."""
    return replace(
        result,
        entries=[
            entry._replace(evaluation=replace(entry.evaluation, seconds=seconds / place))
            for place, entry in enumerate(result.entries, 1)
        ],
    )


def test_the_same_seed_and_the_same_seconds_give_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for seconds in (1.0, 1.0, 2.0):
        made = dataset(("cat", "dog", "eel"), tmp_path / "images")
        result = with_seconds(run(made, TrainConfig(HEADS)), seconds)
        path = tmp_path / "report.html"
        write_report(path, made, result, analyse(made, result), "out.h5")
        pages.append(path.read_bytes())
    assert pages[0] == pages[1] != pages[2]


def test_secrets_of_addresses_are_not_on_the_page(tmp_path: Path) -> None:
    address = "https://user:hunter2@host.invalid/images.zip?sig=SIGNATURE"
    made = replace(dataset(("cat", "dog")), source=address, moved_to=address)
    path, result, analysis = report(made, tmp_path / "report.html", HEADS[:1])
    write_report(path, made, result, analysis, ["a.h5", "b.h5"])  # its command names the images
    text = path.read_text(encoding="utf-8")
    assert "https://host.invalid/images.zip" in text
    assert "hunter2" not in text
    assert "SIGNATURE" not in text


def test_a_users_own_style_of_figures_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    made = dataset(("cat", "dog"))
    result = run(made, TrainConfig(HEADS))
    analysis = analyse(made, result)
    plain, styled = tmp_path / "plain.html", tmp_path / "styled.html"
    write_report(plain, made, result, analysis, "out.h5")
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "axes.grid": False}):
        write_report(styled, made, result, analysis, "out.h5")
    assert plain.read_bytes() == styled.read_bytes()


@pytest.mark.parametrize("patience", [None, 2])
def test_behind_folds_the_head_is_trained_on_all_images(patience: int | None) -> None:
    spec = replace(DROPPED[0], patience=patience)
    result = run(dataset(("a", "b")), TrainConfig((spec,), 4))
    assert _lead(result)["training"] == 40
    assert "trained on 40 images" in result.summary()


FIGURES = """
import sys
from pathlib import Path
from classify.cli import main as train_head
from classify.output.predictions import Prediction
from classify.output.chart import draw_chart
from extract.display.figure import load_matplotlib

store, chart = sys.argv[1:]
assert train_head([store, "--head", "knn", "-q"]) == 0
load_matplotlib()
draw_chart(Path(chart), "a.png", [Prediction("a.png", "cat", 1.0)])
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonesuch"])
def test_figures_need_no_backend_of_matplotlib(
    backend: str, make_store: MakeStore, tmp_path: Path
) -> None:
    features = np.random.default_rng(0).random((12, 3), np.float32)
    words = [make_store(features, [0, 1] * 6), tmp_path / "chart.svg"]
    child = subprocess.run(
        [sys.executable, "-c", FIGURES, *map(str, words)],
        env={**os.environ, "MPLBACKEND": backend},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "<svg" in (tmp_path / "made_head/report.html").read_text(encoding="utf-8")
    assert "<svg" in words[1].read_text(encoding="utf-8")
