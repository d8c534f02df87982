"""What each position of a feature map contributes to a head's answer.

The answer is explained against another class: by the log of the score of the one over that of the
other. Only this difference is defined, because the same number can be added to all logits without
a change of any score; and it says why an image was taken for one class and not for the other.

Where the head has a gradient, a position contributes the gradient times the activation, summed over
its channels. In a map that stays a map each position has weights of its own, and its activation is
compared with the mean of the training images where the head subtracts that (standardise, pca): a
feature that hardly varies would have a large share otherwise, and the constant minus as much.

For heads without hidden layers this is exact, whether the map is averaged, the most active position
is taken, or the map stays a map: contributions and the constant of the head add up to the log odds,
as in the class activation maps of Zhou et al. For heads with hidden layers it is HiResCAM, which of
averaged maps is Grad-CAM without its last step, a rectifier. Of other heads each position is
covered in turn, by the mean of the others.

Sources: Zhou et al., Learning deep features for discriminative localization, CVPR 2016; Selvaraju
et al., Grad-CAM, ICCV 2017; Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020; Zeiler and
Fergus, Visualizing and understanding convolutional networks, ECCV 2014 (covering).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.activation.gradients import Double, log_odds_gradient
from classify.heads.registry import FittedHead
from classify.stored.out_of_core import Labels, Rows
from extract.core.errors import HeadError

EXACT, GRADIENT, COVERED = "exact", "gradient", "covered"
# Values of maps with a covered position: of one block (64 MB), and of all (1 GB).
_BLOCK, _MOST_VALUES = 2**24, 2**28


class Contributions(NamedTuple):
    """What the positions of n maps contribute to the log odds of one class against another.

    Attributes:
        positions: (n, h, w) the contribution of each position.
        constant: (n,) what no position contributes: the rest of the log odds.
        method: ``exact``, ``gradient`` or ``covered``.
    """

    positions: Double
    constant: Double
    method: str


def contributions(
    head: FittedHead, maps: Rows, pooling: str, classes: Labels, others: Labels
) -> Contributions:
    """Return what each position of feature maps contributes to a head's log odds.

    Args:
        head: The head and its transform.
        maps: (n, h, w, C) feature maps.
        pooling: How they become the features of the head: ``avg``, ``max``, or ``none``.
        classes: (n,) the class that each map is explained for.
        others: (n,) the class that it is explained against.
    """
    maps = maps.astype(np.float32, copy=False)
    gradient = log_odds_gradient(head, _pool(maps, pooling), classes, others)
    if gradient is None:
        return _cover(head, maps, pooling, classes, others)
    h, w = maps.shape[1:3]
    if pooling == "none":
        changes = maps - gradient.origin.reshape(maps.shape[1:])
        positions = (gradient.values.reshape(maps.shape) * changes).sum(axis=3)
    elif pooling == "avg":
        positions = np.einsum("nhwc,nc->nhw", maps, gradient.values) / (h * w)
    else:
        # Positions that are equally active share a channel.
        largest = maps == maps.max(axis=(1, 2), keepdims=True)
        shares = largest / largest.sum(axis=(1, 2), keepdims=True)
        positions = np.einsum("nhwc,nhwc,nc->nhw", maps, shares, gradient.values)
    constant = gradient.log_odds - positions.sum(axis=(1, 2))
    return Contributions(positions, constant, EXACT if gradient.is_linear else GRADIENT)


def _pool(maps: Rows, pooling: str) -> Rows:
    """Return the features that a head takes, of (n, h, w, C) maps."""
    if pooling == "none":
        return maps
    pooled = maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2))
    return np.asarray(pooled)


def _cover(
    head: FittedHead, maps: Rows, pooling: str, classes: Labels, others: Labels
) -> Contributions:
    """Return by how much the log odds fall where a position is covered by the mean of the others.

    Of an averaged map this leaves the position out of the mean.
    """
    n, h, w, C = maps.shape
    width = C if pooling == "avg" else h * w * C
    if n * h * w * width > _MOST_VALUES:
        found = f"this head has no gradient, and covering {h * w:,} positions of {C:,} channels"
        raise HeadError(f"{found} in {n:,} images takes too long")
    positions, constant = np.zeros((n, h * w)), np.zeros(n)
    step = max(1, _BLOCK // width)
    for row, image in enumerate(maps):
        flat = image.reshape(h * w, C)
        means = (flat.sum(axis=0, dtype=np.float64) - flat) / max(1, h * w - 1)
        known = _log_odds(head, _pool(image[None], pooling), classes[row], others[row])
        for start in range(0, h * w, step):
            own = slice(start, min(start + step, h * w))
            features = _covered(image, means.astype(np.float32), own, pooling)
            positions[row, own] = known - _log_odds(head, features, classes[row], others[row])
        constant[row] = known[0] - positions[row].sum()
    return Contributions(positions.reshape(n, h, w), constant, COVERED)


def _covered(image: Rows, means: Rows, own: slice, pooling: str) -> Rows:
    """Return the features with each of some positions covered in turn by the mean of the others."""
    if pooling == "avg":
        return means[own]
    count = own.stop - own.start
    covered = np.repeat(image.reshape(1, -1, image.shape[2]), count, axis=0)
    covered[np.arange(count), np.arange(own.start, own.stop)] = means[own]
    return _pool(covered.reshape(count, *image.shape), pooling)


def _log_odds(head: FittedHead, X: Rows, label: int, other: int) -> NDArray[np.float64]:
    scores = head.predict_proba(X).astype(np.float64)
    tiny = np.finfo(np.float64).tiny
    return np.asarray(np.log(scores[:, label] + tiny) - np.log(scores[:, other] + tiny))
