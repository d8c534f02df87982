"""Mutants of files: changed in their bytes, or in a member, value or object that they hold."""

import json
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tests.mutants_hdf5 import mutate_hdf5

# What sizes, counts and offsets are wrong by.
ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**9,
    10**18,
    "",
    "\u202ex\n",
    [],
    {},
    [10**9],
    [[]],
)

Random = np.random.Generator


def make_mutant(files: Sequence[Path], seed: int, number: int) -> tuple[Path, bytes]:
    """Return which file is changed to what."""
    random = np.random.default_rng([seed, number])
    path = files[int(random.integers(len(files)))]
    return path, mutate(path.read_bytes(), random)


def mutate(content: bytes, random: Random) -> bytes:
    """Change a file at a few places: in its bytes, or in a member or a value that it holds."""
    if content.startswith(b"PK") and random.random() < 0.8:
        return _mutate_zip(content, random)
    if content.startswith(b"{") and b"\n{" not in content and random.random() < 0.8:
        return _mutate_json(content, random)
    if content.startswith(b"\x93NUMPY") and random.random() < 0.5:
        return _mutate_array(content, random)
    if content.startswith(b"\x89HDF") and random.random() < 0.8:
        return mutate_hdf5(content, random)
    return _mutate_bytes(content, random)


def _mutate_bytes(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at, size = int(random.integers(len(changed) + 1)), int(random.integers(1, 17))
        kind = random.integers(6)
        if kind == 0:
            del changed[at : at + size]
        elif kind == 1:
            changed[at:at] = changed[at : at + size] or b"\0"
        elif kind == 2:
            changed[at:at] = random.bytes(size)
        elif kind == 3:
            width, order = (1, 2, 4, 8)[random.integers(4)], ("little", "big")[random.integers(2)]
            value = ODD[random.integers(len(ODD))] % 256**width
            changed[at : at + width] = value.to_bytes(width, order)
        elif at < len(changed):
            changed[at] ^= 1 << int(random.integers(8)) if kind == 4 else random.integers(1, 256)
    return bytes(
        changed[: random.integers(len(changed) + 1)] if random.random() < 0.05 else changed
    )


def _mutate_array(content: bytes, random: Random) -> bytes:
    """Change how long or wide an array is, or a value of it, so that it is an array still."""
    array, stream = np.load(BytesIO(content)), BytesIO()
    kind = random.integers(4) if array.ndim and array.size else 3
    if kind == 0:
        array = array[: random.integers(len(array))]
    elif kind == 1:
        array = array[..., : random.integers(array.shape[-1])]
    elif kind == 2:
        array = np.concatenate([array] * 3)
    else:
        values, at = bytearray(array.tobytes()), int(random.integers(max(1, array.nbytes)))
        values[at : at + 8] = bytes([ODD[random.integers(len(ODD))] % 256]) * len(
            values[at : at + 8]
        )
        array = np.frombuffer(values, array.dtype).reshape(array.shape)
    np.save(stream, np.ascontiguousarray(array))
    return stream.getvalue()


def _mutate_zip(content: bytes, random: Random) -> bytes:
    """Mutate a member and pack it again, so that its checksum fits."""
    stream = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = names[random.integers(len(names))]
        for name in names:
            member = old.read(name)
            new.writestr(name, mutate(member, random) if name == chosen else member)
    return stream.getvalue()


def _mutate_json(content: bytes, random: Random) -> bytes:
    """Put another value in the place of one, or leave it out."""
    described = json.loads(content)
    place: Any = described
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return content[:-1]
        key = keys[random.integers(len(keys))]
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.1:
            break
        place = place[key]
    if random.random() < 0.2:
        del place[key]
    else:
        place[key] = ODD_VALUES[random.integers(len(ODD_VALUES))]
    return json.dumps(described).encode()
