"""A result in a notebook: its table, its figures and its contact sheets."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.formatters import PNGFormatter

from classify import Result, train_heads
from classify.result import draw_itself
from classify.search.leaderboard import Result as Leaderboard
from extract import extract_features, show, write_features
from extract.core.errors import HeadError, SettingError
from tests.conftest import QUICK

NAMES = (
    *("leaderboard", "sweep", "seconds", "learning", "confusion", "roc", "precision_recall"),
    *("calibration", "coverage", "fewer_images", "map"),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A result of features with hostile class names, saved in a folder."""
    folder = tmp_path_factory.mktemp("result")
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = (generator.normal(size=(120, 8)) + 1.5 * np.eye(8)[y]).astype(np.float32)
    names = np.array(["$5 \\frac", "<script>alert(1)</script>", "\u05e9\u05dc\u05d5\u05dd"])
    split = np.where(np.arange(120) // 3 % 2, "validation", "train")
    write_features(folder / "out.h5", X, labels=names[y].tolist(), split=split.tolist())
    heads = ["logistic", "linear", "knn"]
    given: dict[str, Any] = {"sweep": "logistic.C=0.01,0.1,1", "epochs": 3, "quiet": True}
    return train_heads(folder / "out.h5", head=heads, output=folder / "head", **given)


def png_of(figure: Any) -> bytes:
    """What a notebook shows of an object, in IPython's own words."""
    shown = PNGFormatter()(figure)
    content = shown[0] if isinstance(shown, tuple) else shown
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize("which", NAMES)
def test_a_figure_is_shown_by_a_notebook(which: str, result: Any) -> None:
    figure = result.plot(which)
    assert png_of(figure)[:8] == b"\x89PNG\r\n\x1a\n"
    assert figure.axes or any(part.axes for part in figure.subfigs)


def test_numbers_in_figures_are_those_of_the_result(result: Any) -> None:
    axes = result.plot().axes[0]
    scores = [float(line.get_xdata()[0]) for line in axes.lines]
    assert scores[: len(result.entries)] == [e.scores["accuracy"] for e in result.entries]
    (axes,) = result.confusion().axes
    counts = np.zeros((3, 3), int)
    for text in axes.texts:
        column, row = map(int, text.get_position())
        counts[row, column] = int(text.get_text())
    truth, answers = result.dataset.y[result.validation_rows], result.scores.argmax(axis=1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (truth, answers), 1)
    assert (counts == expected).all()


def test_a_wrong_name_is_explained(result: Any) -> None:
    with pytest.raises(SettingError, match="plot: figure 'rocc' is unknown; nearest: roc"):
        result.plot("rocc")
    alone = train_heads(
        result.dataset.path, head="knn", output=result.folder / "../knn", quiet=True
    )
    with pytest.raises(SettingError, match="plot: this result has no sweep; it has leaderboard"):
        alone.plot("sweep")
    with pytest.raises(SettingError, match="count: found 0; expected 1 to 500"):
        result.mistakes(0)
    stopped = draw_itself(Leaderboard(result.entries, "accuracy", result.splits))
    assert stopped.plot("seconds").axes or stopped.plot("seconds").subfigs
    with pytest.raises(HeadError, match="stopped before its best head was trained"):
        stopped.confusion()


def test_mistakes_say_class_prediction_and_score(result: Any) -> None:
    figure = result.mistakes(5)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(figure.axes) == 5
    assert texts[0].startswith("features of another")  # no image, and why
    assert re.match(r"is .+\n→ .+ 0\.\d\d", texts[1])
    assert png_of(figure)


def test_the_table_has_bars_curves_and_a_link(result: Any) -> None:
    text = result._repr_html_()
    assert text.count("<rect") >= len(result.entries)
    assert text.count("<figure") == 1
    assert "linear" in text
    assert "<script>alert" not in text
    assert re.search(r'href="[^"]*head/report\.html"', text)
    assert 'style="' in text
    for entry in result.entries:
        assert f"{entry.scores['accuracy']:.4f}" in text
    # The ends of a bar are those of the interval, on one scale for all.
    bars = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)" y="3"', text)
    widths = np.array([float(width) for _, width in bars[: len(result.entries)]])
    spans = np.array([e.high - e.low for e in result.entries])
    assert np.allclose(widths / widths.max(), spans / spans.max(), atol=0.02)


def test_a_sheet_shows_the_images_of_each_class(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "out.h5"
    given: dict[str, Any] = {**QUICK, "quiet": True}
    extract_features(images, store, **given)
    figure = show(store, images=3)
    captions = [axes.texts[-1].get_text() for axes in figure.axes]
    assert captions == [
        f"{name}\n{split}"
        for name in ("cat", "dog")
        for split in ("train", "validation", "validation")  # evenly spread over four rows
    ]
    assert all(len(axes.images) == 1 for axes in figure.axes)
    assert png_of(figure)
    shutil.rmtree(images)
    gone = show(store, images=1)
    assert [len(axes.images) for axes in gone.axes] == [0, 0]
    assert gone.axes[0].texts[0].get_text() == "image not found"
    with pytest.raises(SettingError, match="images: found 0; expected 1 to 50"):
        show(store, images=0)


def test_the_public_result_is_that_of_a_search(result: Any) -> None:
    assert isinstance(result, Leaderboard)
    assert type(result) is Result
    assert str(result).startswith("rank")
