"""Many Keras heads of one shape as one model: stacked kernels, one pass over the rows for all.

Every variable has the heads on its last axis but one: kernels (inputs, K, outputs), biases and
normalisation (K, outputs). So the first layer, which all heads feed the same rows, is one plain
matrix product with a kernel of (inputs, K * outputs); one (K, 1) tensor broadcasts over whatever
is per head, the rate of the optimizer included; and leaving heads out is one slice everywhere.

What a head becomes does not depend on who is in the stack with it: the order of the rows has a
seed of its own, first weights come from the head's seed by NumPy (so they are the same on every
backend), and so does the dropout, see ``_Stack.drop``. No head's loss reaches another's weights.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.settings.head_spec import HeadSpec
from extract.trunks.backend import fetch, load_keras

# Keras' own.
BN_MOMENTUM, BN_EPSILON = 0.99, 1e-3
OPTIMIZERS = {"rmsprop": "RMSprop", "sgd": "SGD", "adam": "Adam"}

Weights = list[NDArray[Any]]


class Rows(NamedTuple):
    """What a stack is trained on and judged on: (A, D) and (B, D) float32, their int64 classes.

    The features are arrays, or ``rows.StoredRows``.
    """

    X: Any
    y: NDArray[np.int64]
    X_validation: Any
    y_validation: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.y.max()) + 1


def build_stack(specs: Sequence[HeadSpec], rows: Rows, state: Weights | None = None) -> Any:
    """Build and compile one model of many heads.

    Args:
        specs: K heads of one group of ``config.groups_of``.
        rows: What they will be trained on.
        state: What ``stack_state`` gave of these heads; None begins anew.

    Returns:
        A ``keras.Model`` from (B, D) to logits (B, K, C), with C = 1 for two classes.
    """
    keras, spec = load_keras(), specs[0]
    stack = _model_class()(specs, rows)
    given = {"momentum": spec.momentum, "nesterov": spec.nesterov}
    optimizer = _optimizer_class(OPTIMIZERS[spec.optimizer or ""])(
        learning_rate=spec.learning_rate,
        **{name: value for name, value in given.items() if value is not None},
    )
    rates = np.array([[s.learning_rate or 0.0] for s in specs])
    if (rates != rates[0]).any():
        optimizer.rates = keras.ops.convert_to_tensor((rates / rates[0]).astype(np.float32))
    stack.compile(optimizer=optimizer)
    optimizer.build(stack.trainable_variables)
    for variable, value in zip(_state_variables(stack), state or [], strict=bool(state)):
        variable.assign(value)
    return stack


def _state_variables(stack: Any) -> list[Any]:
    # The rate is a setting and not a state: it is the first head's, whoever is first.
    rate = stack.optimizer.variables[1]
    return [*stack.state, *(v for v in stack.optimizer.variables if v is not rate)]


def stack_state(stack: Any, heads: Sequence[int]) -> Weights:
    """Return what some heads of a stack go on from: weights, dropout, the optimizer's memory."""
    values = (fetch(variable) for variable in _state_variables(stack))
    return [value.take(heads, axis=-2) if value.ndim > 1 else value for value in values]


def head_weights(stack: Any, heads: Sequence[int]) -> list[Weights]:
    """Return some heads' weights as the plain Keras layers of a head have them.

    Args:
        stack: Of K heads.
        heads: Which of them, 0 to K - 1.

    Returns:
        A list a head in the order of its layers: kernel, bias and, where the layer is normalised,
        gamma, beta, mean, variance; and so on for each layer.
    """
    values = [fetch(variable) for variable in stack.layer_variables]
    return [[np.ascontiguousarray(value[..., k, :]) for value in values] for k in heads]


@functools.cache
def _model_class() -> Any:
    """Join ``_Stack`` to Keras' Model, which is not to be imported with this file."""
    return type("Stack", (_Stack, load_keras().Model), {})


@functools.cache
def _optimizer_class(name: str) -> Any:
    """Return a Keras optimizer that multiplies its rate by a (K, 1) tensor, ``rates``."""
    base = getattr(load_keras().optimizers, name)

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = learning_rate if self.rates is None else learning_rate * self.rates
        base.update_step(self, gradient, variable, rate)

    return type(name, (base,), {"rates": None, "update_step": update_step})


