"""Every kind of TIFF becomes the right pixels or is refused by name.

    python -m tests.test_pixels_tiff

prints how many kinds are read right, refused or wrong, by photometric interpretation.
"""

import struct
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import extract.pixels.tiff
from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.images.entries import Kind, kind_of_file
from extract.pixels.decode import decode
from tests.tiffs import (
    HEIGHT,
    WIDTH,
    Cell,
    colours,
    make_palette,
    make_samples,
    make_tags,
    pack_bytes,
    pack_tiff,
    write_tiff,
)

CASES = Path(__file__).parent / "cases"
SIZE = HEIGHT, WIDTH
# What is not read, and says so.
REFUSED = ("associated alpha", "in Lab with samples of", "YCbCr with levels or subsampling")
FORMATS = [("uint", bits) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 32)]
FORMATS += [("int", 8), ("int", 16), ("int", 32), ("float", 16), ("float", 32), ("float", 64)]
PHOTOMETRICS = ("white", "black", "rgb", "palette", "cmyk", "ycbcr", "lab")
COMPRESSIONS = ("none", "lzw", "deflate", "old deflate", "packbits", "zstd", "lzma")
# The whole matrix takes three minutes.
STRIDE = 41


def cells() -> Iterator[Cell]:
    """Yield all cells of the matrix that the standard allows, or that libtiff writes."""
    flags = (False, True)
    for photometric, (sample, bits) in product(PHOTOMETRICS, FORMATS):
        has_extra = photometric in ("white", "black", "rgb", "cmyk", "palette")
        extras = [(), (0,), (1,), (2,), (0, 2)] if has_extra else [()]
        if photometric == "palette" and (bits > 8 or sample != "uint"):
            continue
        for compression, predictor, extra, fill in product(COMPRESSIONS, (1, 2, 3), extras, (1, 2)):
            if predictor > 1 and compression in ("none", "packbits"):
                continue
            if (predictor == 2 and bits not in (8, 16, 32, 64)) or (fill == 2 and bits > 8):
                continue
            if predictor == 3 and sample != "float":
                continue
            for planar, tiled, big_endian, big in product(flags, flags, flags, flags):
                if planar and not extra and photometric in ("white", "black", "palette"):
                    continue
                places = planar, compression, predictor, tiled, big_endian, big
                yield Cell(photometric, bits, sample, *places, extra, fill)


def verdict(cell: Cell) -> str:
    """Return ``right``, ``wrong``, or the reason for which a file is refused."""
    samples = make_samples(cell)
    try:
        decoded = decode(write_tiff(cell, samples), SIZE)
    except ImageError as error:
        return str(error)
    off = np.abs(decoded - colours(cell, samples))
    # Lab is computed by another library, in other steps; mixing rounds twice.
    mixed = cell.extra or cell.photometric in ("cmyk", "ycbcr")
    most = 20 if cell.photometric == "lab" else 2 if mixed else 1
    return "right" if off.max() <= most and off.mean() <= 1 else "wrong"


