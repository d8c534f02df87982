"""A converted trunk, run by OpenVINO on the processor."""

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.errors import EngineError
from extract.engines.base import Tag, pad
from extract.engines.openvino_cache import FILES, CompiledTrunk
from extract.trunks.backend import load_openvino

# InceptionV3 at 150 px on two cores ran 122 images/s in batches of 8, 114 in batches of 32 or 1.
BATCH_SIZE = 8
# What OpenVINO calls the instructions that a precision needs.
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def check_instructions(precision: str) -> None:
    """Raise EngineError where the processor would only imitate a precision."""
    openvino = load_openvino()
    needed = CAPABILITIES.get(precision)
    if needed and needed not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError(
            f"precision {precision}: this processor has no instructions for it, so it would be "
            "slower than float32, not faster; use --precision float32"
        )


class OpenVinoEngine:
    """Runs a converted trunk on the processor, as many requests at once as it has streams."""

    name = "openvino"

    def __init__(
        self,
        compiled: CompiledTrunk,
        dtype: str = "float32",
        batch_size: int | None = None,
        precision: str = "float32",
        calibration_keys: tuple[str, ...] = (),
        calibration_sha256: str = "",
        threads: int = 0,
    ) -> None:
        self.spec = compiled.spec
        self.dtype = dtype
        self.precision = precision
        self.shapes = compiled.shapes
        self.batch_size = batch_size or BATCH_SIZE
        self.weights_sha256 = compiled.weights_sha256
        self.calibration_keys = calibration_keys
        self.calibration_sha256 = calibration_sha256
        self._folder = compiled.folder
        self._model = _compile(compiled, dtype, self.batch_size, precision, threads)
        # One more than can run, so that none waits while results are taken away.
        self._requests = self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1

    def run(
        self, batches: Iterable[tuple[Tag, np.ndarray]]
    ) -> Iterator[tuple[Tag, dict[str, np.ndarray]]]:
        """See ``Engine.run``; batches come back in order, the oldest is waited for."""
        # Waited for, not called back: code of ours in OpenVINO's threads could be the last to hold
        # a request, whose end then waits for its own thread.
        idle = [self._model.create_infer_request() for _ in range(self._requests)]
        under_way: deque[tuple[Any, Tag, int]] = deque()
        for tag, pixels in batches:
            if not idle:
                idle.append(under_way[0][0])
                yield self._finish(*under_way.popleft())
            request = idle.pop()
            request.start_async({0: pad(pixels, self.batch_size)})
            under_way.append((request, tag, len(pixels)))
        while under_way:
            yield self._finish(*under_way.popleft())

    def save(self, folder: Path) -> None:
        """See ``Engine.save``."""
        for name in FILES:
            shutil.copy(self._folder / name, folder)

    def _finish(self, request: Any, tag: Tag, count: int) -> tuple[Tag, dict[str, np.ndarray]]:
        request.wait()
        outputs = (request.get_output_tensor(i).data for i in range(len(self.shapes)))
        # Copies: the request's own memory is used again.
        copies = [output[:count].copy() for output in outputs]
        return tag, dict(zip(self.shapes, copies, strict=True))


def _compile(
    compiled: CompiledTrunk, dtype: str, batch_size: int, precision: str, threads: int
) -> Any:
    """Compile for this processor, 0 threads for all of it: a fixed batch, the cast inside."""
    openvino = load_openvino()
    core = openvino.Core()
    try:
        model = core.read_model(compiled.folder / "model.xml")
    except RuntimeError as error:  # its files were whole a moment ago
        said = str(error).strip().splitlines()[-1]
        raise EngineError(
            f"{compiled.folder}: {said}; expected a converted trunk that can be opened; raise the "
            "limit on open files (ulimit -n), or remove that folder"
        ) from error
    model.reshape([batch_size, *compiled.spec.image_size, 3])
    steps = openvino.preprocess.PrePostProcessor(model)
    for i in range(len(compiled.shapes)):
        steps.output(i).tensor().set_element_type(
            getattr(openvino.Type, {"float32": "f32"}.get(dtype, "f16"))
        )
    rest = "bfloat16" if _has_bfloat16(core) else "float32"
    # Always said: left alone, OpenVINO takes bfloat16 wherever the processor has it.
    hint = _HINTS[rest if precision == "int8" else precision]
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
    }
    return core.compile_model(steps.build(), "CPU", settings)


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
