"""Feature maps of a few images, before they were pooled: the trunk runs on them again.

The converted trunk in the cache pools its maps in the last operation, which is cut off here; so
the maps cost the seconds of a few images, and no Keras is loaded.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from classify.stored.out_of_core import Rows
from classify.stored.parts import MadeBy
from extract.core.config import TrunkSpec
from extract.core.errors import EngineError, HeadError, quoted
from extract.engines import select
from extract.engines.base import Engine, Features
from extract.engines.openvino_cache import CompiledTrunk, find_compiled
from extract.engines.openvino_engine import OpenVinoEngine
from extract.similarity.recorded_trunk import Recorded, reopen
from extract.trunks.backend import load_openvino

_POOLED = ("ReduceMean", "ReduceMax")


class MapEngine(OpenVinoEngine):
    """Runs a converted trunk to the feature map of one layer, without pooling it."""

    def __init__(self, trunk: CompiledTrunk, layer: str, precision: str, images: int) -> None:
        self._place = list(trunk.shapes).index(layer)
        self._channels_first = False
        trunk = replace(trunk, shapes={layer: ()})
        super().__init__(trunk, "float32", None, precision, 0, images)

    def _read(self, core: Any) -> Any:
        model = super()._read(core)
        node = model.outputs[self._place].get_node().input_value(0).get_node()
        while node.get_type_name() == "Convert":
            node = node.input_value(0).get_node()
        source = node.input_value(0)
        if node.get_type_name() not in _POOLED or source.get_partial_shape().rank != 4:
            raise EngineError("found no feature map that is pooled")
        self._channels_first = set(node.input_value(1).get_node().get_data().tolist()) == {2, 3}
        return load_openvino().Model([source], model.get_parameters(), "maps")

    def _finish(self, pixels: np.ndarray, request: Any) -> Features:
        finished = super()._finish(pixels, request)
        if not self._channels_first:
            return finished
        return {layer: np.moveaxis(values, 1, 3) for layer, values in finished.items()}


class NotInCacheError(HeadError):
    """The converted trunk is not in the cache of this machine."""


def open_maps(made_by: MadeBy, layer: str, images: int, build: bool) -> Engine:
    """Open an engine from images to the feature maps of a layer.

    Args:
        made_by: The trunk that made the pooled features.
        layer: The layer's name in the trunk.
        images: How many images there are.
        build: Build the trunk where it is not in the cache.

    Raises:
        NotInCacheError: It is not there, and is not built.
        HeadstartError: The trunk cannot be opened, or has other weights now.
    """
    precision, calibration = made_by.precision, made_by.calibration_sha256

    def opened(spec: TrunkSpec) -> Any:
        if compiled := find_compiled(spec, calibration):
            return compiled
        unpooled = replace(spec, layer=(layer,), pooling="none")
        if compiled := find_compiled(unpooled, calibration):
            # Opened here: elsewhere a machine may prefer to build it in Keras.
            return OpenVinoEngine(compiled, "float32", None, precision, 0, images)
        if not build:
            found = "the converted trunk is not in the cache of this machine"
            raise NotInCacheError(f"{found}; --overlays always builds it")
        settings = "float32", None, "auto", precision, calibration, images
        return select.open_engine(unpooled, *settings)

    recorded = Recorded(made_by.trunk, made_by.weights_sha256, "extract again", HeadError)
    found = reopen(recorded, None, opened)
    if isinstance(found, CompiledTrunk):
        return MapEngine(found, layer, precision, images)
    engine: Engine = found
    return engine


def run_maps(engine: Engine, layer: str, pixels: np.ndarray) -> Rows:
    """Return the (n, h, w, C) feature maps of (n, H, W, 3) uint8 pixels."""
    size = engine.batch_size
    starts = range(0, len(pixels), size)
    batches = ((start, pixels[start : start + size]) for start in starts)
    done = {start: features[layer] for start, features in engine.run(batches)}
    maps = np.concatenate([done[start] for start in starts])
    if maps.ndim != 4:
        found = f"layer {quoted(layer)} gives {maps.shape[1:]}"
        raise EngineError(f"{found}; expected a feature map")
    return maps.astype(np.float32, copy=False)
