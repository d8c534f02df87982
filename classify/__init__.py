"""Stage two: train heads on cached features, and use them.

The public names are loaded when they are first used, so that ``--help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

from extract.public import load_late

if TYPE_CHECKING:
    from classify.data.dataset import Dataset as Dataset
    from classify.data.dataset import load_dataset as load_dataset
    from classify.export.export import export_head as export_head
    from classify.inference.bundle import TrainedHead as TrainedHead
    from classify.inference.bundle import load_head as load_head
    from classify.inference.predict import predict_images as predict_images
    from classify.labelling.issues import LabelIssue as LabelIssue
    from classify.labelling.issues import LabelIssues as LabelIssues
    from classify.labelling.issues import find_label_issues as find_label_issues
    from classify.output.predictions import Prediction as Prediction
    from classify.output.predictions import Predictions as Predictions
    from classify.result import Result as Result
    from classify.search.ranking import Entry as Entry
    from classify.settings.head_spec import HeadSpec as HeadSpec
    from classify.train import sweep as sweep
    from classify.train import train_heads as train_heads

_PUBLIC = {
    "classify.data.dataset": ("Dataset", "load_dataset"),
    "classify.inference.bundle": ("TrainedHead", "load_head"),
    "classify.export.export": ("export_head",),
    "classify.inference.predict": ("predict_images",),
    "classify.output.predictions": ("Prediction", "Predictions"),
    "classify.labelling.issues": ("LabelIssue", "LabelIssues", "find_label_issues"),
    "classify.result": ("Result",),
    "classify.search.ranking": ("Entry",),
    "classify.settings.head_spec": ("HeadSpec",),
    "classify.train": ("sweep", "train_heads"),
}


def __getattr__(name: str) -> Any:
    return load_late("classify", _PUBLIC, name)


def __dir__() -> list[str]:
    return sorted(name for names in _PUBLIC.values() for name in names)
