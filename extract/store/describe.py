"""What is in a store, for people and programs, and whether it is sound."""

from dataclasses import asdict
from typing import Any

import numpy as np

from extract.core.config import ViewSpec
from extract.core.errors import quoted
from extract.core.row_block import DONE, FAILED, PENDING
from extract.images.item import SPLITS
from extract.store.open import Store


def describe(store: Store) -> dict[str, Any]:
    """Return what a store holds, as JSON can hold it.

    Args:
        store: An open store.

    Returns:
        ``images``, ``shards``, the number of files that hold them, ``status`` counts, ``layers``
        with shapes, ``viewed``, the images that have augmented views, ``counts`` by split and
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
        "shards": len(store.shards),
        "complete": store.complete,
        "status": {
            name: int((store.status == value).sum())
            for name, value in (("done", DONE), ("failed", FAILED), ("not_yet", PENDING))
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
        f"{found['file']}: {found['images']} images{shards}, {found['bytes'] / 1e6:.1f} MB, "
        + ("complete" if found["complete"] else f"{status['not_yet']} images still to do"),
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
        lines.append(f"views      {count} of each of {found['viewed']} training images: {shown}")
    lines += ["", *_format_counts(found["counts"])]
    if found["failed"]:
        lines += ["", f"{len(found['failed'])} images could not be read:"]
        lines += [f"  {quoted(key)}: {reason}" for key, reason in found["failed"].items()]
    return "\n".join(lines)


def _count_labels(store: Store, split: int) -> np.ndarray:
    """Count the labels of one split; the last place is for rows without a label."""
    labels = store.labels[store.split == split]
    classes = len(store.class_names)
    return np.bincount(np.where(labels < 0, classes, labels), minlength=classes + 1)


def _format_counts(counts: dict[str, dict[str, int]]) -> list[str]:
    names = sorted({name for split in counts.values() for name in split})
    shown = {name: quoted(name) for name in [*names, "all"]}
    width = max(map(len, shown.values()))
    head = " " * width + "".join(f"{split:>12}" for split in counts)
    rows = [
        f"{shown[name]:<{width}}"
        + "".join(f"{split.get(name, 0):>12}" for split in counts.values())
        for name in names
    ]
    total = f"{'all':<{width}}" + "".join(f"{sum(split.values()):>12}" for split in counts.values())
    return [head, *rows, total]
