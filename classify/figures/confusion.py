"""The confusion matrix as a figure, and its cells."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.figures.drawing import GRID, INK, MUTED, Drawing, add_axes, short_name, to_svg

# A confusion matrix of more classes has no numbers in its cells, no class names, or one cell for
# several classes.
_MOST_NUMBERS, _MOST_NAMES, MOST_CELLS = 30, 60, 500
# In inches; the page shows matrices _SCALE times as large, and text as 11 pixels.
# A cell of fewer than two pixels may be lost between them.
_SCALE = 1.15
_FONT, _DIGIT, _CELL, _SMALL_CELL = 9.8, 0.083, 0.17, 2 / 72 / _SCALE
# Colours of paper. On the page the two images are masks of its own colours; see ``to_page``.
_RIGHT, _WRONG = (20, 60, 140), (168, 8, 18)
_ON_WEAK, _ON_STRONG = "#0b0b0b", "#ffffff"
# The opacity of the weakest cell has a contrast of 3:1 to an empty one, light or dark. Above
# _STRONG the number in the cell needs the other colour.
_WEAKEST, _STRONG = 0.62, 0.7


class Cells(NamedTuple):
    """The cells of a drawn confusion matrix that are not empty.

    Attributes:
        side: Number of rows, and of columns.
        width: Neighbouring classes that a row or a column stands for.
        places: (M,) int64 row times ``side`` plus column, increasing.
        counts: (M,) int64 images, more than 0.
        truths: (side,) int64 images of the classes of each row, all of them.
        answers: (side,) int64 images that are predicted as the classes of each column.
    """

    side: int
    width: int
    places: NDArray[np.int64]
    counts: NDArray[np.int64]
    truths: NDArray[np.int64]
    answers: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each cell of the images of its true classes."""
        return np.asarray(self.counts / self.truths[self.places // self.side])


def count_cells(confusion: Any) -> Cells:
    """Return the cells of a confusion matrix as it is drawn.

    Args:
        confusion: (K, K) counts, truth on the first axis; a sparse array.

    Returns:
        Of more than ``MOST_CELLS`` classes, cells that stand for squares of ``cell_width``
        neighbours. On the diagonal they count correct predictions alone.
    """
    cells, width = confusion.tocoo(), cell_width(confusion.shape[0])
    side = math.ceil(confusion.shape[0] / width)
    row, column = cells.row.astype(np.int64) // width, cells.col.astype(np.int64) // width
    kept = ((row != column) | (cells.row == cells.col)) & (cells.data > 0)
    places, order = np.unique((row * side + column)[kept], return_inverse=True)
    counts = np.bincount(order, cells.data[kept], minlength=len(places)).astype(np.int64)
    totals = [np.bincount(of, cells.data, minlength=side).astype(np.int64) for of in (row, column)]
    return Cells(side, width, places, counts, *totals)


def draw_confusion(name: str, confusion: Any, class_names: Sequence[str]) -> Drawing:
    """Draw a confusion matrix: correct cells blue, wrong ones red, by their share of the class.

    Args:
        name: The name of the figure.
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        class_names: K names. Of more than ``MOST_CELLS`` a cell stands for as many neighbours as
            ``cell_width`` returns, and one on the diagonal for their correct predictions.
    """
    cells = count_cells(confusion)
    K = cells.side
    numbered, named = K <= _MOST_NUMBERS, K <= _MOST_NAMES
    names = [short_name(text) for text in class_names]
    margin = 0.42 + (_FONT * 0.0082 * max(map(len, names)) if named else 0.1)
    side = margin + max(K * _cell_size(cells), 0 if named else 5.5) + 0.1
    opacity = _WEAKEST + (1 - _WEAKEST) * np.sqrt(cells.shares)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, (margin, 0.1, 0.1, margin))
        for colour, is_right in ((_RIGHT, True), (_WRONG, False)):
            pixels = _paint(cells, opacity, colour, is_right)
            axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("predicted class", color=MUTED)
        axes.set_ylabel("true class", color=MUTED)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(top=False, labeltop=named, labelbottom=False, labelleft=named, pad=2)
        ticks, labels = (range(K), names) if named else ([], [])
        axes.set_xticks(ticks, labels, fontsize=_FONT, rotation=90, color=INK)
        axes.set_yticks(ticks, labels, fontsize=_FONT, color=INK)
        lines = np.arange(K + 1) - 0.5 if named else np.array([-0.5, K - 0.5])
        axes.hlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.vlines(lines, -0.5, K - 0.5, color=GRID, linewidth=0.7)
        axes.set(xlim=(-0.5, K - 0.5), ylim=(K - 0.5, -0.5))
        for place, count, strength in zip(*cells[2:4], opacity, strict=True) if numbered else ():
            axes.text(
                *(place % K, place // K, str(count)),
                **{"ha": "center", "va": "center_baseline", "fontsize": _FONT},
                color=_ON_STRONG if strength > _STRONG else _ON_WEAK,
            )

    label = "confusion matrix, true classes by predictions"
    return Drawing(name, label, (side, side), draw, text=_FONT)


def to_page(drawing: Drawing) -> str:
    """Return a confusion matrix as SVG whose cells have the page's own colours, light or dark."""
    names = iter(("cell-right", "cell-wrong"))

    def mask(image: re.Match[str]) -> str:
        colour = next(names)
        name = f"{drawing.name}-{colour}"
        return (
            f'<mask id="{name}" mask-type="alpha">{image[0]}</mask><rect width="100%" '
            f'height="100%" mask="url(#{name})" fill="var(--{colour})"/>'
        )

    numbers = {_ON_WEAK: "var(--on-weak-cell)", _ON_STRONG: "var(--on-strong-cell)"}

    def adapt(tag: re.Match[str]) -> str:
        return re.sub("|".join(numbers), lambda colour: numbers[colour[0]], tag[0])

    text = re.sub(r"<image [^>]*/>", mask, to_svg(drawing, _SCALE))
    return re.sub(r"<text [^>]*>", adapt, text)


def cell_width(classes: int) -> int:
    """Return how many neighbouring classes a cell of a confusion matrix stands for."""
    return math.ceil(classes / MOST_CELLS)


def _cell_size(cells: Cells) -> float:
    """Return the width of a cell in inches, at least; with numbers, that of the largest one."""
    if cells.side > _MOST_NUMBERS:
        return _CELL if cells.side <= _MOST_NAMES else _SMALL_CELL
    digits = len(str(cells.counts.max()))
    return max(0.6 if cells.side <= 4 else 0.45 if cells.side <= 15 else 0.3, _DIGIT * digits + 0.1)


def _paint(
    cells: Cells, opacity: NDArray[np.float64], colour: tuple[int, ...], is_right: bool
) -> NDArray[np.uint8]:
    """Return the cells on the diagonal, or all others, as (side, side, 4) pixels."""
    pixels = np.zeros((cells.side, cells.side, 4), np.uint8)
    rows, columns = np.divmod(cells.places, cells.side)
    kept = (rows == columns) == is_right
    pixels[..., :3] = colour
    pixels[rows[kept], columns[kept], 3] = np.ceil(255 * opacity[kept])
    return pixels
