"""Describe a store, for people and programs."""

from dataclasses import asdict
from typing import Any

import numpy as np

from extract.core.config import ViewSpec
from extract.core.errors import count_of, quoted, show_bytes
from extract.core.row_block import DONE, FAILED, PENDING
from extract.images.item import SPLITS
from extract.store.open import Store


def describe(store: Store) -> dict[str, Any]:
    """Return the content of a store as a dict that JSON can hold.

    Args:
        store: An open store.

    Returns:
        ``images``, ``shards``, the number of files that hold them, ``status`` counts, ``layers``
        with shapes, ``viewed``, the images that have augmented views, ``counts`` by split and
        class, ``failed`` keys with reasons, ``bytes`` and all ``attributes``.
    """
    names = [*store.class_names, "(no label)"]
    counts = {}
    for split in np.unique(store.split).tolist():
        # Rows without a label have -1, the last name.
        labels = store.labels[store.split == split] % len(names)
        numbers = np.bincount(labels, minlength=len(names)).tolist()
        counts[SPLITS[split]] = {n: count for n, count in zip(names, numbers, strict=True) if count}
    files = {store.path, *(shard.path for shard in store.shards)}
    states = {"done": DONE, "failed": FAILED, "not_yet": PENDING}
    return {
        "file": str(store.path),
        "bytes": sum(path.stat().st_size for path in files),
        "images": len(store.keys),
        "shards": len(store.shards),
        "complete": store.complete,
        "status": {name: int((store.status == state).sum()) for name, state in states.items()},
        "layers": {layer: list(shape) for layer, shape in store.shapes.items()},
        "viewed": len(store.view_rows),
        "counts": counts,
        "failed": {store.keys[failure.row]: failure.reason for failure in store.failures()},
        "attributes": {k: v for k, v in store.attributes.items() if k != "complete"},
    }


def format_description(description: dict[str, Any]) -> str:
    """Format the result of ``describe`` as a few lines of text."""
    values, files = description["attributes"], description["shards"]
    height, width = values["image_size"]
    shards = f" in {count_of(files, 'shard')}" if values.get("shards") else ""
    state = f"{description['status']['not_yet']} images still to do"
    lines = [
        f"{description['file']}: {description['images']} images{shards}, "
        f"{show_bytes(description['bytes'])}, {'complete' if description['complete'] else state}",
        "",
        f"trunk      {values['trunk']}, {width} x {height} pixels ({values['resize']}, "
        f"{values['interpolation']}), preprocessing {values['preprocess']}",
        f"weights    {values['weights']}, SHA-256 {values['weights_sha256']}",
    ]
    lines += [
        f"features   {layer}: {' x '.join(map(str, shape))} {values['dtype']}, "
        f"pooling {values['pooling']}"
        for layer, shape in description["layers"].items()
    ]
    if description["viewed"]:
        recipe = asdict(ViewSpec.from_dict(values))
        text = f"{recipe.pop('views')} of each of {description['viewed']} training images: "
        lines.append("views      " + text + ", ".join(f"{k} {v}" for k, v in recipe.items()))
    lines += ["", *_format_counts(description["counts"])]
    if failed := description["failed"]:
        lines += ["", f"{len(failed)} images could not be read:"]
        lines += [f"  {quoted(key)}: {reason}" for key, reason in failed.items()]
    return "\n".join(lines)


def _format_counts(counts: dict[str, dict[str, int]]) -> list[str]:
    """Format a table of classes by splits."""
    splits = list(counts.values())
    rows: list[tuple[str, list[Any]]] = [("", list(counts))]
    for name in sorted({name for split in splits for name in split}):
        rows.append((quoted(name), [split.get(name, 0) for split in splits]))
    rows.append(("all", [sum(split.values()) for split in splits]))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows]
