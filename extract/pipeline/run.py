"""Run stage one: list the images, open the engine, and write the features of each image."""

import os
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.console import log, log_lines
from extract.core.errors import (
    SettingError,
    StoreError,
    WeightsUnavailableError,
    count_of,
    listed,
    quoted,
)
from extract.core.row_block import DONE, PENDING
from extract.display.progress import progress
from extract.display.tables import Described
from extract.engines.base import Engine
from extract.engines.select import open_engine
from extract.images.digests import describe_leaks
from extract.images.item import Item, Source
from extract.layouts.overview import check_source, describe_source
from extract.limits.image_size import set_limits
from extract.pipeline.cluster import check_ray, stream_on_cluster
from extract.pipeline.compare import Changes, NoEngine, needs_no_trunk
from extract.pipeline.low_precision import choose_calibration, measure_error
from extract.pipeline.plan import and_views, log_plan, open_prepared
from extract.pipeline.resume import RunSettings, complete_settings
from extract.pipeline.stream import Notes, Timings, stream_features
from extract.sources.listing import list_source
from extract.store.format import training_rows
from extract.store.open import Store
from extract.store.verify import log_rejected


@dataclass(frozen=True, repr=False)
class Summary(Described):
    """The result of a run of stage one.

    Attributes:
        out: The store.
        images: Rows in the store.
        computed: Rows that this run has tried; the others were there.
        failed: Key and reason of every image that could not be read.
        tolerated: How many such images ``max_bad`` allows.
        class_names: The classes.
        shapes: Shape of one image's features, by layer.
        seconds: Where the time went.
        error: In a precision below float32, how far a sample of the features is from float32:
            ``relative`` (of the Euclidean norm), ``cosine`` (mean, 1 is equal), ``images``.
        foreign: Whether another program made the features, so that rows are no images.
    """

    out: Path
    images: int
    computed: int
    failed: list[tuple[str, str]]
    tolerated: int
    class_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    seconds: Timings = field(default_factory=Timings)
    error: dict[str, float] | None = None
    foreign: bool = False

    def _facts(self) -> dict[str, Any]:
        return {
            "file": quoted(str(self.out)),
            "rows"
            if self.foreign
            else "images": f"{self.images:,}, {self.computed:,} new, {len(self.failed):,} failed",
            "classes": listed(self.class_names, "name"),
            **{quoted(layer): f"{shape}" for layer, shape in self.shapes.items()},
            "seconds": f"{self.seconds.start + self.seconds.work:.1f}",
        }


def run_extraction(
    source: str | os.PathLike[str], out: str | os.PathLike[str], **settings: Any
) -> Summary:
    """Run a frozen trunk once over a set of images and keep the features in one HDF5 file.

    An existing file is continued if settings and source are the same. Settings that are left out
    take the values of that file, else their defaults.

    Args:
        source: A folder of images, one image, or a table of images.
        out: The HDF5 file.
        **settings: Fields of TrunkSpec, ExtractConfig and ViewSpec.

    Returns:
        Counts, failed images and timings.

    Raises:
        SettingError: A setting is unknown or out of range.
        SourceError: The images cannot be listed.
        TrunkError: The trunk or its weights are not available.
        EngineError: The trunk cannot be run, or its features do not fit the type.
        StoreError: The file differs, is damaged, in use, or the disk is full.
    """
    began = time.monotonic()
    run = complete_settings(Path(out), settings)
    set_limits(run.config.max_image_bytes, run.config.max_image_pixels)
    images, engine, changes = _open_inputs(source, run)
    summary = Summary(run.out, len(images.items), 0, [], 0, images.class_names, engine.shapes)
    config = replace(run.config, batch_size=engine.batch_size, engine=engine.name)
    run = run._replace(config=config)
    if config.dry_run:
        log_plan(run, images, engine, changes)
        return summary
    with open_prepared(run, images, engine, changes) as store:
        del run, changes  # the columns of the existing file are no longer needed
        if config.repair:
            store.forget(log_rejected(store))
        summary.seconds.start = time.monotonic() - began
        computed = _fill(store, images.items, engine, config, summary.seconds)
        _warn_of_leaks(store)
        low = config.precision != "float32"
        return replace(
            summary,
            computed=computed,
            failed=[(store.keys[failure.row], failure.reason) for failure in store.failures()],
            tolerated=config.allowed("max_bad", len(images.items)),
            error=measure_error(store, images.items, engine, config.workers) if low else None,
        )


