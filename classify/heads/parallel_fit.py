"""Training of a group of heads as one model.

Keras' ``fit`` does the training. After each epoch a callback reads the curves of every head and
decides which heads stop: at the last epoch, out of patience, in the worse half at a rung of
successive halving, or with a loss that is not finite. A stopped head keeps the weights it had and
trains on without effect, until a smaller model of the other heads saves more than it costs.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from classify.data.out_of_core import Epoch, Features, Labels, StoredRows
from classify.data.views import FoldData, RandomViews
from classify.heads.parallel_heads import CURVES, StackedHeads, Weights, build_stack
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from extract.core.errors import StoreError
from extract.trunks.backend import fetch
from extract.trunks.keras_import import keras

# After these shares of the epochs the worse half of the heads stops.
RUNGS = (0.125, 0.25, 0.5)
# Most rows in one validation step: bounds the memory of the hidden layers of all heads.
VALIDATION_ROWS = 256
# Compiling a smaller model takes about 1.5 s; a step costs about 5 ns per weight. So rebuilding
# pays from this many weights * steps. Time itself would make two runs differ.
WORTH_REBUILDING = 3e8

History = dict[str, list[float]]


@dataclass
class HeadFit:
    """The state of one head in training.

    Attributes:
        spec: Its settings.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch. The losses
            are mean cross-entropy without smoothing, class weights or penalty, so that heads
            compare. They end before a loss that is not finite.
        weights: The weights to keep: of the best epoch with patience, else of the last.
        best_loss: Lowest validation loss so far.
        best_epoch: Epoch of that loss, counted from 1; 0 is before the first.
        stopped: Whether its training has ended.
        failed: Why it cannot be used, or None.
    """

    spec: HeadSpec
    history: History = field(default_factory=lambda: {name: [] for name in CURVES})
    weights: Weights = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    stopped: bool = False
    failed: str | None = None

    def add_epoch(self, curves: dict[str, float]) -> bool:
        """Add the values of one epoch.

        Returns:
            Whether to keep the weights of this epoch.
        """
        epoch = len(self.history["loss"]) + 1
        if invalid := [value for value in curves.values() if not math.isfinite(value)]:
            found = f"{label(self.spec)}: the loss is {invalid[0]} in epoch {epoch}"
            self.failed = f"{found}; expected a finite number; try a lower --learning-rate"
            self.stopped = True
            return not self.weights
        for name, value in curves.items():
            self.history[name].append(value)
        if curves["val_loss"] < self.best_loss:
            self.best_loss, self.best_epoch = curves["val_loss"], epoch
        waited, patience = epoch - self.best_epoch, self.spec.patience or math.inf
        self.stopped = epoch >= (self.spec.epochs or 0) or waited >= patience
        return waited == 0 if self.spec.patience else self.stopped


def read_curves(logs: dict[str, Any]) -> list[dict[str, float]]:
    """Return the values of one epoch by curve, for each head, from Keras' logs."""
    # Keras turns an array of one element into a float.
    values = [np.atleast_1d(fetch(logs[metric])).tolist() for metric in CURVES.values()]
    return [dict(zip(CURVES, head, strict=True)) for head in zip(*values, strict=True)]


def fit_group(
    specs: Sequence[HeadSpec], rows: FoldData, halving: bool, order_seed: int, bar: Any
) -> list[HeadFit]:
    """Train heads of one shape.

    Args:
        specs: Heads of one group of ``groups_of``.
        rows: Training and validation rows.
        halving: Whether the heads with the higher validation loss stop at each of ``RUNGS``.
        order_seed: Seed of the order of the rows, the same for all heads.
        bar: Progress bar, updated by one per head and epoch.

    Returns:
        The stopped heads with their weights, in the order of ``specs``.
    """
    fits = [HeadFit(spec) for spec in specs]
    batches = _batches(rows.X, rows.y, specs[0].batch_size or 1)
    count = len(rows.y_validation)
    size = math.ceil(count / math.ceil(count / VALIDATION_ROWS))
    validation = _batches(rows.X_validation, rows.y_validation, size)
    epochs = max(spec.epochs or 0 for spec in specs)
    rungs = {math.ceil(share * epochs) for share in RUNGS} - {epochs} if halving else set()
    state, epoch = None, 0
    while active := [fit for fit in fits if not fit.stopped]:
        stack = build_stack([fit.spec for fit in active], rows, state)
        try:
            with without_limits():
                stack.fit(
                    batches,
                    epochs=epochs,
                    initial_epoch=epoch,
                    validation_data=validation,
                    callbacks=[_Callback(active, batches, order_seed, rungs, bar)],
                    shuffle=False,  # the batches shuffle themselves
                    verbose=0,
                )
        except Exception as error:
            # TensorFlow raises an error of its own for an error in reading.
            raise batches.failed or validation.failed or error from None
        epoch = max(len(fit.history["loss"]) for fit in active)
        if remaining := [k for k, fit in enumerate(active) if not fit.stopped]:
            state = stack.head_state(remaining)
    return fits


