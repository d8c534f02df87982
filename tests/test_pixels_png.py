"""Every kind of PNG becomes the right pixels; broken metadata cost none.

    python -m tests.test_pixels_png

prints how many kinds are read right, refused or wrong, by colour type.
"""

import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from extract.core.errors import ImageError
from extract.core.row_block import Note
from extract.pixels.decode import decode

CASES = Path(__file__).parent / "cases"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEIGHT, WIDTH = SIZE = 11, 13
NAMES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey alpha", 6: "RGBA"}
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Start and step of the seven passes of Adam7, in x and y.
ADAM7 = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2)]
ADAM7 += [(0, 1, 1, 2)]


class Cell(NamedTuple):
    """What a file is like; ``tail`` are bits above the depth in the transparent value."""

    colour: int
    depth: int
    clear: bool
    interlaced: bool
    line_filter: int
    tail: bool = False


def cells() -> Iterator[Cell]:
    """Yield all cells."""
    flags = (False, True)
    for colour, depths in DEPTHS.items():
        for depth, clear, interlaced, line_filter in product(depths, flags, flags, range(5)):
            if clear and colour >= 4:
                continue
            yield Cell(colour, depth, clear, interlaced, line_filter)
            if clear and colour != 3 and depth < 16:
                yield Cell(colour, depth, clear, interlaced, line_filter, tail=True)


def make_samples(cell: Cell) -> np.ndarray:
    """Return (H, W, S) random samples, with neighbours that differ in the last bit only."""
    shape = HEIGHT, WIDTH, SAMPLES[cell.colour]
    samples = np.random.default_rng(3).integers(0, 2**cell.depth, shape)
    samples[0, 1] = samples[0, 0] ^ 1
    return samples


