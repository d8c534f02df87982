"""The store -> what heads are trained on, in memory."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.config import TrunkSpec
from extract.console import log
from extract.errors import SettingError, StoreError, unknown_name
from extract.store import DONE, NOT_YET, Store, open_store


@dataclass(frozen=True)
class Dataset:
    """The labelled rows of a store that have features, in the store's order.

    Attributes:
        X: (N, *shape) float32 features of one layer; (N, D) of several joined.
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
        calibration_sha256: Digest of the pictures that int8 was calibrated on, else empty.
    """

    X: NDArray[np.float32]
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

    def fingerprint(self) -> str:
        """Return a digest of what decides a head's numbers: rows, labels, splits and features.

        Of the features themselves 64 rows count, beside the trunk and the digest of its weights.
        """
        made_by = [self.trunk.to_dict(), self.weights_sha256, self.dtype, self.precision]
        rows = [self.keys, self.groups, self.y.tolist(), self.split.tolist()]
        described = json.dumps([made_by, self.class_names, rows])
        found = hashlib.blake2b(described.encode(), digest_size=16)
        found.update(self.X[:: max(1, len(self.X) // 64)].tobytes())
        return found.hexdigest()


def join_layers(features: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return one layer's rows as they are, or those of several flattened and side by side.

    Args:
        features: (N, *shape) of each layer.

    Returns:
        (N, *shape) or (N, D) float32.
    """
    if len(features) == 1:
        return features[0].astype(np.float32, copy=False)
    flat = [part.reshape(len(part), -1) for part in features]
    return np.concatenate(flat, axis=1, dtype=np.float32)


def load_dataset(path: Path | str, layer: str | None = None) -> Dataset:
    """Read the rows that a head can be trained on.

    Rows without a label and pictures that could not be read are left out, and a note says how many.

    Args:
        path: A finished store.
        layer: Which layer's features, or several joined by ``+``; None where the store holds one.

    Returns:
        The labelled rows with features.

    Raises:
        StoreError: The store cannot be read, is unfinished, has no labelled row, or holds features
            that are not finite numbers.
        SettingError: The layer is unknown, or there are several and none was named.
    """
    path = Path(path)
    with open_store(path) as store:
        layers = _choose_layers(store, layer)
        rows = _usable_rows(store)
        X = join_layers([store.read(name, rows) for name in layers])
        _check_finite(X, [store.keys[row] for row in rows], path)
        return Dataset(
            X=X,
            y=store.labels[rows],
            keys=[store.keys[row] for row in rows],
            groups=None if store.groups is None else [store.groups[row] for row in rows],
            split=store.split[rows],
            class_names=store.class_names,
            layer="+".join(layers),
            trunk=store.spec,
            weights_sha256=store.attributes["weights_sha256"],
            dtype=store.dtype,
            path=path,
            precision=store.attributes["precision"],
            calibration_sha256=store.attributes.get("calibration_sha256", ""),
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
    missing = int((store.status == NOT_YET).sum())
    if missing:
        raise StoreError(
            f"{store.path}: {missing} of {len(store.keys)} pictures have no features yet; "
            "expected a finished store; run the same extract-features command again, it goes on"
        )
    done, labelled = store.status == DONE, store.labels >= 0
    rows = np.flatnonzero(done & labelled)
    if not len(rows):
        raise StoreError(
            f"{store.path}: none of {len(store.keys)} pictures has features and a label; expected "
            "pictures in class folders; extract features from such a folder"
        )
    if not done.all():
        log.info("left out: %d pictures that could not be read", (~done).sum())
    if (done & ~labelled).any():
        log.info("left out: %d pictures without a label", (done & ~labelled).sum())
    return rows


def _check_finite(X: NDArray[np.float32], keys: list[str], path: Path) -> None:
    """Raise StoreError unless every feature is a finite number."""
    # min and max carry NaN and infinity along, and need no copy of X, as isfinite would.
    if np.isfinite(X.min()) and np.isfinite(X.max()):
        return
    bad = [key for key, features in zip(keys, X, strict=True) if not np.isfinite(features).all()]
    raise StoreError(
        f"{path}: the features of {len(bad)} pictures are not finite numbers, first {bad[0]}; "
        "expected numbers that fit their type; extract again with --dtype float32"
    )
