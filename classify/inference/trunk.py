"""The trunk that made the features of a head or a dataset, opened again and compared by digest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from classify.data.dataset import Dataset
from classify.inference.bundle import PathLike, TrainedHead
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import HeadError
from extract.engines.base import Engine

_Opened = TypeVar("_Opened", bound=Any)


def open_engine(
    head: TrainedHead, weights: PathLike | None = None, batch_size: int | None = None
) -> Engine:
    """Open an engine with the trunk, the precision and the types that a head was trained on.

    Args:
        head: The trained head.
        weights: Where the weights of the trunk, or its ``.keras`` file, are now; None is the
            recorded place.
        batch_size: Images in one call; None chooses from the device's memory.

    Raises:
        HeadError: The weights are missing, or are not those that the head was trained on.
        TrunkError: The trunk cannot be built.
    """
    from extract.engines import select

    settings = (head.dtype, batch_size, "auto", head.precision, head.calibration_sha256)
    return _open(head, weights, lambda spec: select.open_engine(spec, *settings))


def open_trunk(made_by: Dataset | TrainedHead, weights: PathLike | None = None) -> Any:
    """Build the trunk of a dataset or a head for an export, in float32; see ``open_engine``."""
    from extract.trunks import trunk

    if (made_by.precision, made_by.dtype) != ("float32", "float32"):
        log.warning(
            "export: the model computes in float32; the features were computed in "
            f"{made_by.precision} and stored as {made_by.dtype}, so its scores differ from the "
            "head's by that rounding"
        )
    return _open(made_by, weights, trunk.build_trunk)


def _open(
    made_by: Dataset | TrainedHead, weights: PathLike | None, build: Callable[[TrunkSpec], _Opened]
) -> _Opened:
    field = "trunk" if made_by.trunk.is_file else "weights"
    name = str(weights or getattr(made_by.trunk, field))
    if not weights and name not in ("imagenet", "none") and not Path(name).exists():
        raise HeadError(
            f"{field}: {name} is gone; expected the file that made the features; put it back, or "
            "say where it is now with predict-images --weights FILE"
        )
    moved: dict[str, Any] = {field: name}
    opened = build(replace(made_by.trunk, **moved))
    if opened.weights_sha256 != made_by.weights_sha256:
        raise HeadError(
            f"{field}: {name} has SHA-256 {opened.weights_sha256[:12]}; expected "
            f"{made_by.weights_sha256[:12]}, which made the features; put that file back, name it "
            "with predict-images --weights, or extract and train again"
        )
    return opened
