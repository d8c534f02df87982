"""Figures as SVG for the page, each under a name that is unique on it.

A figure is drawn in placeholder colours, which become CSS custom properties: one drawing serves
light mode, dark mode and paper. Text stays text. The same numbers give the same bytes.
"""

import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.display.figure import load_matplotlib, new_figure, quiet

# Placeholder colours, also in the style sheet, and the custom properties that replace them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAIN, HELD, BAD = "#040404", "#050505", "#060606"
CARD = "#070707"  # the ground of a figure
SERIES = tuple(f"#0a0a{i:02x}" for i in range(8))
_NAMES = ("ink", "muted", "grid", "train", "held", "bad", "card", *(f"s{i}" for i in range(8)))
_COLOURS = dict(zip((INK, MUTED, GRID, TRAIN, HELD, BAD, CARD, *SERIES), _NAMES, strict=True))
# The colours of the page in light mode, for paper and notebooks.
_LIGHT = (
    *("#1a1e24", "#59636f", "#e9ecef", "#c0620a", "#1d5fbf", "#c8321f", "#ffffff"),
    *("#1d5fbf", "#d1620a", "#00998f", "#5c005c"),
    *("#ad7a52", "#8f85c2", "#003d29", "#474700"),
)
PAPER = dict(zip(_COLOURS, _LIGHT, strict=True))
STYLE = Path(__file__).with_name("figures.mplstyle")


# Points of the text on the page, where a unit is a pixel; boxes of ``add_axes`` are for this size.
SCREEN_TEXT = 11.0


class LegendItem(NamedTuple):
    """A line of a figure's legend, on paper and in notebooks: the page writes its own.

    Attributes:
        name: What it explains.
        colour: Its placeholder colour.
        style: Marker and line in matplotlib's short form, such as ``o-``.
        hollow: Whether the marker is not filled.
    """

    name: str
    colour: str
    style: str = "-"
    hollow: bool = False


class Drawing(NamedTuple):
    """A figure that can be drawn: on the page, on paper, in a notebook.

    Attributes:
        name: Its name, and the prefix of its identifiers; no other figure of a report has it.
        label: Description for screen readers.
        size: Width and height in inches of 72 units.
        draw: Function that draws on a matplotlib figure.
        legend: What colours and lines stand for, where the page says so next to the figure.
        text: Points of its text.
    """

    name: str
    label: str
    size: tuple[float, float]
    draw: Callable[[Any], None]
    legend: tuple[LegendItem, ...] = ()
    text: float = SCREEN_TEXT


def to_svg(drawing: Drawing, scale: float = 1.25) -> str:
    """Return a figure as SVG for the page, at most ``scale`` times as wide as on paper.

    Its attribute ``data-axes`` has, for each pair of axes, left, top, width and height in units of
    the SVG, and the limits of x and y: so a script finds the place of a value.
    """
    out = StringIO()
    with load_matplotlib().rc_context({"svg.hashsalt": "headstart"}, STYLE), quiet():
        figure = new_figure(drawing.size)
        drawing.draw(figure)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    width, height = (f"{round(72 * side, 1):g}" for side in drawing.size)
    axes = json.dumps([_place(axes, drawing.size) for axes in figure.axes])
    opening = (
        f'<svg viewBox="0 0 {width} {height}" width="{scale * 72 * drawing.size[0]:g}" role="img" '
        f'stroke-linejoin="round" stroke-linecap="butt" '
        f'aria-label="{html.escape(drawing.label)}" data-axes="{axes}">'
    )
    # Matplotlib's own style would apply to the whole page, and no digest allows it.
    text = re.sub(r"<style.*?</style>", "", out.getvalue(), flags=re.DOTALL)
    text = re.sub(r"^.*?<svg[^>]*>", lambda _: opening, text.rstrip(), count=1, flags=re.DOTALL)
    # Only tags are changed: a class may be called "#010101", and text has no brackets.
    return re.sub(r"<[^>]+>", lambda tag: _adapt(tag[0], drawing.name), text)


def _place(axes: Any, size: tuple[float, float]) -> list[float]:
    """Return the place of axes in units of the SVG, from the top left, and their limits."""
    box, (width, height) = axes.get_position(), (72 * side for side in size)
    place = box.x0 * width, (1 - box.y1) * height, box.width * width, box.height * height
    return [float(f"{n:.6g}") for n in (*place, *axes.get_xlim(), *axes.get_ylim())]


def _adapt(tag: str, name: str) -> str:
    """Give a tag the colours of the page, a prefix for its identifiers and two decimals."""
    tag = re.sub(r' style="([^"]*)"', lambda style: _to_attributes(style[1]), tag)
    if "base64," in tag:
        return tag.replace(' id="', f' id="{name}-')
    tag = re.sub(
        r"#0\w{5}\b", lambda c: f"var(--{_COLOURS[c[0]]})" if c[0] in _COLOURS else c[0], tag
    )
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", tag)


def _to_attributes(style: str) -> str:
    """Return declarations as attributes, which the page's Content-Security-Policy allows.

    The font is that of the page.
    """
    declarations = (declaration.partition(":") for declaration in style.split(";"))
    values = {name.strip(): value.strip() for name, _, value in declarations}
    values.pop("font-family", None)
    return "".join(f' {name}="{value}"' for name, value in values.items() if name)


def add_axes(figure: Any, box: Sequence[float], **settings: Any) -> Any:
    """Add axes at (left, bottom, right, top) inches from the sides of a figure or subfigure.

    The inches are those of the page; where the text is smaller, so are they.
    """
    width, height = figure.bbox.size / figure.dpi
    scale = load_matplotlib().rcParams["font.size"] / SCREEN_TEXT
    left, bottom, right, top = (scale * side for side in box)
    size = (1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure.add_axes((left / width, bottom / height, *size), **settings)


def text_width(texts: Iterable[str], size: float = SCREEN_TEXT) -> float:
    """Return the width in inches of the widest text, hinted for pixels."""
    load_matplotlib()
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    with quiet():
        return 1.05 * max(
            float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72
            for text in texts
        )


def short_name(text: str, most: int = 22) -> str:
    """Return a name in one line that fits into a figure."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def use_plain_numbers(of: Any) -> None:
    """Write the numbers of a logarithmic x axis without powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = of.axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 60 else (1.0,)
    of.set_major_locator(LogLocator(subs=subs, numticks=7))
    of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    of.set_minor_formatter(NullFormatter())


def write_ranks(axes: Any, x: NDArray[np.float64], y: NDArray[np.float64], ranks: Any) -> None:
    """Write ranks next to points, moved up and down until they do not touch."""
    inches = axes.figure.dpi / 72
    points = axes.transData.transform(np.stack([x, y], 1)) / inches
    low, high = axes.get_window_extent().intervaly / inches
    line, width = 13.0, 16.0
    taken: list[tuple[float, float]] = []
    for rank, (left, level), at in zip(ranks, points, zip(x, y, strict=True), strict=True):
        steps = sorted(range(-12, 13), key=lambda step: (abs(step), -step))
        free = (
            step * line / 2
            for step in steps
            if low <= level + step * line / 2 <= high - 4
            and all(
                abs(left - a) >= width or abs(level + step * line / 2 - b) >= line for a, b in taken
            )
        )
        shift = next(free, 0.0)
        taken.append((left, level + shift))
        axes.annotate(
            str(rank), at, (8, shift), textcoords="offset points", va="center", annotation_clip=True
        )
