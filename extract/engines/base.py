"""What every engine does: batches of uint8 pixels in, features out, several batches under way."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from extract.core.config import TrunkSpec

Tag = TypeVar("Tag")


class Engine(Protocol):
    """Runs a trunk.

    Attributes:
        name: ``keras`` or ``openvino``.
        spec: The trunk's settings.
        dtype: Type of the features.
        precision: What the trunk computes in.
        shapes: Shape of one image's features, by layer.
        batch_size: Images in one call.
        weights_sha256: Digest of the trunk's weights.
        calibration_keys: Keys of the images that int8 was calibrated on.
        calibration_sha256: Digest of those images; empty without int8.
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
            EngineError: One image alone is too much for the device's memory.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the trunk as it is run, weights and all, into files in ``folder``."""
        ...


def pad(pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Fill a short batch up with black, so that every call has the shape that was compiled."""
    missing = batch_size - len(pixels)
    return np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else pixels
