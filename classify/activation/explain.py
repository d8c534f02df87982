"""Where the head looked at its most confident mistakes, and their nearest training images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from classify.activation.images import read_pixels
from classify.activation.nearest import Neighbour, find_nearest
from classify.activation.overlay import Mapped, Overlay, draw_overlays
from classify.activation.scored_by import group_by_head
from classify.activation.trunk_maps import open_maps, run_maps
from classify.data.dataset import Dataset
from classify.data.near_duplicates import NearPair, list_near_leaks
from classify.data.splits import TEST
from classify.diagnosis.diagnostics import Mistake
from classify.search.leaderboard import Result
from classify.search.ranking import to_json
from classify.settings.config import OVERLAYS
from classify.stored.out_of_core import Labels, Rows, StoredRows
from classify.stored.parts import MadeBy
from extract.core.console import log
from extract.core.errors import HeadstartError, first_line

SHOWN = 24
FOLD = 10  # the number of the first fold
_OVERLAYS = "overlays"


@dataclass(frozen=True)
class Explained:
    """The mistakes that the report shows, explained.

    Attributes:
        rows: Their rows in the dataset.
        overlays: One for each.
        nearest: The training images most similar to each.
        near: The first near-duplicates on two sides of the split or in two folds, the most similar
            first.
        near_count: How many pairs there are.
        method: ``exact``, ``gradient`` or ``covered``; empty without any overlay.
        pooling: How the maps became the features of the head: ``avg``, ``max`` or ``none``.
        grid: Height and width of the maps; zeros without one.
        reason: Why there is no overlay at all; empty where there is one.
        seconds: What it took.
        is_interrupted: Whether Ctrl-C ended it.
    """

    rows: list[int] = field(default_factory=list)
    overlays: list[Overlay] = field(default_factory=list)
    nearest: list[list[Neighbour]] = field(default_factory=list)
    near: list[NearPair] = field(default_factory=list)
    near_count: int = 0
    method: str = ""
    pooling: str = ""
    grid: tuple[int, int] = (0, 0)
    reason: str = ""
    seconds: float = 0.0
    is_interrupted: bool = False

    @classmethod
    def left_out(cls, mistakes: Sequence[Mistake], reason: str) -> "Explained":
        """Return the first mistakes without an explanation."""
        rows = [mistake.row for mistake in mistakes[:SHOWN]]
        return cls(rows, [Overlay() for _ in rows], [[] for _ in rows], reason=reason)

    def to_dict(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return every number as JSON values, with keys in place of rows."""
        shown = [
            {
                "key": keys[row],
                "positions": to_json([list(line) for line in overlay.positions]),
                "constant": to_json(overlay.constant),
                "reason": overlay.reason,
                "nearest": [{"key": keys[n.row], "cosine": to_json(n.cosine)} for n in nearest],
            }
            for row, overlay, nearest in zip(self.rows, self.overlays, self.nearest, strict=True)
        ]
        near = [[keys[pair.first], keys[pair.second], to_json(pair.cosine)] for pair in self.near]
        return {
            "method": self.method,
            "reason": self.reason,
            "images": shown,
            "near_duplicates": near,
            "near_duplicate_pairs": self.near_count,
        }


class _NoOverlayError(Exception):
    """Why no image has an overlay."""


def explain_mistakes(
    result: Result, mistakes: Sequence[Mistake], overlays: str = OVERLAYS[0]
) -> Explained:
    """Explain the first mistakes: where the head looked, and the nearest training images.

    No failure is raised, nor is Ctrl-C: a reason takes the place of what could not be made, and
    what was finished before is kept.

    Args:
        result: The result of the run.
        mistakes: Mistakes on validation rows, the most important one first.
        overlays: When the trunk runs again, see ``TrainConfig``.
    """
    began = time.perf_counter()
    explained = Explained.left_out(mistakes, "")
    try:
        explained, reason = _try(partial(_add_near, result), explained, "near-duplicates")
        if explained.rows and result.dataset is not None and result.scores is not None:
            explained, reason = _try(partial(_add_nearest, result), explained, "neighbours")
            explained, reason = _try(partial(_draw, result, overlays), explained, _OVERLAYS)
            explained = replace(explained, reason=reason or explained.reason)
    except KeyboardInterrupt:  # the report is nearly finished
        explained = replace(explained, reason="interrupted", is_interrupted=True)
    if explained.reason:
        log.debug("no overlays: %s", explained.reason)
    return replace(explained, seconds=time.perf_counter() - began)


