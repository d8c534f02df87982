"""Fine-tuning from the freeze boundary: the blocks above the cached layer, then blocks and head.

Below that layer the trunk stays frozen, so its cached maps are all that training needs. First the
blocks run once over the maps, and heads are searched for on what they give, as always. Then the
best head and the blocks train together, at a low rate.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify import search
from classify.config import FinetuneConfig, HeadSpec, TrainConfig
from classify.dataset import Dataset, check_weights
from classify.heads import DenseHead
from classify.metrics import Resampling, interval, judge, measure
from classify.result import Finetuned, Result
from classify.rows import StoredRows
from classify.splits import TEST, Split, unit_names
from classify.train import FittedHead
from classify.transforms import Transform
from extract.backend import compile_model, fetch, load_keras, on_gpu
from extract.boundary import Rest, build_rest
from extract.console import log, progress
from extract.errors import HeadError

MOMENTUM = 0.9
# Maps in one call of the blocks.
_MAPS = 32
_CURVES = {"loss": "cost", "accuracy": "accuracy"}

Maps = NDArray[np.float32]
History = dict[str, list[float]]


def run(dataset: Dataset, config: TrainConfig, folder: Path | None = None) -> Result:
    """Find the best head on the pooled output of the blocks, then train both together.

    Args:
        dataset: The maps of one layer.
        config: The heads, how they are judged and how blocks and head are trained.
        folder: Where finished candidates are kept and found again; None keeps nothing.

    Returns:
        The ranked heads, and the best one together with the blocks: a head that takes maps.

    Raises:
        HeadError: The features are no maps, the weights are not those that made them, or a head
            could not be trained.
        Stopped: Ctrl-C; it carries the ranked heads, if there are any.
        TrunkError: The trunk cannot be parted at this layer.
        SplitError: The rows cannot be divided.
    """
    rest = open_rest(dataset)
    seen = np.flatnonzero(dataset.split != TEST)
    pooled = pool(rest.model, dataset.X)[seen]
    found = search.run(_part(dataset, pooled, seen), config, folder)
    own = found.splits[0]
    test = np.flatnonzero(dataset.split == TEST)
    split = Split(seen[own.train], seen[own.validation], test, own.origin)
    assert found.head is not None
    assert isinstance(found.head.head, DenseHead)
    try:
        head, outcome = _train(rest.model, found.head.head, dataset, split, config)
    except KeyboardInterrupt:
        raise search.Stopped(found, len(config.candidates)) from None
    return replace(
        found,
        splits=[split],
        head=FittedHead(Transform(), head),
        test=measure(dataset.y[test], head.predict_proba(dataset.X[test])) if len(test) else None,
        shape=dataset.X.shape[1:],
        finetuned=outcome,
        scores=head.predict_proba(dataset.X[split.validation]),
    )


def open_rest(dataset: Dataset) -> Rest:
    """Build the blocks above a dataset's layer, with the weights of the trunk that made it."""
    if isinstance(dataset.X, StoredRows):
        raise HeadError(
            f"finetune: the maps of {dataset.layer} do not fit into memory beside their copies; "
            "expected room for all of them; see --memory, or cut the trunk higher up"
        )
    if dataset.X.ndim != 4:
        raise HeadError(
            f"finetune: found features of {dataset.layer} of shape {dataset.X.shape[1:]}; expected "
            "feature maps of one layer; extract again with --pooling none and a --layer of maps"
        )
    rest = build_rest(dataset.trunk, dataset.layer)
    check_weights(dataset, rest.weights_sha256)
    return rest


def _part(dataset: Dataset, X: Maps, rows: NDArray[np.int64]) -> Dataset:
    """Return some rows of a dataset, with other features; no test rows, so none are touched."""
    return replace(
        dataset,
        X=X,
        y=dataset.y[rows],
        keys=[dataset.keys[row] for row in rows],
        groups=None if dataset.groups is None else [dataset.groups[row] for row in rows],
        split=dataset.split[rows],
        path=None,
        views=None,
        digests=None if dataset.digests is None else dataset.digests[rows],
    )


