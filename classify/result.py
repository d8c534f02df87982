"""The result of ``train_heads`` and ``sweep``: a leaderboard that draws itself, for notebooks."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from classify.diagnosis.analysis import MISTAKES, Analysis, analyse
from classify.diagnosis.diagnostics import describe_mistakes
from classify.figures.confusion import draw_confusion
from classify.figures.drawing import Drawing, to_svg
from classify.figures.learning import draw_panels, list_panels
from classify.figures.result_figures import draw_figures
from classify.figures.sweeps import draw_candidates
from classify.inference.head_folder import REPORT
from classify.output.figure_files import make_figure
from classify.report.images import read_rows
from classify.scores.metrics import confusion_matrix
from classify.scores.words import metric_name
from classify.search import leaderboard
from extract.core.errors import HeadError, SettingError, unknown_name
from extract.gallery.contact_sheet import Tile, draw_sheet

# Names that stand for the first figure of their kind, and of the maps for the last.
_SHORT = {"sweep": "sweep0", "learning": "learning0"}
_NAMES = (
    *("leaderboard", "sweep", "seconds", "learning", "confusion", "roc", "precision_recall"),
    *("calibration", "coverage", "fewer_images", "map"),
)
_MOST_PANELS, _COLUMNS = 2, 6
# Colours that stand apart on light and on dark pages; text takes the notebook's own.
_COLOURS = (
    "--ink: currentColor; --muted: currentColor; --grid: #8884; --card: transparent; "
    "--train: #d9771c; --held: #4a86e0"
)


@dataclass(frozen=True, repr=False)
class Result(leaderboard.Result):
    """The leaderboard and the best head; its methods ``plot``, ``confusion`` and ``mistakes`` draw.

    In a notebook it is shown as the leaderboard with confidence intervals as bars, learning curves
    and a link to the report. The attributes are those of ``leaderboard.Result``.
    """

    def plot(self, which: str = "leaderboard") -> Any:
        """Draw a figure of the result.

        Args:
            which: ``leaderboard``, ``sweep``, ``seconds``, ``learning``, ``confusion``, ``roc``,
                ``precision_recall``, ``calibration``, ``coverage``, ``fewer_images`` or ``map``;
                of several sweeps and learning curves also ``sweep1`` and the like.

        Returns:
            A figure of Matplotlib, which notebooks show.

        Raises:
            SettingError: The name is unknown, or this result has no such figure.
            HeadError: The run was stopped before its best head was trained.

        Example:
            >>> result.plot("seconds").savefig("seconds.pdf")  # doctest: +SKIP
        """
        drawings = self._quick_figures()
        if _SHORT.get(which, which) not in drawings and which not in _SHORT:
            drawings |= self._figures()
        maps = [name for name in drawings if name.startswith("map_")]
        short = _SHORT | ({"map": maps[-1]} if maps else {})
        if which not in (*_NAMES, *drawings):
            raise SettingError(unknown_name("plot: figure", which, (*_NAMES, *drawings)))
        name = short.get(which, which)
        if name not in drawings:
            raise SettingError(f"plot: this result has no {which}; it has {', '.join(drawings)}")
        return make_figure(drawings[name])

    def confusion(self) -> Any:
        """Draw the confusion matrix of the best head on the validation images."""
        return make_figure(self._confusion())

    def mistakes(self, count: int = 12) -> Any:
        """Show the mistakes of the best head with the highest scores.

        The images are read where they were when the features were computed; of one that is gone,
        the reason is shown. Below each are its class, the prediction and its score.

        Args:
            count: Number of images, at most.

        Returns:
            A figure of Matplotlib; notebooks show it.
        """
        if not 0 < count <= MISTAKES:
            raise SettingError(f"count: found {count}; expected 1 to {MISTAKES}")
        dataset, rows, scores = self._validated()
        wrong = describe_mistakes(dataset, rows, scores, count)
        small = read_rows(dataset, [mistake.row for mistake in wrong], len(wrong))
        tiles = [
            Tile(thumbnail, (f"is {one.truth}", f"→ {one.answer} {one.score:.2f}"))
            for one, thumbnail in zip(wrong, small, strict=True)
        ]
        return draw_sheet(tiles, max(1, min(_COLUMNS, len(tiles))))

    def _validated(self) -> tuple[Any, Any, Any]:
        """Return the dataset, the validation rows and the scores of the best head on them."""
        if self.dataset is None or self.scores is None:
            raise HeadError("the run was stopped before its best head was trained; run it again")
        rows = self.validation_rows
        return self.dataset, rows, self.scores[: len(rows)]

    def _confusion(self) -> Drawing:
        dataset, rows, scores = self._validated()
        counts = confusion_matrix(dataset.y[rows], scores.argmax(axis=1), len(dataset.class_names))
        return draw_confusion("confusion", counts, dataset.class_names)

    def _quick_figures(self) -> dict[str, Drawing]:
        """Return the figures that need no analysis of the best head."""
        drawings = draw_candidates(self, metric_name(self.metric))
        drawings += draw_panels(list_panels(self))
        drawings += [] if self.dataset is None else [self._confusion()]
        return {drawing.name: drawing for drawing in drawings}

    def _figures(self) -> dict[str, Drawing]:
        dataset, _, _ = self._validated()
        return draw_figures(dataset, self, self._analysis)

    @cached_property
    def _analysis(self) -> Analysis:
        """The analysis of the best head, which takes seconds; ``train_heads`` has it at hand."""
        dataset, _, _ = self._validated()
        return analyse(dataset, self)

    def _repr_html_(self) -> str:
        parts = [self._table(), *(f"<p>{escape(line)}</p>" for line in self.advice().split("\n"))]
        parts += self._curves()
        if self.folder:
            name = escape(os.fspath(self.folder / REPORT))
            parts.append(f'<p><a href="{escape(_address(self.folder / REPORT))}">{name}</a></p>')
        return f'<div style="{_COLOURS}">{"".join(parts)}</div>'

    def _table(self) -> str:
        """Return the leaderboard as HTML, with a bar for each interval."""
        heading, *rows = self.rows()
        lines: list[Any] = [*self.entries, *([self.baseline] if self.baseline else [])]
        low, high = self.score_range
        span = max(high - low, 1e-9)
        cells = [
            "".join(f"<th>{escape(name)}</th>" for name in (*heading[:3], "95 % CI", *heading[3:]))
        ]
        for row, line in zip(rows, lines, strict=True):
            places = [
                None if end is None or not low <= end <= high else 4 + 112 * (end - low) / span
                for end in (line.low, line.high, line.scores[self.metric])
            ]
            texts = [f"<td>{escape(text)}</td>" for text in row]
            cells.append("".join([*texts[:3], f"<td>{_bar(*places)}</td>", *texts[3:]]))
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    def _curves(self) -> Iterator[str]:
        """Yield the learning curves of the first heads, as SVG under their names."""
        panels = list_panels(self)
        for panel, drawing in list(zip(panels, draw_panels(panels), strict=True))[:_MOST_PANELS]:
            # Two results in one notebook have different identifiers.
            digest = hashlib.sha256(repr(panel).encode("utf-8", "replace")).hexdigest()[:8]
            svg = to_svg(drawing._replace(name=f"{drawing.name}-{digest}"), 1)
            text = f"{escape(panel.name)}: training (dashed) and validation"
            yield f'<figure style="display: inline-block; margin: 8px">{text}<br>{svg}</figure>'


def draw_itself(result: leaderboard.Result, analysis: Analysis | None = None) -> Result:
    """Return a result of a search as one that draws itself.

    Args:
        result: The result.
        analysis: The analysis of its best head, where it is known.
    """
    made = Result(**{field.name: getattr(result, field.name) for field in fields(result)})
    if analysis:
        made.__dict__["_analysis"] = analysis
    return made


def _address(path: Path) -> str:
    """Return the address of a file for a notebook in the current folder."""
    try:
        return quote(Path(os.path.relpath(path)).as_posix())
    except ValueError:  # on another drive
        return path.absolute().as_uri()


def _bar(low: float | None, high: float | None, at: float | None) -> str:
    """Return an interval and a score as SVG of 120 pixels."""
    parts = []
    if low is not None and high is not None:
        box = f'x="{low:.1f}" width="{high - low:.1f}" y="3" height="6" rx="3"'
        parts.append(f'<rect {box} fill="#4a86e0" opacity="0.45"/>')
    if at is not None:
        parts.append(f'<circle cx="{at:.1f}" cy="6" r="4" fill="#4a86e0"/>')
    return f'<svg width="120" height="12" aria-hidden="true">{"".join(parts)}</svg>'
