"""Groups of images that are nearly the same, such as bursts and copies encoded again.

Two images whose cosine reaches the threshold are in one group, and so are images that others link
(single linkage): no part of a group can be a validation split without a copy in training. A chain
of links can make a group whose ends differ; a warning says so where one group holds a tenth of the
images.
"""

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from extract.core.console import log
from extract.core.errors import SettingError, count_of
from extract.images.item import SPLITS
from extract.similarity.directions import Directions, Numbers, choose_layer
from extract.similarity.near_pairs import Pairs, find_pairs
from extract.similarity.page import PathLike, Shown, check_target, write_page
from extract.similarity.results import Images
from extract.similarity.threshold import GIVEN, Threshold, choose_threshold
from extract.store.open import Store, open_store

# A group with this share of the images, and so many of them, is warned of.
LARGE, MANY = 0.1, 20


class NearImage(NamedTuple):
    """An image of a group of near-duplicates.

    Attributes:
        group: The number of its group, from 1, the largest group first.
        key: Its key.
        label: The name of its class; empty without one.
        split: ``train``, ``validation`` or ``test``.
        nearest: The key of the most similar image.
        cosine: The cosine of their features.
    """

    group: int
    key: str
    label: str
    split: str
    nearest: str
    cosine: float


@dataclass(frozen=True, repr=False)
class NearDuplicates(Images[NearImage]):
    """The images that have near-duplicates, group by group; a sequence of ``NearImage``.

    Attributes:
        images: The images, in the order of the groups and rows.
        rows: Their row numbers in the file of features.
        layer: The layer of the features.
        compared: The number of images that were compared.
        threshold: The least cosine of near-duplicates.
        origin: Where the threshold comes from.
    """

    threshold: float
    origin: str

    fields: ClassVar = NearImage._fields

    @property
    def groups(self) -> list[list[NearImage]]:
        """The images of each group, the largest group first."""
        return [list(group) for _, group in groupby(self.images, attrgetter("group"))]

    def summary(self) -> str:
        """Return the number of groups, what is noticeable about them, and the threshold."""
        rule = f"a cosine of {self.threshold:.4f} or more ({self.origin})"
        groups, count = self.groups, count_of(self.compared, "image")
        if not groups:
            return f"no near-duplicates among {count}: no two have {rule}"
        parted = sum(len({image.split for image in group}) > 1 for group in groups)
        mixed = sum(len({image.label for image in group if image.label}) > 1 for group in groups)
        return (
            f"{count_of(len(groups), 'group')} of {len(self):,} near-duplicates among {count}, the "
            f"largest of {len(groups[0])}; {parted} in several splits, {mixed} with different "
            f"labels; near is {rule}"
        )


def find_near(
    path: Path,
    threshold: float | None = None,
    layer: str | None = None,
    page: PathLike | None = None,
    source: PathLike = "",
) -> NearDuplicates:
    """Find groups of near-duplicates; see ``extract.find_near_duplicates``."""
    if threshold is not None and not 0 < threshold <= 1:
        raise SettingError(f"near: found {threshold}; expected a cosine above 0, at most 1")
    with open_store(path) as store:
        check_target(store, page, source)
        name = choose_layer(path, list(store.shapes), layer)
        directions = Directions.of_store(store, name)
        directions.warn_of_left_out()
        given = None if threshold is None else Threshold(threshold, GIVEN)
        result = _describe(store, directions, given or choose_threshold(directions), name)
        warn_of_chains(len(result.groups[0]) if len(result) else 0, result.compared)
        if page is not None:
            texts = ("Near-duplicates", f"{path.name}: {result.summary()}.")
            write_page(store, page, source, texts, _sections(result))
    return result


def _describe(
    store: Store, directions: Directions, threshold: Threshold, layer: str
) -> NearDuplicates:
    """Find the groups and say what is in them."""
    parts, pairs = group_near(directions, threshold.cosine)
    sizes = np.bincount(parts)
    places = np.flatnonzero(sizes[parts] > 1)
    nearest, cosine = _nearest(directions, pairs)
    order = places[np.lexsort((places, parts[places], -sizes[parts[places]]))]
    numbers: dict[int, int] = {}
    names, keys, rows = (*store.class_names, ""), store.keys, directions.rows
    images = tuple(
        NearImage(
            numbers.setdefault(int(parts[place]), len(numbers) + 1),
            keys[rows[place]],
            names[store.labels[rows[place]]],
            SPLITS[store.split[rows[place]]],
            keys[rows[nearest[place]]],
            float(cosine[place]),
        )
        for place in order
    )
    found = tuple(rows[order].tolist())
    return NearDuplicates(images, found, layer, len(directions), *threshold)


def _sections(result: NearDuplicates) -> list[Shown]:
    """Return a section of a page for each group."""
    rows, sections = iter(result.rows), []
    for group in result.groups:
        title = f"Group {group[0].group}: {count_of(len(group), 'image')}"
        lines = [[f"{image.split} {image.label}".strip(), f"{image.cosine:.4f}"] for image in group]
        sections.append(Shown(title, [next(rows) for _ in group], lines))
    return sections


def warn_of_chains(largest: int, images: int) -> None:
    """Warn about a group that holds a large part of the images."""
    if largest >= max(MANY, LARGE * images):
        found = f"one group holds {largest:,} of {images:,} images, perhaps linked by a chain"
        remedy = "look at it with show-features --near X --page FILE.html; a higher X divides it"
        log.warning("near: %s; %s", found, remedy)


def group_near(directions: Directions, threshold: float) -> tuple[Numbers, Pairs]:
    """Return the number of each vector's group, in the order of their first vectors, and the pairs.

    Raises:
        SettingError: See ``find_pairs``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs, count = find_pairs(directions, threshold), len(directions)
    ends = np.concatenate([pairs.first, np.arange(count)])
    others = np.concatenate([pairs.second, directions.firsts])
    graph = coo_array((np.ones(len(ends), np.int8), (ends, others)), (count, count))
    parts = connected_components(graph, directed=False)[1] if count else ends
    return parts.astype(np.int64), pairs


def _nearest(directions: Directions, pairs: Pairs) -> tuple[Numbers, np.ndarray]:
    """Return the most similar vector of each that is in a pair, or has a copy, and the cosine."""
    count, firsts = len(directions), directions.firsts
    nearest, cosine = np.arange(count), np.full(count, -1.0)
    ends, others = (np.concatenate(sides) for sides in (pairs[:2], pairs[1::-1]))
    cosines = np.concatenate([pairs.cosine, pairs.cosine])
    order = np.lexsort((-others, cosines))  # of equal cosines the first vector is assigned last
    nearest[ends[order]], cosine[ends[order]] = others[order], cosines[order]
    nearest, cosine = nearest[firsts], cosine[firsts]
    copies = np.flatnonzero(firsts != np.arange(count))[::-1]
    nearest[firsts[copies]], nearest[copies] = copies, firsts[copies]
    cosine[firsts[copies]] = cosine[copies] = 1.0
    return nearest, cosine