def pool(blocks: Any, X: Maps) -> NDArray[np.float32]:
    """Run the blocks over maps.

    Args:
        blocks: ``Rest.model``.
        X: (N, h, w, C) float32.

    Returns:
        (N, D) float32.
    """
    call = compile_model(blocks, "float32", _MAPS)
    parts = []
    with progress(len(X), "pictures", label="blocks") as bar:
        for start in range(0, len(X), _MAPS):
            maps = X[start : start + _MAPS]
            full = np.resize(maps, (_MAPS, *maps.shape[1:]))  # one shape is compiled
            parts.append(fetch(call(full)[0])[: len(maps)])
            bar.update(len(maps))
    return np.concatenate(parts)


def _train(
    blocks: Any, head: DenseHead, dataset: Dataset, split: Split, config: TrainConfig
) -> tuple[DenseHead, Finetuned]:
    """Train blocks and head together and say what it did on the validation rows."""
    tuning = config.finetune or FinetuneConfig()
    tuned = DenseHead(head.spec, join(blocks, head.model))
    tuned.history = head.history
    y, X = dataset.y[split.validation], dataset.X[split.validation]
    before = measure(y, tuned.predict_proba(X))
    best = train_together(blocks, head, dataset, split, tuning, before.loss)
    scores, names = tuned.predict_proba(X), unit_names(dataset)
    units = [names[row] for row in split.validation]
    draws = Resampling(y, len(dataset.class_names), units, config.seed)
    values = draws.values(config.metric, judge(y, scores))
    low, high = interval(values)
    outcome = Finetuned(
        layer=dataset.layer,
        epochs=len(best.history["loss"]),
        best_epoch=best.epoch,
        before=before,
        after=measure(y, scores),
        score=float(values[0]),
        low=low,
        high=high,
        learning_rate=tuning.finetune_learning_rate,
        history=best.history,
    )
    if not best.epoch:
        log.warning(
            "finetune: no epoch had a lower validation loss than the head alone; the blocks stay "
            "as they were; try a lower --finetune-learning-rate"
        )
    return tuned, outcome


def join(blocks: Any, head: Any) -> Any:
    """Return one Keras model from maps to what the head says, sharing the weights of both."""
    keras = load_keras()
    maps = keras.Input(blocks.input_shape[1:], name="maps")
    return keras.Model(maps, head(blocks(maps, training=False)), name="blocks_and_head")


def train_together(
    blocks: Any,
    head: DenseHead,
    dataset: Dataset,
    split: Split,
    tuning: FinetuneConfig,
    loss: float = math.inf,
) -> "Best":
    """Train blocks and head with SGD, and leave them with the weights of the best epoch.

    Args:
        blocks: ``Rest.model``; its batch normalisation stays in inference mode.
        head: Trained on what the blocks give; its loss, batch size and seed are used.
        dataset: Maps and classes.
        split: What is trained on, and what says which epoch is best.
        tuning: How long and how fast.
        loss: Validation loss that an epoch must be below to be taken.

    Returns:
        The best epoch and the curves.
    """
    spec = head.spec
    model = compiled(blocks, head.model, spec, len(dataset.class_names), tuning)
    with progress(tuning.finetune_epochs, "epoch", label="fine-tuning") as bar:
        best = Best(model, loss, bar)
        model.fit(
            batches(dataset, split.train, spec, spec.seed or 0),
            epochs=tuning.finetune_epochs,
            validation_data=batches(dataset, split.validation, spec),
            callbacks=[load_keras().callbacks.LambdaCallback(on_epoch_end=best.take)],
            shuffle=False,  # the batches shuffle themselves
            verbose=0,
        )
    model.set_weights(best.weights)
    return best


def compiled(blocks: Any, head: Any, spec: HeadSpec, classes: int, tuning: FinetuneConfig) -> Any:
    """Return a model that trains blocks and head together.

    Args:
        blocks: What stands below the head; called in inference mode.
        head: From what the blocks give to scores.
        spec: The head's loss: ``label_smoothing`` and ``l2``.
        classes: How many there are.
        tuning: Its ``finetune_learning_rate`` is used.

    Returns:
        A compiled ``keras.Model``, which shares the weights of both.
    """
    keras = load_keras()
    model = type("Joint", (_Joint, keras.Model), {})(blocks, head)
    for layer in head.layers if spec.l2 else ():
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.regularizer = keras.regularizers.L2(spec.l2)
    kind = "BinaryCrossentropy" if classes == 2 else "CategoricalCrossentropy"
    model.compile(
        optimizer=keras.optimizers.SGD(tuning.finetune_learning_rate, momentum=MOMENTUM),
        loss=getattr(keras.losses, kind)(label_smoothing=spec.label_smoothing or 0.0),
        # Without smoothing, weights and penalty, as in all other curves.
        metrics=["accuracy", getattr(keras.metrics, kind)(name=_CURVES["loss"])],
        jit_compile=on_gpu(),
    )
    return model


