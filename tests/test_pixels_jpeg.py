"""JPEG: the pixels are Pillow's, holes are refused, and what is harmless costs no image."""

from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.pixels.decode import decode
from tests.test_pixels_decode import adobe, saved

CASES = Path(__file__).parent / "cases"
Y, X = np.mgrid[:123, :165]
RANDOM = np.random.default_rng(8)
# Enough detail that no part of the data is zero, and colour everywhere.
DETAIL = RANDOM.integers(-40, 41, (123, 165, 3))
PHOTO = np.stack([X + 30, 2 * Y, 255 - X], -1) + DETAIL
PHOTO = PHOTO.clip(0, 255).astype(np.uint8)
IMAGE = Image.fromarray(PHOTO)
MODES = ("L", "RGB", "CMYK")


def encoded(sampling: int, size: tuple[int, int], **flags: int) -> bytes:
    """Write a JPEG with OpenCV, which knows more ways of subsampling than Pillow."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    for name, value in flags.items():
        options += [getattr(cv2, f"IMWRITE_JPEG_{name}"), value]
    pixels = np.ascontiguousarray(PHOTO[: size[0], : size[1]])
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


FACTORS = {"411": 0x411111, "420": 0x221111, "422": 0x211111, "440": 0x121111, "444": 0x111111}
SIZES = [(1, 1), (8, 8), (17, 31), (123, 165)]
FLAGS: list[dict[str, int]] = [{}, {"PROGRESSIVE": 1}, {"RST_INTERVAL": 3}, {"OPTIMIZE": 1}]
SORTS = list(product(FACTORS, SIZES, range(len(FLAGS))))


def pillows(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(("factor", "size", "flags"), SORTS)
def test_pixels_are_pillows(factor: str, size: tuple[int, int], flags: int) -> None:
    content = encoded(FACTORS[factor], size, **FLAGS[flags])
    notes: list[Note] = []
    np.testing.assert_array_equal(decode(content, size, notes=notes), pillows(content))
    assert not notes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_modes(mode: str, quality: int) -> None:
    for progressive in (False, True):
        content = saved("JPEG", IMAGE.convert(mode), quality=quality, progressive=progressive)
        np.testing.assert_array_equal(decode(content, (123, 165)), pillows(content))
    rgb = simplejpeg.encode_jpeg(PHOTO, colorspace="RGB")
    np.testing.assert_array_equal(decode(rgb, (123, 165)), pillows(rgb))


def test_real_photographs_are_pillows(shared: Path) -> None:
    paths = sorted((shared / "caltech-20").rglob("*.jpg"))[::9]
    paths += sorted((shared / "horse-or-human").rglob("*.jpg"))[::9]
    assert len(paths) > 150
    for path in paths:
        notes: list[Note] = []
        content = path.read_bytes()
        expected = pillows(content)
        read = decode(content, expected.shape[:2], notes=notes)
        assert np.array_equal(read, expected), path
        assert not notes, path


def scan(content: bytes) -> range:
    """Return where the pixels of a JPEG lie."""
    start = content.rindex(b"\xff\xda") if content.count(b"\xff\xda") == 1 else None
    start = content.index(b"\xff\xda") if start is None else start
    return range(start + 14, len(content) - 2)


def with_hole(kind: str, content: bytes, share: float) -> bytes:
    places = scan(content)
    at = places[int(len(places) * share)]
    return {
        "cut": content[:at],
        "cut and ended": content[:at] + b"\xff\xd9",
        "zeros": content[:at] + bytes(1024) + content[at + 1024 :],
        "lost": content[:at] + content[at + 512 :],
    }[kind]


SORTED: dict[str, bytes] = {
    "photo": saved("JPEG", IMAGE, quality=90),
    "grey": saved("JPEG", IMAGE.convert("L"), quality=90),
    "cmyk": saved("JPEG", IMAGE.convert("CMYK"), quality=90),
    "ycck": adobe(saved("JPEG", IMAGE.convert("CMYK"), quality=90), 2),
    "optimized": saved("JPEG", IMAGE, quality=90, optimize=True),
    "restarts": encoded(FACTORS["420"], (123, 165), RST_INTERVAL=5),
}


@pytest.mark.parametrize("name", SORTED)
@pytest.mark.parametrize("kind", ["cut", "cut and ended", "zeros"])
def test_holes_are_refused(kind: str, name: str) -> None:
    content = SORTED[name]
    for share in (0.1, 0.4, 0.8):
        with pytest.raises(ImageError, match=r"^is truncated$|^has a hole"):
            decode(with_hole(kind, content, share), (30, 40))


def test_progressive_files_that_are_cut_are_refused() -> None:
    content = saved("JPEG", IMAGE, quality=90, progressive=True)
    for share in (0.05, 0.3, 0.6):
        for kind in ("cut", "cut and ended"):
            with pytest.raises(ImageError, match=r"^is truncated$|^has a hole"):
                decode(with_hole(kind, content, share), (30, 40))


@pytest.mark.parametrize("name", ["photo", "grey"])
def test_lost_bytes_are_refused_or_noted(name: str) -> None:
    for share in np.linspace(0.05, 0.85, 9):
        notes: list[Note] = []
        try:
            decode(with_hole("lost", SORTED[name], share), (30, 40), notes=notes)
        except ImageError:
            continue
        assert notes


def test_extra_bytes_are_noted() -> None:
    content = SORTED["photo"]
    padded = content[:-2] + bytes(20) + content[-2:]
    notes: list[Note] = []
    np.testing.assert_array_equal(decode(padded, (123, 165), notes=notes), pillows(content))
    assert [str(note)[:20] for note in notes] == ["JPEG data hold bytes"]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


HARMLESS: dict[str, Any] = {
    "JFIF version": lambda c: c[:11] + b"\x09\x09" + c[13:],
    "bytes in front of a marker": lambda c: c[:20] + b"odd bytes" + c[20:],
    "Adobe transform": lambda c: c[:20] + segment(0xEE, b"Adobe\0d\0\0\0\0\7") + c[20:],
    "sequence": lambda c: c[: scan(c)[0] - 3] + b"\0\0\0" + c[scan(c)[0] :],
    "bytes at the end": lambda c: c + b"trailer" * 50,
    "zeros at the end": lambda c: c + bytes(5000),
    "profile": lambda c: c[:20] + segment(0xE2, b"ICC_PROFILE\0\5\1abc") + c[20:],
    "empty comment": lambda c: c[:20] + segment(0xFE, b"") + c[20:],
    "zeros in the header": lambda c: c[:20] + segment(0xE7, bytes(3000)) + c[20:],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_costs_no_image(name: str) -> None:
    content = SORTED["photo"]
    notes: list[Note] = []
    np.testing.assert_array_equal(
        decode(HARMLESS[name](content), (123, 165), notes=notes), pillows(content)
    )
    assert not notes


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_hides_no_hole(name: str) -> None:
    holed = with_hole("cut and ended", SORTED["photo"], 0.5)
    with pytest.raises(ImageError, match=r"^has a hole"):
        decode(HARMLESS[name](holed), (30, 40))


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_flat_images_have_no_holes(mode: str, value: int) -> None:
    """Their data may be zeros from start to end."""
    flat = Image.new(mode, (900, 700), (value,) * 3 if mode == "RGB" else value)
    for optimize, progressive in product((False, True), (False, True)):
        content = saved("JPEG", flat, optimize=optimize, progressive=progressive)
        assert decode(content, (9, 9)).shape == (9, 9, 3)


def test_half_flat_images_have_no_holes() -> None:
    page = np.full((1000, 900, 3), 255, np.uint8)
    page[400:523, 300:465] = PHOTO
    for optimize in (False, True):
        content = saved("JPEG", Image.fromarray(page), optimize=optimize)
        np.testing.assert_array_equal(decode(content, (1000, 900)), pillows(content))


def test_files_of_others() -> None:
    folder = CASES / "jpeg-holes"
    whole = (folder / "whole.jpg").read_bytes()
    np.testing.assert_array_equal(decode(whole, (120, 160)), pillows(whole))
    for name in ("cut_then_eoi.jpg", "zeros_inside.jpg"):
        with pytest.raises(ImageError, match=r"^has a hole"):
            decode((folder / name).read_bytes(), (120, 160))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved("JPEG", IMAGE, exif=exif, quality=95)
    size = (123, 165) if orientation < 5 else (165, 123)
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    np.testing.assert_array_equal(decode(content, size), np.asarray(upright))
