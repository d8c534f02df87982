"""An image -> augmented views of it, as Keras' ImageDataGenerator makes them in the course notes.

A view is a pure function of (seed, key, view): one hash gives all its random numbers. A random
generator would depend on the release of NumPy and on the order of the calls. So the order of the
images, workers, batches, machines and restarts change nothing.

The notes warp the pixels that the trunk sees, not the larger image before resizing, and so does
this module: resize, crop and pad keep their meaning, and a view costs the same for every image.
Beyond the edge the nearest pixel repeats (``fill_mode="nearest"``). Two things differ:

- One cubic resampling does all steps at once, not a linear one: linear resampling blurs, so
  training images would be softer than validation images.
- The notes' shear of 0.2 is a share, 11 degrees. It was written when the generator took radians;
  since https://github.com/keras-team/keras/pull/8868 the same 0.2 means a fifth of a degree there.
"""

import hashlib
import math

import numpy as np

from extract.core.views import ViewSpec

# How far a cubic filter reaches beyond a pixel's centre.
_REACH = 2


def make_views(pixels: np.ndarray, key: str, spec: ViewSpec) -> tuple[np.ndarray, ...]:
    """Make all augmented views of an image.

    Args:
        pixels: (H, W, 3) uint8, the plain view.
        key: The image's key.
        spec: The number of views and the limits of each step.

    Returns:
        Views 1 to V, each (H, W, 3) uint8.
    """
    size = np.array(pixels.shape[1::-1])
    return tuple(_warp(pixels, *_affine(key, n, spec, size)) for n in range(1, spec.views + 1))


def _affine(key: str, view: int, spec: ViewSpec, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and offset from a view's pixels to the image's, counted from the middle.

    ``size`` is (width, height). The steps come in the generator's order.
    """
    digest = hashlib.blake2b(f"{spec.seed or 0} {view} {key}".encode(), digest_size=64).digest()
    # Random numbers, uniform over -1 to 1.
    turn, x, y, slant, wide, high, side, _ = np.frombuffer(digest, "<u8") / 2.0**63 - 1
    angle = math.radians((spec.rotation or 0) * turn)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1, 0], [(spec.shear or 0) * slant, 1]])
    zoom = 1 + (spec.zoom or 0) * np.array([wide, high])
    zoom[0] *= -1 if spec.flip and side < 0 else 1
    shift = (spec.shift or 0) * size * np.array([x, y])
    return rotation @ shear @ np.diag(zoom), rotation @ shift


def _warp(pixels: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Resample (H, W, 3) uint8 pixels once."""
    from PIL import Image

    size = np.array(pixels.shape[1::-1])
    middle, reach = size / 2 + offset, np.abs(matrix) @ (size / 2)
    # Pillow paints pixels beyond the edge black, so the edge is repeated as far as needed.
    low = np.floor(middle - reach).astype(int) - _REACH
    high = np.ceil(middle + reach).astype(int) + _REACH
    columns, rows = (np.arange(low[i], high[i]).clip(0, size[i] - 1) for i in (0, 1))
    window = Image.fromarray(pixels.take(rows, axis=0).take(columns, axis=1))
    start = middle - low - matrix @ (size / 2)
    affine = np.column_stack([matrix, start]).ravel().tolist()
    shape = int(size[0]), int(size[1])
    view = window.transform(shape, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(view)
