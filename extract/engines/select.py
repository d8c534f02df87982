"""TrunkSpec -> the engine that runs it best on this machine."""

from collections.abc import Callable

from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines.base import Engine
from extract.engines.keras_engine import KerasEngine
from extract.engines.memory import check_batch_memory
from extract.engines.openvino_cache import CompiledTrunk, convert, find_compiled
from extract.engines.openvino_engine import OpenVinoEngine, check_instructions
from extract.engines.quantize import Calibration, quantize
from extract.trunks.backend import backend_name, has_gpu, on_gpu
from extract.trunks.trunk import build_trunk


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
        batch_size: Images in one call; None chooses from the device's memory.
        engine: ``keras``, ``openvino``, or ``auto``: Keras where it sees a GPU or runs on another
            backend than TensorFlow, otherwise OpenVINO if it can convert the trunk.
        precision: What the trunk computes in: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        calibrate: For int8: gives the images that it is calibrated on, as that trunk sees them,
            or is the SHA-256 of those that it was calibrated on.

    Returns:
        The engine, ready to run.

    Raises:
        TrunkError: The trunk or its weights cannot be had.
        EngineError: The machine lacks the instructions or the memory, or the trunk cannot be
            converted.
    """
    if batch_size:
        check_batch_memory(batch_size, spec.image_size)
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
) -> OpenVinoEngine:
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
    compiled = find_compiled(plain.spec, digest) or quantize(plain, calibration)
    return OpenVinoEngine(compiled, dtype, batch_size, "int8", calibration.keys, digest)


def _keras_is_better() -> bool:
    return backend_name() != "tensorflow" or (has_gpu() and on_gpu())
