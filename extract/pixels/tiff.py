"""TIFF: what Pillow reads right is read by Pillow, the rest by tifffile, or refused by name.

tifffile decodes some kinds on its own; for the others it needs imagecodecs, the extra ``tiff``.
"""

import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.pixels.jpeg import find_hole
from extract.pixels.levels import note_high_bytes, to_bytes
from extract.pixels.pillow import check_size, open_image, reasons
from extract.pixels.tiff_tags import (
    ASSOCIATED,
    BLACK,
    CMYK,
    DEFLATE,
    JPEG,
    LAB,
    LZMA,
    LZW,
    PACKBITS,
    PALETTE,
    RGB,
    UNCOMPRESSED,
    WHITE,
    YCBCR,
    ZSTD,
    Layout,
    has_pages,
    is_plain,
    is_reduced,
    is_right_in_pillow,
    open_tifffile,
    read_layout,
    read_tags,
    refuse_raw,
)

_NAMES = {WHITE: "grey", BLACK: "grey", RGB: "RGB", PALETTE: "palette", CMYK: "CMYK"}
_NAMES |= {YCBCR: "YCbCr", LAB: "Lab"}
# What tifffile is given: decoders that stop where the strip or tile is full.
_COMPRESSIONS = (UNCOMPRESSED, LZW, JPEG, *DEFLATE, PACKBITS, LZMA, ZSTD)
_PREDICTED = (LZW, *DEFLATE, LZMA, ZSTD)
_COMPRESSION_NAMES = {
    **{UNCOMPRESSED: "none", LZW: "LZW", JPEG: "JPEG", 8: "deflate", 32946: "deflate"},
    **{PACKBITS: "PackBits", LZMA: "LZMA", ZSTD: "Zstandard", 34887: "LERC", 34933: "PNG"},
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **{50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 22610: "JPEG XR", 34892: "lossy JPEG"},
}
_REDUCED = Note("the first image of the TIFF, which is read, is a smaller copy of another in it")
_PAGES = Note("the TIFF has further pages, which are not read")
_FOURTH = Note("the TIFF does not say what its fourth sample is, which is not read")
# Samples of one image, in bytes.
_MOST_BYTES = 2**30


def read_tiff(content: bytes, notes: list[Note]) -> Any:
    """Read the first image of a TIFF.

    Args:
        content: The file.
        notes: Receives a note if the range of the values is doubtful.

    Returns:
        A Pillow image; its colours are right, its orientation is as in the file.

    Raises:
        ImageError: The image is damaged, of a kind that is not read, or a camera raw file.
    """
    with reasons("TIFF"):
        tags = read_tags(content)
        refuse_raw(tags)
        layout = read_layout(content, tags)
        check_size(layout.width, layout.height)
        if layout.compression == JPEG:
            _check_jpegs(content, tags)
        known = is_right_in_pillow(layout, tags)
        several = has_pages(content, tags)
    if is_reduced(tags):
        notes.append(_REDUCED)
    elif several:
        notes.append(_PAGES)
    if layout.photometric == RGB and layout.samples == 4 and 338 not in tags:
        notes.append(_FOURTH)
    if known and (image := _open(content)):
        with reasons("TIFF"):
            image.load()
        return _correct(image, layout, tags, notes)
    with reasons("TIFF"):
        _refuse_unread(layout, tags)
    return _to_image(_read_samples(content, layout), layout, tags, notes)


def _open(content: bytes) -> Any:
    """Open a TIFF in Pillow; None if it does not know the kind."""
    try:
        return open_image(content, "TIFF")
    except ImageError:
        return None


def _correct(image: Any, layout: Layout, tags: Mapping[int, Any], notes: list[Note]) -> Any:
    """Put right what Pillow reads but does not interpret."""
    from PIL import Image

    if image.mode.startswith("I"):
        grey = to_bytes(np.asarray(image), layout.bits, notes)
        return Image.fromarray(255 - grey if layout.photometric == WHITE else grey)
    if image.mode in ("P", "PA"):
        palette = _read_palette(tags)
        with reasons("TIFF"):
            image.putpalette(palette[:256].tobytes())
    if layout.bits == 16:
        note_high_bytes(image, notes)
    if image.mode == "RGBA" and layout.alpha is None:
        image = image.convert("RGB")
    return image


def _refuse_unread(layout: Layout, tags: Mapping[int, Any]) -> None:
    """Refuse by name what tifffile is not asked to read, or cannot for want of a package."""
    photometric = layout.photometric
    if photometric not in _NAMES:
        raise ImageError(
            f"is a TIFF of photometric interpretation {photometric}, which is not read"
        )
    compression = _COMPRESSION_NAMES.get(layout.compression, f"{layout.compression}")
    is_uint = layout.sample_format == 1
    extra = layout.samples - layout.colours
    values = f"samples of format {layout.sample_format} and {layout.bits} bits"
    faults = {
        f"{layout.samples} samples a pixel instead of {layout.colours + len(layout.extra)}": (
            extra != len(layout.extra)
        ),
        values: (
            layout.sample_format not in (1, 2, 3)
            or layout.bits > 64
            or (photometric == PALETTE and not is_uint)
            or (photometric == LAB and not (is_uint and layout.bits in (8, 16)))
        ),
        f"compression {compression}": layout.compression not in _COMPRESSIONS,
        f"fill order {layout.fill_order}": layout.fill_order not in (1, 2),
        "a predictor but not its compression": (
            layout.predictor != 1 and layout.compression not in _PREDICTED
        ),
        "levels or subsampling unlike JPEG's": (
            photometric == YCBCR and (layout.bits != 8 or not is_plain(tags))
        ),
        "inks other than CMYK": photometric == CMYK and tags.get(332, 1) != 1,
        "associated alpha": ASSOCIATED in layout.extra and photometric not in (BLACK, RGB),
    }
    name = f"is a TIFF in {_NAMES[photometric]} with"
    for fault, is_there in faults.items():
        if is_there:
            raise ImageError(f"{name} {fault}, which is not read")
    if not _is_simple(layout) and find_spec("imagecodecs") is None:
        found = f"{layout.bits} bits and compression {compression}"
        raise ImageError(f'{name} {found}; pip install "headstart[tiff]" to read it')


