"""The memory and the cores that this process may use.

The system kills a process that takes more memory, without a message.
"""

import os
from contextlib import suppress
from pathlib import Path

from extract.core.errors import EngineError

# Bytes per value of an image: two batches in the queue and one in preparation, as uint8, and one in
# the trunk, as float32. The trunk's layers take more.
_BYTES = 2 + 1 + 4


def available_memory() -> int:
    """Return the free bytes of the machine, or of this process's control group if it has fewer."""
    import psutil

    free = psutil.virtual_memory().available
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups 2 and 1
        with suppress(OSError, ValueError):  # no such group, or "max"
            limit = int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
            free = min(free, limit - psutil.Process().memory_info().rss)
    return int(max(0, free))


def available_cores() -> int:
    """Return the cores of this process, or of its control group if it has fewer."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such group, or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def check_batch_memory(batch_size: int, image_size: tuple[int, int]) -> None:
    """Raise EngineError if memory cannot hold batches of this size.

    Args:
        batch_size: Images in one call of the trunk.
        image_size: Height and width of each.
    """
    needed, free = batch_size * image_size[0] * image_size[1] * 3 * _BYTES, available_memory()
    if needed > free:
        memory = f"{needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} free"
        if batch_size == 1:
            where, problem = f"{image_size[1]} x {image_size[0]} pixels", "one image alone takes"
            raise EngineError(f"{where}: {problem} {memory}; use a smaller --image-size")
        where, problem = f"batch size {batch_size}", "its images alone take"
        raise EngineError(f"{where}: {problem} {memory}; use a smaller --batch-size")
