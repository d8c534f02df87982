"""The part of a run on a Ray cluster that runs in the workers."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from extract.core.errors import EngineError, HeadstartError
from extract.core.row_block import DONE, FAILED, Failure, RowBlock
from extract.core.views import ViewSpec
from extract.engines.base import Engine
from extract.engines.snapshot import Snapshot, open_snapshot
from extract.images.item import Item, Read
from extract.limits.image_size import set_limits
from extract.pipeline.stream import Timings, stream_features
from extract.store.shards import Shard, open_shard
from extract.store.validate import is_in_use

# Seconds that a worker may keep a shard locked after its driver has died.
LOCK_SECONDS = 60.0


class WorkerInput(NamedTuple):
    """What each worker gets once; a way to read images may hold the index of an archive."""

    engine: Snapshot
    views: ViewSpec
    reads: Sequence[Read]
    workers: int
    limits: tuple[int, int]


@dataclass
class Task:
    """Some images: row, key, path, split and number in ``reads`` of each; and where they go.

    Without a shard their features are returned.
    """

    images: list[tuple[int, str, str, int, int]]
    shard: Shard | None


@dataclass
class TaskResult:
    """The blocks of a task and the seconds they took, or why there are none."""

    blocks: list[RowBlock] = field(default_factory=list)
    clock: Timings = field(default_factory=Timings)
    error: str = ""


def run_task(row: dict[str, Task], given: Any) -> dict[str, TaskResult]:
    """Compute the features of a task, in a worker."""
    result, task = TaskResult(), row["task"]
    start = task.shard.rows.start if task.shard else 0
    try:
        (_, views, reads, workers, _), engine = _open(given)
        items = {
            row - start: Item(key, path, -1, split, "", reads[read])
            for row, key, path, split, read in task.images
        }
        rows = np.array(list(items))
        stream = partial(
            stream_features, items, engine=engine, workers=workers, clock=result.clock, views=views
        )
        result.blocks = [_fill(task.shard, rows, stream)] if task.shard else list(stream(rows))
    except HeadstartError as error:
        # An error of the engine names the node already.
        where = "" if isinstance(error, EngineError) else f"{platform.node()}: "
        result.error = f"{where}{error}"
    return {"result": result}


def _fill(shard: Shard, rows: np.ndarray, stream: Any) -> RowBlock:
    """Write the rows of a shard that are not done yet; return which are done and which failed."""
    until = time.monotonic() + LOCK_SECONDS
    while is_in_use(shard.path) and time.monotonic() < until:
        time.sleep(0.5)
    start, noted = shard.rows.start, []
    with open_shard(shard, write=True) as file:
        for block in stream(rows[file.status[rows] != DONE]):
            file.write(block)
            noted += [(row + start, note) for row, note in block.noted]
        file.commit()
    done = rows[file.status[rows] == DONE]
    failed = [
        Failure(row + start, "", file.digests[row].tobytes())
        for row in rows[file.status[rows] == FAILED].tolist()
    ]
    return RowBlock(done + start, {}, file.digests[done], failed, noted=noted)


@lru_cache(maxsize=1)
def _open(given: Any) -> tuple[WorkerInput, Engine]:
    """Open the engine, once in a worker's life."""
    import ray

    received: WorkerInput = ray.get(given)
    set_limits(*received.limits)
    return received, open_snapshot(received.engine, received.workers)
