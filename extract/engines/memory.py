"""How much memory there is: a system ends a program that takes more, without a word."""

from pathlib import Path

from extract.core.errors import EngineError

# Bytes that a value of an image takes: in two batches that wait, in one that is put together, and
# as float32 in the trunk, whose own layers take more.
_BYTES = 2 + 1 + 4


def available_memory() -> int:
    """Return the bytes that the machine, or the control group of this process, has left."""
    import psutil

    found = [psutil.virtual_memory().available]
    if group := _group_limit():
        found.append(group - psutil.Process().memory_info().rss)
    return int(max(0, min(found)))


def check_batch_memory(batch_size: int, image_size: tuple[int, int]) -> None:
    """Raise EngineError for a batch that memory cannot hold.

    Args:
        batch_size: Images in one call of the trunk.
        image_size: Height and width of each.
    """
    needed, free = batch_size * image_size[0] * image_size[1] * 3 * _BYTES, available_memory()
    if needed > free:
        raise EngineError(
            f"batch size {batch_size}: its images alone take {needed / 1e9:.3g} GB of memory, of "
            f"which {free / 1e9:.3g} GB are free; use a smaller --batch-size"
        )


def _group_limit() -> int | None:
    """Return the bytes that the control group gives, or None."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return None
