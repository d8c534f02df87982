"""What was asked against what a store holds: the same inputs, or the names of what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extract.core.config import MODEL_ENDING, ExtractConfig, TrunkSpec
from extract.core.errors import SettingError, StoreError, one_line
from extract.core.row_block import DONE
from extract.engines.base import Engine
from extract.images.augment import ViewSpec
from extract.images.digests import digests_of
from extract.images.item import Item, Source
from extract.store.open import Store, open_store
from extract.store.shards import find_lost, open_part

TRUNK_FIELDS = tuple(f.name for f in fields(TrunkSpec))
CONFIG_FIELDS = tuple(f.name for f in fields(ExtractConfig))
VIEW_FIELDS = tuple(f.name for f in fields(ViewSpec))
FIELDS = TRUNK_FIELDS + CONFIG_FIELDS + VIEW_FIELDS
# The running settings that decide the numbers.
_NUMBERS = ("dtype", "precision")
# Those that an existing file keeps.
_KEPT = (*_NUMBERS, "columns", "shards")


class Settled(NamedTuple):
    """Complete settings; ``given`` holds those that somebody has asked for."""

    spec: TrunkSpec
    config: ExtractConfig
    views: ViewSpec
    given: Mapping[str, Any]


def settle(out: Path, settings: Mapping[str, Any]) -> Settled:
    """Complete the given settings from the existing file, and refuse those that differ from it."""
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise SettingError(f"{name!r} is no setting of extract_features")
    wanted, running, views = (
        {name: given[name] for name in names if name in given}
        for names in (TRUNK_FIELDS, CONFIG_FIELDS, VIEW_FIELDS)
    )
    if given.get("shards"):
        running["shards"] = given["shards"] = _below(out, given["shards"])
    config = ExtractConfig(**running)
    # A store must find its files from any folder.
    if wanted.get("weights") not in (None, "imagenet", "none"):
        wanted["weights"] = str(Path(wanted["weights"]).absolute())
    if wanted.get("trunk", "").endswith(MODEL_ENDING):
        wanted["trunk"] = str(Path(wanted["trunk"]).absolute())
    if not out.exists() or (config.overwrite and find_lost(out)):
        return Settled(TrunkSpec(**wanted), config, ViewSpec(**views), given)
    with open_part(out, find_lost(out) if config.repair else ()) as store:
        stored = {**store.spec.to_dict(), **asdict(store.view_spec)}
        stored |= {name: store.attributes.get(name, "") for name in _KEPT}
    asked = {**wanted, **views, **{name: given[name] for name in _KEPT if name in given}}
    differing = [
        f"{name} (stored {_show(stored[name])}, asked {_show(value)})"
        for name, value in asked.items()
        if not _is_digested(name, stored[name], value)
        and value != stored[name]
        and _show(value) != _show(stored[name])
        and not (name == "columns" and config.update)
    ]
    if differing and not config.overwrite:
        raise StoreError(
            f"{out}: made with other settings: {', '.join(differing)}; leave them out to continue "
            "this file, name another file, or give --overwrite"
        )
    if differing:
        return Settled(TrunkSpec(**wanted), config, ViewSpec(**views), given)
    spec = TrunkSpec.from_dict({**stored, **wanted})
    config = replace(config, **{name: given.get(name, stored[name]) for name in _KEPT})
    return Settled(spec, config, ViewSpec.from_dict(stored), {**given, "trunk": spec.trunk})


def _below(out: Path, folder: str) -> str:
    """Return a folder as it is seen from that of the index, with which it may move."""
    out, place = out.absolute().resolve(), Path(folder).absolute().resolve()
    here = out.parent
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise SettingError(f"shards: found {str(folder)!r}; expected a name in UTF-8") from None
    if place == out:
        raise SettingError(f"shards: found {folder}; expected a folder of its own, not the index")
    if here not in place.parents:
        raise SettingError(
            f"shards: found {folder}; expected a folder below {here}, where {out.name} is to be"
        )
    return place.relative_to(here).as_posix()


def _is_digested(name: str, stored: Any, now: Any) -> bool:
    """Say whether two values are compared by digest, once they are loaded, and may differ here."""
    files = str(stored).endswith(MODEL_ENDING) and str(now).endswith(MODEL_ENDING)
    return name == "weights" or (name == "trunk" and files)


def _show(value: Any) -> str:
    if value in (None, "", (), []):
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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


def find_other_pictures(out: Path, source: Source) -> str:
    """Count and name the pictures that set a store apart from its source; empty if none does."""
    with open_store(out) as store:
        return _compare(store, source)


def _compare(store: Store, source: Source) -> str:
    stored = set(store.keys)
    now = {item.key for item in source.items}
    parts = [
        _count("new", sorted(now - stored)),
        _count("missing", sorted(stored - now)),
    ]
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
    """Name the finished pictures whose file is not what it was: their features would be stale."""
    rows = np.flatnonzero(store.status == DONE).tolist()
    digests = store.digests()
    return [
        items[row].key
        for row, digest in zip(rows, digests_of(items[row] for row in rows), strict=True)
        if digest != digests[row].tobytes()
    ]


def _count(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    examples = ", ".join(map(one_line, keys[:3])) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {what} ({examples})"
