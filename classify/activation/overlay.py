"""A map of contributions drawn over the image that the trunk saw, as a small WebP.

Orange spoke for the predicted class, blue for the label: two hues that the colour-blind tell apart,
of different lightness, over the image in grey. How opaque they are is proportional to the
contribution; the largest of the image is the most opaque.
"""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.activation.positions import COVERED, Contributions, contributions
from classify.activation.scored_by import group_by_head, open_head
from classify.search.leaderboard import Result
from classify.stored.out_of_core import Labels, Rows

Pixels = NDArray[np.uint8]

SIDE = 160  # the longer side of an overlay
# Mixed with grey, both are lighter or darker than all of the image.
FOR, AGAINST = (255, 140, 0), (20, 60, 200)
_OPACITY, _DARKEST, _LIGHTEST = 0.75, 40, 225
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


class Mapped(NamedTuple):
    """Images that were read, and their feature maps.

    Attributes:
        rows: (n,) their rows in the dataset.
        pixels: What the trunk saw of each.
        maps: (n, h, w, C) feature maps.
        stored: (n, *shape) features as they are stored.
        pooling: How the maps become the features.
        precision: That of the trunk.
    """

    rows: Labels
    pixels: Sequence[Any]
    maps: Rows
    stored: Rows
    pooling: str
    precision: str


def draw_overlays(result: Result, mapped: Mapped) -> tuple[list[Overlay], str]:
    """Return the overlay of each image, and the method; empty where no image has one."""
    drawn, methods = [Overlay()] * len(mapped.rows), list[str]()
    for part in group_by_head(result, mapped.rows):
        own = Mapped(
            mapped.rows[part.places],
            [mapped.pixels[i] for i in part.places],
            mapped.maps[part.places],
            mapped.stored[part.places],
            *mapped[4:],
        )
        overlays, method = _overlays_by_head(result, part.fold, own)
        for place, overlay in zip(part.places, overlays, strict=True):
            drawn[place] = overlay
            if overlay.image:
                methods.append(method)
    return drawn, methods[0] if methods else ""


def _overlays_by_head(result: Result, fold: int, mapped: Mapped) -> tuple[list[Overlay], str]:
    """Return the overlays of images that one head scored, and the method."""
    head = open_head(result, fold, mapped.rows)
    if isinstance(head, str):
        return [Overlay(reason=head)] * len(mapped.rows), ""
    assert result.dataset
    answers, truths = _answers(result, mapped.rows), result.dataset.y[mapped.rows]
    reasons = _compare(mapped.maps, mapped.stored, mapped.pooling, mapped.precision)
    parts = contributions(head, mapped.maps, mapped.pooling, answers, truths)
    overlays = [
        Overlay(reason=reason) if reason else _show(mapped.pixels[i], parts, i)
        for i, reason in enumerate(reasons)
    ]
    return overlays, parts.method


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
    distance = np.linalg.norm(pooled - stored, axis=1)
    share = _SAME if precision == "float32" else _SAME_LOW
    other = "the trunk gives other features now than when they were extracted"
    same = distance <= share * np.linalg.norm(stored, axis=1)  # features may all be zero
    return ["" if one else other for one in same]


def _show(pixels: Any, parts: Contributions, place: int) -> Overlay:
    positions = parts.positions[place]
    if parts.method == COVERED and np.abs(positions).max() < _LEAST:
        return Overlay(reason="covering one position changes nothing")
    image = draw_overlay(pixels, positions)
    words, constant = describe_place(positions), float(parts.constant[place])
    return Overlay(image, "", words, positions.tolist(), constant)


def draw_overlay(pixels: Pixels, positions: NDArray[np.floating]) -> str:
    """Draw contributions over an image, as a data URI.

    Args:
        pixels: (H, W, 3) as the trunk saw it: cropped, padded or stretched.
        positions: (h, w) contributions; the map covers the whole of the image.
    """
    from PIL import Image

    H, W = pixels.shape[:2]
    scale = min(1.0, SIDE / max(H, W))
    size = max(1, round(W * scale)), max(1, round(H * scale))
    image = Image.fromarray(blend(pixels, positions)).resize(size, Image.Resampling.BOX)
    image.save(out := BytesIO(), "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"


def blend(pixels: Pixels, positions: NDArray[np.floating]) -> Pixels:
    """Return (H, W, 3) pixels in grey under the colours of the contributions."""
    from PIL import Image

    largest = np.abs(positions).max() or 1.0
    # Digits that depend on the number of threads must not change a pixel.
    shares = Image.fromarray((positions / largest).round(3).astype(np.float32))
    smooth = np.asarray(shares.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))
    opacity = _OPACITY * np.clip(np.abs(smooth), 0, 1)[:, :, None]
    light = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[:, :, None]
    grey = _DARKEST + light / 255 * (_LIGHTEST - _DARKEST)
    colours = np.where(smooth[:, :, None] > 0, np.array(FOR), np.array(AGAINST))
    return np.asarray((grey * (1 - opacity) + colours * opacity).round(), np.uint8)


def describe_place(positions: NDArray[np.floating]) -> str:
    """Name the part of the image that speaks most for the predicted class, in words."""
    if not (positions > 0).any():
        return "nowhere"
    h, w = positions.shape
    y, x = divmod(int(positions.round(6).argmax()), w)
    up, across = (min(2, 3 * (2 * at + 1) // (2 * of)) for at, of in ((y, h), (x, w)))
    row, column = ("top", "", "bottom")[up], ("left", "", "right")[across]
    return " ".join(filter(None, [row, column])) or "the middle"
