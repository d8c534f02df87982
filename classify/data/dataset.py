"""The dataset that heads are trained on: labelled rows of a store, in memory if they fit."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.folds import Groups
from classify.data.label_tables import RowLabels, Tables, check_left_out, read_labels, usable_rows
from classify.data.near_duplicates import group_near_duplicates
from classify.data.table_rows import TableRecord
from classify.settings.config import GROUPS, STORED
from classify.stored.alignment import align
from classify.stored.memory_budget import MemoryBudget
from classify.stored.out_of_core import Labels, StoredRows
from classify.stored.parts import MadeBy, Part
from classify.stored.same_store import SameStore
from classify.stored.stores import Paths, Stores, as_paths, log_layers, name_stores, open_unchanged
from classify.stored.views import StoredViews
from extract.core.config import BEFORE, TrunkSpec
from extract.core.errors import SettingError, quoted
from extract.core.flags import check_choice
from extract.display.tables import Described
from extract.images.digests import group_by_digest
from extract.store.open import Store


@dataclass(frozen=True, repr=False)
class Dataset(Described):
    """The labelled rows of a store that have features, in the store's order.

    Attributes:
        X: (N, *shape) float32 features of one layer; (N, D) of several joined. An array, or
            ``StoredRows`` where they do not fit into memory.
        y: (N,) int64 classes, 0 to K - 1.
        keys: N different keys.
        groups: N names of groups, whose rows must stay together, or None; "" is no group.
        split: (N,) int8: 0 train, 1 validation, 2 test.
        class_names: K names.
        layer: The layer of the features; several are joined by ``+``. Of several stores it is
            ``STEM:LAYER``.
        trunk: The trunk that made the features.
        weights_sha256: Digest of the trunk's weights.
        dtype: Type of the stored features.
        path: The store; the first of several, which has the labels, splits, groups and keys.
        precision: Type that the trunk computed in.
        calibration_sha256: Digest of the images that calibrated int8, else empty.
        views: Augmented views of training rows; None without views or memory for them.
        source: The place of the images when the store was made, as the user named it.
        columns: The columns of the source's table, as the user named them.
        root: The folder of the table's images, if it is not that of the table.
        digests: (N, 16) uint8 BLAKE2b-128 digests of the image files, or None.
        positive: The positive class of two; empty for the rarer one.
        store: The stores, to be opened again; None where nothing is read again.
        moved_to: The place of the images now, if the user has named another one than ``source``.
        left_out: The classes of the store whose images are left out; they are no class here.
        labels: The tables that labels, splits and groups come from; none where they are stored.
        label_columns: The columns of these tables, as the user named them.
        near_joined: Whether near-duplicates are in one group each.
        joined: The trunk of each store, where layers of several are joined; else empty. Then
            ``trunk``, ``weights_sha256``, ``dtype`` and ``precision`` are those of the first.
    """

    X: Any
    y: NDArray[np.int64]
    keys: list[str]
    groups: list[str] | None
    split: NDArray[np.int8]
    class_names: tuple[str, ...]
    layer: str
    trunk: TrunkSpec
    weights_sha256: str
    dtype: str
    path: Path | None = None
    precision: str = "float32"
    calibration_sha256: str = ""
    views: StoredViews | None = None
    source: str = ""
    columns: str = ""
    root: str = ""
    digests: NDArray[np.uint8] | None = None
    positive: str = ""
    store: Stores | None = None
    moved_to: str = ""
    left_out: tuple[str, ...] = ()
    labels: tuple[TableRecord, ...] = ()
    label_columns: str = ""
    near_joined: bool = False
    joined: tuple[MadeBy, ...] = ()

    @property
    def paths(self) -> list[Path | None]:
        """Every store."""
        return [*self.store.paths] if self.store else [self.path]

    @property
    def rows(self) -> NDArray[np.int64] | None:
        """(N,) int64, the row of the store, or of the first, of each row; None without a store."""
        return self.store.parts[0].rows if self.store else None

    @property
    def positive_label(self) -> int | None:
        """The positive class of two: the rarer one unless it is named; None of more classes."""
        if len(self.class_names) != 2:
            return None
        if self.positive:
            return self.class_names.index(self.positive)
        first, second = np.bincount(self.y, minlength=2)
        return int(second <= first)

    def with_positive(self, name: str | None) -> "Dataset":
        """Return the dataset with a positive class; raise SettingError unless it is one of two."""
        if name and len(self.class_names) != 2:
            count = len(self.class_names)
            raise SettingError(f"positive: has no effect on {count} classes; it belongs to two")
        if name:
            check_choice("positive", name, self.class_names)
        return replace(self, positive=name) if name else self

    def without(self, names: Iterable[str]) -> "Dataset":
        """Return the dataset without some classes and their images."""
        left_out = tuple(dict.fromkeys(names))
        kept = [label for label, name in enumerate(self.class_names) if name not in left_out]
        rows = np.flatnonzero(np.isin(self.y, kept))
        return replace(
            self,
            X=self.X[rows] if len(rows) < len(self.y) else self.X,
            y=np.searchsorted(kept, self.y[rows]),
            keys=[self.keys[row] for row in rows],
            groups=self.groups and [self.groups[row] for row in rows],
            split=self.split[rows],
            class_names=tuple(self.class_names[label] for label in kept),
            views=self.views and self.views.select(rows),
            digests=None if self.digests is None else self.digests[rows],
            store=self.store and self.store.select(rows),
            left_out=(*self.left_out, *left_out),
        )

    @cached_property
    def grouping(self) -> Groups:
        """The groups of the rows, by name and number."""
        # The digest of another program's features is of their numbers, which its next export may
        # change in the last digit; its keys stay. The first store decides, whatever the layer.
        trunk = self.store.parts[0].made_by.trunk if self.store else self.trunk
        return Groups(self.keys, self.groups, self.digests if trunk.trunk else None)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that decides a head's numbers.

        It covers the trunk, the digest of its weights, and the features in memory or, where they
        stay in the file, the digests of the images: reading them would take as long as an epoch.
        """
        trunk = {k: v for k, v in self.trunk.to_dict().items() if BEFORE.get(k) != v}
        made_by = [trunk, self.weights_sha256, self.dtype, self.precision]
        made_by += [self.calibration_sha256] if self.calibration_sha256 else []
        made_by += [asdict(self.views.spec)] if self.views else []
        made_by += self.store.identities() if self.store else []
        rows = [self.keys, self.groups, self.y.tolist(), self.split.tolist()]
        described = json.dumps([made_by, self.class_names, rows])
        digest = hashlib.blake2b(described.encode(), digest_size=16)
        stored = isinstance(self.X, StoredRows)
        digest.update(self.X.identity.encode() if stored else np.ascontiguousarray(self.X).data)
        return digest.hexdigest()

    def _facts(self) -> dict[str, str]:
        K, names = len(self.class_names), self.class_names[:10]
        counts = np.bincount(self.y, minlength=K)
        shown = (quoted(name if len(name) <= 40 else f"{name[:37]}...") for name in names)
        classes = [f"{name} {count}" for name, count in zip(shown, counts, strict=False)]
        training, validation, test = np.bincount(self.split, minlength=3)
        place = "read from the file" if isinstance(self.X, StoredRows) else "in memory"
        return {
            "file": ", ".join(quoted(str(path)) for path in self.paths),
            "images": str(len(self.y)),
            "classes": ", ".join(classes) + (f" and {K - 10} more" if K > 10 else ""),
            "features": f"{quoted(self.layer)}, {self.X.shape[1:]} float32, {place}",
            "splits": f"training {training}, validation {validation}, test {test}",
        }


