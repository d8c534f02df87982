"""Figures that stand alone: files for papers in SVG and PDF, and figures of Matplotlib.

On the page the style sheet colours a figure, and the text next to it explains its lines. Here a
figure has the colours of paper and a legend of its own.
"""

import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classify.figures.drawing import (
    PAPER,
    SCREEN_TEXT,
    STYLE,
    Drawing,
    LegendItem,
    short_name,
    text_width,
)
from extract.display.figure import load_matplotlib, new_figure, quiet

# Points of the text on paper, and of a line of a legend.
PAPER_TEXT, _LEGEND_LINE = 8.0, 1.5
_MOST_CHARACTERS = 40
_PARTS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
# All that XML 1.0 cannot contain. Source: https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_figures(folder: Path, drawings: Iterable[Drawing]) -> list[str]:
    """Write figures as SVG and PDF with text of 8 points; the same numbers give the same bytes.

    Args:
        folder: A folder to make.
        drawings: The figures.

    Returns:
        The names of the files.
    """
    folder.mkdir()
    names = []
    for drawing in drawings:
        for ending, content in (("svg", to_svg_file), ("pdf", to_pdf_file)):
            names.append(f"{drawing.name}.{ending}")
            (folder / names[-1]).write_bytes(content(drawing))
    return names


def to_svg_file(drawing: Drawing) -> bytes:
    """Return a figure as an SVG file. Its text stays text, in a sans-serif font of the viewer."""
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    text = _save(drawing, "svg", metadata).decode("utf-8", "surrogatepass")
    text = re.sub(r"'DejaVu Sans', sans-serif|DejaVu Sans, sans-serif", "sans-serif", text)
    title = f"<title>{html.escape(drawing.label)}</title>"
    text = re.sub(r"<svg[^>]*>", lambda tag: tag[0] + "\n " + title, text, count=1)
    return _NOT_XML.sub("\ufffd", text).encode()


def to_pdf_file(drawing: Drawing) -> bytes:
    """Return a figure as a PDF file with embedded TrueType fonts."""
    metadata = {"CreationDate": None, "Producer": None, "Creator": None, "Title": drawing.label}
    return _save(drawing, "pdf", metadata)


def _save(drawing: Drawing, kind: str, metadata: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with _style(PAPER_TEXT / drawing.text):
        make_figure(drawing, PAPER_TEXT).savefig(out, format=kind, metadata=metadata)
    return out.getvalue()


def make_figure(drawing: Drawing, text: float = SCREEN_TEXT) -> Any:
    """Return a figure of Matplotlib, which a notebook shows; pyplot is not needed.

    Args:
        drawing: The figure.
        text: Points of its text; all of it is scaled to this.
    """
    scale = text / drawing.text
    with _style(scale):
        width, height = (scale * side for side in drawing.size)
        legend_names, columns = _arrange_legend(drawing.legend, text, 72 * width)
        rows = -(-len(legend_names) // columns)
        legend = (rows + 0.4) * _LEGEND_LINE * text / 72 if rows else 0.0
        figure = new_figure((width, height + legend))
        upper, lower = figure, None
        if rows:
            upper, lower = figure.subfigures(2, 1, height_ratios=(height, legend), hspace=0)
        drawing.draw(upper)
        if lower:
            _add_legend(lower, legend_names, drawing.legend, columns)
        figure.draw_without_rendering()  # makes ticks
        _paint(figure)
        _resize(figure, text, scale)
    return figure


@contextmanager
def _style(scale: float) -> Iterator[None]:
    """Draw in the style of the report's figures, in the colours of paper."""
    matplotlib = load_matplotlib()
    own = matplotlib.rc_params_from_file(STYLE, use_default_template=False)
    own = {name: PAPER.get(f"#{value}", value) for name, value in own.items()}
    own["font.size"] = SCREEN_TEXT * scale
    own |= {"pdf.fonttype": 42, "svg.hashsalt": "headstart", "lines.linewidth": 1.8 * scale}
    with matplotlib.rc_context(own), quiet():
        yield


def _arrange_legend(
    legend: Sequence[LegendItem], text: float, width: float
) -> tuple[list[str], int]:
    """Return the names of a legend and its columns, which fit into a width in points."""
    if not legend:
        return [], 1
    handle = 4.5 * text
    for most in range(_MOST_CHARACTERS, 0, -4):
        names = [short_name(item.name, most) for item in legend]
        longest = 72 * text_width(names, text)
        if longest + handle < width:
            break
    return names, min(len(names), max(1, int((width - 2 * text) // (longest + handle))))


def _add_legend(
    figure: Any, names: Sequence[str], legend: Sequence[LegendItem], columns: int
) -> None:
    """Draw the lines of a legend under a figure."""
    from matplotlib.lines import Line2D

    lines = []
    for name, (_, colour, style, hollow) in zip(names, legend, strict=True):
        marker = style.strip("-") or None
        line: Any = "none" if "-" not in style else "--" if "--" in style else "-"
        lines.append(Line2D([], [], color=colour, marker=marker, linestyle=line, label=name))
        if hollow:
            lines[-1].set_markerfacecolor("none")
    place = {"loc": "upper center", "borderpad": 0, "borderaxespad": 0, "columnspacing": 1.2}
    handle = 1.8 if any(item.style for item in legend) else 0
    figure.legend(handles=lines, ncols=columns, frameon=False, handlelength=handle, **place)


def _paint(figure: Any) -> None:
    """Give all parts of a figure the colours of paper in place of placeholders."""
    from matplotlib.colors import to_rgb, to_rgba_array

    known = {_digits(to_rgb(name)): to_rgb(real) for name, real in PAPER.items()}
    artists = figure.findobj()
    boxes = (part.get_bbox_patch() for part in artists if hasattr(part, "get_bbox_patch"))
    for artist in [*artists, *filter(None, boxes)]:
        for part in _PARTS:
            read, write = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            if not (read and write):
                continue
            colours = to_rgba_array(read())
            changed = [known.get(_digits(colour), colour[:3]) for colour in colours]
            if any(_digits(new) != _digits(old) for new, old in zip(changed, colours, strict=True)):
                painted = [(*n[:3], o[3]) for n, o in zip(changed, colours, strict=True)]
                write(painted if len(painted) > 1 else painted[0])


def _digits(colour: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colour[:3])


def _resize(figure: Any, size: float, scale: float) -> None:
    """Scale text, lines and markers that have a size of their own."""
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    usual = SCREEN_TEXT * scale
    for text in figure.findobj(Text):
        is_usual = abs(text.get_fontsize() - usual) < 0.01
        text.set_fontsize(size if is_usual else scale * text.get_fontsize())
    for line in figure.findobj(Line2D):
        line.set_markersize(scale * line.get_markersize())
        line.set_markeredgewidth(scale * line.get_markeredgewidth())
