"""The figures of the report as SVG, each under a name that is unique on the page.

A figure is drawn in placeholder colours, which become CSS custom properties: one drawing serves
light mode, dark mode and paper. Text stays text. The same numbers give the same bytes.
"""

import html
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.report.analysis import TrainingSize
from classify.report.curves import Curve
from classify.report.diagnostics import CalibrationBin
from classify.report.projection import FeatureMap

# Placeholder colours, also in the style sheet, and the custom properties that replace them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAIN, HELD, BAD = "#040404", "#050505", "#060606"
SERIES = tuple(f"#0a0a{i:02x}" for i in range(10))
_NAMES = ("ink", "muted", "grid", "train", "held", "bad", *(f"s{i}" for i in range(10)))
_COLOURS = dict(zip((INK, MUTED, GRID, TRAIN, HELD, BAD, *SERIES), _NAMES, strict=True))
_STYLE = Path(__file__).with_name("page") / "figures.mplstyle"
# A confusion matrix of more classes has no numbers in its cells, no class names, or one cell for
# several classes.
_MOST_NUMBERS, _MOST_NAMES, MOST_CELLS = 15, 60, 500
_RIGHT, _WRONG = (37, 99, 235), (214, 60, 40)
MARKERS = ("o", "^")
# More mistakes than this have lighter rings, so that the points stay visible.
_MANY_RINGS = 60


def draw_learning(name: str, history: dict[str, list[float]], limits: tuple[float, float]) -> str:
    """Draw training and validation accuracy over loss, by epoch.

    Args:
        name: The name of the figure.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch.
        limits: Lowest accuracy and highest loss of all figures that are compared.
    """
    load_matplotlib()
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, len(history["loss"]) + 1)
    marker = "o" if len(epochs) < 4 else ""

    def draw(figure: Any) -> None:
        upper = add_axes(figure, (0.5, 2.0, 0.1, 0.1), ylabel="accuracy")
        lower = add_axes(figure, (0.5, 0.45, 0.1, 2.1), xlabel="epoch", ylabel="loss")
        for axes, curve in ((upper, "accuracy"), (lower, "loss")):
            training, validation = history[curve], history[f"val_{curve}"]
            axes.fill_between(epochs, training, validation, color=HELD, alpha=0.1, linewidth=0)
            axes.plot(epochs, training, "--", color=TRAIN, marker=marker, markersize=4)
            axes.plot(epochs, validation, color=HELD, marker=marker, markersize=4)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        upper.set_ylim(min(0.5, math.floor(limits[0] * 10) / 10), 1.02)
        upper.tick_params(labelbottom=False)
        best = int(np.argmin(history["val_loss"]))
        lower.plot(epochs[best], history["val_loss"][best], "o", color=HELD, markersize=5)
        lower.set_ylim(0, limits[1] * 1.05)

    return draw_svg(name, "training and validation accuracy and loss by epoch", (4.4, 3.9), draw)


