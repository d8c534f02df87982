"""Keras heads. They use only Keras 3's own API, so that they train on every backend.

A saved head of plain layers scores in NumPy, and Keras is never loaded.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from classify.heads.plain_model import PlainModel, make_plain, read_plain
from classify.settings.head_spec import HeadSpec, groups_of
from classify.stored.out_of_core import Rows, flatten
from classify.stored.views import FoldData, RandomViews
from extract.core.errors import HeadError, HeadstartError, first_line
from extract.display.progress import progress
from extract.trunks.backend import fetch, load_keras

# Rows in one call of a trained head: bounds the memory of the hidden layers of a feature map.
PREDICT_ROWS = 256
FILE = "head.keras"
# The values of a row in any layer, or times those of the input: the blocks of a trunk widen them by
# 6. A layer that repeats its input would fill the memory.
_MOST_VALUES, _MOST_TIMES = 2**20, 16


class DenseHead:
    """Flatten, hidden layers each with dropout, and an output layer; ``linear`` hides none.

    Two classes get one sigmoid output and binary cross-entropy, more get softmax and categorical
    cross-entropy.

    Attributes:
        spec: The settings; the defaults for a loaded head.
        history: Curves of the fit: ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``. They
            end before a loss that is not finite.
        failed: Why the head cannot be used, or None.
        plain: The head in NumPy; None where it has other layers than plain ones.
    """

    def __init__(
        self,
        spec: HeadSpec | None = None,
        model: Any = None,
        plain: PlainModel | None = None,
        path: Path | None = None,
    ) -> None:
        self.spec, self.plain, self._path = spec or HeadSpec("dense"), plain, path
        self.history: dict[str, list[float]] = {}
        self.failed: str | None = None
        if model is not None:
            self.model = model

    @cached_property
    def model(self) -> Any:
        """The Keras model from features to scores, with one sigmoid for two classes."""
        assert self._path
        try:
            return _load(self._path)
        except HeadstartError:
            raise
        except Exception as error:  # Keras can raise anything for a damaged file
            problem = f"Keras cannot read it: {first_line(error)[:200]}"
            raise HeadError(f"{self._path}: {problem}; train the head again") from error

    def fit(self, rows: FoldData) -> "DenseHead":
        """Train as ``fit_heads`` does.

        Raises:
            HeadError: The loss did not stay finite.
        """
        head = fit_heads([self.spec], rows)[0]
        if head.failed:
            raise HeadError(head.failed)
        return head

    def predict_proba(self, X: Rows) -> Rows:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) float32 scores, 0 to 1; each row sums to 1.
        """
        batches = (X[start : start + PREDICT_ROWS] for start in range(0, len(X), PREDICT_ROWS))
        score = self.plain.predict if self.plain else self._score
        scores = np.concatenate(list(map(score, batches)))
        return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Return whether the head takes rows of this shape and scores this many classes."""
        outputs = 1 if classes == 2 else classes
        model = self.plain or self.model
        shapes = model.input_shape, model.output_shape
        return shapes == ((None, *shape), (None, outputs))

    def _score(self, X: Rows) -> Rows:
        # A direct call: Model.predict takes 50 ms per call and traces each batch size anew.
        return fetch(self.model(load_keras().ops.convert_to_tensor(X)))

    def save(self, folder: Path) -> None:
        """Write the head to ``head.keras`` in a folder."""
        self.model.save(folder / FILE)

    @classmethod
    def load(cls, folder: Path, head: str = "dense") -> "DenseHead":
        """Read a saved head in Keras' safe mode, which runs no code from the file."""
        path = folder / FILE
        plain = read_plain(path, path.stat().st_size)
        if plain and plain.most_values <= _most_values(plain):
            return cls(plain=plain, path=path)
        return cls(model=_load(path))


def _load(path: Path) -> Any:
    """Load the Keras model of a head."""
    from extract.trunks.model_file import load_model

    model = load_model(path, path.stat().st_size)
    _check_layers(model, _most_values(model))
    return model


