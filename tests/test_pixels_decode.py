"""Every kind of image becomes the right pixels, and every broken one a reason."""

import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

import extract.pixels.decode
from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.images.entries import Kind, kind_of_file
from extract.images.kinds import IMAGE_ENDINGS, IMAGE_KINDS, UNREAD_KINDS, image_kind, unread_kind
from extract.pixels.decode import decode

CASES = Path(__file__).parent / "cases"
HEIC_ENDINGS = (".heic", ".heif", ".hif", ".heics", ".heifs")
RED, GREEN, BLUE, WHITE, BLACK = (200, 30, 40), (20, 180, 60), (10, 40, 220), (255,) * 3, (0,) * 3


def saved(kind: str, image: Image.Image, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def flat(mode: str, colour: Any, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


def line(*pixels: Any, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    return image


def palette(*colours: tuple[int, ...]) -> Image.Image:
    image = line(*range(len(colours)), mode="P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def png(depth: int, colour: int, *row: int, clear: int | None = None, size: Any = None) -> bytes:
    """Write a PNG by hand: Pillow writes no 16-bit colour and tells no lies about the size."""
    size = size or (len(row) // {0: 1, 4: 2, 2: 3, 6: 4}[colour], 1)
    pixels = b"\0" + struct.pack(f">{len(row)}{'H' if depth == 16 else 'B'}", *row)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))]
    chunks += [(b"tRNS", struct.pack(">H", clear))] if clear is not None else []
    chunks += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def adobe(content: bytes, transform: int | None) -> bytes:
    """Take the Adobe marker out of a CMYK JPEG, or have it name another transform (2 is YCCK)."""
    start = content.index(b"\xff\xee\x00\x0eAdobe")
    kept = b"" if transform is None else content[start : start + 15] + bytes([transform])
    return content[:start] + kept + content[start + 16 :]


NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (24, 40, 3), dtype=np.uint8))
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [flat("RGB", RED, NOISE.size)]}
FIRST = flat("RGB", BLUE, NOISE.size)
RGBA = line((*RED, 255), (*RED, 0), (0, 0, 0, 64), mode="RGBA")
ON_WHITE = [RED, WHITE, (191,) * 3]
DEEP = np.array([[0, 255, 256, 0x8080, 0xFFFF]], np.uint16)
GREYS = [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
BIG_ENDIAN = Image.frombytes("I;16B", (5, 1), DEEP.astype(">u2").tobytes())
CMYK, CMYK_RGB = flat("CMYK", (60, 120, 20, 40)), (164, 114, 198)  # (1 - c) (1 - k), in 255ths
CMYK_JPEG = saved("JPEG", CMYK, quality=98)
# The file holds 255 less these: Y 90, Cb 100, Cr 180, K 200.
YCCK_JPEG = adobe(saved("JPEG", flat("CMYK", (165, 155, 75, 55)), quality=98), 2)

EXACT = {
    "png": (saved("PNG", line(RED, BLUE)), [RED, BLUE]),
    "png grey": (saved("PNG", line(0, 77, mode="L")), [BLACK, (77,) * 3]),
    "png 1 bit": (saved("PNG", line(0, 1, mode="1")), [BLACK, WHITE]),
    "png palette": (saved("PNG", palette(RED, BLUE)), [RED, BLUE]),
    "png palette, 1 clear": (saved("PNG", palette(RED, BLUE), transparency=1), [RED, WHITE]),
    "png palette, part clear": (
        saved("PNG", palette(RED, BLACK, GREEN), transparency=b"\0\x80\xff"),
        [WHITE, (127,) * 3, GREEN],
    ),
    "png grey alpha": (saved("PNG", line((9, 255), (9, 0), mode="LA")), [(9,) * 3, WHITE]),
    "png alpha": (saved("PNG", RGBA), ON_WHITE),
    "png, 1 clear": (saved("PNG", line(RED, BLUE), transparency=BLUE), [RED, WHITE]),
    "png grey, 1 clear": (saved("PNG", line(9, 0, mode="L"), transparency=9), [WHITE, BLACK]),
    "png 16 grey": (saved("PNG", Image.fromarray(DEEP)), GREYS),
    "png 16 grey, 1 clear": (png(16, 0, 0x1234, 0x1235, clear=0x1234), [WHITE, (0x12,) * 3]),
    "png 16 grey alpha": (png(16, 4, 0x4000, 0xFFFF, 0, 0), [(0x40,) * 3, WHITE]),
    "png 16": (png(16, 2, 0x1234, 0x80FF, 0xFFFF, 0, 256, 255), [(0x12, 0x80, 255), (0, 1, 0)]),
    "png 16 alpha": (png(16, 6, 0x1234, 0x80FF, 0, 0xFFFF, 1, 2, 3, 0), [(0x12, 0x80, 0), WHITE]),
    "bmp": (saved("BMP", line(RED, GREEN, BLUE)), [RED, GREEN, BLUE]),
    "bmp palette": (saved("BMP", palette(RED, BLUE)), [RED, BLUE]),
    "gif": (saved("GIF", palette(RED, BLUE)), [RED, BLUE]),
    "gif, 1 clear": (saved("GIF", palette(RED, BLUE), transparency=0), [WHITE, BLUE]),
    "webp": (saved("WEBP", line(RED, BLUE), lossless=True), [RED, BLUE]),
    "webp alpha": (saved("WEBP", RGBA, lossless=True), ON_WHITE),
    "tiff": (saved("TIFF", line(RED, BLUE)), [RED, BLUE]),
    "tiff alpha": (saved("TIFF", RGBA), ON_WHITE),
    "tiff lzw": (saved("TIFF", line(RED, BLUE), compression="tiff_lzw"), [RED, BLUE]),
    "tiff fax": (saved("TIFF", line(0, 1, mode="1"), compression="group4"), [BLACK, WHITE]),
    "tiff 16 grey": (saved("TIFF", Image.fromarray(DEEP)), GREYS),
    "tiff 16 grey, big-endian": (saved("TIFF", BIG_ENDIAN), GREYS),
    "tiff 16 grey in 32": (saved("TIFF", Image.fromarray(DEEP.astype(np.int32))), GREYS),
    "gif animated": (saved("GIF", FIRST.quantize(2), **FRAMES), [BLUE]),
    "apng": (saved("PNG", FIRST, **FRAMES), [BLUE]),
    "webp animated": (saved("WEBP", FIRST, lossless=True, **FRAMES), [BLUE]),
    "pbm": (b"P1\n# by hand\n2 1\n0 1", [WHITE, BLACK]),
    "pbm binary": (b"P4 2 1\n\x40", [WHITE, BLACK]),
    "pgm": (b"P2\n3 1\n# white\n15\n0 5 15\n", [BLACK, (85,) * 3, WHITE]),
    "pgm binary": (b"P5\n2 1\n255\n\x4d\xff", [(77,) * 3, WHITE]),
    "pgm 16": (b"P5 5 1 65535\n" + DEEP.astype(">u2").tobytes(), GREYS),
    "pgm 12 bits": (b"P5 2 1 4095\n\x08\0\x0f\xff", [(128,) * 3, WHITE]),
    "ppm": (b"P3 2 1 255 200 30 40\n10 40 220", [RED, BLUE]),
    "ppm binary": (b"P6\n# by GIMP\n2 1\n255\n" + bytes((*RED, *BLUE)), [RED, BLUE]),
    "ppm 16": (b"P6 1 1 65535\n\x12\x34\x80\xff\xff\xff", [(0x12, 0x80, 255)]),
    "avif alpha": (saved("AVIF", RGBA.resize((3, 8)), quality=100, subsampling="4:4:4"), ON_WHITE),
}
LOSSY = {
    "jpeg": (saved("JPEG", flat("RGB", RED), quality=98), [RED]),
    "jpeg progressive": (saved("JPEG", flat("RGB", RED), quality=98, progressive=True), [RED]),
    "jpeg grey": (saved("JPEG", flat("L", 77), quality=98), [(77,) * 3]),
    "jpeg cmyk, Adobe": (CMYK_JPEG, [CMYK_RGB]),
    "jpeg cmyk": (adobe(CMYK_JPEG, None), [CMYK_RGB]),
    "jpeg ycck": (YCCK_JPEG, [(72, 151, 168)]),
    "mpo": (saved("MPO", FIRST, quality=98, **FRAMES), [BLUE]),
    "tiff cmyk": (saved("TIFF", CMYK), [CMYK_RGB]),
    "avif": (saved("AVIF", flat("RGB", BLUE), quality=98), [BLUE]),
    "avif animated": (saved("AVIF", FIRST, quality=98, **FRAMES), [BLUE]),
    "webp lossy": (saved("WEBP", flat("RGB", BLUE), quality=98), [BLUE]),
}
GOOD: dict[str, tuple[bytes, Any]] = {**EXACT, **LOSSY}

# Images with enough in them to be cut short and mutated.
REAL = {
    "jpeg": saved("JPEG", NOISE),
    "jpeg progressive": saved("JPEG", NOISE, progressive=True),
    "jpeg cmyk": saved("JPEG", NOISE.convert("CMYK")),
    "mpo": saved("MPO", NOISE, **FRAMES),
    "png": saved("PNG", NOISE),
    "png palette": saved("PNG", NOISE.quantize(16), transparency=b"\0\x80"),
    "png 16 grey": saved("PNG", Image.fromarray(DEEP.repeat(20, 0))),
    "apng": saved("PNG", NOISE, **FRAMES),
    "bmp": saved("BMP", NOISE),
    "gif": saved("GIF", NOISE, **FRAMES),
    "webp": saved("WEBP", NOISE),
    "webp animated": saved("WEBP", NOISE, lossless=True, **FRAMES),
    "tiff": saved("TIFF", NOISE),
    "tiff deflate": saved("TIFF", NOISE, compression="tiff_adobe_deflate"),
    "tiff jpeg": saved("TIFF", NOISE, compression="jpeg"),
    "ppm": saved("PPM", NOISE),
    "pgm 16": b"P5 40 24 65535\n" + DEEP.repeat(24 * 8).tobytes(),
    "avif": saved("AVIF", NOISE),
}
ALL = [*REAL.values(), *(content for content, _ in GOOD.values())]

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
BAD = {
    "empty": (b"", "^is empty$"),
    "text": (b"BMW, a car. " * 9, "^is not an image but text$"),
    "text that starts like PPM": (b"P1 patient notes: 12 34 at 8 h", "^is not an image but text$"),
    "page": (b"\n<!DOCTYPE html><html>", "^is an HTML page$"),
    "another page": (b"<!-- x --><HTML><head>", "^is an HTML page$"),
    "pointer": (LFS, "^is a Git LFS pointer; run git lfs pull$"),
    "zip": (b"PK\x03\x04" + bytes(40), "^is a zip file$"),
    "heart": (bytes(128) + b"DICM" + bytes(40), "^is an image of the kind DICOM, which is not"),
    "drawing": (
        b"<?xml version='1.0'?>\n<svg>",
        "^is an image of the kind SVG, which is not read$",
    ),
    "canon": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "kind camera raw, which is not read$"),
    "sound": (b"RIFF\0\0\0\0WAVEfmt " + bytes(40), "^is not an image"),
    "only a signature": (b"\x89PNG\r\n\x1a\n", "^is a damaged or unusual PNG"),
    "bomb": (
        png(8, 2, size=(30000, 30000)),
        "^is 30000 x 30000 pixels; at most 134,217,728 are read; see --max-image-pixels$",
    ),
    "just too large": (png(1, 0, size=(2**14, 2**13 + 1)), "^is 16384 x 8193 pixels"),
    "just too long": (
        png(8, 0, size=(1, 2**17 + 1)),
        "^is 1 x 131073 pixels; at most 131,072 a side are read$",
    ),
    "float": (saved("TIFF", Image.fromarray(np.full((2, 2), 2, np.float32))), "^has float pixels"),
    "below 0": (saved("TIFF", Image.fromarray(np.full((2, 2), -1, np.int32))), "outside 0"),
    "above": (saved("TIFF", Image.fromarray(np.full((2, 2), 65536, np.int32))), "outside 0"),
    "12 bits": (
        REAL["jpeg"].replace(b"\xc0\0\x11\x08", b"\xc0\0\x11\x0c"),
        "unusual JPEG .*12-bit",
    ),
    "not zlib": (REAL["png"].replace(b"IDATx", b"IDATy"), "^is a damaged or unusual PNG"),
    "cut jpeg header": (REAL["jpeg"][:15], "^is truncated$"),
    "cut jpeg": (REAL["jpeg"][:-99], "^is truncated$"),
    "cut png": (REAL["png"][:-99], "^is truncated$"),
    "cut bmp": (REAL["bmp"][:-99], "^is truncated$"),
    "cut ppm": (REAL["ppm"][:-99], "^is truncated$|not enough image data"),
}


