"""The map of the features as a figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.diagnosis.projection import FeatureMap
from classify.figures.drawing import BAD, MUTED, SERIES, Drawing, add_axes

MARKERS = ("o", "^")
# More mistakes than this have lighter rings, so that the points stay visible.
_MANY_RINGS = 60


def draw_map(
    name: str,
    feature_map: FeatureMap,
    y: NDArray[np.int64],
    styles: Mapping[int, int],
    wrong_rows: NDArray[np.int64],
) -> Drawing:
    """Draw images by their features, in the colour and the marker of their class.

    Args:
        name: The name of the figure.
        feature_map: The positions of some images.
        y: (N,) classes of all images.
        styles: Class -> number of its colour and marker; all others are grey.
        wrong_rows: Rows of the images that are classified wrongly.
    """
    numbers = np.array([styles.get(label, -1) for label in y[feature_map.rows].tolist()])
    wrong = np.isin(feature_map.rows, wrong_rows)
    size = 4.5 if len(numbers) < 400 else 3.2
    light = {"mew": 0.7, "markersize": size + 2, "alpha": 0.5}
    ring = light if wrong.sum() > _MANY_RINGS else {"mew": 1, "markersize": size + 4}

    def draw(figure: Any) -> None:
        shares = [f"{100 * share:.0f} % of the variance" for share in feature_map.explained or ()]
        x_label, y_label = shares or ("", "")
        axes = add_axes(figure, (0.3, 0.3, 0.05, 0.05), xlabel=x_label, ylabel=y_label)
        for number in np.unique(numbers):
            colour = MUTED if number < 0 else SERIES[number % len(SERIES)]
            marker = "." if number < 0 else MARKERS[number // len(SERIES)]
            points = feature_map.points[numbers == number].T
            axes.plot(*points, marker, color=colour, alpha=0.7, markersize=size, mew=0)
        axes.plot(*feature_map.points[wrong].T, "o", mfc="none", mec=BAD, **ring)
        axes.set(xticks=[], yticks=[])

    label = f"map of the features by {feature_map.method}, coloured by class"
    return Drawing(name, label, (5.6, 4.4), draw)
