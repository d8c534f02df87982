"""The engine that runs a trunk in Keras, on any backend and device."""

from pathlib import Path
from typing import Any

import numpy as np

from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines.base import Batches, Engine, Features, Results, Tag, overlap, pad
from extract.trunks import backend, compiled
from extract.trunks.keras_import import keras
from extract.trunks.trunk import Trunk

# Larger than OpenVINO's, because a call of Keras costs more.
CPU_BATCH_SIZE = 32
GPU_BATCH_RANGE = (8, 512)
KERAS_FILE = "model.keras"


def choose_batch_size(trunk: Trunk) -> int:
    """Return 32 on a CPU, on a GPU the power of two that fills a quarter of its memory.

    The estimate adds up every layer's output, but a compiler keeps far fewer of them. The rest of
    the memory is for its workspace. If the estimate is wrong, ``KerasEngine.run`` halves it.
    """
    if not backend.on_gpu():
        return CPU_BATCH_SIZE
    cut = next(layer for layer in trunk.model.layers if hasattr(layer, "layers"))
    shapes = [o.shape[1:] for layer in cut.layers for o in keras.tree.flatten(layer.output)]
    values = sum(int(np.prod([side or 1 for side in shape])) for shape in shapes)
    images = (backend.gpu_memory_bytes() or 4 * 2**30) // 4 // (4 * values)
    return int(np.clip(2 ** int(np.log2(max(1, images))), *GPU_BATCH_RANGE))


class KerasEngine(Engine):
    """Runs the trunk in Keras, on TensorFlow, JAX or PyTorch, on a GPU if there is one."""

    name = "keras"

    def __init__(
        self,
        trunk: Trunk,
        dtype: str,
        batch_size: int | None = None,
        precision: str = "float32",
        images: int | None = None,
    ) -> None:
        super().__init__(trunk, dtype, batch_size or choose_batch_size(trunk), precision, images)
        self._model = trunk.model
        self._call = compiled.compile_model(trunk.model, dtype, self.batch_size)

    def run(self, batches: Batches[Tag]) -> Results[Tag]:
        """See ``Engine.run``; one batch is computed while the previous one is fetched."""
        return overlap(batches, self._start, self._finish, depth=2)

    def save(self, folder: Path) -> None:
        """See ``Engine.save``."""
        if self.spec.is_hub:
            problem = "Keras cannot save every backbone of KerasHub for another machine"
            raise EngineError(f"{self.spec.trunk}: {problem}; use --engine openvino")
        self._model.save(folder / KERAS_FILE)

    def _start(self, pixels: np.ndarray) -> list[Any] | None:
        """Start one batch; return None if the device's memory is too small for it."""
        if len(pixels) <= self.batch_size:
            with backend.suppress_out_of_memory():
                return self._call(pad(pixels, self.batch_size))
        return None

    def _finish(self, pixels: np.ndarray, outputs: list[Any] | None) -> Features:
        """Fetch the features of a batch, or run it in parts if the memory is too small."""
        with backend.suppress_out_of_memory():
            if outputs is not None:
                arrays = [backend.fetch(output)[: len(pixels)] for output in outputs]
                return dict(zip(self.shapes, arrays, strict=True))
        if len(pixels) <= self.batch_size:
            if self.batch_size == 1:
                problem = "the device's memory does not hold one image"
                raise EngineError(f"{self.spec.trunk}: {problem}; use a smaller --image-size")
            self.batch_size //= 2
            log.info("out of device memory: the batch size is now %d", self.batch_size)
            self._call = compiled.compile_model(self._model, self.dtype, self.batch_size)
        parts = np.split(pixels, range(self.batch_size, len(pixels), self.batch_size))
        features = [self._finish(part, self._start(part)) for part in parts]
        return {layer: np.concatenate([f[layer] for f in features]) for layer in self.shapes}
