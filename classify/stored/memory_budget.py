"""The memory that training may use, and the features that fit into it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from extract.engines.memory import available_memory

# Training holds the rows, the rows of one split, and a transformed or float64 copy of them.
COPIES = 4


class MemoryBudget(NamedTuple):
    """The parts of a layer, or of several joined, that fit into memory with training's copies.

    Attributes:
        layer: Name of the layer; several are joined by ``+``.
        shape: Shape of one row.
        holds_features: Whether the plain rows fit; otherwise they stay in the file.
        holds_views: Whether there are views and they fit as well.
        size: Bytes of the plain rows.
        free: Bytes that training may use; 0 where the features were read earlier.
    """

    layer: str
    shape: tuple[int, ...]
    holds_features: bool
    holds_views: bool
    size: int = 0
    free: int = 0


def plan_memory(
    layer: str, shapes: Sequence[tuple[int, ...]], views: int, rows: int, memory: float | None
) -> MemoryBudget:
    """Compare the memory that features need with the memory that is free.

    Args:
        layer: Name of the layer; several are joined by ``+``.
        shapes: Shape of one row of each of them.
        views: Augmented views of a row; 0 without.
        rows: The number of rows that are used.
        memory: In GB (1e9 bytes); None asks the system for the free memory.
    """
    shape = shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)
    free = free_memory() if memory is None else int(memory * 1e9)
    size = 4 * rows * math.prod(shape)
    holds_views = views > 0 and COPIES * size * (1 + views) <= free
    return MemoryBudget(layer, shape, COPIES * size <= free, holds_views, size, free)


def free_memory() -> int:
    """Return the bytes that this process may still allocate.

    The limits are the machine's free memory, the control group (a container or a batch job) and
    ``ulimit``.
    """
    import psutil

    process, limits = psutil.Process(), [available_memory()]
    used = process.memory_info()
    for name, kind in (("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")):
        limit = process.rlimit(getattr(psutil, name))[0] if hasattr(psutil, name) else -1
        if limit >= 0:
            limits.append(limit - getattr(used, kind))
    return int(max(0, min(limits)))
