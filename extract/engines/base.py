"""The contract of every engine: batches of uint8 pixels in, features out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from extract.core.config import TrunkSpec

Tag = TypeVar("Tag")
Batches = Iterable[tuple[Tag, np.ndarray]]
Features = dict[str, np.ndarray]
Results = Iterator[tuple[Tag, Features]]


class Engine:
    """Runs a trunk, which is a ``Trunk`` or a ``CompiledTrunk``; each engine is a subclass.

    Attributes:
        name: ``keras`` or ``openvino``.
        spec: The trunk's settings.
        dtype: Type of the features.
        precision: Precision of the trunk's computation.
        shapes: Shape of one image's features, by layer.
        batch_size: Images in one call.
        weights_sha256: Digest of the trunk's weights.
        calibration_keys: Keys of the images that int8 was calibrated on.
        calibration_sha256: Digest of those images; empty without int8.
    """

    name: str
    calibration_keys: tuple[str, ...] = ()
    calibration_sha256 = ""

    def __init__(
        self, trunk: Any, dtype: str, batch_size: int, precision: str, images: int | None = None
    ) -> None:
        self.spec: TrunkSpec = trunk.spec
        self.dtype = dtype
        self.precision = precision
        self.shapes: dict[str, tuple[int, ...]] = trunk.shapes
        self.batch_size = min(batch_size, images or batch_size)
        self.weights_sha256: str = trunk.weights_sha256

    def run(self, batches: Batches[Tag]) -> Results[Tag]:
        """Compute the features of batches, in any order; the tag identifies a batch.

        Args:
            batches: Pairs of a tag and (b, H, W, 3) uint8 pixels, b at most ``batch_size``.

        Yields:
            The tag and, by layer, (b, *shape) features.

        Raises:
            EngineError: A single image does not fit into the device's memory.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trunk as the engine runs it, with its weights, into files in ``folder``."""
        raise NotImplementedError


def pad(pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Pad a short batch with black images, so that every call has the compiled shape."""
    missing = batch_size - len(pixels)
    return np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else pixels


def overlap(
    batches: Batches[Tag],
    start: Callable[[np.ndarray], Any],
    finish: Callable[[np.ndarray, Any], Features],
    depth: int,
) -> Results[Tag]:
    """Run batches in order, of which up to ``depth`` are being computed at a time.

    Args:
        batches: See ``Engine.run``.
        start: Starts the computation of a batch.
        finish: Waits for the features of a batch, given what ``start`` returned for it.
        depth: How many batches are started before the first one is finished.

    Yields:
        See ``Engine.run``.
    """
    started: deque[tuple[Tag, np.ndarray, Any]] = deque()
    for tag, pixels in batches:
        if len(started) == depth:
            oldest, *computation = started.popleft()
            yield oldest, finish(*computation)
        started.append((tag, pixels, start(pixels)))
    for tag, pixels, computation in started:
        yield tag, finish(pixels, computation)
