"""A ``.keras`` file of plain layers, run in NumPy: importing Keras takes seconds.

Plain are Flatten, Dense, BatchNormalization, Activation and Dropout, one behind the other, with
the settings below. Any other model is for Keras.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.limits.unpacked import read_json, read_weights

Values = NDArray[Any]
# The class and the settings of each layer.
Layers = list[tuple[str, dict[str, Any]]]
# What reading settings of another form can raise.
_OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError)


def _negative_part(x: Values) -> Values:
    return np.asarray(np.expm1(np.minimum(x, 0)))


def _gelu(x: Values) -> Values:
    from scipy.special import erf

    return np.asarray(x * (erf(x * np.float32(math.sqrt(0.5))) + 1) / 2)


def _sigmoid(x: Values) -> Values:
    small = np.exp(-abs(x))
    return np.asarray(np.where(x < 0, small, 1) / (1 + small))


def _softmax(x: Values) -> Values:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# Keras' activations.
ACTIVATIONS: Mapping[str, Callable[[Values], Values]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "elu": lambda x: np.maximum(x, 0) + _negative_part(x),
    # The two constants are those of the paper, https://arxiv.org/abs/1706.02515.
    "selu": lambda x: 1.05070098 * (np.maximum(x, 0) + 1.67326324 * _negative_part(x)),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}
_ARRAYS = {"Dense": 2, "BatchNormalization": 4}
# The settings of each layer that decide its output: one value, or any.
_DENSE = {"units": Any, "activation": Any, "use_bias": True, "quantization_config": None}
_NORMALISATION = {"axis": -1, "epsilon": Any, "center": True, "scale": True}
_DECIDING: Mapping[str, Mapping[str, Any]] = {
    "Flatten": {"data_format": "channels_last"},
    "Dense": _DENSE,
    "BatchNormalization": {**_NORMALISATION, "renorm": False},
    "Activation": {"activation": Any},
    "Dropout": {},
}
# The settings that decide only how a layer is trained.
_TRAINING = {"name", "trainable", "dtype", "rate", "seed", "noise_shape", "momentum"}
_TRAINING |= {"synchronized", "renorm_clipping", "renorm_momentum"}
_TRAINING |= {
    f"{array}_{how}"
    for array in ("kernel", "bias", "beta", "gamma", "moving_mean", "moving_variance")
    for how in ("initializer", "regularizer", "constraint")
}
# Settings that Keras 3.14.1, the oldest, does not write.
_LATER = {"quantization_config", "renorm"}


class Step(NamedTuple):
    """A function of a batch: ``dense``, ``normalise`` or the name of an activation."""

    kind: str
    arrays: tuple[Values, ...] = ()

    def __call__(self, x: Values) -> Values:
        """Return the (B, D) output for (B, E) rows."""
        if self.kind == "dense":
            kernel, bias = self.arrays
            return x @ kernel + bias
        if self.kind == "normalise":
            scale, shift = scale_and_shift(self)
            return np.asarray(x * scale + shift)
        return ACTIVATIONS[self.kind](x)


def scale_and_shift(step: Step) -> tuple[Values, Values]:
    """Return by what a step ``normalise`` multiplies each value, and what it adds then."""
    gamma, beta, mean, variance, epsilon = step.arrays
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


class PlainModel(NamedTuple):
    """A model of plain layers.

    Attributes:
        input_shape: Shape of its rows, the batch first, as None.
        output_shape: Shape of its output, likewise.
        most_values: Values of a row in the widest layer.
        steps: One behind the other.
    """

    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    most_values: int
    steps: tuple[Step, ...]

    def predict(self, X: Values) -> Values:
        """Return the (B, K) float32 output of (B, *shape) rows."""
        x = np.asarray(X, np.float32).reshape(len(X), -1)
        with np.errstate(all="ignore"):  # what is too large becomes infinite, as in Keras
            for step in self.steps:
                x = step(x)
        return x


def read_plain(path: Path, most: int) -> PlainModel | None:
    """Read a model of plain layers.

    Args:
        path: The ``.keras`` file.
        most: Bytes that its weights may have.

    Returns:
        The model; None of another one, or of damage that Keras names.

    Raises:
        ValueError: The file is damaged, or would become far larger than it is.
        OSError: The file cannot be read.
    """
    config = read_json(path, "config.json")
    try:
        names = list(_name_arrays(_read_layers(config)[1]))
    except _OTHER_FORM:
        return None
    arrays = read_weights(path, most)
    return make_plain(config, [arrays[name] for name in names if name in arrays])


def make_plain(config: Any, weights: Sequence[Values]) -> PlainModel | None:
    """Make a model of plain layers.

    Args:
        config: Keras' description of the model, as in ``config.json``.
        weights: Its float32 arrays, in the order of Keras' ``get_weights``.

    Returns:
        The model; None if it has other layers or other weights.
    """
    try:
        return _assemble(*_read_layers(config), weights)
    except _OTHER_FORM:
        return None


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise ValueError("not plain")


def _read_layers(model: Any) -> tuple[tuple[int, ...], Layers]:
    """Return the shape of a row, and the class and settings of each layer."""
    first, *parts = model["config"]["layers"]
    kinds = [(part["module"], part["class_name"]) for part in (model, first)]
    _require(kinds == [("keras", "Sequential"), ("keras.layers", "InputLayer")])
    _require(all(part["registered_name"] is None for part in (model, first, *parts)))
    batch, *shape = first["config"]["batch_shape"]
    _require(batch is None, first["config"]["dtype"] == "float32")
    _require(len(shape) >= 1, all(type(side) is int and side > 0 for side in shape))
    for part in parts:
        settings, deciding = part["config"], _DECIDING[part["class_name"]]
        policy = settings["dtype"]
        _require(part["module"] == "keras.layers", policy["class_name"] == "DTypePolicy")
        _require(policy["module"] == "keras", policy["config"] == {"name": "float32"})
        _require(settings.keys() <= deciding.keys() | _TRAINING)
        _require(deciding.keys() - _LATER <= settings.keys())
        _require(all(deciding.get(k, Any) in (Any, value) for k, value in settings.items()))
    _require(len(shape) == 1 or parts[0]["class_name"] == "Flatten")
    return tuple(shape), [(part["class_name"], part["config"]) for part in parts]


def _name_arrays(layers: Layers) -> Iterator[str]:
    """Yield Keras' names of the arrays in the file of weights."""
    counts: Counter[str] = Counter()
    for name, _ in layers:
        if name in _ARRAYS:
            folder = "dense" if name == "Dense" else "batch_normalization"
            number = f"_{counts[name]}" * bool(counts[name])
            yield from (f"layers/{folder}{number}/vars/{i}" for i in range(_ARRAYS[name]))
        counts[name] += 1


def _assemble(shape: tuple[int, ...], layers: Layers, weights: Sequence[Values]) -> PlainModel:
    """Give the layers their weights."""
    left = iter(weights)
    widths, steps = [math.prod(shape)], list[Step]()
    for name, settings in layers:
        arrays: list[Values] = [next(left, np.empty(0)) for _ in range(_ARRAYS.get(name, 0))]
        if name == "Dense":
            kernel, bias = arrays
            width = settings["units"]
            _require(kernel.shape == (widths[-1], width), bias.shape == (width,))
            widths.append(width)
            steps.append(Step("dense", (kernel, bias)))
        elif name == "BatchNormalization":
            _require(all(array.shape == (widths[-1],) for array in arrays))
            epsilon = settings["epsilon"]
            _require(type(epsilon) is float, 0 < epsilon < 1)
            steps.append(Step("normalise", (*arrays, np.asarray(epsilon, np.float32))))
        if "activation" in settings:
            _require(settings["activation"] in ACTIVATIONS)
            steps.append(Step(settings["activation"]))
    return PlainModel((None, *shape), (None, widths[-1]), max(widths), tuple(steps))
