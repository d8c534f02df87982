"""The store before the first row: made, brought up to date, or found to be of the same inputs."""

import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from extract.core.atomic import check_writable
from extract.core.config import ExtractConfig, ViewSpec
from extract.core.console import log
from extract.core.errors import StoreError
from extract.core.row_block import DONE
from extract.engines.base import Engine
from extract.images.item import Source
from extract.images.remote import hide_secrets
from extract.pipeline.compare import find_other_images, find_other_settings
from extract.store.format import check_disk_space, count_views, create_store
from extract.store.open import open_store
from extract.store.shards import (
    SHARD_ROWS,
    Shard,
    create_shards,
    find_lost,
    find_shards,
    remake_lost,
)
from extract.store.update import update_store
from extract.store.validate import is_in_use
from extract.trunks.backend import backend_name

# What one run does and where, as against what the file is.
_ACTIONS = ("overwrite", "update", "dry_run", "repair", "cluster")


class Plan(NamedTuple):
    """What a store needs before its rows are run, and why."""

    action: Literal["make", "continue", "update", "replace"]
    why: str = ""


def prepare_store(
    out: Path, source: Source, engine: Engine, config: ExtractConfig, views: ViewSpec
) -> None:
    """Make the store, or make sure that the existing one is of these weights and this source.

    Args:
        out: The store.
        source: The images.
        engine: What is to run the trunk.
        config: Whether a store that differs is to be replaced, or brought up to date.
        views: Augmented views of the training images.

    Raises:
        StoreError: The existing one differs, is damaged or in use, or the disk has no room.
    """
    if config.repair:
        remake_lost(out, source.items)
    action, why = _find_work(out, source, engine, config, views)
    attributes = {**_attributes(source, engine, config), **asdict(views)}
    if action == "update":
        update_store(out, source, engine.shapes, attributes)
    elif action != "continue":
        former = find_shards(out) if action == "replace" else []
        if why:
            log.info("%s: %s; all is made anew", out, why)
        create = create_shards if config.shards else create_store
        create(out, source.items, engine.shapes, attributes, action == "replace")
        _warn_of_former(out, former)


def log_plan(
    out: Path, source: Source, engine: Engine, config: ExtractConfig, views: ViewSpec
) -> None:
    """Say what a run would do, and write nothing; what it would refuse is refused.

    Arguments and errors are those of ``prepare_store``.
    """
    work, done = _find_work(out, source, engine, config, views), 0
    if work.action == "continue":
        with open_store(out) as store:
            done = int((store.status == DONE).sum())
    else:
        place = out.resolve().parent / config.shards if config.shards else out
        attributes = {**_attributes(source, engine, config), **asdict(views)}
        check_disk_space(place, source.items, engine.shapes, attributes)
        check_writable(out, StoreError)
    values = sum(int(np.prod(shape)) for shape in engine.shapes.values())
    size = count_views(source.items, views.views) * values * np.dtype(config.dtype).itemsize
    shards = -(-len(source.items) // SHARD_ROWS)
    log.info(
        "would %s %s%s: %d images of %d classes%s, %d done before; %s at %s in %s, %.1f MB%s",
        *(work.action, out, f", for {work.why}" if work.why else ""),
        *(len(source.items), len(source.class_names), and_views(views.views), done),
        engine.spec.trunk,
        ", ".join(f"{layer} {shape}" for layer, shape in engine.shapes.items()),
        *(config.dtype, size / 1e6),
        f" in {shards} shard{'s' * (shards > 1)} in {config.shards}" if config.shards else "",
    )


def and_views(views: int) -> str:
    """Return the words for the views of each training image, where there are any."""
    return f" and {views} view{'s' * (views > 1)} of each for training" if views else ""


def _find_work(
    out: Path, source: Source, engine: Engine, config: ExtractConfig, views: ViewSpec
) -> Plan:
    """Find out what a store needs; see ``prepare_store``."""
    if not out.exists():
        return Plan("make")
    lost = next(iter(find_lost(out).values()), "") if config.overwrite else ""
    settings = lost or find_other_settings(out, engine, views, config.shards)
    images = "" if settings else find_other_images(out, source)
    if not settings and not images:
        return Plan("continue")
    if is_in_use(out):
        raise StoreError(f"{out}: another process is writing to it; stop that one first")
    if config.update and not settings:
        _check_update(out, config)
        return Plan("update", images)
    if not config.overwrite:
        update = "" if settings or config.shards else "give --update to run what is new, "
        raise StoreError(
            f"{out}: {settings or images}; {update}restore what it was made from, name "
            "another file, or give --overwrite"
        )
    return Plan("replace", settings or images)


def _warn_of_former(out: Path, former: Sequence[Shard]) -> None:
    """Name the shards of an index that has been replaced by one of others, or by a store."""
    now = {shard.path for shard in find_shards(out)}
    left = [shard.path for shard in former if shard.path not in now and shard.path.exists()]
    if left:
        log.warning(
            "%s: %d shards that %s no longer names; remove them if they are not needed",
            *(left[0].parent, len(left), out),
        )


def _check_update(out: Path, config: ExtractConfig) -> None:
    if config.precision == "int8":
        raise StoreError(
            f"{out}: in int8 each row depends on the images that the trunk was calibrated on, "
            "which have changed; give --overwrite, or use another precision"
        )


def _attributes(source: Source, engine: Engine, config: ExtractConfig) -> dict[str, Any]:
    runner = "openvino" if engine.name == "openvino" else backend_name()
    packages = ("headstart", "keras", runner, "h5py", "numpy", "pillow")
    made_by = [f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    settings = {k: v for k, v in asdict(config).items() if k not in _ACTIONS}
    return {
        **engine.spec.to_dict(),
        **settings,
        "class_names": source.class_names,
        "weights_sha256": engine.weights_sha256,
        "calibration_keys": engine.calibration_keys or None,
        "calibration_sha256": engine.calibration_sha256,
        "source": source.root,
        "versions": made_by,
        "command": shlex.join(map(hide_secrets, sys.argv)),
    }
