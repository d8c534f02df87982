"""Labels for the rows of a file of features: no trunk is built, and no image is read."""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import PathLike
from classify.inference.predictions import Answers
from classify.inference.training_images import count_training_images
from classify.settings.config import PredictConfig
from classify.stored.out_of_core import Member, Rows, StoredRows, all_finite, iter_chunks
from classify.stored.same_store import SameStore
from extract.core.console import log
from extract.core.errors import HeadError, StoreError, count_of, quoted
from extract.core.row_block import DONE, FAILED, PENDING
from extract.display.progress import progress
from extract.images.item import Item, Source
from extract.pipeline.compare import find_differences, read_recipe
from extract.pipeline.stream import Timings
from extract.store.format import FORMAT
from extract.store.open import Store, open_store, read_attribute
from extract.store.shards import INDEX_FORMAT

_ENDINGS = (".h5", ".hdf5")
_FAULT = "its features are not finite numbers; extract again with --dtype float32"


class StoredImages(NamedTuple):
    """The rows of a file of features that get labels.

    Attributes:
        listed: The images as items, and the classes of the file.
        digests: (N, 16) uint8, of the image files.
        done: The positions of the N rows that have features, increasing.
        X: Their features.
        failures: Position and reason of each row that could not be read.
    """

    listed: Source
    digests: NDArray[np.uint8]
    done: NDArray[np.int64]
    X: StoredRows
    failures: list[tuple[int, str]]


def is_store(source: PathLike) -> bool:
    """Whether a source is a file of features that extract-features or write_features made."""
    path = Path(source)
    if path.suffix.lower() not in _ENDINGS or not path.is_file():
        return False
    with suppress(StoreError):  # its problem is told where the file is read
        return read_attribute(path, "format") in (FORMAT, INDEX_FORMAT)
    return False


def read_rows(path: Path, model: TrainedHead, head: PathLike, only: str) -> StoredImages:
    """Choose the rows to label; their features stay in the file until they are needed.

    Args:
        path: The file of features.
        model: The head.
        head: Its folder, for messages.
        only: ``all`` rows, or those that are ``unlabelled``.

    Raises:
        StoreError: The file cannot be read, is unfinished, or has no such row.
        HeadError: The features are not those that the head takes.
    """
    same = SameStore(path)
    with same.unchanged(), open_store(path) as store:
        layers = check_recipe(store, model, head)
        rows = _choose_rows(store, only)
        own = rows[store.status[rows] == DONE]
        same.remember(store, own)
        X = StoredRows([Member(same, layers, own)], model.shape, "")
        if model.dtype == "float16" and store.dtype == "float32":
            # As the features that the head was trained on.
            X = X.map(lambda part: part.astype(np.float16).astype(np.float32), model.shape)
        reasons = {failure.row: failure.reason for failure in store.failures()}
        failed = np.flatnonzero(store.status[rows] == FAILED).tolist()
        return StoredImages(
            _list_rows(store, rows),
            store.digests()[rows],
            np.flatnonzero(store.status[rows] == DONE),
            X,
            [(place, reasons[int(rows[place])]) for place in failed],
        )


def score_rows(
    images: StoredImages, model: TrainedHead, config: PredictConfig, timings: Timings
) -> Answers:
    """Score the rows block by block."""
    began = time.perf_counter()
    keys = [item.key for item in images.listed.items]
    answers = Answers(keys, model.class_names, config)
    for place, reason in images.failures:
        answers.fail(place, reason)
    with progress(len(keys), "rows", done=len(images.failures)) as bar:
        for part, features in (
            iter_chunks(images.X, len(model.class_names)) if len(images.X) else ()
        ):
            places = images.done[part]
            finite = _finite_rows(features)
            for place in places[~finite].tolist():
                answers.fail(place, _FAULT)
            if finite.any():
                kept = features if finite.all() else features[finite]
                answers.add(places[finite], model.predict_proba(kept))
            bar.update(len(places))
    timings.wait += time.perf_counter() - began
    return answers


def count_seen(head: Path, images: StoredImages, answers: Answers) -> int | None:
    """Count the labelled images with an answer that the head was trained on; None if unknown."""
    names, known = images.listed.class_names, set(answers.class_names)
    rows = [
        row
        for row, (item, best) in enumerate(zip(images.listed.items, answers.best, strict=True))
        if item.label >= 0 and names[item.label] in known and best.label is not None
    ]
    keys = [images.listed.items[row].key for row in rows]
    return count_training_images(head, keys, images.digests[rows])


def _finite_rows(features: Rows) -> NDArray[np.bool_]:
    if all_finite(features):
        return np.ones(len(features), bool)
    return np.asarray(np.isfinite(features.reshape(len(features), -1)).all(axis=1))


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
    shapes = [known[name] for name in layers]
    shape = shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)
    if shape != model.shape:
        raise HeadError(f"{where}: shape {shape}; {expected}, {model.shape}; {remedy}")
    if ours != theirs:
        other = "the head was" if ours else f"{where} was"
        log.warning("%s not made by extract-features' trunk; both must hold the same", other)
    elif model.dtype == "float32" and store.dtype == "float16":
        log.info("%s has float16 features: scores differ in the third digit", where)
    return layers


def _differences(store: Store, model: TrainedHead) -> list[str]:
    """Name the settings in which a store differs from what a head was trained on."""
    wanted = model.trunk.to_dict() | {"precision": model.precision}
    wanted["weights_sha256"] = model.weights_sha256
    del wanted["layer"]  # the file may hold more
    found = find_differences(read_recipe(store.attributes), wanted)
    calibration = store.attributes.get("calibration_sha256", "")
    return found + ["other calibration images"] * (calibration != model.calibration_sha256)


def _choose_rows(store: Store, only: str) -> NDArray[np.int64]:
    where, count = quoted(str(store.path)), len(store.keys)
    if pending := int((store.status == PENDING).sum()):
        found = f"{pending} of {count} images have no features yet"
        raise StoreError(f"{where}: {found}; run the same extract-features command again")
    rows = np.flatnonzero(store.labels < 0) if only == "unlabelled" else np.arange(count)
    if not len(rows):
        found = f"each of its {count_of(count, 'image')} has a label"
        raise StoreError(f"{where}: {found}; expected some without; leave out --only")
    return rows


def _list_rows(store: Store, rows: NDArray[np.int64]) -> Source:
    """Return rows as items that cannot be read."""
    columns = (values[rows].tolist() for values in (store.labels, store.split))
    groups = [store.groups[row] for row in rows] if store.groups else [""] * len(rows)
    keys = [store.keys[row] for row in rows.tolist()]
    items = (Item(key, key, *rest) for key, *rest in zip(keys, *columns, groups, strict=True))
    return Source(tuple(items), store.class_names, (), str(store.path))
