"""The dataset that heads are trained on: labelled rows of a store, in memory if they fit."""

import hashlib
import html
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.memory_budget import COPIES, MemoryBudget, feature_bytes, plan_memory
from classify.data.out_of_core import Features, StoredRows, iter_chunks, join_layers
from classify.data.views import StoredViews
from classify.settings.config import GROUPS
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import HeadError, SettingError, StoreError, quoted, unknown_name
from extract.core.flags import check_choice
from extract.core.row_block import DONE, PENDING
from extract.images.digests import group_by_digest
from extract.store.open import Store, open_store

_SHOWN_CLASSES = 10  # in a summary
_SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """The labelled rows of a store that have features, in the store's order.

    Attributes:
        X: (N, *shape) float32 features of one layer; (N, D) of several joined. An array, or
            ``StoredRows`` where they do not fit into memory.
        y: (N,) int64 classes, 0 to K - 1.
        keys: N different keys.
        groups: N names of groups, whose rows must stay together, or None; "" is no group.
        split: (N,) int8: 0 train, 1 validation, 2 test.
        class_names: K names.
        layer: The layer of the features; several are joined by ``+``.
        trunk: The trunk that made the features.
        weights_sha256: Digest of the trunk's weights.
        dtype: Type of the stored features.
        path: The store.
        precision: Type that the trunk computed in.
        calibration_sha256: Digest of the images that calibrated int8, else empty.
        views: Augmented views of training rows; None without views or memory for them.
        source: The place of the images when the store was made, as the user named it.
        columns: The columns of the source's table, as the user named them.
        digests: (N, 16) uint8 BLAKE2b-128 digests of the image files, or None.
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
    digests: NDArray[np.uint8] | None = None

    def fingerprint(self) -> str:
        """Return a digest of everything that decides a head's numbers.

        Features in memory are part of it. Features in the file are represented by the digests of
        the image files, for reading them all would take as long as an epoch. The trunk and the
        digest of its weights are part of it in both cases.
        """
        made_by = [self.trunk.to_dict(), self.weights_sha256, self.dtype, self.precision]
        made_by += [self.calibration_sha256] if self.calibration_sha256 else []
        if self.views:
            made_by.append(asdict(self.views.spec))
        rows = [self.keys, self.groups, self.y.tolist(), self.split.tolist()]
        described = json.dumps([made_by, self.class_names, rows])
        digest = hashlib.blake2b(described.encode(), digest_size=16)
        if isinstance(self.X, StoredRows):
            digest.update(self.X.identity.encode())
        else:
            digest.update(np.ascontiguousarray(self.X).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._summary().items()]
        return "\n  ".join([f"Dataset {self.path or ''}".rstrip(), *lines])

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        rows = [
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in {"file": str(self.path or ""), **self._summary()}.items()
        ]
        return f"<table>{''.join(rows)}</table>"

    def _summary(self) -> dict[str, str]:
        """Describe the dataset in a few short texts by name."""
        counts = np.bincount(self.y, minlength=len(self.class_names))
        classes = [
            f"{quoted(name if len(name) <= 40 else name[:37] + '...')} {count}"
            for name, count in zip(self.class_names[:_SHOWN_CLASSES], counts, strict=False)
        ]
        more = len(self.class_names) - len(classes)
        sides = zip(np.bincount(self.split, minlength=3), _SPLITS, strict=True)
        place = "read from the file" if isinstance(self.X, StoredRows) else "in memory"
        return {
            "images": str(len(self.y)),
            "classes": ", ".join(classes) + (f" and {more} more" if more else ""),
            "features": f"{self.layer}, {self.X.shape[1:]} float32, {place}",
            "splits": ", ".join(f"{name} {count}" for count, name in sides),
        }


def load_dataset(
    path: Path | str, layer: str | None = None, memory: float | None = None, groups: str = "stored"
) -> Dataset:
    """Read the rows that a head can be trained on.

    Rows without a label or without features are left out, and a note gives their number. Features
    stay in the file where they, with their copies in training, need more than ``memory``.

    Args:
        path: A finished store.
        layer: The layer of the features, or several joined by ``+``; None for the only one.
        memory: In GB (1e9 bytes); None asks the system for the free memory.
        groups: Rows that stay together: ``stored``, the groups in the file, or ``digest``, those
            and also images that are identical byte for byte.

    Raises:
        StoreError: The store cannot be read, is unfinished, has no labelled row, or holds features
            that are not finite numbers.
        SettingError: The layer or ``groups`` is unknown, or the store has several layers and none
            was named.
    """
    check_choice("groups", groups, GROUPS)
    with open_store(path) as store:
        layers = _choose_layers(store, layer)
        rows = _usable_rows(store)
        budget = plan_memory(store, layers, len(rows), memory)
        dataset = Dataset(
            X=_features(store, layers, rows, budget),
            y=store.labels[rows],
            keys=[store.keys[row] for row in rows],
            groups=_groups(store, rows, groups),
            split=store.split[rows],
            class_names=store.class_names,
            layer=budget.layer,
            trunk=store.spec,
            weights_sha256=store.attributes["weights_sha256"],
            dtype=store.dtype,
            path=Path(path),
            precision=store.attributes["precision"],
            calibration_sha256=store.attributes.get("calibration_sha256", ""),
            views=_views(store, layers, rows, budget),
            source=store.attributes.get("source", ""),
            columns=store.attributes.get("columns", ""),
            digests=store.digests()[rows],
        )
    _check_finite(dataset)
    return dataset


def budget_for_layer(dataset: Dataset, layer: str, memory: float | None = None) -> MemoryBudget:
    """Return the parts of a layer that are in memory, or that would be if it were loaded.

    Args:
        dataset: Rows of a store.
        layer: The layer, or several joined by ``+``; empty for the dataset's own.
        memory: As in ``load_dataset``, which decides in the same way.

    Raises:
        SettingError: The layer is unknown.
        StoreError: The store cannot be read.
    """
    if layer in ("", dataset.layer) or dataset.path is None:
        in_memory, has_views = not isinstance(dataset.X, StoredRows), dataset.views is not None
        return MemoryBudget(dataset.layer, dataset.X.shape[1:], in_memory, has_views)
    with open_store(dataset.path) as store:
        return plan_memory(store, _choose_layers(store, layer), len(dataset.y), memory)


def check_weights(dataset: Dataset, sha256: str) -> None:
    """Raise HeadError unless weights with this digest made the features."""
    if sha256 != dataset.weights_sha256:
        raise HeadError(
            f"weights: {dataset.trunk.weights} has SHA-256 {sha256[:12]}; expected "
            f"{dataset.weights_sha256[:12]}, which made the features; restore that file, or "
            "extract again"
        )


def _choose_layers(store: Store, layer: str | None) -> list[str]:
    known = list(store.shapes)
    if layer is None and len(known) > 1:
        raise SettingError(f"layer: the store holds {', '.join(known)}; name one with --layer")
    # The name of a single layer may contain "+".
    layers = known if layer is None else [layer] if layer in known else layer.split("+")
    for name in layers:
        if name not in known:
            raise SettingError(unknown_name("layer", name, known))
    return layers


def _usable_rows(store: Store) -> NDArray[np.int64]:
    """Return the increasing labelled rows with features; log the number of the others."""
    missing = int((store.status == PENDING).sum())
    if missing:
        raise StoreError(
            f"{store.path}: {missing} of {len(store.keys)} images have no features yet; expected "
            "a finished store; run the same extract-features command again to continue"
        )
    done, labelled = store.status == DONE, store.labels >= 0
    rows = np.flatnonzero(done & labelled)
    if not len(rows):
        raise StoreError(
            f"{store.path}: none of {len(store.keys)} images has features and a label; expected "
            "images in class folders; extract features from such a folder"
        )
    for left_out, reason in (
        (~done, "that could not be read"),
        (done & ~labelled, "without a label"),
    ):
        if left_out.any():
            log.info("left out: %d images %s", left_out.sum(), reason)
    return rows


def _groups(store: Store, rows: NDArray[np.int64], groups: str) -> list[str] | None:
    stored = None if store.groups is None else [store.groups[row] for row in rows]
    return stored if groups == "stored" else group_by_digest(store.digests()[rows], stored)


def _features(
    store: Store, layers: list[str], rows: NDArray[np.int64], budget: MemoryBudget
) -> Features:
    """Read the features if they fit into memory; otherwise return rows that are read later."""
    width, size = math.prod(budget.shape), feature_bytes(len(rows), budget.shape)
    text = f"{store.path}: {len(rows)} rows of {width} features, {_format_bytes(size)}"
    if budget.holds_features:
        log.info("%s, in memory", text)
        return join_layers([store.read(name, rows) for name in layers])
    free = _format_bytes(budget.free)
    text += f", read from the file while training: {COPIES} times as much does not fit into {free}"
    log.info("%s", text)
    identity = hashlib.blake2b(store.digests()[rows].tobytes(), digest_size=16).hexdigest()
    return StoredRows(store.path, layers, rows, budget.shape, identity)


def _views(
    store: Store, layers: list[str], rows: NDArray[np.int64], budget: MemoryBudget
) -> StoredViews | None:
    """Return the augmented views, if there are any and they fit into memory with the features."""
    if budget.holds_views:
        return StoredViews(store.path, layers, rows, store.view_spec)
    if views := store.view_spec.views:
        size = _format_bytes((1 + views) * feature_bytes(len(rows), budget.shape))
        free = _format_bytes(budget.free)
        log.info("left out: views; with them %d times %s does not fit into %s", COPIES, size, free)
    return None


def _format_bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _check_finite(dataset: Dataset) -> None:
    """Raise StoreError unless every feature is a finite number."""
    bad: list[str] = []
    for positions, chunk in iter_chunks(dataset.X):
        # NaN and infinity pass through min and max, which need no copy; isfinite makes one.
        if not (np.isfinite(chunk.min()) and np.isfinite(chunk.max())):
            keys = zip(dataset.keys[positions], chunk, strict=True)
            bad += [key for key, features in keys if not np.isfinite(features).all()]
    if bad:
        raise StoreError(
            f"{dataset.path}: the features of {len(bad)} images are not finite numbers, first "
            f"{bad[0]}; expected numbers that fit their type; extract again with --dtype float32"
        )
