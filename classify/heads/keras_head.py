"""Keras heads, as many as wanted at once. Only Keras 3's own API: they train on every backend."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Features, flatten
from classify.data.views import RandomViews
from classify.heads.parallel_fit import Course, History, fit_group
from classify.heads.parallel_heads import BN_EPSILON, BN_MOMENTUM, Rows
from classify.settings.head_spec import HeadSpec, groups_of
from extract.core.console import progress
from extract.core.errors import HeadError
from extract.trunks.backend import load_keras

# Rows in one call of a trained head: bounds what a feature map's hidden layer takes.
PREDICT_ROWS = 256
FILE = "head.keras"


class DenseHead:
    """Flatten, hidden layers each with dropout, and an output layer; ``linear`` hides none.

    Two classes get one sigmoid output and binary cross-entropy, more get softmax and categorical
    cross-entropy.

    Attributes:
        spec: The settings; a head that was loaded has none.
        history: Curves of the fit: ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``. They
            end before a loss that is no number.
        failed: Why the head is of no use; None where it trained.
    """

    def __init__(self, spec: HeadSpec | None = None, model: Any = None) -> None:
        self.spec = spec or HeadSpec("dense")
        self.history: History = {}
        self.failed: str | None = None
        self._model = model

    @property
    def model(self) -> Any:
        """The Keras model: from features to scores, one sigmoid where there are two classes."""
        return self._model

    def fit(
        self,
        X: Features,
        y: NDArray[np.int64],
        X_validation: Features,
        y_validation: NDArray[np.int64],
    ) -> "DenseHead":
        """Train on (X, y): ``fit_heads`` of this one head, with its arguments.

        Raises:
            HeadError: The loss did not stay finite.
        """
        head = fit_heads([self.spec], X, y, X_validation, y_validation)[0]
        if head.failed:
            raise HeadError(head.failed)
        return head

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) float32 scores, 0 to 1; each row sums to 1.
        """
        ops = load_keras().ops
        # Called directly: Model.predict costs 50 ms a call and traces anew for each batch size.
        outputs = [
            np.asarray(
                ops.convert_to_numpy(
                    self._model(ops.convert_to_tensor(X[start : start + PREDICT_ROWS]))
                )
            )
            for start in range(0, len(X), PREDICT_ROWS)
        ]
        scores = np.concatenate(outputs)
        return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""
        outputs = 1 if classes == 2 else classes
        return (self._model.input_shape, self._model.output_shape) == (
            (None, *shape),
            (None, outputs),
        )

    def save(self, folder: Path) -> None:
        """Write the head into a folder, as ``head.keras``."""
        self._model.save(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "DenseHead":
        """Read what ``save`` wrote, in Keras' safe mode: nothing from the file is run as code."""
        model = load_keras().saving.load_model(folder / FILE, compile=False, safe_mode=True)
        return cls(model=model)


def fit_heads(
    specs: Sequence[HeadSpec],
    X: Features | RandomViews,
    y: NDArray[np.int64],
    X_validation: Features,
    y_validation: NDArray[np.int64],
    halving: bool = False,
    order_seed: int = 0,
) -> list[DenseHead]:
    """Train heads, those of one shape together in one model with Keras' own ``fit``.

    A head is the same (to rounding) whichever others train with it. Its seed decides its first
    weights and its dropout; the order of the rows is common to all. Groups (``groups_of``) run one
    after another: who wants each when it is finished calls this group by group.

    Args:
        specs: ``dense`` and ``linear`` heads.
        X: (A, *shape) float32 features, vectors or feature maps; in memory or not, which decides
            the order in which they can be mixed; or ``RandomViews`` of them.
        y: (A,) int64 classes 0 to K - 1, each with a row.
        X_validation: (B, *shape) float32; they decide nothing but when to stop: with patience, and
            with halving.
        y_validation: (B,) int64 classes.
        halving: Whether the worse half of each group, by validation loss, trains no further after
            an eighth, a quarter and half of the epochs.
        order_seed: Decides the order of the rows in each epoch.

    Returns:
        A trained head a spec. A head whose loss did not stay finite has ``failed``.
    """
    own = X.flat() if isinstance(X, RandomViews) else flatten(X)
    rows = Rows(own, y, flatten(X_validation), y_validation)
    heads: dict[int, DenseHead] = {}
    total = sum(spec.epochs or 0 for spec in specs)
    with progress(total, "epoch", label=specs[0].head if len(specs) == 1 else "heads") as bar:
        for group in groups_of(specs):
            courses = fit_group([specs[i] for i in group], rows, halving, order_seed, bar)
            for position, course in zip(group, courses, strict=True):
                heads[position] = _head(course, X.shape[1:], rows.classes)
    return [heads[position] for position in range(len(specs))]


def _head(course: Course, shape: tuple[int, ...], classes: int) -> DenseHead:
    """Make a plain Keras model of what was trained in a stack."""
    head = DenseHead(course.spec, _build(load_keras(), course.spec, shape, classes))
    head._model.set_weights(course.weights)
    head.history, head.failed = course.history, course.failed
    return head


def _build(keras: Any, spec: HeadSpec, shape: tuple[int, ...], classes: int) -> Any:
    """Build the model of one head, to be given the weights that were trained in a stack."""
    layers = keras.layers
    dense = functools.partial(layers.Dense, kernel_initializer="zeros")
    two = classes == 2
    hidden = []
    for width in spec.units or ():
        if spec.batch_normalisation:
            hidden += [
                dense(width),
                layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=BN_EPSILON),
                layers.Activation(spec.activation),
            ]
        else:
            hidden.append(dense(width, activation=spec.activation))
        hidden.append(layers.Dropout(spec.dropout, seed=(spec.seed or 0) + len(hidden)))
    output = dense(1 if two else classes, activation="sigmoid" if two else "softmax")
    flatten = [layers.Flatten()] if len(shape) > 1 else []
    return keras.Sequential([keras.Input(shape), *flatten, *hidden, output], name=spec.head)