def _try(
    add: Callable[[Explained], Explained], explained: Explained, noun: str
) -> tuple[Explained, str]:
    """Return what a function adds, or what there was before and the reason."""
    try:
        return add(explained), ""
    except (_NoOverlayError, HeadstartError, OSError, MemoryError) as error:
        reason, is_said = first_line(error), noun == _OVERLAYS
    except Exception as error:  # the report must not be lost
        reason, is_said = f"{type(error).__name__}: {first_line(error)}", False
        log.debug("", exc_info=error)
    if not is_said:  # by the report
        log.warning("no %s: %s", noun, reason)
    return explained, reason


def _add_near(result: Result, explained: Explained) -> Explained:
    own = result.dataset
    if own is None or own.near_joined:
        return explained
    near, count = list_near_leaks(own.X, sides_of(result))
    return replace(explained, near=near, near_count=count)


def sides_of(result: Result) -> Labels:
    """Return the side of each row: its split, or 10 and more for the folds."""
    assert result.dataset is not None
    sides = np.full(len(result.dataset.y), TEST)
    for fold, split in enumerate(result.splits):
        if len(result.splits) == 1:
            sides[split.train] = 0
        if not split.repeat:
            sides[split.validation] = 1 if len(result.splits) == 1 else FOLD + fold
    return sides


def _add_nearest(result: Result, explained: Explained) -> Explained:
    """Add the nearest training images, among those of the head that scored each row."""
    assert result.dataset
    rows = explained.rows
    trained = [np.empty(0, np.int64)] * len(rows)
    for part in group_by_head(result, np.array(rows)):
        for place in part.places:
            trained[place] = part.trained
    return replace(explained, nearest=find_nearest(result.dataset.X, rows, trained))


def _draw(result: Result, overlays: str, explained: Explained) -> Explained:
    """Add the overlays; raise _NoOverlayError or HeadstartError where there can be none."""
    own, rows = result.dataset, np.array(explained.rows)
    assert own is not None
    made_by, layer, shape = _check(result, own, overlays)
    pixels = read_pixels(own, explained.rows, made_by.trunk)
    known = np.array([i for i, image in enumerate(pixels) if not isinstance(image, str)], np.int64)
    drawn = [Overlay(reason=image) if isinstance(image, str) else Overlay() for image in pixels]
    if len(known):
        images, stored = [pixels[i] for i in known], _read_rows(own.X, rows[known])
        maps, pooling = stored, "none"
        if len(shape) == 1:
            engine = open_maps(made_by, layer, len(known), overlays == OVERLAYS[1])
            maps, pooling = run_maps(engine, layer, np.stack(images)), made_by.trunk.pooling
        if maps.shape[1] * maps.shape[2] == 1:
            raise _NoOverlayError("the feature map has one position")
        mapped = Mapped(rows[known], images, maps, stored, pooling, made_by.precision)
        overlaid, method = draw_overlays(result, mapped)
        for place, overlay in zip(known, overlaid, strict=True):
            drawn[place] = overlay
        grid = maps.shape[1], maps.shape[2]
        if method:
            return replace(explained, overlays=drawn, method=method, pooling=pooling, grid=grid)
    reasons = dict.fromkeys(overlay.reason for overlay in drawn)
    return replace(explained, overlays=drawn, reason="; ".join(reasons))


def _check(result: Result, own: Dataset, overlays: str) -> tuple[MadeBy, str, tuple[int, ...]]:
    """Return what made the features, their layer there, and their shape.

    Raises:
        _NoOverlayError: There can be no overlay.
    """
    shape = tuple(own.X.shape[1:])
    if overlays == OVERLAYS[2]:
        raise _NoOverlayError("left out with --overlays never")
    if result.finetuned and result.finetuned.best_epoch:
        raise _NoOverlayError("the answers are those of a fine-tuned trunk, not of these features")
    if own.store:
        members = own.store.choose(own.layer).members
        if len(members) > 1:
            raise _NoOverlayError("the head takes several layers, joined")
        ((part, layer),) = members
        made_by = part.made_by
    else:
        made_by, layer = MadeBy("", *_made_by(own)), own.layer
    if not made_by.trunk.trunk:
        raise _NoOverlayError("the features are those of another program")
    if len(shape) == 1 and made_by.trunk.pooling == "cls":
        raise _NoOverlayError("the features are those of a class token")
    if len(shape) == 1 and made_by.trunk.pooling not in ("avg", "max"):
        raise _NoOverlayError("the features are a vector, without positions in the image")
    if len(shape) not in (1, 3):
        raise _NoOverlayError("the features are tokens, whose places in the image are not known")
    return made_by, layer, shape


def _made_by(own: Dataset) -> tuple[Any, ...]:
    return own.trunk, own.weights_sha256, own.dtype, own.precision, own.calibration_sha256


def _read_rows(X: Any, rows: Labels) -> Rows:
    """Return features of rows in any order."""
    if not isinstance(X, StoredRows):
        return np.asarray(X[rows])
    order, places = np.unique(rows, return_inverse=True)
    return X.read(order)[places]
