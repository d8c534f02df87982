"""What is in a store, for people and programs, and whether it is sound."""

from dataclasses import asdict
from typing import Any

import numpy as np

from extract.config import ViewSpec
from extract.source import SPLITS
from extract.store import DONE, FAILED, NOT_YET, Store

# Rows whose features are held at once while a store is verified.
VERIFY_BYTES = 64 * 2**20


def describe(store: Store) -> dict[str, Any]:
    """Return what a store holds, as JSON can hold it.

    Args:
        store: An open store.

    Returns:
        ``images``, ``status`` counts, ``layers`` with shapes, ``viewed``, the pictures that have
        augmented views, ``counts`` by split and class, ``failed`` keys with reasons, ``bytes`` and
        all ``attributes``.
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
        "bytes": store.path.stat().st_size,
        "images": len(store.keys),
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
    lines = [
        f"{found['file']}: {found['images']} pictures, {found['bytes'] / 1e6:.1f} MB, "
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
        lines += [f"  {key}: {reason}" for key, reason in found["failed"].items()]
    return "\n".join(lines)


def verify(store: Store) -> list[str]:
    """Read a whole store and return what is wrong with it, a line each; empty when it is sound.

    Every row must have been tried; finished rows must be finite, failed ones NaN with a reason.
    That objects have their types and columns their ranges was checked when the store was opened.
    """
    problems = []
    missing = int((store.status == NOT_YET).sum())
    if missing:
        problems.append(f"{missing} of {len(store.keys)} rows are still to do")
    problems += [
        f"row {failure.row} ({store.keys[failure.row]}) failed without a reason"
        for failure in store.failures()
        if not failure.reason
    ]
    everything = np.arange(len(store.keys))
    for layer in store.shapes:
        problems += _verify_features(store, layer, everything)
        if store.view_spec.views:
            problems += _verify_features(store, layer, store.view_rows, views=True)
    return problems


def _verify_features(store: Store, layer: str, rows: np.ndarray, views: bool = False) -> list[str]:
    what, read = ("views", store.read_views) if views else ("features", store.read)
    row_bytes = int(np.prod(store.shapes[layer])) * np.dtype(store.dtype).itemsize
    step = max(1, VERIFY_BYTES // (row_bytes * (store.view_spec.views if views else 1)))
    not_finite = not_empty = 0
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        values = read(layer, some).reshape(len(some), -1)
        not_finite += int((~np.isfinite(values).all(axis=1) & (store.status[some] == DONE)).sum())
        not_empty += int((~np.isnan(values).all(axis=1) & (store.status[some] == FAILED)).sum())
    problems = []
    if not_finite:
        problems.append(f"{what} of {layer}: {not_finite} finished rows are not finite")
    if not_empty:
        problems.append(f"{what} of {layer}: {not_empty} failed rows are not NaN")
    return problems


def _count_labels(store: Store, split: int) -> np.ndarray:
    """Count the labels of one split; the last place is for rows without a label."""
    labels = store.labels[store.split == split]
    classes = len(store.class_names)
    return np.bincount(np.where(labels < 0, classes, labels), minlength=classes + 1)


def _format_counts(counts: dict[str, dict[str, int]]) -> list[str]:
    names = sorted({name for split in counts.values() for name in split})
    width = max(len(name) for name in [*names, "all"])
    head = " " * width + "".join(f"{split:>12}" for split in counts)
    rows = [
        f"{name:<{width}}" + "".join(f"{split.get(name, 0):>12}" for split in counts.values())
        for name in names
    ]
    total = f"{'all':<{width}}" + "".join(f"{sum(split.values()):>12}" for split in counts.values())
    return [head, *rows, total]
