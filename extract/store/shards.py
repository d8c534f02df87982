"""Several stores behind a small index: made whole, and opened only if they are what was made.

A shard is a store like any other, of neighbouring rows of the whole. All are made before the first
row runs, and the index after them. It is no virtual dataset of HDF5, which would give fill values
in the place of a file that it cannot open.
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from extract.core.atomic import move_into_place, publish, temporary_path
from extract.core.console import log
from extract.core.errors import StoreError, quoted
from extract.core.row_block import PENDING
from extract.images.digests import DIGEST_BYTES
from extract.images.item import Item
from extract.store.format import (
    FORMAT_VERSION,
    OWN_ATTRIBUTES,
    check_disk_space,
    check_version,
    to_plain,
    wrap_write_errors,
    write_store,
)
from extract.store.single_file import SingleStore, open_single
from extract.store.validate import open_file, wrap_read_errors

# Minutes of a processor's work, and 30 MB of pooled features.
SHARD_ROWS = 10_000
INDEX_FORMAT = "headstart index"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")


class ShardLostError(StoreError):
    """A shard is not there, or another one is in its place."""


class Shard(NamedTuple):
    """One of the files behind an index: ``rows`` of the whole, ``identity`` of what it was."""

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
        path: The index. A link stays, and what it leads to is made.
        items: See ``layout.create_store``, here and below.
        shapes: See there.
        attributes: ``shards`` names a folder below that of the index.
        replace: Take the place of what is there.

    Raises:
        StoreError: The folder holds something else, its own folder is not there, the disk has no
            room, or another run has just made the same.
    """
    place = _real(path)
    folder = place.parent / attributes["shards"]
    starts = range(0, len(items), SHARD_ROWS)
    parts = {f"shard-{n:05d}.h5": items[s : s + SHARD_ROWS] for n, s in enumerate(starts)}
    check_disk_space(folder, items, shapes, attributes, len(parts) + 1)
    known = find_shards(place) if replace else []
    with wrap_write_errors(path), temporary_path(folder) as made, temporary_path(place) as index:
        # What a killed run has left is gone by now, and what it took away is back.
        _check_folder(folder, {shard.path for shard in known})
        was_there = folder.exists()
        made.mkdir()
        for name, part in parts.items():
            write_store(made / name, part, shapes, attributes)
        _write_index(index, attributes["shards"], parts, made)
        move_into_place(made, folder) if was_there else publish(made, folder)
        move_into_place(index, place) if replace else publish(index, place)


def find_shards(path: Path) -> list[Shard]:
    """Return the shards that a file is the index of; none where it is a store itself.

    Raises:
        StoreError: It cannot be opened, or is no sound index.
    """
    with open_file(path) as file:
        return read_index(path, file)


def find_lost(path: Path) -> dict[Shard, str]:
    """Return the shards of an index that are not there, or are others, and what is found of each.

    Raises:
        StoreError: A shard cannot be opened.
    """
    lost = {}
    for shard in find_shards(path):
        try:
            with open_shard(shard):
                pass
        except ShardLostError as error:
            lost[shard] = str(error).partition("; expected")[0]
    return lost


@contextmanager
def open_part(path: Path, lost: Container[Shard] = ()) -> Iterator[SingleStore]:
    """Open a file with the settings of a whole store, and no others of it.

    Args:
        path: A store of one file, or an index: of its shards the first is opened.
        lost: Shards that are passed over.

    Raises:
        StoreError: It cannot be opened, or all shards are lost.
    """
    shards = find_shards(path)
    left = [shard for shard in shards if shard not in lost]
    if shards and not left:
        raise damaged(path, f"none of its {len(shards)} shards is there")
    with open_shard(left[0]) if left else open_single(path) as store:
        yield store


def remake_lost(path: Path, items: Sequence[Item]) -> None:
    """Make the shards of an index that are not there again, with every row still to do.

    Args:
        path: The index.
        items: The rows of all shards, in order.

    Raises:
        StoreError: In the place of a shard is another, or its rows are no longer in the source.
    """
    lost = find_lost(path)
    if not lost:
        return
    with open_part(path, lost) as store:
        shapes = store.shapes
        attributes = {k: v for k, v in store.attributes.items() if k not in OWN_ATTRIBUTES}
    for shard, found in lost.items():
        part = items[shard.rows.start : shard.rows.stop]
        if shard.path.exists():
            raise StoreError(f"{found}; expected nothing in its place; move it away")
        if _identify([item.key for item in part], attributes) != shard.identity:
            raise StoreError(
                f"{found}; expected its images as rows {shard.rows.start} to "
                f"{shard.rows.stop - 1} of the source, which has changed; restore the one or the "
                "other"
            )
        log.warning("%s; made again", found)
        shard.path.parent.mkdir(exist_ok=True)
        with wrap_write_errors(path), temporary_path(shard.path) as made:
            write_store(made, part, shapes, attributes)
            publish(made, shard.path)


