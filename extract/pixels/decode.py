"""Turn the bytes of one image into RGB pixels of a fixed size, or give a short reason why not.

Pillow reads all kinds of images. Three of its habits are overruled, because an image must give the
same pixels in every thread and next to every library:

- With ``ImageFile.LOAD_TRUNCATED_IMAGES``, which some libraries set when imported, it fills missing
  pixels with grey. No single image can opt out, so the switch is reset before each image.
- It warns of odd metadata and big images, or fails over them under ``-W error``.
  ``warnings.catch_warnings`` swaps a global and is unsafe in threads, so one filter that ignores
  all warnings raised inside ``PIL`` stays in front of the others.
- ``Image.open`` hides the fault of a header and the size of a refused image. The plugins behind it
  tell both and are called directly.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.images.kinds import IMAGE_KINDS, image_kind

MAX_PIXELS = 2**27
# Pillow resizes the width first: 1 x 2**27 pixels would become 2**27 full rows, 80 GB at 150.
MAX_SIDE = 2**17

_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def decode(
    content: bytes, size: tuple[int, int], resize: str = "stretch", interpolation: str = "bilinear"
) -> np.ndarray:
    """Decode the first frame of an image, turn it upright, lay it on white and resize it.

    Args:
        content: The bytes of the file; the first bytes give its kind.
        size: Height and width of the result in pixels.
        resize: ``stretch``, ``crop`` to the middle or ``pad`` with black.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.

    Returns:
        (H, W, 3) uint8 RGB in 0..255, writable.

    Raises:
        ImageError: The image cannot be read; the message is the reason, at most 120 bytes.
    """
    from PIL.Image import Resampling

    resample = Resampling[interpolation.upper()]
    kind = image_kind(content)
    if kind is None:
        kinds = ", ".join(IMAGE_KINDS)
        raise ImageError(f"is not an image of a known kind ({kinds})" if content else "is empty")
    return np.array(_resize(_to_rgb(_read(content, kind), kind), size[::-1], resize, resample))


def _read(content: bytes, kind: str) -> Any:
    """Read the first frame and turn it upright; refuse an image that its header calls too large."""
    from PIL import ImageFile, ImageOps

    if warnings.filters[:1] != [_IGNORE_PILLOW]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with _reasons(kind):
        image = _plugin(kind)(BytesIO(content))
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        most = f"{MAX_PIXELS // 10**6} million and {MAX_SIDE} a side"
        raise ImageError(f"is {width} x {height} pixels; at most {most} are read")
    with _reasons(kind):
        image.load()
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception as error:  # broken EXIF loses the orientation, not the image
            if isinstance(error, MemoryError):
                raise
    return image


def _to_rgb(image: Any, kind: str) -> Any:
    """Return an image in mode RGB, itself where it has that mode."""
    from PIL import Image

    if image.mode == "F":
        raise ImageError("has float pixels, whose range is unknown")
    if image.mode.startswith("I"):
        image = Image.fromarray(_high_byte(image))
    with _reasons(kind):
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = Image.new("RGB", clear.size, "white")
            image.paste(clear, mask=clear)
        # convert() copies even where there is nothing to convert.
        return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(image: Any) -> np.ndarray:
    """Scale 16-bit grey to (H, W) uint8, and transparent grey to white.

    Pillow's own conversion clips at 255. Its 16-bit colour keeps the high byte, so grey does too.
    """
    grey = np.asarray(image)
    if grey.dtype.itemsize > 2 and (grey.min() < 0 or grey.max() > 0xFFFF):
        raise ImageError("has integer pixels outside 0..65535, whose range is unknown")
    scaled = (grey >> 8).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[grey == clear] = 255
    return scaled


def _resize(image: Any, size: tuple[int, int], resize: str, resample: int) -> Any:
    """Bring an image to (width, height)."""
    from PIL import Image, ImageOps

    if resize == "stretch":
        return image if image.size == size else image.resize(size, resample)
    if resize == "crop":
        return ImageOps.fit(image, size, resample)
    if resize != "pad":
        raise ValueError(f"resize: found {resize!r}; expected stretch, crop or pad")
    # As ImageOps.pad, which rounds the short side of a thin image to 0 and returns all black.
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    padded = Image.new("RGB", size)
    corner = round((size[0] - inner[0]) / 2), round((size[1] - inner[1]) / 2)
    padded.paste(image.resize(inner, resample), corner)
    return padded


@cache
def _plugin(kind: str) -> Any:
    """Import the class that reads a kind of image, and of an MPO the JPEG of its first frame."""
    # Without a handler of its own, Pillow's one log message would go to stderr.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    *_, name = IMAGE_KINDS[kind]
    return getattr(import_module(f"PIL.{name}ImagePlugin"), f"{name}ImageFile")


@contextmanager
def _reasons(kind: str) -> Iterator[None]:
    """Turn every error of Pillow on hostile content into an ImageError; wrap its calls only."""
    try:
        yield
    except MemoryError as error:
        raise ImageError("needs more memory than there is") from error
    except Exception as error:
        reason = re.sub(r"[^ -~]+", " ", str(error)).strip() or type(error).__name__
        if "truncated" in reason.lower():
            raise ImageError("is truncated") from error
        raise ImageError(f"is a damaged or unusual {kind} ({reason[:80]})") from error
