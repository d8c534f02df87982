"""Turn the bytes of one image into RGB pixels of a fixed size, or give a short reason why not."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.images.kinds import image_kind, what_it_is
from extract.pixels.jpeg import read_jpeg
from extract.pixels.levels import note_range, to_bytes
from extract.pixels.pillow import load_image, open_image, reasons
from extract.pixels.png import read_png
from extract.pixels.tiff import read_tiff


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
    noted = [] if notes is None else notes
    image = _read(content, kind, noted)
    return np.array(_resize(_to_rgb(image, kind, noted), size[::-1], resize, resample))


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


def _read_gif(content: bytes, notes: list[Note]) -> Any:
    """Read the first frame of a GIF; what it leaves of the canvas is clear, so white."""
    from PIL import Image

    image = open_image(content, "GIF")
    box = image.tile[0][1] if image.tile else (0, 0, *image.size)
    with reasons("GIF"):
        image.load()
        if box == (0, 0, *image.size):
            return image
        frame = image.convert("RGBA").crop(box)
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(frame, box[:2], frame)
    return canvas


def _read_bmp(content: bytes, notes: list[Note]) -> Any:
    """Read a BMP; where no pixel has an alpha above 0, its writer left alpha out."""
    image = load_image(content, "BMP")
    is_empty = image.mode == "RGBA" and image.getextrema()[3] == (0, 0)
    return image.convert("RGB") if is_empty else image


def _read_ppm(content: bytes, notes: list[Note]) -> Any:
    """Read a PPM; Pillow takes a microsecond for each value whose maximum is unusual."""
    from PIL import Image

    image = open_image(content, "PPM")
    reader, _box, offset, mode = image.tile[0]
    if reader != "ppm":
        return load_image(content, "PPM")
    highest = mode[1]
    shape = image.height, image.width, len(image.getbands())
    stored = np.dtype(">u2" if highest > 255 else "u1")
    if len(content) < offset + np.prod(shape) * stored.itemsize:
        raise ImageError("is truncated")
    values = np.frombuffer(content, stored, int(np.prod(shape)), offset)
    if highest == 0xFFFF:
        note_range(int(values.max()), 16, notes)
    most = 0xFFFF if image.mode == "I" else 0xFF
    scale = np.rint(np.arange(0x10000) / highest * most).clip(max=most).astype(np.uint16)
    scale = (scale >> 8 if image.mode == "I" else scale).astype(np.uint8)
    return Image.fromarray(scale[values].reshape(shape).squeeze(axis=2 if shape[2] == 1 else ()))


# Kind -> function that reads its first frame; Pillow alone reads the others.
_READERS: Mapping[str, Callable[[bytes, list[Note]], Any]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "TIFF": read_tiff,
    "PPM": _read_ppm,
    "GIF": _read_gif,
    "BMP": _read_bmp,
}


def _to_rgb(image: Any, kind: str, notes: list[Note]) -> Any:
    """Return an image in mode RGB, itself where it has that mode."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image), 16, notes))
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
