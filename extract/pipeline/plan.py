"""Prepare the store before the first row: create it, update it, or find that it fits."""

import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from extract.core.atomic import check_writable
from extract.core.console import log
from extract.core.errors import StoreError, count_of, listed, quoted, show_bytes
from extract.core.row_block import DONE
from extract.engines.base import Engine
from extract.images.item import Source
from extract.images.remote import hide_secrets, is_url
from extract.pipeline.compare import Changes, find_differences, find_other_images, read_recipe
from extract.pipeline.resume import RunSettings
from extract.store.format import Layout, create_store
from extract.store.open import Store, open_store
from extract.store.shards import SHARD_ROWS, create_shards, find_shards
from extract.store.update import recreate_lost, update_store
from extract.store.validate import is_in_use
from extract.trunks.configuration import backend_name, installed_version

# Settings of one run, not of its file.
_ACTIONS = ("overwrite", "update", "check", "dry_run", "repair", "cluster")


@contextmanager
def open_prepared(
    run: RunSettings, source: Source, engine: Engine, changes: Changes | None = None
) -> Iterator[Store]:
    """Create the store, or check that the existing one fits the run, and open it for writing.

    Args:
        run: The settings; they say whether a store that differs is replaced or updated.
        source: The images.
        engine: The engine that runs the trunk.
        changes: The differences between the existing store and the source.

    Yields:
        The store.

    Raises:
        StoreError: The existing one differs, is damaged or in use, or the disk has no room.
    """
    if run.config.repair:
        recreate_lost(run.out, source.items)
        with open_store(run.out) as store:
            run = run._replace(existing=store)
            changes = Changes(store, source, run.config.check)
    layout = _plan_layout(run, source, engine)
    action, reason = _choose_action(run, source, layout, changes)
    if action != "continue" and run.existing and changes:
        # Another run may have changed it while the images were listed and the engine opened.
        with open_store(run.out) as store:
            run, changes = run._replace(existing=store), changes.of(store)
            action, reason = _choose_action(run, source, layout, changes)
    if action == "update" and changes:
        update_store(run.out, layout, changes.kept)
    elif action != "continue":
        if reason:
            log.info("%s: %s; all rows are computed again", run.out, reason)
        former = {shard.path for shard in find_shards(run.out)} if action == "replace" else set()
        create = create_shards if run.config.shards else create_store
        create(run.out, layout, action == "replace")
        now = (shard.path for shard in find_shards(run.out))
        if left := [path for path in former.difference(now) if path.exists()]:
            found = f"{len(left)} shards that {run.out} no longer names"
            log.warning(f"{left[0].parent}: {found}; remove them if they are not needed")
    with open_store(run.out, write=True) as store:
        # Another run may have replaced it since it was compared.
        if _find_other_settings(store, layout) or find_other_images(store, source, ""):
            raise StoreError(f"{run.out}: another run replaced it; run the same command again")
        del run, layout, changes  # columns that are no longer needed
        yield store