class _Stack:
    """The model; ``_model_class`` adds ``keras.Model``.

    Attributes:
        layer_variables: What ``head_weights`` takes apart.
        state: Every variable that training changes, the dropout's included.
    """

    add_weight: Any
    metrics: Any
    get_metrics_result: Any

    def __init__(self, specs: Sequence[HeadSpec], rows: Rows) -> None:
        super().__init__()
        self.specs, self.classes = list(specs), rows.classes
        self.outputs_wide = 1 if rows.classes == 2 else rows.classes
        widths = (rows.X.shape[1], *(specs[0].units or ()), self.outputs_wide)
        self.blocks = [self._block(i, *widths[i : i + 2]) for i in range(len(widths) - 1)]
        self.layer_variables = [v for block in self.blocks for v in block]
        random = load_keras().random
        # The same draws for every stack: see ``drop``.
        self.draws = [random.SeedGenerator(layer) for layer in range(len(self.blocks) - 1)]
        self.state = [*self.layer_variables, *(draw.state for draw in self.draws)]
        self.totals = [_mean_class()(len(specs), name) for name in ("losses", "accuracies")]
        self._tables(rows)
        self.built = True

    def _block(self, layer: int, inputs: int, outputs: int) -> list[Any]:
        """Make the variables of one layer of every head."""
        count, hidden = len(self.specs), layer < len(self.specs[0].units or ())
        first = np.stack([_glorot(s.seed or 0, layer, inputs, outputs) for s in self.specs], axis=1)
        block = [
            self.add_weight(
                shape=(inputs, count, outputs), initializer=lambda *_, **__: first, name="kernel"
            ),
            self.add_weight(shape=(count, outputs), initializer="zeros", name="bias"),
        ]
        if hidden and self.specs[0].batch_normalisation:
            block += [
                self.add_weight(
                    shape=(count, outputs), initializer=start, trainable=trainable, name=name
                )
                for name, start, trainable in (
                    ("gamma", "ones", True),
                    ("beta", "zeros", True),
                    ("mean", "zeros", False),
                    ("variance", "ones", False),
                )
            ]
        return block

    def _tables(self, rows: Rows) -> None:
        """Lay out the settings that are per head."""
        specs = self.specs
        self.rates = np.array([[s.dropout or 0.0] for s in specs], np.float32)
        self.penalties = np.array([s.l2 or 0.0 for s in specs], np.float32)
        self.smoothing = np.array([s.label_smoothing or 0.0 for s in specs], np.float32)
        balanced = len(rows.y) / (self.classes * np.bincount(rows.y, minlength=self.classes))
        weights = [balanced if s.class_weight else np.ones(self.classes) for s in specs]
        self.class_weights = np.array(weights, np.float32).T

    def call(self, x: Any, training: bool = False) -> Any:
        """Return the logits (B, K, C) of the rows (B, D)."""
        keras, count = load_keras(), len(self.specs)
        ops, hidden = keras.ops, x
        activation = keras.activations.get(self.specs[0].activation)
        for layer, (kernel, bias, *normalisation) in enumerate(self.blocks):
            if layer == 0:
                wide = ops.matmul(hidden, ops.reshape(kernel, (kernel.shape[0], -1)))
                hidden = ops.reshape(wide, (-1, count, kernel.shape[2])) + bias
            else:
                hidden = ops.einsum("bki,iko->bko", hidden, kernel) + bias
            if layer < len(self.blocks) - 1:
                if normalisation:
                    hidden = self.normalise(hidden, normalisation, training)
                hidden = activation(hidden)
                if training and self.rates.any():
                    hidden = self.drop(hidden, layer)
        return hidden

    def normalise(self, hidden: Any, variables: list[Any], training: bool) -> Any:
        """Do to (B, K, U) what Keras' BatchNormalization does to each head's (B, U)."""
        ops = load_keras().ops
        gamma, beta, mean, variance = variables
        if training:
            now = ops.mean(hidden, axis=0), ops.var(hidden, axis=0)
            for kept, seen in zip((mean, variance), now, strict=True):
                kept.assign(kept * BN_MOMENTUM + seen * (1 - BN_MOMENTUM))
            mean, variance = now
        return (hidden - mean) * (gamma * ops.rsqrt(variance + BN_EPSILON)) + beta

    def drop(self, hidden: Any, layer: int) -> Any:
        """Drop a share of (B, K, U) that each head's rate gives, by its own seed.

        One 32-bit number is drawn a row and unit, the same in every stack, and each head hashes it
        with the odd factor and the offset that its seed gives (multiply-shift, wrapping around).
        That is a bijection, so each head's mask is as random as the draw; masks of two seeds are
        independent of each other pair by pair; and a head drops the same alone and in a stack.
        Drawing (B, K, U) numbers instead would cost more than the layer's other element-wise work.
        """
        keras = load_keras()
        ops = keras.ops
        # The batch always has its full size, and a draw of a fixed shape suits every compiler.
        shape = (self.specs[0].batch_size, 1, hidden.shape[2])
        bits = keras.random.randint(
            shape, -(2**31), 2**31 - 1, dtype="int32", seed=self.draws[layer]
        )
        keys = [np.random.default_rng([s.seed or 0, layer, 1]) for s in self.specs]
        factor, offset = np.array(
            [key.integers(-(2**31), 2**31, 2, dtype=np.int32) for key in keys]
        ).T[..., None]
        limit = (-(2**31) + self.rates.astype(np.float64) * 2**32).astype(np.int32)
        kept = ops.convert_to_tensor(1 / (1 - self.rates))
        mixed = bits * ops.convert_to_tensor(factor | 1) + ops.convert_to_tensor(offset)
        return ops.where(mixed >= ops.convert_to_tensor(limit), hidden * kept, 0.0)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the sum of the heads' losses: each is the mean over the rows, plus its penalty."""
        del x, sample_weight, training
        ops = load_keras().ops
        truth, present, logs = self._judge(y, y_pred)
        smoothing = ops.convert_to_tensor(self.smoothing)
        costs = -(1 - smoothing) * ops.sum(truth * logs, axis=-1)
        costs = costs - smoothing * ops.mean(logs, axis=-1)
        costs = costs * ops.matmul(truth[:, 0], ops.convert_to_tensor(self.class_weights))
        loss = ops.sum(costs * present) / ops.sum(present)
        if self.penalties.any():
            penalties = ops.convert_to_tensor(self.penalties)
            for kernel, *_ in self.blocks:
                loss = loss + ops.sum(ops.sum(ops.square(kernel), axis=(0, 2)) * penalties)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch to each head's mean loss and accuracy; no smoothing, weight or penalty."""
        del x, sample_weight
        ops = load_keras().ops
        truth, present, logs = self._judge(y, y_pred)
        right = ops.equal(ops.argmax(logs, axis=-1), ops.argmax(truth, axis=-1))
        self.totals[0].update_state(-ops.sum(truth * logs, axis=-1), present)
        self.totals[1].update_state(ops.cast(right, "float32"), present)
        return self.get_metrics_result()

    def _judge(self, y: Any, logits: Any) -> tuple[Any, Any, Any]:
        """Return the truth (B, 1, C) as 0 and 1, which rows count (B, 1), log scores (B, K, C).

        A class of -1 marks a row that only fills its batch.
        """
        keras = load_keras()
        ops = keras.ops
        if self.classes == 2:
            positive = keras.activations.log_sigmoid
            logs = ops.concatenate([positive(-logits), positive(logits)], axis=-1)
        else:
            logs = keras.activations.log_softmax(logits)
        present = ops.cast(y >= 0, "float32")[:, None]
        return ops.one_hot(y, self.classes)[:, None], present, logs


