"""The part of a run on a Ray cluster that runs in the workers."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from extract.core.config import ViewSpec
from extract.core.errors import HeadstartError, StoreError
from extract.core.row_block import DONE, RowBlock
from extract.engines.base import Engine
from extract.engines.snapshot import Snapshot, open_snapshot
from extract.images.digests import DIGEST_BYTES
from extract.images.item import Item, Read
from extract.pipeline.stream import Timings, stream_features
from extract.store.open import localise
from extract.store.shards import Shard, open_shard
from extract.store.validate import is_in_use

# What a worker whose command has died may take to let go of a shard.
LOCK_SECONDS = 60.0

_COLUMNS = ("row", "key", "path", "split", "read")

_NO_DIGESTS = np.empty((0, DIGEST_BYTES), np.uint8)

# A name need not be valid UTF-8.
_NAMES = ("utf-8", "surrogatepass")

# Columns of images; and of one row, the number of the shard that they go into, or -1.
Task = dict[str, list[Any]]


class WorkerInput(NamedTuple):
    """What each worker is given, once.

    ``reads`` are the ways in which images are read: one may hold the index of a whole archive.
    ``shards`` are where workers write; none where blocks come back.
    """

    engine: Snapshot
    views: ViewSpec
    reads: list[Read]
    workers: int
    shards: Sequence[Shard]


class TaskResult(NamedTuple):
    """What comes back of a task: blocks and the seconds they took, or why there are none."""

    blocks: list[RowBlock]
    clock: Timings
    error: str = ""


def _work(task: Task, work: Any) -> dict[str, TaskResult]:
    """Compute the features of a task, in a worker."""
    clock = Timings()
    try:
        given, engine = _open(work)
        items = {
            row: Item(key.decode(*_NAMES), path.decode(*_NAMES), -1, split, "", given.reads[read])
            for row, key, path, split, read in zip(*(task[name] for name in _COLUMNS), strict=True)
        }
        rows, shard = np.array(task["row"], np.int64), task["shard"][0]

        def stream(rows: np.ndarray) -> Iterator[RowBlock]:
            return stream_features(items, rows, engine, given.workers, clock, given.views)

        blocks = list(stream(rows)) if shard < 0 else [_fill(given.shards[shard], rows, stream)]
    except StoreError as error:
        return {"outcome": TaskResult([], clock, f"{platform.node()}: {error}")}
    except HeadstartError as error:
        return {"outcome": TaskResult([], clock, str(error))}
    return {"outcome": TaskResult(blocks, clock)}


def _fill(
    shard: Shard, rows: np.ndarray, stream: Callable[[np.ndarray], Iterator[RowBlock]]
) -> RowBlock:
    """Write into a shard what a worker that died has not; return which rows are done or failed."""
    until = time.monotonic() + LOCK_SECONDS
    while is_in_use(shard.path) and time.monotonic() < until:
        time.sleep(0.5)
    with open_shard(shard, write=True) as store:
        start = shard.rows.start
        for block in stream(rows[store.status[rows - start] != DONE]):
            store.write(localise(block, shard))
        store.commit()
        failed = [failure._replace(row=failure.row + start) for failure in store.failures()]
    own = np.array([failure.row for failure in failed], np.int64)
    return RowBlock(np.setdiff1d(rows, own), {}, _NO_DIGESTS, failed)


@lru_cache(maxsize=1)
def _open(work: Any) -> tuple[WorkerInput, Engine]:
    """Open the engine, once in a worker's life."""
    import ray

    given: WorkerInput = ray.get(work)
    return given, open_snapshot(given.engine, given.workers)
