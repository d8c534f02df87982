"""Learning curves: training and validation accuracy and loss by epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.figures.drawing import CARD, HELD, MUTED, TRAIN, Drawing, LegendItem, add_axes
from classify.search.leaderboard import Result
from classify.search.ranking import Entry
from extract.display.figure import load_matplotlib

# More curves would make the page harder to read.
_MOST_CURVES = 8


class Panel(NamedTuple):
    """The learning curves of a head.

    Attributes:
        figure: The name of the figure.
        name: The name of the head.
        dropout: Its dropout, if it is one of a sweep; else None.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch.
        train_accuracy: Accuracy on the training images after training; None of fine-tuning.
        drops: Whether units are dropped in training.
    """

    figure: str
    name: str
    dropout: float | None
    history: Mapping[str, list[float]]
    train_accuracy: float | None = None
    drops: bool = False


class Limits(NamedTuple):
    """The ends of the axes that all learning curves share."""

    lowest_accuracy: float
    highest_loss: float


def list_panels(result: Result) -> list[Panel]:
    """Return the learning curves of fine-tuning, a dropout sweep and the best other heads."""
    with_epochs = [entry for entry in result.entries if entry.evaluation.history.get("loss")]
    sweep = _dropout_sweep(with_epochs)
    others = [entry for entry in with_epochs if entry not in sweep]
    shown: list[tuple[str, float | None, Mapping[str, list[float]], float | None, bool]] = [
        (
            entry.label,
            entry.spec.dropout if entry in sweep else None,
            entry.evaluation.history,
            entry.evaluation.train_accuracy,
            bool(entry.spec.dropout),
        )
        for entry in [*sweep, *others][:_MOST_CURVES]
    ]
    tuned = result.finetuned
    if tuned and tuned.history["loss"]:
        shown.insert(0, (f"fine-tuning above {tuned.layer}", None, tuned.history, None, False))
    return [Panel(f"learning{i}", *panel) for i, panel in enumerate(shown)]


def draw_panels(panels: Sequence[Panel]) -> list[Drawing]:
    """Draw learning curves on axes with the same limits."""
    limits = shared_limits([panel.history for panel in panels])
    return [draw_learning(panel.figure, panel.history, limits) for panel in panels]


def shared_limits(histories: Sequence[Mapping[str, list[float]]]) -> Limits:
    """Return axes for the epochs after the first, whose loss and accuracy flatten all others.

    A head that diverged would flatten the curves of all others, too.
    """
    accuracies, losses = (
        [np.array([history[name], history[f"val_{name}"]]) for history in histories]
        for name in ("accuracy", "loss")
    )
    lows = [_ends(curves)[0] for curves in accuracies] or [0.5]
    peaks = [_ends(curves)[1] for curves in losses] or [1.0]
    lowest = math.floor(min(lows) * 20 - 1e-9) / 20
    return Limits(min(max(lowest, 0.0), 0.9), min(max(peaks), 3 * float(np.median(peaks))) * 1.05)


def _ends(curves: NDArray[np.float64]) -> tuple[float, float]:
    """Return the lowest and the highest value after the first epoch, or in the only one."""
    later = curves[:, 1:] if curves.shape[1] > 1 else curves
    return float(later.min()), float(later.max())


def _dropout_sweep(entries: Sequence[Entry]) -> list[Entry]:
    """Return the first heads that differ only in their dropout, by dropout; or none."""
    families: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.spec.dropout is not None:
            families.setdefault(replace(entry.spec, dropout=0.0), []).append(entry)
    sweep = next((family for family in families.values() if len(family) > 1), [])
    return sorted(sweep[:_MOST_CURVES], key=lambda entry: entry.spec.dropout or 0.0)


def draw_learning(name: str, history: Mapping[str, list[float]], limits: Limits) -> Drawing:
    """Draw training and validation accuracy over loss, by epoch.

    Args:
        name: The name of the figure.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch.
        limits: The ends of the axes; arrows mark epochs whose values lie beyond.
    """
    load_matplotlib()
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, len(history["loss"]) + 1)
    marker = "o" if len(epochs) < 4 else ""

    def draw(figure: Any) -> None:
        upper = add_axes(figure, (0.65, 2.05, 0.15, 0.12), ylabel="accuracy")
        lower = add_axes(figure, (0.65, 0.5, 0.15, 2.05), xlabel="epoch", ylabel="loss")
        for axes, curve in ((upper, "accuracy"), (lower, "loss")):
            training, validation = history[curve], history[f"val_{curve}"]
            axes.fill_between(epochs, training, validation, color=HELD, alpha=0.1, linewidth=0)
            axes.plot(epochs, training, "--", color=TRAIN, marker=marker, markersize=4)
            axes.plot(epochs, validation, color=HELD, marker=marker, markersize=4)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        upper.set_ylim(limits.lowest_accuracy, 1.01)  # half a line of room at 1
        upper.tick_params(labelbottom=False)
        best = int(np.argmin(history["val_loss"]))
        lower.plot(epochs[best], history["val_loss"][best], "o", color=HELD, markersize=5)
        lower.set_ylim(0, limits.highest_loss)
        _mark_beyond(upper, history, "accuracy", limits.lowest_accuracy)
        _mark_beyond(lower, history, "loss", limits.highest_loss)

    label = "training and validation accuracy and loss by epoch"
    legend = LegendItem("training", TRAIN, "--"), LegendItem("validation", HELD)
    return Drawing(name, label, (4.2, 3.9), draw, legend)


def _mark_beyond(axes: Any, history: Mapping[str, list[float]], name: str, end: float) -> None:
    """Put an arrow at the end of the axes where a curve leaves them, and its furthest value."""
    sign = -1 if name == "accuracy" else 1
    notes = []
    for curve, colour in ((name, TRAIN), (f"val_{name}", HELD)):
        values = sign * np.array(history[curve])
        if (beyond := np.flatnonzero(values > sign * end)).size:
            first = int(beyond[0])
            marker = "v" if sign < 0 else "^"
            axes.plot(first + 1, end, marker, color=colour, markersize=6, clip_on=False)
            notes.append((sign * float(values[beyond].max()), first))
    if notes:
        value, first = max(notes) if sign > 0 else min(notes)
        up = 3 if sign < 0 else -3
        axes.annotate(
            f"to {value:.2g}",
            (first + 1, end),
            (8, up),
            textcoords="offset points",
            va="bottom" if sign < 0 else "top",
            color=MUTED,
            bbox={"facecolor": CARD, "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
