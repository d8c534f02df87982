"""Quantization of a converted trunk to int8, with NNCF."""

import contextlib
import hashlib
import logging
import math
import os
from typing import Any, NamedTuple

import numpy as np

from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines.openvino_cache import FILES, CompiledTrunk, save_compiled
from extract.trunks.backend import load_openvino


class Calibration(NamedTuple):
    """The images on which the ranges of the activations are measured.

    Attributes:
        keys: Their keys.
        pixels: (n, H, W, 3) uint8.
    """

    keys: tuple[str, ...]
    pixels: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def quantize(plain: CompiledTrunk, calibration: Calibration) -> CompiledTrunk:
    """Quantize a converted float32 trunk to int8 and save it in the cache.

    Args:
        plain: The trunk in float32.
        calibration: The images on which the ranges of the activations are measured.

    Returns:
        The quantized trunk.

    Raises:
        EngineError: NNCF is not installed.
    """
    openvino = load_openvino()
    try:
        import nncf
    except ImportError:
        raise EngineError(
            'int8 needs NNCF; pip install "headstart[int8]", or use bfloat16'
        ) from None
    model = openvino.Core().read_model(plain.folder / FILES[0])
    count, preset = len(calibration.pixels), nncf.QuantizationPreset.MIXED
    log.info("calibrating int8 on %d images", count)
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own way also mutes handlers of others
    batches = _batches(calibration.pixels, model.input(0).get_partial_shape()[0])
    # NNCF draws progress bars on stdout, which is for results.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        quantized = nncf.quantize(
            model, nncf.Dataset(batches), subset_size=len(batches), preset=preset
        )
    return save_compiled(quantized, plain, calibration.digest)


def _batches(pixels: np.ndarray, size: Any) -> list[np.ndarray]:
    """Return batches of one image, or of as many as a model in ONNX takes, the last one full."""
    each = size.get_length() if size.is_static else 1
    full = (math.ceil(len(pixels) / each), each, *pixels.shape[1:])
    return list(np.resize(pixels, full))  # the first images again fill the last batch