def load_dataset(  # noqa: PLR0913
    path: Paths,
    layer: str | None = None,
    memory: float | None = None,
    groups: str = "stored",
    leave_out: str | Sequence[str] = (),
    source: str | os.PathLike[str] = "",
    *,
    labels: Tables = (),
    columns: str = "",
) -> Dataset:
    """Read the rows that a head can be trained on.

    Rows without a label or without features are left out, with a note of their number. Features
    stay in the file where they, with their copies in training, need more than ``memory``.
    Of several stores the rows of the same images are used, by key or bytes; labels, splits, groups
    and keys are those of the first. Layers are called ``STEM:LAYER`` after the stems of the files.

    Args:
        path: A finished store, or several of the same images.
        layer: The layer of the features, or several joined by ``+``; None for the only one.
        memory: In GB (1e9 bytes); None asks the system for the free memory.
        groups: ``stored``, ``digest`` (and same bytes), ``near`` (and copies) or ``none``.
        leave_out: Names of classes whose images are not read; the dataset does not have them.
        source: The place of the images, if they have moved.
        labels: Tables of labels by key; a later one wins; ``stored`` is the labels in the file.
        columns: Their columns, such as ``"path=file,label=sex"``.

    Raises:
        StoreError: A store cannot be read, is unfinished, has no labelled row or image of the
            others, holds features that are not finite numbers, or changes meanwhile.
        SettingError: The layer, ``groups`` or a class is unknown, none of several layers was named,
            or fewer than two classes remain.
        SourceError: A table of labels cannot be used.

    Example:
        >>> load_dataset("out.h5", labels="sex.csv").class_names  # doctest: +SKIP
        ('female', 'male')
        >>> load_dataset(["vgg.h5", "inception.h5"], "vgg:top+inception:mixed7")  # doctest: +SKIP
    """
    check_choice("groups", groups, GROUPS)
    with open_unchanged(as_paths(path)) as (stores, same):
        known = read_labels(stores[0], labels, columns)
        left_out = check_left_out(known.class_names, leave_out)
        rows = align(stores, usable_rows(stores[0], known, left_out), not known.tables)
        dataset = _describe(stores, same, known, rows)
    dataset = _group(with_layer(dataset, layer or None, memory), groups)
    dataset = replace(dataset, moved_to=os.fspath(source), near_joined=groups == "near")
    return dataset.without(left_out) if left_out else dataset


