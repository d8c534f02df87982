"""Items -> blocks of features: decode in threads before the trunk runs, in bounded memory.

The views of an image go through the trunk in one batch with those of other images, so that every
batch is full; a row is complete, and written, once all of its views are back.
"""

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError, ImageError, count_of, quoted
from extract.core.row_block import Failure, Note, RowBlock
from extract.core.views import ViewSpec
from extract.engines.base import Engine
from extract.images.digests import DIGEST_BYTES, digest_bytes
from extract.images.item import NO_STAMP, Item, Stamp, read_item, stamp_of
from extract.limits import prefetch
from extract.limits.image_size import under_way
from extract.pixels.augment import make_views
from extract.pixels.decode import decode

NO_VIEWS = ViewSpec()
_NO_DIGEST = bytes(DIGEST_BYTES)
# Images that a warning names.
_NAMED = 3


@dataclass
class Timings:
    """Seconds spent on each step; read and decode, views included, run in threads."""

    start: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    trunk: float = 0.0
    write: float = 0.0

    @property
    def work(self) -> float:
        """Seconds after the start."""
        return self.wait + self.trunk + self.write


class Pixels(NamedTuple):
    """One image, decoded: the plain view and its augmented ones, each (H, W, 3) uint8.

    ``views`` is empty if the image cannot be read, and ``reason`` says why; ``notes`` say what is
    doubtful about one that is read.
    """

    row: int
    views: tuple[np.ndarray, ...]
    reason: str
    digest: bytes
    seconds: tuple[float, float]
    notes: Sequence[Note] = ()
    stamp: Stamp = NO_STAMP


class Notes:
    """The notes on the images of a run, gathered into one line for each kind of note."""

    def __init__(self) -> None:
        self._keys: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._most: Counter[str] = Counter()

    def add(self, key: str, note: Note) -> None:
        """Take in a note on the image ``key``."""
        self._counts[note.text] += 1
        self._most[note.text] = max(self._most[note.text], note.most)
        keys = self._keys.setdefault(note.text, [])
        if len(keys) < _NAMED:
            keys.append(quoted(key))

    def warn(self, where: str = "") -> None:
        """Log how many images each kind of note is on, which are the first, and what was found."""
        for text, count in self._counts.items():
            named = ", ".join(self._keys[text]) + ", ..." * (count > _NAMED)
            said = Note(text, self._most[text])
            images = f"{where}: " * bool(where) + f"{count_of(count, 'image')} ({named})"
            log.warning("%s: %s", images, said)


# Images by row: all of them, or those of a task.
Items = Sequence[Item] | Mapping[int, Item]
# The row and the number of each view in a batch.
Tag = list[tuple[int, int]]


