"""Post-training quantization to int8 with NNCF."""

import contextlib
import hashlib
import logging
import os
from dataclasses import dataclass

import numpy as np

from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines.openvino_cache import FILES, CompiledTrunk, _identity, _keep
from extract.trunks.backend import load_openvino


@dataclass(frozen=True)
class Calibration:
    """The images that int8 ranges are measured on.

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
    """Quantise a converted trunk to int8 after training, with NNCF, and keep it.

    Args:
        plain: The trunk in float32.
        calibration: What the ranges of the activations are measured on.

    Returns:
        The quantised trunk.

    Raises:
        EngineError: NNCF is not installed.
    """
    openvino = load_openvino()
    try:
        import nncf
    except ImportError:
        raise EngineError(
            'precision int8: needs NNCF; pip install "headstart[int8]", or use bfloat16'
        ) from None
    model = openvino.Core().read_model(plain.folder / FILES[0])
    log.info("calibrating int8 on %d images", len(calibration.keys))
    nncf.set_log_level(logging.ERROR)
    images = np.split(calibration.pixels, range(1, len(calibration.pixels)))
    # NNCF draws bars of its own on stdout, which belongs to results here.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        small = nncf.quantize(
            *(model, nncf.Dataset(images)),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
        )
    identity = _identity(plain.spec, calibration.digest)
    return _keep(small, identity, plain.spec, plain.shapes, plain.weights_sha256)
