"""A map of contributions drawn over the image that the trunk saw, as a small WebP.

Orange spoke for the predicted class, blue for the label: two hues that the colour-blind tell apart,
of different lightness, over the image in grey. How opaque they are is proportional to the
contribution; the largest of the image is the most opaque.
"""

from base64 import b64encode
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SIDE = 160  # the longer side of an overlay
# Mixed with grey, both are lighter or darker than all of the image.
FOR, AGAINST = (255, 140, 0), (20, 60, 200)
_OPACITY, _DARKEST, _LIGHTEST = 0.75, 40, 225


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
