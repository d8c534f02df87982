"""What was asked against what a store holds: the same inputs, or the names of what differs."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from extract.core.config import ViewSpec
from extract.core.errors import quoted
from extract.core.row_block import DONE
from extract.engines.base import Engine
from extract.images.digests import read_digests
from extract.images.item import Item, Source
from extract.pipeline.settings import _NUMBERS, _is_digested, _show
from extract.store.open import Store, open_store
from extract.store.shards import open_part


def find_other_settings(out: Path, engine: Engine, views: ViewSpec, shards: str) -> str:
    """Name the settings that set a store apart from what is to be made; empty if none does."""
    with open_part(out) as store:
        stored = store.spec.to_dict()
        changed = [
            name
            for name, now in engine.spec.to_dict().items()
            if not _is_digested(name, stored[name], now) and stored[name] != now
        ]
        changed += [name for name in _NUMBERS if store.attributes[name] != getattr(engine, name)]
        # In float32 the engines agree to 1e-4; in a low precision each rounds in its own way.
        if engine.precision != "float32" and store.attributes.get("engine") != engine.name:
            changed.append("engine")
        if store.view_spec != views:
            changed.append("recipe of views")
        if store.attributes.get("shards", "") != shards:
            changed.append("folder of shards")
        if changed:
            return f"made with another {', '.join(changed)}"
        digest = store.attributes["weights_sha256"]
        if digest != engine.weights_sha256:
            return (
                f"made with other weights (SHA-256 {digest[:12]}, now {engine.weights_sha256[:12]})"
            )
        return ""


def find_other_images(out: Path, source: Source) -> str:
    """Count and name the images that set a store apart from its source; empty if none does."""
    with open_store(out) as store:
        return _compare(store, source)


def _compare(store: Store, source: Source) -> str:
    stored = set(store.keys)
    now = {item.key for item in source.items}
    parts = [_count("new", sorted(now - stored)), _count("missing", sorted(stored - now))]
    if stored == now:
        names = source.class_names
        moved = [
            item.key
            for item, label, split, group in zip(
                source.items, store.labels, store.split, store.groups or repeat(""), strict=False
            )
            if (item.label, item.split, item.group) != (label, split, group)
        ]
        parts.append(_count("with another class, split or group", moved))
        if names != store.class_names:
            parts.append(f"classes {_show(names)}, stored {_show(store.class_names)}")
        parts.append(_count("changed", _changed(store, source.items)))
    found = ", ".join(part for part in parts if part)
    return f"the source has changed: {found}" if found else ""


def _changed(store: Store, items: Sequence[Item]) -> list[str]:
    """Name the finished images whose file is not what it was: their features would be stale."""
    rows = np.flatnonzero(store.status == DONE).tolist()
    digests = store.digests()
    return [
        items[row].key
        for row, digest in zip(rows, read_digests(items[row] for row in rows), strict=True)
        if digest != digests[row].tobytes()
    ]


def _count(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    examples = ", ".join(map(quoted, keys[:3])) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {what} ({examples})"
