"""What a threshold of the scores gives: coverage and accuracy, sensitivity at a specificity.

A sensitivity at a specificity depends on a threshold that the same images choose. So its variance
is that of resamples of the images, or of their groups, in each of which the threshold is chosen
anew; its interval is the exact one of as many rows as would give that variance, see ``intervals``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.preprocessing import Floats
from classify.scores.intervals import (
    FEWEST_GROUPS,
    NO_INTERVAL,
    Proportion,
    proportion,
    spread_interval,
    units_of,
)
from classify.stored.out_of_core import Labels

Double = NDArray[np.float64]

# Least scores of the table, after 0, with which every image is labelled.
LEAST_SCORES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SPECIFICITIES = (0.9, 0.95, 0.99)
# Thresholds of a slider, besides 0: 0.01, 0.02, ... 1.
_STEPS = 100
# Resamples; of many rows fewer, so that they take about a second.
_DRAWS, _FEWEST_DRAWS, _MOST_VALUES = 999, 199, 50_000_000


class Coverage(NamedTuple):
    """The images that are labelled where a lower score leaves an image unlabelled.

    Attributes:
        least_score: The threshold: ``--min-score`` of predict-images.
        images: Images whose highest score is that or more.
        share: Their share of all images.
        accuracy: Accuracy of them.
    """

    least_score: float
    images: int
    share: float
    accuracy: Proportion


class Sensitivity(NamedTuple):
    """The highest sensitivity for a class at a specificity or a higher one.

    Attributes:
        specificity: The specificity that is asked for.
        reached: The specificity at the threshold.
        sensitivity: Share of the images of the class that reach the threshold.
        threshold: Least score of the class; None where no threshold will do, and none reaches it.
    """

    specificity: float
    reached: float
    sensitivity: Proportion
    threshold: float | None


class Thresholds(NamedTuple):
    """Validation images at each threshold of a slider: 0, 0.01, ... 1.

    Attributes:
        images: Number of images.
        labelled: Images whose highest score is the threshold or more.
        right: Those of them that are classified correctly.
        positives: Images of the positive class of two; None of more classes.
        hits: Those of them whose score for it is the threshold or more.
        false_alarms: Images of the other class whose score for it is the threshold or more.
    """

    images: int
    labelled: list[int]
    right: list[int]
    positives: int | None
    hits: list[int]
    false_alarms: list[int]


def count_thresholds(y: Labels, scores: Floats, positive: int | None) -> Thresholds:
    """Count the images at each threshold of a slider.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        positive: The positive class of two; None of more.
    """
    steps = np.arange(_STEPS + 1) / _STEPS

    def reached(values: Floats) -> list[int]:
        # Compared in double precision, as predict-images does.
        counts: list[int] = (len(values) - np.searchsorted(np.sort(values), steps)).tolist()
        return counts

    best, right = scores.max(axis=1), scores.argmax(axis=1) == y
    counts = len(y), reached(best), reached(best[right])
    if positive is None:
        return Thresholds(*counts, None, [], [])
    score, truth = scores[:, positive], y == positive
    return Thresholds(*counts, int(truth.sum()), reached(score[truth]), reached(score[~truth]))


def coverage(
    y: Labels, scores: Floats, units: Labels, least_scores: Sequence[float] = LEAST_SCORES
) -> list[Coverage]:
    """Return how many images are labelled, and how well, for several thresholds.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        units: (N,) unit of each row.
        least_scores: The thresholds.
    """
    # As predict-images compares: the threshold is not rounded to the scores' precision.
    best, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == y
    labelled = ((least, best >= least) for least in least_scores)
    return [
        Coverage(least, int(of.sum()), float(of.mean()), proportion(right[of], units[of]))
        for least, of in labelled
    ]


def coverage_line(y: Labels, scores: Floats) -> tuple[Double, Double, Double]:
    """Return shares of the images (increasing), their accuracy, and the least score of each."""
    best, right = scores.max(axis=1), scores.argmax(axis=1) == y
    order = np.argsort(-best, kind="stable")
    last = np.append(np.flatnonzero(np.diff(best[order])), len(y) - 1)
    share, accuracy = (last + 1) / len(y), np.cumsum(right[order])[last] / (last + 1)
    return share, accuracy, best[order][last].astype(np.float64)


def sensitivities(
    y: Labels,
    scores: Floats,
    positive: int | None,
    units: Labels,
    seed: int = 0,
    specificities: Sequence[float] = SPECIFICITIES,
) -> list[Sensitivity]:
    """Return the sensitivity for a class at some specificities.

    Args:
        y: (N,) true classes.
        scores: (N, K) scores.
        positive: The class; None for none.
        units: (N,) unit of each row.
        seed: Decides the resamples.
        specificities: The specificities.

    Returns:
        An entry for each; none without a class, or where all rows are of it, or no row is.
    """
    truth = y == positive
    if positive is None or truth.all() or not truth.any():
        return []
    score = scores[:, positive]
    order = np.argsort(-score, kind="stable")
    falling, sides = score[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(score) - 1)
    wanted = np.array(specificities)
    places, values = _choose(np.ones(len(score)), sides, last, wanted)
    variance, known = _resample(sides, units_of(units[order]), last, wanted, seed)
    misses = np.append(np.cumsum(~sides)[last], 0)
    own = len(np.unique(units[truth]))
    return [
        Sensitivity(
            specificity,
            float(1 - misses[place] / misses[-2]),
            Proportion(value, *(spread_interval(value, spread, own) if known else NO_INTERVAL)),
            float(falling[last[place]]) if place >= 0 else None,
        )
        for specificity, place, value, spread in zip(
            specificities, places.tolist(), values.tolist(), variance.tolist(), strict=True
        )
    ]


def _choose(
    weights: Floats, sides: NDArray[np.bool_], last: Labels, specificities: Floats
) -> tuple[Labels, Floats]:
    """Return the lowest threshold of each specificity, -1 for none, and its sensitivity.

    Args:
        weights: (N,) how often each row counts; rows have falling scores.
        sides: (N,) whether a row is of the class.
        last: (T,) the last row of each threshold.
        specificities: The specificities.
    """
    hits = np.append(0, np.cumsum(weights * sides)[last])
    misses = np.append(0, np.cumsum(weights * ~sides)[last])
    allowed = (1 - specificities) * misses[-1] * (1 + 1e-9)
    places = np.searchsorted(misses, allowed, side="right") - 1
    # Of thresholds with the same rows the first one: fewer images reach it.
    places = np.searchsorted(hits, hits[places])
    return places - 1, np.asarray(hits[places] / hits[-1])


def _resample(
    sides: NDArray[np.bool_], units: Labels, last: Labels, specificities: Floats, seed: int
) -> tuple[Floats, bool]:
    """Return the variance of each sensitivity, and whether the units are enough to tell it."""
    count, draws = int(units.max()) + 1, max(_FEWEST_DRAWS, _MOST_VALUES // len(sides))
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(min(_DRAWS, draws)):
        counts = np.bincount(generator.integers(0, count, count), minlength=count)
        weights = counts[units].astype(np.float64)
        if 0 < weights @ sides < weights.sum():
            drawn.append(_choose(weights, sides, last, specificities)[1])
    known = bool(drawn) and (count == len(sides) or count >= FEWEST_GROUPS)
    return (np.var(drawn, axis=0) if drawn else np.zeros(len(specificities))), known
