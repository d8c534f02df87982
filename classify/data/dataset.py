"""The store -> what heads are trained on, in memory where it fits."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.memory_budget import COPIES, MemoryBudget, plan_memory
from classify.data.out_of_core import Features, StoredRows, iter_chunks, join_layers
from classify.data.views import StoredViews
from classify.settings.config import GROUPS
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import HeadError, SettingError, StoreError, unknown_name
from extract.core.flags import check_choice
from extract.core.row_block import DONE, PENDING
from extract.images.digests import group_by_digest
from extract.store.open import Store, open_store


@dataclass(frozen=True)
class Dataset:
    """The labelled rows of a store that have features, in the store's order.

    Attributes:
        X: (N, *shape) float32 features of one layer; (N, D) of several joined. An array, or
            ``rows.StoredRows`` where memory does not hold them.
        y: (N,) int64 classes, 0 to K - 1.
        keys: N keys, each once.
        groups: N names of what must stay together, or None; "" stands for a row of its own.
        split: (N,) int8: 0 train, 1 validation, 2 test.
        class_names: K names.
        layer: The layer that the features come from; several have ``+`` between them.
        trunk: The trunk that made them.
        weights_sha256: Digest of that trunk's weights.
        dtype: Type the features were stored in.
        path: The store.
        precision: What the trunk computed in.
        calibration_sha256: Digest of the images that int8 was calibrated on, else empty.
        views: Augmented views of rows of the training split; None where there are none, or no
            memory for them.
        source: Where the images were when the store was made, as the user named it.
        columns: Which columns of it are what.
        digests: (N, 16) uint8 BLAKE2b-128 digests of the images' files, or None.
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
        """Return a digest of what decides a head's numbers: rows, labels, splits and features.

        Features in memory count every one. Those that are read from the store when needed count by
        the digests of the images' files, beside the trunk and the digest of its weights, which
        always count: to read them all for this would take as long as an epoch.
        """
        made_by = [self.trunk.to_dict(), self.weights_sha256, self.dtype, self.precision]
        made_by += [self.calibration_sha256] if self.calibration_sha256 else []
        if self.views:
            made_by.append(asdict(self.views.spec))
        rows = [self.keys, self.groups, self.y.tolist(), self.split.tolist()]
        described = json.dumps([made_by, self.class_names, rows])
        found = hashlib.blake2b(described.encode(), digest_size=16)
        if isinstance(self.X, StoredRows):
            found.update(self.X.identity.encode())
        else:
            found.update(np.ascontiguousarray(self.X).data)
        return found.hexdigest()


def load_dataset(
    path: Path | str,
    layer: str | None = None,
    memory: float | None = None,
    groups: str = "stored",
) -> Dataset:
    """Read the rows that a head can be trained on.

    Rows without a label and images that could not be read are left out, and a note says how many.
    Features stay in the file where they and their copies in training need more than ``memory``.

    Args:
        path: A finished store.
        layer: Which layer's features, or several joined by ``+``; None where the store holds one.
        memory: In GB (1e9 bytes); None asks the system for what is free.
        groups: What stays together: ``stored``, the groups in the file, or ``digest``, beside them
            images that are the same byte for byte.

    Returns:
        The labelled rows with features.

    Raises:
        StoreError: The store cannot be read, is unfinished, has no labelled row, or holds features
            that are not finite numbers.
        SettingError: The layer is unknown, or there are several and none was named; or ``groups``
            is unknown.
    """
    check_choice("groups", groups, GROUPS)
    path = Path(path)
    with open_store(path) as store:
        layers = _choose_layers(store, layer)
        rows = _usable_rows(store)
        room = plan_memory(store, layers, len(rows), memory)
        dataset = Dataset(
            X=_features(store, layers, rows, room),
            y=store.labels[rows],
            keys=[store.keys[row] for row in rows],
            groups=_groups(store, rows, groups),
            split=store.split[rows],
            class_names=store.class_names,
            layer="+".join(layers),
            trunk=store.spec,
            weights_sha256=store.attributes["weights_sha256"],
            dtype=store.dtype,
            path=path,
            precision=store.attributes["precision"],
            calibration_sha256=store.attributes.get("calibration_sha256", ""),
            views=_views(store, layers, rows, room),
            source=store.attributes.get("source", ""),
            columns=store.attributes.get("columns", ""),
            digests=store.digests()[rows],
        )
    _check_finite(dataset.X, dataset.keys, path)
    return dataset


