"""The trunk's upper blocks and a head as one Keras model, and its training from cached maps."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.splits import Split
from classify.heads.keras_head import DenseHead
from classify.settings.config import FinetuneConfig
from classify.settings.head_spec import HeadSpec
from extract.core.console import log, progress
from extract.trunks.backend import keep_freed_memory, load_keras, on_gpu

MOMENTUM = 0.9
_CURVES = {"loss": "cost", "accuracy": "accuracy"}

Maps = NDArray[np.float32]
History = dict[str, list[float]]


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
) -> "BestWeights":
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
    keep_freed_memory()
    model = compiled(blocks, head.model, spec, len(dataset.class_names), tuning)
    with progress(tuning.finetune_epochs, "epoch", label="fine-tuning") as bar:
        best = BestWeights(model, loss, bar)
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


class BestWeights:
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
