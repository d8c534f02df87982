"""The one loop: items -> decode -> engine -> store."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.console import log, progress
from extract.core.errors import SettingError, StoreError, WeightsUnavailableError
from extract.core.row_block import DONE, PENDING
from extract.engines.base import Engine
from extract.engines.select import open_engine
from extract.images.digests import describe_leaks
from extract.images.item import Item
from extract.pipeline.cluster import check_ray, stream_on_cluster
from extract.pipeline.low_precision import choose_calibration, measure_error
from extract.pipeline.plan import and_views, log_plan, prepare_store
from extract.pipeline.settings import complete_settings
from extract.pipeline.stream import Timings, stream_features
from extract.sources.listing import list_source
from extract.store.format import training_rows
from extract.store.open import ShardedStore, Store, open_store
from extract.store.verify import find_rejected


@dataclass(frozen=True)
class Summary:
    """What a run of stage one has made.

    Attributes:
        out: The store.
        images: Rows in the store.
        computed: Rows this run has tried; the others were there.
        failed: Key and reason of every image that could not be read.
        tolerated: How many such images ``max_bad`` allows.
        class_names: The classes.
        shapes: Shape of one image's features, by layer.
        seconds: Where the time went.
        error: In a precision below float32, how far a sample of the features is from float32:
            ``relative`` (of the Euclidean norm), ``cosine`` (mean, 1 is equal), ``images``.
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


def extract_features(
    source: str | os.PathLike[str], out: str | os.PathLike[str], **settings: Any
) -> Summary:
    """Run a frozen trunk once over a set of images and keep the features in one HDF5 file.

    An existing file is continued if settings and source are the same. Settings that are left out
    take the values of that file, else their defaults.

    Args:
        source: A folder of images, one image, or a manifest.
        out: The HDF5 file.
        **settings: Fields of TrunkSpec, ExtractConfig and ViewSpec.

    Returns:
        What was made.

    Raises:
        SettingError: A setting is unknown or out of range.
        SourceError: The images cannot be listed.
        TrunkError: The trunk or its weights cannot be had.
        EngineError: The trunk cannot be run, or its features do not fit the type.
        StoreError: The file differs, is damaged, in use, or the disk is full.
    """
    clock, began = Timings(), time.monotonic()
    out = Path(out)
    spec, config, views, given = complete_settings(out, settings)
    if config.repair and not out.exists():
        raise StoreError(f"{out}: no such file; expected one to repair; leave --repair out")
    if config.cluster:
        check_ray()  # before there is a file of its settings
    images = list_source(source, config.columns)
    for warning in images.warnings:
        log.warning("%s", warning)
    if views.views and not len(training_rows(images.items)):
        raise SettingError(f"views: have no effect, for {images.root} has no training images")
    engine = _open(spec, config, given, images.items)
    config = replace(config, batch_size=engine.batch_size, engine=engine.name)
    if config.dry_run:
        log_plan(out, images, engine, config, views)
        names, shapes = images.class_names, engine.shapes
        return Summary(out, len(images.items), 0, [], 0, names, shapes)
    prepare_store(out, images, engine, config, views)
    with open_store(out, write=True) as store:
        if config.repair:
            _forget_rejected(store)
        rows = np.flatnonzero(store.status != DONE)
        clock.start = time.monotonic() - began
        _fill(store, images.items, rows, engine, config, clock)
        failed = [(store.keys[f.row], f.reason) for f in store.failures()]
        _warn_of_leaks(store)
        error = None
        if config.precision != "float32":
            error = measure_error(store, images.items, engine, config.workers)
    return Summary(
        out,
        len(images.items),
        len(rows),
        failed,
        config.tolerated(len(images.items)),
        images.class_names,
        engine.shapes,
        clock,
        error,
    )


def _open(
    spec: TrunkSpec, config: ExtractConfig, given: Mapping[str, Any], items: Sequence[Item]
) -> Engine:
    """Open the engine; a trunk that nobody asked for may be replaced by VGG16, with a warning."""

    def opened(spec: TrunkSpec) -> Engine:
        calibrate = partial(choose_calibration, items, workers=config.workers)
        return open_engine(
            *(spec, config.dtype, config.batch_size, config.engine, config.precision),
            calibrate=calibrate,
        )

    try:
        return opened(spec)
    except WeightsUnavailableError as error:
        if {"trunk", "weights", "layer"} & set(given):
            raise
        size = given.get("image_size") or (0, 0)
        try:
            engine = opened(replace(spec, trunk="vgg16", layer=(), image_size=size))
        except WeightsUnavailableError:
            raise error from None
        log.warning("%s", error)
        log.warning(
            "using vgg16, whose ImageNet weights are at hand, in the place of %s", spec.trunk
        )
        return engine


def _forget_rejected(store: Store) -> None:
    """Count what is not sound as not yet done."""
    for what, rows in find_rejected(store):
        log.warning("%s: %s; computed again", store.path, what)
        store.forget(rows)


def _warn_of_leaks(store: Store) -> None:
    rows = np.flatnonzero(store.status == DONE)
    keys = [store.keys[row] for row in rows]
    leaks = describe_leaks(store.digests()[rows], store.split[rows], keys)
    if leaks:
        log.warning("%s: %s", store.path, leaks)


def _fill(
    store: Store,
    items: Sequence[Item],
    rows: np.ndarray,
    engine: Engine,
    config: ExtractConfig,
    clock: Timings,
) -> None:
    """Compute the rows that are still to do."""
    finished = len(items) - len(rows)
    height, width = engine.spec.image_size
    views = store.view_spec.views
    log.info(
        "%d images%s, %d done before; %s at %d x %d pixels in %s %s, %d at a time, %d workers",
        *(len(items), and_views(views), finished),
        *(engine.spec.trunk, width, height),
        *(engine.name, engine.precision, engine.batch_size, config.workers),
    )
    if config.cluster:
        blocks = stream_on_cluster(items, rows, engine, config, clock, store)
    else:
        blocks = stream_features(items, rows, engine, config.workers, clock, store.view_spec)
    # Of a cluster, the workers write to shards.
    take = store.note if config.cluster and isinstance(store, ShardedStore) else store.write
    try:
        with closing(blocks), progress(len(items), "images", finished) as bar:
            for block in blocks:
                began = time.monotonic()
                take(block)
                clock.write += time.monotonic() - began
                bar.update(len(block.rows) + len(block.failed))
            store.commit()
    except KeyboardInterrupt:
        store.commit()
        # Workers tell of whole shards.
        least = "" if take == store.write else "at least "
        raise KeyboardInterrupt(
            f"{least}{int((store.status != PENDING).sum())} of {len(items)} images are in "
            f"{store.path}; the same command goes on"
        ) from None
