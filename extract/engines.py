"""TrunkSpec -> Engine: batches of uint8 pixels in, features out, several batches under way."""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from extract.backend import (
    as_list,
    backend_name,
    compile_model,
    fetch,
    gpu_memory_bytes,
    has_gpu,
    is_out_of_memory,
    load_openvino,
    on_gpu,
)
from extract.compiled import FILES, Calibration, CompiledTrunk, convert, find_compiled, quantise
from extract.config import TrunkSpec
from extract.console import log
from extract.errors import EngineError
from extract.trunk import Trunk, build_trunk

Tag = TypeVar("Tag")

# InceptionV3 at 150 px on two cores: OpenVINO ran 122 pictures/s in batches of 8, 114 in batches of
# 32 or 1; Keras' cost of a call is spread by more.
CPU_BATCH = {"openvino": 8, "keras": 32}
GPU_BATCH_RANGE = (8, 512)
# What a trunk that runs in Keras is saved as.
KERAS_FILE = "model.keras"
# What OpenVINO calls the instructions that a precision needs.
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class Engine(Protocol):
    """Runs a trunk.

    Attributes:
        name: ``keras`` or ``openvino``.
        spec: The trunk's settings.
        dtype: Type of the features.
        precision: What the trunk computes in.
        shapes: Shape of one picture's features, by layer.
        batch_size: Pictures in one call.
        weights_sha256: Digest of the trunk's weights.
        calibration_keys: Keys of the pictures that int8 was calibrated on.
        calibration_sha256: Digest of those pictures; empty without int8.
    """

    name: str
    spec: TrunkSpec
    dtype: str
    precision: str
    shapes: dict[str, tuple[int, ...]]
    batch_size: int
    weights_sha256: str
    calibration_keys: tuple[str, ...]
    calibration_sha256: str

    def run(
        self, batches: Iterable[tuple[Tag, np.ndarray]]
    ) -> Iterator[tuple[Tag, dict[str, np.ndarray]]]:
        """Compute the features of batches, in any order; the tag tells which is which.

        Args:
            batches: Pairs of a tag and (b, H, W, 3) uint8 pixels, b at most ``batch_size``.

        Yields:
            The tag and, by layer, (b, *shape) features.

        Raises:
            EngineError: One picture alone is too much for the device's memory.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the trunk as it is run, weights and all, into files in ``folder``."""
        ...


def open_engine(
    spec: TrunkSpec,
    dtype: str = "float32",
    batch_size: int | None = None,
    engine: str = "auto",
    precision: str = "float32",
    calibrate: Callable[[TrunkSpec], Calibration] | str = "",
) -> Engine:
    """Make the engine that runs a trunk on this machine.

    Args:
        spec: What to run.
        dtype: Type of the features, ``float32`` or ``float16``.
        batch_size: Pictures in one call; None chooses from the device's memory.
        engine: ``keras``, ``openvino``, or ``auto``: Keras where it sees a GPU or runs on another
            backend than TensorFlow, otherwise OpenVINO if it can convert the trunk.
        precision: What the trunk computes in: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        calibrate: For int8: gives the pictures that it is calibrated on, as that trunk sees them,
            or is the SHA-256 of those that it was calibrated on.

    Returns:
        The engine, ready to run.

    Raises:
        TrunkError: The trunk or its weights cannot be had.
        EngineError: The machine lacks the instructions, or the trunk cannot be converted.
    """
    if precision != "int8" and (engine == "keras" or (engine == "auto" and _keras_is_better())):
        return KerasEngine(build_trunk(spec, precision), dtype, batch_size, precision)
    check_instructions(precision)
    compiled = find_compiled(spec)
    if compiled is None:
        trunk = build_trunk(spec)
        try:
            compiled = convert(trunk, spec)
        except EngineError as error:
            if engine == "openvino" or precision != "float32":
                raise
            log.info("%s; running it in Keras", error)
            return KerasEngine(trunk, dtype, batch_size, precision)
    if precision == "int8":
        return _open_int8(compiled, dtype, batch_size, calibrate)
    return OpenVinoEngine(compiled, dtype, batch_size, precision)


def _open_int8(
    plain: CompiledTrunk,
    dtype: str,
    batch_size: int | None,
    calibrate: Callable[[TrunkSpec], Calibration] | str,
) -> "OpenVinoEngine":
    if isinstance(calibrate, str):
        compiled = find_compiled(plain.spec, calibrate) if calibrate else None
        if compiled is None:
            raise EngineError(
                f"{plain.spec.trunk} in int8: not in the cache of this machine; expected the one "
                "that made the features; run their extract-features command again"
            )
        return OpenVinoEngine(compiled, dtype, batch_size, "int8", calibration_sha256=calibrate)
    calibration = calibrate(plain.spec)
    digest = calibration.digest
    compiled = find_compiled(plain.spec, digest) or quantise(plain, calibration)
    return OpenVinoEngine(compiled, dtype, batch_size, "int8", calibration.keys, digest)


def _keras_is_better() -> bool:
    return backend_name() != "tensorflow" or (has_gpu() and on_gpu())


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
        self.batch_size = batch_size or CPU_BATCH["openvino"]
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
            request.start_async({0: _pad(pixels, self.batch_size)})
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


def choose_batch_size(trunk: Trunk) -> int:
    """Choose a power of two for Keras: 32 on a CPU, on a GPU what a quarter of its memory holds.

    The estimate adds up every layer's output; a compiler keeps far fewer alive, the rest of the
    memory is for its workspace, and a wrong guess is halved when the device says so.
    """
    if not on_gpu():
        return CPU_BATCH["keras"]
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
            return self._call(_pad(pixels, self.batch_size))
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
                    f"{self.spec.trunk}: the device's memory does not hold one picture; "
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


def _pad(pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Fill a short batch up with black, so that every call has the shape that was compiled."""
    missing = batch_size - len(pixels)
    return np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else pixels
