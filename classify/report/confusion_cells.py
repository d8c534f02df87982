"""The cells of the confusion matrix for the scripts of the page, and some images of each."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.figures.confusion import Cells, count_cells
from classify.search.leaderboard import Result

# Images of a cell, and of all cells: of 100,000 images their keys stay below some 100 kB.
_MOST_OF_CELL, _MOST_ROWS = 24, 2000


class CellImages:
    """The images of the cells of a confusion matrix: a bounded number of the validation rows.

    Args:
        confusion: (K, K) counts, truth on the first axis; a sparse array.
        dataset: The rows that were trained on.
        result: The result of the run, with scores.

    Attributes:
        cells: The cells as they are drawn.
        rows: (M,) their images. Wrong cells come first, and the first image of each cell before the
            second of any; of a cell the highest score comes first.
    """

    def __init__(self, confusion: Any, dataset: Dataset, result: Result) -> None:
        assert result.scores is not None
        self.cells, self._dataset = count_cells(confusion), dataset
        rows = result.validation_rows
        scores, y = result.scores[: len(rows)], dataset.y[rows]
        listed, self._places = choose_rows(self.cells, y, scores)
        self.rows = rows[listed]

    def to_page(self) -> dict[str, Any]:
        """Return the cells for scripts."""
        cells, names = self.cells, self._dataset.class_names
        rows: dict[int, list[int]] = defaultdict(list)
        for row, place in zip(self.rows.tolist(), self._places.tolist(), strict=True):
            rows[place].append(row)
        ends = [
            (names[start], names[min(start + cells.width, len(names)) - 1])
            for start in range(0, len(names), cells.width)
        ]
        return {
            "side": cells.side,
            "names": ends if cells.width > 1 else names,
            # Differences are shorter than places.
            "steps": np.diff(cells.places, prepend=0).tolist(),
            "counts": cells.counts.tolist(),
            "truths": cells.truths.tolist(),
            "answers": cells.answers.tolist(),
            "rows": rows,
        }


def choose_rows(
    cells: Cells, y: NDArray[np.int64], scores: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the images that are shown for the cells; see ``CellImages.rows``.

    Args:
        cells: The cells.
        y: (V,) true classes.
        scores: (V, K) scores.

    Returns:
        Their positions, and the place of the cell of each.
    """
    answers = scores.argmax(axis=1)
    row, column = y // cells.width, answers // cells.width
    places = row * cells.side + column
    drawn = np.flatnonzero((row != column) | (y == answers))
    # Scores that differ after six decimals are equal: their order would depend on the threads.
    best = -scores.max(axis=1).round(6)[drawn]
    order = np.lexsort((best, places[drawn]))
    drawn, best = drawn[order], best[order]
    starts = np.searchsorted(places[drawn], places[drawn])
    rank = np.arange(len(drawn)) - starts
    kept = np.flatnonzero(rank < _MOST_OF_CELL)
    right = (y == answers)[drawn]
    kept = kept[np.lexsort((best[kept], rank[kept], right[kept]))][:_MOST_ROWS]
    return drawn[kept], places[drawn[kept]]
