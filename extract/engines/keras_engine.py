"""A trunk run in Keras, on whatever backend and device Keras has."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines.base import Tag, pad
from extract.trunks.backend import (
    as_list,
    compile_model,
    fetch,
    gpu_memory_bytes,
    is_out_of_memory,
    on_gpu,
)
from extract.trunks.trunk import Trunk

# The cost of a call is spread by more than OpenVINO needs.
CPU_BATCH_SIZE = 32
GPU_BATCH_RANGE = (8, 512)
# What a trunk that runs in Keras is saved as.
KERAS_FILE = "model.keras"


def choose_batch_size(trunk: Trunk) -> int:
    """Choose a power of two for Keras: 32 on a CPU, on a GPU what a quarter of its memory holds.

    The estimate adds up every layer's output; a compiler keeps far fewer alive, the rest of the
    memory is for its workspace, and a wrong guess is halved when the device says so.
    """
    if not on_gpu():
        return CPU_BATCH_SIZE
    cut = next(layer for layer in trunk.model.layers if hasattr(layer, "layers"))
    image_bytes = 4 * sum(
        int(np.prod([side or 1 for side in output.shape[1:]]))
        for layer in cut.layers
        for output in as_list(layer.output)
    )
    memory = gpu_memory_bytes() or 4 * 2**30
    low, high = GPU_BATCH_RANGE
    return int(np.clip(2 ** int(np.log2(max(1, memory // 4 // image_bytes))), low, high))


class KerasEngine:
    """Runs the trunk in Keras, on TensorFlow, JAX or PyTorch, on a GPU where there is one."""

    name = "keras"
    calibration_keys: tuple[str, ...] = ()
    calibration_sha256 = ""

    def __init__(
        self, trunk: Trunk, dtype: str, batch_size: int | None = None, precision: str = "float32"
    ) -> None:
        self.spec = trunk.spec
        self.dtype = dtype
        self.precision = precision
        self.shapes = trunk.shapes
        self.batch_size = batch_size or choose_batch_size(trunk)
        self.weights_sha256 = trunk.weights_sha256
        self._model = trunk.model
        self._call = compile_model(trunk.model, dtype, self.batch_size)

    def run(
        self, batches: Iterable[tuple[Tag, np.ndarray]]
    ) -> Iterator[tuple[Tag, dict[str, np.ndarray]]]:
        """See ``Engine.run``; the next batch is on its way while one is being fetched."""
        under_way: deque[tuple[Tag, np.ndarray, list[Any] | None]] = deque()
        for tag, pixels in batches:
            under_way.append((tag, pixels, self._start(pixels)))
            if len(under_way) == 2:
                yield self._finish(*under_way.popleft())
        while under_way:
            yield self._finish(*under_way.popleft())

    def save(self, folder: Path) -> None:
        """See ``Engine.save``."""
        self._model.save(folder / KERAS_FILE)

    def _start(self, pixels: np.ndarray) -> list[Any] | None:
        """Start one batch; None when the device's memory did not suffice."""
        if len(pixels) > self.batch_size:
            return None
        try:
            return self._call(pad(pixels, self.batch_size))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _finish(
        self, tag: Tag, pixels: np.ndarray, started: list[Any] | None
    ) -> tuple[Tag, dict[str, np.ndarray]]:
        if started is not None:
            try:
                arrays = [fetch(output)[: len(pixels)] for output in started]
                return tag, dict(zip(self.shapes, arrays, strict=True))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
        return tag, self._in_smaller_pieces(pixels)

    def _in_smaller_pieces(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Halve the batch size for good, unless that was done already, and run the pieces."""
        if len(pixels) <= self.batch_size:
            if self.batch_size == 1:
                raise EngineError(
                    f"{self.spec.trunk}: the device's memory does not hold one image; "
                    "use a smaller --image-size or run without the GPU"
                )
            self.batch_size //= 2
            log.info("out of device memory: the batch size is now %d", self.batch_size)
            self._call = compile_model(self._model, self.dtype, self.batch_size)
        pieces = [
            self._finish(None, piece, self._start(piece))[1]
            for piece in np.split(pixels, range(self.batch_size, len(pixels), self.batch_size))
        ]
        return {layer: np.concatenate([piece[layer] for piece in pieces]) for layer in self.shapes}
