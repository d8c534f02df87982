"""Figures as files: they open alone, fit their page, and are the same for the same numbers."""

import json
import re
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from classify.diagnosis.curves import Curve
from classify.diagnosis.diagnostics import CalibrationBin
from classify.diagnosis.projection import FeatureMap
from classify.diagnosis.training_sizes import TrainingSize
from classify.figures.confusion import draw_confusion
from classify.figures.curves import draw_calibration, draw_curves, draw_sizes
from classify.figures.drawing import PAPER, Drawing, LegendItem
from classify.figures.feature_map import draw_map
from classify.figures.learning import draw_learning, shared_limits
from classify.figures.sweeps import draw_candidates
from classify.output.figure_files import make_figure, to_pdf_file, to_svg_file, write_figures
from classify.scores.intervals import Proportion
from classify.scores.metrics import confusion_matrix
from classify.train import train_heads
from extract.core.errors import HeadError
from extract.display.figure import quiet
from tests.conftest import ROOT, MakeStore
from tests.test_figures_learning import DROPPED
from tests.test_figures_sweeps import EXTREME, HOSTILE, result_of

FOUND = {color.lower() for color in PAPER.values()}


def drawings() -> dict[str, Drawing]:
    """One figure of each kind, with names that are hard to write."""
    y = np.arange(60) % len(HOSTILE)
    confusion = confusion_matrix(y, np.roll(y, 1), len(HOSTILE))
    curves = [Curve(name, [0.0, 0.5, 1.0], [0.0, 0.9, 1.0], [0.9, 0.5, 0.1]) for name in HOSTILE]
    sizes = [TrainingSize(n, Proportion(0.7, 0.6, 0.8)) for n in (10, 20, 40)]
    bins = [
        CalibrationBin(5, 0.3, Proportion(0.2, 0.1, 0.4)),
        CalibrationBin(9, 0.9, Proportion(1.0, 0.8, 1.0)),
    ]
    points = np.random.default_rng(0).normal(size=(60, 2))
    feature_map = FeatureMap("PCA", np.arange(60), points, [0.3, 0.2])
    styles = dict(enumerate(range(len(HOSTILE))))
    made = [
        draw_confusion("confusion", confusion, HOSTILE),
        draw_confusion(
            "confusion60", confusion_matrix(y, y, 60), [f"class {i}" for i in range(60)]
        ),
        draw_curves("roc", curves, ("false positive rate", "true positive rate")),
        draw_calibration("calibration", bins),
        draw_sizes("sizes", sizes, "average precision"),
        draw_learning("learning0", DROPPED, shared_limits([DROPPED])),
        draw_map("map", feature_map, y, styles, np.arange(30), np.arange(3))._replace(
            legend=tuple(LegendItem(name, "#060606", "o") for name in HOSTILE)
        ),
    ]
    for which in EXTREME:
        for drawing in draw_candidates(result_of(EXTREME[which]), "average precision"):
            made.append(drawing._replace(name=f"{which}_{drawing.name}"))
    return {drawing.name: drawing for drawing in made}


DRAWINGS = drawings()


