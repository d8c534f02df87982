"""Bring a store up to date: with a source that has changed, or where shards are lost."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extract.core.atomic import move_into_place, temporary_path
from extract.core.console import log
from extract.core.errors import StoreError
from extract.core.row_block import DONE, PENDING, RowBlock
from extract.images.digests import read_digests
from extract.images.item import Item, stamp_of
from extract.store.format import OWN_ATTRIBUTES, Layout, create_store, wrap_write_errors
from extract.store.open import Store, open_store
from extract.store.shards import Shard, ShardLostError, find_shards, identify, open_shard
from extract.store.single_file import open_store_file
from extract.store.validate import refuse
from extract.store.verify import cut_rows, log_rejected


class Kept(NamedTuple):
    """The rows of a store whose images are still in the source.

    Attributes:
        rows: (R,) int64 rows of the store; identical images may have one row.
        places: (R,) int64 rows of the source, increasing.
        stamps: (R, 2) int64 stamps of the files as they were compared.
        renamed: How many of them have another key now.
        removed: The keys whose images are gone, under any name.
        is_all: Whether the source has no other images.
    """

    rows: np.ndarray
    places: np.ndarray
    stamps: np.ndarray
    renamed: int
    removed: list[str]
    is_all: bool

    def describe(self, images: int) -> str:
        """Say what an update to so many images does."""
        kept, renamed = len(self.rows), f", of them {self.renamed:,} under a new name"
        rest = f"{images - kept:,} new or changed, {len(self.removed):,} dropped"
        return f"{kept:,} rows kept{renamed * bool(self.renamed)}, {rest}"


def update_store(path: Path, layout: Layout, kept: Kept) -> None:
    """Replace a store by one of the images as they are now; rows of unchanged images are copied.

    The new one is built under a temporary name and renamed, so that a valid one exists at any
    moment. Rows of new and changed images are still to do in it.

    Args:
        path: A store made with the same settings.
        layout: The new store.
        kept: From ``find_kept``.

    Raises:
        StoreError: A file cannot be read or written, or the disk has no room for both.
    """
    path = path.resolve()  # a link stays, and its target is replaced
    layout.check_disk_space(path)
    with wrap_write_errors(path), temporary_path(path) as temporary:
        layout.write(temporary)
        with open_store(path) as old, open_store(temporary, write=True) as new:
            for part in cut_rows(new, np.arange(len(kept.rows))):
                _copy(old, new, kept.rows[part], kept.places[part], kept.stamps[part])
        move_into_place(temporary, path)
    log.info("%s: %s", path, kept.describe(len(layout.items)))


def find_kept(old: Store, items: Sequence[Item], content: bool) -> Kept:
    """Find the row of each image that is in a store, under its own key or another one.

    An image keeps its row by key where its file is unchanged, see ``find_same``. A file under a
    new key, or with other content than its key had, is looked up by its digest.

    Args:
        old: The store, open.
        items: The images as they are now.
        content: See ``find_same``.
    """
    # A copy of a damaged row would get a checksum that fits.
    valid = np.setdiff1d(np.flatnonzero(old.status == DONE), log_rejected(old))
    row_of = {old.keys[row]: row for row in valid.tolist()}
    rows = np.array([row_of.get(item.key, -1) for item in items], np.int64)
    stamps = np.array([stamp_of(item) for item in items], np.int64).reshape(-1, 2)
    same = (rows >= 0) & _have_stamps(stamps, old.stamps[rows]) & (not content)
    opened = np.flatnonzero(~same & ((rows >= 0) | _may_be_stored(old, stamps))).tolist()
    digests = [digest.tobytes() for digest in old.digests()]
    now = [digests[row] if unchanged else b"" for row, unchanged in zip(rows, same, strict=True)]
    for place, digest in zip(opened, read_digests(items[i] for i in opened), strict=True):
        now[place] = digest
    # An image that is new in the training split has no views yet.
    has_views = np.isin(np.arange(len(old.keys)), old.view_rows) | (not old.view_spec.views)
    # Of identical images the last row is taken, one with views if there is one.
    row_with = {digests[row]: row for row in sorted(valid.tolist(), key=has_views.__getitem__)}
    for place in opened:
        if rows[place] < 0 or now[place] != digests[rows[place]]:
            rows[place] = row_with.get(now[place], -1)
    training = np.array([item.split == 0 for item in items], bool)
    rows[training & (rows >= 0) & ~has_views[rows]] = -1
    places, keys = np.flatnonzero(rows >= 0), [item.key for item in items]
    renamed = sum(old.keys[rows[place]] != keys[place] for place in places.tolist())
    changed = {keys[place] for place in np.flatnonzero(rows < 0).tolist()}
    removed = _find_removed(old, digests, dict(zip(keys, now, strict=True)), changed)
    return Kept(rows[places], places, stamps[places], renamed, removed, len(places) == len(items))


def _may_be_stored(store: Store, stamps: np.ndarray) -> np.ndarray:
    """Return which files may be in a store: a file of another size than all of its has changed."""
    sizes = store.stamps[store.status != PENDING, 0]
    unknown = bool((sizes == 0).any())
    return np.isin(stamps[:, 0], [*sizes.tolist(), 0]) | unknown


def _find_removed(
    old: Store, digests: Sequence[bytes], now: Mapping[str, bytes], changed: Set[str]
) -> list[str]:
    """Return the keys of rows whose images are gone.

    Args:
        old: The store.
        digests: Of its rows.
        now: Key -> digest of the images that are there now, empty where it is another one.
        changed: Keys of images that are new or changed; they are run again.
    """
    lost, removed = Counter(digests) - Counter(now.values()), list[str]()
    for row in sorted(range(len(digests)), key=lambda row: old.keys[row] in now):
        lost[digests[row]] -= 1
        if lost[digests[row]] >= 0 and old.keys[row] not in changed:
            removed.append(old.keys[row])
    return removed


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
    same = _have_stamps(stamps, store.stamps[rows]) & (not content)
    opened = np.flatnonzero(~same)
    stored = map(bytes, store.digests()[rows[opened]])
    now = read_digests(items[place] for place in opened.tolist())
    same[opened] = [a == b for a, b in zip(stored, now, strict=True)]
    return same, stamps


def _have_stamps(stamps: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Return which stamps are known and those that are stored."""
    return np.asarray((stamps == stored).all(axis=1) & stamps.any(axis=1))


def _copy(old: Store, new: Store, rows: np.ndarray, places: np.ndarray, stamps: np.ndarray) -> None:
    """Write old rows into their new places."""
    read, order = np.unique(rows, return_inverse=True)
    viewed, view_order = np.unique(rows[np.isin(places, new.view_rows)], return_inverse=True)
    layers = new.shapes if new.view_spec.views else ()
    features = {layer: old.read(layer, read)[order] for layer in new.shapes}
    views = {layer: old.read_views(layer, viewed)[view_order] for layer in layers}
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
