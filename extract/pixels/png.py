"""PNG: transparent colours in every depth, and pixels that outlive broken metadata."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.pixels.levels import note_high_bytes, to_bytes
from extract.pixels.pillow import load_image, open_image, reasons, replace_pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
# The chunks that decide the pixels of the first frame; those that add transparency, orientation.
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_HELPFUL = (b"tRNS", b"eXIf")


def read_png(content: bytes, notes: list[Note]) -> Any:
    """Read the first frame of a PNG as a Pillow image.

    Raises:
        ImageError: The image is damaged in a chunk that decides its pixels.
    """
    _check_critical(content)
    try:
        image = load_image(content, "PNG")
    except ImageError:
        content = _without_metadata(content)
        image = load_image(content, "PNG")
    depth, colour = content[24], content[25]
    if depth == 16 and colour != _GREY:
        note_high_bytes(image, notes)
    clear = image.info.pop("transparency", None) if colour in (_GREY, _RGB) else None
    if colour == _RGB:
        return image if clear is None else _clear_rgb(image, content, depth, clear)
    if colour == _GREY and (clear is not None or depth == 16):
        return _clear_grey(image, depth, clear, notes)
    return image


def _clear_grey(image: Any, depth: int, clear: int | None, notes: list[Note]) -> Any:
    """Return grey in 8 bits, whose transparent value is white."""
    values = np.asarray(image if depth == 16 else image.convert("L"))
    grey = to_bytes(values, 16, notes) if depth == 16 else values.copy()
    if clear is not None:
        # Only the bits that a value has count.
        clear &= 2**depth - 1
        grey[values == (clear if depth == 16 else clear * 255 // (2**depth - 1))] = 255
    return replace_pixels(image, grey)


def _clear_rgb(image: Any, content: bytes, depth: int, clear: tuple[int, int, int]) -> Any:
    """Return colours of which the transparent one is white; all bits are compared."""
    high = np.asarray(image)
    key = np.array(clear)
    if depth == 8:
        is_clear = (high == (key & 0xFF)).all(axis=2)
    else:
        low = np.asarray(_read_low_bytes(content))
        is_clear = ((high == key >> 8) & (low == key & 0xFF)).all(axis=2)
    return replace_pixels(image, np.where(is_clear[..., None], np.uint8(255), high))


def _read_low_bytes(content: bytes) -> Any:
    """Read the low bytes of 16-bit colours, of which Pillow keeps the high ones."""
    image = open_image(content, "PNG")
    with reasons("PNG"):
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
    return image


def _check_critical(content: bytes) -> None:
    """Refuse wrong checksums in the chunks that hold the pixels; Pillow looks at few of them."""
    for name, chunk, is_sound in _chunks(content):
        if (
            name in _CRITICAL
            and not is_sound
            and len(chunk) == 12 + int.from_bytes(chunk[:4], "big")
        ):
            reason = f"wrong checksum in {name.decode()}"
            raise ImageError(f"is a damaged or unusual PNG ({reason})")


def _without_metadata(content: bytes) -> bytes:
    """Leave out chunks that Pillow reads but that do not change the pixels."""
    kept = [_SIGNATURE]
    for name, chunk, is_sound in _chunks(content):
        if name in _CRITICAL or (name in _HELPFUL and is_sound):
            kept.append(chunk)
    return b"".join(kept)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield the name and the bytes of each chunk up to the last, and whether its checksum fits."""
    at = len(_SIGNATURE)
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunk = content[at : at + 12 + size]
        checksum = zlib.crc32(chunk[4 : 8 + size]).to_bytes(4, "big")
        yield chunk[4:8], chunk, checksum == chunk[8 + size :]
        if chunk[4:8] == b"IEND":
            return
        at += 12 + size