@contextmanager
def without_limits() -> Iterator[None]:
    """Let ``fit`` run all epochs and steps, whatever ``KERAS_MAX_EPOCHS`` and the like say.

    Keras' limits would end a training early, and its numbers would be those of other settings.
    """
    config = keras.config
    limits = config.max_epochs(), config.max_steps_per_epoch()
    config.set_max_epochs(None)
    config.set_max_steps_per_epoch(None)
    try:
        yield
    finally:
        config.set_max_epochs(limits[0])
        config.set_max_steps_per_epoch(limits[1])


class Batches(keras.utils.PyDataset):
    """Batches of some rows in a seeded order.

    A short last batch is filled with rows of class -1, which the loss ignores: batches of another
    size would be compiled a second time.
    """

    def __init__(self, X: Any, y: Labels, size: int, rows: Labels | None = None) -> None:
        super().__init__()
        self.X, self.y, self.size = X, y.astype(np.int32), size
        self.rows = np.arange(len(y)) if rows is None else rows
        self.order = self.rows
        self.failed: StoreError | None = None

    def shuffle(self, seed: int, epoch: int) -> None:
        """Choose the order of an epoch, and the view that each row shows in it."""
        if isinstance(self.X, RandomViews):
            self.X.draw(seed, epoch)
        self.order = np.random.default_rng([seed, epoch]).permutation(self.rows)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __getitem__(self, batch: int) -> tuple[Any, ...]:
        places = np.arange(batch * self.size, (batch + 1) * self.size)
        chosen = self.order[places % len(self.order)]
        return self.X[chosen], np.where(places < len(self.order), self.y[chosen], -1)


class StoredBatches(Batches):
    """Batches of rows of a store in the order of an ``Epoch``; fast when read in sequence."""

    def __init__(self, X: StoredRows, y: Labels, size: int) -> None:
        super().__init__(X, y, size)
        self.epoch = Epoch(X)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = Epoch(self.X, [seed, epoch])
        self.order = self.epoch.order

    def __getitem__(self, batch: int) -> tuple[Any, ...]:
        # The last batch is filled with the rows before it, which are in memory.
        stop = min((batch + 1) * self.size, len(self.order))
        start = max(0, stop - self.size)
        y = self.y[self.order[start:stop]]
        y[: batch * self.size - start] = -1
        try:
            X = self.epoch.take(start, stop)
        except StoreError as error:
            self.failed = error
            raise
        if missing := self.size - len(y):
            X = np.concatenate([X, np.repeat(X[:1], missing, axis=0)])
        return X, np.pad(y, (0, missing), constant_values=-1)


def _batches(X: Features | RandomViews, y: Labels, size: int) -> Batches:
    return StoredBatches(X, y, size) if isinstance(X, StoredRows) else Batches(X, y, size)


class _Callback(keras.callbacks.Callback):
    """Shuffles the rows before each epoch and stops heads after it."""

    def __init__(
        self, fits: list[HeadFit], batches: Batches, seed: int, rungs: set[int], bar: Any
    ) -> None:
        super().__init__()
        self.fits, self.batches, self.seed, self.rungs, self.bar = fits, batches, seed, rungs, bar

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Choose the order of the rows."""
        self.batches.shuffle(self.seed, epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the epoch to every head that is not stopped."""
        self.bar.update(sum(not fit.stopped for fit in self.fits))
        take_epoch(self.fits, self.model, logs)
        if epoch + 1 in self.rungs:
            _stop_worse_half(self.fits, self.model)
        accuracies = [max(fit.history["val_accuracy"], default=0.0) for fit in self.fits]
        self.bar.set_postfix_str(f"highest validation accuracy {max(accuracies):.3f}")
        ends = [fit.spec.epochs or 0 for fit in self.fits if not fit.stopped]
        # End ``fit`` if all heads have stopped, or if a smaller model pays.
        steps = (max(ends, default=0) - epoch - 1) * len(self.batches)
        size = sum(math.prod(v.shape) for v in self.model.layer_variables) / len(self.fits)
        saved = (len(self.fits) - len(ends)) * size * steps
        self.model.stop_training = not ends or saved > WORTH_REBUILDING


def take_epoch(fits: list[HeadFit], stack: StackedHeads, logs: dict[str, Any]) -> None:
    """Add the epoch's values to every head that is not stopped, and keep weights where needed."""
    curves = read_curves(logs)
    kept = [k for k, fit in enumerate(fits) if not fit.stopped and fit.add_epoch(curves[k])]
    _keep_weights(fits, stack, kept)


def _keep_weights(fits: list[HeadFit], stack: StackedHeads, heads: list[int]) -> None:
    for k, weights in zip(heads, stack.head_weights(heads) if heads else (), strict=True):
        fits[k].weights = weights


def _stop_worse_half(fits: list[HeadFit], stack: StackedHeads) -> None:
    """Stop the half of the heads with the higher validation loss; of three heads, stop one."""
    heads = [k for k, fit in enumerate(fits) if not fit.stopped]
    heads.sort(key=lambda k: fits[k].history["val_loss"][-1])
    worse = heads[math.ceil(len(heads) / 2) :]
    for k in worse:
        fits[k].stopped = True
    _keep_weights(fits, stack, [k for k in worse if not fits[k].spec.patience])
