"""The map of the features as a figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.diagnosis.projection import FeatureMap
from classify.figures.drawing import BAD, MUTED, SERIES, Drawing, add_axes

# A class has a colour, and where there are more classes than colours another shape, too.
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
# More mistakes than this have lighter rings, so that the points stay visible.
_MANY_RINGS = 60


def draw_map(
    name: str,
    feature_map: FeatureMap,
    y: NDArray[np.int64],
    styles: Mapping[int, int],
    scored: NDArray[np.int64],
    wrong: NDArray[np.int64],
) -> Drawing:
    """Draw images by their features, in the colour and the marker of their class.

    On the page, marks of one style and split are a group ``points-STYLE-SPLIT``, with -1 for grey;
    their order is that of the rows. Rings are the group ``rings``.

    Args:
        name: The name of the figure.
        feature_map: The positions of some images.
        y: (N,) classes of all images.
        styles: Class -> number of its colour and marker; all others are grey.
        scored: Rows of the validation images, whose marks are filled; all others are hollow.
        wrong: Rows of the images that are classified wrongly.
    """
    rows, points = feature_map.rows, feature_map.points
    numbers = np.array([styles.get(label, -1) for label in y[rows].tolist()])
    filled, ringed = np.isin(rows, scored), np.isin(rows, wrong)
    size = 5.5 if len(rows) < 400 else 4.2
    light = {"mew": 0.7, "markersize": size + 2, "alpha": 0.8}
    ring = light if ringed.sum() > _MANY_RINGS else {"mew": 1.1, "markersize": size + 4}

    def draw(figure: Any) -> None:
        shares = [f"{100 * share:.0f} % of the variance" for share in feature_map.explained or ()]
        x_label, y_label = shares or ("", "")
        axes = add_axes(figure, (0.35, 0.35, 0.05, 0.05))
        # A gap: telephones show larger text.
        axes.set_xlabel(x_label, labelpad=8)
        axes.set_ylabel(y_label, labelpad=8)
        for split, chosen in (("train", ~filled), ("validation", filled)):
            for number in np.unique(numbers[chosen]).tolist():
                (line,) = axes.plot(*points[chosen & (numbers == number)].T, **_mark(number))
                own = {"mew": 0} if split == "validation" else {"mfc": "none"}
                line.set(markersize=size, gid=f"points-{number}-{split}", **own)
        axes.plot(*points[ringed].T, "o", mfc="none", mec=BAD, gid="rings", **ring)
        axes.set(xticks=[], yticks=[])

    label = f"map of the features by {feature_map.method}, coloured by class"
    return Drawing(name, label, (5.6, 4.4), draw)


def _mark(number: int) -> dict[str, Any]:
    """Return the style of the marks of a class; -1 is grey."""
    colour = MUTED if number < 0 else SERIES[number % len(SERIES)]
    marker = MARKERS[max(number, 0) // len(SERIES)]
    alpha = 0.7 if number < 0 else 1
    return {"marker": marker, "color": colour, "linestyle": "none", "alpha": alpha, "mew": 0.9}
