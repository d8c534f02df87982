"""Bring a store up to date: with a source that has changed, or where shards are lost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extract.core.atomic import move_into_place, temporary_path
from extract.core.console import log
from extract.core.errors import StoreError
from extract.core.row_block import DONE, RowBlock
from extract.images.digests import read_digests
from extract.images.item import Item, stamp_of
from extract.store.format import OWN_ATTRIBUTES, Layout, create_store, wrap_write_errors
from extract.store.open import Store, open_store
from extract.store.shards import Shard, ShardLostError, find_shards, identify, open_shard
from extract.store.single_file import open_store_file
from extract.store.validate import refuse
from extract.store.verify import cut_rows, log_rejected


def update_store(path: Path, layout: Layout, content: bool) -> None:
    """Replace a store by one of the images as they are now; rows of unchanged images are copied.

    The new one is built under a temporary name and renamed, so that a valid one exists at any
    moment. Rows of new and changed images are still to do in it.

    Args:
        path: A store made with the same settings.
        layout: The new store.
        content: See ``find_same``.

    Raises:
        StoreError: A file cannot be read or written, or the disk has no room for both.
    """
    path = path.resolve()  # a link stays, and its target is replaced
    layout.check_disk_space(path)
    with wrap_write_errors(path), temporary_path(path) as temporary:
        layout.write(temporary)
        with open_store(path) as old, open_store(temporary, write=True) as new:
            rows, places, stamps = find_unchanged(old, layout.items, content)
            for part in cut_rows(new, np.arange(len(rows))):
                _copy(old, new, rows[part], places[part], stamps[part])
            dropped = len(set(old.keys).difference(new.keys))
        move_into_place(temporary, path)
    added = len(layout.items) - len(rows)
    log.info("%s: %d rows kept, %d new or changed, %d dropped", path, len(rows), added, dropped)


def find_unchanged(
    old: Store, items: Sequence[Item], content: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the old rows of unchanged images, their new ones and their stamps; rows increase."""
    # A copy of a damaged row would get a checksum that fits.
    valid = np.setdiff1d(np.flatnonzero(old.status == DONE), log_rejected(old))
    row_of = {old.keys[row]: row for row in valid.tolist()}
    viewed = set(old.view_rows.tolist())
    pairs = [
        (row_of[item.key], place)
        for place, item in enumerate(items)
        if item.key in row_of
        # An image that is new in the training split has no views yet.
        and (not old.view_spec.views or item.split != 0 or row_of[item.key] in viewed)
    ]
    rows, places = np.array(pairs, np.int64).reshape(-1, 2).T
    same, stamps = find_same(old, rows, [items[place] for place in places], content)
    return rows[same], places[same], stamps[same]


def find_same(
    store: Store, rows: np.ndarray, items: Sequence[Item], content: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find out whether the file of each row's image is unchanged.

    Args:
        store: The store.
        rows: Some of its rows.
        items: Their images.
        content: Read every file; otherwise only those whose size or modification time is not the
            stored one.

    Returns:
        (len(rows),) bool, and the (len(rows), 2) int64 stamps of the files as they were compared.
    """
    stamps = np.array([stamp_of(item) for item in items], np.int64).reshape(-1, 2)
    same = (stamps == store.stamps[rows]).all(axis=1) & stamps.any(axis=1) & (not content)
    opened = np.flatnonzero(~same)
    stored = map(bytes, store.digests()[rows[opened]])
    now = read_digests(items[place] for place in opened.tolist())
    same[opened] = [a == b for a, b in zip(stored, now, strict=True)]
    return same, stamps


def _copy(old: Store, new: Store, rows: np.ndarray, places: np.ndarray, stamps: np.ndarray) -> None:
    """Write old rows into their new places."""
    viewed = rows[np.isin(places, new.view_rows)]
    layers = new.shapes if new.view_spec.views else ()
    features = {layer: old.read(layer, rows) for layer in new.shapes}
    views = {layer: old.read_views(layer, viewed) for layer in layers}
    new.write(RowBlock(places, features, old.digests()[rows], [], views, stamps=stamps))


def find_lost(path: Path) -> tuple[dict[Shard, str], Path]:
    """Return the lost shards of an index with their problems, and a file that can be read.

    That file has the settings of the store: the first shard that is not lost, or the only file.

    Raises:
        StoreError: A shard cannot be opened, or all shards are lost.
    """
    lost, left, shards = {}, [], find_shards(path)
    for shard in shards:
        try:
            with open_shard(shard):
                left.append(shard.path)
        except ShardLostError as error:
            lost[shard] = error.problem
    if lost and not left:
        refuse(path, f"none of its {len(shards)} shards is there")
    return lost, left[0] if left else path


def recreate_lost(path: Path, items: Sequence[Item]) -> None:
    """Create the missing shards of an index again, with every row still to do.

    Args:
        path: The index.
        items: The rows of all shards, in order.

    Raises:
        StoreError: Another file is in the place of a shard, or the source has changed.
    """
    lost, readable = find_lost(path)
    with open_store_file(readable) as file:
        attributes = {k: v for k, v in file.attributes.items() if k not in OWN_ATTRIBUTES}
        layout = Layout((), file.shapes, attributes)
    for shard, problem in lost.items():
        rows = shard.rows
        layout = layout._replace(items=items[rows.start : rows.stop])
        if shard.path.exists():
            raise StoreError(f"{problem}; expected nothing in its place; move it away")
        if identify([item.key for item in layout.items], attributes) != shard.identity:
            expected = f"its images as rows {rows.start} to {rows.stop - 1} of the source"
            raise StoreError(
                f"{problem}; expected {expected}, which has changed; restore one of the two"
            )
        log.warning("%s; created again", problem)
        shard.path.parent.mkdir(exist_ok=True)
        create_store(shard.path, layout)
