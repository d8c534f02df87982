"""The trunk that made the features of a head or a dataset: opened again, or compared."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from classify.data.dataset import Dataset
from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import PathLike
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import HeadError, quoted
from extract.engines import select
from extract.engines.base import Engine
from extract.pipeline.compare import find_differences, read_recipe
from extract.similarity import recorded_trunk
from extract.similarity.recorded_trunk import Recorded
from extract.store.open import Store

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


def check_recipe(store: Store, model: TrainedHead, head: PathLike) -> list[str]:
    """Return the layers that a head takes from a file of features.

    Raises:
        HeadError: The features were computed otherwise than those that the head was trained on.
    """
    known, where = store.shapes, quoted(str(store.path))
    layers = [model.layer] if model.layer in known else model.layer.split("+")
    ours, theirs = bool(store.spec.trunk), bool(model.trunk.trunk)
    if not (ours and theirs) and len(known) == 1:
        layers = list(known)  # another program may name it otherwise
    expected = f"expected features as {quoted(str(head))} was trained on"
    remedy = "label another file, or train a head on this one"
    if ours and theirs and (differences := _differences(store, model)):
        raise HeadError(f"{where}: made with {', '.join(differences)}; {expected}; {remedy}")
    if lacking := [name for name in layers if name not in known]:
        found = f"no layer {quoted(lacking[0])}, only {', '.join(map(quoted, known))}"
        raise HeadError(f"{where}: {found}; {expected}; {remedy}")
    shape = joined_shape(store, layers)
    if shape != model.shape:
        raise HeadError(f"{where}: shape {shape}; {expected}, {model.shape}; {remedy}")
    if ours != theirs:
        other = "the head was" if ours else f"{where} was"
        log.warning("%s not made by extract-features' trunk; both must hold the same", other)
    elif model.dtype == "float32" and store.dtype == "float16":
        log.info("%s has float16 features: scores differ in the third digit", where)
    return layers


def joined_shape(store: Store, layers: Sequence[str]) -> tuple[int, ...]:
    """Return the shape of a row of one layer, or of several joined."""
    shapes = [store.shapes[name] for name in layers]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


def _differences(store: Store, model: TrainedHead) -> list[str]:
    """Name the settings in which a store differs from what a head was trained on."""
    wanted = model.trunk.to_dict() | {"precision": model.precision}
    wanted["weights_sha256"] = model.weights_sha256
    del wanted["layer"]  # the file may hold more
    found = find_differences(read_recipe(store.attributes), wanted)
    calibration = store.attributes.get("calibration_sha256", "")
    return found + ["other calibration images"] * (calibration != model.calibration_sha256)
