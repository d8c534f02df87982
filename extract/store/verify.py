"""Verify a store: read every row and report what is wrong."""

import numpy as np

from extract.core.errors import quoted
from extract.core.row_block import DONE, FAILED, PENDING
from extract.store.open import Store

# Rows whose features are held at once while a store is verified.
VERIFY_BYTES = 64 * 2**20


def verify(store: Store) -> list[str]:
    """Read a whole store and return what is wrong with it, a line each; empty when it is sound.

    Every row must have been tried; finished rows must be finite and have the checksum that was
    written with them, failed ones must be NaN with a reason.
    That objects have their types and columns their ranges was checked when the store was opened.
    """
    missing = int((store.status == PENDING).sum())
    to_do = [f"{missing} of {len(store.keys)} rows are still to do"] if missing else []
    return to_do + [what for what, _ in find_rejected(store)]


def find_rejected(store: Store) -> list[tuple[str, np.ndarray]]:
    """Read a whole store and return what is wrong with which finished or failed rows (int64)."""
    found = [
        (
            f"row {failure.row} ({quoted(store.keys[failure.row])}) failed without a reason",
            [failure.row],
        )
        for failure in store.failures()
        if not failure.reason
    ]
    everything = np.arange(len(store.keys))
    for layer in store.shapes:
        found += _reject(store, layer, everything)
        if store.view_spec.views:
            found += _reject(store, layer, store.view_rows, views=True)
    named = [row for _, rows in found for row in rows]
    rows = np.setdiff1d(np.flatnonzero(store.status == DONE), named)
    row_bytes = sum(_row_bytes(store, layer) for layer in store.shapes)
    step = max(1, VERIFY_BYTES // (row_bytes * (1 + store.view_spec.views)))
    parts = [store.find_changed(rows[i : i + step]) for i in range(0, len(rows), step)]
    changed = [int(row) for part in parts for row in part]
    if changed:
        keys = ", ".join(quoted(store.keys[row]) for row in changed[:3])
        more = ", ..." if len(changed) > 3 else ""
        what = f"{len(changed)} finished rows are not what was written ({keys}{more})"
        found.append((what, changed))
    return [(what, np.array(rows, np.int64)) for what, rows in found]


def _row_bytes(store: Store, layer: str) -> int:
    return int(np.prod(store.shapes[layer])) * np.dtype(store.dtype).itemsize


def _reject(
    store: Store, layer: str, rows: np.ndarray, views: bool = False
) -> list[tuple[str, list[int]]]:
    what, read = ("views", store.read_views) if views else ("features", store.read)
    step = max(
        1, VERIFY_BYTES // (_row_bytes(store, layer) * (store.view_spec.views if views else 1))
    )
    not_finite: list[int] = []
    not_empty: list[int] = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        values, status = read(layer, some).reshape(len(some), -1), store.status[some]
        not_finite += some[~np.isfinite(values).all(axis=1) & (status == DONE)].tolist()
        not_empty += some[~np.isnan(values).all(axis=1) & (status == FAILED)].tolist()
    kinds = ((not_finite, "finished rows are not finite"), (not_empty, "failed rows are not NaN"))
    return [(f"{what} of {layer}: {len(bad)} {wrong}", bad) for bad, wrong in kinds if bad]
