"""Precision below float32: choose images to calibrate int8, and measure the error of features."""

from collections.abc import Sequence

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.errors import EngineError
from extract.core.row_block import DONE
from extract.engines.base import Engine
from extract.engines.quantize import Calibration
from extract.engines.select import open_engine
from extract.images.item import Item
from extract.pipeline.stream import NO_VIEWS, decode_ahead, stream_features
from extract.store.format import training_rows
from extract.store.open import Store

# NNCF measures ranges on few images; more images changed nothing.
CALIBRATION_IMAGES = 128
ERROR_IMAGES = 64


def choose_calibration(items: Sequence[Item], spec: TrunkSpec, workers: int) -> Calibration:
    """Take a seeded sample of the training images that can be read, for int8.

    Args:
        items: All images.
        spec: How they are decoded.
        workers: Threads that decode.

    Returns:
        At most 128 images, the same ones for the same items.

    Raises:
        EngineError: None can be read.
    """
    rows = np.random.default_rng(0).permutation(training_rows(items))[:CALIBRATION_IMAGES]
    decoded = decode_ahead(items, np.sort(rows), spec, NO_VIEWS, workers, CALIBRATION_IMAGES)
    images = [image for image, _ in decoded if image.views]
    if not images:
        raise EngineError("precision int8: no training image can be read to calibrate on")
    keys = tuple(items[image.row].key for image in images)
    return Calibration(keys, np.stack([image.views[0] for image in images]))


def measure_error(
    store: Store, items: Sequence[Item], engine: Engine, workers: int
) -> dict[str, float]:
    """Compare a sample of the stored features with the same trunk in float32.

    Args:
        store: The finished store.
        items: Its images.
        engine: The engine that made it.
        workers: Threads that decode.

    Returns:
        ``relative``: the Euclidean norm of the difference over that of the float32 features;
        ``cosine``: the mean cosine between the two; ``images``: the number of images compared.
    """
    done = np.flatnonzero(store.status == DONE)
    rows = np.sort(np.random.default_rng(0).permutation(done)[:ERROR_IMAGES])
    exact = open_engine(engine.spec, "float32", engine.batch_size, engine.name)
    difference = size = 0.0
    cosines: list[float] = []
    for block in stream_features(items, rows, exact, workers):
        order = np.argsort(block.rows)
        for layer, values in block.features.items():
            a = values[order].reshape(len(order), -1).astype(np.float64)
            b = store.read(layer, block.rows[order]).reshape(a.shape).astype(np.float64)
            difference += float(np.sum((b - a) ** 2))
            size += float(np.sum(a**2))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines += ((a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)).tolist()
    relative = float(np.sqrt(difference / max(size, 1e-30)))
    return {"relative": relative, "cosine": float(np.mean(cosines)), "images": len(rows)}
