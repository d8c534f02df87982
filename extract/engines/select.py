"""TrunkSpec -> the engine that runs it fastest on this machine."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from extract.conversion.process import convert_apart
from extract.core.config import HAS_SIMD, TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError, quoted
from extract.display.progress import step
from extract.engines.base import Engine
from extract.engines.memory import check_batch_memory
from extract.engines.openvino_cache import CompiledTrunk, convert, find_compiled, keep
from extract.engines.openvino_engine import OpenVinoEngine, check_instructions
from extract.engines.quantize import Calibration, quantize
from extract.families.hub_presets import is_name, settle
from extract.trunks.backend import has_gpu, load_keras, on_gpu
from extract.trunks.configuration import backend_name

Calibrate = Callable[[TrunkSpec], Calibration] | str


def open_engine(
    spec: TrunkSpec,
    dtype: str = "float32",
    batch_size: int | None = None,
    engine: str = "auto",
    precision: str = "float32",
    calibrate: Calibrate = "",
    images: int | None = None,
) -> Engine:
    """Open the engine that runs a trunk on this machine.

    Args:
        spec: The trunk.
        dtype: Type of the features, ``float32`` or ``float16``.
        batch_size: Images in one call; None chooses it from the device's memory.
        engine: ``keras``, ``openvino``, or ``auto``: Keras if it has a GPU or a backend other than
            TensorFlow, otherwise OpenVINO if it can convert the trunk.
        precision: Precision of the trunk: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        calibrate: For int8: a function that returns the images to calibrate on, for the settled
            spec, or the SHA-256 of the images of an earlier calibration.
        images: How many images there are: no batch is larger. None is any number.

    Returns:
        The engine, ready to run.

    Raises:
        TrunkError: The trunk cannot be built, or its weights are not available.
        EngineError: The machine lacks instructions, memory or a package, or cannot convert it.
    """
    spec = _settle(spec, engine, batch_size)
    by_openvino = precision == "int8" or engine == "openvino" or spec.is_onnx
    if by_openvino or not (engine == "keras" or _prefers_keras()):
        check_instructions(precision)
        compiled, trunk = _find_or_build(spec)
        try:
            compiled = compiled or convert(trunk, spec)
        except EngineError as error:
            if by_openvino or precision != "float32":
                raise
            log.info("%s; running it in Keras", error)
        else:
            if precision == "int8":
                compiled = _calibrate(compiled, calibrate)
            return OpenVinoEngine(compiled, dtype, batch_size, precision, 0, images)
    else:
        with step(_building(spec)):
            trunk = _build(spec, precision)
    from extract.engines.keras_engine import KerasEngine

    return KerasEngine(trunk, dtype, batch_size, precision, images)


def _settle(spec: TrunkSpec, engine: str, batch_size: int | None) -> TrunkSpec:
    """Check the settings, and complete those of a preset of KerasHub by what its files say."""
    if spec.is_onnx and engine == "keras":
        raise EngineError(f"engine keras: cannot run {spec.trunk}; use --engine openvino")
    if spec.decoding == "fast" and not HAS_SIMD:
        remedy = "install it, or extract with --decoding scaled"
        raise EngineError(f"decoding fast: needs cykooz.resizer; {remedy}")
    if spec.is_hub:
        if is_name(spec.trunk):
            load_keras()  # KerasHub imports it, too, but not quietly
        spec = settle(spec)
    check_batch_memory(batch_size or 1, spec.image_size)
    return spec


def _prefers_keras() -> bool:
    return backend_name() != "tensorflow" or (has_gpu() and on_gpu())


def _find_or_build(spec: TrunkSpec) -> tuple[CompiledTrunk | None, Any]:
    """Return the converted trunk, or the trunk where Keras must convert it on TensorFlow."""
    if compiled := find_compiled(spec):
        return compiled, None
    with step(_building(spec)):
        compiled = _convert_apart(spec)
        return compiled, None if compiled else _build(spec)


def _convert_apart(spec: TrunkSpec) -> CompiledTrunk | None:
    with convert_apart(spec) as converted:
        return keep(converted.model, converted, spec) if converted else None


def _building(spec: TrunkSpec) -> str:
    # The path of a trunk may be a URL by mistake, with a password in it.
    return f"building {quoted(os.path.basename(spec.trunk))}"


def _build(spec: TrunkSpec, precision: str = "float32") -> Any:
    if spec.is_onnx:
        from extract.onnx.build import build_onnx_trunk

        return build_onnx_trunk(spec)
    from extract.trunks.trunk import build_trunk

    return build_trunk(spec, precision)


def _calibrate(plain: CompiledTrunk, calibrate: Calibrate) -> CompiledTrunk:
    """Return the int8 version of a converted trunk, see ``open_engine``."""
    if not isinstance(calibrate, str):
        calibration = calibrate(plain.spec)
        known = find_compiled(plain.spec, calibration.digest)
        return replace(known or quantize(plain, calibration), calibration_keys=calibration.keys)
    if calibrate and (known := find_compiled(plain.spec, calibrate)):
        return known
    problem = f"{plain.spec.trunk} in int8: not in the cache of this machine"
    raise EngineError(f"{problem}; run the extract-features command of the features again")
