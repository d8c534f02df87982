"""Stage two: train heads on cached features, and use them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.data.dataset import load_dataset
    from classify.search.search import sweep

__all__ = ["load_dataset", "sweep"]


def __getattr__(name: str) -> Any:
    """Load the public functions when they are asked for: the commands' help needs none of them."""
    if name == "load_dataset":
        from classify.data.dataset import load_dataset

        return load_dataset
    if name == "sweep":
        from classify.search.search import sweep

        return sweep
    raise AttributeError(f"module 'classify' has no attribute {name!r}")
