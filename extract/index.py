"""Several stores behind a small index: made whole, and opened only if they are what was made.

A shard is a store like any other, of neighbouring rows of the whole. All are made before the first
row runs, and the index after them. It is no virtual dataset of HDF5, which would give fill values
in the place of a file that it cannot open.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from extract.beside import beside, put
from extract.errors import StoreError, one_line
from extract.item import Item
from extract.layout import (
    DIGEST_BYTES,
    FORMAT_VERSION,
    check_room,
    check_version,
    explained,
    to_plain,
    write_store,
)
from extract.single import NOT_YET, SingleStore, open_single
from extract.soundness import readable

# Minutes of a processor's work, and 30 MB of pooled features.
SHARD_ROWS = 10_000
INDEX_FORMAT = "headstart index"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")


class Shard(NamedTuple):
    """One of the files behind an index: ``rows`` of the whole, ``identity`` of their keys."""

    path: Path
    rows: range
    identity: bytes


def create_shards(
    path: Path,
    items: Sequence[Item],
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
    replace: bool = False,
) -> None:
    """Make an index and its shards with every row still to do.

    Args:
        path: The index.
        items: See ``layout.create_store``, here and below.
        shapes: See there.
        attributes: ``shards`` names a folder below that of the index.
        replace: Take the place of what is there.

    Raises:
        StoreError: The folder holds something else, its own folder is not there, or the disk has
            no room.
    """
    folder = path.parent / attributes["shards"]
    check_room(folder, items, shapes, attributes)
    _check_folder(folder, replace)
    starts = range(0, len(items), SHARD_ROWS)
    parts = {f"shard-{n:05d}.h5": items[s : s + SHARD_ROWS] for n, s in enumerate(starts)}
    with explained(path), beside(folder) as made, beside(path) as index:
        made.mkdir()
        for name, part in parts.items():
            write_store(made / name, part, shapes, attributes)
        _write_index(index, attributes["shards"], parts)
        put(made, folder)
        put(index, path)


def _check_folder(folder: Path, replace: bool) -> None:
    """Raise StoreError unless the folder's content can go: shards, and without rows if need be.

    Such are left by a run that was killed before there was an index.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder] * folder.exists():
        if not _SHARD_NAME.fullmatch(path.name):
            raise StoreError(
                f"{folder}: found {path.name}; expected a folder for shards alone; name another "
                "one with --shards"
            )
        if not replace:
            with open_single(path) as store:
                if (store.status != NOT_YET).any():
                    raise StoreError(
                        f"{folder}: {path.name} has finished rows; expected shards of no other "
                        "index; name another folder with --shards, or remove this one"
                    )


def _write_index(path: Path, folder: str, parts: Mapping[str, Sequence[Item]]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["format"] = INDEX_FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        names = [f"{folder}/{name}" for name in parts]
        file.create_dataset("shards", data=names, dtype=h5py.string_dtype("utf-8"))
        file.create_dataset("rows", data=[len(part) for part in parts.values()], dtype=np.int64)
        identities = [_identify(item.key for item in part) for part in parts.values()]
        file.create_dataset(
            "identity", data=np.frombuffer(b"".join(identities), np.uint8).reshape(-1, DIGEST_BYTES)
        )


def read_index(path: Path, file: h5py.File) -> list[Shard]:
    """Return the shards that an open file is the index of; none where it is a store itself.

    Raises:
        StoreError: It is damaged, newer, or names files outside of its folder.
    """
    with readable(path):
        if to_plain(file.attrs.get("format")) != INDEX_FORMAT:
            return []
        check_version(path, file)
        names, counts = file["shards"].asstr()[:].tolist(), file["rows"][:].tolist()
        identities = [found.tobytes() for found in file["identity"][:]]
        stops = np.cumsum(counts).tolist()
        if not names or min(counts) < 1 or len(set(names)) < len(names):
            raise damaged(path, "lists no shard, one twice, or one without rows")
        shards = [
            Shard(path.parent / name, range(stop - count, stop), identity)
            for name, count, stop, identity in zip(names, counts, stops, identities, strict=True)
        ]
    folder = path.parent.resolve()
    for shard in shards:
        # A file from a stranger makes nobody read what is not his.
        if not shard.path.resolve().is_relative_to(folder):
            raise damaged(path, f"names {one_line(str(shard.path))}, outside of its folder")
    return shards


@contextmanager
def open_shard(shard: Shard, write: bool = False) -> Iterator[SingleStore]:
    """Open a shard, if it is the one that the index was made with.

    Raises:
        StoreError: It is not there, cannot be opened, or is another.
    """
    if not shard.path.is_file():
        raise StoreError(
            f"{shard.path}: no such file; expected a shard of {len(shard.rows)} rows; restore it, "
            "or make all anew with --overwrite"
        )
    with open_single(shard.path, write) as store:
        if len(store.keys) != len(shard.rows) or _identify(store.keys) != shard.identity:
            raise damaged(shard.path, "has rows of other pictures than the index says")
        yield store


def damaged(path: Path, found: str) -> StoreError:
    """Return the error that says what is wrong with an index or a shard."""
    return StoreError(
        f"{path}: {found}; expected an index and its shards as extract-features made them; restore "
        "them, or remove them and run extract-features again"
    )


def _identify(keys: Iterable[str]) -> bytes:
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for key in keys:
        found.update(key.encode() + b"\0")
    return found.digest()
