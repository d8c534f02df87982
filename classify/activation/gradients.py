"""The gradient of a head's log odds at its features, in NumPy.

``dense`` and ``linear`` are plain layers, ``logistic``, ``ridge`` and ``lda`` one of them; so are
the transforms ``standardise`` and ``pca``. Other heads and transforms have no gradient here. For
those without hidden layers it is the same at every row, and what it gives is exact.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.heads.keras_head import DenseHead
from classify.heads.linear_head import LinearHead
from classify.heads.plain_model import ACTIVATIONS, Step, scale_and_shift
from classify.heads.registry import FittedHead
from classify.stored.out_of_core import Labels

Double = NDArray[np.float64]
_OUTPUTS = ("sigmoid", "softmax")  # what turns logits into scores


class Gradient(NamedTuple):
    """The log odds of one class against another, and their gradient.

    Attributes:
        log_odds: (n,) log of the score of the one class over that of the other.
        values: (n, D) the derivative by each feature.
        origin: (D,) what the head subtracts first, the mean of its training rows; else zeros.
        is_linear: Whether all layers in between are linear: the gradient is the same everywhere.
    """

    log_odds: Double
    values: Double
    origin: Double
    is_linear: bool


def log_odds_gradient(
    head: FittedHead, X: NDArray[np.floating], classes: Labels, others: Labels
) -> Gradient | None:
    """Return the gradient of the log odds of a class against another at each row.

    Args:
        head: The head and its transform; dropout is off.
        X: (n, *shape) features as they are stored.
        classes: (n,) the one class of each row.
        others: (n,) the other class.

    Returns:
        The gradient; None of a head that has none here.
    """
    steps = _read_steps(head)
    if steps is None:
        return None
    x, inputs, rows = X.reshape(len(X), -1).astype(np.float64), [], np.arange(len(X))
    with np.errstate(all="ignore"):
        for step in steps:
            inputs.append(x)
            x = np.asarray(step(x), np.float64)
        seed = np.zeros_like(x)
        if x.shape[1] == 1:  # the logit of class 1 of two
            seed[:, 0] = np.where(classes == 1, 1, -1)
        else:
            seed[rows, classes] += 1
            seed[rows, others] -= 1
        log_odds, values = (seed * x).sum(axis=1), seed
        for step, before in zip(reversed(steps), reversed(inputs), strict=True):
            values = _back(step, before, values)
    first = head.transform.learnt()[0][1] if head.transform.steps else {}
    origin = np.asarray(first.get("mean", np.zeros(values.shape[1])), np.float64)
    return Gradient(log_odds, values, origin, all(step.kind in _AFFINE for step in steps))


def _read_steps(head: FittedHead) -> list[Step] | None:
    """Return transform and head as steps from features to logits; None where one has no form."""
    steps = list[Step]()
    for name, fitted in head.transform.learnt():
        if name == "standardise":
            steps.append(_scaling(fitted["mean"], fitted["scale"]))
        elif "axes" in fitted:
            axes = fitted["axes"].astype(np.float64)
            steps.append(Step("dense", (axes, -fitted["mean"] @ axes)))
        else:
            return None
    own = head.head
    if isinstance(own, LinearHead):
        return [*steps, Step("dense", own.softmax_weights())]
    plain = own.plain if isinstance(own, DenseHead) else None
    if plain is None or plain.steps[-1].kind not in _OUTPUTS:
        return None
    own_steps = list(plain.steps[:-1])
    return [*steps, *own_steps] if all(s.kind in _KNOWN for s in own_steps) else None


def _scaling(mean: NDArray[Any], scale: NDArray[Any]) -> Step:
    """Return (x - mean) * scale as the normalisation of a batch."""
    ones, zeros = np.ones(len(mean)), np.zeros(len(mean))
    # gamma / sqrt(variance + epsilon) is the scale where the variance is 1 and epsilon 0.
    return Step("normalise", (scale.astype(np.float64), zeros, mean, ones, np.asarray(0.0)))


def _back(step: Step, before: Double, values: Double) -> Double:
    """Return the gradient by the input of a step, given that by its output."""
    if step.kind == "dense":
        return np.asarray(values @ step.arrays[0].T, np.float64)
    if step.kind == "normalise":
        return np.asarray(values * scale_and_shift(step)[0], np.float64)
    return values * _SLOPES[step.kind](before)


def _gelu_slope(x: Double) -> Double:
    from scipy.special import erf

    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray((erf(x / np.sqrt(2)) + 1) / 2 + x * density)


def _silu_slope(x: Double) -> Double:
    share = ACTIVATIONS["sigmoid"](x)
    return np.asarray(share * (1 + x * (1 - share)))


def _sigmoid_slope(x: Double) -> Double:
    share = ACTIVATIONS["sigmoid"](x)
    return np.asarray(share * (1 - share))


# The derivative of each activation by its input.
_SLOPES: Mapping[str, Callable[[Double], Double]] = {
    "linear": np.ones_like,
    "relu": lambda x: (x > 0).astype(np.float64),
    "gelu": _gelu_slope,
    "elu": lambda x: np.exp(np.minimum(x, 0)),
    "selu": lambda x: 1.05070098 * np.where(x > 0, 1, 1.67326324 * np.exp(np.minimum(x, 0))),
    "silu": _silu_slope,
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "sigmoid": _sigmoid_slope,
}
_AFFINE = ("dense", "normalise", "linear")
_KNOWN = {*_AFFINE, *_SLOPES}