def _is_simple(layout: Layout) -> bool:
    """Whether tifffile reads a kind of TIFF on its own."""
    whole = layout.bits in (1, 8, 16, 32, 64)
    simple = layout.compression in (UNCOMPRESSED, *DEFLATE)
    return whole and simple and (layout.predictor == 1 or layout.sample_format != 3)


def _read_samples(content: bytes, layout: Layout) -> np.ndarray:
    """Read (H, W, S) samples as they are stored."""
    with reasons("TIFF"):
        with open_tifffile(content) as file:
            page: Any = file.pages.first
            _check_segments(content, layout, page)
            stored = page.asarray(squeeze=False, maxworkers=1)
        planes, depth, height, width, samples = stored.shape
        if (depth, height, width) != (1, layout.height, layout.width):
            raise ImageError(f"is a TIFF of {depth} x {height} x {width} pixels")
        stored = stored.view(np.uint8) if stored.dtype == bool else stored
        pixels = stored[:, 0].transpose(1, 2, 0, 3)
        return np.asarray(pixels.reshape(height, width, planes * samples))


def _check_segments(content: bytes, layout: Layout, page: Any) -> None:
    """Refuse strips and tiles that are missing, cut or larger than they say."""
    size = layout.width * layout.height * layout.samples * max(1, layout.bits // 8)
    if size > _MOST_BYTES:
        raise ImageError(f"has {size / 1e9:.1f} GB of samples; at most 1.1 GB are read")
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(segments) < int(np.prod(page.chunked)) or any(
        count < 1 or start < 1 or start + count > len(content) for start, count in segments
    ):
        raise ImageError("is truncated")
    area = int(np.prod(page.chunks))
    if area * max(1, layout.bits // 8) > _MOST_BYTES:
        raise ImageError(f"is a TIFF with strips or tiles of {area:,} samples")
    if layout.compression in DEFLATE and find_spec("imagecodecs") is None:
        # tifffile alone would inflate to any size.
        most = area * -(-layout.bits // 8) + 1
        for start, count in segments:
            inflate = zlib.decompressobj()
            inflate.decompress(content[start : start + count], most)
            if not inflate.eof:
                raise ImageError("is a damaged or unusual TIFF (more data than pixels)")


def _check_jpegs(content: bytes, tags: Mapping[int, Any]) -> None:
    """Refuse JPEG strips and tiles with holes, or larger than any image may be."""
    offsets, counts = (324, 325) if 324 in tags else (273, 279)
    tables = tags.get(347, b"")
    tables = tables if isinstance(tables, bytes) else bytes(tables)
    for start, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
        jpeg = content[start : start + count]
        if hole := find_hole(tables[:-2] + jpeg[2:] if tables else jpeg):
            raise ImageError(f"has a hole ({hole})")


def _to_image(
    samples: np.ndarray, layout: Layout, tags: Mapping[int, Any], notes: list[Note]
) -> Any:
    """Turn samples into a Pillow image in L, RGB, LA or RGBA."""
    from PIL import Image

    colours = samples[..., : layout.colours]
    if layout.photometric == PALETTE:
        shown = _look_up(colours[..., 0], tags)
    elif layout.photometric == LAB and layout.bits > 8:
        # L is unsigned, a and b are signed; the high byte of each is its value in 8 bits.
        shown = (colours.astype(np.uint16) >> (layout.bits - 8)).astype(np.uint8)
    else:
        shown = to_bytes(colours, layout.bits, notes)
    shown = 255 - shown if layout.photometric == WHITE else shown
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[shown.shape[2]]
    mode = {YCBCR: "YCbCr", LAB: "LAB"}.get(layout.photometric, mode)
    size = layout.width, layout.height
    image = Image.frombytes(mode, size, np.ascontiguousarray(shown).tobytes())
    if layout.alpha is not None:
        alpha = to_bytes(samples[..., layout.alpha], layout.bits, [])
        image = _with_alpha(image, alpha, layout.extra[layout.alpha - layout.colours])
    image.getexif()[0x0112] = layout.orientation
    return image


def _look_up(places: np.ndarray, tags: Mapping[int, Any]) -> np.ndarray:
    palette = _read_palette(tags)
    if len(palette) <= int(places.max()):
        raise ImageError("is a TIFF whose palette has too few entries")
    return np.asarray(palette[places])


def _read_palette(tags: Mapping[int, Any]) -> np.ndarray:
    """Return (N, 3) uint8 colours."""
    with reasons("TIFF"):
        entries = np.asarray(tags[320]).ravel().astype(np.uint16).reshape(3, -1).T
    # Some are written with 8 bits; libtiff tells them by this too.
    return (entries if entries.max() < 256 else entries >> 8).astype(np.uint8)


def _with_alpha(image: Any, alpha: np.ndarray, kind: int) -> Any:
    """Add alpha to an image, as Pillow does with what it reads itself."""
    from PIL import Image

    rgba = np.dstack([np.asarray(image.convert("RGB")), alpha]).tobytes()
    stored = "RGBa" if kind == ASSOCIATED else "RGBA"
    return Image.frombytes("RGBA", image.size, rgba, "raw", stored)