@pytest.mark.parametrize("name", GOOD)
def test_colours(name: str) -> None:
    content, pixels = GOOD[name]
    decoded = decode(content, (1, len(pixels)))
    assert (decoded.shape, decoded.dtype.name) == ((1, len(pixels), 3), "uint8")
    assert decoded.flags.writeable
    tolerance = 2 if name in LOSSY else 0
    np.testing.assert_allclose(decoded[0].astype(int), pixels, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BAD)
def test_reasons(name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(ImageError, match=reason) as found:
        decode(content, (8, 8))
    assert len(str(found.value).encode()) <= 120


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretch_is_pillows_plain_chain(interpolation: str) -> None:
    resample = Image.Resampling[interpolation.upper()]
    for content in (REAL["jpeg"], REAL["png"], REAL["webp"]):
        plain = Image.open(BytesIO(content)).convert("RGB").resize((13, 9), resample)
        decoded = decode(content, (9, 13), interpolation=interpolation)
        np.testing.assert_array_equal(decoded, np.asarray(plain))


def test_crop_and_pad_keep_the_shape() -> None:
    wide = saved("PNG", line(RED, GREEN, BLUE).resize((60, 20), Image.Resampling.NEAREST))
    assert (decode(wide, (10, 10), "crop", "nearest") == GREEN).all()
    padded = decode(wide, (30, 30), "pad")
    assert not padded[:10].any()
    assert not padded[20:].any()
    np.testing.assert_array_equal(padded[10:20], decode(wide, (10, 30)))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1, 20000), (20000, 1)])
