"""Compare what a run needs with what a store holds: one recipe with one recipe, image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import repeat
from typing import Any

import numpy as np

from extract.core.config import HUB, MODEL_ENDINGS
from extract.core.errors import MOST_LISTED, listed
from extract.core.row_block import DONE
from extract.core.views import ViewSpec
from extract.images.item import Source
from extract.store.format import read_trunk
from extract.store.open import Store
from extract.store.update import find_same

# Settings of a run that its store keeps.
KEPT = ("precision", "dtype", "columns", "root", "shards")


def read_recipe(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers of a store: settings, views and the digest of the weights.

    Args:
        attributes: Those of a store, or of one that is about to be created.
    """
    recipe = read_trunk(attributes).to_dict()
    recipe |= {name: attributes.get(name, "") for name in KEPT}
    recipe |= asdict(ViewSpec.from_dict(attributes))
    recipe["weights_sha256"] = attributes.get("weights_sha256", "")
    # In float32 the engines agree to 1e-4; in a low precision each rounds in its own way.
    if attributes.get("precision", "float32") != "float32":
        recipe["engine"] = attributes.get("engine", "")
    return recipe


def find_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name the settings in which a store differs from the wanted ones, as flags.

    Args:
        stored: The recipe of the store.
        wanted: Another recipe, or a part of one.
    """
    differences = []
    for name in wanted:
        before, now = _plain(stored.get(name)), _plain(wanted[name])
        # Files are compared by the digest of their weights.
        is_moved = name == "trunk" and _family(before) == _family(now)
        if before == now or name == "weights" or is_moved:
            continue
        if name == "weights_sha256":
            differences.append(f"weights of SHA-256 {str(before)[:12]}, not {str(now)[:12]}")
        else:
            prefix = f"--{name.replace('_', '-')} "
            new = "none" if now is None else _flag(name, now).removeprefix(prefix)
            differences.append(f"{_flag(name, before)}, not {new}")
    return differences


def _family(trunk: Any) -> str:
    """Return what trunks from files or folders have in common; a name is alone."""
    if f"{trunk}".startswith(HUB):
        return HUB
    return "file" if f"{trunk}".endswith(MODEL_ENDINGS) else f"{trunk}"


def _plain(value: Any) -> Any:
    """Return a setting as a store has it, None for an empty one."""
    value = list(value) if isinstance(value, tuple) else value
    return None if value in ("", []) else value


def _flag(name: str, value: Any) -> str:
    """Write a setting as its flag."""
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return f"no {flag}"
    if isinstance(value, bool):
        return flag if value else f"--no-{name}"
    if name == "image_size":
        value = dict.fromkeys(value)  # one number for a square
        return f"{flag} {'x'.join(map(str, value))}"
    if name in ("mean", "std"):
        return f"{flag} {','.join(f'{share:g}' for share in value)}"
    if isinstance(value, list):
        return " ".join(f"{flag} {entry}" for entry in value)
    return f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}"


def find_other_images(store: Store, source: Source, check: str) -> str:
    """Count and name the images in which a store and its source differ; empty if none do.

    Args:
        store: The store; it may be closed.
        source: The images as they are now.
        check: How finished images are compared: ``modified`` or ``content``, see ``find_same``;
            empty for not at all.
    """
    stored, now = set(store.keys), {item.key for item in source.items}
    differences = {"new": now - stored, "missing": stored - now}
    if stored == now:
        columns = zip(
            source.items, store.labels, store.split, store.groups or repeat(""), strict=False
        )
        now_named, named = (*source.class_names, ""), (*store.class_names, "")
        moved = {
            item.key
            for item, label, *place in columns
            if now_named[item.label] != named[label] or [item.split, item.group] != place
        }
        differences["with another class, split or group"] = moved
        if check:  # the features of images that have changed would be stale
            rows = np.flatnonzero(store.status == DONE)
            items = [source.items[row] for row in rows]
            same, _ = find_same(store, rows, items, check == "content")
            differences["changed"] = {store.keys[row] for row in rows[~same]}
    parts = [f"{listed(keys, 'image')} {what}" for what, keys in differences.items() if keys]
    # Stores of before have whole numbers as names in the order of text.
    if stored == now and {*source.class_names} != {*store.class_names}:
        wanted, found = map(_name_classes, (source.class_names, store.class_names))
        parts.append(f"classes {wanted}, stored {found}")
    return f"the source has changed: {', '.join(parts)}" if parts else ""


def _name_classes(names: Sequence[str]) -> str:
    """Return all names of classes, or the number of many and the first of them."""
    return listed(names, "name") if len(names) > MOST_LISTED else ", ".join(names) or "none"