def _open_inputs(
    source: str | os.PathLike[str], run: RunSettings
) -> tuple[Source, Engine, Changes | None]:
    """List the images, compare them with the existing store, and open the engine if needed."""
    if run.config.repair and not run.existing:
        raise StoreError(f"{run.out}: no such file; expected one to repair; leave --repair out")
    if run.config.cluster:
        check_ray()  # before a file is created
    images = list_source(source, run.config.columns, run.config.root)
    log_lines(describe_source(images))
    check_source(images, run.config.dry_run)
    if run.views.views and not len(training_rows(images.items)):
        raise SettingError(f"views: have no effect, for {images.root} has no training images")
    if not run.existing:
        return images, _open_trunk(run, images), None
    changes = Changes(run.existing, images, run.config.check)
    if run.config.update and needs_no_trunk(run.existing, run.spec, changes):
        return images, NoEngine(run.existing), changes
    return images, _open_trunk(run, images), changes


def _open_trunk(run: RunSettings, images: Source) -> Engine:
    """Open the engine of the chosen trunk, or of the fallback where weights are not available."""
    try:
        return _open_engine(run.spec, run, images)
    except WeightsUnavailableError as error:
        if not run.fallback:
            raise
        with suppress(WeightsUnavailableError):
            engine = _open_engine(run.fallback, run, images)
            log.warning("%s", error)
            instead = f"instead of {run.spec.trunk}: its weights are on this machine"
            log.warning("using %s %s", run.fallback.trunk, instead)
            return engine
        raise


def _open_engine(spec: TrunkSpec, run: RunSettings, images: Source) -> Engine:
    config, count = run.config, len(images.items) * (1 + run.views.views)
    calibrate = partial(choose_calibration, images.items, workers=config.workers)
    settings = config.dtype, config.batch_size, config.engine, config.precision
    return open_engine(spec, *settings, calibrate, count)


def _warn_of_leaks(store: Store) -> None:
    rows = np.flatnonzero(store.status == DONE)
    keys = [store.keys[row] for row in rows]
    if leaks := describe_leaks(store.digests()[rows], store.split[rows], keys):
        log.warning("%s: %s", store.path, leaks)


def _fill(
    store: Store, items: Sequence[Item], engine: Engine, config: ExtractConfig, clock: Timings
) -> int:
    """Compute the rows that are still to do, and return their number."""
    rows = np.flatnonzero(store.status != DONE)
    if isinstance(engine, NoEngine):
        if not len(rows):
            return 0
        found = "it, or its images, changed while they were compared"
        raise StoreError(f"{store.path}: {found}; run the same command again")
    finished, workers = len(items) - len(rows), config.workers
    height, width = engine.spec.image_size
    images = count_of(len(items), "image")
    log.info(
        f"{images}{and_views(store.view_spec.views)}, {finished} done before; "
        f"{engine.spec.trunk} at {width} x {height} pixels in {engine.name} {engine.precision}, "
        f"{engine.batch_size} at a time, {workers} workers"
    )
    if config.cluster:
        blocks = stream_on_cluster(items, rows, engine, config, clock, store)
    else:
        blocks = stream_features(items, rows, engine, workers, clock, store.view_spec)
    by_workers = bool(config.cluster and store.worker_shards)
    take, notes = store.note if by_workers else store.write, Notes()
    try:
        with closing(blocks), progress(len(items), "images", finished, "extracting") as bar:
            for block in blocks:
                began = time.monotonic()
                take(block)
                clock.write += time.monotonic() - began
                for row, note in block.noted:
                    notes.add(items[row].key, note)
                bar.update(len(block.rows) + len(block.failed))
            store.commit()
        notes.warn(quoted(str(store.path)))
        return len(rows)
    except KeyboardInterrupt:
        store.commit()
        # Workers report complete shards only.
        count = f"{'at least ' * by_workers}{(store.status != PENDING).sum()} of {len(items)}"
        raise KeyboardInterrupt(
            f"{count} images are in {store.path}; the same command goes on"
        ) from None
