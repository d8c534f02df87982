"""Items -> blocks of features: decode in threads ahead of the trunk, in bounded memory."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from extract.config import TrunkSpec
from extract.decode import decode
from extract.engines import Engine
from extract.errors import EngineError, ImageError
from extract.layout import DIGEST_BYTES
from extract.source import Item, read_item
from extract.store import Block, Failure


@dataclass
class Clock:
    """Seconds spent on each step; read and decode run in threads beside the others."""

    start: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    trunk: float = 0.0
    write: float = 0.0


class Pixels(NamedTuple):
    """One picture, decoded or not: ``pixels`` is None where ``reason`` says why."""

    row: int
    pixels: np.ndarray | None
    reason: str
    digest: bytes
    seconds: tuple[float, float]


def stream_features(
    items: Sequence[Item],
    rows: np.ndarray,
    engine: Engine,
    workers: int,
    clock: Clock | None = None,
) -> Iterator[Block]:
    """Decode pictures in threads ahead of the trunk and yield their features.

    Memory does not depend on the number of items: a bounded window of pictures is under way.

    Args:
        items: The pictures.
        rows: Which of them to compute, as indices into ``items``.
        engine: The trunk.
        workers: Threads that read and decode.
        clock: Where the seconds are added up.

    Yields:
        Blocks of finished rows. A picture that cannot be read is in ``failed``, never in ``rows``.

    Raises:
        EngineError: The trunk fails, or a feature is not finite in the engine's type.
    """
    clock = clock or Clock()
    failed: list[Failure] = []
    batches = _batches(items, rows, engine, workers, failed, clock)
    began = time.monotonic()
    waited = clock.wait
    for (done, digests), features in engine.run(batches):
        clock.trunk += time.monotonic() - began - (clock.wait - waited)
        _check_finite(items, done, features, engine)
        yield Block(done, features, digests, _drain(failed))
        began, waited = time.monotonic(), clock.wait
    if failed:
        none = np.empty(0, np.int64)
        yield Block(none, {}, np.empty((0, DIGEST_BYTES), np.uint8), _drain(failed))


def digest_content(content: bytes) -> bytes:
    """Return the BLAKE2b-128 digest of a file's content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _batches(
    items: Sequence[Item],
    rows: np.ndarray,
    engine: Engine,
    workers: int,
    failed: list[Failure],
    clock: Clock,
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
    """Gather decoded pictures to batches, tagged with their rows and digests."""
    batch: list[Pixels] = []
    window = 2 * engine.batch_size + workers
    for picture in decode_ahead(items, rows, engine.spec, workers, window, clock):
        if picture.pixels is None:
            failed.append(Failure(picture.row, picture.reason, picture.digest))
            continue
        batch.append(picture)
        if len(batch) == engine.batch_size:
            yield _stack(batch)
            batch = []
    if batch:
        yield _stack(batch)


def _stack(batch: list[Pixels]) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    rows = np.array([picture.row for picture in batch], np.int64)
    digests = np.frombuffer(b"".join(p.digest for p in batch), np.uint8)
    tag = (rows, digests.reshape(-1, DIGEST_BYTES))
    return tag, np.stack([p.pixels for p in batch if p.pixels is not None])


def decode_ahead(
    items: Sequence[Item],
    rows: np.ndarray,
    spec: TrunkSpec,
    workers: int,
    window: int,
    clock: Clock,
) -> Iterator[Pixels]:
    """Decode in threads, in order, never more than ``window`` pictures ahead."""
    under_way: deque[Future[Pixels]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for row in rows:
                under_way.append(pool.submit(_load, items, int(row), spec))
                if len(under_way) >= window:
                    yield _take(under_way, clock)
            while under_way:
                yield _take(under_way, clock)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _take(under_way: deque[Future[Pixels]], clock: Clock) -> Pixels:
    began = time.monotonic()
    picture = under_way.popleft().result()
    clock.wait += time.monotonic() - began
    clock.read += picture.seconds[0]
    clock.decode += picture.seconds[1]
    return picture


def _load(items: Sequence[Item], row: int, spec: TrunkSpec) -> Pixels:
    """Read and decode one picture; what is wrong with it becomes the reason."""
    began = time.monotonic()
    try:
        content = read_item(items[row])
    except ImageError as error:
        return Pixels(row, None, str(error), bytes(DIGEST_BYTES), (time.monotonic() - began, 0.0))
    read = time.monotonic()
    digest = digest_content(content)
    try:
        pixels = decode(content, spec.image_size, spec.resize, spec.interpolation)
    except ImageError as error:
        return Pixels(row, None, str(error), digest, (read - began, time.monotonic() - read))
    return Pixels(row, pixels, "", digest, (read - began, time.monotonic() - read))


def _drain(failed: list[Failure]) -> list[Failure]:
    taken = list(failed)
    failed.clear()
    return taken


def _check_finite(
    items: Sequence[Item], rows: np.ndarray, features: dict[str, np.ndarray], engine: Engine
) -> None:
    for layer, values in features.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            key = items[int(rows[np.flatnonzero(~finite)[0]])].key
            do = "use --dtype float32" if engine.dtype == "float16" else "check the weights"
            raise EngineError(
                f"{key}: layer {layer} gives a value that {engine.dtype} cannot hold; {do}"
            )