def make_palette(cell: Cell) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (2**cell.depth, 3), dtype=np.uint8)


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def _filter(rows: np.ndarray, step: int, kind: int) -> bytes:
    """Filter (H, n) bytes, one kind for all rows."""
    lines, above = [], np.zeros(rows.shape[1], int)
    for row in rows.astype(int):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        off = [abs(guess - left), abs(guess - above), abs(guess - corner)]
        paeth = np.choose(np.argmin(off, 0), [left, above, corner])
        base = (0, left, above, (left + above) // 2, paeth)[kind]
        lines.append(bytes([kind]) + (row - base).astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


def _pack(samples: np.ndarray, cell: Cell) -> bytes:
    if not samples.size:
        return b""
    rows = samples.reshape(len(samples), -1)
    if cell.depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        ones = (rows[..., None] >> np.arange(cell.depth)[::-1] & 1).astype(np.uint8)
        packed = np.packbits(ones.reshape(len(rows), -1), axis=1)
    step = max(1, cell.depth * samples.shape[2] // 8)
    return _filter(packed, step, cell.line_filter)


def write_png(cell: Cell, samples: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """Write a PNG with more chunks before and after its pixels."""
    size = samples.shape[1], samples.shape[0]
    head = struct.pack(">IIBBBBB", *size, cell.depth, cell.colour, 0, 0, cell.interlaced)
    chunks = [chunk(b"IHDR", head)]
    if cell.colour == 3:
        chunks.append(chunk(b"PLTE", make_palette(cell).tobytes()))
    if cell.clear and cell.colour == 3:
        chunks.append(chunk(b"tRNS", b"\x80\x00"))
    elif cell.clear:
        key = samples[0, 0] | (0xFF00 if cell.tail and cell.depth == 8 else 0)
        key = key | (0xABC0 if cell.tail and cell.depth < 8 else 0)
        chunks.append(chunk(b"tRNS", key.astype(">u2").tobytes()))
    parts = [samples[y::b, x::a] for x, a, y, b in ADAM7] if cell.interlaced else [samples]
    pixels = zlib.compress(b"".join(_pack(part, cell) for part in parts))
    # Two chunks, as most writers have more than one.
    chunks += [before, chunk(b"IDAT", pixels[:20]), chunk(b"IDAT", pixels[20:]), after]
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def colours(cell: Cell, samples: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) colours on white, in 0..255."""
    eight = samples >> 8 if cell.depth == 16 else samples * 255 // (2**cell.depth - 1)
    if cell.colour == 3:
        shown = make_palette(cell)[samples[..., 0]].astype(float)
        alpha = np.array([128, 0] + [255] * 254)[samples] if cell.clear else 255
    elif cell.colour in (4, 6):
        shown, alpha = eight[..., :-1].astype(float), eight[..., -1:]
    else:
        is_clear = (samples == samples[0, 0]).all(axis=2, keepdims=True)
        shown, alpha = eight.astype(float), np.where(is_clear, 0, 255) if cell.clear else 255
    shown = shown * alpha / 255 + 255 - alpha
    return np.broadcast_to(shown, (*samples.shape[:2], 3))


def verdict(cell: Cell) -> str:
    """Return ``right``, ``wrong``, or the reason for which a file is refused."""
    samples = make_samples(cell)
    try:
        decoded = decode(write_png(cell, samples), SIZE)
    except ImageError as error:
        return str(error)
    mixed = cell.colour >= 4 or (cell.colour == 3 and cell.clear)
    return "right" if np.abs(decoded - colours(cell, samples)).max() <= mixed else "wrong"


def matrix() -> dict[str, Counter[str]]:
    """Count the verdicts by colour type."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells():
        counts[NAMES[cell.colour]][verdict(cell)] += 1
    return counts


def test_matrix() -> None:
    counts = matrix()
    assert {said for row in counts.values() for said in row} == {"right"}
    assert sum(row.total() for row in counts.values()) > 300


def test_the_files_are_what_they_are_meant_to_be() -> None:
    """OpenCV reads what was written."""
    for cell in cells():
        if cell.clear or cell.depth < 8 or cell.colour == 3:
            continue
        samples = make_samples(cell)
        content = np.frombuffer(write_png(cell, samples), np.uint8)
        read = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        assert read is not None
        read = read.reshape(HEIGHT, WIDTH, -1)
        if cell.colour == 4:  # OpenCV repeats grey
            read = read[..., 2:]
        order = [2, 1, 0, 3][: read.shape[2]] if read.shape[2] > 2 else slice(None)
        np.testing.assert_array_equal(read[..., order], samples, str(cell))


DEEP = Cell(2, 16, clear=True, interlaced=False, line_filter=0)
PLAIN = Cell(2, 8, clear=False, interlaced=False, line_filter=1)
TEXT = b"Comment\0" + b"a" * 2_000_000
PACKED = zlib.compress(bytes(80_000_000))
METADATA = {
    "text, wrong checksum": chunk(b"tEXt", b"a\0b", 0),
    "size, wrong checksum": chunk(b"pHYs", bytes(9), 0),
    "gamma, too short": chunk(b"gAMA", b"\0"),
    "size, too short": chunk(b"pHYs", b"\0\0"),
    "chromaticities, too short": chunk(b"cHRM", b"\0\0\0"),
    "text, huge": chunk(b"zTXt", b"a\0\0" + zlib.compress(TEXT)),
    "text, a bomb": chunk(b"zTXt", b"a\0\0" + PACKED),
    "text, international bomb": chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED),
    "text, many": chunk(b"tEXt", TEXT) * 40,
    "profile, huge": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "profile, a bomb": chunk(b"iCCP", b"a\0\0" + PACKED),
    "profile, broken": chunk(b"iCCP", b"a\0\0" + b"no zlib"),
    "profile, no method": chunk(b"iCCP", b"a\0"),
    "exif, broken": chunk(b"eXIf", b"II*\0\xff\xff"),
    "exif, wrong checksum": chunk(b"eXIf", b"II*\0\x08\0\0\0", 1),
    "standard colours, empty": chunk(b"sRGB", b""),
    "private, wrong checksum": chunk(b"teSt", b"abc", 3),
    "animation, broken": chunk(b"acTL", b"\0"),
    "animation, no frames": chunk(b"acTL", bytes(8)),
    "animation, out of order": chunk(b"fcTL", bytes(26)) + chunk(b"fdAT", bytes(9)),
    "transparency, wrong checksum": chunk(b"tRNS", bytes(6), 4),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", METADATA)
def test_broken_metadata_cost_no_pixels(name: str, place: str) -> None:
    samples = make_samples(PLAIN)
    content = write_png(PLAIN, samples, **{place: METADATA[name]})
    np.testing.assert_array_equal(decode(content, SIZE), samples)


def test_orientation_outlives_other_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    broken = chunk(b"tEXt", b"a\0b", 0) + chunk(b"eXIf", exif.tobytes()[6:])
    for cell in (PLAIN, DEEP):
        samples = make_samples(cell)
        upright = colours(cell, samples)[::-1, ::-1]
        for before, after in ((broken, b""), (b"", broken)):
            np.testing.assert_array_equal(
                decode(write_png(cell, samples, before, after), SIZE), upright
            )


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_wrong_checksums_of_pixels_are_refused(name: bytes) -> None:
    cell = Cell(3, 8, clear=False, interlaced=False, line_filter=0)
    content = bytearray(write_png(cell, make_samples(cell)))
    start = content.index(name) - 4
    end = start + 8 + int.from_bytes(content[start : start + 4], "big")
    content[end] ^= 1
    with pytest.raises(ImageError, match=f"wrong checksum in {name.decode()}"):
        decode(bytes(content), SIZE)


def test_a_changed_byte_of_pixels_is_refused() -> None:
    samples = make_samples(PLAIN)
    content = write_png(PLAIN, samples)
    start = content.index(b"IDAT") + 10
    for at in range(start, len(content) - 16, 7):
        broken = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        with pytest.raises(ImageError):
            decode(broken, SIZE)


def test_cut_files_with_broken_metadata_are_refused() -> None:
    content = write_png(PLAIN, make_samples(PLAIN), METADATA["text, wrong checksum"])
    for end in range(len(content) - 24, 0, -13):  # less is the checksums and the end
        with pytest.raises(ImageError):
            decode(content[:end], SIZE)


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize(("most", "said"), [(4095, "16-bit values reach only 4,095"), (65535, "")])
def test_doubtful_ranges_are_noted(colour: int, most: int, said: str) -> None:
    cell = Cell(colour, 16, clear=False, interlaced=False, line_filter=0)
    samples = make_samples(cell) % (most + 1)
    samples[0, 0] = most
    notes: list[Note] = []
    decode(write_png(cell, samples), SIZE, notes=notes)
    assert [str(note)[: len(said)] for note in notes] == ([said] if said else [])


@pytest.mark.parametrize("path", sorted((CASES / "png-metadata").glob("*.png")), ids=str)
def test_files_of_others(path: Path) -> None:
    assert tuple(decode(path.read_bytes(), (48, 64))[5, 10]) == (40, 25, 30)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    stream = BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    content = stream.getvalue()
    assert (decode(content, (8, 8)) == (255, 0, 0)).all()
    at = content.index(b"IDAT") - 4
    broken = content[:at] + METADATA["text, wrong checksum"] + content[at:]
    assert (decode(broken, (8, 8)) == (255, 0, 0)).all()


def main() -> None:
    """Print the table."""
    print("colours     tried  right  refused  wrong")  # noqa: T201
    for name, row in matrix().items():
        refused = row.total() - row["right"] - row["wrong"]
        print(f"{name:11}{row.total():6}{row['right']:7}{refused:9}{row['wrong']:7}")  # noqa: T201


if __name__ == "__main__":
    main()
