"""Curves of the best head: ROC, precision and recall, coverage, calibration, training sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from classify.diagnosis.curves import Curve
from classify.diagnosis.diagnostics import CalibrationBin
from classify.diagnosis.training_sizes import TrainingSize
from classify.figures.drawing import HELD, INK, MUTED, SERIES, Drawing, LegendItem, add_axes


def draw_curves(name: str, curves: Sequence[Curve], labels: tuple[str, str]) -> Drawing:
    """Draw curves in the unit square: the first in ink, the others in the series' colours.

    Accuracy begins at its lowest value: differences near 1 matter.
    """
    lowest = min(curves[0].y) - 0.05 if labels[1] == "accuracy" else 0

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.65, 0.5, 0.15, 0.12), xlabel=labels[0], ylabel=labels[1])
        axes.set(xlim=(0, 1), ylim=(max(0, lowest), 1))
        for i, curve in reversed(list(enumerate(curves))):
            colour = SERIES[i - 1] if i else INK
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.3 if i else 2.2, clip_on=False)
        if labels[0].startswith("false"):
            axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)

    legend = tuple(
        LegendItem(curve.name or "mean of the classes", SERIES[i - 1] if i else INK)
        for i, curve in enumerate(curves)
    )
    label = f"{labels[1]} against {labels[0]}"
    return Drawing(name, label, (4.0, 3.6), draw, legend if len(curves) > 1 else ())


def draw_calibration(name: str, bins: Sequence[CalibrationBin]) -> Drawing:
    """Draw accuracy and its interval against the score, over the number of images."""
    x = np.array([part.score for part in bins])
    value, low, high = np.array([part.accuracy for part in bins], np.float64).T

    def draw(figure: Any) -> None:
        upper = add_axes(figure, (0.65, 1.2, 0.15, 0.12), ylabel="accuracy")
        lower = add_axes(figure, (0.65, 0.5, 0.15, 2.62), xlabel="score of the predicted class")
        upper.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)
        # Rounding may put an end of an interval on the wrong side of the accuracy.
        ends = np.nan_to_num(np.maximum([value - low, high - value], 0))
        upper.errorbar(
            x, value, ends, fmt="o-", color=HELD, markersize=5, elinewidth=1.2, clip_on=False
        )
        lower.bar(x, [part.rows for part in bins], 0.06, color=HELD, alpha=0.4, clip_on=False)
        lower.locator_params(axis="y", nbins=2)
        upper.tick_params(labelbottom=False)
        upper.set(xlim=(0, 1), ylim=(0, 1))
        lower.set(xlim=(0, 1), ylabel="images")

    return Drawing(name, "accuracy against the score of the predicted class", (4.0, 3.6), draw)


def draw_sizes(name: str, sizes: Sequence[TrainingSize], metric: str) -> Drawing:
    """Draw a metric and its interval against the number of training images, fewest first."""
    x = [size.rows for size in sizes]
    value, low, high = np.array([size.score for size in sizes], np.float64).T

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (0.65, 0.5, 0.25, 0.12), xlabel="training images", ylabel=metric)
        axes.set_xscale("log", base=2)
        axes.fill_between(x, low, high, color=HELD, alpha=0.14, linewidth=0)
        axes.plot(x, value, "o-", color=HELD, markersize=5, clip_on=False)
        axes.set_xticks(x, [str(rows) for rows in x])
        axes.minorticks_off()
        lowest = max(0, float(np.nanmin([*value, *low])) - 0.05)
        axes.set_ylim((0, None) if metric == "loss" else (lowest, 1))

    return Drawing(name, f"{metric} against the number of training images", (4.2, 3.0), draw)