def draw_confusion(name: str, confusion: Any, class_names: Sequence[str]) -> str:
    """Draw a confusion matrix: correct cells blue, wrong ones red, by their share of the class.

    Args:
        name: The name of the figure.
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        class_names: K names. Of more than ``MOST_CELLS`` a cell stands for as many neighbours as
            ``cell_width`` returns, and one on the diagonal for their correct predictions.
    """
    confusion = _merge_cells(confusion.tocoo(), cell_width(len(class_names)))
    K = len(confusion)
    numbered, named = K <= _MOST_NUMBERS, K <= _MOST_NAMES
    font = 9.5 if numbered else 8.0 if K <= 30 else 6.5
    cell = (0.6 if K <= 4 else 0.45) if numbered else 0.2 if K <= 30 else 0.14
    names = [_shorten(text) for text in class_names]
    margin = 0.35 + (font * 0.0082 * max(map(len, names)) if named else 0.1)
    side = margin + (K * cell if named else 5.5) + 0.1
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((K, K, 4), np.uint8)
    pixels[..., :3] = np.where(np.eye(K, dtype=bool)[..., None], _RIGHT, _WRONG)
    # The square root makes one image in fifty visible.
    pixels[..., 3] = np.where(confusion > 0, 30 + 150 * np.sqrt(share), 0).astype(np.uint8)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (margin, 0.1, 0.1, margin))
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("predicted class", color=MUTED)
        axes.set_ylabel("true class", color=MUTED)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(top=False, labeltop=named, labelbottom=False, labelleft=named, pad=2)
        ticks, labels = (range(K), names) if named else ([], [])
        axes.set_xticks(ticks, labels, fontsize=font, rotation=90, color=INK)
        axes.set_yticks(ticks, labels, fontsize=font, color=INK)
        lines = np.arange(K + 1) - 0.5 if named else np.array([-0.5, K - 0.5])
        axes.hlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.vlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.set(xlim=(-0.5, K - 0.5), ylim=(K - 0.5, -0.5))
        for row, column in np.argwhere(confusion) if numbered else ():
            count = str(confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", fontsize=font)

    return draw_svg(name, "confusion matrix, true classes by predictions", (side, side), draw)


def cell_width(classes: int) -> int:
    """Return how many neighbouring classes a cell of a confusion matrix stands for."""
    return math.ceil(classes / MOST_CELLS)


def _merge_cells(cells: Any, width: int) -> NDArray[np.int64]:
    """Add up squares of a confusion matrix; mistakes between neighbours are left out."""
    side = math.ceil(cells.shape[0] / width)
    row, column = cells.row // width, cells.col // width
    kept = (row != column) | (cells.row == cells.col)
    merged = np.zeros((side, side), np.int64)
    np.add.at(merged, (row[kept], column[kept]), cells.data[kept])
    return merged


def _shorten(name: str) -> str:
    """Return a name in one line that fits next to an axis."""
    name = " ".join(name.split())
    return name if len(name) <= 22 else f"{name[:21]}…"


def draw_curves(name: str, curves: Sequence[Curve], labels: tuple[str, str]) -> str:
    """Draw curves in the unit square: the first in ink, the others in the series' colours.

    Accuracy begins at its lowest value: differences near 1 matter.
    """
    lowest = min(curves[0].y) - 0.05 if labels[1] == "accuracy" else 0

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.5, 0.45, 0.1, 0.1), xlabel=labels[0], ylabel=labels[1])
        axes.set(xlim=(-0.01, 1.01), ylim=(max(0, lowest), 1.02))
        for i, curve in reversed(list(enumerate(curves))):
            colour = SERIES[i - 1] if i else INK
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.3 if i else 2.2)
        if labels[0].startswith("false"):
            axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)

    return draw_svg(name, f"{labels[1]} against {labels[0]}", (4.0, 3.6), draw)


def draw_calibration(name: str, bins: Sequence[CalibrationBin]) -> str:
    """Draw accuracy and its interval against the score, over the number of images."""
    x = np.array([part.score for part in bins])
    value, low, high = np.array([part.accuracy for part in bins], np.float64).T

    def draw(figure: Any) -> None:
        upper = add_axes(figure, (0.5, 1.15, 0.1, 0.1), ylabel="accuracy")
        lower = add_axes(figure, (0.5, 0.45, 0.1, 2.65), xlabel="score of the predicted class")
        upper.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)
        # Rounding may put an end of an interval on the wrong side of the accuracy.
        ends = np.nan_to_num(np.maximum([value - low, high - value], 0))
        upper.errorbar(x, value, ends, fmt="o-", color=HELD, markersize=5, elinewidth=1.2)
        lower.bar(x, [part.rows for part in bins], 0.06, color=HELD, alpha=0.4)
        lower.locator_params(axis="y", nbins=2)
        upper.tick_params(labelbottom=False)
        upper.set(xlim=(-0.01, 1.03), ylim=(0, 1.03))
        lower.set(xlim=(-0.01, 1.03), ylabel="images")

    return draw_svg(name, "accuracy against the score of the predicted class", (4.0, 3.6), draw)


def draw_sizes(name: str, sizes: Sequence[TrainingSize], metric: str) -> str:
    """Draw a metric and its interval against the number of training images, fewest first."""
    x = [size.rows for size in sizes]
    value, low, high = np.array([size.score for size in sizes], np.float64).T

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.5, 0.45, 0.2, 0.1), xlabel="training images", ylabel=metric)
        axes.set_xscale("log", base=2)
        axes.fill_between(x, low, high, color=HELD, alpha=0.14, linewidth=0)
        axes.plot(x, value, "o-", color=HELD, markersize=5)
        axes.set_xticks(x, [str(rows) for rows in x])
        axes.minorticks_off()
        lowest = max(0, float(np.nanmin([*value, *low])) - 0.05)
        axes.set_ylim((0, None) if metric == "loss" else (lowest, 1.02))

    return draw_svg(name, f"{metric} against the number of training images", (4.4, 3.0), draw)


