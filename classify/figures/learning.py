"""Learning curves: training and validation accuracy and loss by epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from classify.figures.drawing import HELD, TRAIN, Drawing, add_axes, load_matplotlib
from classify.search.leaderboard import Result
from classify.search.ranking import Entry

# More curves would make the page harder to read.
_MOST_CURVES = 8


class Panel(NamedTuple):
    """The learning curves of a head.

    Attributes:
        figure: The name of the figure.
        name: The name of the head.
        dropout: Its dropout, if it is one of a sweep; else None.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch.
    """

    figure: str
    name: str
    dropout: float | None
    history: Mapping[str, list[float]]


def list_panels(result: Result) -> list[Panel]:
    """Return the learning curves of fine-tuning, a dropout sweep and the best other heads."""
    with_epochs = [entry for entry in result.entries if entry.evaluation.history.get("loss")]
    sweep = _dropout_sweep(with_epochs)
    others = [entry for entry in with_epochs if entry not in sweep]
    shown: list[tuple[str, float | None, Mapping[str, list[float]]]] = [
        (entry.label, entry.spec.dropout if entry in sweep else None, entry.evaluation.history)
        for entry in [*sweep, *others][:_MOST_CURVES]
    ]
    tuned = result.finetuned
    if tuned and tuned.history["loss"]:
        shown.insert(0, (f"fine-tuning above {tuned.layer}", None, tuned.history))
    return [Panel(f"learning{i}", *panel) for i, panel in enumerate(shown)]


def draw_panels(panels: Sequence[Panel]) -> list[Drawing]:
    """Draw learning curves on axes with the same limits."""
    histories = [panel.history for panel in panels]
    # A head that diverged would flatten all other curves.
    peaks = [max(*h["loss"], *h["val_loss"]) for h in histories] or [0.0]
    lowest = min((min(*h["accuracy"], *h["val_accuracy"]) for h in histories), default=0.0)
    limits = lowest, min(max(peaks), 3 * float(np.median(peaks)))
    return [draw_learning(panel.figure, panel.history, limits) for panel in panels]


def _dropout_sweep(entries: Sequence[Entry]) -> list[Entry]:
    """Return the first heads that differ only in their dropout, by dropout; or none."""
    families: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.spec.dropout is not None:
            families.setdefault(replace(entry.spec, dropout=0.0), []).append(entry)
    sweep = next((family for family in families.values() if len(family) > 1), [])
    return sorted(sweep[:_MOST_CURVES], key=lambda entry: entry.spec.dropout or 0.0)


def draw_learning(
    name: str, history: Mapping[str, list[float]], limits: tuple[float, float]
) -> Drawing:
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
        upper = add_axes(figure, (0.62, 2.05, 0.15, 0.12), ylabel="accuracy")
        lower = add_axes(figure, (0.62, 0.5, 0.15, 2.05), xlabel="epoch", ylabel="loss")
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

    return Drawing(name, "training and validation accuracy and loss by epoch", (4.2, 3.9), draw)