def _most_values(model: Any) -> int:
    return int(max(_MOST_VALUES, _MOST_TIMES * math.prod(model.input_shape[1:])))


def _check_layers(model: Any, most: int) -> None:
    """Raise ValueError if a layer makes a row very large, in a model within the model, too."""
    keras = load_keras()
    for layer in model.layers:
        shapes = [tensor.shape[1:] for tensor in keras.tree.flatten(layer.output)]
        values = sum(math.prod(side or 1 for side in shape) for shape in shapes)
        if values > most:
            found = f"found {values:,} values of a row in the layer {layer.name}"
            raise ValueError(f"{found}; expected at most {most:,}")
        if hasattr(layer, "layers"):
            _check_layers(layer, most)


def fit_heads(
    specs: Sequence[HeadSpec],
    rows: FoldData,
    halving: bool = False,
    order_seed: int = 0,
    stacks: dict[Any, Any] | None = None,
) -> list[DenseHead]:
    """Train heads, those of one shape together in one model.

    A head is the same (up to rounding) alone and with others. Its seed decides its initial weights
    and its dropout; all heads share the order of the rows. Groups (``groups_of``) are trained one
    after another; to get each as soon as it is finished, call this once per group.

    Args:
        specs: ``dense`` and ``linear`` heads.
        rows: Vectors or feature maps. The validation rows only decide when to stop, with patience
            or halving. The order of rows in a store differs from that of rows in memory.
        halving: Stop the half of each group with the higher validation loss after an eighth, a
            quarter and half of the epochs.
        order_seed: Seed of the order of the rows in each epoch.
        stacks: Keeps the last compiled model for further calls with other rows of the same shape.

    Returns:
        A trained head per spec. A head whose loss did not stay finite has ``failed``.
    """
    from classify.heads.parallel_fit import fit_group

    X, shape = rows.X, rows.X.shape[1:]
    X = X.flat() if isinstance(X, RandomViews) else flatten(X)
    rows = rows._replace(X=X, X_validation=flatten(rows.X_validation))
    heads: dict[int, DenseHead] = {}
    total = sum(spec.epochs or 0 for spec in specs)
    label = specs[0].head if len(specs) == 1 else f"{len(specs)} heads together"
    with progress(total, "epochs", label=label) as bar:
        for group in groups_of(specs):
            fits = fit_group([specs[i] for i in group], rows, halving, order_seed, bar, stacks)
            for position, fit in zip(group, fits, strict=True):
                # The same head outside the stack, as a plain Keras model.
                model = build_model(fit.spec, shape, rows.classes)
                model.set_weights(fit.weights)
                plain = make_plain(load_keras().saving.serialize_keras_object(model), fit.weights)
                heads[position] = head = DenseHead(fit.spec, model, plain)
                head.history, head.failed = fit.history, fit.failed
    return [heads[position] for position in range(len(specs))]


def build_model(spec: HeadSpec, shape: tuple[int, ...], classes: int) -> Any:
    """Build the Keras model of one head with weights of zero."""
    from classify.heads.parallel_heads import BN_EPSILON, BN_MOMENTUM

    keras = load_keras()
    layers = keras.layers

    def dense(width: int, activation: str | None) -> Any:
        return layers.Dense(width, activation=activation, kernel_initializer="zeros")

    hidden: list[Any] = []
    for width in spec.units or ():
        hidden.append(dense(width, None if spec.batch_normalisation else spec.activation))
        if spec.batch_normalisation:
            hidden.append(layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=BN_EPSILON))
            hidden.append(layers.Activation(spec.activation))
        hidden.append(layers.Dropout(spec.dropout, seed=(spec.seed or 0) + len(hidden)))
    output = dense(1, "sigmoid") if classes == 2 else dense(classes, "softmax")
    flat = [layers.Flatten()] if len(shape) > 1 else []
    return keras.Sequential([keras.Input(shape), *flat, *hidden, output], name=spec.head)
