"""The trunk's upper blocks and a head as one Keras model, trained on cached feature maps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.splits import Split
from classify.heads.keras_head import DenseHead
from classify.heads.parallel_fit import HeadFit, read_curves
from classify.heads.parallel_heads import CURVES, class_weights
from classify.settings.config import FinetuneConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.out_of_core import Labels, Rows
from extract.core.console import log
from extract.display.progress import progress
from extract.trunks.backend import keep_freed_memory, on_gpu
from extract.trunks.keras_import import keras

MOMENTUM = 0.9


def join(blocks: Any, head: DenseHead) -> DenseHead:
    """Return a head that takes feature maps; it shares the weights of the blocks and the head."""
    maps = keras.Input(blocks.input_shape[1:], name="maps")
    scores = head.model(blocks(maps, training=False))
    joined = DenseHead(head.spec, keras.Model(maps, scores, name="blocks_and_head"))
    joined.history = head.history
    return joined


def train_together(
    blocks: Any,
    head: DenseHead,
    dataset: Dataset,
    split: Split,
    tuning: FinetuneConfig,
    loss: float = math.inf,
) -> HeadFit:
    """Train blocks and head with SGD, and set the weights of the best epoch.

    Args:
        blocks: ``UpperBlocks.model``; its batch normalisation stays in inference mode.
        head: Trained on the output of the blocks; its loss, batch size and seed are used.
        dataset: Feature maps and classes.
        split: Its training rows are trained on, its validation rows choose the best epoch.
        tuning: The number of epochs and the learning rate.
        loss: Validation loss before training; only an epoch with a lower one is used.

    Returns:
        The best epoch and the curves.
    """
    keep_freed_memory()
    spec, epochs = head.spec, tuning.finetune_epochs
    model = compiled(blocks, head.model, spec, len(dataset.class_names), tuning)
    fit = HeadFit(spec, weights=model.get_weights(), best_loss=loss)
    with progress(epochs, "epochs", label="fine-tuning") as bar, without_limits():

        def add_epoch(epoch: int, logs: dict[str, Any]) -> None:
            (curves,) = read_curves(logs)
            bar.update(1)
            bar.set_postfix_str(f"validation accuracy {curves['val_accuracy']:.3f}")
            fit.add_epoch(curves)
            if fit.failed:
                log.warning("finetune: the loss is not finite in epoch %d; stopped", epoch + 1)
                model.stop_training = True
            elif fit.best_epoch == epoch + 1:
                fit.weights = model.get_weights()

        model.fit(
            MapBatches(dataset, split.train, spec, spec.seed or 0),
            epochs=epochs,
            validation_data=MapBatches(dataset, split.validation, spec),
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=add_epoch)],
            shuffle=False,  # the batches shuffle themselves
            verbose=0,
        )
    model.set_weights(fit.weights)
    return fit


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


def compiled(blocks: Any, head: Any, spec: HeadSpec, classes: int, tuning: FinetuneConfig) -> Any:
    """Compile a model that trains blocks and head together.

    Args:
        blocks: The model below the head; called in inference mode.
        head: From the output of the blocks to scores.
        spec: Its ``label_smoothing`` and ``l2`` are used.
        classes: The number of classes.
        tuning: Its ``finetune_learning_rate`` is used.

    Returns:
        A ``keras.Model`` that shares the weights of both.
    """
    model = JointModel(blocks, head)
    for layer in head.layers if spec.l2 else ():
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.regularizer = keras.regularizers.L2(spec.l2)
    kind = "BinaryCrossentropy" if classes == 2 else "CategoricalCrossentropy"
    loss = getattr(keras.losses, kind)(label_smoothing=spec.label_smoothing or 0.0)
    # Without smoothing, weights and penalty, as in the curves of all heads.
    metrics = ["accuracy", getattr(keras.metrics, kind)(name=CURVES["loss"])]
    optimizer = keras.optimizers.SGD(tuning.finetune_learning_rate, momentum=MOMENTUM)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=on_gpu())
    return model


class JointModel(keras.Model):
    """Blocks in inference mode below a head in training.

    A functional model cannot do this: it passes ``training=True`` on to the blocks whatever they
    were called with, and their batch normalisation would follow the batches.
    """

    def __init__(self, blocks: Any, head: Any) -> None:
        super().__init__()
        self.blocks, self.head = blocks, head

    def call(self, maps: Any, training: bool = False) -> Any:
        """Return the scores of (B, h, w, C) feature maps."""
        return self.head(self.blocks(maps, training=False), training=training)


class MapBatches(keras.utils.PyDataset):
    """Batches for ``fit``: feature maps, classes in the form of the head's output, and weights.

    Args:
        dataset: Feature maps and classes.
        rows: The rows to use.
        spec: Its ``batch_size`` and ``class_weight`` are used.
        seed: Seed of the order in each epoch; None keeps the order of the rows.
    """

    def __init__(
        self, dataset: Dataset, rows: Labels, spec: HeadSpec, seed: int | None = None
    ) -> None:
        super().__init__()
        self.X, self.y, self.rows, self.size = dataset.X, dataset.y, rows, spec.batch_size or 1
        K = len(dataset.class_names)
        self.truth = np.eye(K, dtype=np.float32)[:, 1 if K == 2 else 0 :]
        self.weights = class_weights(dataset.y[rows], K, spec)
        self.seed, self.epoch = seed, 0
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __getitem__(self, batch: int) -> tuple[Rows, Rows, Rows]:
        rows = self.order[batch * self.size : (batch + 1) * self.size]
        y = self.y[rows]
        return self.X[rows], self.truth[y], self.weights[y]

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch; Keras calls this."""
        self.order = self.rows
        if self.seed is not None:
            self.order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        self.epoch += 1