def _real(path: Path) -> Path:
    """Return where an index lies, from whose folder its shards are seen."""
    return path.resolve() if path.is_symlink() else path


def _check_folder(folder: Path, known: Set[Path]) -> None:
    """Raise StoreError unless the folder's content can go: known shards, or some without rows.

    The latter are left by a run that was killed before there was an index.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder] * folder.exists():
        if not _SHARD_NAME.fullmatch(path.name):
            raise StoreError(
                f"{folder}: found {quoted(path.name)}; expected a folder for shards alone; name "
                "another one with --shards"
            )
        if path not in known:
            with open_single(path) as store:
                if (store.status != PENDING).any():
                    raise StoreError(
                        f"{folder}: {path.name} has finished rows; expected shards of no other "
                        "index; name another folder with --shards, or remove this one"
                    )


def _write_index(path: Path, folder: str, parts: Mapping[str, Sequence[Item]], made: Path) -> None:
    with open_single(made / next(iter(parts))) as first:
        attributes = first.attributes
    with h5py.File(path, "w") as file:
        file.attrs["format"] = INDEX_FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        names = [f"{folder}/{name}" for name in parts]
        file.create_dataset("shards", data=names, dtype=h5py.string_dtype("utf-8"))
        file.create_dataset("rows", data=[len(part) for part in parts.values()], dtype=np.int64)
        keys = ([item.key for item in part] for part in parts.values())
        identities = [_identify(some, attributes) for some in keys]
        file.create_dataset(
            "identity", data=np.frombuffer(b"".join(identities), np.uint8).reshape(-1, DIGEST_BYTES)
        )


def read_index(path: Path, file: h5py.File) -> list[Shard]:
    """Return the shards that an open file is the index of; none where it is a store itself.

    Raises:
        StoreError: It is damaged, newer, or names files outside of its folder.
    """
    with wrap_read_errors(path):
        if to_plain(file.attrs.get("format")) != INDEX_FORMAT:
            return []
        check_version(path, file)
        names, counts = file["shards"].asstr()[:].tolist(), file["rows"][:].tolist()
        identities = [found.tobytes() for found in file["identity"][:]]
        stops = np.cumsum(counts).tolist()
        if not names or min(counts) < 1 or len(set(names)) < len(names):
            raise damaged(path, "lists no shard, one twice, or one without rows")
        home = _real(path).parent
        shards = [
            Shard(home / name, range(stop - count, stop), identity)
            for name, count, stop, identity in zip(names, counts, stops, identities, strict=True)
        ]
        _check_inside(path, home, [shard.path for shard in shards])
    return shards


def _check_inside(index: Path, home: Path, paths: Iterable[Path]) -> None:
    """Raise StoreError unless all lie below a folder: a stranger's file makes nobody read others.

    A folder is resolved once for all that lie in it: thousands of shards took a second.
    """
    real = home.resolve()
    inside: dict[Path, bool] = {}
    for path in paths:
        if path.parent not in inside:
            inside[path.parent] = path.parent.resolve().is_relative_to(real)
        if not inside[path.parent] or path.is_symlink() or path.name == "..":
            raise damaged(index, f"names {quoted(str(path))}, outside of its folder")


@contextmanager
def open_shard(shard: Shard, write: bool = False) -> Iterator[SingleStore]:
    """Open a shard, if it is the one that the index was made with.

    Raises:
        ShardLostError: It is not there, or is another.
        StoreError: It cannot be opened.
    """
    if not shard.path.is_file():
        raise ShardLostError(f"{quoted(str(shard.path))}: no such file; {_expected(shard)}")
    with open_single(shard.path, write) as store:
        if (
            len(store.keys) != len(shard.rows)
            or _identify(store.keys, store.attributes) != shard.identity
        ):
            raise ShardLostError(
                f"{shard.path}: is another shard than the index was made with; {_expected(shard)}"
            )
        yield store


def _expected(shard: Shard) -> str:
    return (
        f"expected the one of rows {shard.rows.start} to {shard.rows.stop - 1}; restore it, or "
        "run extract-features with --repair, which makes again what is gone, or the whole command "
        "with --overwrite, which makes all anew"
    )


def damaged(path: Path, found: str) -> StoreError:
    """Return the error that says what is wrong with an index or a shard."""
    return StoreError(
        f"{path}: {found}; expected an index and its shards as extract-features made them; restore "
        "them, or remove them and run extract-features again"
    )


def _identify(keys: Iterable[str], attributes: Mapping[str, Any]) -> bytes:
    """Return a digest of whose rows a shard has, and of how it was made."""
    made = {name: value for name, value in attributes.items() if name not in OWN_ATTRIBUTES}
    found = hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=DIGEST_BYTES)
    for key in keys:
        found.update(key.encode() + b"\0")
    return found.digest()
