"""TIFF files of every kind, written byte by byte, with the colours that they hold.

No library writes all of what the standard allows. What is written here is read back by tifffile and
by OpenCV in ``tests/test_pixels_tiff.py``, wherever they can read it.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT, TILE, ROWS = 21, 18, 16, 7
# Photometric interpretation, and its colours, by name.
PHOTOMETRICS = {
    **{"white": (0, 1), "black": (1, 1), "rgb": (2, 3), "palette": (3, 1), "mask": (4, 1)},
    **{"cmyk": (5, 4), "ycbcr": (6, 3), "lab": (8, 3), "icclab": (9, 3), "logluv": (32845, 3)},
}
COMPRESSIONS = {
    **{"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "old deflate": 32946, "packbits": 32773},
    **{"zstd": 50000, "lzma": 34925, "jpeg2000": 34712},
}


class Cell(NamedTuple):
    """What a file is like; ``extra`` is the ExtraSamples tag, 1 associated, 2 unassociated."""

    photometric: str
    bits: int = 8
    sample: str = "uint"
    planar: bool = False
    compression: str = "none"
    predictor: int = 1
    tiled: bool = False
    big_endian: bool = False
    big: bool = False
    extra: tuple[int, ...] = ()
    fill: int = 1
    orientation: int = 1

    def __str__(self) -> str:
        marks = {"planar": self.planar, "tiled": self.tiled, "MM": self.big_endian, "Big": self.big}
        said = [self.photometric, f"{self.bits}", self.sample, self.compression]
        said += [f"predictor {self.predictor}"] * (self.predictor > 1)
        said += [mark for mark, held in marks.items() if held]
        return " ".join(said + [f"extra {self.extra}"] * bool(self.extra))


def make_samples(cell: Cell) -> np.ndarray:
    """Return (H, W, S) random samples of a cell; its alpha is no less than associated colours."""
    random = np.random.default_rng(5)
    count = PHOTOMETRICS[cell.photometric][1] + len(cell.extra)
    shape = HEIGHT, WIDTH, count
    samples: Any
    if cell.sample == "float":
        samples = random.random(shape)
    else:
        # In 32 bits what fits into 16, which is what is read.
        samples = random.integers(0, 2 ** min(cell.bits, 16), shape)
    if cell.sample == "int":
        samples >>= 1
    if cell.photometric == "lab":
        samples = _encode_lab(random.integers(20, 236, (HEIGHT, WIDTH, 3))) << max(0, cell.bits - 8)
    if 1 in cell.extra:
        samples[..., :-1] = np.minimum(samples[..., :-1], samples[..., -1:])
    return np.asarray(samples.astype(_type(cell)))


def make_palette(cell: Cell, small: bool = False) -> np.ndarray:
    """Return (3, 2**bits) random entries of 16 bits, or ``small`` ones of 8."""
    entries = np.random.default_rng(6).integers(0, 256, (3, 2**cell.bits), dtype=np.uint16)
    return entries if small else entries * 257


def write_tiff(cell: Cell, samples: np.ndarray, extra: dict[int, Any] | None = None) -> bytes:
    """Write samples as the cell says; ``extra`` are more tags, (type, values) by number."""
    count = samples.shape[2]
    segments = [
        _compress(_predict(part, cell), cell)
        for plane in (np.split(samples, count, 2) if cell.planar else [samples])
        for part in _parts(plane, cell)
    ]
    return pack_tiff(cell, make_tags(cell) | (extra or {}), segments)


def make_tags(cell: Cell) -> dict[int, tuple[str, Any]]:
    """Return the tags of a cell but for the places of its strips: type and values by number."""
    count = PHOTOMETRICS[cell.photometric][1] + len(cell.extra)
    sample_format = {"uint": 1, "int": 2, "float": 3}[cell.sample]
    tags: dict[int, tuple[str, Any]] = {
        **{256: ("H", WIDTH), 257: ("H", HEIGHT), 258: ("H", [cell.bits] * count)},
        **{259: ("H", COMPRESSIONS[cell.compression]), 262: ("H", _photometric(cell))},
        **{266: ("H", cell.fill), 274: ("H", cell.orientation), 277: ("H", count)},
        **{284: ("H", 1 + cell.planar), 339: ("H", [sample_format] * count)},
    }
    if cell.predictor > 1:
        tags[317] = "H", cell.predictor
    if cell.extra:
        tags[338] = "H", list(cell.extra)
    if cell.photometric == "palette":
        tags[320] = "H", make_palette(cell).ravel().tolist()
    if cell.photometric == "ycbcr":
        tags[530] = "H", [1, 1]
        tags[532] = "f", [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]
    tags |= {322: ("H", TILE), 323: ("H", TILE)} if cell.tiled else {278: ("H", ROWS)}
    return tags


def pack_tiff(cell: Cell, tags: dict[int, tuple[str, Any]], segments: list[bytes]) -> bytes:
    """Put tags and the bytes of strips or tiles into a file."""
    order, word = "<>"[cell.big_endian], "Q" if cell.big else "I"
    size = struct.calcsize(order + word)
    offsets, counts = (324, 325) if 322 in tags else (273, 279)
    tags = tags | {counts: (word, [len(segment) for segment in segments])}
    tags[offsets] = word, [0] * len(segments)
    types = {"H": 3, "I": 4, "Q": 16, "f": 5, "B": 1, "s": 2}
    start = 16 if cell.big else 8
    head = (b"MM" if cell.big_endian else b"II") + struct.pack(order + "H", 43 if cell.big else 42)
    head += struct.pack(order + "HHQ", 8, 0, start) if cell.big else struct.pack(order + "I", start)
    entry = 20 if cell.big else 12
    place = start + (8 if cell.big else 2) + entry * len(tags) + size
    bodies = {}
    for number, (kind, held) in sorted(tags.items()):
        values = held if isinstance(held, list) else [held]
        letter = "I" if kind == "f" else kind
        body = struct.pack(f"{order}{len(values)}{letter}", *values)
        bodies[number] = types[kind], len(values) // (2 if kind == "f" else 1), body
    outside = sum(len(body) for *_, body in bodies.values() if len(body) > size)
    at, starts = place + outside, []
    for segment in segments:
        starts.append(at)
        at += len(segment)
    bodies[offsets] = types[word], len(starts), struct.pack(f"{order}{len(starts)}{word}", *starts)
    directory, tail = struct.pack(order + ("Q" if cell.big else "H"), len(bodies)), b""
    for number, (code, count, body) in bodies.items():
        directory += struct.pack(f"{order}HH{word}", number, code, count)
        if len(body) > size:
            directory += struct.pack(order + word, place + len(tail))
            tail += body
        else:
            directory += body.ljust(size, b"\0")
    return head + directory + bytes(size) + tail + b"".join(segments)


def _photometric(cell: Cell) -> int:
    return PHOTOMETRICS[cell.photometric][0]


def _type(cell: Cell) -> np.dtype[Any]:
    size = 1 if cell.bits <= 8 else 2 if cell.bits <= 16 else cell.bits // 8
    return np.dtype(f"{'>' if cell.big_endian else '<'}{cell.sample[0]}{size}")


def _parts(plane: np.ndarray, cell: Cell) -> list[np.ndarray]:
    if not cell.tiled:
        return [plane[y : y + ROWS] for y in range(0, HEIGHT, ROWS)]
    high, wide = -HEIGHT % TILE, -WIDTH % TILE
    padded = np.pad(plane, ((0, high), (0, wide), (0, 0)))
    rows, columns = range(0, HEIGHT, TILE), range(0, WIDTH, TILE)
    return [padded[y : y + TILE, x : x + TILE] for y in rows for x in columns]


def _predict(part: np.ndarray, cell: Cell) -> bytes:
    """Return a strip or tile as bytes, each row packed, after the predictor."""
    if cell.compression in ("jpeg", "jpeg2000"):
        return np.ascontiguousarray(part).tobytes()
    if cell.predictor == 2:
        part = part.view(f"{part.dtype.byteorder}u{part.dtype.itemsize}")
        steps = np.concatenate([part[:, :1], np.diff(part, axis=1)], 1)
        return steps.astype(part.dtype).tobytes()
    if cell.predictor == 3:
        rows = part.astype(part.dtype.newbyteorder(">")).reshape(len(part), -1)
        planes = rows.view(np.uint8).reshape(len(part), -1, part.dtype.itemsize)
        mixed = planes.swapaxes(1, 2).reshape(len(part), -1)
        step = part.shape[2]
        return np.concatenate([mixed[:, :step], mixed[:, step:] - mixed[:, :-step]], 1).tobytes()
    if cell.bits in (8, 16, 32, 64):
        return part.tobytes()
    rows = part.reshape(len(part), -1).astype(np.int64)
    ones = rows[..., None] >> np.arange(cell.bits)[::-1] & 1
    packed = np.packbits(ones.astype(np.uint8).reshape(len(part), -1), axis=1)
    return packed.tobytes()


def _compress(part: bytes, cell: Cell) -> bytes:
    packed = pack_bytes(part, cell.compression)
    if cell.fill == 2:
        bits = np.unpackbits(np.frombuffer(packed, np.uint8))
        packed = np.packbits(bits, bitorder="little").tobytes()
    return packed


def pack_bytes(part: bytes, compression: str) -> bytes:
    """Compress the bytes of a strip or tile."""
    if compression in ("deflate", "old deflate"):
        return zlib.compress(part)
    if compression == "packbits":
        cuts = range(0, len(part), 100)
        return b"".join(bytes([len(part[i : i + 100]) - 1]) + part[i : i + 100] for i in cuts)
    if compression == "none":
        return part
    import imagecodecs

    return bytes(getattr(imagecodecs, f"{compression}_encode")(part))


def colours(cell: Cell, samples: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) colours on white that a file holds, in 0..255."""
    count = PHOTOMETRICS[cell.photometric][1]
    if cell.photometric == "palette":
        shown = (make_palette(cell) >> 8)[:, samples[..., 0]].transpose(1, 2, 0).astype(float)
    else:
        shown = _CONVERT.get(cell.photometric, lambda c: c)(_to_8_bits(cell, samples)[..., :count])
    if not any(cell.extra):
        return np.broadcast_to(shown, (HEIGHT, WIDTH, 3))
    place = next(i for i, kind in enumerate(cell.extra) if kind)
    alpha = _to_8_bits(cell, samples)[..., [count + place]]
    shown = shown if 1 in cell.extra else shown * alpha / 255
    return np.asarray(np.broadcast_to(shown + 255 - alpha, (HEIGHT, WIDTH, 3)).clip(0, 255))