@pytest.mark.parametrize("name", DRAWINGS)
def test_text_has_eight_points_and_lies_within_the_figure(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = make_figure(DRAWINGS[name], 8)
    figure.set_dpi(72)
    canvas: Any = FigureCanvasAgg(figure)
    renderer, shown, draw = canvas.get_renderer(), list[Text](), Text.draw

    def note(text: Text, renderer: Any) -> None:
        shown.append(text)
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", note)
    with quiet():
        figure.draw(renderer)
    width, height = figure.bbox.size
    texts = [text for text in shown if text.get_visible() and text.get_text().strip()]
    assert texts
    for text in texts:
        assert text.get_fontsize() == pytest.approx(8)
        box = text.get_window_extent(renderer)
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text


@pytest.mark.parametrize("name", DRAWINGS)
def test_files_open_alone_in_the_colours_of_paper(name: str) -> None:
    svg = to_svg_file(DRAWINGS[name])
    text = svg.decode()
    ElementTree.fromstring(svg)
    assert "var(--" not in text
    styles = re.findall(r'style="([^"]*)"', text)
    colours = set(re.findall(r"#0\w{5}\b", " ".join(styles)))
    assert not colours & (set(PAPER) - FOUND)
    fonts = set(re.findall(r"font(?:-family)?: ?[^;\"]*", " ".join(styles)))
    assert all("sans-serif" in font and "DejaVu" not in font for font in fonts if "px" in font)
    assert not re.findall(r'(?:href|src)="(?!#|data:)', text)
    assert "fill: #ffffff" in text  # the ground is white
    pdf = to_pdf_file(DRAWINGS[name])
    assert pdf[:5] == b"%PDF-"
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert svg == to_svg_file(DRAWINGS[name])
    assert pdf == to_pdf_file(DRAWINGS[name])


def test_text_of_svg_stays_text_and_has_a_title() -> None:
    root = ElementTree.fromstring(to_svg_file(DRAWINGS["roc"]))
    space = "{http://www.w3.org/2000/svg}"
    texts = {"".join(part.itertext()).strip() for part in root.iter(f"{space}text")}
    assert {"true positive rate", "$5 \\frac", "<b>&", "a b"} <= texts
    assert root[0].text == "true positive rate against false positive rate"


def test_most_figures_fit_a_column_of_a_paper() -> None:
    widths = {name: make_figure(d, 8).get_size_inches()[0] for name, d in DRAWINGS.items()}
    single = {name for name, width in widths.items() if width <= 3.35}
    assert {"roc", "calibration", "sizes", "learning0", "many_seconds", "many_sweep0"} <= single
    assert max(width for name, width in widths.items() if "confusion" not in name) <= 7


def test_the_colours_of_paper_are_those_of_the_page() -> None:
    style = (ROOT / "classify/report/page/style/base.css").read_text()
    light = dict(re.findall(r"--([\w-]+): (#\w{6})", style[: style.index("@media")]))
    names = ["ink", "muted", "grid", "train", "held", "bad", "card", *(f"s{i}" for i in range(8))]
    assert [light[name] for name in names] == list(PAPER.values())


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib

    plain = to_pdf_file(DRAWINGS["roc"])
    own: Any = {"font.size": 30, "pdf.fonttype": 3, "pdf.compression": 6, "axes.grid": False}
    with matplotlib.rc_context(own):
        assert to_pdf_file(DRAWINGS["roc"]) == plain


def test_numbers_are_those_of_the_drawing(tmp_path: Path) -> None:
    names = write_figures(tmp_path / "figures", [DRAWINGS["sizes"]])
    assert names == ["sizes.svg", "sizes.pdf"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(names)
    figure = make_figure(DRAWINGS["sizes"])
    (line,) = figure.findobj(lambda artist: artist.get_label() == "_child1")
    assert line.get_data()[0].tolist() == [10, 20, 40]
    streams = re.findall(rb"stream\r?\n(.*?)endstream", to_pdf_file(DRAWINGS["sizes"]), re.DOTALL)
    assert any(b"Tf" in zlib.decompress(s) for s in streams if s[:1] == b"x")


def store_of(make_store: MakeStore) -> Path:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = (generator.normal(size=(90, 6)) + 2 * np.eye(6)[y]).astype(np.float32)
    return make_store(X, y.tolist(), (np.arange(90) // 3 % 2).tolist(), class_names=("a", "b", "c"))


def test_figures_belong_to_the_folder_of_a_head(make_store: MakeStore, tmp_path: Path) -> None:
    store, out = store_of(make_store), tmp_path / "out"
    given: dict[str, Any] = {"output": out, "quiet": True, "sweep": "logistic.C=0.01,0.1,1"}
    train_heads(store, **given, figures=True)
    names = {path.name for path in (out / "figures").iterdir()}
    recorded = json.loads((out / "result.json").read_text())["figures"]
    assert names == set(recorded)
    kinds = {"confusion", "roc", "calibration", "sweep0", "seconds", "leaderboard", "map_pca"}
    assert kinds <= {Path(name).stem for name in names}
    assert {Path(name).suffix for name in names} == {".svg", ".pdf"}
    # A file of somebody else is never replaced.
    (out / "figures/mine.svg").write_text("drawn by hand", newline="\n")
    with pytest.raises(HeadError, match=r"figures: found mine.svg; expected only figures"):
        train_heads(store, **given)
    assert (out / "figures/mine.svg").read_text() == "drawn by hand"
    (out / "figures/mine.svg").unlink()
    train_heads(store, **given)
    assert not (out / "figures").exists()
    assert json.loads((out / "result.json").read_text())["figures"] == []
