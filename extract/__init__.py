"""Stage one: run a frozen trunk once over a set of images and keep its features in HDF5.

The public names are loaded when they are first used, so that ``--help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

from extract.public import load_late

if TYPE_CHECKING:
    from extract.api import export_features as export_features
    from extract.api import extract_features as extract_features
    from extract.api import list_layers as list_layers
    from extract.api import list_trunks as list_trunks
    from extract.api import write_features as write_features
    from extract.core.config import ExtractConfig as ExtractConfig
    from extract.core.config import TrunkSpec as TrunkSpec
    from extract.core.errors import EngineError as EngineError
    from extract.core.errors import HeadError as HeadError
    from extract.core.errors import HeadstartError as HeadstartError
    from extract.core.errors import ImageError as ImageError
    from extract.core.errors import SettingError as SettingError
    from extract.core.errors import SourceError as SourceError
    from extract.core.errors import SplitError as SplitError
    from extract.core.errors import StoreError as StoreError
    from extract.core.errors import TrunkError as TrunkError
    from extract.core.views import ViewSpec as ViewSpec
    from extract.gallery.contact_sheet import show as show
    from extract.pipeline.run import Summary as Summary
    from extract.similar_images import find_near_duplicates as find_near_duplicates
    from extract.similar_images import find_outliers as find_outliers
    from extract.similar_images import find_similar as find_similar
    from extract.similarity.near_duplicates import NearDuplicates as NearDuplicates
    from extract.similarity.similar import Outliers as Outliers
    from extract.similarity.similar import SimilarImages as SimilarImages
    from extract.store.open import open_store as open_store

_PUBLIC = {
    "extract.api": (
        *("export_features", "extract_features", "list_layers", "list_trunks", "write_features"),
    ),
    "extract.core.config": ("ExtractConfig", "TrunkSpec"),
    "extract.core.errors": (
        *("EngineError", "HeadError", "HeadstartError", "ImageError", "SettingError"),
        *("SourceError", "SplitError", "StoreError", "TrunkError"),
    ),
    "extract.core.views": ("ViewSpec",),
    "extract.similar_images": ("find_near_duplicates", "find_outliers", "find_similar"),
    "extract.gallery.contact_sheet": ("show",),
    "extract.pipeline.run": ("Summary",),
    "extract.similarity.near_duplicates": ("NearDuplicates",),
    "extract.similarity.similar": ("Outliers", "SimilarImages"),
    "extract.store.open": ("open_store",),
}


def __getattr__(name: str) -> Any:
    return load_late("extract", _PUBLIC, name)


def __dir__() -> list[str]:
    return sorted(name for names in _PUBLIC.values() for name in names)