def budget_for_layer(dataset: Dataset, layer: str, memory: float | None = None) -> MemoryBudget:
    """Say what memory would hold of another layer of a dataset's store; nothing of it is read.

    Args:
        dataset: Rows of a store.
        layer: Which layer, or several joined by ``+``.
        memory: See ``load_dataset``, which decides in the same way.

    Raises:
        SettingError: The layer is unknown.
        StoreError: The store cannot be read.
    """
    assert dataset.path is not None
    with open_store(dataset.path) as store:
        return plan_memory(store, _choose_layers(store, layer), len(dataset.y), memory)


def check_weights(dataset: Dataset, found: str) -> None:
    """Raise HeadError unless weights with this digest made the features."""
    if found != dataset.weights_sha256:
        raise HeadError(
            f"weights: {dataset.trunk.weights} has SHA-256 {found[:12]}; expected "
            f"{dataset.weights_sha256[:12]}, which made the features; put that file back, or "
            "extract again"
        )


def _choose_layers(store: Store, layer: str | None) -> list[str]:
    known = list(store.shapes)
    if layer is None:
        if len(known) > 1:
            raise SettingError(f"layer: the store holds {', '.join(known)}; name one with --layer")
        return known
    # A layer's own name may hold the sign that joins.
    asked = [layer] if layer in known else layer.split("+")
    for name in asked:
        if name not in known:
            raise SettingError(unknown_name("layer", name, known))
    return asked


def _usable_rows(store: Store) -> NDArray[np.int64]:
    """Return the labelled rows with features, increasing; say how many were left out, and why."""
    missing = int((store.status == PENDING).sum())
    if missing:
        raise StoreError(
            f"{store.path}: {missing} of {len(store.keys)} images have no features yet; "
            "expected a finished store; run the same extract-features command again, it goes on"
        )
    done, labelled = store.status == DONE, store.labels >= 0
    rows = np.flatnonzero(done & labelled)
    if not len(rows):
        raise StoreError(
            f"{store.path}: none of {len(store.keys)} images has features and a label; expected "
            "images in class folders; extract features from such a folder"
        )
    if not done.all():
        log.info("left out: %d images that could not be read", (~done).sum())
    if (done & ~labelled).any():
        log.info("left out: %d images without a label", (done & ~labelled).sum())
    return rows


def _groups(store: Store, rows: NDArray[np.int64], groups: str) -> list[str] | None:
    stored = None if store.groups is None else [store.groups[row] for row in rows]
    return stored if groups == "stored" else group_by_digest(store.digests()[rows], stored)


def _features(
    store: Store, layers: list[str], rows: NDArray[np.int64], room: MemoryBudget
) -> Features:
    """Read the features if there is room for them, else say how to; a note says which."""
    width = math.prod(room.shape)
    text = f"{store.path}: {len(rows)} rows of {width} features, {_shown(room.size)}"
    if room.holds_features:
        log.info("%s, in memory", text)
        return join_layers([store.read(name, rows) for name in layers])
    log.info(
        "%s, read from the file while training: %d times as much does not fit into %s",
        *(text, COPIES, _shown(room.free)),
    )
    identity = hashlib.blake2b(store.digests()[rows].tobytes(), digest_size=16).hexdigest()
    return StoredRows(store.path, layers, rows, room.shape, identity)


def _views(
    store: Store, layers: list[str], rows: NDArray[np.int64], room: MemoryBudget
) -> StoredViews | None:
    """Find the augmented views, if there are any and there is room for them beside the features."""
    if not room.views:
        return None
    if room.holds_views:
        return StoredViews(store.path, layers, rows, store.view_spec)
    log.info(
        "left out: views; with them there are %s, and %d times as much does not fit into %s",
        *(_shown(room.size * (1 + room.views)), COPIES, _shown(room.free)),
    )
    return None


def _shown(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _check_finite(X: Features, keys: list[str], path: Path) -> None:
    """Raise StoreError unless every feature is a finite number."""
    bad: list[str] = []
    for places, piece in iter_chunks(X):
        # min and max carry NaN and infinity along, and need no copy, as isfinite would.
        if not (np.isfinite(piece.min()) and np.isfinite(piece.max())):
            sound = (np.isfinite(features).all() for features in piece)
            bad += [key for key, fine in zip(keys[places], sound, strict=True) if not fine]
    if bad:
        raise StoreError(
            f"{path}: the features of {len(bad)} images are not finite numbers, first {bad[0]}; "
            "expected numbers that fit their type; extract again with --dtype float32"
        )
