"""What is in a store, for people and programs, and whether it is sound."""

from dataclasses import asdict
from typing import Any

import numpy as np

from extract.core.errors import one_line
from extract.core.row_block import DONE, FAILED, NOT_YET
from extract.images.augment import ViewSpec
from extract.images.item import SPLITS
from extract.store import ShardedStore, Store

# Rows whose features are held at once while a store is verified.
VERIFY_BYTES = 64 * 2**20


def describe(store: Store) -> dict[str, Any]:
    """Return what a store holds, as JSON can hold it.

    Args:
        store: An open store.

    Returns:
        ``images``, ``shards``, the number of files that hold them, ``status`` counts, ``layers``
        with shapes, ``viewed``, the pictures that have augmented views, ``counts`` by split and
        class, ``failed`` keys with reasons, ``bytes`` and all ``attributes``.
    """
    names = [*store.class_names, "(no label)"]
    counts = {
        split: {
            name: int(number)
            for name, number in zip(names, _count_labels(store, i), strict=True)
            if number
        }
        for i, split in enumerate(SPLITS)
        if (store.split == i).any()
    }
    return {
        "file": str(store.path),
        "bytes": store.size,
        "images": len(store.keys),
        "shards": len(store.shards) if isinstance(store, ShardedStore) else 1,
        "complete": store.complete,
        "status": {
            name: int((store.status == value).sum())
            for name, value in (("done", DONE), ("failed", FAILED), ("not_yet", NOT_YET))
        },
        "layers": {layer: list(shape) for layer, shape in store.shapes.items()},
        "viewed": len(store.view_rows),
        "counts": counts,
        "failed": {store.keys[failure.row]: failure.reason for failure in store.failures()},
        "attributes": {k: v for k, v in store.attributes.items() if k != "complete"},
    }


def format_description(found: dict[str, Any]) -> str:
    """Lay out what ``describe`` found as a text of a few lines."""
    attributes, status = found["attributes"], found["status"]
    height, width = attributes["image_size"]
    count = found["shards"]
    shards = f" in {count} shard{'s' * (count > 1)}" if attributes.get("shards") else ""
    lines = [
        f"{found['file']}: {found['images']} pictures{shards}, {found['bytes'] / 1e6:.1f} MB, "
        + ("complete" if found["complete"] else f"{status['not_yet']} pictures still to do"),
        "",
        f"trunk      {attributes['trunk']}, {width} x {height} pixels ({attributes['resize']}, "
        f"{attributes['interpolation']}), preprocessing {attributes['preprocess']}",
        f"weights    {attributes['weights']}, SHA-256 {attributes['weights_sha256']}",
    ]
    for layer, shape in found["layers"].items():
        shown = " x ".join(map(str, shape))
        lines.append(
            f"features   {layer}: {shown} {attributes['dtype']}, pooling {attributes['pooling']}"
        )
    if found["viewed"]:
        recipe = asdict(ViewSpec.from_dict(attributes))
        count = recipe.pop("views")
        shown = ", ".join(f"{name} {value}" for name, value in recipe.items())
        lines.append(f"views      {count} of each of {found['viewed']} training pictures: {shown}")
    lines += ["", *_format_counts(found["counts"])]
    if found["failed"]:
        lines += ["", f"{len(found['failed'])} pictures could not be read:"]
        lines += [f"  {one_line(key)}: {reason}" for key, reason in found["failed"].items()]
    return "\n".join(lines)


def verify(store: Store) -> list[str]:
    """Read a whole store and return what is wrong with it, a line each; empty when it is sound.

    Every row must have been tried; finished rows must be finite and have the checksum that was
    written with them, failed ones must be NaN with a reason.
    That objects have their types and columns their ranges was checked when the store was opened.
    """
    missing = int((store.status == NOT_YET).sum())
    to_do = [f"{missing} of {len(store.keys)} rows are still to do"] if missing else []
    return to_do + [what for what, _ in find_rejected(store)]


def find_rejected(store: Store) -> list[tuple[str, np.ndarray]]:
    """Read a whole store and return what is wrong with which finished or failed rows (int64)."""
    found = [
        (
            f"row {failure.row} ({one_line(store.keys[failure.row])}) failed without a reason",
            [failure.row],
        )
        for failure in store.failures()
        if not failure.reason
    ]
    everything = np.arange(len(store.keys))
    for layer in store.shapes:
        found += _reject(store, layer, everything)
        if store.view_spec.views:
            found += _reject(store, layer, store.view_rows, views=True)
    named = [row for _, rows in found for row in rows]
    rows = np.setdiff1d(np.flatnonzero(store.status == DONE), named)
    row_bytes = sum(_row_bytes(store, layer) for layer in store.shapes)
    step = max(1, VERIFY_BYTES // (row_bytes * (1 + store.view_spec.views)))
    parts = [store.find_changed(rows[i : i + step]) for i in range(0, len(rows), step)]
    changed = [int(row) for part in parts for row in part]
    if changed:
        keys = ", ".join(one_line(store.keys[row]) for row in changed[:3])
        more = ", ..." if len(changed) > 3 else ""
        what = f"{len(changed)} finished rows are not what was written ({keys}{more})"
        found.append((what, changed))
    return [(what, np.array(rows, np.int64)) for what, rows in found]


def _row_bytes(store: Store, layer: str) -> int:
    return int(np.prod(store.shapes[layer])) * np.dtype(store.dtype).itemsize


def _reject(
    store: Store, layer: str, rows: np.ndarray, views: bool = False
) -> list[tuple[str, list[int]]]:
    what, read = ("views", store.read_views) if views else ("features", store.read)
    step = max(
        1, VERIFY_BYTES // (_row_bytes(store, layer) * (store.view_spec.views if views else 1))
    )
    not_finite: list[int] = []
    not_empty: list[int] = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        values, status = read(layer, some).reshape(len(some), -1), store.status[some]
        not_finite += some[~np.isfinite(values).all(axis=1) & (status == DONE)].tolist()
        not_empty += some[~np.isnan(values).all(axis=1) & (status == FAILED)].tolist()
    kinds = ((not_finite, "finished rows are not finite"), (not_empty, "failed rows are not NaN"))
    return [(f"{what} of {layer}: {len(bad)} {wrong}", bad) for bad, wrong in kinds if bad]


def _count_labels(store: Store, split: int) -> np.ndarray:
    """Count the labels of one split; the last place is for rows without a label."""
    labels = store.labels[store.split == split]
    classes = len(store.class_names)
    return np.bincount(np.where(labels < 0, classes, labels), minlength=classes + 1)


def _format_counts(counts: dict[str, dict[str, int]]) -> list[str]:
    names = sorted({name for split in counts.values() for name in split})
    shown = {name: one_line(name) for name in [*names, "all"]}
    width = max(map(len, shown.values()))
    head = " " * width + "".join(f"{split:>12}" for split in counts)
    rows = [
        f"{shown[name]:<{width}}"
        + "".join(f"{split.get(name, 0):>12}" for split in counts.values())
        for name in names
    ]
    total = f"{'all':<{width}}" + "".join(f"{sum(split.values()):>12}" for split in counts.values())
    return [head, *rows, total]
