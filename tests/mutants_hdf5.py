"""Mutants of HDF5 files: fields of its headers, heaps and trees, or objects of other kinds.

Source: HDF5 file format specification, version 3.0, superblock 0 and object headers of version 1,
which h5py writes unless it is told otherwise.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any

import h5py
import numpy as np

Random = np.random.Generator

# Bytes of a structure that are mutated, by its signature; texts of a heap begin with 16 bytes.
_STRUCTURES = {b"TREE": 88, b"SNOD": 328, b"HEAP": 32, b"GCOL": 16}
_CONTINUATION = 16
_ODD = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = ("", "x" * 70_000, "\u202ex\n\x1b[2J", "../../x", "/dev/zero", "\0", "train", "é" * 99)
_ODD_OBJECTS: tuple[Any, ...] = (
    h5py.Empty("f4"),
    np.float64("nan"),
    -1,
    2**63 - 1,
    1j,
    True,
    b"\xff\xfe",
    np.void(b"\1\2\3"),
    [],
    np.zeros((0, 3), "f4"),
    np.zeros((3, 0), "u1"),
    np.zeros((8, 5, 4, 3), "u1"),
    np.arange(12, dtype=">i2"),
    np.zeros(8, [("a", "i4"), ("b", "S3")]),
    np.zeros(8, np.dtype(("i4", (2,)))),
    np.zeros(8, h5py.enum_dtype({"\n": 0, "b": 1}, "i1")),
    np.zeros(8, h5py.ref_dtype),
    np.array([np.arange(3), np.arange(0)], dtype=h5py.vlen_dtype(np.dtype("i4"))),
    np.array([b"\xff", b"a\0b"], dtype=h5py.string_dtype()),
    np.array([b"\xff", b"a"], dtype=h5py.string_dtype("utf-8", 5)),
    np.dtype("f4"),
    h5py.SoftLink("/"),
    h5py.SoftLink("/nothing"),
    h5py.ExternalLink("other.h5", "/"),
    *_TEXTS,
    list(_TEXTS),
    ["a", "a"],
)


def mutate_hdf5(content: bytes, random: Random) -> bytes:
    """Change fields of the structures of a file, or replace objects and values by odd ones."""
    if random.random() < 0.4:
        return _change_objects(content, random)
    changed, places = bytearray(content), find_places(content)
    for _ in range(int(random.integers(1, 4))):
        start, size = places[random.integers(len(places))]
        if random.random() < 0.1:
            other, length = places[random.integers(len(places))]
            length = min(size, length)
            changed[start : start + length] = content[other : other + length]
            continue
        width = (1, 2, 4, 8)[random.integers(4)]
        at = start + width * int(random.integers(max(1, size // width)))
        value = int.from_bytes(changed[at : at + width], "little")
        odd = (
            *(_ODD[random.integers(len(_ODD))], value + 1, value - 1, value * 2, value // 2),
            *(value ^ 1 << int(random.integers(8 * width)), len(content)),
            places[random.integers(len(places))][0],
        )
        value = odd[random.integers(len(odd))] % 256**width
        changed[at : at + width] = value.to_bytes(width, "little")
    return bytes(changed[: len(content)])


@lru_cache(maxsize=64)
def find_places(content: bytes) -> list[tuple[int, int]]:
    """Return where the structures of a file begin, and how many bytes each has."""
    places = [(0, 96)]
    for signature, size in _STRUCTURES.items():
        found = _find(content, signature)
        places += [(at, min(size, len(content) - at)) for at in found]
        if signature == b"GCOL":
            # HDF5 loops over most of these, for seconds: a few are enough.
            places += [text for at in found for text in [*_texts_of_heap(content, at)][::-16]]
            # A reference to a text has its length, the address of the heap and a number.
            addresses = [at.to_bytes(8, "little") for at in found]
            places += [(at - 4, 16) for each in addresses for at in _find(content, each)]
    with h5py.File(BytesIO(content), "r") as file:
        nodes = [file["/"]]
        file.visititems(lambda _, node: nodes.append(node))
        headers = {h5py.h5o.get_info(node.id).addr for node in nodes}
    for header in sorted(headers):
        places += _messages(content, header)
    return places


def _find(content: bytes, wanted: bytes) -> list[int]:
    found, at = [], content.find(wanted)
    while at >= 0:
        found.append(at)
        at = content.find(wanted, at + 1)
    return found


def _texts_of_heap(content: bytes, heap: int) -> Iterator[tuple[int, int]]:
    """Yield the 16 bytes before each text: its number, references and length."""
    at = heap + 16
    while int.from_bytes(content[at : at + 2], "little"):  # 0 is what is free
        yield at, 16
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    yield at, 16


def _messages(content: bytes, header: int) -> Iterator[tuple[int, int]]:
    """Yield an object header of version 1 and its messages; nothing of another version."""
    if content[header] != 1:
        yield header, min(512, len(content) - header)
        return
    yield header, 16
    blocks = [(header + 16, int.from_bytes(content[header + 8 : header + 12], "little"))]
    for start, size in blocks:
        at = start
        while at + 8 <= start + size:
            kind, length = (int.from_bytes(content[i : i + 2], "little") for i in (at, at + 2))
            yield at, 8 + length
            if kind == _CONTINUATION:
                numbers = (content[i : i + 8] for i in (at + 8, at + 16))
                place, more = (int.from_bytes(number, "little") for number in numbers)
                blocks.append((place, more))
            at += 8 + length


def _change_objects(content: bytes, random: Random) -> bytes:
    stream = BytesIO(content)
    with h5py.File(stream, "r+") as file:
        for _ in range(int(random.integers(1, 4))):
            names = ["/"]
            file.visit(names.append)
            change = _CHANGES[random.integers(len(_CHANGES))]
            with suppress(Exception):  # not every change is possible everywhere
                change(file, names[random.integers(len(names))], random)
    return stream.getvalue()


def _odd_object(random: Random) -> Any:
    return _ODD_OBJECTS[random.integers(len(_ODD_OBJECTS))]


def _replace(file: h5py.File, name: str, random: Random) -> None:
    value = _odd_object(random)
    del file[name]
    file[name] = value


def _replace_by_another(file: h5py.File, name: str, random: Random) -> None:
    names = ["/"]
    file.visit(names.append)
    other = file[names[random.integers(len(names))]]
    del file[name]
    file[name] = other


def _delete(file: h5py.File, name: str, _: Random) -> None:
    del file[name]


def _add(file: h5py.File, name: str, random: Random) -> None:
    group = name if isinstance(file[name], h5py.Group) else "/"
    names = (*_TEXTS[1:], "shards", "checksum", "groups", "class_names", "views", "x", "a" * 300)
    file[group][names[random.integers(len(names))]] = _odd_object(random)


def _set_attribute(file: h5py.File, name: str, random: Random) -> None:
    names = [*file.attrs, *_TEXTS]
    node = file[name] if random.random() < 0.1 else file
    node.attrs[names[random.integers(len(names))]] = _odd_object(random)


def _delete_attribute(file: h5py.File, _: str, random: Random) -> None:
    names = list(file.attrs)
    del file.attrs[names[random.integers(len(names))]]


def _set_value(file: h5py.File, name: str, random: Random) -> None:
    dataset = file[name]
    at = int(random.integers(len(dataset)))
    values = _TEXTS if dataset.dtype.kind in "OS" else (-1, 0, 2, 255, 2**31, np.nan, 1e300)
    dataset[at] = values[random.integers(len(values))]


def _change_shape(file: h5py.File, name: str, random: Random) -> None:
    dataset = file[name]
    values, kind = dataset[()], dataset.dtype
    forms: list[Callable[[], Any]] = [
        lambda: values[: random.integers(len(values) + 1)],
        lambda: np.concatenate([values, values]),
        lambda: values[None],
        lambda: values[..., None],
        lambda: values[..., :1],
        lambda: values.swapaxes(0, -1),
    ]
    del file[name]
    file.create_dataset(name, data=forms[random.integers(len(forms))](), dtype=kind)


def _change_storage(file: h5py.File, name: str, random: Random) -> None:
    dataset = file[name]
    values, kind = dataset[()], dataset.dtype
    shape = tuple(int(n * 10 ** random.integers(12)) for n in dataset.shape)
    forms: list[dict[str, Any]] = [
        {"data": values, "compression": "gzip"},
        {"data": values, "fletcher32": True, "shuffle": True},
        {"data": values, "maxshape": (None,) * values.ndim},
        {"shape": shape, "chunks": True, "dtype": kind},
        {"shape": shape, "chunks": (1,) * values.ndim, "dtype": kind},
        {"data": values, "dtype": ("f2", ">f8", "i1", "u8", "S5")[random.integers(5)]},
    ]
    del file[name]
    file.create_dataset(name, **forms[random.integers(len(forms))])


_CHANGES: tuple[Callable[[h5py.File, str, Random], None], ...] = (
    *(_replace, _replace_by_another, _delete, _add, _set_attribute, _set_attribute),
    *(_delete_attribute, _set_value, _set_value, _change_shape, _change_storage),
)
