"""Many Keras heads of one shape as one model, which reads the rows once for all of them.

In every variable the heads are the last axis but one: kernels are (inputs, K, outputs), biases and
normalisation (K, outputs). So the first layer, in which all heads read the same rows, is one matrix
product with a kernel of (inputs, K * outputs); a setting per head, the learning rate included, is
a (K, 1) tensor that broadcasts; and removing heads is the same slice of every variable.

A head does not depend on the other heads in the model: the order of the rows has its own seed, the
initial weights come from the head's seed by NumPy (so they are the same on every backend), and so
does the dropout, see ``StackedHeads.drop``. The loss of a head has no effect on other heads.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.settings.head_spec import HeadSpec
from classify.stored.out_of_core import Labels, Rows
from classify.stored.views import FoldData
from extract.trunks.backend import fetch
from extract.trunks.compiled import compile_steps, fuse
from extract.trunks.keras_import import keras

ops = keras.ops

# Keras' defaults.
BN_MOMENTUM, BN_EPSILON = 0.99, 1e-3
# The metric of each curve in Keras' logs; "loss" there is the optimized loss of all heads.
CURVES = {"loss": "cross_entropy", "accuracy": "accuracy"}
CURVES |= {f"val_{curve}": f"val_{metric}" for curve, metric in CURVES.items()}

# Name, initial value and whether it is trained, after the kernel; a plain layer has only the first.
VARIABLES = [("bias", "zeros", True), ("gamma", "ones", True), ("beta", "zeros", True)]
VARIABLES += [("mean", "zeros", False), ("variance", "ones", False)]

Weights = list[NDArray[Any]]


class _HeadRates(keras.optimizers.Optimizer):
    """Mixed into an optimizer: fuses its update, with its learning rate times ``rates``, (K, 1)."""

    rates: Any = None

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        rate = learning_rate if self.rates is None else learning_rate * self.rates
        update = super().update_step
        fuse(lambda gradient: update(gradient, variable, rate))(gradient)


class RMSprop(_HeadRates, keras.optimizers.RMSprop):
    """RMSprop with a learning rate per head."""


class SGD(_HeadRates, keras.optimizers.SGD):
    """SGD with a learning rate per head."""


class Adam(_HeadRates, keras.optimizers.Adam):
    """Adam with a learning rate per head."""


OPTIMIZERS = {"rmsprop": RMSprop, "sgd": SGD, "adam": Adam}


def build_stack(
    specs: Sequence[HeadSpec], rows: FoldData, state: Weights | None = None
) -> "StackedHeads":
    """Build and compile one model of many heads.

    Args:
        specs: K heads of one group of ``groups_of``.
        rows: The rows that they will be trained on.
        state: The ``head_state`` to continue from; None starts anew.

    Returns:
        A model from (B, D) to logits (B, K, C), with C = 1 for two classes.
    """
    stack, first = StackedHeads(specs, rows), specs[0]
    names = ("learning_rate", "momentum", "nesterov")
    given = {name: getattr(first, name) for name in names if getattr(first, name) is not None}
    optimizer = OPTIMIZERS[first.optimizer or ""](**given)
    rates = np.array([[spec.learning_rate or 0.0] for spec in specs])
    if (rates != rates[0]).any():
        optimizer.rates = ops.convert_to_tensor((rates / rates[0]).astype(np.float32))
    stack.compile(optimizer=optimizer)
    optimizer.build(stack.trainable_variables)
    stack.start(rows.y, state)
    stack.train_loop = compile_steps(stack, training=True)
    stack.test_loop = compile_steps(stack, training=False)
    return stack


def class_weights(y: Labels, classes: int, spec: HeadSpec) -> Rows:
    """Return the (classes,) weights in the loss; balanced ones make all classes weigh the same."""
    counts = np.maximum(np.bincount(y, minlength=classes), 1)
    weights = len(y) / (classes * counts) if spec.class_weight else np.ones(classes)
    return weights.astype(np.float32)


class StackedHeads(keras.Model):
    """The model of K heads.

    Attributes:
        layer_variables: The variables of all layers, in the order of ``head_weights``.
        size: The number of their values.
        train_loop: Trains on a block of batches, see ``compile_steps``.
        test_loop: Measures on a block of batches.
    """

    train_loop: Any
    test_loop: Any

    def __init__(self, specs: Sequence[HeadSpec], rows: FoldData) -> None:
        super().__init__()
        self.specs, self.classes = list(specs), rows.classes
        outputs = 1 if rows.classes == 2 else rows.classes
        widths = (rows.X.shape[1], *(specs[0].units or ()), outputs)
        self.blocks = [self._block(i, *widths[i : i + 2]) for i in range(len(widths) - 1)]
        self.layer_variables = [v for block in self.blocks for v in block]
        self.size = sum(math.prod(variable.shape) for variable in self.layer_variables)
        # The same seeds in every stack, see ``drop``.
        self.draws = [keras.random.SeedGenerator(layer) for layer in range(len(self.blocks) - 1)]
        self.totals = {name: HeadMean(len(specs), name) for name in ("cross_entropy", "accuracy")}
        rates = [[s.dropout or 0.0, s.l2 or 0.0, s.label_smoothing or 0.0] for s in specs]
        dropout, self.penalties, self.smoothing = np.array(rates, np.float32).T
        self.dropout = dropout[:, None]
        # A variable: other rows of the same shape need no other compiled function.
        shape = rows.classes, len(specs)
        self.class_weights = self.add_weight(shape, "ones", trainable=False, name="class_weights")
        self.built = True

    def start(self, y: Labels, state: Weights | None = None) -> None:
        """Set all variables for rows of some classes, to a ``head_state`` or to begin anew."""
        weights = [class_weights(y, self.classes, spec) for spec in self.specs]
        self.class_weights.assign(np.stack(weights, axis=1))
        values = iter(state) if state else self._first_state()
        for variable, value in zip(self.state_variables(), values, strict=True):
            variable.assign(value)

    def _first_state(self) -> Iterator[Any]:
        for layer, (kernel, *others) in enumerate(self.blocks):
            seeds, sizes = [spec.seed or 0 for spec in self.specs], kernel.shape[::2]
            yield np.stack([_glorot(seed, layer, *sizes) for seed in seeds], axis=1)
            for variable, (_, start, _) in zip(others, VARIABLES, strict=False):
                yield np.full(variable.shape, start == "ones", np.float32)
        yield from ([layer, 0] for layer in range(len(self.draws)))
        rest = self.state_variables()[len(self.layer_variables) + len(self.draws) :]
        yield from (np.zeros(variable.shape, variable.dtype) for variable in rest)

    def state_variables(self) -> list[Any]:
        """Return every variable that training changes."""
        # The learning rate is no state: it is the setting of the first head.
        optimizer = [v for i, v in enumerate(self.optimizer.variables) if i != 1]
        return [*self.layer_variables, *(draw.state for draw in self.draws), *optimizer]

    def head_state(self, heads: Sequence[int]) -> Weights:
        """Return the state that some heads continue from: weights, dropout and optimizer."""
        values = (fetch(variable) for variable in self.state_variables())
        return [value.take(heads, axis=-2) if value.ndim > 1 else value for value in values]

    def head_weights(self, heads: Sequence[int]) -> list[Weights]:
        """Return the weights of some heads in the order of plain Keras layers.

        Returns:
            A list per head. For each layer it has kernel, bias and, if the layer is normalised,
            gamma, beta, mean and variance.
        """
        values = [fetch(variable) for variable in self.layer_variables]
        return [[np.ascontiguousarray(value[..., k, :]) for value in values] for k in heads]

    def _block(self, layer: int, inputs: int, outputs: int) -> list[Any]:
        """Create the variables of one layer of every head."""
        normalised = layer < len(self.specs[0].units or ()) and self.specs[0].batch_normalisation
        shape = (inputs, len(self.specs), outputs)
        return [self.add_weight(shape, "zeros", name="kernel")] + [
            self.add_weight(shape[1:], start, trainable=trainable, name=name)
            for name, start, trainable in VARIABLES[: None if normalised else 1]
        ]

    def call(self, x: Any, training: bool = False) -> Any:
        """Return the logits (B, K, C) of the rows (B, D)."""
        activation = keras.activations.get(self.specs[0].activation)
        for layer, (kernel, bias, *normalisation) in enumerate(self.blocks):
            if layer == 0:
                wide = ops.matmul(x, ops.reshape(kernel, (kernel.shape[0], -1)))
                x = ops.reshape(wide, (-1, *kernel.shape[1:])) + bias
            else:
                x = ops.einsum("bki,iko->bko", x, kernel) + bias
            if layer < len(self.blocks) - 1:
                if normalisation:
                    x = self.normalise(x, normalisation, training)
                x = activation(x)
                if training and self.dropout.any():
                    x = self.drop(x, layer)
        return x

    def normalise(self, hidden: Any, variables: list[Any], training: bool) -> Any:
        """Compute Keras' BatchNormalization of each head's (B, U) in (B, K, U)."""
        gamma, beta, *moments = variables
        mean, variance = moments
        if training:
            mean, variance = ops.mean(hidden, axis=0), ops.var(hidden, axis=0)
            for moving, batch in zip(moments, (mean, variance), strict=True):
                moving.assign(moving * BN_MOMENTUM + batch * (1 - BN_MOMENTUM))
        return (hidden - mean) * (gamma * ops.rsqrt(variance + BN_EPSILON)) + beta

    def drop(self, hidden: Any, layer: int) -> Any:
        """Apply dropout to (B, K, U), with each head's rate and seed.

        One 32-bit number is drawn per row and unit, the same in every stack. Each head hashes it
        with an odd factor and an offset from its seed (multiply-shift, wrapping around). That is a
        bijection, so each mask is as random as the draw; the masks of two seeds are pairwise
        independent; and a head has the same mask alone and in a stack. Drawing (B, K, U) numbers
        would cost more than all other element-wise work of the layer.
        """
        # The batch always has its full size, and every compiler can draw a fixed shape.
        shape = (self.specs[0].batch_size, 1, hidden.shape[2])
        low, high = -(2**31), 2**31
        bits = keras.random.randint(shape, low, high - 1, dtype="int32", seed=self.draws[layer])
        keys = [np.random.default_rng([s.seed or 0, layer, 1]) for s in self.specs]
        hashes = np.array([key.integers(low, high, 2, dtype=np.int32) for key in keys])
        factor, offset = hashes.T[..., None]
        limit = (low + self.dropout.astype(np.float64) * 2**32).astype(np.int32)
        mixed = bits * ops.convert_to_tensor(factor | 1) + ops.convert_to_tensor(offset)
        scale = ops.convert_to_tensor(1 / (1 - self.dropout))
        return ops.where(mixed >= ops.convert_to_tensor(limit), hidden * scale, 0.0)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the sum of the heads' losses; each is a mean over the rows plus a penalty."""
        truth, counts, logs = self._compare(y, y_pred)
        smoothing = ops.convert_to_tensor(self.smoothing)
        losses = -(1 - smoothing) * ops.sum(truth * logs, axis=-1)
        losses = losses - smoothing * ops.mean(logs, axis=-1)
        losses = losses * ops.matmul(truth[:, 0], self.class_weights)
        loss = ops.sum(losses * counts) / ops.sum(counts)
        if self.penalties.any():
            penalties = ops.convert_to_tensor(self.penalties)
            for kernel, *_ in self.blocks:
                loss = loss + ops.sum(ops.sum(ops.square(kernel), axis=(0, 2)) * penalties)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update each head's cross-entropy and accuracy, without smoothing, weight or penalty."""
        truth, counts, logs = self._compare(y, y_pred)
        correct = ops.equal(ops.argmax(logs, axis=-1), ops.argmax(truth, axis=-1))
        self.totals["cross_entropy"].update_state(-ops.sum(truth * logs, axis=-1), counts)
        self.totals["accuracy"].update_state(ops.cast(correct, "float32"), counts)
        return self.get_metrics_result()

    def _compare(self, y: Any, logits: Any) -> tuple[Any, Any, Any]:
        """Return one-hot classes (B, 1, C), 0 or 1 per row (B, 1) and log scores (B, K, C).

        Rows of class -1 fill up a batch and count as 0.
        """
        if self.classes == 2:
            logits = [keras.activations.log_sigmoid(z) for z in (-logits, logits)]
            logs = ops.concatenate(logits, axis=-1)
        else:
            logs = keras.activations.log_softmax(logits)
        return ops.one_hot(y, self.classes)[:, None], ops.cast(y >= 0, "float32")[:, None], logs


class HeadMean(keras.metrics.Metric):
    """A mean over rows for each of K heads."""

    def __init__(self, heads: int, name: str) -> None:
        super().__init__(name=name)
        self.total = self.add_variable(shape=(heads,), initializer="zeros", name="total")
        self.rows = self.add_variable(shape=(), initializer="zeros", name="rows")

    def update_state(self, values: Any, counts: Any) -> None:
        """Add values (B, K) of rows that count 0 or 1, (B, 1)."""
        self.total.assign(self.total + ops.sum(values * counts, axis=0))
        self.rows.assign(self.rows + ops.sum(counts))

    def result(self) -> Any:
        """Return the means, (K,)."""
        return self.total / ops.maximum(self.rows, 1.0)


def _glorot(seed: int, layer: int, inputs: int, outputs: int) -> Rows:
    """Draw the initial kernel (inputs, outputs) as Keras' Dense does: Glorot uniform."""
    limit = math.sqrt(6 / (inputs + outputs))
    drawn = np.random.default_rng([seed, layer, 0]).random((inputs, outputs), np.float32)
    return (drawn * 2 - 1) * np.float32(limit)
