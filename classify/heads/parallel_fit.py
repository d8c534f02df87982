"""Training of a group of heads as one model.

One compiled function runs Keras' ``train_step`` over a block of batches; ``fit`` would call one for
each batch. After each epoch the curves of every head decide which heads stop: at the last epoch,
out of patience, in the worse half at a rung of successive halving, or with a loss that is not
finite. A stopped head keeps the weights it had and trains on without effect, until a smaller model
of the other heads saves more than it costs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from classify.heads.parallel_heads import CURVES, StackedHeads, Weights, build_stack
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label
from classify.stored.out_of_core import Epoch, Labels, Rows, StoredRows
from classify.stored.views import FoldData, RandomViews
from extract.trunks.backend import fetch

# After these shares of the epochs the worse half of the heads stops.
RUNGS = (0.125, 0.25, 0.5)
# Most rows in one validation step: bounds the memory of the hidden layers of all heads. A step has
# a multiple of the second, so that folds of about the same size are compiled once.
VALIDATION_ROWS, PART_ROWS = 256, 32
# Compiling a smaller model takes about 1.5 s; a step costs about 2 ns per weight. So rebuilding
# pays from this many weights * steps. Time itself would make two runs differ.
WORTH_REBUILDING = 7e8
# Most values in the rows of a block: bounds its memory. Most weights times rows: nothing interrupts
# a block, which takes about half a second.
BLOCK_VALUES, BLOCK_WORK = 2**22, 2**32

History = dict[str, list[float]]
# The settings of a model; the others choose the rows that it reads.
_OF_MODEL = [f.name for f in fields(HeadSpec) if f.name not in ("layer", "transform", "views")]
# Settings of heads, width of a row and number of classes, and the last model.
Stacks = dict[tuple[Any, int, int], StackedHeads]


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
    specs: Sequence[HeadSpec],
    rows: FoldData,
    halving: bool,
    order_seed: int,
    bar: Any,
    stacks: Stacks | None = None,
) -> list[HeadFit]:
    """Train heads of one shape.

    Args:
        specs: Heads of one group of ``groups_of``.
        rows: Training and validation rows.
        halving: Whether the heads with the higher validation loss stop at each of ``RUNGS``.
        order_seed: Seed of the order of the rows, the same for all heads.
        bar: Progress bar, updated by one per head and epoch.
        stacks: The model of other rows, which is used again, and then this one; None keeps none.

    Returns:
        The stopped heads with their weights, in the order of ``specs``.
    """
    fits = [HeadFit(spec) for spec in specs]
    epochs, epoch = max(spec.epochs or 0 for spec in specs), 0
    rungs = {math.ceil(share * epochs) for share in RUNGS} - {epochs} if halving else set()
    batch, parts = specs[0].batch_size or 1, math.ceil(len(rows.y_validation) / VALIDATION_ROWS)
    part, state = PART_ROWS * math.ceil(len(rows.y_validation) / parts / PART_ROWS), None
    while active := [fit for fit in fits if not fit.stopped]:
        stack = _take_stack([fit.spec for fit in active], rows, state, stacks)
        train = Pass(stack, rows.X, rows.y, batch, training=True)
        validate = Pass(stack, rows.X_validation, rows.y_validation, part, training=False)
        worth = True
        while worth:
            logs = train([order_seed, epoch])
            logs |= {f"val_{metric}": value for metric, value in validate().items()}
            bar.update(sum(not fit.stopped for fit in active))
            take_epoch(active, stack, logs)
            epoch += 1
            if epoch in rungs:
                _stop_worse_half(active, stack)
            accuracies = [max(fit.history["val_accuracy"], default=0.0) for fit in active]
            bar.set_postfix_str(f"validation accuracy {max(accuracies):.3f}")
            worth = _is_worth_it(active, stack, epoch, math.ceil(len(rows.y) / batch))
        if remaining := [k for k, fit in enumerate(active) if not fit.stopped]:
            state = stack.head_state(remaining)
    return fits


def _take_stack(
    specs: Sequence[HeadSpec], rows: FoldData, state: Weights | None, stacks: Stacks | None
) -> StackedHeads:
    """Build a stack, or take that of other rows, whose compiled functions are ready."""
    model = tuple(tuple(getattr(spec, name) for name in _OF_MODEL) for spec in specs)
    key = model, rows.X.shape[1], rows.classes
    if stack := (stacks or {}).get(key):
        stack.start(rows.y, state)
        return stack
    stack = build_stack(specs, rows, state)
    # Which heads go on in a smaller stack differs between folds.
    if stacks is not None and state is None:
        stacks.clear()
        stacks[key] = stack
    return stack


def _is_worth_it(fits: list[HeadFit], stack: StackedHeads, epoch: int, batches: int) -> bool:
    """Return whether to train this stack on: not if all have stopped, or a smaller one pays."""
    ends = [fit.spec.epochs or 0 for fit in fits if not fit.stopped]
    steps = (max(ends, default=0) - epoch) * batches
    saved = (len(fits) - len(ends)) * stack.size / len(fits) * steps
    return bool(ends) and saved <= WORTH_REBUILDING


class Pass:
    """Passes over all rows of one side of the split, to train on them or to measure.

    The rows come in blocks of batches, each an array of the same shape and one call of a compiled
    function, so they may stay in a file and need no room on a device. A short last batch is filled
    with the first rows of the epoch as rows of class -1, which the loss ignores.
    """

    def __init__(self, stack: StackedHeads, X: Any, y: Labels, size: int, training: bool) -> None:
        self.stack, self.X, self.y, self.size = stack, X, y.astype(np.int32), size
        self.run = stack.train_loop if training else stack.test_loop
        batches = math.ceil(len(y) / size)
        most = max(1, min(BLOCK_VALUES // X.shape[1], BLOCK_WORK // stack.size) // size)
        self.batches = math.ceil(batches / math.ceil(batches / most))
        self.unshuffled: Any = None

    def __call__(self, seed: Sequence[int] | None = None) -> dict[str, Any]:
        """Run one pass, in a seeded order or in that of the rows, and return its metrics."""
        self.stack.reset_metrics()
        for block in self.blocks(seed):
            self.run(*block)
        return dict(self.stack.get_metrics_result())

    def blocks(self, seed: Sequence[int] | None = None) -> Iterator[tuple[Rows, Any, int]]:
        """Yield rows (S, B, D), their classes (S, B) and the number of batches that count."""
        if seed is None and self.unshuffled is None:
            self.unshuffled = read_epoch(self.X)
        epoch = self.unshuffled if seed is None else read_epoch(self.X, seed)
        first, full = epoch.take(0, min(self.size, len(self.y))), self.batches * self.size
        for start in range(0, len(self.y), full):
            stop = min(start + full, len(self.y))
            x, y = epoch.take(start, stop), self.y[epoch.order[start:stop]]
            if missing := full - len(y):
                x = np.concatenate([x, np.resize(first, (missing, *first.shape[1:]))])
                y = np.pad(y, (0, missing), constant_values=-1)
            shape = self.batches, self.size
            yield x.reshape(*shape, -1), y.reshape(shape), math.ceil((stop - start) / self.size)


class RowsInMemory:
    """Rows in memory in the order of one epoch, like ``Epoch``."""

    def __init__(self, X: Rows | RandomViews, seed: Sequence[int] | None) -> None:
        self.X, self.order = X, np.arange(len(X))
        if seed is not None:
            self.order = np.random.default_rng(seed).permutation(self.order)

    def take(self, start: int, stop: int) -> Rows:
        """Return rows ``start`` to ``stop`` of the order."""
        return self.X[self.order[start:stop]]


def read_epoch(X: Any, seed: Sequence[int] | None = None) -> Epoch | RowsInMemory:
    """Return rows in the order of an epoch that a seed chooses, as well as the view of each."""
    if isinstance(X, StoredRows):
        return Epoch(X, seed)
    if isinstance(X, RandomViews) and seed is not None:
        X.draw(*seed)
    return RowsInMemory(X, seed)


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