def log_plan(run: RunSettings, source: Source, engine: Engine, changes: Changes | None) -> None:
    """Say what a run would do, and write nothing; refuse what the run would refuse.

    Arguments and errors are those of ``open_prepared``.
    """
    layout, done, renamed = _plan_layout(run, source, engine), 0, 0
    action, reason = _choose_action(run, source, layout, changes)
    if action == "continue" and run.existing:
        done = int((run.existing.status == DONE).sum())
    else:
        if action == "update" and changes:
            done, renamed = len(changes.kept.rows), changes.kept.renamed
        folder = run.out.resolve().parent / run.config.shards
        layout.check_disk_space(folder if run.config.shards else run.out)
        check_writable(run.out, StoreError)
    shards = count_of(-(-len(source.items) // SHARD_ROWS), "shard")
    within = f" in {shards} in {run.config.shards}" if run.config.shards else ""
    layers = ", ".join(f"{layer} {shape}" for layer, shape in engine.shapes.items())
    images = count_of(len(source.items), "image")
    classes = count_of(len(source.class_names), "class")
    under_new = f", of them {renamed:,} under a new name" if renamed else ""
    log.info(
        f"would {action} {run.out}{reason and f', for {reason}'}: {images} of {classes}"
        f"{and_views(run.views.views)}, {done} done before{under_new}; "
        f"{engine.spec.trunk} at {layers} in {run.config.dtype}, {show_bytes(layout.size)}{within}"
    )


def and_views(views: int) -> str:
    """Return the words for the views of each training image, if there are any."""
    return f" and {count_of(views, 'view')} of each for training" if views else ""


def _find_other_settings(store: Store, layout: Layout) -> str:
    """Name the settings in which a store differs from a run."""
    wanted = read_recipe(layout.attributes)
    for name in ("columns", "root"):  # which images they give is compared
        wanted.pop(name)
    differences = find_differences(read_recipe(store.attributes), wanted)
    return f"it was made with {', '.join(differences)}" if differences else ""


def _choose_action(
    run: RunSettings, source: Source, layout: Layout, changes: Changes | None
) -> tuple[str, str]:
    """Return whether to make, continue, update or replace the store, and why."""
    settings, images = run.lost, ""
    if run.existing and changes:
        settings = _find_other_settings(run.existing, layout)
        images = "" if settings else changes.found
        if not settings and not images:
            return "continue", ""
    elif not run.lost:
        return "make", ""
    if is_in_use(run.out):
        raise StoreError(f"{run.out}: another process is writing to it; stop that one first")
    if run.config.update and not settings:
        if run.config.precision == "int8":
            found = "in int8 each row depends on the images that the trunk was calibrated on"
            remedy = "use --overwrite or another precision"
            raise StoreError(f"{run.out}: {found}, which have changed; {remedy}")
        if changes:
            _check_removed(run, source, changes.kept.removed)
        return "update", images
    if not run.config.overwrite:
        raise StoreError(f"{run.out}: {_refuse(run, source, changes, settings or images)}")
    return "replace", settings or images


def _refuse(run: RunSettings, source: Source, changes: Changes | None, differences: str) -> str:
    """Say how the existing file differs from a run, and what to do."""
    remedy = "restore what it was made from, choose another file, or use --overwrite"
    if not changes or differences != changes.found:
        return f"{differences}; {remedy}"
    if changes.is_other and run.existing:
        found = f"holds {count_of(len(run.existing.keys), 'image')}, and no image of"
        found = f"{found} {quoted(source.root)} has the name or the time of one of them"
        remedy = "check SOURCE, name another file, or replace this one with --overwrite"
        if run.config.shards or run.config.precision == "int8":  # no update of them
            return f"{found}; {remedy}"
        same = "only for the same images under other names use --update, which keeps their rows"
        return f"{found}; {remedy}; {same}"
    if run.config.shards:
        return f"{differences}; {remedy}"
    if changes.renamed:
        found = f"{count_of(changes.renamed, 'image')} seem to be only renamed or moved"
        return (
            f"{differences}; {found}; use --update, which keeps the rows of such images, {remedy}"
        )
    return f"{differences}; use --update to run the new images, {remedy}"


def _check_removed(run: RunSettings, source: Source, removed: Sequence[str]) -> None:
    """Raise StoreError where an update would drop many rows: a disk may not be mounted."""
    keys = run.existing.keys if run.existing else []
    if len(removed) > run.config.allowed("max_removed", len(keys)):
        found = f"{quoted(source.root)} lacks {listed(removed, 'image')} of {len(keys):,}"
        expected = f"expected at most {run.config.max_removed}"
        remedy = "check that all of it is there, or add --max-removed 100%"
        raise StoreError(f"{run.out}: {found}; {expected}; {remedy}")


def _plan_layout(run: RunSettings, source: Source, engine: Engine) -> Layout:
    """Return the store that the run creates."""
    runner = "openvino" if engine.name == "openvino" else backend_name()
    keras = ["keras"] * (not engine.spec.is_onnx)
    packages = ["headstart", *keras, runner, "h5py", "numpy", "pillow", "simplejpeg"]
    packages += ["cykooz.resizer"] * (engine.spec.decoding == "fast")
    packages += ["keras-hub"] * engine.spec.is_hub
    versions = [f"{package} {installed_version(package)}" for package in packages]
    config = asdict(run.config).items()
    attributes = {
        **{name: value for name, value in engine.spec.to_dict().items() if value},
        **{name: value for name, value in config if name not in _ACTIONS},
        "root": hide_secrets(run.config.root),
        **asdict(run.views),
        "class_names": source.class_names,
        "weights_sha256": engine.weights_sha256,
        "calibration_keys": engine.calibration_keys or None,
        "calibration_sha256": engine.calibration_sha256,
        # The report shows images from any folder.
        "source": source.root if is_url(source.root) else os.path.abspath(source.root),
        "versions": [f"python {platform.python_version()}", *versions],
        # A name that is not UTF-8 has characters that HDF5 does not store.
        "command": shlex.join(map(hide_secrets, sys.argv)).encode("utf-8", "replace").decode(),
    }
    return Layout(source.items, engine.shapes, attributes)