class Best:
    """The epoch with the lowest validation loss.

    Attributes:
        epoch: Counted from 1; 0 is before the first.
        loss: Its validation loss.
        weights: Its weights.
        history: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch; they end
            before a loss that is no number.
    """

    def __init__(self, model: Any, loss: float, bar: Any) -> None:
        self._model, self._bar = model, bar
        self.epoch, self.loss, self.weights = 0, loss, model.get_weights()
        self.history: History = {p + name: [] for p in ("", "val_") for name in _CURVES}

    def take(self, epoch: int, logs: dict[str, Any]) -> None:
        """Take in one more epoch; ``epoch`` is counted from 0, as Keras does."""
        now = {
            p + name: float(logs[p + own]) for p in ("", "val_") for name, own in _CURVES.items()
        }
        self._bar.update(1)
        self._bar.set_postfix_str(f"validation accuracy {now['val_accuracy']:.3f}")
        if not all(map(math.isfinite, now.values())):
            log.warning("finetune: the loss is no number in epoch %d; stopped there", epoch + 1)
            self._model.stop_training = True
            return
        for name, value in now.items():
            self.history[name].append(value)
        if now["val_loss"] < self.loss:
            self.epoch, self.loss = epoch + 1, now["val_loss"]
            self.weights = self._model.get_weights()


class _Joint:
    """Blocks in inference mode under a head in training; joined to ``keras.Model`` where used.

    A functional model will not do: it hands ``training=True`` down past what a call inside it was
    given, and batch normalisation would follow the batches.
    """

    def __init__(self, blocks: Any, head: Any) -> None:
        super().__init__()
        self.blocks, self.head = blocks, head

    def call(self, maps: Any, training: bool = False) -> Any:
        """Return the scores of (B, h, w, C) maps."""
        return self.head(self.blocks(maps, training=False), training=training)


class _Batches:
    """Batches of maps, truth and weight; ``batches`` adds ``keras.utils.PyDataset``."""

    def __init__(
        self, dataset: Dataset, rows: NDArray[np.int64], spec: HeadSpec, seed: int | None
    ) -> None:
        super().__init__()
        K = len(dataset.class_names)
        self._X, self._y, self._order = dataset.X, dataset.y, rows
        self._size, self._epoch = spec.batch_size or 1, 0
        self._truth = np.eye(K, dtype=np.float32)[:, 1:] if K == 2 else np.eye(K, dtype=np.float32)
        counts = np.bincount(dataset.y[rows], minlength=K)
        balanced = len(rows) / (K * np.maximum(counts, 1))
        self._weight = (balanced if spec.class_weight else np.ones(K)).astype(np.float32)
        self._seed = seed
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, batch: int) -> tuple[Maps, Maps, Maps]:
        rows = self._order[batch * self._size : (batch + 1) * self._size]
        y = self._y[rows]
        return self._X[rows], self._truth[y], self._weight[y]

    def on_epoch_end(self) -> None:
        """Go on to the next order; Keras calls this."""
        if self._seed is not None:
            draw = np.random.default_rng([self._seed, self._epoch])
            self._order = draw.permutation(np.sort(self._order))
        self._epoch += 1


def batches(
    dataset: Dataset, rows: NDArray[np.int64], spec: HeadSpec, seed: int | None = None
) -> Any:
    """Return batches for ``fit``: maps, truth as the head's output has it, and weight.

    Args:
        dataset: Maps and classes.
        rows: Which of them.
        spec: Its ``batch_size`` and ``class_weight`` are used.
        seed: Decides the order in each epoch; None leaves the rows in theirs.

    Returns:
        A ``keras.utils.PyDataset``.
    """
    kind = type("Batches", (_Batches, load_keras().utils.PyDataset), {})
    return kind(dataset, rows, spec, seed)