def test_thin_images_are_not_lost(size: tuple[int, int]) -> None:
    content = saved("PNG", flat("RGB", GREEN, size))
    for resize in ("stretch", "crop"):
        assert (decode(content, (30, 40), resize) == GREEN).all()
    rows, columns = (decode(content, (30, 40), "pad") == GREEN).all(axis=-1).nonzero()
    spans = len(set(rows)), len(set(columns))
    assert spans == ((30, 30) if size == (1, 1) else (30, 1) if size[0] == 1 else (1, 40))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation(orientation: int, kind: str) -> None:
    corners = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, RED]], np.uint8)
    upright = corners.repeat(8, axis=0).repeat(8, axis=1)
    across = upright.swapaxes(0, 1)
    # The EXIF standard says of each number at which sides the first row and column lie.
    by_row = (upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1])
    by_column = (across, across[::-1], across[::-1, ::-1], across[:, ::-1])
    stored = Image.fromarray(np.ascontiguousarray((*by_row, *by_column)[orientation - 1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact: dict[str, Any] = {"quality": 100, "subsampling": 0, "lossless": True}
    exact |= {"subsampling": "4:4:4"} if kind == "AVIF" else {}  # each kind takes its own
    decoded = decode(saved(kind, stored, exif=exif, **exact), (16, 24))
    most = {"JPEG": 3, "AVIF": 3}.get(kind, 0)
    np.testing.assert_allclose(decoded.astype(int), upright, rtol=0, atol=most)


MAKER = Image.Exif()
MAKER[0x010F] = "a maker's name too long to be stored in the entry"
BROKEN_EXIF = [b"Exif\0\0" + tail for tail in (b"", b"II*\0", b"\xff" * 50, MAKER.tobytes()[6:-20])]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_lose_the_image(exif: bytes, kind: str) -> None:
    plain, odd = saved(kind, NOISE), saved(kind, NOISE, exif=exif)
    expected = decode(plain, (9, 9))
    warnings.simplefilter("error")  # in front of decode's own filter
    np.testing.assert_array_equal(decode(odd, (9, 9)), expected)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("name", REAL)
def test_cut_short_is_never_filled(
    name: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = REAL[name]
    whole, refused = decode(content, (24, 40)), 0
    for end in range(0, len(content), len(content) // 40):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        try:  # where a second frame or the trailer was cut, nothing is missing
            np.testing.assert_array_equal(decode(content[:end], (24, 40)), whole)
        except ImageError:
            refused += 1
    assert refused > 10


ERRORS = [OSError, SyntaxError, struct.error, zlib.error, ValueError, TypeError, OverflowError]
ERRORS += [MemoryError, EOFError, IndexError, KeyError, AssertionError, NotImplementedError]
CALLS = ["PngImagePlugin.PngImageFile._open", "Image.Image.convert"]
FAILURES = [(call, error) for call in CALLS for error in ERRORS]


# Without memory an image is not turned, which is no matter of broken EXIF.
@pytest.mark.parametrize(("call", "error"), [*FAILURES, ("Image.Exif.get", MemoryError)])
@pytest.mark.parametrize("said", ["", "odd\0\n\u00e9" + "and long " * 20])
def test_what_pillow_raises_becomes_a_reason(
    call: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error(said)

    monkeypatch.setattr(f"PIL.{call}", fail)
    reason = "needs more memory" if error is MemoryError else r"is a damaged or unusual PNG \(.+\)$"
    with pytest.raises(ImageError, match=f"^{reason}") as found:
        decode(GOOD["png grey"][0], (8, 8))
    assert str(found.value).isprintable()
    assert len(str(found.value).encode()) <= 120


def test_our_own_mistakes_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        decode(REAL["png"], (8, 8), interpolation="cubic")
    with pytest.raises(ValueError, match="squash") as found:
        decode(REAL["png"], (8, 8), resize="squash")
    assert not isinstance(found.value, ImageError)
    monkeypatch.setattr(extract.pixels.decode, "to_bytes", lambda: None)
    with pytest.raises(TypeError):
        decode(GOOD["pgm 16"][0], (8, 8))


def test_pillows_own_limit_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", NOISE.width * NOISE.height - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(BytesIO(REAL["tiff"]))
    for content in REAL.values():
        assert decode(content, (8, 8)).shape == (8, 8, 3)


SCRIPT = """
import sys
from extract.pixels.decode import decode
assert "PIL" not in sys.modules
for content in sys.argv[1:]:
    try:
        print(decode(bytes.fromhex(content), (4, 4)).shape)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("flags", [[], ["-W", "error"]])
def test_nothing_reaches_stderr(flags: list[str]) -> None:
    """In a process of its own, since pytest takes warnings and log messages away."""
    odd = saved("JPEG", NOISE, exif=BROKEN_EXIF[3])
    tag = struct.pack("<HHLL", 277, 3, 1, 3)  # samples a pixel; Pillow logs when there are 99
    logged = GOOD["tiff"][0].replace(tag, struct.pack("<HHLL", 277, 3, 1, 99))
    command = [sys.executable, *flags, "-c", SCRIPT, odd.hex(), logged.hex()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    reason = "is a TIFF in RGB with 99 samples a pixel instead of 3, which is not read"
    assert (ran.stdout, ran.stderr) == (f"(4, 4, 3)\n{reason}\n", "")


def test_threads_agree() -> None:
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda content: decode(content, (8, 8)), ALL * 4))
    np.testing.assert_array_equal(together, [decode(content, (8, 8)) for content in ALL * 4])


def test_kinds_are_known_by_their_first_bytes() -> None:
    assert [name for name, row in GOOD.items() if not image_kind(row[0][:32])] == []
    assert [name for name in BAD if not image_kind(BAD[name][0][:32])] == list(BAD)[:11]


HEADS = {
    "photo": (b"\xff\xd8\xff", True),
    "photo.heic": (b"\xff\xd8\xff\xe0", True),  # telephones name some JPEGs so
    "scan": (b"II*\0\x08\0\0\0", True),
    "shot.nef": (b"II*\0\x08\0\0\0", False),
    "shot.DNG": (b"MM\0*\0\0\0\x08", False),
    "shot": (b"II*\0\x10\0\0\0CR\2\0", False),
    "sign": (b"P6\n# a comment that is longer than thirty-two bytes\n30 40\n255\n", True),
    "notes": (b"P1 patient notes", False),
    "readme": (b"P2\n# Heading\n\ntext", False),
    "still": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", True),
    "still2": (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf", True),
    "film": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", False),
}


@pytest.mark.parametrize("name", HEADS)
def test_files_are_images_by_ending_or_content(name: str, tmp_path: Path) -> None:
    head, expected = HEADS[name]
    (tmp_path / name).write_bytes(head)
    assert (kind_of_file(str(tmp_path / name)) is Kind.IMAGE) == expected


BRANDS = {
    "avif": (b"avif\0\0\0\0mif1avifmiaf", "AVIF"),
    "avif sequence": (b"avis\0\0\0\0avifavismsf1", "AVIF"),
    "avif, generic": (b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
    "heic": (b"heic\0\0\0\0mif1heicmiaf", "HEIC"),
    "heic, generic": (b"mif1\0\0\0\0mif1heic", "HEIC"),
    "heic sequence": (b"msf1\0\0\0\0msf1hevc", "HEIC"),
    "canon": (b"crx \0\0\0\1crx isom", "camera raw"),
}


@pytest.mark.parametrize("name", BRANDS)
def test_brands_tell_the_kinds_apart(name: str) -> None:
    brands, kind = BRANDS[name]
    head = b"\0\0\0\x1cftyp" + brands
    assert (image_kind(head) or unread_kind("", head)) == kind


HEIC = (CASES / "heic/IMG_0.HEIC").read_bytes()


def turned(content: bytes, angle: int, mirror: int | None = None) -> bytes:
    """Add boxes to the properties of a HEIC: a rotation, counterclockwise, and a mirror."""
    boxes = b"\0\0\0\x09irot" + bytes([angle])
    boxes += b"" if mirror is None else b"\0\0\0\x09imir" + bytes([mirror])
    count = 1 + (mirror is not None)
    at = content.index(b"ipma") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    ipma = bytearray(content[at : at + size])
    known = ipma[18]
    ipma[18] += count
    ipma += bytes(0x80 | (known + 1 + number) for number in range(count))
    ipma[:4] = len(ipma).to_bytes(4, "big")
    grown = content[:at] + boxes + bytes(ipma) + content[at + size :]
    more = len(grown) - len(content)
    for name, extra in ((b"meta", more), (b"iprp", more), (b"ipco", len(boxes))):
        start = grown.index(name) - 4
        value = int.from_bytes(grown[start : start + 4], "big") + extra
        grown = grown[:start] + value.to_bytes(4, "big") + grown[start + 4 :]
    # The place of the pixels, in the box of locations.
    place = content.index(b"mdat") + 4
    return grown.replace(place.to_bytes(4, "big"), (place + more).to_bytes(4, "big"), 1)


@pytest.mark.skipif("HEIC" not in IMAGE_KINDS, reason="the extra heic is not installed")
def test_heic_is_read_and_turned_once() -> None:
    plain = decode(HEIC, (48, 64))
    assert 20 < plain.mean() < 235
    for angle in range(1, 4):
        size = (64, 48) if angle % 2 else (48, 64)
        np.testing.assert_array_equal(decode(turned(HEIC, angle), size), np.rot90(plain, angle))
    for end in range(0, len(HEIC) - 1, 40):
        with pytest.raises(ImageError):
            decode(HEIC[:end], (48, 64))


def test_without_its_extra_heic_is_named() -> None:
    hidden = ["import importlib.util as u", "find = u.find_spec"]
    hidden += ["u.find_spec = lambda name: None if name == 'pi_heif' else find(name)"]
    code = "; ".join([*hidden, "from extract.images.kinds import *", "from pathlib import Path"])
    code += f"; content = Path({str(CASES / 'heic/IMG_0.HEIC')!r}).read_bytes()"
    code += "; print(image_kind(content), unread_kind('a.HEIC'), what_it_is(content))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = 'is an image of the kind HEIC, which is not read; pip install "headstart[heic]"'
    assert ran.stdout == f"None HEIC {said}\n"


def test_ppm_of_others() -> None:
    content = (CASES / "ppm/00000_00000.ppm").read_bytes()
    assert tuple(decode(content, (48, 64))[5, 10]) == (40, 25, 30)


@pytest.mark.parametrize("highest", [1, 100, 254, 256, 1000, 4095, 65534])
@pytest.mark.parametrize("mode", ["5", "6"])
def test_odd_highest_values_of_ppm(mode: str, highest: int) -> None:
    shape = (40, 24) if mode == "5" else (40, 24, 3)
    values = np.random.default_rng(2).integers(0, highest + 1, shape)
    stored = values.astype(">u2" if highest > 255 else "u1").tobytes()
    content = f"P{mode} 24 40 {highest}\n".encode() + stored
    plain = Image.open(BytesIO(content))
    expected = np.asarray(plain) >> 8 if plain.mode == "I" else np.asarray(plain)
    decoded = decode(content, (40, 24))
    np.testing.assert_array_equal(decoded if mode == "6" else decoded[..., 0], expected)
    with pytest.raises(ImageError, match=r"^is truncated$"):
        decode(content[:-1], (40, 24))


@pytest.mark.parametrize("mode", ["5", "6"])
def test_doubtful_ranges_of_ppm_are_noted(mode: str) -> None:
    values = np.arange(24 * 40 * 3 if mode == "6" else 24 * 40) % 4096
    for highest, count in ((65535, 1), (4095, 0)):
        notes: list[Note] = []
        content = f"P{mode} 24 40 {highest}\n".encode() + values.astype(">u2").tobytes()
        decode(content, (40, 24), notes=notes)
        assert len(notes) == count


def test_no_ending_belongs_to_two_kinds() -> None:
    rows: list[Any] = [*IMAGE_KINDS.values(), *UNREAD_KINDS.values()]
    endings = [ending for row in rows for ending in row[0].split()]
    assert len(endings) == len(set(endings))


def test_endings_are_pillows() -> None:
    kinds = {"JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF"}
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in kinds}
    # Float maps, which are not read.
    assert known - {".pfm"} == set(IMAGE_ENDINGS) - set(HEIC_ENDINGS)


def reason_or_pixels(content: bytes) -> None:
    try:
        decoded = decode(content, (5, 7))
    except ImageError as error:
        sound = str(error).isprintable() and 0 < len(str(error).encode()) <= 120
    else:
        sound = (decoded.shape, decoded.dtype.name) == ((5, 7, 3), "uint8")
    assert sound


@given(st.sampled_from([c[:n] for c in REAL.values() for n in (0, 12, 30)]), st.binary())
@example(b"\x89PNG\r\n\x1a\n", b"\0\0\0\x08I\xff\nR" + bytes(12))
def test_any_bytes(head: bytes, tail: bytes) -> None:
    reason_or_pixels(head + tail)


CHANGES = st.tuples(st.integers(0, 9999), st.binary(max_size=4), st.integers(0, 4))


@settings(max_examples=500, deadline=None)  # a mutated header can ask for many pixels
@given(st.sampled_from(ALL), st.lists(CHANGES, max_size=6))
def test_mutated_images(content: bytes, changes: list[tuple[int, bytes, int]]) -> None:
    for place, put, cut in changes:
        at = place % (len(content) + 1)
        content = content[:at] + put + content[at + cut :]
    reason_or_pixels(content)


def gif(box: tuple[int, int, int, int], size: tuple[int, int] = (8, 4)) -> bytes:
    """Write a GIF whose first frame, all of colour 2, covers a box of the canvas."""
    left, top, width, height = box
    colours = bytes([*RED, *GREEN, *BLUE, 0, 0, 0])
    head = b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 1, 0) + colours
    frame = b"," + struct.pack("<HHHHB", left, top, width, height, 0)
    codes = [4, *[code for _ in range(width * height) for code in (2, 4)], 5]  # 3 bits each
    bits = sum(code << 3 * place for place, code in enumerate(codes))
    packed = bits.to_bytes(-(-3 * len(codes) // 8), "little")
    return head + frame + b"\2" + bytes([len(packed)]) + packed + b"\0;"


@pytest.mark.parametrize("box", [(0, 0, 8, 4), (4, 0, 4, 4), (0, 0, 4, 4), (2, 1, 3, 2)])
def test_what_the_first_frame_of_a_gif_leaves_free_is_white(box: tuple[int, ...]) -> None:
    """Source of the case: https://github.com/python-pillow/Pillow/issues/5548."""
    left, top, width, height = box
    expected = np.full((4, 8, 3), 255, np.uint8)
    expected[top : top + height, left : left + width] = BLUE
    np.testing.assert_array_equal(decode(gif((left, top, width, height)), (4, 8)), expected)


@pytest.mark.parametrize(("alpha", "expected"), [(0, RED), (255, RED)])
def test_a_bmp_without_any_alpha_is_opaque(alpha: int, expected: tuple[int, ...]) -> None:
    """Source of the case: https://github.com/SixLabors/ImageSharp/issues/581.

    A second reader: OpenCV, which ignores alpha.
    """
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + masks + b"BGRs"
    head += bytes(108 - len(head))
    pixels = bytes([*reversed(RED), alpha]) * 4
    content = struct.pack("<2sIHHI", b"BM", 14 + 108 + 16, 0, 0, 14 + 108) + head + pixels
    assert decode(content, (2, 2)).tolist() == [[list(expected)] * 2] * 2
    import cv2

    second: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert second[0, 0, ::-1].tolist() == list(expected)
