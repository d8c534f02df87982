"""Figures of all candidates: the metric against training seconds, and the leaderboard itself."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.figures.drawing import (
    HELD,
    INK,
    MUTED,
    Drawing,
    LegendItem,
    add_axes,
    short_name,
    text_width,
    use_plain_numbers,
    write_ranks,
)
from classify.search.leaderboard import Result
from classify.search.ranking import Baseline, Entry

# Inches; three figures of this width stand side by side on the page, and one on a phone.
WIDTH = 4.2
# The style of a ring around the candidate that comes first.
RING = {
    "mfc": "none",
    "mec": INK,
    "mew": 1.5,
    "markersize": 11,
    "linestyle": "none",
    "clip_on": False,
}
# More candidates have light whiskers; more named points and lines would make figures hard to read.
_MOST_WHISKERS, _MOST_NAMED, _MOST_LINES = 30, 6, 20


def draw_seconds(name: str, entries: Sequence[Entry], key: str, metric: str) -> Drawing:
    """Draw a metric and its interval against the training time; heads as good are named."""
    seconds = np.maximum([entry.evaluation.seconds for entry in entries], 1e-3)
    good = np.array([entry.as_good for entry in entries])
    named = name_heads(entries)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.7, 0.5, 0.15, 0.12), xlabel="training seconds", ylabel=metric)
        axes.set_xscale("log")
        limits = limits_of(entries, key)
        for chosen, colour, fill in ((~good, MUTED, "none"), (good, HELD, HELD)):
            members = [entry for entry, own in zip(entries, chosen, strict=True) if own]
            x, y = seconds[chosen], scores_of(members, key)
            draw_whiskers(axes, x, members, key, colour, many=len(entries))
            axes.plot(x, y, "o", mec=colour, mfc=fill, markersize=4.5, clip_on=False)
        axes.plot(seconds[0], entries[0].scores[key], "o", **RING)
        axes.set(xlim=(seconds.min() / 1.5, seconds.max() * 1.5), ylim=limits)
        use_plain_numbers(axes.xaxis)
        y = scores_of([entries[place] for place in named], key)
        write_ranks(axes, seconds[named], y, [place + 1 for place in named])

    names = (f"{place + 1}  {short_name(entries[place].label, 40)}" for place in named)
    legend = tuple(LegendItem(text, HELD, "") for text in names)
    return Drawing(name, f"{metric} against training seconds", (WIDTH, 3.2), draw, legend)


def name_heads(entries: Sequence[Entry]) -> list[int]:
    """Return the places of some heads as good as the best: the first ones, and the fastest."""
    places = [place for place, entry in enumerate(entries) if entry.as_good]
    fastest = sorted(places, key=lambda place: entries[place].evaluation.seconds)
    return sorted({*places[: _MOST_NAMED - 2], *fastest[:2]})


def draw_leaderboard(name: str, result: Result, metric: str) -> Drawing:
    """Draw the first candidates as dots with whiskers, best on top, and the baseline if near."""
    lines: list[Entry | Baseline] = [*result.entries[:_MOST_LINES]]
    low, high = limits_of(result.entries[:_MOST_LINES], result.metric)
    if baseline := result.baseline:
        score = baseline.scores[result.metric]
        if 2 * low - high < score < 2 * high - low:
            lines.append(baseline)
        else:
            metric += f"\nmost frequent class: {score:.3f}"
    names = [
        short_name(f"always {line.answer}" if isinstance(line, Baseline) else line.label, 44)
        for line in lines
    ]
    left = 0.15 + text_width(names)
    y = np.arange(len(lines))

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (left, 0.72, 0.2, 0.05), xlabel=metric)
        for place, line in enumerate(lines):
            good = isinstance(line, Entry) and line.as_good
            colour = HELD if good else MUTED
            if line.low is not None and line.high is not None:
                axes.hlines(place, line.low, line.high, color=colour, linewidth=1.4)
            score = line.scores[result.metric]
            fill = colour if good else "none"
            axes.plot(score, place, "o", mec=colour, mfc=fill, markersize=5, clip_on=False)
        if result.metric != "loss" and axes.get_xlim()[1] > 1:
            axes.set_xlim(right=1)
        axes.set_yticks(y, names, color=INK)
        axes.set(ylim=(len(lines) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)

    size = (left + 2.7, 0.77 + 0.22 * (len(lines) + 0.2))
    return Drawing(name, "leaderboard with confidence intervals", size, draw)


def scores_of(entries: Sequence[Entry], key: str) -> NDArray[np.float64]:
    """Return a metric of each candidate."""
    return np.array([entry.scores[key] for entry in entries], np.float64)


def draw_whiskers(
    axes: Any, x: Any, members: Sequence[Entry], key: str, colour: str, many: int | None = None
) -> None:
    """Draw confidence intervals: of many candidates lighter."""
    alpha = 0.65 if (many or len(members)) <= _MOST_WHISKERS else 0.2
    known = [
        (place, entry.low, entry.high)
        for place, entry in zip(x, members, strict=True)
        if entry.low is not None and entry.high is not None
    ]
    if known:
        axes.vlines(*zip(*known, strict=True), color=colour, alpha=alpha, linewidth=1.1)


def limits_of(entries: Sequence[Entry], key: str, whiskers: bool = True) -> tuple[float, float]:
    """Return limits of a metric that show every score and interval."""
    ends = [entry.scores[key] for entry in entries]
    if whiskers:
        ends += [end for entry in entries for end in (entry.low, entry.high) if end is not None]
    known = np.array([end for end in ends if math.isfinite(end)] or [0.0, 1.0])
    pad = max(0.06 * np.ptp(known), 0.005)
    low, high = float(known.min() - pad), float(known.max() + pad)
    # No axis goes beyond the values that a metric can have; marks may stand on its ends.
    return max(low, 0.0), high if key == "loss" else max(min(high, 1.0), float(known.max()))
