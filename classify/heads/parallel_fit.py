"""Training a group of heads as one model, each until it is done.

Keras' ``fit`` does the training. A callback reads every head's curves after each epoch and decides
which heads are over: out of epochs, out of patience, beaten at a rung of successive halving, or
lost (a loss that is no number). A head that is over keeps the weights it had; it trains on unseen
until enough heads are over that a smaller model pays, and then the others go on in that one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import Epoch, Features, StoredRows
from classify.data.views import RandomViews
from classify.heads.parallel_heads import Rows, Weights, build_stack, head_weights, stack_state
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from extract.core.errors import StoreError
from extract.trunks.backend import fetch, load_keras

# After these shares of the epochs the worse half of the heads is over.
RUNGS = (0.125, 0.25, 0.5)
# Rows in one step of judging, at most: bounds what the hidden layers of all heads take.
JUDGE_ROWS = 256
# A smaller model has to be compiled, about 1.5 s; a step costs about 5 ns a weight. So leaving
# heads out pays from this many weights * steps on. Not the clock: runs must not differ by it.
WORTH_REBUILDING = 3e8

History = dict[str, list[float]]
CURVES = {"loss": "losses", "accuracy": "accuracies"}


@dataclass
class Course:
    """One head on its way.

    Attributes:
        spec: Its settings.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch: means of
            cross-entropy, without smoothing, class weights or penalty, so that heads compare.
        weights: Those to keep: of the best epoch with patience, else of the last.
        best: Lowest validation loss so far.
        over: Whether it takes no further part.
        failed: Why it has no use, or None.
    """

    spec: HeadSpec
    history: History = field(
        default_factory=lambda: {p + name: [] for p in ("", "val_") for name in CURVES}
    )
    weights: Weights = field(default_factory=list)
    best: float = math.inf
    over: bool = False
    failed: str | None = None

    def take(self, curves: dict[str, float]) -> bool:
        """Take in one more epoch.

        Args:
            curves: The epoch's value of each curve.

        Returns:
            Whether the weights of this epoch are to be kept.
        """
        epoch = len(self.history["loss"]) + 1
        wrong = [value for value in curves.values() if not math.isfinite(value)]
        if wrong:
            self.over = True
            self.failed = (
                f"{label(self.spec)}: the loss is {wrong[0]} in epoch {epoch}; expected a number; "
                "try a lower --learning-rate"
            )
            return not self.weights
        for name, value in curves.items():
            self.history[name].append(value)
        losses = self.history["val_loss"]
        better = losses[-1] < self.best
        self.best = min(losses[-1], self.best)
        patience = self.spec.patience or math.inf
        waited = epoch - 1 - losses.index(self.best)
        self.over = epoch >= (self.spec.epochs or 0) or waited >= patience
        return better if self.spec.patience else self.over


def fit_group(
    specs: Sequence[HeadSpec], rows: Rows, halving: bool, order_seed: int, bar: Any
) -> list[Course]:
    """Train heads that share a shape.

    Args:
        specs: Heads of one group, see ``config.groups_of``.
        rows: Training and validation rows.
        halving: Whether the worse half by validation loss is over at each of ``RUNGS``.
        order_seed: Decides the order of the rows, the same for all heads.
        bar: Told of each epoch of each head.

    Returns:
        One a spec, over, with its weights.
    """
    courses = [Course(spec) for spec in specs]
    batches = _batches(rows.X, rows.y, specs[0].batch_size or 1)
    count = len(rows.y_validation)
    judge_rows = math.ceil(count / math.ceil(count / JUDGE_ROWS))
    judge = _batches(rows.X_validation, rows.y_validation, judge_rows)
    epochs = max(spec.epochs or 0 for spec in specs)
    rungs = {math.ceil(share * epochs) for share in RUNGS} - {epochs} if halving else set()
    state, epoch = None, 0
    while alive := [course for course in courses if not course.over]:
        stack = build_stack([course.spec for course in alive], rows, state)
        watch = _callback(alive, batches, order_seed, rungs, bar)
        try:
            stack.fit(
                batches,
                epochs=epochs,
                initial_epoch=epoch,
                validation_data=judge,
                callbacks=[watch],
                shuffle=False,  # the batches shuffle themselves
                verbose=0,
            )
        except Exception as error:
            # TensorFlow hides what went wrong in reading behind an error of its own.
            raise batches.failed or judge.failed or error from None
        epoch = max(len(course.history["loss"]) for course in alive)
        if go_on := [place for place, course in enumerate(alive) if not course.over]:
            state = stack_state(stack, go_on)
    return courses


class _Batches:
    """Batches of one size in a seeded order; ``_batches`` adds ``keras.utils.PyDataset``.

    A last batch that is short is filled with rows of class -1, which count for nothing in the loss:
    a second shape would be compiled a second time.
    """

    def __init__(self, X: Any, y: NDArray[np.int64], size: int) -> None:
        super().__init__()
        self.X, self.y, self.size = X, y.astype(np.int32), size
        self.failed: StoreError | None = None
        self.order = np.arange(len(X))

    def shuffle(self, seed: int, epoch: int) -> None:
        """Put the rows in the order of an epoch, each in the view that it shows then."""
        if isinstance(self.X, RandomViews):
            self.X.draw(seed, epoch)
        self.order = np.random.default_rng([seed, epoch]).permutation(len(self.X))

    def __len__(self) -> int:
        return math.ceil(len(self.X) / self.size)

    def __getitem__(self, batch: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        places = np.arange(batch * self.size, (batch + 1) * self.size)
        chosen = self.order[places % len(self.order)]
        return self.X[chosen], np.where(places < len(self.order), self.y[chosen], -1)


class _StoredBatches(_Batches):
    """The same of rows of a store, in the order of an ``Epoch``; asked for in turn."""

    def __init__(self, X: StoredRows, y: NDArray[np.int64], size: int) -> None:
        super().__init__(X, y, size)
        self.epoch = Epoch(X)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Put the rows in the order of an epoch."""
        self.epoch = Epoch(self.X, [seed, epoch])
        self.order = self.epoch.order

    def __getitem__(self, batch: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        # A last batch is filled with the rows before it, for those are at hand.
        stop = min((batch + 1) * self.size, len(self.order))
        start = max(0, stop - self.size)
        y = self.y[self.order[start:stop]]
        y[: batch * self.size - start] = -1
        lacking = self.size - len(y)
        try:
            X = self.epoch.take(start, stop)
        except StoreError as error:
            self.failed = error
            raise
        if lacking:
            X = np.concatenate([X, np.repeat(X[:1], lacking, axis=0)])
        return X, np.concatenate([y, np.full(lacking, -1, np.int32)])


def _batches(X: Features | RandomViews, y: NDArray[np.int64], size: int) -> Any:
    kind: Any = _StoredBatches if isinstance(X, StoredRows) else _Batches
    return type("Batches", (kind, load_keras().utils.PyDataset), {})(X, y, size)


def _callback(alive: list[Course], batches: Any, order_seed: int, rungs: set[int], bar: Any) -> Any:
    """Return what Keras calls around each epoch."""

    def begin(epoch: int, _: Any) -> None:
        batches.shuffle(order_seed, epoch)

    def end(epoch: int, logs: dict[str, Any]) -> None:
        bar.update(sum(not course.over for course in alive))
        _take_epoch(alive, caller.model, logs)
        if epoch + 1 in rungs:
            _drop_worse_half(alive, caller.model)
        best = max((max(c.history["val_accuracy"], default=0.0) for c in alive), default=0.0)
        bar.set_postfix_str(f"validation accuracy {best:.3f}")
        left = max((c.spec.epochs or 0 for c in alive if not c.over), default=0) - epoch - 1
        caller.model.stop_training = _pays(alive, caller.model, left * len(batches))

    caller = load_keras().callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    return caller


def _take_epoch(alive: list[Course], stack: Any, logs: dict[str, Any]) -> None:
    """Give every head its numbers, and keep the weights that are to be kept."""
    # Keras makes a float of what has one element.
    curves = {
        prefix + name: np.atleast_1d(fetch(logs[prefix + column]))
        for prefix in ("", "val_")
        for name, column in CURVES.items()
    }
    kept = [
        place
        for place, course in enumerate(alive)
        if not course.over
        and course.take({name: float(values[place]) for name, values in curves.items()})
    ]
    _keep(alive, stack, kept)


def _keep(alive: list[Course], stack: Any, places: list[int]) -> None:
    if places:
        weights = head_weights(stack, places)
        for place, values in zip(places, weights, strict=True):
            alive[place].weights = values


def _drop_worse_half(alive: list[Course], stack: Any) -> None:
    """End the half of the heads that is behind; of three, one goes."""
    places = [place for place, course in enumerate(alive) if not course.over]
    places.sort(key=lambda place: alive[place].history["val_loss"][-1])
    beaten = places[math.ceil(len(places) / 2) :]
    for place in beaten:
        alive[place].over = True
    _keep(alive, stack, [place for place in beaten if not alive[place].spec.patience])


def _pays(alive: list[Course], stack: Any, steps: int) -> bool:
    """Say whether to stop: all heads are over, or so many that the rest should go on alone."""
    over = sum(course.over for course in alive)
    weights = sum(math.prod(v.shape) for v in stack.layer_variables) / len(alive)
    return over == len(alive) or over * weights * steps > WORTH_REBUILDING
