"""Stage one: run a frozen trunk once over a set of images and keep its features in HDF5.

The public names are loaded when they are first used, so that ``--help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from extract.core.config import ExtractConfig, TrunkSpec, ViewSpec
from extract.core.errors import (
    EngineError,
    HeadError,
    HeadstartError,
    ImageError,
    SettingError,
    SourceError,
    SplitError,
    StoreError,
    TrunkError,
)

if TYPE_CHECKING:
    from extract.api import extract_features, list_layers, list_trunks
    from extract.pipeline.run import Summary
    from extract.store.open import open_store

_LATE = {
    "extract_features": "extract.api",
    "list_layers": "extract.api",
    "list_trunks": "extract.api",
    "open_store": "extract.store.open",
    "Summary": "extract.pipeline.run",
}
__all__ = [
    "EngineError",
    "ExtractConfig",
    "HeadError",
    "HeadstartError",
    "ImageError",
    "SettingError",
    "SourceError",
    "SplitError",
    "StoreError",
    "Summary",
    "TrunkError",
    "TrunkSpec",
    "ViewSpec",
    "extract_features",
    "list_layers",
    "list_trunks",
    "open_store",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'extract' has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return __all__
