"""A table of features -> a store, written under a temporary name and then moved into place."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.atomic import check_writable, move_into_place, publish, temporary_path
from extract.core.config import ExtractConfig
from extract.core.console import log, log_lines
from extract.core.errors import SettingError, StoreError, count_of, listed, quoted, show_bytes
from extract.core.row_block import DONE, Failure, RowBlock
from extract.display.progress import progress
from extract.exchange.feature_table import FeatureTable
from extract.exchange.rows import arrange
from extract.images.digests import DIGEST_BYTES, describe_leaks, digest_bytes
from extract.images.item import NO_STAMP, Source, Stamp, reading
from extract.images.remote import hide_secrets
from extract.layouts.overview import describe_source
from extract.pipeline.resume import check_place
from extract.pipeline.run import Summary
from extract.pipeline.stream import Timings
from extract.store.format import Layout, wrap_write_errors
from extract.store.open import Store, open_store
from extract.store.validate import is_in_use
from extract.trunks.configuration import installed_version

# The settings that have an effect on features of another program.
SETTINGS = ("columns", "dtype", "max_bad", "overwrite", "update", "check", "max_removed", "dry_run")


def write_table(table: FeatureTable, out: Path, settings: Mapping[str, Any]) -> Summary:
    """Write the rows of a table to a store, or find that an existing one holds them.

    Args:
        table: The rows.
        out: The store to make.
        settings: Those of ``SETTINGS`` that are given.

    Raises:
        SettingError: A setting needs images or a trunk, or has a value out of range.
        SourceError: The rows cannot be read, or have no meaning.
        StoreError: An existing file differs, or cannot be written.
    """
    began = time.monotonic()
    check_settings(table, settings)
    config = ExtractConfig.from_dict(settings)
    existing = _read_existing(out)
    if existing and not existing.spec.trunk and "dtype" not in settings:
        config = ExtractConfig.from_dict({**settings, "dtype": existing.dtype})
    source = arrange(table)
    log_lines(describe_source(source, "row"))
    for warning in source.warnings:
        log.warning("%s", warning)
    _tell_precision(table, config.dtype)
    layout = _plan_layout(table, source, config)
    action, reason = _choose_action(existing, table, layout, config)
    if action != "keep":
        _check_place(out, existing, table, layout)
    clock = Timings(start=time.monotonic() - began)
    computed = 0 if action == "keep" else len(source.items)
    if config.dry_run:
        shape = " x ".join(map(str, table.shape))
        what = f"{count_of(len(source.items), 'row')} of {shape} features in {config.dtype}"
        log.info("would %s %s%s: %s", action, out, reason and f", for {reason}", what)
        return _summary(out, table, source, computed, clock)
    if action == "keep":
        log.info("%s: done before: it holds the %d rows of %s", out, len(source.items), table.where)
    else:
        _build(out, table, layout, action != "make", clock)
    with open_store(out) as store:
        failed = [(store.keys[failure.row], failure.reason) for failure in store.failures()]
        _warn_of_leaks(store)
    tolerated = config.allowed("max_bad", len(source.items))
    return _summary(out, table, source, computed, clock, failed, tolerated)


def _summary(
    out: Path,
    table: FeatureTable,
    source: Source,
    computed: int,
    clock: Timings,
    failed: list[tuple[str, str]] | None = None,
    tolerated: int = 0,
) -> Summary:
    shapes = {table.name: table.shape}
    names, count = source.class_names, len(source.items)
    return Summary(out, count, computed, failed or [], tolerated, names, shapes, clock, None, True)


def check_settings(table: FeatureTable, settings: Mapping[str, Any]) -> None:
    """Raise SettingError for a setting that needs images or a trunk."""
    if strange := [name for name in settings if name not in SETTINGS]:
        name = strange[0].replace("_", "-")
        found = f"{strange[0]}: has no effect on {table.where}, which holds features and no images"
        remedy = f"use --overwrite to write {table.where} again" if name == "repair" else ""
        raise SettingError(f"{found}; {remedy or f'drop --{name}'}")


def _read_existing(out: Path) -> Store | None:
    check_place(out)
    if not out.exists():
        return None
    with open_store(out) as store:
        return store


def _tell_precision(table: FeatureTable, dtype: str) -> None:
    """Say where the stored type has fewer digits than the given one."""
    if table.dtype.itemsize > np.dtype(dtype).itemsize:
        digits = np.finfo(dtype).precision
        log.info("%s: %s is stored as %s, of %d digits", table.where, table.dtype, dtype, digits)


def _plan_layout(table: FeatureTable, source: Source, config: ExtractConfig) -> Layout:
    packages = ["headstart", "h5py", "numpy"]
    attributes = {
        "layer": (table.name,),
        "class_names": source.class_names,
        **{name: getattr(config, name) for name in ("columns", "dtype", "max_bad")},
        "source": os.path.abspath(table.path) if os.path.exists(table.path) else "",
        "versions": [
            f"python {platform.python_version()}",
            *(f"{package} {installed_version(package)}" for package in packages),
        ],
        "command": shlex.join(map(hide_secrets, sys.argv)).encode("utf-8", "replace").decode(),
    }
    return Layout(source.items, {table.name: table.shape}, attributes)


def _choose_action(
    existing: Store | None, table: FeatureTable, layout: Layout, config: ExtractConfig
) -> tuple[str, str]:
    """Return whether to make, keep, update or replace the store, and why."""
    if existing is None:
        return "make", ""
    settings = _find_other_settings(existing, layout)
    rows = "" if settings else _find_other_rows(existing, table, layout, config)
    if not settings and not rows:
        return "keep", ""
    if config.update and not settings:
        _check_gone(existing, layout, config, table)
        return "update", rows
    if not config.overwrite:
        update = "" if settings else "use --update to take the new rows, "
        remedy = "choose another file, or use --overwrite"
        raise StoreError(f"{existing.path}: {settings or rows}; {update}{remedy}")
    return "replace", settings or rows


def _find_other_settings(store: Store, layout: Layout) -> str:
    if store.spec.trunk:
        return f"it was made of images with --trunk {store.spec.trunk}, not of features"
    if store.shards[0].path != store.path:
        return "it is the index of several files"
    if store.shapes != dict(layout.shapes):
        old, new = (
            ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            for shapes in (store.shapes, layout.shapes)
        )
        return f"it holds {old}, not {new}"
    if store.dtype != layout.attributes["dtype"]:
        return f"it was made with --dtype {store.dtype}, not {layout.attributes['dtype']}"
    return "" if store.complete else "it is not complete"


def _find_other_rows(
    store: Store, table: FeatureTable, layout: Layout, config: ExtractConfig
) -> str:
    """Count and name the rows in which a store and a table differ; empty if none do."""
    items, keys = layout.items, [item.key for item in layout.items]
    stored, now = set(store.keys), set(keys)
    differences = {"new": now - stored, "missing": stored - now}
    if stored == now and keys != store.keys:
        return f"{table.where} has the rows in another order"
    names, stored_names = (*layout.attributes["class_names"], ""), (*store.class_names, "")
    if stored == now:
        old = zip(store.labels, store.split, store.groups or repeat(""), strict=False)
        differences["with another class, split or group"] = {
            item.key
            for item, (label, *place) in zip(items, old, strict=False)
            if names[item.label] != stored_names[label] or [item.split, item.group] != place
        }
        if config.check == "content" or not _has_stamp(store, table):
            digests = b"".join(_digests(store.dtype, table))
            same = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES) == store.digests()
            differences["changed"] = {keys[row] for row in np.flatnonzero(~same.all(axis=1))}
    parts = [f"{listed(rows, 'row')} {what}" for what, rows in differences.items() if rows]
    if stored == now and names != stored_names:
        parts.append("other classes, or the same in another order")
    return f"{table.where} has changed: {', '.join(parts)}" if parts else ""


def _has_stamp(store: Store, table: FeatureTable) -> bool:
    """Whether the file has the size and the time that it had when the store was made."""
    stamp = _stamp_of(table)
    return stamp != NO_STAMP and bool((store.stamps[store.status == DONE] == stamp).all())


def _stamp_of(table: FeatureTable) -> Stamp:
    """Return the size of the file and its modification time; zeros of arrays in memory."""
    if not os.path.isfile(table.path):
        return NO_STAMP
    entry = os.stat(table.path)
    is_settled = 0 < entry.st_mtime_ns < time.time_ns() - 2 * 10**9  # as of an image
    return (entry.st_size, entry.st_mtime_ns) if is_settled else NO_STAMP


def _check_gone(store: Store, layout: Layout, config: ExtractConfig, table: FeatureTable) -> None:
    """Raise StoreError where an update would drop many rows; renamed ones are not dropped."""
    removed = set(store.keys) - {item.key for item in layout.items}
    if len(removed) > (most := config.allowed("max_removed", len(store.keys))):
        now = set(_digests(store.dtype, table))
        digests = dict(zip(store.keys, store.digests(), strict=True))
        removed = {key for key in removed if digests[key].tobytes() not in now}
    if len(removed) > most:
        found = f"{table.where} lacks {listed(removed, 'row')} of {len(store.keys):,}"
        remedy = "check that all of it is there, or add --max-removed 100%"
        raise StoreError(f"{store.path}: {found}; expected at most {config.max_removed}; {remedy}")


def _check_place(out: Path, existing: Store | None, table: FeatureTable, layout: Layout) -> None:
    if existing and os.path.exists(table.path) and os.path.samefile(out, table.path):
        raise StoreError(f"{out}: is the source, too; name another file for the result")
    if existing and is_in_use(out):
        raise StoreError(f"{out}: another process is writing to it; stop that one first")
    layout.check_disk_space(out)
    check_writable(out, StoreError)


def _build(out: Path, table: FeatureTable, layout: Layout, replace: bool, clock: Timings) -> None:
    """Write a complete store; until it is, a former file stays as it was."""
    path, began = Path(os.path.realpath(out)), time.monotonic()
    log.info(f"{count_of(len(layout.items), 'row')}, {show_bytes(layout.size)}, to {out}")
    with wrap_write_errors(out), temporary_path(path) as temporary:
        layout.write(temporary)
        rows = progress(len(layout.items), "rows", label="importing")
        with open_store(temporary, write=True) as store, rows as bar:
            for block in read_rows(table, store.dtype):
                store.write(block)
                bar.update(len(block.rows) + len(block.failed))
        move_into_place(temporary, path) if replace else publish(temporary, path)
    clock.write = time.monotonic() - began


def read_rows(table: FeatureTable, dtype: str) -> Iterator[RowBlock]:
    """Yield the rows in the stored type; those with values that are not finite have failed."""
    start, stamp = 0, _stamp_of(table)
    for given, values in _converted(table, dtype):
        rows = np.arange(start, start + len(values))
        start += len(values)
        digests = [digest_bytes(row.tobytes()) for row in values]
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        failed = [
            Failure(int(rows[i]), _why(given[i], dtype), digests[i])
            for i in np.flatnonzero(~finite)
        ]
        kept = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)[finite]
        stamps = np.broadcast_to(np.array(stamp, np.int64), (int(finite.sum()), 2))
        yield RowBlock(rows[finite], {table.name: values[finite]}, kept, failed, stamps=stamps)
    if start != table.count:
        raise StoreError(f"{table.where}: changed while it was read; run the same command again")


def _why(row: np.ndarray, dtype: str) -> str:
    """Say why a row cannot be stored."""
    bad = int((~np.isfinite(row)).sum())
    if bad:
        return f"has NaN or infinity in {bad:,} of {row.size:,} features"
    remedy = "use --dtype float32" if dtype == "float16" else "rescale it"
    return f"has a feature that {dtype} cannot hold; {remedy}"


def _digests(dtype: str, table: FeatureTable) -> Iterator[bytes]:
    """Yield the digest of each row as it would be stored."""
    for _, values in _converted(table, dtype):
        yield from (digest_bytes(row.tobytes()) for row in values)


def _converted(table: FeatureTable, dtype: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of rows as they are given, and in the stored type."""
    with reading(table.path, "features"):
        for given in table.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.ascontiguousarray(given, dtype)
            yield given, values


def _warn_of_leaks(store: Store) -> None:
    if leaks := describe_leaks(store.digests(), store.split, store.keys):
        log.warning("%s: %s", quoted(str(store.path)), leaks)
