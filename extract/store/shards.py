"""Shards behind a small index: created together, and opened only if they are unchanged.

A shard is a store of its own, of neighbouring rows. All shards are created before the first row is
computed, and the index after them. A virtual dataset of HDF5 would not do: it returns fill values
for a file that it cannot open.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from extract.core.atomic import move_into_place, publish, temporary_path
from extract.core.errors import StoreError, quoted
from extract.core.row_block import PENDING
from extract.images.digests import DIGEST_BYTES, digest_bytes
from extract.images.item import Item
from extract.store.format import OWN_ATTRIBUTES, Layout, to_plain, wrap_write_errors
from extract.store.single_file import StoreFile, open_store_file
from extract.store.validate import check_version, open_file, refuse, wrap_read_errors

# Some minutes of a processor's work, and 30 MB of pooled features.
SHARD_ROWS = 10_000
INDEX_FORMAT = "headstart index"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")


class ShardLostError(StoreError):
    """A shard is missing, or another file is in its place."""

    def __init__(self, problem: str, rows: range) -> None:
        self.problem = problem
        super().__init__(
            f"{problem}; expected the one of rows {rows.start} to {rows.stop - 1}; restore it, or "
            "run extract-features with --repair, which creates lost shards again, or the same "
            "command with --overwrite, which replaces the store"
        )


class Shard(NamedTuple):
    """One file of a store: the store's rows that it holds, and the digest that the index has."""

    path: Path
    rows: range
    identity: bytes = b""


def create_shards(path: Path, layout: Layout, replace: bool = False) -> None:
    """Create an index and its shards with every row still to do; see ``create_store``.

    Args:
        path: The index. A link stays, and the file that it leads to is created.
        layout: Its attribute ``shards`` names a folder below the folder of the index.
        replace: Replace an existing store.

    Raises:
        StoreError: The folder holds other files, its parent is missing, the disk has no room, or
            another run has just created the same.
    """
    place = _follow(path)
    name, items = layout.attributes["shards"], layout.items
    folder = place.parent / name
    starts = range(0, len(items), SHARD_ROWS)
    parts = {f"shard-{n:05d}.h5": items[s : s + SHARD_ROWS] for n, s in enumerate(starts)}
    layout.check_disk_space(folder, len(parts) + 1)
    known = {shard.path for shard in find_shards(place)} if replace else set()
    with wrap_write_errors(path), temporary_path(folder) as new, temporary_path(place) as index:
        # Leftovers of a killed run are gone by now, and what it had moved away is back.
        _check_folder(folder, known)
        existed = folder.exists()
        new.mkdir()
        for shard, part in parts.items():
            layout._replace(items=part).write(new / shard)
        _write_index(index, name, parts, new)
        move_into_place(new, folder) if existed else publish(new, folder)
        move_into_place(index, place) if replace else publish(index, place)


def find_shards(path: Path) -> list[Shard]:
    """Return the shards of an index; none of a store of one file.

    Raises:
        StoreError: It cannot be opened, or is not a valid index.
    """
    with open_file(path) as file:
        return read_index(path, file)


def read_layers(path: Path) -> list[str]:
    """Return the layers of a store without reading its columns.

    Raises:
        StoreError: It cannot be opened, or is damaged.
    """
    shards = find_shards(path)
    with open_file(shards[0].path if shards else path) as file, wrap_read_errors(path):
        return [str(name) for name in to_plain(file.attrs["layer"])]


def _follow(path: Path) -> Path:
    """Return the index that a link leads to; its shards lie below that folder."""
    return path.resolve() if path.is_symlink() else path


