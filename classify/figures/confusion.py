"""The confusion matrix as a figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.figures.drawing import GRID, INK, MUTED, Drawing, add_axes

# A confusion matrix of more classes has no numbers in its cells, no class names, or one cell for
# several classes.
_MOST_NUMBERS, _MOST_NAMES, MOST_CELLS = 15, 60, 500
_RIGHT, _WRONG = (37, 99, 235), (214, 60, 40)


def draw_confusion(name: str, confusion: Any, class_names: Sequence[str]) -> Drawing:
    """Draw a confusion matrix: correct cells blue, wrong ones red, by their share of the class.

    Args:
        name: The name of the figure.
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        class_names: K names. Of more than ``MOST_CELLS`` a cell stands for as many neighbours as
            ``cell_width`` returns, and one on the diagonal for their correct predictions.
    """
    confusion = _merge_cells(confusion.tocoo(), cell_width(len(class_names)))
    K = len(confusion)
    numbered, named = K <= _MOST_NUMBERS, K <= _MOST_NAMES
    font = 9.5 if numbered else 8.0 if K <= 30 else 6.5
    cell = (0.6 if K <= 4 else 0.45) if numbered else 0.2 if K <= 30 else 0.14
    names = [_shorten(text) for text in class_names]
    margin = 0.35 + (font * 0.0082 * max(map(len, names)) if named else 0.1)
    side = margin + (K * cell if named else 5.5) + 0.1
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((K, K, 4), np.uint8)
    pixels[..., :3] = np.where(np.eye(K, dtype=bool)[..., None], _RIGHT, _WRONG)
    # The square root makes one image in fifty visible.
    pixels[..., 3] = np.where(confusion > 0, 30 + 150 * np.sqrt(share), 0).astype(np.uint8)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (margin, 0.1, 0.1, margin))
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("predicted class", color=MUTED)
        axes.set_ylabel("true class", color=MUTED)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(top=False, labeltop=named, labelbottom=False, labelleft=named, pad=2)
        ticks, labels = (range(K), names) if named else ([], [])
        axes.set_xticks(ticks, labels, fontsize=font, rotation=90, color=INK)
        axes.set_yticks(ticks, labels, fontsize=font, color=INK)
        lines = np.arange(K + 1) - 0.5 if named else np.array([-0.5, K - 0.5])
        axes.hlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.vlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.set(xlim=(-0.5, K - 0.5), ylim=(K - 0.5, -0.5))
        for row, column in np.argwhere(confusion) if numbered else ():
            count = str(confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", fontsize=font)

    return Drawing(name, "confusion matrix, true classes by predictions", (side, side), draw)


def cell_width(classes: int) -> int:
    """Return how many neighbouring classes a cell of a confusion matrix stands for."""
    return math.ceil(classes / MOST_CELLS)


def _merge_cells(cells: Any, width: int) -> NDArray[np.int64]:
    """Add up squares of a confusion matrix; mistakes between neighbours are left out."""
    side = math.ceil(cells.shape[0] / width)
    row, column = cells.row // width, cells.col // width
    kept = (row != column) | (cells.row == cells.col)
    merged = np.zeros((side, side), np.int64)
    np.add.at(merged, (row[kept], column[kept]), cells.data[kept])
    return merged


def _shorten(name: str) -> str:
    """Return a name in one line that fits next to an axis."""
    name = " ".join(name.split())
    return name if len(name) <= 22 else f"{name[:21]}…"
