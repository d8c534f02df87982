"""Figures of the settings that vary among the candidates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.diagnosis.sweeps import CATEGORY, LOG, Axis, Sweep, find_sweeps, value_text
from classify.figures.candidates import (
    RING,
    WIDTH,
    draw_leaderboard,
    draw_seconds,
    draw_whiskers,
    limits_of,
    scores_of,
)
from classify.figures.drawing import (
    CARD,
    HELD,
    INK,
    MUTED,
    SERIES,
    Drawing,
    LegendItem,
    add_axes,
    short_name,
    text_width,
    use_plain_numbers,
)
from classify.search.leaderboard import Result
from classify.search.ranking import Entry

# More cells of a heat map have no numbers, and more figures would make the page hard to read.
_MOST_CELLS, MOST_SWEEPS = 12, 8
# A heat map of fewer candidates than this share of its cells is mostly empty.
_FEWEST_CELLS = 0.25
# Inches that a card of the page holds.
_CARD = 3.9


def draw_candidates(result: Result, metric: str) -> list[Drawing]:
    """Draw every sweep, from three candidates on their seconds, and the leaderboard.

    Args:
        result: The result of the run.
        metric: The name of the metric that ranks, for people.
    """
    entries = result.entries
    sweeps = find_sweeps(entries)[:MOST_SWEEPS]
    drawings = [_draw_sweep(f"sweep{i}", sweep, result, metric) for i, sweep in enumerate(sweeps)]
    if len(entries) > 2:
        drawings.append(draw_seconds("seconds", entries, result.metric, metric))
    return [*drawings, draw_leaderboard("leaderboard", result, metric)]


def kind_of(sweep: Sweep) -> str:
    """Return how a sweep is drawn: as ``lines``, as a ``heat map``, or as ``parallel`` axes."""
    if len(sweep.axes) == 1:
        return "lines"
    if len(sweep.axes) == 2:
        cells = math.prod(len(axis.values) for axis in sweep.axes)
        small = max(len(axis.values) for axis in sweep.axes) <= _MOST_CELLS
        if small or len(sweep.places) >= _FEWEST_CELLS * cells:
            return "heat map"
    return "parallel"


def _draw_sweep(name: str, sweep: Sweep, result: Result, metric: str) -> Drawing:
    draw = {"lines": draw_lines, "heat map": draw_heat_map, "parallel": draw_parallel}
    return draw[kind_of(sweep)](name, sweep, result.entries, result.metric, metric)


def draw_lines(name: str, sweep: Sweep, entries: Sequence[Entry], key: str, metric: str) -> Drawing:
    """Draw a metric and its interval against the setting that varies, a line for each head."""
    axis = sweep.axes[0]
    lines = {
        head: [entries[place] for place in sweep.places if entries[place].spec.head == head]
        for head in sweep.heads
    }
    widest = text_width(short_name(value_text(value)) for value in axis.values)
    tilted = axis.scale == CATEGORY and widest * len(axis.values) > WIDTH - 1
    bottom = 0.5 if not tilted else 0.45 + widest

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.7, bottom, 0.25, 0.12), ylabel=metric)
        axes.set_xlabel(axis.setting.replace("_", " "))
        _scale(axes.xaxis, axis, tilted)
        for number, members in enumerate(lines.values()):
            members.sort(key=lambda entry: axis.position(getattr(entry.spec, axis.setting)))
            x = [axis.position(getattr(entry.spec, axis.setting)) for entry in members]
            colour = SERIES[number % len(SERIES)]
            draw_whiskers(axes, np.array(x), members, key, colour)
            axes.plot(
                x,
                scores_of(members, key),
                "o-",
                color=colour,
                markersize=4.5,
                linewidth=1.4,
                clip_on=False,
            )
        best = entries[sweep.places[0]]
        axes.plot(axis.position(getattr(best.spec, axis.setting)), best.scores[key], "o", **RING)
        axes.set_ylim(*limits_of([entries[place] for place in sweep.places], key))

    label = f"{metric} and its interval against {axis.setting.replace('_', ' ')}"
    colours = zip(lines, [SERIES[i % len(SERIES)] for i in range(len(lines))], strict=True)
    legend = tuple(LegendItem(head, colour, "o-") for head, colour in colours)
    size = (WIDTH, 2.7 + bottom)
    return Drawing(name, label, size, draw, legend if len(lines) > 1 else ())


def draw_heat_map(
    name: str, sweep: Sweep, entries: Sequence[Entry], key: str, metric: str
) -> Drawing:
    """Draw a metric as cells over two settings, the better the darker; the best has a frame."""
    x, y = sweep.axes
    grid = np.full((len(y.values), len(x.values)), np.nan)
    for place in sweep.places:
        grid[_cell(entries[place], x, y)] = entries[place].scores[key]
    best = _cell(entries[sweep.places[0]], x, y)
    names = [[short_name(value_text(value)) for value in axis.values] for axis in (x, y)]
    numbered = max(grid.shape) <= _MOST_CELLS
    tilted = max(map(len, names[0])) > 4
    left = 0.45 + text_width(names[1])
    # Cells with numbers fill the width of other figures, but are at most squares of moderate size.
    share = (_CARD - left - 0.1) / grid.shape[1]
    width = min(max(share, 0.5), 0.9) if numbered else 0.24
    height = min(max(0.36, 0.7 * width), 2.4 / grid.shape[0]) if numbered else 0.36
    bottom = 0.4 + (text_width(names[0]) if tilted else 0.15)
    shades = _shades(grid, key)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (left, bottom, 0.1, 0.1))
        axes.set(xlabel=x.setting.replace("_", " "), ylabel=y.setting.replace("_", " "))
        axes.set_xticks(range(len(names[0])), names[0], rotation=90 if tilted else 0)
        axes.set_yticks(range(len(names[1])), names[1])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(~np.isnan(grid)):
            corner = (column - 0.5, row - 0.5)
            _add_cell(axes, corner, color=HELD, alpha=shades[row, column], linewidth=0)
            if numbered:
                text = f"{grid[row, column]:.3f}".removeprefix("0")
                axes.text(column, row, text, ha="center", va="center")
        frame = (best[1] - 0.5, best[0] - 0.5)
        _add_cell(axes, frame, fill=False, edgecolor=INK, linewidth=2, clip_on=False)
        axes.set(xlim=(-0.5, grid.shape[1] - 0.5), ylim=(-0.5, grid.shape[0] - 0.5))

    label = " ".join([metric, "by", " and ".join(a.setting.replace("_", " ") for a in (x, y))])
    size = (left + 0.1 + width * grid.shape[1], bottom + 0.1 + max(height, 0.36) * grid.shape[0])
    return Drawing(name, label, (max(size[0], 2.2), max(size[1], 1.9)), draw)


def draw_parallel(
    name: str, sweep: Sweep, entries: Sequence[Entry], key: str, metric: str
) -> Drawing:
    """Draw each candidate as a line over all settings to the metric, the better the darker."""
    chosen = [entries[place] for place in sweep.places]
    scores = scores_of(chosen, key)
    low, high = limits_of(chosen, key, whiskers=False)
    shades, last = _shades(scores, key), len(sweep.axes)
    x = np.arange(last + 1)
    box = {"facecolor": CARD, "alpha": 0.75, "linewidth": 0, "pad": 1}

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.4, 0.15, 0.6, 0.56))
        axes.axis("off")
        axes.vlines(x, 0, 1, color=MUTED, linewidth=0.8)
        for place in np.argsort(shades):  # the best lines lie on top
            spec = chosen[place].spec
            y = [a.share(getattr(spec, a.setting)) for a in sweep.axes]
            y.append((scores[place] - low) / (high - low))
            line = {"color": HELD, "alpha": shades[place] + 0.1, "linewidth": 1.4}
            best = {"color": INK, "linewidth": 2.2, "zorder": 3} if place == 0 else line
            axes.plot(x, y, **best)
        for number, axis in enumerate(sweep.axes):
            axes.text(number, 1.05, _wrapped(axis.setting), ha="center", va="bottom", color=MUTED)
            few = len(axis.values) <= 6
            for value in _spaced(axis, 0.07 if few else 0.24):
                text = value_text(value)[:10]
                axes.text(number + 0.06, axis.share(value), text, va="center", bbox=box)
        axes.text(last, 1.05, _wrapped(metric), ha="center", va="bottom", color=MUTED)
        for value in np.linspace(low, high, 5):
            axes.text(last + 0.06, (value - low) / (high - low), f"{value:.3f}", va="center")
        axes.set(xlim=(0, last), ylim=(0, 1))

    names = ", ".join(axis.setting.replace("_", " ") for axis in sweep.axes)
    return Drawing(name, f"{metric} by {names}", (last + 1.0, 3.4), draw)


def _shades(scores: NDArray[np.float64], key: str) -> NDArray[np.float64]:
    """Return an opacity for each score, the better the stronger; text on it stays legible.

    Scores far below the median do not make all others look the same.
    """
    good = -scores if key == "loss" else scores
    known = good[np.isfinite(good)]
    if not known.size or known.min() == known.max():
        return np.full(scores.shape, 0.25)
    middle, high = np.median(known), known.max()
    low = max(known.min(), middle - 3 * max(high - middle, 0.005))
    share = np.nan_to_num((good - low) / max(high - low, 1e-9))
    return np.asarray(0.06 + 0.44 * np.clip(share, 0, 1), np.float64)


def _cell(entry: Entry, x: Axis, y: Axis) -> tuple[int, int]:
    """Return the row and the column of a candidate in a heat map."""
    values = (getattr(entry.spec, axis.setting) for axis in (y, x))
    row, column = (axis.values.index(v) for axis, v in zip((y, x), values, strict=True))
    return row, column


def _add_cell(axes: Any, corner: tuple[float, float], **style: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, 1, 1, **style))


def _wrapped(setting: str) -> str:
    return setting.replace("_", "\n").replace(" ", "\n")


def _spaced(axis: Axis, least: float = 0.07) -> list[Any]:
    """Return the values of an axis whose texts do not touch each other."""
    kept: list[Any] = []
    for value in axis.values:
        if not kept or axis.share(value) - axis.share(kept[-1]) >= least:
            kept.append(value)
    return kept


def _scale(of: Any, axis: Axis, tilted: bool) -> None:
    """Give a matplotlib axis the scale and the ticks of a setting."""
    if axis.scale == LOG:
        of.axes.set_xscale("log")
        of.axes.set_xlim(axis.values[0] / 1.3, axis.values[-1] * 1.3)
        use_plain_numbers(of)
    if axis.scale == CATEGORY:
        texts = [short_name(value_text(value)) for value in axis.values]
        of.set_ticks(range(len(texts)), texts, rotation=90 if tilted else 0)
        of.axes.set_xlim(-0.4, len(texts) - 0.6)
    elif len(kept := _spaced(axis)) == len(axis.values) <= 8:
        texts = [value_text(value) for value in kept]
        of.set_ticks(kept, texts if sum(map(len, texts)) <= 36 else None)
