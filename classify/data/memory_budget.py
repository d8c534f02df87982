"""How much memory there is, and which features it holds while heads are trained."""

import math
from dataclasses import dataclass

from extract.engines.memory import available_memory
from extract.store.open import Store

# Training holds the rows, those of one side, and these transformed or widened.
COPIES = 4


@dataclass(frozen=True)
class MemoryBudget:
    """What memory holds of a layer, or of several joined, beside the copies of training.

    Attributes:
        shape: Of one row.
        rows: How many there are.
        views: Augmented views of one row.
        free: Bytes that may be taken.
    """

    shape: tuple[int, ...]
    rows: int
    views: int
    free: int

    @property
    def size(self) -> int:
        """Bytes of the plain rows as float32."""
        return 4 * self.rows * math.prod(self.shape)

    @property
    def holds_features(self) -> bool:
        """Whether memory holds the plain rows; else they stay in the file."""
        return COPIES * self.size <= self.free

    @property
    def holds_views(self) -> bool:
        """Whether it holds their views as well; there may be none."""
        return self.views > 0 and COPIES * self.size * (1 + self.views) <= self.free


def plan_memory(store: Store, layers: list[str], rows: int, memory: float | None) -> MemoryBudget:
    """Say what memory would hold.

    Args:
        store: The file of features.
        layers: Which are used, joined.
        rows: How many of its rows.
        memory: In GB (1e9 bytes); None asks the system for what is free.
    """
    shapes = [store.shapes[name] for name in layers]
    return MemoryBudget(
        shape=shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),),
        rows=rows,
        views=store.view_spec.views,
        free=free_memory() if memory is None else int(memory * 1e9),
    )


def free_memory() -> int:
    """Return the bytes that this process may still take.

    What the machine has to give bounds it, and so do the limits of its control group (a container
    or a batch job) and of ``ulimit``.
    """
    import psutil

    process, found = psutil.Process(), [available_memory()]
    used = process.memory_info()
    for name, kind in (("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")):
        limit = process.rlimit(getattr(psutil, name))[0] if hasattr(psutil, name) else -1
        if limit >= 0:
            found.append(limit - getattr(used, kind))
    return int(max(0, min(found)))
