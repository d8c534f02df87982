"""The trunk that made the features of a head or a dataset, opened again and compared by digest."""

from collections.abc import Callable
from typing import Any, TypeVar

from classify.data.dataset import Dataset
from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import PathLike
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError
from extract.engines import select
from extract.engines.base import Engine
from extract.similarity import recorded_trunk
from extract.similarity.recorded_trunk import Recorded

_Opened = TypeVar("_Opened", bound=Any)


def open_engine(
    head: TrainedHead,
    weights: PathLike | None = None,
    batch_size: int | None = None,
    images: int | None = None,
) -> Engine:
    """Open an engine with the trunk, the precision and the types that a head was trained on.

    Args:
        head: The trained head.
        weights: Where the weights of the trunk, or its ``.keras`` file, are now; None is the
            recorded place.
        batch_size: Images in one call; None chooses from the device's memory.
        images: How many images there are: no batch is larger. None is any number.

    Raises:
        HeadError: The weights are missing, or are not those that the head was trained on.
        TrunkError: The trunk cannot be built.
    """
    if not head.trunk.trunk:
        found = "the head takes features of another program, and SOURCE holds images"
        expected = "expected a file of features (.npz, .npy, .h5, .parquet, .arrow, .csv)"
        raise HeadError(f"{found}; {expected}; compute them as for its training")
    settings = head.dtype, batch_size, "auto", head.precision, head.calibration_sha256, images
    return reopen(head, weights, lambda spec: select.open_engine(spec, *settings))


def reopen(
    made_by: Dataset | TrainedHead, weights: PathLike | None, build: Callable[[TrunkSpec], _Opened]
) -> _Opened:
    """Build something with the recorded trunk; raise HeadError unless its weights are the same."""
    remedy = "put it back, or extract again"
    if isinstance(made_by, TrainedHead):
        remedy = "put it back, or say where it is now with predict-images --weights FILE"
    recorded = Recorded(made_by.trunk, made_by.weights_sha256, remedy, HeadError)
    return recorded_trunk.reopen(recorded, weights, build)