def stream_features(
    items: Items,
    rows: np.ndarray,
    engine: Engine,
    workers: int,
    clock: Timings | None = None,
    views: ViewSpec = NO_VIEWS,
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
        Blocks of finished rows, some of them empty. An image that cannot be read is in ``failed``,
        never in ``rows``.

    Raises:
        EngineError: The trunk fails, or a feature is not finite in the engine's type.
    """
    clock = clock or Timings()
    assembly = _Assembly(clock)
    window = 2 * engine.batch_size // (1 + views.views) + workers
    images = decode_ahead(items, rows, engine.spec, views, workers, window)
    began, waited = time.monotonic(), clock.wait
    for tag, features in engine.run(assembly.batches(images, engine.batch_size)):
        clock.trunk += time.monotonic() - began - (clock.wait - waited)
        _check_finite(items, tag, features, engine)
        yield assembly.join(tag, features)
        began, waited = time.monotonic(), clock.wait
    if assembly.failed:
        yield assembly.join([], {})


class _Assembly:
    """Gathers views in batches, and their features in rows."""

    def __init__(self, clock: Timings) -> None:
        self.clock = clock
        self.failed: list[Failure] = []
        self.noted: list[tuple[int, Note]] = []
        # Digest and stamp of each image under way, and the features of its views that came back.
        self._under_way: dict[int, tuple[bytes, Stamp, list[dict[str, np.ndarray]]]] = {}

    def batches(
        self, images: Iterator[tuple[Pixels, float]], size: int
    ) -> Iterator[tuple[Tag, np.ndarray]]:
        """Gather the views of decoded images in batches, and note the images that failed."""
        tag: Tag = []
        batch: list[np.ndarray] = []
        for (row, views, reason, digest, (read, decoding), notes, stamp), waited in images:
            self.clock.wait += waited
            self.clock.read += read
            self.clock.decode += decoding
            self.noted += [(row, note) for note in notes]
            if views:
                self._under_way[row] = digest, stamp, [{}] * len(views)
            else:
                self.failed.append(Failure(row, reason, digest))
            for view, pixels in enumerate(views):
                tag.append((row, view))
                batch.append(pixels)
                if len(batch) == size:
                    yield tag, np.stack(batch)
                    tag, batch = [], []
        if batch:
            yield tag, np.stack(batch)

    def join(self, tag: Tag, features: dict[str, np.ndarray]) -> RowBlock:
        """Take in the features of a batch, and return the rows that are complete now."""
        for place, (row, view) in enumerate(tag):
            views = self._under_way[row][2]
            views[view] = {layer: values[place] for layer, values in features.items()}
        rows = [row for row in dict(tag) if all(self._under_way[row][2])]
        complete = [self._under_way.pop(row) for row in rows]
        digests = b"".join(digest for digest, _, _ in complete)
        plain = [views[0] for _, _, views in complete]
        augmented = [views[1:] for _, _, views in complete if views[1:]]
        failed, self.failed = self.failed, []
        noted, self.noted = self.noted, []
        return RowBlock(
            np.array(rows, np.int64),
            {layer: np.stack([view[layer] for view in plain]) for layer in features if rows},
            np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
            failed,
            {k: np.array([[view[k] for view in views] for views in augmented]) for k in features},
            noted,
            np.array([stamp for _, stamp, _ in complete], np.int64).reshape(-1, 2),
        )


def decode_ahead(
    items: Items, rows: np.ndarray, spec: TrunkSpec, views: ViewSpec, workers: int, window: int
) -> Iterator[tuple[Pixels, float]]:
    """Decode in threads, in order, at most ``window`` images ahead; yield also seconds waited."""
    load = partial(_load, items, spec, views)
    with closing(prefetch.map_in_threads(load, map(int, rows), workers, window)) as images:
        for row in map(int, rows):
            began = time.monotonic()
            image = next(images)
            if image is None:  # its thread was left behind
                reason = f"took longer than {prefetch.LIMIT_SECONDS:g} s to read and decode"
                log.warning("%s: %s", quoted(items[row].key), reason)
                image = Pixels(row, (), reason, _NO_DIGEST, (prefetch.LIMIT_SECONDS, 0.0))
            yield image, time.monotonic() - began


def _load(items: Items, spec: TrunkSpec, views: ViewSpec, row: int) -> Pixels:
    """Read and decode one image and make its views, as soon as there is room for it."""
    with under_way():
        return _load_now(items, spec, views, row)


def _load_now(items: Items, spec: TrunkSpec, views: ViewSpec, row: int) -> Pixels:
    item, reason, digest = items[row], "", _NO_DIGEST
    stamp = stamp_of(item)  # before the content is read, which may change meanwhile
    pixels: tuple[np.ndarray, ...] = ()
    notes: list[Note] = []
    began, read = time.monotonic(), math.inf
    try:
        content = read_item(item)
        read, digest = time.monotonic(), digest_bytes(content)
        plain = decode(
            content, spec.image_size, spec.resize, spec.interpolation, spec.decoding, notes
        )
    except ImageError as error:
        reason = str(error)
    except MemoryError:
        reason = "needs more memory than there is"
    else:
        pixels = plain, *(make_views(plain, item.key, views) if item.split == 0 else ())
    ended = time.monotonic()
    read = min(read, ended)
    seconds = read - began, ended - read
    return Pixels(row, pixels, reason, digest, seconds, notes if pixels else (), stamp)


def _check_finite(items: Items, tag: Tag, features: dict[str, np.ndarray], engine: Engine) -> None:
    for layer, values in features.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            row, _ = tag[int(np.argmin(finite))]
            remedy = "use --dtype float32" if engine.dtype == "float16" else "check the weights"
            found = f"layer {layer} gives a value that {engine.dtype} cannot hold"
            raise EngineError(f"{items[row].key}: {found}; {remedy}")
