"""Compare what a run needs with what a store holds: one recipe with one recipe, image by image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from extract.core.config import HUB, MODEL_ENDINGS, TrunkSpec
from extract.core.errors import MOST_LISTED, listed
from extract.core.row_block import DONE
from extract.core.views import ViewSpec
from extract.engines.base import Engine
from extract.images.item import NO_STAMP, Source, stamp_of
from extract.store.format import read_trunk
from extract.store.open import Store, open_store
from extract.store.update import Kept, find_kept, find_same

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


class Changes:
    """The differences between the images of a store and its source, each computed once.

    Args:
        store: The store; it may be closed.
        source: The images as they are now.
        check: See ``find_other_images``.
    """

    def __init__(self, store: Store, source: Source, check: str) -> None:
        self._store, self._source, self._check = store, source, check

    @cached_property
    def found(self) -> str:
        """What ``find_other_images`` says."""
        return find_other_images(self._store, self._source, self._check)

    @cached_property
    def kept(self) -> Kept:
        """The rows that an update keeps."""
        with open_store(self._store.path) as store:
            return find_kept(store, self._source.items, self._check == "content")

    @cached_property
    def renamed(self) -> int:
        """How many new images have size and time of a missing one; no file is read."""
        keys = {item.key for item in self._source.items}
        stored, pairs = (
            set(self._store.keys),
            zip(self._store.keys, self._store.stamps, strict=True),
        )
        missing = Counter((*stamp.tolist(),) for key, stamp in pairs if key not in keys)
        missing.pop(NO_STAMP, None)
        new = (stamp_of(item) for item in self._source.items if missing and item.key not in stored)
        return (Counter(new) & missing).total()

    @property
    def is_other(self) -> bool:
        """Whether no image of the source has the name or the time of a stored one."""
        stored = set(self._store.keys)
        return not self.renamed and not any(item.key in stored for item in self._source.items)

    def of(self, store: Store) -> "Changes":
        """Return these of the store as it is now, which another run may have changed."""
        same = all(
            np.array_equal(getattr(store, name), getattr(self._store, name))
            for name in ("keys", "labels", "split", "status", "checksums", "stamps", "class_names")
        )
        if same and np.array_equal(store.digests(), self._store.digests()):
            return self
        return Changes(store, self._source, self._check)


class NoEngine(Engine):
    """What a store says of the engine that made it, for a run that computes nothing."""

    def __init__(self, store: Store) -> None:
        values: dict[str, Any] = {
            "engine": "",
            "precision": "float32",
            "batch_size": 1,
            "weights_sha256": "",
        }
        values |= store.attributes
        self.name, self.precision = str(values["engine"]), str(values["precision"])
        self.batch_size = int(values["batch_size"])
        self.weights_sha256 = str(values["weights_sha256"])
        self.spec, self.shapes, self.dtype = store.spec, store.shapes, store.dtype


def needs_no_trunk(store: Store, spec: TrunkSpec, changes: Changes) -> bool:
    """Say whether an update has nothing to compute, nor to compare with the weights of its trunk.

    Args:
        store: The existing store.
        spec: The trunk of the run.
        changes: Those of the source since then.
    """
    # Weights in a file may have changed; in a low precision, features are compared with float32.
    is_named = not spec.trunk.startswith(HUB) and not spec.trunk.endswith(MODEL_ENDINGS)
    is_exact = store.attributes.get("precision", "float32") == "float32"
    if spec != store.spec or not (is_named and is_exact and spec.weights in ("imagenet", "none")):
        return False
    return bool((store.status == DONE).all() and changes.found and changes.kept.is_all)


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
