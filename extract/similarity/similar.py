"""The images most similar to one of the file or to a photo, and those least like the others."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.core.errors import ImageError, SettingError, StoreError, count_of, quoted
from extract.core.row_block import DONE
from extract.images.digests import digest_bytes
from extract.images.item import SPLITS, Item, read_file
from extract.limits.image_size import under_way
from extract.similarity.directions import Directions, Numbers, Vectors, choose_layer, to_units
from extract.similarity.page import PathLike, Shown, check_target, write_page
from extract.similarity.recorded_trunk import Recorded, reopen
from extract.similarity.results import Images
from extract.store.open import Store, open_store

# Neighbours of an image that say whether it is an outlier, and images that they are chosen from.
NEIGHBOURS, _REFERENCES = 10, 5000
# Keys that are compared with a mistyped one.
_MOST_KEYS = 20_000
# Rows whose cosines are computed at a time.
_ROWS = 1024


class SimilarImage(NamedTuple):
    """An image and its cosine: to the image that was asked for, or the mean to its neighbours.

    Attributes:
        key: Its key.
        label: The name of its class; empty without one.
        split: ``train``, ``validation`` or ``test``.
        cosine: The cosine of the features.
    """

    key: str
    label: str
    split: str
    cosine: float


@dataclass(frozen=True, repr=False)
class SimilarImages(Images[SimilarImage]):
    """The images most similar to one; a sequence of ``SimilarImage``, the most similar first.

    Attributes:
        images: The images.
        rows: Their row numbers in the file of features.
        layer: The layer of the features.
        compared: The number of images that were compared.
        like: The image that they are similar to: a key, or the path of a photo.
    """

    like: str

    fields: ClassVar = SimilarImage._fields

    def summary(self) -> str:
        """Return what the images are similar to."""
        count = count_of(self.compared, "image")
        return f"the {len(self)} most similar to {quoted(self.like)} of {count}"


@dataclass(frozen=True, repr=False)
class Outliers(Images[SimilarImage]):
    """The images least like the others; a sequence of ``SimilarImage``, the least similar first.

    Attributes:
        images: The images; ``cosine`` is the mean cosine to the nearest neighbours.
        rows: Their row numbers in the file of features.
        layer: The layer of the features.
        compared: The number of images that were compared.
        references: The number of images that the neighbours are chosen from.
    """

    references: int

    fields: ClassVar = SimilarImage._fields

    def summary(self) -> str:
        """Return how the images were chosen."""
        count = count_of(self.compared, "image")
        few = self.references < self.compared
        among = f" in a sample of {self.references:,}" if few else ""
        nearest = f"the lowest mean cosine to their {NEIGHBOURS} nearest neighbours{among}"
        return f"the {len(self)} of {count} with {nearest}"


class Question(NamedTuple):
    """What both questions have in common: the layer, and the page of the answer."""

    layer: str | None = None
    page: PathLike | None = None
    source: PathLike = ""


def find_like(
    path: Path, like: PathLike, top: int, weights: PathLike | None, question: Question
) -> SimilarImages:
    """Find the images most similar to one; see ``extract.find_similar``."""
    _check_count("top", top)
    with open_store(path) as store:
        check_target(store, question.page, question.source)
        name = choose_layer(path, list(store.shapes), question.layer)
        row, wanted = _find_wanted(store, os.fspath(like), name, weights)
        directions = Directions.of_store(store, name)
        directions.warn_of_left_out()
        # A key is not similar to itself; a photo is, to the image that it is.
        places = [row] if row is not None and os.fspath(like) == store.keys[row] else []
        cosines = np.concatenate(
            [np.empty(0), *(units @ wanted for _, units in directions.blocks())]
        )
        cosines[np.isin(directions.rows, places)] = -np.inf
        count = min(top, len(cosines) - int(np.isinf(cosines).sum()))
        best = np.argsort(-cosines, kind="stable")[:count]
        images, rows = _describe(store, directions.rows[best], cosines[best])
        result = SimilarImages(images, rows, name, len(directions), os.fspath(like))
        _write(store, question, result, "Similar images", row)
    return result


def find_lone(path: Path, count: int, question: Question) -> Outliers:
    """Find the images least like the others; see ``extract.find_outliers``."""
    _check_count("outliers", count)
    with open_store(path) as store:
        check_target(store, question.page, question.source)
        name = choose_layer(path, list(store.shapes), question.layer)
        directions = Directions.of_store(store, name)
        directions.warn_of_left_out()
        references = np.arange(len(directions))
        if len(references) > _REFERENCES:
            random = np.random.default_rng(0)
            references = np.sort(random.choice(references, _REFERENCES, replace=False))
        cosines = mean_cosines(directions, references, NEIGHBOURS)
        worst = np.argsort(cosines, kind="stable")[:count]
        images, rows = _describe(store, directions.rows[worst], cosines[worst])
        result = Outliers(images, rows, name, len(directions), len(references))
        _write(store, question, result, "Outliers")
    return result


def mean_cosines(
    directions: Directions, references: Numbers, neighbours: int
) -> NDArray[np.float64]:
    """Return the mean cosine of each vector to its nearest ones among some others.

    Source: Angiulli and Pizzuti, Fast outlier detection in high dimensional spaces, PKDD 2002 (the
    sum of the distances to the nearest neighbours); Sugiyama and Borgwardt, Rapid distance-based
    outlier detection via sampling, NIPS 2013 (neighbours from a sample).

    Args:
        directions: N vectors.
        references: Increasing positions of the vectors that neighbours are chosen from.
        neighbours: Their number; fewer where there are fewer vectors.

    Returns:
        (N,) means; 0 of a vector that is alone.
    """
    others, means = directions.read(references), np.zeros(len(directions))
    k = min(neighbours, len(references) - 1)
    if k < 1:
        return means
    for places, units in directions.blocks():
        for start in range(0, len(units), _ROWS):
            first = places.start + start
            cosines = units[start : start + _ROWS] @ others.T
            rows = np.arange(first, first + len(cosines))
            own = np.searchsorted(references, rows)
            is_reference = references[np.minimum(own, len(references) - 1)] == rows
            cosines[is_reference, own[is_reference]] = -np.inf
            nearest = -np.partition(-cosines, k - 1, axis=1)[:, :k]
            means[rows] = nearest.mean(axis=1, dtype=np.float64)
    return means


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise SettingError(f"{name}: found {count}; expected 1 or more")


def _describe(
    store: Store, rows: Numbers, cosines: NDArray[np.floating]
) -> tuple[tuple[SimilarImage, ...], tuple[int, ...]]:
    names = (*store.class_names, "")
    images = tuple(
        SimilarImage(
            store.keys[row],
            names[store.labels[row]],
            SPLITS[store.split[row]],
            min(1.0, float(cosine)),
        )
        for row, cosine in zip(rows.tolist(), cosines, strict=True)
    )
    return images, tuple(rows.tolist())


def _write(
    store: Store,
    question: Question,
    result: SimilarImages | Outliers,
    title: str,
    row: int | None = None,
) -> None:
    """Write the page of an answer, with the image that was asked for, if it is in the file."""
    if question.page is None:
        return
    lines = [[f"{image.split} {image.label}".strip(), f"{image.cosine:.4f}"] for image in result]
    sections = [Shown("", result.rows, lines)]
    if row is not None:
        sections.insert(0, Shown("Asked for", [row], [[]]))
    lead = f"{store.path.name}: {result.summary()}."
    write_page(store, question.page, question.source, (title, lead), sections)


def _find_wanted(
    store: Store, like: str, layer: str, weights: PathLike | None
) -> tuple[int | None, Vectors]:
    """Return the unit vector of an image, and its row where it is in the file."""
    row = store.keys.index(like) if like in store.keys else None
    content = b""
    if row is None:
        content = _read_photo(store, like)
        same = (store.digests() == np.frombuffer(digest_bytes(content), np.uint8)).all(axis=1)
        done = np.flatnonzero(same & (store.status == DONE))
        row = int(done[0]) if len(done) else None
    if row is None:
        features = _run_trunk(store, like, layer, weights)
    elif store.status[row] != DONE:
        raise StoreError(f"like: {quoted(like)} has no features; expected an image that was read")
    else:
        features = store.read(layer, np.array([row]))
    units = to_units(features)[0]
    if not np.isfinite(units).all():
        found = f"the features of {quoted(like)} are all zero or not finite"
        raise StoreError(f"like: {found}; expected an image with features; name another")
    return row, units


def _read_photo(store: Store, like: str) -> bytes:
    """Return the content of a photo.

    Raises:
        SettingError: It is neither a key nor a file, or a folder.
    """
    if os.path.isdir(like):
        raise SettingError(f"like: {quoted(like)} is a folder; expected a key or one photo")
    if os.path.lexists(like):
        try:
            with under_way():
                return read_file(like)
        except ImageError as error:
            raise SettingError(f"like: {quoted(like)}: {error}; expected a photo") from error
    name, keys = os.path.basename(like).casefold(), store.keys
    # Names of a whole set take seconds to compare; those of the same file come first.
    same = [key for key in keys if os.path.basename(key).casefold() == name]
    cutoff = 0.0 if same else 0.5
    near = difflib.get_close_matches(like, (same or keys)[:_MOST_KEYS], 3, cutoff)
    nearest = f"; nearest: {', '.join(map(quoted, near))}" if near else ""
    found = f"{quoted(like)} is no key of {store.path} and no file"
    raise SettingError(f"like: {found}{nearest}; see the keys with --export FILE.csv")


def _run_trunk(
    store: Store, like: str, layer: str, weights: PathLike | None
) -> NDArray[np.floating]:
    """Compute the features of a photo with the trunk of the file.

    Raises:
        StoreError: The weights of the trunk are gone or others, or there is no trunk.
        SettingError: The photo cannot be read.
    """
    from extract.engines import select
    from extract.pipeline.stream import stream_features

    if not store.spec.trunk:
        found = f"{store.path} holds features of another program"
        raise SettingError(f"like: {found}, which cannot be computed of {quoted(like)}; name a key")
    values = store.attributes
    settings = store.dtype, None, "auto", values["precision"], values["calibration_sha256"], 1
    remedy = "put it back, or say where it is now with --weights FILE"
    recorded = Recorded(store.spec, str(values["weights_sha256"]), remedy, StoreError)
    engine = reopen(recorded, weights, lambda spec: select.open_engine(spec, *settings))
    for block in stream_features([Item(like, like, -1, 0)], np.arange(1), engine, 1):
        if block.failed:
            reason = block.failed[0].reason
            raise SettingError(f"like: {quoted(like)}: {reason}; expected a photo")
        if len(block.rows):
            return np.asarray(block.features[layer])
    raise StoreError(f"like: {quoted(like)}: the trunk returned no features; expected one row")