def _group(dataset: Dataset, groups: str) -> Dataset:
    """Drop all groups, or join those of copies, and of near-duplicates."""
    if groups == "none":
        return replace(dataset, groups=None)
    if groups != STORED and dataset.digests is not None:
        dataset = replace(dataset, groups=group_by_digest(dataset.digests, dataset.groups))
    if groups == "near":
        dataset = replace(dataset, groups=group_near_duplicates(dataset.X, dataset.groups))
    return dataset


def _describe(
    stores: Sequence[Store], same: Sequence[SameStore], known: RowLabels, rows: list[Labels]
) -> Dataset:
    """Return the dataset of some rows of each store, image by image, still without features."""
    first, own, paths = stores[0], rows[0], [store.path for store in stores]
    parts = tuple(map(Part.of, name_stores(paths), same, stores, rows))
    digests = first.digests()[own]
    read_again = Stores(parts, hashlib.blake2b(digests.tobytes(), digest_size=16).hexdigest())
    if len(stores) > 1:
        log_layers(read_again)
    return Dataset(
        X=np.empty((len(own), 0), np.float32),
        y=known.labels[own],
        keys=[first.keys[row] for row in own],
        groups=None if known.groups is None else [known.groups[row] for row in own],
        split=known.split[own],
        class_names=known.class_names,
        layer="",
        path=first.path,
        digests=digests,
        store=read_again,
        labels=known.tables,
        label_columns=known.columns,
        **parts[0].made_by.fields(),
        **{name: first.attributes.get(name, "") for name in ("source", "columns", "root")},
    )


def with_layer(dataset: Dataset, layer: str | None, memory: float | None = None) -> Dataset:
    """Return the dataset with the features of another layer of its stores, if it has some."""
    if layer in ("", dataset.layer) or dataset.store is None:
        return dataset
    loaded = dataset.store.load(layer, memory, dataset.keys)
    joined = loaded.made_by if len(loaded.made_by) > 1 else ()
    made_by, name = loaded.made_by[0].fields(), loaded.layer.name
    return replace(dataset, X=loaded.X, views=loaded.views, layer=name, joined=joined, **made_by)


def budget_for_layer(dataset: Dataset, layer: str, memory: float | None = None) -> MemoryBudget:
    """Return the parts of a layer, empty for the own one, that ``load_dataset`` would load."""
    if layer in ("", dataset.layer) or dataset.store is None:
        in_memory, has_views = not isinstance(dataset.X, StoredRows), dataset.views is not None
        return MemoryBudget(dataset.layer, dataset.X.shape[1:], in_memory, has_views)
    return dataset.store.plan(layer, memory)
