"""The upper blocks of a trunk: the layers above a cut, as a model of their own.

Below the cut the trunk stays frozen and its maps are cached, so training the upper blocks further
needs no images.
"""

from typing import Any, NamedTuple

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks.keras_import import keras
from extract.trunks.trunk import choose, name_layers
from extract.trunks.weights import digest_weights, load_application


class UpperBlocks(NamedTuple):
    """The layers above a cut, with their pretrained weights.

    Attributes:
        model: A Keras model from (B, h, w, C) float32 maps of the cut layer to (B, D) float32: the
            layers above and average pooling. Its weights are trainable. Call it with
            ``training=False``: the weights were not trained with the statistics of these batches.
        weights_sha256: Digest of the trunk below the cut, see ``Trunk``.
    """

    model: Any
    weights_sha256: str


def build_upper_blocks(spec: TrunkSpec, layer: str) -> UpperBlocks:
    """Build the layers above a cut, up to the last one without the top, and pool their output.

    Args:
        spec: A trunk, cut at ``layer`` and possibly at others.
        layer: The layer whose maps the blocks take.

    Returns:
        The upper blocks.

    Raises:
        TrunkError: The trunk is a model file, the blocks need more than this layer's output or have
            no weights, or the trunk's weights are not available.
    """
    if spec.is_file or spec.is_hub:
        kind = "a model file" if spec.is_file else "a backbone of KerasHub"
        problem = f"found {kind}, {spec.trunk}; expected a name of --list-trunks"
        raise TrunkError(f"fine-tuning: {problem}")
    application = load_application(spec)
    layers = name_layers(application)
    cuts = [choose(spec, layers, name).output for name in spec.layer]
    boundaries, names = find_boundaries(application), list(layers)
    if layer not in boundaries:
        nearest = min(boundaries, key=lambda name: abs(names.index(name) - names.index(layer)))
        problem = "the layers above it take more than its output, or have nothing to train"
        fix = f"the nearest layer that works is {nearest}: extract again with it and --pooling none"
        raise TrunkError(f"layer {layer}: {problem}; {fix}")
    digest = digest_weights(keras.Model(application.inputs, cuts))
    start = layers[layer].output
    maps = keras.Input(start.shape[1:], name=layer)
    above = keras.Model(start, application.outputs[0], name=f"above_{layer}")
    pooled = keras.layers.GlobalAveragePooling2D()(above(maps, training=False))
    return UpperBlocks(keras.Model(maps, pooled, name="blocks"), digest)


def find_boundaries(model: Any) -> list[str]:
    """Name the layers that every path through a model passes and that have weights above them.

    In a topological order of the layers, a path bypasses a layer exactly where an edge leads from
    an earlier layer to a later one. So one pass finds all boundaries.

    Args:
        model: A trunk from ``load_application``.

    Returns:
        Names as in ``name_layers``, in order.
    """
    names = {id(layer): name for name, layer in name_layers(model).items()}
    operations = model.operations
    producer: dict[int, int] = {}  # tensor -> the operation whose output it is
    reach = list(range(len(operations)))  # operation -> the last one that takes its output
    for place, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            if id(tensor) in producer:
                reach[producer[id(tensor)]] = place
        producer |= {id(tensor): place for tensor in keras.tree.flatten(operation.output)}
    weighted = [i for i, operation in enumerate(operations) if getattr(operation, "weights", [])]
    boundaries, furthest = [], 0
    for place in range(1, weighted[-1]):
        furthest = max(furthest, reach[place - 1])
        if furthest == place and id(operations[place]) in names:
            boundaries.append(names[id(operations[place])])
    return boundaries