def draw_map(
    name: str,
    feature_map: FeatureMap,
    y: NDArray[np.int64],
    styles: Mapping[int, int],
    wrong_rows: NDArray[np.int64],
) -> str:
    """Draw images by their features, in the colour and the marker of their class.

    Args:
        name: The name of the figure.
        feature_map: The positions of some images.
        y: (N,) classes of all images.
        styles: Class -> number of its colour and marker; all others are grey.
        wrong_rows: Rows of the images that are classified wrongly.
    """
    numbers = np.array([styles.get(label, -1) for label in y[feature_map.rows].tolist()])
    wrong = np.isin(feature_map.rows, wrong_rows)
    size = 4.5 if len(numbers) < 400 else 3.2
    light = {"mew": 0.7, "markersize": size + 2, "alpha": 0.5}
    ring = light if wrong.sum() > _MANY_RINGS else {"mew": 1, "markersize": size + 4}

    def draw(figure: Any) -> None:
        shares = [f"{100 * share:.0f} % of the variance" for share in feature_map.explained or ()]
        x_label, y_label = shares or ("", "")
        axes = add_axes(figure, (0.3, 0.3, 0.05, 0.05), xlabel=x_label, ylabel=y_label)
        for number in np.unique(numbers):
            colour = MUTED if number < 0 else SERIES[number % len(SERIES)]
            marker = "." if number < 0 else MARKERS[number // len(SERIES)]
            points = feature_map.points[numbers == number].T
            axes.plot(*points, marker, color=colour, alpha=0.7, markersize=size, mew=0)
        axes.plot(*feature_map.points[wrong].T, "o", mfc="none", mec=BAD, **ring)
        axes.set(xticks=[], yticks=[])

    label = f"map of the features by {feature_map.method}, coloured by class"
    return draw_svg(name, label, (5.6, 4.4), draw)


def draw_svg(name: str, label: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw a figure in the style of the report and return it as SVG.

    Args:
        name: Prefix of its identifiers, which no other figure of the page has.
        label: Description for screen readers.
        size: Width and height in inches of 72 units.
        draw: Function that draws on the figure.
    """
    out = StringIO()
    with (
        load_matplotlib().rc_context({"svg.hashsalt": "headstart"}, _STYLE),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph ")  # the browser has more fonts
        from matplotlib.figure import Figure  # pyplot would look for a screen

        figure = Figure(figsize=size)
        draw(figure)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    width, height = (f"{round(72 * side, 1):g}" for side in size)
    opening = (
        f'<svg viewBox="0 0 {width} {height}" style="--width: {width}px" role="img" '
        f'aria-label="{html.escape(label)}">'
    )
    # Matplotlib's own style would apply to the whole page.
    text = re.sub(r"<style.*?</style>", "", out.getvalue(), flags=re.DOTALL)
    text = re.sub(r"^.*?<svg[^>]*>", lambda _: opening, text.rstrip(), count=1, flags=re.DOTALL)
    # Only tags are changed: a class may be called "#010101", and text has no brackets.
    return re.sub(r"<[^>]+>", lambda tag: _adapt(tag[0], name), text)


def load_matplotlib() -> Any:
    """Import matplotlib, also where MPLBACKEND is no backend that it knows: none is needed."""
    named = os.environ.pop("MPLBACKEND", "")
    is_new = "matplotlib" not in sys.modules
    import matplotlib

    if named:
        os.environ["MPLBACKEND"] = named
        with suppress(ValueError):
            matplotlib.rcParams.update({"backend": named} if is_new else {})
    return matplotlib


def _adapt(tag: str, name: str) -> str:
    """Give a tag the colours of the page, a prefix for its identifiers and two decimals."""
    if "base64," in tag:
        return tag.replace(' id="', f' id="{name}-')
    tag = re.sub(
        r"#0\w{5}\b", lambda c: f"var(--{_COLOURS[c[0]]})" if c[0] in _COLOURS else c[0], tag
    )
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", tag)


def add_axes(figure: Any, box: Sequence[float], **settings: Any) -> Any:
    """Add axes at (left, bottom, right, top) inches from the sides of the figure."""
    width, height = figure.get_size_inches()
    left, bottom, right, top = box
    size = (1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure.add_axes((left / width, bottom / height, *size), **settings)
