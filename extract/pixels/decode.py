"""Turn the bytes of one image into RGB pixels of a fixed size, or give a short reason why not."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.images.kinds import image_kind, what_it_is
from extract.pixels.jpeg import Shrink, read_jpeg
from extract.pixels.levels import note_range, to_bytes
from extract.pixels.pillow import load_image, open_image, orientation_of, reasons, to_image
from extract.pixels.png import read_png
from extract.pixels.tiff import read_tiff

Resample = Callable[[Any, tuple[int, int], tuple[float, ...]], Any]
# EXIF's orientations -> Pillow's method that turns the image upright.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# Orientations with swapped axes, and with mirrored columns and rows.
_SWAPPED = (5, 6, 7, 8)
_MIRRORED = ((2, 3, 6, 7), (3, 4, 7, 8))


def decode(
    content: bytes,
    size: tuple[int, int],
    resize: str = "stretch",
    interpolation: str = "bilinear",
    decoding: str = "full",
    notes: list[Note] | None = None,
) -> np.ndarray:
    """Decode the first frame of an image, turn it upright, lay it on white and resize it.

    Args:
        content: The bytes of the file; the first bytes give its kind.
        size: Height and width of the result in pixels.
        resize: ``stretch``, ``crop`` to the middle or ``pad`` with black.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        decoding: ``full``; ``scaled`` reads a JPEG at 1/2, 1/4 or 1/8 of its size if that is twice
            ``size`` at least; ``fast`` also resizes with SIMD. Both are within a grey level of
            ``full`` on average.
        notes: Receives what is doubtful about an image that is read.

    Returns:
        (H, W, 3) uint8 RGB in 0..255, writable.

    Raises:
        ImageError: The image cannot be read; the message is the reason, at most 120 bytes.
    """
    kind = image_kind(content)
    if kind is None:
        raise ImageError(what_it_is(content))
    noted = [] if notes is None else notes
    # Of fewer pixels nearest would pick others.
    can_shrink = decoding != "full" and interpolation != "nearest"
    shrink = partial(_shrink, max(size), resize) if can_shrink else None
    image, box = _read(content, kind, noted, shrink)
    resample = partial(_resample, interpolation, decoding)
    return np.array(_resize(image, box, size[::-1], resize, resample))


def _read(
    content: bytes, kind: str, notes: list[Note], shrink: Shrink | None
) -> tuple[Any, tuple[float, ...]]:
    """Read the first frame in RGB and upright; also return the box in which its pixels are.

    The frame is a Pillow image, or uint8 (H, W, 3) where none is needed.
    """
    if kind == "JPEG":
        image, covered, orientation = read_jpeg(content, notes, shrink)
    else:
        read = _READERS.get(kind)
        image = read(content, notes) if read else load_image(content, kind)
        covered, orientation = image.size, orientation_of(image)
    if isinstance(image, np.ndarray) and orientation not in _TURNS:
        return image, (0, 0, *covered)
    image = to_image(image)
    stored = image.size
    with reasons(kind):
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
    return _to_rgb(image, kind, notes), _turn_box(stored, covered, orientation)


def _turn_box(
    stored: tuple[int, int], covered: tuple[float, float], orientation: int
) -> tuple[float, ...]:
    """Return the part that pixels cover of an image that is upright now.

    The last column and row of a shrunk image reach beyond it, and may be the first ones now.
    """
    beyond = [stored[0] - covered[0], stored[1] - covered[1]]
    if orientation in _SWAPPED:
        covered, beyond = covered[::-1], beyond[::-1]
    left, top = (beyond[i] * (orientation in _MIRRORED[i]) for i in (0, 1))
    return left, top, left + covered[0], top + covered[1]


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


def _shrink(side: int, resize: str, width: int, height: int) -> int:
    """Return 8, 4 or 2 if an image that much smaller is twice as large as the result, or else 1.

    ``side`` is the longer one of the result, because the image may have to be turned.
    """
    longest = max(width, height) if resize == "pad" else min(width, height)
    return next((n for n in (8, 4, 2) if longest >= 2 * n * side), 1)


def _resize(
    image: Any, box: tuple[float, ...], size: tuple[int, int], resize: str, resample: Resample
) -> Any:
    """Bring the part of an image in a box to (width, height)."""
    from PIL import Image

    width, height = box[2] - box[0], box[3] - box[1]
    if resize == "stretch":
        return resample(image, size, box)
    if resize == "crop":
        ratio = size[0] / size[1]
        part = min(width, ratio * height), min(height, width / ratio)
        left, top = box[0] + (width - part[0]) * 0.5, box[1] + (height - part[1]) * 0.5
        return resample(image, size, (left, top, left + part[0], top + part[1]))
    if resize != "pad":
        raise ValueError(f"resize: found {resize!r}; expected stretch, crop or pad")
    # As ImageOps.pad, which rounds the short side of a thin image to 0 and returns all black.
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    padded = Image.new("RGB", size)
    corner = round((size[0] - inner[0]) / 2), round((size[1] - inner[1]) / 2)
    padded.paste(to_image(resample(image, inner, box)), corner)
    return padded


def _resample(
    interpolation: str, decoding: str, image: Any, size: tuple[int, int], box: tuple[float, ...]
) -> Any:
    """Resample the part of an RGB image in a box."""
    from PIL.Image import Resampling

    if box == (0, 0, *size):
        return image
    # The other filters overshoot, and what is clipped depends on the order of rows and columns.
    if decoding == "fast" and interpolation == "bilinear":
        return _resample_fast(image, size, box)
    return to_image(image).resize(size, Resampling[interpolation.upper()], box)


def _resample_fast(image: Any, size: tuple[int, int], box: tuple[float, ...]) -> np.ndarray:
    """Resample the part of an RGB image in a box, bilinear and with SIMD."""
    import cykooz_resizer as simd

    width, height = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
    source = simd.ImageData(width, height, simd.PixelType.U8x3, image.tobytes())
    target = simd.ImageData(*size, simd.PixelType.U8x3)
    bilinear = simd.ResizeAlg.convolution(simd.FilterType.bilinear)
    left, top, right, bottom = box
    part = simd.CropBox(left, top, right - left, bottom - top)
    simd.Resizer().resize(source, target, simd.ResizeOptions(bilinear, crop_box=part))
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size[::-1], 3)
