"""JPEG: pixels by simplejpeg, which says where data are missing.

libjpeg fills a hole with grey and goes on. It warns, but Pillow hides its warnings. simplejpeg
decodes with the same library, gives the same pixels no slower, and raises on the first warning.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.pixels.pillow import (
    check_size,
    load_image,
    open_image,
    orientation_of,
    reasons,
    to_image,
)

Shrink = Callable[[int, int], int]
# Warnings of libjpeg (jerror.h) that mean lost pixels.
_HOLES = ("premature end", "bad huffman", "bad arithmetic", "instead of rst")
_DOUBTFUL = ("extraneous bytes", "inconsistent progression")
_EXTRA = Note(
    "JPEG data hold bytes that belong to no pixel; look whether parts of the image are lost"
)
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# So many zero bytes are no pixels, unless the code tables say so.
_ZEROS = bytes(128)
# A segment; in front of it lie odd bytes at most.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xda-\xdf\xe0-\xfe]")
_SEQUENTIAL = (0xC0, 0xC1)
_TABLES, _SCAN, _JFIF, _ADOBE = 0xC4, 0xDA, 0xE0, 0xEE


def read_jpeg(
    content: bytes, notes: list[Note], shrink: Shrink | None = None
) -> tuple[Any, tuple[float, float], int]:
    """Read a JPEG at a fraction of its size if that is enough.

    Args:
        content: The file.
        notes: Receives a note if there are bytes that belong to no pixel.
        shrink: Returns the divisor, 1, 2, 4 or 8, for a width and a height.

    Returns:
        The image: uint8 (H, W, 3), or one of Pillow where it is not RGB; the part of it that
        pixels cover, from its upper left corner: width and height of a shrunk image are rounded up;
        and its orientation.

    Raises:
        ImageError: The image is damaged, or has a hole.
    """
    image = open_image(content, "JPEG")
    orientation = orientation_of(image)
    segments = _split(content)
    _refuse_zeros(content, segments)
    by = shrink(*image.size) if shrink and image.mode in ("L", "RGB") else 1
    pixels, warning = _decode_strictly(content, image, by)
    if warning and not _is_hole(warning):
        # Only the first warning is told: what is odd in the header would hide a hole.
        pixels, warning = _decode_strictly(_without_metadata(content, segments), image, by)
    if _is_hole(warning):
        raise ImageError(
            "is truncated" if "end of JPEG file" in warning else f"has a hole ({warning})"
        )
    if any(word in warning.lower() for word in _DOUBTFUL):
        _check_restarts(content)
        notes.append(_EXTRA)
    if pixels is None or image.mode == "CMYK":
        return load_image(content, "JPEG"), image.size, orientation
    covered = image.width / by, image.height / by
    return (pixels if image.mode == "RGB" else to_image(pixels)), covered, orientation


def find_hole(content: bytes) -> str:
    """Return what libjpeg says of a hole in a JPEG, or nothing.

    Raises:
        ImageError: The JPEG is too large.
    """
    from simplejpeg import decode_jpeg, decode_jpeg_header

    try:
        height, width, space, _ = decode_jpeg_header(content)
    except ValueError:  # of a kind that simplejpeg does not know
        return ""
    check_size(width, height)
    try:
        decode_jpeg(content, {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(space, "RGB"))
    except ValueError as error:
        return str(error) if _is_hole(str(error)) else ""
    return ""


def _is_hole(warning: str) -> bool:
    return any(word in warning.lower() for word in _HOLES)


def _decode_strictly(content: bytes, image: Any, by: int) -> tuple[np.ndarray | None, str]:
    """Return (H, W) or (H, W, C) pixels of the header's size divided, or the first warning."""
    from simplejpeg import decode_jpeg

    space = _SPACES.get(image.mode)
    if space is None:
        return None, ""
    with reasons("JPEG"):
        height, width = -(-image.height // by), -(-image.width // by)
        pixels = np.empty((height, width, len(image.getbands())), np.uint8)
        least = {"min_height": height, "min_width": width, "min_factor": by} if by > 1 else {}
        try:
            # A buffer, so that no other header can ask for more memory.
            read = decode_jpeg(content, space, buffer=pixels, **least)
        except ValueError as error:
            return None, str(error)
    if read.shape != pixels.shape:
        return None, ""
    return (pixels[..., 0] if space == "GRAY" else pixels), ""


def _split(content: bytes) -> list[tuple[int, int, int]]:
    """Return the marker, start and end of each segment up to the first pixels."""
    segments = []
    at = 2
    while marker := _MARKER.search(content, at):
        start = marker.start()
        at = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        segments.append((content[start + 1], start, at))
        if content[start + 1] == _SCAN:
            break
    return segments


def _refuse_zeros(content: bytes, segments: list[tuple[int, int, int]]) -> None:
    """Refuse pixels that lie in a block of zero bytes, as a broken disk or transfer leaves it.

    libjpeg decodes zeros without a warning. The code of zero bits alone belongs to the first symbol
    of a table; where that is not "no change" or "end of block", no image has many of them.
    """
    kinds = {marker for marker, *_ in segments}
    if not kinds.intersection(_SEQUENTIAL) or not segments or segments[-1][0] != _SCAN:
        return
    pixels = segments[-1][2]
    zeros = content.find(_ZEROS, pixels)
    if zeros < 0 or 0 <= content.find(b"\xff\xd9", pixels) < zeros:
        return
    bodies = [content[start + 4 : end] for marker, start, end in segments if marker == _TABLES]
    if not bodies or any(first for body in bodies for first in _first_symbols(body)):
        raise ImageError("has a hole (a block of zero bytes)")


def _check_restarts(content: bytes) -> None:
    """Refuse pixels among which a restart marker is missing; each scan counts from 0 to 7."""
    for scan in content.split(b"\xff\xda")[1:]:
        restarts = [int(marker[1]) & 7 for marker in re.findall(rb"\xff[\xd0-\xd7]", scan)]
        if any(number != place % 8 for place, number in enumerate(restarts)):
            raise ImageError("has a hole (a restart marker is missing)")


def _first_symbols(tables: bytes) -> Iterator[int]:
    """Yield the first symbol of each code table of a segment."""
    while len(tables) > 17:
        yield tables[17]
        tables = tables[17 + sum(tables[1:17]) :]


def _without_metadata(content: bytes, segments: list[tuple[int, int, int]]) -> bytes:
    """Leave out, or put right, what lets libjpeg warn of a header and changes no pixel."""
    if not segments or segments[-1][0] != _SCAN:
        return content
    parts = [content[:2]]
    kinds = {marker for marker, *_ in segments}
    for marker, start, end in segments:
        body = content[start:end]
        if marker == _JFIF and body[4:9] == b"JFIF\0":
            body = body[:9] + b"\1\1" + body[11:]
        elif marker == _ADOBE and body[4:9] == b"Adobe" and len(body) > 15:
            body = body[:15] + bytes([body[15] if body[15] < 3 else 1]) + body[16:]
        elif marker == _SCAN and kinds.intersection(_SEQUENTIAL):
            body = body[:-3] + b"\0\x3f\0"
        elif _JFIF <= marker <= 0xEF or marker == 0xFE:
            continue
        parts.append(body)
    return b"".join(parts) + content[segments[-1][2] :]
