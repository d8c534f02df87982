"""Stage two: train heads on cached features, and use them.

The public names are loaded when they are first used, so that ``--help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.data.dataset import Dataset, load_dataset
    from classify.inference.bundle import TrainedHead, load_head
    from classify.inference.export import export_head
    from classify.inference.predict import Prediction, Predictions, predict_images
    from classify.search.leaderboard import Entry, Result
    from classify.settings.head_spec import HeadSpec
    from classify.train import sweep, train_heads

_LATE = {
    "Dataset": "classify.data.dataset",
    "Entry": "classify.search.leaderboard",
    "HeadSpec": "classify.settings.head_spec",
    "Prediction": "classify.inference.predict",
    "Predictions": "classify.inference.predict",
    "Result": "classify.search.leaderboard",
    "TrainedHead": "classify.inference.bundle",
    "export_head": "classify.inference.export",
    "load_dataset": "classify.data.dataset",
    "load_head": "classify.inference.bundle",
    "predict_images": "classify.inference.predict",
    "sweep": "classify.train",
    "train_heads": "classify.train",
}
__all__ = [
    "Dataset",
    "Entry",
    "HeadSpec",
    "Prediction",
    "Predictions",
    "Result",
    "TrainedHead",
    "export_head",
    "load_dataset",
    "load_head",
    "predict_images",
    "sweep",
    "train_heads",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'classify' has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return __all__