def matrix(step: int) -> dict[str, Counter[str]]:
    """Count the verdicts on every ``step``-th cell, by photometric interpretation."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number, cell in enumerate(cells()):
        if number % step == 0:
            said = verdict(cell)
            named = any(reason in said for reason in REFUSED)
            counts[cell.photometric]["refused" if named else said] += 1
    return counts


def test_matrix() -> None:
    counts = matrix(STRIDE)
    assert set(counts) == set(PHOTOMETRICS)
    assert {said for row in counts.values() for said in row} == {"right", "refused"}
    assert sum(row["right"] for row in counts.values()) > 1000


@pytest.mark.slow
def test_a_third_of_the_matrix() -> None:
    # All of it, matrix(1), takes four minutes.
    assert {said for row in matrix(3).values() for said in row} == {"right", "refused"}


def test_without_imagecodecs() -> None:
    """What a plain install cannot read names the extra."""
    names = ["import sys", 'sys.modules["imagecodecs"] = None']
    names += ["import extract.pixels.tiff as tiff", "tiff.find_spec = lambda name: None"]
    names += [
        "from extract.pixels.decode import decode",
        "from extract.core.errors import ImageError",
    ]
    names += ["for line in sys.stdin:", "    try:"]
    names += [f"        print(decode(bytes.fromhex(line), {SIZE}).tobytes().hex())"]
    names += ["    except ImageError as error:", "        print(error)"]
    chosen = [cell for number, cell in enumerate(cells()) if number % STRIDE == 0]
    files = [write_tiff(cell, make_samples(cell)).hex() for cell in chosen]
    command = [sys.executable, "-c", "\n".join(names)]
    ran = subprocess.run(
        command, input="\n".join(files), capture_output=True, text=True, check=True
    )
    read = refused = 0
    for line, cell in zip(ran.stdout.splitlines(), chosen, strict=True):
        if 'pip install "headstart[tiff]"' in line:
            refused += 1
        elif " " not in line:
            assert (
                bytes.fromhex(line) == decode(write_tiff(cell, make_samples(cell)), SIZE).tobytes()
            ), cell
            read += 1
    assert min(read, refused) > 20


def test_the_files_are_what_they_are_meant_to_be() -> None:
    """The samples that tifffile and OpenCV read are those that were written."""
    seen = 0
    for number, cell in enumerate(cells()):
        if number % (2 * STRIDE) or (cell.photometric == "lab" and cell.bits not in (8, 16)):
            continue
        samples, stream = make_samples(cell), BytesIO(write_tiff(cell, make_samples(cell)))
        with tifffile.TiffFile(stream) as file:
            read = file.pages.first.asarray(squeeze=False)
        read = read[:, 0].transpose(1, 2, 0, 3).reshape(samples.shape)
        np.testing.assert_array_equal(read, samples, str(cell))
        plain = cell.photometric in ("black", "rgb") and cell.sample == "uint" and not cell.extra
        plain = plain and not cell.planar and cell.compression not in ("zstd", "lzma")
        if plain and cell.bits in (8, 16) and cell.fill == 1:
            shown = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
            if shown is not None:
                by_colour = shown[..., ::-1] if shown.ndim == 3 else shown[..., None]
                np.testing.assert_array_equal(by_colour, samples, str(cell))
                seen += 1
    assert seen > 2


JPEGS: dict[str, dict[str, Any]] = {
    "YCbCr": {"photometric": "rgb"},
    "subsampled": {"photometric": "rgb", "subsampling": (2, 2)},
    "tiled": {"photometric": "rgb", "tile": (16, 16), "subsampling": (2, 1)},
    "RGB": {"photometric": "rgb", "compressionargs": {"level": 95, "outcolorspace": "rgb"}},
    "planar": {"photometric": "rgb", "planarconfig": "separate"},
    "grey": {"photometric": "minisblack", "byteorder": ">"},
    "white": {"photometric": "miniswhite", "tile": (16, 16)},
    "12 bits": {"photometric": "minisblack", "bitspersample": 12},
}
Y, X = np.mgrid[:40, :56]
SMOOTH = np.stack([X * 4, Y * 5, (X + Y) * 2], -1).astype(np.uint8)


def write_jpeg_tiff(name: str) -> bytes:
    stream, options = BytesIO(), {"compressionargs": {"level": 95}} | JPEGS[name]
    samples: np.ndarray = SMOOTH if options["photometric"] == "rgb" else SMOOTH[..., 0]
    samples = samples.transpose(2, 0, 1) if name == "planar" else samples
    samples = samples.astype(np.uint16) * 16 if name == "12 bits" else samples
    tifffile.imwrite(stream, samples, compression="jpeg", **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_inside(name: str) -> None:
    is_colour = JPEGS[name]["photometric"] == "rgb"
    expected = SMOOTH if is_colour else SMOOTH[..., :1].repeat(3, 2)
    expected = 255 - expected if name == "white" else expected
    off = np.abs(decode(write_jpeg_tiff(name), (40, 56)) - expected.astype(float))
    # At the edges of a tile that is only part of the image, colours are mixed with the padding.
    assert off.max() <= (40 if name == "tiled" else 12)
    assert off.mean() < 2


@pytest.mark.parametrize("name", ["YCbCr", "grey"])
def test_a_hole_in_a_jpeg_inside(name: str) -> None:
    content = write_jpeg_tiff(name)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    middle = (start + end) // 2
    cut = content[:middle] + b"\xff\xd9" + content[middle + 2 :]
    with pytest.raises(ImageError, match=r"^has a hole"):
        decode(cut, (40, 56))


def halved(plane: np.ndarray) -> np.ndarray:
    return np.asarray(plane[:32, :32].reshape(16, 2, 16, 2).mean(axis=(1, 3)).round())


@pytest.mark.parametrize("compression", ["lzw", "deflate"])
def test_half_the_colours(compression: str) -> None:
    """One pair of colours for four pixels, in the order of the standard: Y Y Y Y Cb Cr."""
    y, blue, red = np.moveaxis(np.asarray(Image.fromarray(SMOOTH).convert("YCbCr")), -1, 0)
    corners = [y[row:32:2, column:32:2] for row in (0, 1) for column in (0, 1)]
    samples = np.stack([*corners, halved(blue), halved(red)], -1).astype(np.uint8)
    cell = Cell("ycbcr", compression=compression)
    tags = make_tags(cell) | {256: ("H", 32), 257: ("H", 32), 278: ("H", 32), 530: ("H", [2, 2])}
    content = pack_tiff(cell, tags, [pack_bytes(samples.tobytes(), compression)])
    off = np.abs(decode(content, (32, 32)) - SMOOTH[:32, :32].astype(float))
    assert off.max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("cell", [Cell("rgb", 16, planar=True), Cell("white", 16), Cell("rgb")])
def test_orientation_is_applied_once(cell: Cell, orientation: int) -> None:
    samples = make_samples(cell)
    stored = colours(cell, samples)
    across = stored.swapaxes(0, 1)
    by_row = (stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1])
    by_column = (across, across[:, ::-1], across[::-1, ::-1], across[::-1])
    upright = (*by_row, *by_column)[orientation - 1]
    content = write_tiff(cell._replace(orientation=orientation), samples)
    np.testing.assert_allclose(decode(content, upright.shape[:2]), upright, rtol=0, atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("planar", [False, True])
def test_palettes_of_8_bits(bits: int, planar: bool) -> None:
    cell = Cell("palette", bits, planar=planar, extra=(0,) * planar)
    samples, entries = make_samples(cell), make_palette(cell, small=True)
    content = write_tiff(cell, samples, {320: ("H", entries.ravel().tolist())})
    np.testing.assert_array_equal(decode(content, SIZE), entries.T[samples[..., 0]])


RANGES = {
    "12 bits in 16": (Cell("black", 16), 4095, "16-bit values reach only 4,095; if they have 12"),
    "12 bits in 16, colour": (Cell("rgb", 16), 4095, "16-bit values reach only 4,095"),
    "12 bits in 16, planar": (Cell("rgb", 16, planar=True), 4095, "16-bit values reach only 4,09"),
    "8 bits in 32": (Cell("black", 32), 235, "32-bit values reach only 235; if they have 8 bits"),
    "signed": (Cell("black", 16, "int"), 1000, "16-bit values reach only 1,000; if they have 10"),
    "float": (Cell("black", 32, "float"), None, "float values between 0 and 1 are read as"),
    "16 bits": (Cell("black", 16), 40000, ""),
    "12 bits": (Cell("black", 12), 1000, ""),
    "black": (Cell("black", 16), 0, ""),
}


@pytest.mark.parametrize("name", RANGES)
def test_doubtful_ranges_are_noted(name: str) -> None:
    cell, most, said = RANGES[name]
    samples = make_samples(cell)
    if most is not None:
        samples = (samples % (most + 1)).astype(samples.dtype)
        samples[0, 0] = most
    notes: list[Note] = []
    decode(write_tiff(cell, samples), SIZE, notes=notes)
    assert [str(note)[: len(said)] for note in notes] == ([said] if said else [])


def test_a_smaller_copy_is_noted() -> None:
    cell = Cell("rgb")
    for kind, count in ((0, 0), (1, 1), (2, 0)):
        notes: list[Note] = []
        decode(write_tiff(cell, make_samples(cell), {254: ("I", kind)}), SIZE, notes=notes)
        assert len(notes) == count


BAD_VALUES = {
    "below 0": (Cell("black", 16, "int"), -1, "integer pixels outside 0..65535"),
    "signed bytes": (Cell("rgb", 8, "int"), -1, "integer pixels outside 0..65535"),
    "above": (Cell("rgb", 32), 65536, "integer pixels outside 0..65535"),
    "float": (Cell("rgb", 32, "float"), 1.5, "float pixels outside 0..1"),
    "not a number": (Cell("black", 32, "float"), np.nan, "float pixels outside 0..1"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_unknown_ranges_are_refused(name: str) -> None:
    cell, value, reason = BAD_VALUES[name]
    samples = make_samples(cell)
    samples[0, 0] = value
    with pytest.raises(ImageError, match=f"^has {reason}, whose range is unknown"):
        decode(write_tiff(cell, samples), SIZE)


TAGS: dict[str, tuple[Cell, dict[int, Any], str]] = {
    "many samples": (
        Cell("black", extra=(0, 0)),
        {338: ("H", 0)},
        "3 samples a pixel instead of 2",
    ),
    "5 6 5 bits": (Cell("rgb"), {258: ("H", [5, 6, 5])}, "samples differ"),
    "mask": (Cell("mask"), {}, "photometric interpretation 4"),
    "ICC Lab": (Cell("icclab"), {}, "photometric interpretation 9"),
    "complex": (Cell("rgb", 32), {339: ("H", 5)}, "samples of format 5"),
    "predictor alone": (
        Cell("rgb", 16, planar=True),
        {317: ("H", 2)},
        "a predictor but not its compression",
    ),
    "half the colours": (Cell("ycbcr"), {530: ("H", [2, 2])}, "levels or subsampling"),
    "levels of video": (
        Cell("ycbcr"),
        {532: ("f", [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])},
        "levels or subsampling",
    ),
    "short palette": (Cell("palette", 8, planar=True, extra=(0,)), {320: ("H", [0] * 30)}, "few"),
    "other inks": (Cell("cmyk"), {332: ("H", 2)}, "inks other than CMYK"),
    "PNG inside": (Cell("rgb"), {259: ("H", 34933)}, "compression PNG, which is not read"),
    "raw thumbnail": (Cell("rgb"), {254: ("I", 1), 330: ("I", 8)}, "camera raw"),
    "DNG": (Cell("rgb"), {50706: ("B", [1, 4, 0, 0])}, "camera raw"),
    "sensor": (Cell("black"), {262: ("H", 32803)}, "camera raw"),
    "linear sensor": (Cell("rgb", 16), {262: ("H", 34892)}, "camera raw"),
}


@pytest.mark.parametrize("name", TAGS)
def test_what_is_not_read_is_refused_by_name(name: str) -> None:
    cell, tags, reason = TAGS[name]
    with pytest.raises(ImageError, match=reason) as found:
        decode(write_tiff(cell, make_samples(cell), tags), SIZE)
    assert len(str(found.value).encode()) <= 120


CUT = [Cell("rgb", 16, planar=True), Cell("rgb", 12), Cell("cmyk", 16, extra=(2,))]
CUT += [Cell("palette", 8, planar=True, extra=(0,)), Cell("ycbcr"), Cell("lab", 16)]
CUT += [Cell("rgb", 32, "float"), Cell("black", 64, "float"), Cell("white", 4, extra=(2,))]
CUT += [cell._replace(compression=name) for cell in CUT for name in ("lzw", "deflate", "zstd")]
CUT += [cell._replace(tiled=True) for cell in CUT]


@pytest.mark.parametrize("cell", CUT, ids=str)
def test_cut_files_are_refused(cell: Cell) -> None:
    content = write_tiff(cell, make_samples(cell))
    whole = decode(content, SIZE)
    assert (whole == decode(content + bytes(9), SIZE)).all()
    for end in range(len(content) - 4, 0, -len(content) // 20):
        with pytest.raises(ImageError):
            decode(content[:end], SIZE)


def test_missing_strips_are_refused() -> None:
    cell = Cell("rgb", 16, planar=True)
    with pytest.raises(ImageError, match=r"^is truncated$"):
        decode(pack_tiff(cell, make_tags(cell), [b""] * 9), SIZE)


def test_a_strip_that_inflates_to_more_than_its_pixels_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = Cell("black", 16, compression="deflate", extra=(2,))
    content = pack_tiff(cell, make_tags(cell), [zlib.compress(bytes(10**7))] * 3)
    with pytest.raises(ImageError, match="SPACE"):
        decode(content, SIZE)
    monkeypatch.setattr(extract.pixels.tiff, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="more data than pixels"):
        decode(content, SIZE)


CASES_RIGHT = {
    "tiff-12-bit/t_12packed.tif": ((5, 10), (35, 35, 35)),
    "tiff-16-bit-planar/t_rgb16_planar.tif": ((5, 10), (40, 25, 30)),
    "tiff-16-bit-planar/t_rgb16_planar_zlib.tif": ((5, 10), (40, 25, 30)),
    "tiff-palette-8-bit-entries/t_palette8scaled.tif": ((5, 10), (35, 220, 7)),
}


@pytest.mark.parametrize("name", CASES_RIGHT)
def test_files_of_others(name: str) -> None:
    (row, column), colour = CASES_RIGHT[name]
    assert tuple(decode((CASES / name).read_bytes(), (48, 64))[row, column]) == colour


def test_a_camera_raw_file_is_no_image(tmp_path: Path) -> None:
    raw = CASES / "raw-camera-files/000_1.NEF"
    assert kind_of_file(str(raw)) is Kind.UNREAD
    (tmp_path / "renamed.tif").write_bytes(raw.read_bytes())
    with pytest.raises(ImageError, match=r"^is a camera raw file"):
        decode((tmp_path / "renamed.tif").read_bytes(), SIZE)


def main() -> None:
    """Print the table."""
    print("photometric  tried  right  refused  wrong")  # noqa: T201
    for name, row in matrix(1).items():
        rest = row.total() - row["right"] - row["refused"]
        print(f"{name:11}{row.total():7}{row['right']:7}{row['refused']:9}{rest:7}")  # noqa: T201


if __name__ == "__main__":
    main()


def test_a_fourth_sample_of_no_kind_is_no_alpha() -> None:
    """Source of the case: https://github.com/geosolutions-it/imageio-ext/issues/164."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    stream = BytesIO()
    tifffile.imwrite(stream, pixels, photometric="rgb", extrasamples=["unspecified"])
    content = bytearray(stream.getvalue())
    place = content.index(struct.pack("<HH", 338, 3))
    content[place : place + 2] = struct.pack("<H", 339)  # the sample format is 0, so not given
    content[place + 8 : place + 10] = b"\1\0"
    notes: list[Note] = []
    np.testing.assert_array_equal(decode(bytes(content), (6, 8), notes=notes), pixels[..., :3])
    assert [str(note) for note in notes] == [
        "the TIFF does not say what its fourth sample is, which is not read"
    ]


def test_further_pages_are_noted() -> None:
    """Source of the case: https://github.com/TomographicImaging/CIL/issues/1356."""
    pages = np.stack([np.full((6, 8), grey, np.uint8) for grey in (20, 60, 100)])
    stream = BytesIO()
    tifffile.imwrite(stream, pages, photometric="minisblack")
    notes: list[Note] = []
    assert decode(stream.getvalue(), (6, 8), notes=notes).max() == 20
    assert [str(note) for note in notes] == ["the TIFF has further pages, which are not read"]
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as file:  # a smaller copy is no page
        file.write(pages[0], photometric="minisblack")
        file.write(pages[1], photometric="minisblack", subfiletype=1)
    notes = []
    assert decode(stream.getvalue(), (6, 8), notes=notes).max() == 20
    assert notes == []
