"""A store brought up to date with a source that has changed: what is the same is copied."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.atomic import move_into_place, temporary_path
from extract.core.console import log
from extract.core.row_block import DONE, RowBlock
from extract.images.digests import read_digests
from extract.images.item import Source
from extract.store.format import CHUNK_BYTES, check_disk_space, wrap_write_errors, write_store
from extract.store.open import Store, open_store
from extract.store.verify import find_rejected


def update_store(
    path: Path, source: Source, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]
) -> None:
    """Put a store of ``source`` in the place of the one at ``path``.

    It is built beside and renamed, so that at any moment there is a sound one. The rows of images
    that are new or have changed are still to do in it, which the usual loop then does.

    Args:
        path: A store made with the same settings.
        source: The images as they are now.
        shapes: Shape of one row's features, by layer.
        attributes: See ``create_store``.

    Raises:
        StoreError: A file cannot be read or written, or the disk has no room for both.
    """
    check_disk_space(path, source.items, shapes, attributes)
    with wrap_write_errors(path), temporary_path(path) as made:
        write_store(made, source.items, shapes, attributes)
        with open_store(path) as old, open_store(made, write=True) as new:
            rows, places = _unchanged(old, source)
            for part in _parts(shapes, new):
                _copy(old, new, rows[part], places[part])
            dropped = len(set(old.keys).difference(new.keys))
        move_into_place(made, path)
    log.info(
        "%s: %d rows are kept, %d are new or changed, %d dropped",
        *(path, len(rows), len(source.items) - len(rows), dropped),
    )


def _unchanged(old: Store, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return the old rows of images that are the same, and their new ones; both increase."""
    row_of = {old.keys[row]: row for row in _sound(old).tolist()}
    viewed, digests = set(old.view_rows.tolist()), old.digests()
    pairs = [
        (row_of[item.key], place)
        for place, item in enumerate(source.items)
        if item.key in row_of
        # An image that trains from now on needs views, which it has not.
        and (not old.view_spec.views or item.split != 0 or row_of[item.key] in viewed)
    ]
    now = read_digests(source.items[place] for _, place in pairs)
    same = [
        pair
        for pair, digest in zip(pairs, now, strict=True)
        if digest == digests[pair[0]].tobytes()
    ]
    rows, places = np.array(same, np.int64).reshape(-1, 2).T
    return rows, places


def _sound(old: Store) -> np.ndarray:
    """Return the finished rows that are what was written: a copy would get a checksum that fits."""
    rows = np.flatnonzero(old.status == DONE)
    for what, rejected in find_rejected(old):
        log.warning("%s: %s; computed again", old.path, what)
        rows = np.setdiff1d(rows, rejected)
    return rows


def _parts(shapes: Mapping[str, tuple[int, ...]], new: Store) -> list[slice]:
    """Return slices of rows that hold some megabytes each, or one row."""
    row_values = sum(int(np.prod(shape)) for shape in shapes.values())
    row_bytes = row_values * np.dtype(new.dtype).itemsize * (1 + new.view_spec.views)
    step = max(1, 8 * CHUNK_BYTES // row_bytes)
    return [slice(start, start + step) for start in range(0, len(new.keys), step)]


def _copy(old: Store, new: Store, rows: np.ndarray, places: np.ndarray) -> None:
    """Write old rows into their new places."""
    viewed = rows[np.isin(places, new.view_rows)]
    layers = new.shapes if len(viewed) else ()
    block = RowBlock(
        places,
        {layer: old.read(layer, rows) for layer in new.shapes},
        old.digests()[rows],
        [],
        {layer: old.read_views(layer, viewed) for layer in layers} if new.view_spec.views else {},
    )
    if len(rows):
        new.write(block)
