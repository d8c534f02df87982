"""Items -> blocks of features: decode in threads ahead of the trunk, in bounded memory.

An image's views go through the trunk beside each other and beside those of its neighbours, so
that every batch is full; a row is whole, and written, once all of its views are back.
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

_PLAIN = ViewSpec()


@dataclass
class Timings:
    """Seconds spent on each step; read and decode, views included, run in threads beside."""

    start: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    trunk: float = 0.0
    write: float = 0.0


class Pixels(NamedTuple):
    """One image, decoded or not: ``pixels`` is None where ``reason`` says why.

    ``pixels`` and each of its augmented ``views`` are (H, W, 3) uint8.
    """

    row: int
    pixels: np.ndarray | None
    reason: str
    digest: bytes
    seconds: tuple[float, float]
    views: tuple[np.ndarray, ...] = ()


class Slot(NamedTuple):
    """A place in a batch: which view of which image, and how many that image has in all."""

    row: int
    view: int
    views: int
    digest: bytes


# Slots of one batch, and what has come back of a row: view -> layer -> features.
Slots = list[Slot]
# Images by row: all of them, or those of a task.
Items = Sequence[Item] | Mapping[int, Item]
Parts = dict[int, dict[str, np.ndarray]]


def stream_features(
    items: Items,
    rows: np.ndarray,
    engine: Engine,
    workers: int,
    clock: Timings | None = None,
    views: ViewSpec = _PLAIN,
) -> Generator[RowBlock, None, None]:
    """Decode images in threads ahead of the trunk and yield their features.

    Memory does not depend on the number of items: a bounded window of images is under way.

    Args:
        items: The images, by row.
        rows: Which of them to compute.
        engine: The trunk.
        workers: Threads that read and decode.
        clock: Where the seconds are added up.
        views: Augmented views of the training images, computed beside the plain ones.

    Yields:
        Blocks of finished rows. An image that cannot be read is in ``failed``, never in ``rows``.

    Raises:
        EngineError: The trunk fails, or a feature is not finite in the engine's type.
    """
    clock = clock or Timings()
    failed: list[Failure] = []
    waiting: dict[int, Parts] = {}
    window = 2 * engine.batch_size // (1 + views.views) + workers
    images = decode_ahead(items, rows, engine.spec, workers, window, clock, views)
    began = time.monotonic()
    waited = clock.wait
    for slots, features in engine.run(_batches(images, engine.batch_size, failed)):
        clock.trunk += time.monotonic() - began - (clock.wait - waited)
        _check_finite(items, slots, features, engine)
        block = _join(waiting, slots, features, _drain(failed))
        if len(block.rows) or block.failed:
            yield block
        began, waited = time.monotonic(), clock.wait
    if failed:
        none = np.empty(0, np.int64)
        yield RowBlock(none, {}, np.empty((0, DIGEST_BYTES), np.uint8), _drain(failed))


def _batches(
    images: Iterator[Pixels], size: int, failed: list[Failure]
) -> Iterator[tuple[Slots, np.ndarray]]:
    """Gather the views of decoded images to batches, tagged with whose they are."""
    slots: Slots = []
    batch: list[np.ndarray] = []
    for image in images:
        if image.pixels is None:
            failed.append(Failure(image.row, image.reason, image.digest))
            continue
        for view, pixels in enumerate([image.pixels, *image.views]):
            slots.append(Slot(image.row, view, 1 + len(image.views), image.digest))
            batch.append(pixels)
            if len(batch) == size:
                yield slots, np.stack(batch)
                slots, batch = [], []
    if batch:
        yield slots, np.stack(batch)


def _join(
    waiting: dict[int, Parts], slots: Slots, features: dict[str, np.ndarray], failed: list[Failure]
) -> RowBlock:
    """Take in what has come back of a batch and give out the rows that are whole now."""
    whole: Slots = []
    for place, slot in enumerate(slots):
        parts = waiting.setdefault(slot.row, {})
        parts[slot.view] = {layer: values[place] for layer, values in features.items()}
        if len(parts) == slot.views:
            whole.append(slot)
    taken = [waiting.pop(slot.row) for slot in whole]
    return RowBlock(
        np.array([slot.row for slot in whole], np.int64),
        {layer: np.stack([parts[0][layer] for parts in taken]) for layer in features if taken},
        np.frombuffer(b"".join(s.digest for s in whole), np.uint8).reshape(-1, DIGEST_BYTES),
        failed,
        {layer: _stack_views(taken, layer) for layer in features},
    )


def _stack_views(taken: list[Parts], layer: str) -> np.ndarray:
    """Return (v, V, *shape) augmented views of those rows that have any, (0,) of none."""
    some = [[parts[view][layer] for view in range(1, len(parts))] for parts in taken]
    return np.array([views for views in some if views])


def decode_ahead(
    items: Items,
    rows: np.ndarray,
    spec: TrunkSpec,
    workers: int,
    window: int,
    clock: Timings,
    views: ViewSpec = _PLAIN,
) -> Iterator[Pixels]:
    """Decode in threads, in order, never more than ``window`` images ahead."""
    load = partial(_load, items, spec, views)
    with closing(prefetch.map_in_threads(load, map(int, rows), workers, window)) as images:
        for row in map(int, rows):
            began = time.monotonic()
            image = next(images) or _give_up(items[row].key, row)
            clock.wait += time.monotonic() - began
            clock.read += image.seconds[0]
            clock.decode += image.seconds[1]
            yield image


def _give_up(key: str, row: int) -> Pixels:
    """Return an image whose thread was left behind."""
    reason = f"took longer than {prefetch.LIMIT_SECONDS:g} s to read and decode"
    log.warning("%s: %s", quoted(key), reason)
    return Pixels(row, None, reason, bytes(DIGEST_BYTES), (prefetch.LIMIT_SECONDS, 0.0))


def _load(items: Items, spec: TrunkSpec, views: ViewSpec, row: int) -> Pixels:
    """Read and decode one image and make its views; what is wrong becomes the reason."""
    began, item = time.monotonic(), items[row]
    try:
        content = read_item(item)
    except (ImageError, MemoryError) as error:
        reason = str(error) if isinstance(error, ImageError) else "needs more memory than there is"
        return Pixels(row, None, reason, bytes(DIGEST_BYTES), (time.monotonic() - began, 0.0))
    read = time.monotonic()
    digest = digest_bytes(content)
    try:
        pixels = decode(content, spec.image_size, spec.resize, spec.interpolation)
    except ImageError as error:
        return Pixels(row, None, str(error), digest, (read - began, time.monotonic() - read))
    made = make_views(pixels, item.key, views) if item.split == 0 else ()
    return Pixels(row, pixels, "", digest, (read - began, time.monotonic() - read), made)


def _drain(failed: list[Failure]) -> list[Failure]:
    taken = list(failed)
    failed.clear()
    return taken


def _check_finite(
    items: Items, slots: Slots, features: dict[str, np.ndarray], engine: Engine
) -> None:
    for layer, values in features.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            key = items[slots[int(np.flatnonzero(~finite)[0])].row].key
            do = "use --dtype float32" if engine.dtype == "float16" else "check the weights"
            raise EngineError(
                f"{key}: layer {layer} gives a value that {engine.dtype} cannot hold; {do}"
            )
