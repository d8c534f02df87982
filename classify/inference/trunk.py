"""The trunk that made the features of a head or a dataset: opened again, or compared.

A head on joined layers of several stores has a trunk for each of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from classify.data.dataset import Dataset
from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import PathLike
from classify.stored.parts import MadeBy
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import HeadError, SettingError, quoted
from extract.core.row_block import RowBlock
from extract.engines import select
from extract.engines.base import Engine
from extract.images.digests import DIGEST_BYTES
from extract.images.item import Item
from extract.pipeline.compare import find_differences, read_recipe
from extract.pipeline.stream import Timings, stream_features
from extract.similarity import recorded_trunk
from extract.similarity.recorded_trunk import Recorded
from extract.store.open import Store

# Images whose features of one trunk wait for those of the next one.
_JOINED_IMAGES = 1024
Engines = Engine | Mapping[str, Engine]  # of several stores by name

_Opened = TypeVar("_Opened", bound=Any)


def open_engine(
    head: TrainedHead | MadeBy,
    weights: PathLike | None = None,
    batch_size: int | None = None,
    images: int | None = None,
) -> Engine:
    """Open an engine with the trunk, the precision and the types that a head was trained on.

    Args:
        head: The trained head, or the trunk of one of the stores that it was trained on.
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


def open_engines(
    head: TrainedHead, weights: PathLike | None, batch_size: int | None, images: int | None
) -> Engines:
    """Open the engine of a head or, of one on joined layers of several stores, that of each store.

    Raises:
        SettingError: ``weights`` has a value, and the head has several trunks.
    """
    if not head.joined:
        return open_engine(head, weights, batch_size, images)
    if weights:
        names = ", ".join(quoted(made_by.trunk.trunk) for made_by in head.joined)
        found = f"found one file for several trunks ({names})"
        raise SettingError(f"weights: {found}; put each file back to its place, and leave it out")
    if not all(made_by.trunk.trunk for made_by in head.joined):
        found = f"the head takes {quoted(head.layer)} joined, in part features of another program"
        raise HeadError(f"{found}; expected trunks only; train on files of features of trunks")
    return {made_by.name: open_engine(made_by, None, batch_size, images) for made_by in head.joined}


def stream_engines(
    items: Sequence[Item], engines: Engines, workers: int, timings: Timings | None
) -> Iterator[RowBlock]:
    """Yield the features of images, by layer; of several engines by ``NAME:LAYER``.

    Each engine reads the images by itself, in its own size, some images at a time.
    """
    rows = np.arange(len(items))
    if not isinstance(engines, Mapping):
        yield from stream_features(items, rows, engines, workers, timings)
        return
    for start in range(0, len(items), _JOINED_IMAGES):
        part = rows[start : start + _JOINED_IMAGES]
        blocks = {
            name: list(stream_features(items, part, engine, workers, timings))
            for name, engine in engines.items()
        }
        yield _join_blocks(blocks)


def _join_blocks(blocks: Mapping[str, Sequence[RowBlock]]) -> RowBlock:
    """Join the features of the rows that every engine finished; the others have failed."""
    every = [block for own in blocks.values() for block in own]
    failed = {failure.row: failure for block in every for failure in block.failed}
    features: dict[str, np.ndarray] = {}
    rows, digests = np.empty(0, np.int64), np.empty((0, DIGEST_BYTES), np.uint8)
    for name, own in blocks.items():
        own_rows = np.concatenate([block.rows for block in own])
        order = np.argsort(own_rows)
        order = order[~np.isin(own_rows[order], list(failed))]
        rows = own_rows[order]
        # Each engine read the same files.
        digests = np.concatenate([block.digests for block in own])[order]
        for layer in own[0].features if own else ():
            values = np.concatenate([block.features[layer] for block in own if len(block.rows)])
            features[f"{name}:{layer}"] = values[order]
    noted = dict.fromkeys(note for block in every for note in block.noted)
    return RowBlock(rows, features, digests, list(failed.values()), noted=list(noted))


def reopen(
    made_by: Dataset | TrainedHead | MadeBy,
    weights: PathLike | None,
    build: Callable[[TrunkSpec], _Opened],
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
    if model.joined:
        names = ", ".join(made_by.name for made_by in model.joined)
        found = f"{quoted(str(head))} takes joined layers of several files ({quoted(names)})"
        raise HeadError(f"{where}: {found}; expected images; give a folder of them")
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
