"""The small images of the page: a bounded number of them, read once, by row of the dataset.

What is shown large comes first, then the rows that parts of the page ask for, all other mistakes,
and rows spread evenly over the map, until there are enough, the page is large enough, or the time
is over. ``scripts/images.js`` shows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.search.leaderboard import Result
from extract.core.console import log
from extract.gallery.thumbnails import Place, Thumbnail, Wanted, read_thumbnails
from extract.images.item import SPLITS

# Of the images that are not shown large: with these the page stays below about 5 MB, and the run
# below about one second more, or two where files are large or far away.
_SIDE, _MOST_IMAGES, _MOST_CHARACTERS, _SECONDS = 96, 1000, 2_500_000, 2.0
_TOO_LARGE = Thumbnail("", "left out to keep the page small")
# A longer key is shortened in the data of scripts; the tables of the page have all of it.
_MOST_KEY = 300


@dataclass(frozen=True)
class Images:
    """The images of the page.

    Attributes:
        thumbnails: The image of each row that was read, or the reason why there is none.
        large: The rows whose images the templates show; the data of scripts leaves these out.
        rows: (M,) rows that scripts know: these, and all rows of the maps.
        known: How many of them have an image.
    """

    thumbnails: dict[int, Thumbnail]
    large: frozenset[int]
    rows: NDArray[np.int64]

    @property
    def known(self) -> int:
        """How many rows have an image."""
        return sum(bool(thumbnail.image) for thumbnail in self.thumbnails.values())

    def show(self, listed: Sequence[Any]) -> list[dict[str, Any]]:
        """Return mistakes or label issues, which have a row, with the image of each."""
        return [{"mistake": one, **self.thumbnails[one.row]._asdict()} for one in listed]

    def to_page(self, dataset: Dataset, result: Result) -> dict[str, Any]:
        """Return the rows for scripts: names and reasons by number, and lists by row.

        A list has the key, the class, the answer and its score, both None where the head did not
        score the row, the number of the split, and the image or the number of a reason.
        """
        answers, scores, splits = _answers(dataset, result)
        reasons, rows = dict[str, int](), dict[str, list[Any]]()
        for row in self.rows.tolist():
            image, reason = self.thumbnails.get(row, _TOO_LARGE)
            if row in self.large and image:
                image, reason = "", "shown on the page"
            shown = image or reasons.setdefault(reason, len(reasons))
            answer, score = int(answers[row]), round(float(scores[row]), 4)
            scored = (None, None) if answer < 0 else (answer, score)
            key, label = _shorten(dataset.keys[row]), int(dataset.y[row])
            rows[str(row)] = [key, label, *scored, int(splits[row]), shown]
        used = np.union1d(dataset.y[self.rows], answers[self.rows])
        names = {str(label): dataset.class_names[label] for label in used.tolist() if label >= 0}
        return {"names": names, "splits": SPLITS, "reasons": [*reasons], "rows": rows}


def read_images(
    dataset: Dataset,
    result: Result,
    analysis: Analysis,
    large: Sequence[int],
    wanted: Sequence[int] = (),
) -> Images:
    """Read the images of the page.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
        large: The rows that the templates show, in larger images; all of these are read.
        wanted: The rows that scripts show, the most important ones first.
    """
    mapped = [feature_map.rows for feature_map in analysis.maps[-1:]]
    spread = [rows[_spread(m.points)] for rows, m in zip(mapped, analysis.maps[-1:], strict=True)]
    ordered = [*large, *wanted, *_mistakes(analysis, dataset, result)]
    ordered += np.concatenate([np.empty(0, int), *spread]).tolist()
    shown = dict.fromkeys(large)
    rest = [row for row in dict.fromkeys(ordered) if row not in shown][:_MOST_IMAGES]
    read = read_rows(dataset, [*shown, *rest], len(shown))
    thumbnails, total = dict[int, Thumbnail](), 0
    for row, thumbnail in zip([*shown, *rest], read, strict=True):
        total += 0 if row in shown else len(thumbnail.image)
        thumbnails[row] = thumbnail if total <= _MOST_CHARACTERS else _TOO_LARGE
    rows = np.unique(np.concatenate([np.array([*shown, *rest], int), *mapped])).astype(int)
    return Images(thumbnails, frozenset(shown), rows)


def read_rows(dataset: Dataset, rows: Sequence[int], large: int) -> list[Thumbnail]:
    """Return the images of rows, of which the first ones are large, or why there is none."""
    first = dataset.store.parts[0].made_by if dataset.store else dataset
    if not first.trunk.trunk:
        if dataset.moved_to:
            log.warning("source: has no effect on features of another program, without images")
        return [Thumbnail("", "features of another program")] * len(rows)
    known = dataset.digests
    wanted = [
        Wanted(dataset.keys[row], None if known is None else known[row].tobytes()) for row in rows
    ]
    wanted[large:] = [one._replace(side=_SIDE, optional=True) for one in wanted[large:]]
    place = dataset.source, dataset.columns, dataset.root, dataset.moved_to
    return read_thumbnails(wanted, Place(dataset.path, *place), _SECONDS)


def _answers(dataset: Dataset, result: Result) -> tuple[Any, Any, Any]:
    """Return by row the answer of the best head, -1 for none, its score, and the split."""
    answers, scores = np.full(len(dataset.y), -1), np.zeros(len(dataset.y))
    splits = np.zeros(len(dataset.y), int)
    parts = (
        (1, result.validation_rows, result.scores),
        (2, result.splits[0].test, result.test_scores),
    )
    for split, rows, found in parts:
        splits[rows] = split
        if found is not None:
            answers[rows] = found[: len(rows)].argmax(axis=1)
            scores[rows] = found[: len(rows)].max(axis=1)
    return answers, scores, splits


def _mistakes(analysis: Analysis, dataset: Dataset, result: Result) -> list[int]:
    """Return the rows of all mistakes, the highest score first."""
    _, scores, _ = _answers(dataset, result)
    rows = analysis.wrong_rows
    ordered: list[int] = rows[np.argsort(-scores[rows].round(6), kind="stable")].tolist()
    return ordered


def _spread(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order of points in which each beginning is spread over all of them.

    Along a curve that fills the plane (Morton's order), the middle comes first, then the middles
    of the halves, and so on.
    """
    ranks = points.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    cells = ranks * 2**10 // max(1, len(points))
    bits = (cells[:, :, None] >> np.arange(10)) & 1
    curve = (bits * 2 ** (2 * np.arange(10) + np.array([[0], [1]]))).sum(axis=(1, 2))
    width = max(1, len(points) - 1).bit_length()
    reverse = np.zeros(1, np.int64)
    for bit in range(width):
        reverse = np.concatenate([reverse, reverse + 2 ** (width - 1 - bit)])
    order: NDArray[np.int64] = curve.argsort(kind="stable")[reverse[reverse < len(points)]]
    return order


def _shorten(key: str) -> str:
    half = _MOST_KEY // 2
    return key if len(key) <= _MOST_KEY else f"{key[:half]}\N{HORIZONTAL ELLIPSIS}{key[-half:]}"
