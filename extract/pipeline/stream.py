"""Items -> blocks of features: decode in threads before the trunk runs, in bounded memory.

The views of an image go through the trunk in one batch with those of other images, so that every
batch is full; a row is complete, and written, once all of its views are back.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from extract.core import prefetch
from extract.core.config import TrunkSpec, ViewSpec
from extract.core.console import log
from extract.core.errors import EngineError, ImageError, quoted
from extract.core.row_block import Failure, RowBlock
from extract.engines.base import Engine
from extract.images.augment import make_views
from extract.images.decode import decode
from extract.images.digests import DIGEST_BYTES, digest_bytes
from extract.images.item import Item, read_item

_NO_VIEWS = ViewSpec()
_NO_DIGEST = bytes(DIGEST_BYTES)


@dataclass
class Timings:
    """Seconds spent on each step; read and decode, views included, run in threads."""

    start: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    trunk: float = 0.0
    write: float = 0.0


class Pixels(NamedTuple):
    """One image, decoded: the plain view and its augmented ones, each (H, W, 3) uint8.

    ``views`` is empty if the image cannot be read, and ``reason`` says why.
    """

    row: int
    views: tuple[np.ndarray, ...]
    reason: str
    digest: bytes
    seconds: tuple[float, float]


class Slot(NamedTuple):
    """A place in a batch: which view of which image, and how many views that image has."""

    row: int
    view: int
    views: int
    digest: bytes


# Images by row: all of them, or those of a task.
Items = Sequence[Item] | Mapping[int, Item]
# What has come back of an image: view -> layer -> features.
Views = dict[int, dict[str, np.ndarray]]


def stream_features(
    items: Items,
    rows: np.ndarray,
    engine: Engine,
    workers: int,
    clock: Timings | None = None,
    views: ViewSpec = _NO_VIEWS,
) -> Generator[RowBlock, None, None]:
    """Decode images in threads and yield their features.

    Memory does not depend on the number of items: a bounded window of images is under way.

    Args:
        items: The images, by row.
        rows: The rows to compute.
        engine: The trunk.
        workers: Threads that read and decode.
        clock: Receives the seconds.
        views: Augmented views of the training images.

    Yields:
        Blocks of finished rows. An image that cannot be read is in ``failed``, never in ``rows``.

    Raises:
        EngineError: The trunk fails, or a feature is not finite in the engine's type.
    """
    clock = clock or Timings()
    failed: list[Failure] = []
    waiting: dict[int, Views] = {}
    window = 2 * engine.batch_size // (1 + views.views) + workers
    images = decode_ahead(items, rows, engine.spec, workers, window, clock, views)
    began, waited = time.monotonic(), clock.wait
    for slots, features in engine.run(_batches(images, engine.batch_size, failed)):
        clock.trunk += time.monotonic() - began - (clock.wait - waited)
        _check_finite(items, slots, features, engine)
        block = _join(waiting, slots, features, failed)
        if len(block.rows) or block.failed:
            yield block
        began, waited = time.monotonic(), clock.wait
    if failed:
        yield _join(waiting, [], {}, failed)


def _batches(
    images: Iterator[Pixels], size: int, failed: list[Failure]
) -> Iterator[tuple[list[Slot], np.ndarray]]:
    """Gather the views of decoded images in batches, and note the images that failed."""
    slots: list[Slot] = []
    batch: list[np.ndarray] = []
    for image in images:
        if not image.views:
            failed.append(Failure(image.row, image.reason, image.digest))
        for view, pixels in enumerate(image.views):
            slots.append(Slot(image.row, view, len(image.views), image.digest))
            batch.append(pixels)
            if len(batch) == size:
                yield slots, np.stack(batch)
                slots, batch = [], []
    if batch:
        yield slots, np.stack(batch)


def _join(
    waiting: dict[int, Views],
    slots: list[Slot],
    features: dict[str, np.ndarray],
    failed: list[Failure],
) -> RowBlock:
    """Take in the features of a batch, and return the rows that are complete now."""
    complete = []
    for place, slot in enumerate(slots):
        views = waiting.setdefault(slot.row, {})
        views[slot.view] = {layer: values[place] for layer, values in features.items()}
        if len(views) == slot.views:
            complete.append(slot)
    rows = [waiting.pop(slot.row) for slot in complete]
    block = RowBlock(
        np.array([slot.row for slot in complete], np.int64),
        {layer: np.stack([views[0][layer] for views in rows]) for layer in features if rows},
        np.frombuffer(b"".join(s.digest for s in complete), np.uint8).reshape(-1, DIGEST_BYTES),
        failed.copy(),
        {layer: _stack_views(rows, layer) for layer in features},
    )
    failed.clear()
    return block


def _stack_views(rows: list[Views], layer: str) -> np.ndarray:
    """Return (v, V, *shape) augmented views of the rows that have any, (0,) of none."""
    augmented = [[views[n][layer] for n in range(1, len(views))] for views in rows]
    return np.array([views for views in augmented if views])


def decode_ahead(
    items: Items,
    rows: np.ndarray,
    spec: TrunkSpec,
    workers: int,
    window: int,
    clock: Timings,
    views: ViewSpec = _NO_VIEWS,
) -> Iterator[Pixels]:
    """Decode in threads, in order, never more than ``window`` images ahead."""
    load = partial(_load, items, spec, views)
    with closing(prefetch.map_in_threads(load, map(int, rows), workers, window)) as images:
        for row in map(int, rows):
            began = time.monotonic()
            image = next(images)
            if image is None:  # its thread was left behind
                reason = f"took longer than {prefetch.LIMIT_SECONDS:g} s to read and decode"
                log.warning("%s: %s", quoted(items[row].key), reason)
                image = Pixels(row, (), reason, _NO_DIGEST, (prefetch.LIMIT_SECONDS, 0.0))
            clock.wait += time.monotonic() - began
            clock.read += image.seconds[0]
            clock.decode += image.seconds[1]
            yield image


def _load(items: Items, spec: TrunkSpec, views: ViewSpec, row: int) -> Pixels:
    """Read and decode one image and make its views."""
    began, item = time.monotonic(), items[row]
    try:
        content = read_item(item)
    except (ImageError, MemoryError) as error:
        reason = str(error) if isinstance(error, ImageError) else "needs more memory than there is"
        return Pixels(row, (), reason, _NO_DIGEST, (time.monotonic() - began, 0.0))
    read, digest = time.monotonic(), digest_bytes(content)
    try:
        plain = decode(content, spec.image_size, spec.resize, spec.interpolation)
    except ImageError as error:
        return Pixels(row, (), str(error), digest, (read - began, time.monotonic() - read))
    augmented = make_views(plain, item.key, views) if item.split == 0 else ()
    seconds = read - began, time.monotonic() - read
    return Pixels(row, (plain, *augmented), "", digest, seconds)


def _check_finite(
    items: Items, slots: list[Slot], features: dict[str, np.ndarray], engine: Engine
) -> None:
    for layer, values in features.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            key = items[slots[int(np.argmin(finite))].row].key
            remedy = "use --dtype float32" if engine.dtype == "float16" else "check the weights"
            raise EngineError(
                f"{key}: layer {layer} gives a value that {engine.dtype} cannot hold; {remedy}"
            )
