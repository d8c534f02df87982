"""The stores of a dataset: one, or several of the same images, whose layers can be joined.

Each image of the dataset has a row in every store. Layers of several stores are called
``STEM:LAYER`` after the stem of the file; joined layers are flattened and concatenated as they are,
in the order in which they are named.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classify.stored.memory_budget import COPIES, MemoryBudget
from classify.stored.out_of_core import Features, Labels, StoredRows, all_finite, iter_chunks
from classify.stored.parts import Layer, MadeBy, Part, name_layers
from classify.stored.same_store import SameStore
from classify.stored.views import StoredViews
from extract.core.console import log
from extract.core.errors import SettingError, StoreError, quoted, show_bytes, unknown_name
from extract.store.open import Store, open_store
from extract.store.shards import read_layers

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Loaded(NamedTuple):
    """The features of a layer.

    Attributes:
        X: (N, *shape) float32 in memory, or rows that stay in the file.
        views: Their views; None without views or memory for them.
        layer: The layer.
        made_by: What made them: one store, or each of several that are joined.
    """

    X: Features
    views: StoredViews | None
    layer: Layer
    made_by: tuple[MadeBy, ...]


@dataclass(frozen=True)
class Stores:
    """The stores of a dataset; none of them may change while it is used.

    Attributes:
        parts: One, or several.
        identity: Digest of the images.
    """

    parts: tuple[Part, ...]
    identity: str

    @property
    def path(self) -> Path:
        """The first store."""
        return self.parts[0].same.path

    @property
    def paths(self) -> list[Path]:
        """Every store."""
        return [part.same.path for part in self.parts]

    def identities(self) -> list[str]:
        """Return what decides the features of several stores; one is described by its trunk."""
        several = len(self.parts) > 1
        return [part.same.content for part in self.parts] if several else []

    def select(self, positions: Labels) -> "Stores":
        """Return the stores with a part of the images."""
        parts = tuple(replace(part, rows=part.rows[positions]) for part in self.parts)
        return replace(self, parts=parts)

    def choose(self, layer: str | None) -> Layer:
        """Return one layer, or several joined by ``+``; None is the only one."""
        known = {name: (part, own) for part in self.parts for name, own in part.layers.items()}
        if layer is None and len(known) > 1:
            several = len(self.parts) > 1
            subject = "the stores hold" if several else "the store holds"
            paths: Any = list(map(str, self.paths)) if several else str(self.path)
            first = next(iter(known))
            remedy = f"name one, as in load_dataset({paths!r}, {first!r})"
            raise SettingError(f"layer: {subject} {', '.join(known)}; {remedy}")
        # The name of a single layer may contain "+".
        names = list(known) if layer is None else [layer] if layer in known else layer.split("+")
        if unknown := [name for name in names if name not in known]:
            raise SettingError(unknown_name("layer", unknown[0], known))
        members, name = tuple(known[name] for name in names), "+".join(names)
        chosen = Layer(name, name, members)
        if len(chosen.parts) == 1:
            chosen = chosen._replace(own_name="+".join(own for _, own in members))
        return chosen

    def plan(self, layer: str, memory: float | None) -> MemoryBudget:
        """Return the parts of a layer that ``load`` would keep in memory."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.same.unchanged())
            return self.choose(layer).plan(memory)

    def load(self, layer: str | None, memory: float | None, keys: Sequence[str]) -> Loaded:
        """Read the features if they fit into memory, and open the views if they fit as well.

        Args:
            layer: One layer, or several joined by ``+``; None is the only one.
            memory: In GB (1e9 bytes); None asks the system for the free memory.
            keys: The keys of the images, for messages.
        """
        chosen = self.choose(layer)
        budget = chosen.plan(memory)
        members = chosen.read_from()
        stored = StoredRows(members, budget.shape, self.identity)
        size, free = show_bytes(budget.size), show_bytes(budget.free)
        text = f"{chosen}: {len(stored)} rows of {math.prod(budget.shape)} features, {size}"
        X: Features = stored
        if budget.holds_features:
            log.info("%s, in memory", text)
            X = stored.read(np.arange(len(stored)))
        else:
            text += ", read from the file while training"
            log.info("%s: %d times as much does not fit into %s", text, COPIES, free)
        _check_finite(X, keys, str(chosen))
        made_by = tuple(part.made_by for part in chosen.parts)
        views, counts = None, [part.view_spec.views for part in chosen.parts]
        if budget.holds_views:
            views = StoredViews(members[0], chosen.parts[0].view_spec)
        elif len(counts) > 1 and any(counts):
            log.info("left out: views, for %s joins layers of several files", chosen.name)
        elif counts[0]:
            needed = show_bytes((1 + counts[0]) * budget.size)
            log.info("left out: views, for %d times %s does not fit into %s", COPIES, needed, free)
        return Loaded(X, views, chosen, made_by)