def _check_folder(folder: Path, known: Set[Path]) -> None:
    """Raise StoreError unless the folder can be replaced: it holds known or empty shards only.

    Empty shards are left by a run that was killed before it wrote the index.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder] * folder.exists():
        if not _SHARD_NAME.fullmatch(path.name):
            problem = f"found {quoted(path.name)}; expected a folder for shards alone"
            raise StoreError(f"{folder}: {problem}; name another one with --shards")
        if path not in known:
            with open_store_file(path) as file:
                if (file.status != PENDING).any():
                    found = f"{path.name} has finished rows; expected shards of no other index"
                    remedy = "name another folder with --shards, or remove this one"
                    raise StoreError(f"{folder}: {found}; {remedy}")


def _write_index(path: Path, folder: str, parts: Mapping[str, Sequence[Item]], new: Path) -> None:
    with open_store_file(new / next(iter(parts))) as first:
        attributes = first.attributes
    identities = [identify([item.key for item in part], attributes) for part in parts.values()]
    with h5py.File(path, "w") as file:
        file.attrs.update(format=INDEX_FORMAT, format_version=1)
        names = [f"{folder}/{name}" for name in parts]
        file.create_dataset("shards", data=names, dtype=h5py.string_dtype("utf-8"))
        file.create_dataset("rows", data=[len(part) for part in parts.values()], dtype=np.int64)
        digests = np.frombuffer(b"".join(identities), np.uint8)
        file.create_dataset("identity", data=digests.reshape(-1, DIGEST_BYTES))


def read_index(path: Path, file: h5py.File) -> list[Shard]:
    """Return the shards of an open index; none of a store of one file.

    Raises:
        StoreError: It is damaged, newer, or names files outside of its folder.
    """
    with wrap_read_errors(path):
        if to_plain(file.attrs.get("format")) != INDEX_FORMAT:
            return []
        check_version(path, file)
        names, counts = file["shards"].asstr()[:].tolist(), file["rows"][:].tolist()
        identities = [digest.tobytes() for digest in file["identity"][:]]
        stops = np.cumsum(counts).tolist()
        if not names or min(counts) < 1 or len(set(names)) < len(names):
            refuse(path, "lists no shard, one twice, or one without rows")
        home = _follow(path).parent
        shards = [
            Shard(home / name, range(stop - count, stop), identity)
            for name, count, stop, identity in zip(names, counts, stops, identities, strict=True)
        ]
        _check_inside(path, home, [shard.path for shard in shards])
    return shards


def _check_inside(index: Path, home: Path, paths: Sequence[Path]) -> None:
    """Raise StoreError unless all lie below a folder: a stranger's index must read no other file.

    Each folder is resolved once: resolving thousands of shards took a second.
    """
    real = os.path.realpath(home)
    places = {folder: Path(os.path.realpath(folder)) for folder in {path.parent for path in paths}}
    # Links in a circle lead nowhere, and remain links.
    outside = {
        f for f, place in places.items() if os.path.islink(place) or not place.is_relative_to(real)
    }
    for path in paths:
        if path.parent in outside or path.is_symlink() or path.name == "..":
            refuse(index, f"names {quoted(str(path))}, outside of its folder")


@contextmanager
def open_shard(shard: Shard, write: bool = False) -> Iterator[StoreFile]:
    """Open a shard, if it is the one that the index was created with.

    Raises:
        ShardLostError: It is missing, or is another one.
        StoreError: It cannot be opened.
    """
    if not shard.path.is_file():
        raise ShardLostError(f"{quoted(str(shard.path))}: no such file", shard.rows)
    with open_store_file(shard.path, write) as file:
        changed = identify(file.keys, file.attributes) != shard.identity
        if changed or len(file.keys) != len(shard.rows):
            problem = f"{shard.path}: is not the shard that the index was made with"
            raise ShardLostError(problem, shard.rows)
        yield file


def check_same(files: Sequence[StoreFile]) -> None:
    """Raise StoreError unless all shards were created together with the first one."""
    first = files[0].attributes
    for file in files[1:]:
        names = sorted((first.keys() | file.attributes.keys()) - {"complete"})
        other = [name for name in names if first.get(name) != file.attributes.get(name)]
        other += ["shape of features"] * (file.shapes != files[0].shapes)
        if other:
            refuse(file.path, f"has another {', '.join(other)} than the first shard")


def identify(keys: Iterable[str], attributes: Mapping[str, Any]) -> bytes:
    """Return a digest of a shard's keys and of the attributes that its rows were made with."""
    settings = {name: value for name, value in attributes.items() if name not in OWN_ATTRIBUTES}
    texts = [json.dumps(settings, sort_keys=True), *(f"{key}\0" for key in keys)]
    return digest_bytes("".join(texts).encode())
