"""The engine that runs a converted trunk in OpenVINO, on the processor."""

import shutil
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.errors import EngineError
from extract.engines.base import Batches, Engine, Features, Results, Tag, overlap, pad
from extract.engines.openvino_cache import FILES, CompiledTrunk
from extract.trunks.backend import load_openvino

# InceptionV3 at 150 px on two cores ran 122 images/s in batches of 8, 114 in batches of 32 or 1.
BATCH_SIZE = 8
# OpenVINO's names of the instructions that a precision needs.
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def check_instructions(precision: str) -> None:
    """Raise EngineError if the processor can only emulate a precision."""
    capabilities, needed = _capabilities(load_openvino().Core()), CAPABILITIES.get(precision)
    if needed and needed not in capabilities:
        problem = "this processor has no instructions for it, so it would be slower than float32"
        raise EngineError(f"precision {precision}: {problem}; use --precision float32")


def _capabilities(core: Any) -> Any:
    return core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine(Engine):
    """Runs a converted trunk on the processor, in as many parallel requests as it has streams."""

    name = "openvino"

    def __init__(
        self,
        trunk: CompiledTrunk,
        dtype: str,
        batch_size: int | None,
        precision: str,
        threads: int,
        images: int | None = None,
    ) -> None:
        super().__init__(trunk, dtype, batch_size or BATCH_SIZE, precision, images)
        self.calibration_keys = trunk.calibration_keys
        self.calibration_sha256 = trunk.calibration_sha256
        self._folder = trunk.folder
        self._model = self._compile(threads, batch_size, is_alone=images == self.batch_size)
        # One more than can run at once, so that none waits while results are copied.
        self._requests = self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1

    def run(self, batches: Batches[Tag]) -> Results[Tag]:
        """See ``Engine.run``; batches come back in order."""
        # No callbacks: in one of OpenVINO's threads our code could be the last to hold a request,
        # and to release it that thread would wait for itself.
        requests = cycle([self._model.create_infer_request() for _ in range(self._requests)])

        def start(pixels: np.ndarray) -> Any:
            request = next(requests)  # the oldest, which is finished
            request.start_async({0: pad(pixels, self.batch_size)})
            return request

        return overlap(batches, start, self._finish, self._requests)

    def save(self, folder: Path) -> None:
        """See ``Engine.save``."""
        for name in FILES:
            shutil.copy(self._folder / name, folder)

    def _finish(self, pixels: np.ndarray, request: Any) -> Features:
        request.wait()
        # Copies, because the next batch overwrites the request's memory.
        return {
            layer: request.get_output_tensor(i).data[: len(pixels)].copy()
            for i, layer in enumerate(self.shapes)
        }

    def _read(self, core: Any) -> Any:
        """Read the model from its folder."""
        try:
            return core.read_model(self._folder / FILES[0])
        except RuntimeError as error:  # its digests were right a moment ago
            fix = "raise the limit on open files (ulimit -n), or remove that folder"
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"{self._folder}: {reason}; {fix}") from error

    def _take_fixed_batch(self, model: Any, asked: int | None) -> None:
        """Run an ONNX model that was exported for batches of one size in such batches."""
        batch = model.input(0).get_partial_shape()[0]
        if batch.is_static:
            self.batch_size = batch.get_length()
            if asked not in (None, self.batch_size):
                problem = f"{self.spec.trunk} takes {self.batch_size} at a time"
                raise EngineError(f"batch size {asked}: {problem}; leave --batch-size out")

    def _compile(self, threads: int, asked: int | None, is_alone: bool) -> Any:
        """Compile for batches of one size, the cast included; 0 threads use every core."""
        openvino = load_openvino()
        core = openvino.Core()
        model = self._read(core)
        self._take_fixed_batch(model, asked)
        model.reshape([self.batch_size, *self.spec.image_size, 3])
        steps = openvino.preprocess.PrePostProcessor(model)
        output_type = openvino.Type.f32 if self.dtype == "float32" else openvino.Type.f16
        for i in range(len(self.shapes)):
            steps.output(i).tensor().set_element_type(output_type)
        # Without a hint OpenVINO uses bfloat16 on every processor that has it. The layers that int8
        # leaves out may do so.
        hint = _HINTS.get(self.precision, "bf16" if "BF16" in _capabilities(core) else "f32")
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        # A single batch takes all cores; several are computed at the same time, on some cores each.
        settings["PERFORMANCE_HINT"] = "LATENCY" if is_alone else "THROUGHPUT"
        try:
            return core.compile_model(steps.build(), "CPU", settings)
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            problem = f"batch size {self.batch_size}: memory cannot hold the trunk"
            raise EngineError(f"{problem}; use a smaller --batch-size, or free memory") from error
