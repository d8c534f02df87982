"""The same loop on a Ray cluster: workers decode and run the trunk.

Ray Data spreads the tasks, restarts those whose worker or node has died, and holds them back while
the driver is behind. Without shards only the driver writes.
"""

import logging
import os
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.config import ExtractConfig
from extract.core.errors import EngineError, first_line
from extract.core.row_block import RowBlock
from extract.engines.base import Engine
from extract.engines.snapshot import take_snapshot
from extract.images.item import Item, Read
from extract.pipeline.cluster_worker import Task, TaskResult, WorkerInput, run_task
from extract.pipeline.stream import Timings
from extract.store.open import Store
from extract.store.shards import Shard

# Batches of a task. A longer task loses more when a worker dies; a shorter one spends more of its
# time at its start and its end, where decoding and trunk do not overlap.
TASK_BATCHES = 32
# Tasks given to Ray at a time, so that its memory does not grow with the source; a task that fills
# a shard has as many images as forty others.
PORTION_TASKS = 4096
PORTION_SHARDS = 1024
# Restarts of a task: an image that kills its worker must not do so for ever.
MOST_RETRIES = 8


def stream_on_cluster(
    items: Sequence[Item],
    rows: np.ndarray,
    engine: Engine,
    config: ExtractConfig,
    clock: Timings,
    store: Store,
) -> Generator[RowBlock, None, None]:
    """Do on a cluster what ``stream_features`` does on this machine.

    Args:
        items: The images; workers read them under the same paths.
        rows: The rows to compute, as indices into ``items``.
        engine: The trunk; workers run the same one, in batches of the same size.
        config: ``cluster`` says where, ``workers`` how many processors a task takes.
        clock: Receives the seconds; ``trunk`` is the time spent waiting for the cluster.
        store: Its ``worker_shards`` are written by the workers.

    Yields:
        Blocks of finished rows, in any order; without features if workers have written them.

    Raises:
        EngineError: The cluster cannot be reached, or the trunk cannot be run there.
    """
    if not len(rows):
        return
    began = time.monotonic()
    reads = list(dict.fromkeys(items[row].read for row in rows))
    size = engine.batch_size * max(1, TASK_BATCHES // (1 + store.view_spec.views))
    tasks = _plan(items, rows, size, store.worker_shards, reads)
    portion = PORTION_SHARDS if store.worker_shards else PORTION_TASKS
    with _connected(config.cluster) as ray:
        cpus, gpus = _choose_resources(ray.nodes(), engine, config)
        snapshot = take_snapshot(engine, items[rows[0]])
        limits = config.max_image_bytes, config.max_image_pixels
        given = ray.put(WorkerInput(snapshot, store.view_spec, reads, cpus, limits))
        for result in _run(ray, tasks, portion, fn_args=(given,), num_cpus=cpus, num_gpus=gpus):
            if result.error:
                raise EngineError(result.error)
            _add_up(clock, result.clock, time.monotonic() - began)
            yield from result.blocks
            began = time.monotonic()


def _add_up(clock: Timings, task: Timings, waited: float) -> None:
    """Add the seconds of a task, and those that the driver waited for it."""
    if not clock.trunk:
        # The first task cannot have begun before its worker had the engine.
        start = max(0.0, waited - task.wait - task.trunk)
        clock.start += start
        waited -= start
    clock.trunk += waited
    clock.read += task.read
    clock.decode += task.decode


def check_ray() -> None:
    """Raise EngineError if Ray is not installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise EngineError('cluster: needs Ray; pip install "headstart[ray]"')


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Join a cluster and leave it, or start one on this machine and stop it."""
    ray = _load_ray(address)
    if ray.is_initialized():
        raise EngineError(f"cluster {address}: Ray is in use in this process; ray.shutdown() first")
    folder = Path(tempfile.mkdtemp(prefix="hs-")) if address == "local" else None
    try:
        _join(ray, address, folder)
        # Ray prints to stdout when a node dies, but stdout carries results only.
        with redirect_stdout(sys.stderr):
            yield ray
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, in a worker
    except ray.exceptions.RayError as error:
        problem = f"{first_line(error)}; expected workers that stay alive"
        raise EngineError(f"cluster {address}: {problem}; the same command goes on") from error
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _load_ray(address: str) -> Any:
    """Import Ray without its messages and its usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        # Ray's name for its switch between every network and this machine alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:  # the installation is broken
        raise EngineError(f'cluster: {error}; pip install "headstart[ray]"') from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _join(ray: Any, address: str, folder: Path | None) -> None:
    host, _, port = address.rpartition(":")
    quiet: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    # The names of its sockets have 107 bytes, and Ray adds 60.
    if folder and len(os.fsencode(folder)) <= 40:
        quiet["_temp_dir"] = str(folder / "r")  # Ray opens this one to everybody
    try:
        if host:
            # Ray itself tries for minutes to reach a missing server.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **quiet)
    except Exception as error:  # of many kinds, from a refused connection to another version
        expected = (
            "expected a Ray that runs, on this machine too; check address, token and versions"
        )
        raise EngineError(f"cluster {address}: {first_line(error)}; {expected}") from error


def _choose_resources(nodes: list[Any], engine: Engine, config: ExtractConfig) -> tuple[int, int]:
    """Return the processors of a task, at most those of the smallest node, and its GPUs.

    Keras takes a GPU if nodes have any.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpu = [node for node in alive if engine.name == "keras" and node.get("GPU", 0) >= 1]
    counts = [int(node.get("CPU", 0)) for node in with_gpu or alive]
    if not any(counts):
        found = f"found {len(alive)} nodes without processors"
        raise EngineError(f"cluster {config.cluster}: {found}; use `ray start --num-cpus N`")
    return min(config.workers, *filter(None, counts)), min(1, len(with_gpu))


def _plan(
    items: Sequence[Item], rows: np.ndarray, size: int, shards: Sequence[Shard], reads: list[Read]
) -> Iterator[Task]:
    """Yield tasks, each a table of some images: those of a shard, if there are any, or ``size``."""
    cuts = np.searchsorted(rows, [shard.rows.start for shard in shards[1:]])
    parts = np.split(rows, cuts if shards else range(size, len(rows), size))
    numbers = {read: number for number, read in enumerate(reads)}
    for part, shard in zip(parts, shards or repeat(None), strict=False):
        images = [(row, items[row]) for row in part.tolist()]
        table = [(row, item.key, item.path, item.split, numbers[item.read]) for row, item in images]
        if table:
            yield Task(table, shard and shard._replace(path=shard.path.absolute()))


def _run(ray: Any, tasks: Iterator[Task], portion: int, **options: Any) -> Iterator[TaskResult]:
    """Yield the results of tasks, in any order."""
    while some := [{"task": task} for task in islice(tasks, portion)]:
        rows = ray.data.from_items(some, override_num_blocks=len(some))
        with warnings.catch_warnings():
            # The limit of retries has no other name in Ray yet.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            # Without max_calls=0 a process that has used a GPU ends with its task.
            results = rows.map(run_task, max_calls=0, max_retries=MOST_RETRIES, **options)
        for row in results.iter_rows():
            yield row["result"]
