"""The sliders of the report: exact counts at every threshold, marks, and a command that works."""

import csv
import json
import re
import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import recall_score

from classify.cli import main as train_head
from classify.diagnosis.analysis import Analysis
from classify.predict_cli import main as predict_images
from classify.scores.operating_points import count_thresholds, coverage
from classify.scores.words import percent
from classify.search.leaderboard import Result
from tests.browser import opened
from tests.conftest import MakeStore
from tests.test_report_page import HEADS, SCRIPT, dataset, report

Made = tuple[Path, Result, Analysis]
FIGURES = {"min-score": "coverage", "positive-score": "roc"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = dataset((SCRIPT, "<b>dog</b>"), count=70)
    return report(made, tmp_path_factory.mktemp("two") / "report.html", HEADS[:1])


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("K", [2, 5])
def test_the_counts_are_those_of_numpy_at_every_threshold(K: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    y, scores = generator.integers(0, K, 700), generator.dirichlet(np.ones(K), 700).astype(kind)
    # Scores on the edge, and such that single precision rounds onto it or away from it.
    edges = np.arange(51, 101) / 100
    scores[:50, :2] = np.stack([edges, 1 - edges], axis=1)
    scores[:50, 2:] = 0
    found = count_thresholds(y, scores, 1 if K == 2 else None)
    best, right = scores.max(axis=1).tolist(), (scores.argmax(axis=1) == y).tolist()
    for step in range(101):
        least = step / 100
        labelled = [hit for score, hit in zip(best, right, strict=True) if score >= least]
        assert (found.labelled[step], found.right[step]) == (len(labelled), sum(labelled))
        if K == 2:
            reached = np.array([score >= least for score in scores[:, 1].tolist()])
            assert found.hits[step] == (reached & (y == 1)).sum()
            assert found.false_alarms[step] == (reached & (y == 0)).sum()
    (table,) = coverage(y, scores, np.arange(700), (0.7,))
    assert table.images == found.labelled[70] == sum(score >= 0.7 for score in best)
    assert found.images == 700
    assert found.positives == ((y == 1).sum() if K == 2 else None)


def shown(part: int, whole: int) -> str:
    return percent(part / whole)


def slide(page: Any, name: str, step: int) -> None:
    page.locator(f"#{name}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", step / 100
    )


def mark(page: Any, name: str) -> list[float] | None:
    """The values at the mark of a figure, from the place where it is painted."""
    found: list[float] | None = page.locator(f"#{FIGURES[name]} .threshold-mark").evaluate(
        """dot => {
          if (getComputedStyle(dot).display === "none") return null;
          const [left, top, width, height, x0, x1, y0, y1]
            = JSON.parse(dot.ownerSVGElement.dataset.axes)[0];
          return [x0 + (dot.cx.baseVal.value - left) / width * (x1 - x0),
            y1 - (dot.cy.baseVal.value - top) / height * (y1 - y0)];
        }"""
    )
    return found


def test_every_place_of_the_slider_says_the_exact_share(browser: Any, two: Made) -> None:
    path, result, _ = two
    assert result.scores is not None
    assert result.dataset is not None
    y = result.dataset.y[result.validation_rows]
    best, right = result.scores.max(axis=1), result.scores.argmax(axis=1) == y
    with opened(browser, path) as page:
        slider = page.locator("#min-score")
        said = page.locator("output[for=min-score]")
        assert page.get_by_label("Least score", exact=True).count() == 1
        for step in range(101):
            slide(page, "min-score", step)
            of = best >= step / 100
            count, good = int(of.sum()), int((right & of).sum())
            text = said.inner_text()
            begin = f"At score {step / 100:.2f} or more, {shown(count, len(y))} of the images"
            assert text.startswith(f"{begin} ({count} of {len(y)}) are labelled")
            if count:
                assert f"and {shown(good, count)} of those correctly ({good} of {count})." in text
                place = mark(page, "min-score")
                assert place == pytest.approx([count / len(y), good / count], abs=0.01)
            else:
                assert mark(page, "min-score") is None
            assert slider.get_attribute("aria-valuetext") == f"{step / 100:.2f}"
        slide(page, "min-score", 80)
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert said.inner_text().startswith("At score 0.79 or more")


def test_the_second_slider_is_on_the_roc_curve(browser: Any, two: Made) -> None:
    path, result, analysis = two
    assert result.scores is not None
    assert result.dataset is not None
    assert analysis.positive is not None
    y = result.dataset.y[result.validation_rows]
    positive = result.dataset.class_names.index(analysis.positive.name)
    truth, score = y == positive, result.scores[:, positive]
    with opened(browser, path) as page:
        for step in range(0, 101, 5):
            slide(page, "positive-score", step)
            reached = score >= step / 100
            sensitivity = recall_score(truth, reached)
            specificity = recall_score(truth, reached, pos_label=False)
            text = page.inner_text("output[for=positive-score]")
            assert f"a score of {analysis.positive.name} of {step / 100:.2f} or more" in text
            hits, positives = int((truth & reached).sum()), int(truth.sum())
            passed, negatives = int((~truth & ~reached).sum()), int((~truth).sum())
            assert f"sensitivity {shown(hits, positives)} ({hits} of {positives})" in text
            assert f"specificity {shown(passed, negatives)} ({passed} of {negatives})" in text
            wanted = [1 - specificity, sensitivity]
            assert mark(page, "positive-score") == pytest.approx(wanted, abs=0.001)


def test_of_three_classes_there_is_one_slider(browser: Any, tmp_path: Path) -> None:
    found = report(dataset(("a", "b", "c")), tmp_path / "report.html", HEADS[:1])
    with opened(browser, found[0]) as page:
        assert page.locator(".threshold").count() == 1
        assert page.locator("#min-score").is_visible()


def test_the_command_works_as_printed(
    browser: Any,
    make_store: MakeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = np.random.default_rng(0)
    labels = [0, 1] * 60
    features = generator.normal(size=(120, 5)).astype(np.float32)
    features[np.arange(120), labels] += 1
    store = make_store(features, labels)
    folder = tmp_path / "it's $a head"
    monkeypatch.chdir(store.parent)
    assert train_head([store.name, "--head", "lda", "-o", str(folder), "-q"]) == 0
    record = json.loads((folder / "result.json").read_text())["best"]["thresholds"]
    with opened(browser, folder / "report.html") as page:
        slide(page, "min-score", 70)
        command = page.inner_text(".threshold pre code")
        name, *words = shlex.split(command)
        assert name == "predict-images"
        assert words == [f"{folder}/", store.name, "--min-score", "0.70"]
        assert f"({record['labelled'][70]} of {record['images']})" in page.inner_text(
            "output[for=min-score]"
        )
    capsys.readouterr()
    assert predict_images(words) == 0
    lines = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert len(lines) == 120
    assert 0 < sum(not line["label"] for line in lines) < 120


def test_without_a_script_the_tables_are_there(browser: Any, two: Made) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(two[0].as_uri())
    assert page.locator("#scores .points").count() == 2
    assert not any(part.is_visible() for part in page.locator(".threshold").all())
    context.close()


def test_names_stay_text(browser: Any, two: Made) -> None:
    with opened(browser, two[0]) as page:
        assert page.locator("#scores .threshold b, #scores .threshold script").count() == 0
        words = page.inner_text("#scores .threshold:has(#positive-score)")
        assert re.search(r"<b>dog</b>|<script>", words)


def test_a_word_that_a_shell_of_windows_would_read_is_left_out(
    browser: Any, tmp_path: Path
) -> None:
    path = report(dataset(("cat", "dog")), tmp_path / "report.html", HEADS[:1])[0]
    with opened(browser, path) as page:
        words = [
            page.evaluate("word => shellWord(word, true)", w) for w in ("a b", "$(calc)", "%x%")
        ]
    assert words == ['"a b"', "SOURCE", "SOURCE"]
