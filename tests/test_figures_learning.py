"""Learning curves: axes that are shared and clipped, and marks where a curve leaves them."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from classify.figures.learning import Limits, draw_learning, shared_limits


def history(loss: list[float], accuracy: list[float]) -> dict[str, list[float]]:
    later = [0.9 * value for value in loss]
    return {"loss": loss, "val_loss": later, "accuracy": accuracy, "val_accuracy": accuracy}


GOOD = history([0.9, 0.5, 0.4, 0.3], [0.7, 0.9, 0.93, 0.95])
# Dropout of a half: the first epoch is far from all others.
DROPPED = history([6.0, 0.8, 0.6, 0.5], [0.2, 0.85, 0.9, 0.92])
DIVERGED = history([9.0, 90.0, 900.0, 9000.0], [0.3, 0.2, 0.1, 0.1])


@pytest.mark.parametrize(
    ("histories", "expected"),
    [
        ([GOOD], (0.85, 0.5)),  # the second epoch is the worst that counts
        ([GOOD, DROPPED], (0.8, 0.8)),
        ([GOOD, GOOD, DIVERGED], (0.05, 1.5)),  # three times the median peak
        ([history([2.0], [0.4])], (0.35, 2.0)),  # the only epoch
        ([], (0.45, 1.0)),
    ],
)
def test_limits_are_from_the_epochs_after_the_first(
    histories: Any, expected: tuple[float, float]
) -> None:
    lowest, highest = shared_limits(histories)
    assert lowest == pytest.approx(expected[0])
    assert highest == pytest.approx(1.05 * expected[1])


def test_an_arrow_and_a_value_stand_where_a_curve_leaves_the_axes() -> None:
    figure = Figure()
    limits = shared_limits([GOOD, DROPPED])
    draw_learning("learning0", DROPPED, limits).draw(figure)
    upper, lower = figure.axes
    assert upper.get_ylim()[0] == limits.lowest_accuracy
    assert lower.get_ylim() == (0, limits.highest_loss)
    for axes, marker, end, note in (
        (upper, "v", limits.lowest_accuracy, "to 0.2"),
        (lower, "^", limits.highest_loss, "to 6"),
    ):
        arrows = [line for line in axes.lines if line.get_marker() == marker]
        assert [(*map(float, np.ravel(np.array(a.get_data()))),) for a in arrows] == [
            (1.0, end)
        ] * 2
        assert [text.get_text() for text in axes.texts] == [note]


def test_curves_within_the_axes_have_no_arrow() -> None:
    figure = Figure()
    draw_learning("learning0", GOOD, Limits(0.1, 2.0)).draw(figure)
    for axes in figure.axes:
        assert not axes.texts
        assert {line.get_marker() for line in axes.lines} <= {"", "o", "None"}