class _Mean:
    """A mean over rows for each of K heads; ``_mean_class`` adds ``keras.metrics.Metric``."""

    add_variable: Any

    def __init__(self, count: int, name: str) -> None:
        super().__init__(name=name)  # type: ignore[call-arg]
        self.total = self.add_variable(shape=(count,), initializer="zeros", name="total")
        self.rows = self.add_variable(shape=(), initializer="zeros", name="rows")

    def update_state(self, values: Any, present: Any) -> None:
        """Add the values (B, K) of the rows that count, (B, 1)."""
        ops = load_keras().ops
        self.total.assign(self.total + ops.sum(values * present, axis=0))
        self.rows.assign(self.rows + ops.sum(present))

    def result(self) -> Any:
        """Return the means, (K,)."""
        return self.total / load_keras().ops.maximum(self.rows, 1.0)


@functools.cache
def _mean_class() -> Any:
    return type("Mean", (_Mean, load_keras().metrics.Metric), {})


def _glorot(seed: int, layer: int, inputs: int, outputs: int) -> NDArray[np.float32]:
    """Draw first weights (inputs, outputs) as Keras' Dense does: Glorot's uniform."""
    limit = math.sqrt(6 / (inputs + outputs))
    drawn = np.random.default_rng([seed, layer, 0]).random((inputs, outputs), np.float32)
    return (drawn * 2 - 1) * np.float32(limit)
