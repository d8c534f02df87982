"""Numbers -> figures as SVG inside a page, whose colours the page decides.

Figures are drawn in placeholder colours, which become CSS custom properties: one drawing serves
light, dark and paper. Text stays text. The same numbers give the same bytes.
"""

import html
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

# Placeholder -> the custom property that takes its place.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAIN, HELD, BAD = "#040404", "#050505", "#060606"
SERIES = tuple(f"#0a0a{i:02x}" for i in range(10))
_COLOURS = {
    **{INK: "ink", MUTED: "muted", GRID: "grid", TRAIN: "train", HELD: "held", BAD: "bad"},
    **{colour: f"s{i}" for i, colour in enumerate(SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstart",
    "text.parse_math": False,  # a class may be called $5
    "font.size": 9.5,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@contextmanager
def _styled() -> Iterator[None]:
    """Draw in our style whatever the user's own is, and never mind what glyphs a font lacks."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def draw_svg(name: str, label: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw a figure and return it as SVG.

    Args:
        name: Sets its identifiers apart from those of other figures on the page.
        label: What it shows, for those who cannot see it.
        size: Width and height in inches of 72 units.
        draw: What draws on the figure.
    """
    with _styled():
        from matplotlib.figure import Figure  # not pyplot: that would look for a screen

        figure = Figure(figsize=size)
        draw(figure)
        out = StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :].rstrip()
    # It would hold for the whole page, whose own style says the same.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    # Only tags are changed: text, in which a name may be "#010101", has no brackets.
    text = re.sub(r"<[^>]+>", lambda tag: _adapt(tag[0], name), text)
    width, height = (round(72 * side, 1) for side in size)
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="--width: {width:g}px" role="img" '
        f'aria-label="{html.escape(label)}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opening, text)


def _adapt(tag: str, name: str) -> str:
    """Give a tag the page's colours and identifiers of its own, and no needless decimals."""
    if "base64," in tag:
        return tag.replace(' id="', f' id="{name}-')
    tag = re.sub(
        r"#0\w{5}\b", lambda c: f"var(--{_COLOURS[c[0]]})" if c[0] in _COLOURS else c[0], tag
    )
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", tag)


def add_axes(figure: Any, box: Sequence[float], **settings: Any) -> Any:
    """Add axes at (left, bottom, right, top) inches from the figure's sides."""
    width, height = figure.get_size_inches()
    left, bottom, right, top = box
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - bottom - top) / height,
        ),
        **settings,
    )
