"""Figures as SVG inside the report, in the colours of the page.

A figure is drawn in placeholder colours, which become CSS custom properties: one drawing serves
light mode, dark mode and paper. Text stays text. The same numbers give the same bytes.
"""

import html
import re
import warnings
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

# Placeholder colours, also in the style sheet, and the custom properties that replace them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAIN, HELD, BAD = "#040404", "#050505", "#060606"
SERIES = tuple(f"#0a0a{i:02x}" for i in range(10))
_NAMES = ("ink", "muted", "grid", "train", "held", "bad", *(f"s{i}" for i in range(10)))
_COLOURS = dict(zip((INK, MUTED, GRID, TRAIN, HELD, BAD, *SERIES), _NAMES, strict=True))
_STYLE = Path(__file__).with_name("page") / "figures.mplstyle"


def draw_svg(name: str, label: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw a figure in the style of the report and return it as SVG.

    Args:
        name: Prefix of its identifiers, which no other figure of the page has.
        label: Description for screen readers.
        size: Width and height in inches of 72 units.
        draw: Function that draws on the figure.
    """
    import matplotlib

    out = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "headstart"}, _STYLE), warnings.catch_warnings():
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
