"""The cosine above which images are near-duplicates, from the cosines of the images themselves.

The number of pairs closer than a distance grows as a power of the distance; the exponent is the
dimension of the images' features. The power is fitted to pairs that are too many to be copies, and
continued to the distance where a tenth of a pair is expected. Pairs that are closer are no part of
that distribution: they are near-duplicates.

Source: Grassberger and Procaccia, Measuring the strangeness of strange attractors, Physica D 9,
1983 (the count of pairs as a power of the distance).
"""

from typing import NamedTuple

import numpy as np

from extract.similarity.directions import Directions, Numbers, Vectors

# Vectors whose pairs are measured.
SAMPLE = 4096
# Pairs of other images that are expected above the threshold.
_EXPECTED = 0.1
# The power is fitted between so many pairs and ``_SPAN`` times as many.
_LEAST, _SPAN, _LEAST_SPAN = 16, 32, 8
# The closest pairs that the power may be fitted to.
_MOST = 2**20
# The fit is repeated without the copies that it found.
_PASSES = 3
# Closer than this are the same features, up to rounding.
SAME = 1e-5


class Threshold(NamedTuple):
    """The least cosine of near-duplicates, and where it comes from."""

    cosine: float
    origin: str


GIVEN = "as given"
FITTED = "from the cosines of {}"
TOO_FEW = "the same features only, for there are too few other images to compare"


def choose_threshold(directions: Directions, total: int | None = None) -> Threshold:
    """Return the cosine above which a tenth of a pair is expected among images that are no copies.

    Of more than ``SAMPLE`` images it is measured on a random sample, and continued to all pairs;
    where the images are themselves a sample, to the pairs of ``total`` images.
    """
    distinct = np.flatnonzero(directions.firsts == np.arange(len(directions)))
    chosen = distinct
    if len(distinct) > SAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(distinct, SAMPLE, replace=False))
    return fit_threshold(directions.read(chosen), max(len(distinct), total or 0))


def fit_threshold(units: Vectors, total: int) -> Threshold:
    """Return the threshold of ``total`` images, of which ``units`` are a sample."""
    which = "all images" if len(units) == total else f"a sample of {len(units):,} images"
    cosines = units @ units.T
    kept, distance = np.arange(len(units)), SAME
    expected = _EXPECTED * (len(units) / max(1, total)) ** 2
    for _ in range(_PASSES):
        found = _fit(cosines[np.ix_(kept, kept)], expected)
        if found is None:
            break
        if abs(found - distance) < SAME:
            break
        distance = max(found, SAME)
        kept = _one_of_each(cosines, 1 - distance)
    origin = FITTED.format(which) if distance > SAME else TOO_FEW
    return Threshold(float(1 - distance), origin)


def _fit(cosines: Vectors, expected: float) -> float | None:
    """Return the distance within which ``expected`` pairs lie; None of too few pairs.

    Of the powers fitted to several counts the one with the largest distance is taken: it comes from
    counts without copies, which are closer to each other than the power says.
    """
    pairs = len(cosines) * (len(cosines) - 1) // 2
    most = min(pairs // 2, _MOST)
    span = min(_SPAN, most // _LEAST)
    if span < _LEAST_SPAN:
        return None
    distances = 1 - np.concatenate([row[:place] for place, row in enumerate(cosines)])
    distances = np.sort(np.partition(distances, most)[:most])
    largest, low = 0.0, _LEAST
    while low * span <= most:
        near, far = np.maximum(distances[[low - 1, low * span - 1]].astype(float), SAME)
        if far > near:
            dimension = np.log(span) / np.log(far / near)
            largest = max(largest, near * (expected / low) ** (1 / dimension))
        low *= 2
    return largest


def _one_of_each(cosines: Vectors, threshold: float) -> Numbers:
    """Return the first position of each group of near-duplicates."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    parts = connected_components(coo_array(cosines >= threshold), directed=False)[1]
    return np.sort(np.unique(parts, return_index=True)[1])
