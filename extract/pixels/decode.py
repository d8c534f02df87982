"""Turn the bytes of one image into RGB pixels of a fixed size, or give a short reason why not."""

from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.images.kinds import image_kind, what_it_is
from extract.pixels.jpeg import read_jpeg
from extract.pixels.levels import to_bytes
from extract.pixels.pillow import load_image, reasons
from extract.pixels.png import read_png
from extract.pixels.tiff import read_tiff

_READERS = {"JPEG": read_jpeg, "PNG": read_png, "TIFF": read_tiff}


def decode(
    content: bytes,
    size: tuple[int, int],
    resize: str = "stretch",
    interpolation: str = "bilinear",
    notes: list[Note] | None = None,
) -> np.ndarray:
    """Decode the first frame of an image, turn it upright, lay it on white and resize it.

    Args:
        content: The bytes of the file; the first bytes give its kind.
        size: Height and width of the result in pixels.
        resize: ``stretch``, ``crop`` to the middle or ``pad`` with black.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        notes: Receives what is doubtful about an image that is read.

    Returns:
        (H, W, 3) uint8 RGB in 0..255, writable.

    Raises:
        ImageError: The image cannot be read; the message is the reason, at most 120 bytes.
    """
    from PIL.Image import Resampling

    resample = Resampling[interpolation.upper()]
    kind = image_kind(content)
    if kind is None:
        raise ImageError(what_it_is(content))
    image = _read(content, kind, [] if notes is None else notes)
    return np.array(_resize(_to_rgb(image, kind), size[::-1], resize, resample))


def _read(content: bytes, kind: str, notes: list[Note]) -> Any:
    """Read the first frame and turn it upright."""
    from PIL import ImageOps

    read = _READERS.get(kind)
    image = read(content, notes) if read else load_image(content, kind)
    with reasons(kind):
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception as error:  # broken EXIF loses the orientation, not the image
            if isinstance(error, MemoryError):
                raise
    return image


def _to_rgb(image: Any, kind: str) -> Any:
    """Return an image in mode RGB, itself where it has that mode."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image), 16, []))
    with reasons(kind):
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = Image.new("RGB", clear.size, "white")
            image.paste(clear, mask=clear)
        # convert() copies even where there is nothing to convert.
        return image if image.mode == "RGB" else image.convert("RGB")


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
