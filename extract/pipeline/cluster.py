"""The same loop on a Ray cluster: workers decode and run the trunk, this process alone writes.

Ray Data spreads the tasks, begins those again whose worker or node has died, and holds them back
while the writer is behind.
"""

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from extract.core.config import ExtractConfig
from extract.core.errors import EngineError
from extract.core.row_block import RowBlock
from extract.engines.base import Engine
from extract.engines.snapshot import take_snapshot
from extract.images.item import Item, Read
from extract.pipeline.cluster_worker import _COLUMNS, _NAMES, Task, TaskResult, WorkerInput, _work
from extract.pipeline.stream import Timings
from extract.store.open import ShardedStore, Store
from extract.store.shards import Shard

# Batches of a task: what is done in vain when a worker dies, against the start and the end of a
# task, where decoding and trunk do not overlap.
TASK_BATCHES = 32
# Tasks that are handed to Ray at a time, so that its memory does not grow with the source; a task
# that fills a shard has as many images as forty others.
PORTION_TASKS = 4096
PORTION_SHARDS = 1024
# Times that a task is begun again: an image that kills its worker must not go round for ever.
MOST_RETRIES = 8


def stream_on_cluster(
    items: Sequence[Item],
    rows: np.ndarray,
    engine: Engine,
    config: ExtractConfig,
    clock: Timings,
    store: Store,
) -> Generator[RowBlock, None, None]:
    """Do on a cluster what ``stream_features`` does here.

    Args:
        items: The images; workers read them under the same paths.
        rows: Which of them to compute, as indices into ``items``.
        engine: The trunk; workers run the same one, in batches of the same size.
        config: ``cluster`` says where, ``workers`` how many processors a task takes.
        clock: Where the seconds are added up; ``trunk`` is what was waited for the cluster.
        store: Where the rows go. Shards are written by the workers.

    Yields:
        Blocks of finished rows, in any order; without features where they are written already.

    Raises:
        EngineError: The cluster cannot be reached, or the trunk cannot be run there.
    """
    if not len(rows):
        return
    began, views = time.monotonic(), store.view_spec
    shards = store.shards if isinstance(store, ShardedStore) else ()
    reads = list(dict.fromkeys(items[row].read for row in rows))
    with _connected(config.cluster) as ray:
        resources = _choose_resources(ray.nodes(), engine, config)
        parcel = take_snapshot(engine, items[rows[0]])
        work = ray.put(
            WorkerInput(
                parcel,
                views,
                reads,
                resources[0],
                [s._replace(path=s.path.absolute()) for s in shards],
            )
        )
        size = engine.batch_size * max(1, TASK_BATCHES // (1 + views.views))
        tasks = _plan(items, _cut(rows, size, shards), reads)
        most = PORTION_SHARDS if shards else PORTION_TASKS
        portions = iter(lambda: list(islice(tasks, most)), [])
        for outcome in _run(ray, portions, work, resources):
            if outcome.error:
                raise EngineError(outcome.error)
            waited = time.monotonic() - began
            if not clock.trunk:
                # The first task cannot have begun before its worker had the engine.
                start = max(0.0, waited - outcome.clock.wait - outcome.clock.trunk)
                clock.start += start
                waited -= start
            clock.trunk += waited
            clock.read += outcome.clock.read
            clock.decode += outcome.clock.decode
            yield from outcome.blocks
            began = time.monotonic()


def check_ray() -> None:
    """Raise EngineError where Ray is not installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise EngineError('cluster: needs Ray; pip install "headstart[ray]"')


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Join a cluster, and leave it; or start one here, and end it."""
    ray = _load_ray(address)
    if ray.is_initialized():
        raise EngineError(f"cluster {address}: Ray is in use in this process; ray.shutdown() first")
    try:
        _join(ray, address)
        # Ray prints there when a node dies; what is there is for programs.
        with redirect_stdout(sys.stderr):
            yield ray
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours, in a worker
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"cluster {address}: {_first_line(error)}; expected workers that stay alive; the same "
            "command goes on"
        ) from error
    finally:
        ray.shutdown()


def _load_ray(address: str) -> Any:
    """Import Ray without its chatter, and without its reports to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        # Ray's name for its switch between every network and this machine alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:  # it is there, but not whole
        raise EngineError(f'cluster: {error}; pip install "headstart[ray]"') from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _join(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    quiet = {"include_dashboard": False} if address == "local" else {}
    try:
        if host:
            # Ray itself looks for minutes for what is not there.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **quiet)
    except Exception as error:  # of many kinds, from a refused connection to another version
        raise EngineError(
            f"cluster {address}: {_first_line(error)}; expected a Ray that runs, on this machine "
            "too, started by `ray start`; look after address, token and versions"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _choose_resources(
    nodes: Sequence[dict[str, Any]], engine: Engine, config: ExtractConfig
) -> tuple[int, int]:
    """Return the processors and GPUs of a task: of processors no more than the smallest node has.

    A GPU is for Keras, where nodes have any.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpu = [found for found in alive if engine.name == "keras" and found.get("GPU", 0) >= 1]
    counts = [int(found.get("CPU", 0)) for found in with_gpu or alive]
    usable = [count for count in counts if count]
    if not usable:
        raise EngineError(
            f"cluster {config.cluster}: found {len(alive)} nodes without processors; expected one "
            "with some; start it with `ray start --num-cpus N`"
        )
    return min(config.workers, *usable), min(1, len(with_gpu))


def _cut(rows: np.ndarray, size: int, shards: Sequence[Shard]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows of each task, and the number of the shard that they go into, -1 for none."""
    if not shards:
        yield from ((rows[start : start + size], -1) for start in range(0, len(rows), size))
    for number, shard in enumerate(shards):
        start, stop = np.searchsorted(rows, [shard.rows.start, shard.rows.stop])
        if start < stop:
            yield rows[start:stop], number


def _plan(
    items: Sequence[Item], parts: Iterable[tuple[np.ndarray, int]], reads: list[Read]
) -> Iterator[Task]:
    """Yield tasks, each a table of some images."""
    places = {read: place for place, read in enumerate(reads)}
    for rows, shard in parts:
        part = [(row, items[row]) for row in rows.tolist()]
        table = [
            (
                row,
                item.key.encode(*_NAMES),
                item.path.encode(*_NAMES),
                item.split,
                places[item.read],
            )
            for row, item in part
        ]
        columns = dict(zip(_COLUMNS, map(list, zip(*table, strict=True)), strict=True))
        yield {**columns, "shard": [shard]}


def _run(
    ray: Any, portions: Iterable[list[Task]], work: Any, resources: tuple[int, int]
) -> Iterator[TaskResult]:
    """Give out the outcomes of tasks, in any order."""
    for portion in portions:
        rows = ray.data.from_items(portion, override_num_blocks=len(portion))
        with warnings.catch_warnings():
            # Of the limit of retries, for which Ray has no other name yet.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            outcomes = rows.map(
                _work,
                fn_args=(work,),
                num_cpus=resources[0],
                num_gpus=resources[1],
                # Otherwise a process that has used a GPU ends with its task, and its engine too.
                max_calls=0,
                max_retries=MOST_RETRIES,
            )
        for row in outcomes.iter_rows():
            yield row["outcome"]
