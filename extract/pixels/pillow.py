"""Pillow, kept quiet: open an image of a known kind, and turn its errors into short reasons.

Three of its habits are overruled, because an image must give the same pixels in every thread and
next to every library:

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
from extract.images.kinds import IMAGE_KINDS
from extract.limits.image_size import PIXELS

# Pillow resizes the width first: 1 x 2**27 pixels would become 2**27 full rows, 80 GB at 150.
MAX_SIDE = 2**17

# Pillow takes memory in blocks. Those of the usual 16 MB stay with the thread that has freed them,
# so that memory grows with the threads; glibc gives back what is larger than 32 MB.
_BLOCK_BYTES = 2**26

# EXIF's tag of the orientation, and where Pillow looks for it.
_TAG = 0x0112
_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def open_image(content: bytes, kind: str) -> Any:
    """Read the header of an image, and refuse one that its header calls too large."""
    from PIL import Image, ImageFile

    Image.core.set_block_size(_BLOCK_BYTES)  # type: ignore[attr-defined]
    if warnings.filters[:1] != [_IGNORE_PILLOW]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if size := _webp_size(content) if kind == "WebP" else None:
        check_size(*size)  # its plugin takes memory for the pixels at once
    with reasons(kind):
        image = _plugin(kind)(BytesIO(content))
    check_size(*image.size)
    return image


def load_image(content: bytes, kind: str) -> Any:
    """Read the first frame of an image."""
    image = open_image(content, kind)
    with reasons(kind):
        image.load()
    return image


def check_size(width: int, height: int) -> None:
    """Refuse an image before memory is taken for its pixels, or wait for room for them."""
    if min(width, height) < 1:
        raise ImageError(f"is {width} x {height} pixels")
    size = f"is {width} x {height} pixels"
    if width * height > PIXELS.most:
        raise ImageError(f"{size}; at most {PIXELS.most:,} are read; see {PIXELS.flag}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{size}; at most {MAX_SIDE:,} a side are read")
    PIXELS.claim(width * height)


def orientation_of(image: Any) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where there is none, or a broken one."""
    try:
        orientation = image.getexif().get(_TAG)
    except MemoryError as error:
        raise ImageError("needs more memory than there is") from error
    except Exception:  # broken EXIF loses the orientation, not the image
        return 1
    return orientation if orientation in range(1, 9) else 1


def to_image(pixels: Any) -> Any:
    """Return a Pillow image of uint8 pixels; an image is returned as it is."""
    from PIL import Image

    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels


def replace_pixels(image: Any, pixels: np.ndarray) -> Any:
    """Return an image of other pixels with the orientation of ``image``."""
    from PIL import Image

    replaced = Image.fromarray(pixels)
    replaced.info = {name: image.info[name] for name in _ORIENTATION if name in image.info}
    return replaced


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height in the header of a WebP, None where it is damaged.

    Source: the WebP container specification, RFC 9649; RFC 6386 for the frame of VP8.
    """
    numbers = (int.from_bytes(content[at : at + 4], "little") for at in (21, 24, 26, 27))
    lossless, wide, lossy, high = numbers
    sizes = {
        b"VP8X": ((wide & 0xFFFFFF) + 1, (high & 0xFFFFFF) + 1),
        b"VP8L": ((lossless & 0x3FFF) + 1, (lossless >> 14 & 0x3FFF) + 1),
        b"VP8 ": (lossy & 0x3FFF, lossy >> 16 & 0x3FFF),
    }
    return sizes.get(content[12:16])


@contextmanager
def reasons(kind: str) -> Iterator[None]:
    """Turn every error of a library on hostile content into an ImageError; wrap its calls only."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("needs more memory than there is") from error
    except Exception as error:
        reason = re.sub(r"[^ -~]+", " ", str(error)).strip() or type(error).__name__
        if "truncated" in reason.lower():
            raise ImageError("is truncated") from error
        raise ImageError(f"is a damaged or unusual {kind} ({reason[:80]})") from error


@cache
def _plugin(kind: str) -> Any:
    """Import the class that reads a kind of image, and of an MPO the JPEG of its first frame."""
    # Without a handler of its own, Pillow's one log message would go to stderr.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    *_, name = IMAGE_KINDS[kind]
    if name == "Heif":
        return import_module("pi_heif").HeifImageFile
    return getattr(import_module(f"PIL.{name}ImagePlugin"), f"{name}ImageFile")
