"""Where the head looked at its most confident mistakes, and their nearest training images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from classify.activation.images import read_pixels
from classify.activation.nearest import Neighbour, find_nearest
from classify.activation.overlay import describe_place, draw_overlay
from classify.activation.positions import COVERED, Contributions, contributions
from classify.activation.scored_by import group_by_head, open_head
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
_MOST_PAIRS = 1000
# How far the mean of a map may be from the stored features, as a share of their length.
_SAME, _SAME_LOW = 0.01, 0.1
# The least change of log odds that is more than rounding.
_LEAST = 0.01


class Overlay(NamedTuple):
    """Where the head looked, for one image.

    Attributes:
        image: The map over the image, as a data URI; empty without one.
        reason: Why there is none; empty with one.
        place: Where the predicted class has most of its evidence, in words.
        positions: (h, w) contributions to the log odds; empty without a map.
        constant: What no position contributes.
    """

    image: str = ""
    reason: str = ""
    place: str = ""
    positions: Sequence[Sequence[float]] = ()
    constant: float = 0.0


@dataclass(frozen=True)
class Explained:
    """The mistakes that the report shows, explained.

    Attributes:
        rows: Their rows in the dataset.
        overlays: One for each.
        nearest: The training images most similar to each.
        near: Near-duplicates on two sides of the split or in two folds, the most similar first.
        method: ``exact``, ``gradient`` or ``covered``; empty without any overlay.
        pooling: How the maps became the features of the head: ``avg``, ``max`` or ``none``.
        grid: Height and width of the maps; zeros without one.
        reason: Why there is no overlay at all; empty where there is one.
        seconds: What it took.
    """

    rows: list[int] = field(default_factory=list)
    overlays: list[Overlay] = field(default_factory=list)
    nearest: list[list[Neighbour]] = field(default_factory=list)
    near: list[NearPair] = field(default_factory=list)
    method: str = ""
    pooling: str = ""
    grid: tuple[int, int] = (0, 0)
    reason: str = ""
    seconds: float = 0.0

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
            "near_duplicates": near[:_MOST_PAIRS],
        }


class _NoOverlayError(Exception):
    """Why no image has an overlay."""


def explain_mistakes(
    result: Result, mistakes: Sequence[Mistake], overlays: str = OVERLAYS[0]
) -> Explained:
    """Explain the first mistakes: where the head looked, and the nearest training images.

    No failure is raised: a reason takes the place of what could not be made.

    Args:
        result: The result of the run.
        mistakes: Mistakes on validation rows, the most important one first.
        overlays: When the trunk runs again, see ``TrainConfig``.
    """
    began = time.perf_counter()
    explained = Explained.left_out(mistakes, "")
    rows, own = explained.rows, result.dataset
    if own is not None and not own.near_joined:
        explained = replace(explained, near=list_near_leaks(own.X, sides_of(result)))
    if not rows or own is None or result.scores is None:
        return replace(explained, seconds=time.perf_counter() - began)
    explained = replace(explained, nearest=_nearest(result, rows))
    try:
        explained = _draw(result, explained, overlays)
    except (_NoOverlayError, HeadstartError, OSError, MemoryError) as error:
        explained = replace(explained, reason=first_line(error))
    except Exception as error:  # the report must not be lost for an overlay
        log.warning("no overlays: %s: %s", type(error).__name__, first_line(error))
        log.debug("", exc_info=error)
        explained = replace(explained, reason=f"{type(error).__name__}: {first_line(error)}")
    reasons = {overlay.reason for overlay in explained.overlays}
    if not explained.reason and len(reasons) == 1:
        explained = replace(explained, reason=reasons.pop())
    if explained.reason:
        log.debug("no overlays: %s", explained.reason)
    return replace(explained, seconds=time.perf_counter() - began)


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


def _nearest(result: Result, rows: Sequence[int]) -> list[list[Neighbour]]:
    """Return the nearest training images of each row, among those of the head that scored it."""
    assert result.dataset
    nearest: list[list[Neighbour]] = [[] for _ in rows]
    for part in group_by_head(result, np.array(rows)):
        own = [rows[place] for place in part.places]
        found = find_nearest(result.dataset.X, own, part.trained)
        for place, neighbours in zip(part.places, found, strict=True):
            nearest[place] = neighbours
    return nearest


def _draw(result: Result, explained: Explained, overlays: str) -> Explained:
    """Add the overlays; raise _NoOverlayError or HeadstartError where there can be none."""
    own, rows = result.dataset, np.array(explained.rows)
    assert own is not None
    made_by, layer, shape = _check(result, own, overlays)
    pixels = read_pixels(own, explained.rows, made_by.trunk)
    known = np.array([i for i, image in enumerate(pixels) if not isinstance(image, str)])
    drawn = [Overlay(reason=image) if isinstance(image, str) else Overlay() for image in pixels]
    if not len(known):
        return replace(explained, overlays=drawn)
    stored = _read_rows(own.X, rows[known])
    maps, pooling = stored, "none"
    if len(shape) == 1:
        engine = open_maps(made_by, layer, len(known), overlays == OVERLAYS[1])
        maps = run_maps(engine, layer, np.stack([pixels[i] for i in known]))
        pooling = made_by.trunk.pooling
    if maps.shape[1] * maps.shape[2] == 1:
        raise _NoOverlayError("the feature map has one position")
    method = ""
    for part in group_by_head(result, rows[known]):
        own_places, own_rows = known[part.places], rows[known][part.places]
        head = open_head(result, part.fold, own_rows)
        if isinstance(head, str):
            reasons = [head] * len(own_places)
            parts = None
        else:
            own_maps = maps[part.places]
            reasons = _compare(own_maps, stored[part.places], pooling, made_by.precision)
            answers, truths = _answers(result, own_rows), own.y[own_rows]
            parts = contributions(head, own_maps, pooling, answers, truths)
            method = parts.method
        for i, (place, reason) in enumerate(zip(own_places, reasons, strict=True)):
            drawn[place] = Overlay(reason=reason) if reason else _overlay(pixels[place], parts, i)
    grid = maps.shape[1], maps.shape[2]
    return replace(explained, overlays=drawn, method=method, pooling=pooling, grid=grid)


def _check(result: Result, own: Dataset, overlays: str) -> tuple[MadeBy, str, tuple[int, ...]]:
    """Return what made the features, their layer there, and their shape.

    Raises:
        _NoOverlayError: There can be no overlay.
    """
    shape = tuple(own.X.shape[1:])
    if overlays == OVERLAYS[2]:
        raise _NoOverlayError("left out with --overlays never")
    if result.finetuned and result.finetuned.best_epoch:
        raise _NoOverlayError("the answers are those of a fine-tuned trunk, which has moved on")
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


def _answers(result: Result, rows: Labels) -> Labels:
    """Return the classes that validation rows were taken for."""
    assert result.scores is not None
    places = np.searchsorted(result.validation_rows, rows)
    return np.asarray(result.scores[places].argmax(axis=1))


def _compare(maps: Rows, stored: Rows, pooling: str, precision: str) -> list[str]:
    """Return for each map why it does not belong to the stored features; empty where it does."""
    if pooling == "none":
        return [""] * len(maps)
    pooled = maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2))
    distance = np.linalg.norm(pooled - stored, axis=1) / np.linalg.norm(stored, axis=1)
    most = _SAME if precision == "float32" else _SAME_LOW
    other = "the trunk gives other features now than when they were extracted"
    return ["" if one <= most else other for one in distance]


def _overlay(pixels: Any, parts: Contributions | None, place: int) -> Overlay:
    assert parts
    positions = parts.positions[place]
    if parts.method == COVERED and np.abs(positions).max() < _LEAST:
        return Overlay(reason="covering one position changes nothing")
    image = draw_overlay(pixels, positions)
    words, constant = describe_place(positions), float(parts.constant[place])
    return Overlay(image, "", words, positions.tolist(), constant)
