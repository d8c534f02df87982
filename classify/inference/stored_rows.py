"""Labels for the rows of a file of features: no trunk is built, and no image is read."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.label_tables import RowLabels
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.head_folder import PathLike, check_inputs
from classify.inference.known_labels import read_known, tables_of
from classify.inference.training_images import tell_seen
from classify.inference.trunk import check_recipe, joined_shape
from classify.labelling.choice import choose_different, least_sure, sample
from classify.labelling.questions import Question, check_questions_page, save_page, save_questions
from classify.output.predictions import Answers, Predictions, conclude, is_chart
from classify.output.sorting import check_folder
from classify.settings.prediction import ONLY, PredictConfig
from classify.stored.out_of_core import Member, Rows, StoredRows, all_finite, iter_chunks
from classify.stored.same_store import SameStore
from extract.core.config import ExtractConfig
from extract.core.console import log
from extract.core.errors import SettingError, StoreError, count_of, quoted
from extract.core.flags import describe
from extract.core.row_block import DONE, FAILED, PENDING
from extract.display.progress import progress
from extract.gallery.originals import Originals
from extract.gallery.thumbnails import Place, Wanted, place_of
from extract.images.item import Item, Source
from extract.pipeline.stream import Timings
from extract.store.format import FORMAT
from extract.store.open import Store, open_store, read_attribute
from extract.store.shards import INDEX_FORMAT

_ENDINGS = (".h5", ".hdf5")
_FAULT = "its features are not finite numbers; extract again with --dtype float32"


class StoredImages(NamedTuple):
    """The rows of a file of features that get labels.

    Attributes:
        listed: The images as items, and the classes of their labels.
        digests: (N, 16) uint8, of the image files.
        done: The positions of the rows that have features, increasing.
        X: Their features.
        failures: Position and reason of each row that could not be read.
        place: Where the images are.
        tables: The tables of their labels, and ``stored`` for labels in the file.
        columns: The columns of the tables, as the user named them.
    """

    listed: Source
    digests: NDArray[np.uint8]
    done: NDArray[np.int64]
    X: StoredRows
    failures: list[tuple[int, str]]
    place: Place
    tables: Sequence[str]
    columns: str


def is_store(source: PathLike) -> bool:
    """Whether a source is a file of features that extract-features or write_features made."""
    path = Path(source)
    if path.suffix.lower() not in _ENDINGS or not path.is_file():
        return False
    with suppress(StoreError):  # its problem is told where the file is read
        return read_attribute(path, "format") in (FORMAT, INDEX_FORMAT)
    return False


def predict_stored(
    path: Path,
    head: PathLike | None,
    output: Path | None,
    given: Mapping[str, Any],
    config: PredictConfig,
) -> Predictions:
    """Label the rows of a file of features, or choose those that are worth labelling."""
    began, timings = time.perf_counter(), Timings()
    where, running = quoted(str(path)), ExtractConfig.from_dict(given)
    if not (head or config.to_label):
        found = f"found {where}, a file of features"
        raise SettingError(f"trunk: {found}; expected images; give DIR, a head that takes them")
    _check_settings(where, given)
    if config.page:
        check_questions_page(Path(config.page))
    model = load_head(head) if head else None
    images = read_rows(path, model, head or "", config, running.columns)
    recorded = [table.path for table in model.labels] if model else []
    inputs: list[PathLike] = [path, *config.labels, *images.tables, *recorded]
    check_inputs([target for target in (output, config.page) if target], inputs)
    count = len(images.listed.items)
    if is_chart(output) and count != 1:
        raise SettingError(f"{output}: found {count} rows in {where}; expected one for a chart")
    timings.start = time.perf_counter() - began
    if config.to_label or not model:
        return _choose(images, model, config, timings, (head, output))
    originals = _open_originals(images, config) if config.sort else None
    answers = score_rows(images, model, config, timings)
    predictions = conclude(answers, images.listed, (running, config), timings, output)
    if originals:
        wanted = _wanted(images)
        paths = [os.path.join(originals.folder, image.key) for image in wanted]
        answers.sort([partial(originals.read, image) for image in wanted], paths)
    return tell_seen(predictions, head or "", images.listed, images.digests, answers)


def _wanted(images: StoredImages) -> list[Wanted]:
    pairs = zip(images.listed.items, images.digests, strict=True)
    return [Wanted(item.key, digest.tobytes()) for item, digest in pairs]


def _open_originals(images: StoredImages, config: PredictConfig) -> Originals:
    """Find the images of the rows that have features, and check the folder to sort them into."""
    wanted = _wanted(images)
    originals = Originals(images.place, [wanted[place] for place in images.done.tolist()])
    check_folder(Path(config.sort), originals.folder)
    return originals


def _check_settings(where: str, given: Mapping[str, Any]) -> None:
    """Raise SettingError for a setting that needs images or a trunk."""
    known = [name for name, _ in describe(PredictConfig)]
    if strange := [name for name in given if name not in (*known, "columns", "max_bad")]:
        found = f"{strange[0]}: has no effect on {where}, which holds features and no images"
        raise SettingError(f"{found}; drop --{strange[0].replace('_', '-')}")


def read_rows(
    path: Path, model: TrainedHead | None, head: PathLike, config: PredictConfig, columns: str
) -> StoredImages:
    """Choose the rows to label; their features stay in the file until they are needed.

    Args:
        path: The file of features.
        model: The head; None takes all layers.
        head: Its folder, for messages.
        config: ``only``, ``to_label`` and ``labels`` choose the rows.
        columns: The columns of the tables of labels.

    Raises:
        StoreError: The file cannot be read, is unfinished, or has no such row.
        HeadError: The features are not those that the head takes.
        SourceError: A table of labels cannot be read, or has changed.
    """
    same = SameStore(path)
    with same.unchanged(), open_store(path) as store:
        layers = check_recipe(store, model, head) if model else list(store.shapes)
        known = read_known(store, model, head, config, columns)
        rows = _choose_rows(store, known, config)
        own = rows[store.status[rows] == DONE]
        same.remember(store, own)
        X = StoredRows([Member(same, layers, own)], joined_shape(store, layers), "")
        if model and model.dtype == "float16" and store.dtype == "float32":
            # As the features that the head was trained on.
            X = X.map(lambda part: part.astype(np.float16).astype(np.float32), model.shape)
        reasons = {failure.row: failure.reason for failure in store.failures()}
        failed = np.flatnonzero(store.status[rows] == FAILED).tolist()
        return StoredImages(
            _list_rows(store, known, rows),
            store.digests()[rows],
            np.flatnonzero(store.status[rows] == DONE),
            X,
            [(place, reasons[int(rows[place])]) for place in failed],
            place_of(store, config.images)._replace(flag="--images"),
            tables_of(store, known),
            known.columns,
        )


def _choose_rows(store: Store, known: RowLabels, config: PredictConfig) -> NDArray[np.int64]:
    """Return all rows of a finished file, or those without a label."""
    where, count = quoted(str(store.path)), len(store.keys)
    if pending := int((store.status == PENDING).sum()):
        found = f"{pending} of {count} images have no features yet"
        raise StoreError(f"{where}: {found}; run the same extract-features command again")
    if not config.to_label and config.only == ONLY[0]:
        return np.arange(count)
    rows = np.flatnonzero(known.labels < 0)
    if config.to_label:
        rows = rows[store.status[rows] == DONE]
    if not len(rows):
        labelled = int((known.labels >= 0).sum())
        found = f"each of its {count_of(count, 'image')} has a label"
        if labelled < count:
            found = f"each of its images has a label, or could not be read ({count - labelled:,})"
        raise StoreError(f"{where}: nothing to label: {found}")
    return rows


def _list_rows(store: Store, known: RowLabels, rows: NDArray[np.int64]) -> Source:
    """Return rows as items that cannot be read."""
    columns = (values[rows].tolist() for values in (known.labels, known.split))
    groups = [known.groups[row] for row in rows] if known.groups else [""] * len(rows)
    keys = [store.keys[row] for row in rows.tolist()]
    items = (Item(key, key, *rest) for key, *rest in zip(keys, *columns, groups, strict=True))
    return Source(tuple(items), known.class_names, (), str(store.path))


def score_rows(
    images: StoredImages, model: TrainedHead, config: PredictConfig, timings: Timings
) -> Answers:
    """Score the rows block by block."""
    began = time.perf_counter()
    keys = [item.key for item in images.listed.items]
    answers = Answers(keys, model.class_names, config)
    for place, reason in images.failures:
        answers.fail(place, reason)
    chunks = iter_chunks(images.X, len(model.class_names)) if len(images.X) else ()
    with progress(len(keys), "rows", len(images.failures), "labelling") as bar:
        for part, features in chunks:
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


def _finite_rows(features: Rows) -> NDArray[np.bool_]:
    if all_finite(features):
        return np.ones(len(features), bool)
    return np.asarray(np.isfinite(features.reshape(len(features), -1)).all(axis=1))


def _read_finite(images: StoredImages, pool: NDArray[np.int64]) -> tuple[NDArray[np.int64], Rows]:
    """Read the rows to choose from, without those whose features are no numbers."""
    if len(pool):
        X = images.X.read(pool)
        finite = _finite_rows(X)
        pool, X = pool[finite], X[finite]
    if not len(pool):
        rows = count_of(len(images.X), "image")
        raise StoreError(f"{quoted(images.listed.root)}: none of {rows} can be chosen: {_FAULT}")
    return pool, X


def _choose(
    images: StoredImages,
    model: TrainedHead | None,
    config: PredictConfig,
    timings: Timings,
    places: tuple[PathLike | None, Path | None],
) -> Predictions:
    """Choose the images worth labelling next, and write them."""
    (head, output), began, count = places, time.perf_counter(), config.to_label or 1
    if model:
        answers = score_rows(images, model, config, Timings())
        # An image whose features are no numbers is never chosen.
        margins = np.array([2 if p.margin is None else p.margin for p in answers.best])
        pool = least_sure(margins, count)
        pool, X = _read_finite(images, pool[margins[pool] <= 1])
        chosen = choose_different(X, count, margins[pool])
    else:
        answers = Answers([item.key for item in images.listed.items], (), config)
        pool, X = _read_finite(images, sample(images.X.shape, count))
        chosen = choose_different(X, count)
    rows = pool[chosen]
    predictions = Predictions(answers.select(rows), 0, timings)
    predictions.unlabelled = len(answers.best)
    questions = [Question(*prediction[:4]) for prediction in predictions]
    if output:
        save_questions(output, questions)
    if config.page:
        wanted = _wanted(images)
        own = [wanted[row] for row in rows.tolist()]
        save_page(Path(config.page), questions, own, images.place, output.name if output else "")
    timings.wait += time.perf_counter() - began
    if output:
        command = _next_command(images, head, output)
        log.info("next: fill in the column label of %s, then %s", output, command)
    return predictions


def _next_command(images: StoredImages, head: PathLike | None, output: Path) -> str:
    """Return the command that trains with all labels so far and those of a new table."""
    path = Path(images.listed.root)
    words = [word for table in (*images.tables, str(output)) for word in ("--labels", table)]
    if images.columns:
        words += ["--columns", images.columns]
    usual = path.with_name(f"{path.stem}_head")
    if head and os.path.realpath(head) != os.path.realpath(usual):
        words += ["-o", os.fspath(head)]
    return shlex.join(["train-head", str(path), *words])
