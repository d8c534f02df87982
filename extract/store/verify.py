"""Verify a store: read every row and report what is wrong."""

import numpy as np

from extract.core.console import log
from extract.core.errors import listed, quoted
from extract.core.row_block import DONE, FAILED, PENDING
from extract.store.open import Store

# Bytes of features that are in memory at once.
VERIFY_BYTES = 64 * 2**20


def verify(store: Store) -> list[str]:
    """Read all of a store and return what is wrong with it, a line each; empty if nothing is.

    Every row must have been tried; finished rows must be finite and have the checksum that was
    written with them, failed ones must be NaN with a reason. Types and ranges were checked when the
    store was opened.
    """
    missing = int((store.status == PENDING).sum())
    to_do = [f"{missing} of {len(store.keys)} rows are still to do"] if missing else []
    return to_do + [problem for problem, _ in find_rejected(store)]


def find_rejected(store: Store) -> list[tuple[str, np.ndarray]]:
    """Read all of a store and return each problem with its finished or failed rows (int64)."""
    rejected = [
        (f"row {f.row} ({quoted(store.keys[f.row])}) failed without a reason", np.array([f.row]))
        for f in store.failures()
        if not f.reason
    ]
    for layer in store.shapes:
        rejected += _reject(store, "features", layer, np.arange(len(store.keys)))
        if store.view_spec.views:
            rejected += _reject(store, "views", layer, store.view_rows)
    named = [row for _, rows in rejected for row in rows]
    rows = np.setdiff1d(np.flatnonzero(store.status == DONE), named)
    changed = np.concatenate([rows[:0], *map(store.find_changed, cut_rows(store, rows))])
    if len(changed):
        rows_named = listed([store.keys[row] for row in changed], "finished row")
        rejected.append((f"not what was written: {rows_named}", changed))
    return rejected


def log_rejected(store: Store) -> np.ndarray:
    """Warn of rows that fail verification, and return them, increasing: compute them again."""
    rejected = find_rejected(store)
    for problem, _ in rejected:
        log.warning("%s: %s; computed again", store.path, problem)
    return np.unique(np.concatenate([np.empty(0, np.int64), *(rows for _, rows in rejected)]))


def cut_rows(store: Store, rows: np.ndarray) -> list[np.ndarray]:
    """Cut rows into parts that memory holds."""
    step = max(1, VERIFY_BYTES // store.row_bytes)
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _reject(store: Store, kind: str, layer: str, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Find finished rows that are not finite, and failed rows that are not NaN."""
    read = store.read if kind == "features" else store.read_views
    not_finite, not_nan = [rows[:0]], [rows[:0]]
    for part in cut_rows(store, rows):
        values, status = read(layer, part).reshape(len(part), -1), store.status[part]
        not_finite.append(part[~np.isfinite(values).all(axis=1) & (status == DONE)])
        not_nan.append(part[~np.isnan(values).all(axis=1) & (status == FAILED)])
    problems = {"finished rows are not finite": not_finite, "failed rows are not NaN": not_nan}
    joined = ((problem, np.concatenate(parts)) for problem, parts in problems.items())
    return [(f"{kind} of {layer}: {len(bad)} {text}", bad) for text, bad in joined if len(bad)]
