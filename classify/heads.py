"""The dense head in Keras. Only Keras 3's own API, so that it trains on every backend."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.config import HeadSpec
from extract.backend import load_keras
from extract.console import progress
from extract.errors import HeadError

# Rows in one call of a trained head: bounds what a feature map's hidden layer takes.
PREDICT_ROWS = 256
FILE = "head.keras"

History = dict[str, list[float]]


class DenseHead:
    """Flatten, a hidden layer with ReLU, dropout, and an output layer, as in the course.

    Two classes get one sigmoid output and binary cross-entropy, more get softmax and categorical
    cross-entropy.

    Attributes:
        spec: The settings; a head that was loaded has none.
        history: Keras' curves of the fit: ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``.
    """

    def __init__(self, spec: HeadSpec | None = None, model: Any = None) -> None:
        self.spec = spec or HeadSpec("dense")
        self.history: History = {}
        self._model = model

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.int64],
        X_validation: NDArray[np.float32],
        y_validation: NDArray[np.int64],
    ) -> "DenseHead":
        """Train on (X, y) with Keras' own ``fit``; the validation rows give the curves.

        Seeds Python's, NumPy's and the backend's global generators.

        Args:
            X: (A, *shape) float32 features, vectors or feature maps.
            y: (A,) int64 classes 0 to K - 1, each with a row.
            X_validation: (B, *shape) float32; they decide nothing but when to stop, with patience.
            y_validation: (B,) int64 classes.

        Returns:
            The head itself.

        Raises:
            HeadError: The loss did not stay finite.
        """
        keras, spec = load_keras(), self.spec
        keras.utils.set_random_seed(spec.seed)
        self._model = _build(keras, spec, X.shape[1:], int(y.max()) + 1)
        with progress(spec.epochs or 0, "epoch", label=spec.head) as bar:
            fitted = self._model.fit(
                X,
                y,
                batch_size=spec.batch_size,
                epochs=spec.epochs,
                validation_data=(X_validation, y_validation),
                callbacks=_callbacks(keras, spec, bar),
                verbose=0,
            )
        self.history = {name: [float(v) for v in values] for name, values in fitted.history.items()}
        if not np.isfinite(self.history["loss"]).all():
            raise HeadError(
                f"{spec.head}: the loss is {self.history['loss'][-1]} in epoch "
                f"{len(self.history['loss'])}; expected a number; try a lower --learning-rate"
            )
        return self

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


def _build(keras: Any, spec: HeadSpec, shape: tuple[int, ...], classes: int) -> Any:
    """Build and compile the model."""
    layers = keras.layers
    two = classes == 2
    model = keras.Sequential(
        [
            keras.Input(shape),
            *([layers.Flatten()] if len(shape) > 1 else []),
            layers.Dense(spec.units, activation="relu"),
            layers.Dropout(spec.dropout),
            layers.Dense(
                1 if two else classes,
                activation="sigmoid" if two else "softmax",
            ),
        ],
        name=spec.head,
    )
    model.compile(
        optimizer=_optimizer(keras, spec),
        loss="binary_crossentropy" if two else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _optimizer(keras: Any, spec: HeadSpec) -> Any:
    settings = {"momentum": spec.momentum, "nesterov": spec.nesterov}
    given = {name: value for name, value in settings.items() if value is not None}
    kind = {"rmsprop": "RMSprop", "sgd": "SGD", "adam": "Adam"}[spec.optimizer or ""]
    return getattr(keras.optimizers, kind)(learning_rate=spec.learning_rate, **given)


def _callbacks(keras: Any, spec: HeadSpec, bar: Any) -> list[Any]:
    """Return what Keras calls after each epoch: the bar, the stop at NaN, the patience."""

    def show(epoch: int, logs: dict[str, float]) -> None:
        bar.set_postfix_str(f"validation accuracy {logs['val_accuracy']:.3f}")
        bar.update(1)
        if not math.isfinite(logs["loss"]):
            caller.model.stop_training = True

    caller = keras.callbacks.LambdaCallback(on_epoch_end=show)
    if spec.patience is None:
        return [caller]
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=spec.patience, restore_best_weights=True
    )
    return [caller, stop]