def _to_8_bits(cell: Cell, samples: np.ndarray) -> np.ndarray:
    if cell.sample == "float":
        return np.asarray(samples.astype(float) * 255)
    if cell.bits <= 8:
        return np.asarray(samples * (255 / (2**cell.bits - 1) if cell.sample == "uint" else 1.0))
    return np.asarray((samples >> (min(cell.bits, 16) - 8)).astype(float))


def _ycbcr(parts: np.ndarray) -> np.ndarray:
    y, blue, red = np.moveaxis(parts - [0, 128, 128], -1, 0)
    rgb = y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue
    return np.asarray(np.stack(rgb, -1).clip(0, 255))


_FROM_D50 = [
    [3.1338561, -1.6168667, -0.4906146],
    [-0.9787684, 1.9161415, 0.0334540],
    [0.0719453, -0.2289914, 1.4052427],
]


def _lab(parts: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D50 to sRGB; the matrix is Bradford's, from brucelindbloom.com."""
    bright, a, b = np.moveaxis(parts, -1, 0)
    a, b = a - 256 * (a > 127), b - 256 * (b > 127)
    y = (bright * 100 / 255 + 16) / 116
    cube = np.stack([y + a / 500, y, y - b / 200], -1)
    linear = np.where(cube > 6 / 29, cube**3, (cube - 4 / 29) * 3 * (6 / 29) ** 2)
    light = np.clip(linear * [0.96422, 1, 0.82521] @ np.array(_FROM_D50).T, 0, 1)
    curve = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.asarray(curve * 255)


def _encode_lab(rgb: np.ndarray) -> np.ndarray:
    """SRGB to CIE L*a*b* under D50 in 8 bits, so that every colour is one that sRGB has."""
    share = rgb / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    cube = linear @ np.linalg.inv(np.array(_FROM_D50)).T / [0.96422, 1, 0.82521]
    x, y, z = np.moveaxis(np.where(cube > 0.008856, np.cbrt(cube), cube / 0.128419 + 4 / 29), -1, 0)
    parts = np.stack([(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)], -1)
    return np.asarray(np.rint(parts).astype(np.int64) & 0xFF)


_CONVERT: dict[str, Any] = {
    "white": lambda c: 255 - c,
    "cmyk": lambda c: (255 - c[..., :3]) * (255 - c[..., 3:]) / 255,
    "ycbcr": _ycbcr,
    "lab": _lab,
}
