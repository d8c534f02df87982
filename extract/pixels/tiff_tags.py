"""The tags of a TIFF: how its pixels are stored, and which of the readers is right about them.

Pillow opens some kinds of TIFF whose pixels it then scrambles or inverts. The rules here come from
a table of all kinds, ``python -m tests.test_pixels_tiff``.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from extract.core.errors import ImageError

# Photometric interpretation.
WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {WHITE: 1, BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
# Colours of a sensor, not of an image.
_RAW_COLOURS = (32803, 34892)
UNCOMPRESSED, LZW, _OLD_JPEG, JPEG, DEFLATE = 1, 5, 6, 7, (8, 32946)
PACKBITS, LZMA, ZSTD = 32773, 34925, 50000
# Those that Pillow has in every build, the codes of fax machines among them, and in some builds.
_PILLOW_COMPRESSIONS = (*range(1, 9), PACKBITS, 32946)
_PILLOW_SOMETIMES = (LZMA, ZSTD)
_PILLOW_BITS = {WHITE: (1, 2, 4, 8, 16), BLACK: (1, 2, 4, 8, 12, 16, 32), PALETTE: (1, 2, 4, 8)}
_PILLOW_BITS |= {RGB: (8, 16), CMYK: (8, 16), YCBCR: (8,), LAB: (8,)}
# Bits of NewSubfileType.
_REDUCED_COPY, _MASK = 1, 4
_BIG_ENDIAN_BIG = b"MM\0+"
# Kinds of extra samples.
_UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2


class Layout(NamedTuple):
    """How the pixels of a TIFF are stored, in the words of its tags."""

    width: int
    height: int
    bits: int
    sample_format: int
    photometric: int
    samples: int
    extra: tuple[int, ...]
    compression: int
    predictor: int
    planar: bool
    fill_order: int
    orientation: int
    byte_order: bytes

    @property
    def colours(self) -> int:
        """Samples of a pixel that are no extra samples."""
        return _COLOURS.get(self.photometric, self.samples)

    @property
    def alpha(self) -> int | None:
        """The sample that is the alpha, if there is one."""
        for place, kind in enumerate(self.extra):
            if kind in (ASSOCIATED, UNASSOCIATED):
                return self.colours + place
        return None


def read_tags(content: bytes) -> Mapping[int, Any]:
    """Return the tags of the first image."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if content[:4] == _BIG_ENDIAN_BIG:  # which Pillow takes for what it is not
        with open_tifffile(content) as file:
            page: Any = file.pages.first
            return {tag.code: tag.value for tag in page.tags}
    stream = BytesIO(content)
    tags = ImageFileDirectory_v2(stream.read(16 if content[2:4] == b"+\0" else 8))
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def refuse_raw(tags: Mapping[int, Any]) -> None:
    """Refuse the files of cameras: what lies first in them is a thumbnail, or no colours yet."""
    if (is_reduced(tags) and 330 in tags) or 50706 in tags or tags.get(262) in _RAW_COLOURS:
        raise ImageError("is a camera raw file; develop it to TIFF, PNG or JPEG before")


def is_reduced(tags: Mapping[int, Any]) -> bool:
    """Whether an image is a smaller copy of another one in the file."""
    kind = tags.get(254)
    return isinstance(kind, int) and bool(kind & _REDUCED_COPY)


def has_pages(content: bytes, tags: Mapping[int, Any]) -> bool:
    """Whether another image follows the first that is no smaller copy of it and no mask."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    following = getattr(tags, "next", 0)
    if not 0 < following < len(content):
        return False
    stream = BytesIO(content)
    second = ImageFileDirectory_v2(stream.read(16 if content[2:4] == b"+\0" else 8))
    stream.seek(following)
    second.load(stream)
    kind = second.get(254, 0)
    return isinstance(kind, int) and not kind & (_REDUCED_COPY | _MASK) and 256 in second


def read_layout(content: bytes, tags: Mapping[int, Any]) -> Layout:
    """Return the layout that the tags describe."""

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(each != values[0] for each in values):
            raise ImageError(f"is a TIFF whose samples differ (tag {tag}: {str(value)[:40]})")
        if not isinstance(values[0], int):
            raise ImageError(f"is a damaged or unusual TIFF (tag {tag}: {str(value)[:40]})")
        return values[0]

    compression = number(259, 1)
    # Old JPEG is YCbCr, whatever the tag says.
    photometric = YCBCR if compression == _OLD_JPEG else number(262, WHITE)
    extra = tags.get(338, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    samples = number(277, 3 if compression == JPEG and photometric in (RGB, YCBCR) else 1)
    colours = _COLOURS.get(photometric, samples)
    if photometric == RGB and samples == colours + 1 and not extra:
        extra = (_UNSPECIFIED,)  # nothing says that it is alpha: it may be infrared
    return Layout(
        width=number(256, 0),
        height=number(257, 0),
        bits=number(258, 1),
        sample_format=number(339, 1),
        photometric=photometric,
        samples=samples,
        extra=extra,
        compression=compression,
        predictor=number(317, 1),
        planar=number(284, 1) == 2 and samples > 1,
        fill_order=number(266, 1),
        orientation=number(274, 1),
        byte_order=content[:4],
    )


def is_right_in_pillow(layout: Layout, tags: Mapping[int, Any]) -> bool:
    """Whether Pillow, if it opens this kind of TIFF, reads it right but for what is corrected."""
    photometric, bits, raw = layout.photometric, layout.bits, layout.compression == UNCOMPRESSED
    associated, one_colour = ASSOCIATED in layout.extra, layout.colours == 1
    is_signed, is_big_endian = layout.sample_format == 2, layout.byte_order[:2] == b"MM"
    padded = layout.planar and layout.extra and layout.alpha is None
    sometimes = padded or layout.compression in _PILLOW_SOMETIMES
    return not (
        layout.byte_order == _BIG_ENDIAN_BIG
        or layout.sample_format not in (1, 2)
        or (is_signed and (photometric != BLACK or bits < 16 or (is_big_endian and not raw)))
        or bits not in _PILLOW_BITS.get(photometric, ())
        or layout.compression not in (*_PILLOW_COMPRESSIONS, *_PILLOW_SOMETIMES)
        or (sometimes and (photometric == YCBCR or find_spec("imagecodecs")))
        or (raw and layout.fill_order != 1)
        or (associated and one_colour)
        or (layout.planar and (one_colour or photometric == LAB))
        or (layout.planar and raw and (bits > 8 or associated))
        # libtiff leaves out tiles of these that are cut.
        or (photometric == YCBCR and (raw or (322 in tags and layout.compression != JPEG)))
        or (photometric == CMYK and tags.get(332, 1) != 1)
    )


def is_plain(tags: Mapping[int, Any]) -> bool:
    """Whether YCbCr is as in JFIF, with a colour for each pixel."""
    scale = tuple(float(each) for each in tags.get(529, (0.299, 0.587, 0.114)))
    levels = tuple(float(each) for each in tags.get(532, (0, 255, 128, 255, 128, 255)))
    usual = len(scale) == 3 and np.allclose(scale, (0.299, 0.587, 0.114), atol=1e-3)
    plain = levels == (0, 255, 128, 255, 128, 255)
    return bool(usual) and plain and tuple(tags.get(530, (2, 2))) == (1, 1)


def open_tifffile(content: bytes) -> Any:
    """Open a TIFF in tifffile."""
    from tifffile import TiffFile

    # Without a handler of its own, its log messages would go to stderr.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    return TiffFile(BytesIO(content))