def as_paths(store: Paths) -> list[Path]:
    """Return one path or several as a list; raise SettingError for none, or for one twice."""
    paths = [Path(store)] if isinstance(store, str | os.PathLike) else list(map(Path, store))
    if not paths:
        raise SettingError("store: found no file; expected a file of features, or several")
    known: dict[str, Path] = {}
    for path in paths:
        other = known.setdefault(os.path.realpath(path), path)
        if other is not path:
            raise SettingError(f"store: found {other} and {path}, the same file; name it once")
    return paths


@contextmanager
def open_unchanged(paths: Sequence[Path]) -> Iterator[tuple[list[Store], list[SameStore]]]:
    """Open stores, which must not change until the end of the block."""
    with ExitStack() as stack:
        same = [SameStore(path) for path in paths]
        for one in same:
            stack.enter_context(one.unchanged())
        yield [stack.enter_context(open_store(path)) for path in paths], same


def name_stores(paths: Sequence[Path]) -> list[str]:
    """Return the name of each of several stores in the names of layers; one store needs none.

    It is the stem of the file, without the characters that join and list layers, and with a number
    where two have the same.
    """
    if len(paths) == 1:
        return [""]
    names: list[str] = []
    for path in paths:
        stem = path.stem.translate(dict.fromkeys(map(ord, "+,:="), "_"))
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return names


def list_layers(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return the layers that are tried by default: each, and of several stores one joined.

    Of several stores with one layer each, all of them joined are tried as well; of more layers
    there are too many combinations. Empty where a store cannot be read, which is said later.
    """
    with suppress(StoreError):
        layers = [
            name_layers(name, read_layers(path))
            for name, path in zip(name_stores(paths), paths, strict=True)
        ]
        single: list[tuple[str, ...]] = [(name,) for names in layers for name in names]
        joined = len(layers) > 1 and all(len(names) == 1 for names in layers)
        return [*single, tuple(names[0] for names in layers)] if joined else single
    return []


def log_layers(stores: Stores) -> None:
    """Name the layers of several stores, and those whose heads label no images."""
    shown = (f"{', '.join(part.layers)} of {quoted(str(part.same.path))}" for part in stores.parts)
    log.info("layers: %s", "; ".join(shown))
    foreign = [part for part in stores.parts if not part.made_by.trunk.trunk]
    if 0 < len(foreign) < len(stores.parts):
        path, names = quoted(str(foreign[0].same.path)), ", ".join(foreign[0].layers)
        found = f"{path}: features of another program; heads on {names}, alone or joined, label"
        log.warning(f"{found} no images, only tables of features; for images name another --layer")


def _check_finite(X: Features, keys: Sequence[str], place: str) -> None:
    """Raise StoreError where a feature is NaN or infinite."""
    if bad := list(compress(keys, _are_not_finite(X))):
        found = f"the features of {len(bad)} images are not finite numbers, first {quoted(bad[0])}"
        raise StoreError(f"{place}: {found}; extract again with --dtype float32")


def _are_not_finite(X: Features) -> Iterator[bool]:
    """Yield for each row whether a feature is NaN or infinite."""
    for _, rows in iter_chunks(X):
        chunk_is_finite = all_finite(rows)
        yield from (not (chunk_is_finite or all_finite(row)) for row in rows)
