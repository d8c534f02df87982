"""Bring a store up to date: with a source that has changed, or where shards are lost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extract.core.atomic import move_into_place, publish, temporary_path
from extract.core.console import log
from extract.core.errors import StoreError
from extract.core.row_block import DONE, RowBlock
from extract.images.digests import read_digests
from extract.images.item import Item
from extract.store.format import (
    CHUNK_BYTES,
    OWN_ATTRIBUTES,
    Layout,
    check_disk_space,
    wrap_write_errors,
    write_store,
)
from extract.store.open import Store, open_store
from extract.store.shards import (
    Shard,
    ShardLostError,
    damaged,
    find_shards,
    identify,
    open_shard,
)
from extract.store.single_file import open_store_file
from extract.store.verify import find_rejected


def update_store(path: Path, layout: Layout) -> None:
    """Replace a store by one of the images as they are now; rows of unchanged images are copied.

    The new one is built under a temporary name and renamed, so that a valid one exists at any
    moment. Rows of new and changed images are still to do in it.

    Args:
        path: A store made with the same settings.
        layout: The new store.

    Raises:
        StoreError: A file cannot be read or written, or the disk has no room for both.
    """
    check_disk_space(path, layout)
    with wrap_write_errors(path), temporary_path(path) as temporary:
        write_store(temporary, layout)
        with open_store(path) as old, open_store(temporary, write=True) as new:
            rows, places = _find_unchanged(old, layout.items)
            step = max(1, 8 * CHUNK_BYTES // new.row_bytes)
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                _copy(old, new, rows[part], places[part])
            dropped = len(set(old.keys).difference(new.keys))
        move_into_place(temporary, path)
    added = len(layout.items) - len(rows)
    log.info("%s: %d rows kept, %d new or changed, %d dropped", path, len(rows), added, dropped)


def _find_unchanged(old: Store, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Return the old rows of unchanged images, and their new ones; both increase."""
    valid = np.flatnonzero(old.status == DONE)
    # A copy of a damaged row would get a checksum that fits.
    for problem, rejected in find_rejected(old):
        log.warning("%s: %s; computed again", old.path, problem)
        valid = np.setdiff1d(valid, rejected)
    row_of = {old.keys[row]: row for row in valid.tolist()}
    digests, viewed = old.digests(), set(old.view_rows.tolist())
    pairs = [
        (row_of[item.key], place)
        for place, item in enumerate(items)
        if item.key in row_of
        # An image that is new in the training split has no views yet.
        and (not old.view_spec.views or item.split != 0 or row_of[item.key] in viewed)
    ]
    now = read_digests(items[place] for _, place in pairs)
    same = [
        (row, place)
        for (row, place), digest in zip(pairs, now, strict=True)
        if digest == digests[row].tobytes()
    ]
    rows, places = np.array(same, np.int64).reshape(-1, 2).T
    return rows, places


def _copy(old: Store, new: Store, rows: np.ndarray, places: np.ndarray) -> None:
    """Write old rows into their new places."""
    viewed = rows[np.isin(places, new.view_rows)]
    layers = new.shapes if new.view_spec.views else ()
    features = {layer: old.read(layer, rows) for layer in new.shapes}
    views = {layer: old.read_views(layer, viewed) for layer in layers}
    new.write(RowBlock(places, features, old.digests()[rows], [], views))


def find_lost(path: Path) -> dict[Shard, str]:
    """Return the shards of an index that are missing or replaced, and what was found of each.

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


def find_readable(path: Path) -> Path:
    """Return a file with the settings of a store: itself, or the first shard that is not lost.

    Raises:
        StoreError: A file cannot be opened, or all shards are lost.
    """
    shards = find_shards(path)
    lost = find_lost(path)
    left = [shard.path for shard in shards if shard not in lost]
    if shards and not left:
        raise damaged(path, f"none of its {len(shards)} shards is there")
    return left[0] if left else path


def recreate_lost(path: Path, items: Sequence[Item]) -> None:
    """Create the missing shards of an index again, with every row still to do.

    Args:
        path: The index.
        items: The rows of all shards, in order.

    Raises:
        StoreError: Another file is in the place of a shard, or the source has changed.
    """
    lost = find_lost(path)
    if not lost:
        return
    with open_store_file(find_readable(path)) as file:
        attributes = {k: v for k, v in file.attributes.items() if k not in OWN_ATTRIBUTES}
        layout = Layout((), file.shapes, attributes)
    for shard, problem in lost.items():
        part = items[shard.rows.start : shard.rows.stop]
        if shard.path.exists():
            raise StoreError(f"{problem}; expected nothing in its place; move it away")
        if identify([item.key for item in part], attributes) != shard.identity:
            raise StoreError(
                f"{problem}; expected its images as rows {shard.rows.start} to "
                f"{shard.rows.stop - 1} of the source, which has changed; restore one of the two"
            )
        log.warning("%s; created again", problem)
        shard.path.parent.mkdir(exist_ok=True)
        with wrap_write_errors(path), temporary_path(shard.path) as temporary:
            write_store(temporary, layout._replace(items=part))
            publish(temporary, shard.path)
