"""The rest of a trunk above a cut: where it sees one tensor, and the model of it.

Below the cut the trunk stays frozen and its maps are cached, so whoever trains the rest further
needs no image.
"""

from dataclasses import dataclass
from typing import Any

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, unknown_name
from extract.trunks.backend import load_keras
from extract.trunks.trunk import name_layers
from extract.trunks.weights import digest_weights, load_application


@dataclass(frozen=True)
class UpperBlocks:
    """What stands above a cut, with its pretrained weights.

    Attributes:
        model: A Keras model from (B, h, w, C) float32 maps of the cut layer to (B, D) float32: the
            layers above, average pooling. Its weights can be trained. Call it with
            ``training=False``: statistics of batches are not what the weights were trained with.
        weights_sha256: Digest of the trunk below the cut, as ``Trunk`` has it.
    """

    model: Any
    weights_sha256: str


def build_upper_blocks(spec: TrunkSpec, layer: str) -> UpperBlocks:
    """Build what stands above a layer, up to the last one without the top, and pool it.

    Args:
        spec: A trunk, cut at ``layer`` and perhaps at others.
        layer: Where the rest begins.

    Returns:
        The rest.

    Raises:
        TrunkError: The trunk is a model of one's own, the rest sees more than this layer's output,
            there is nothing to train in it, or the weights are not to be had.
    """
    if spec.is_file:
        raise TrunkError(
            f"fine-tuning: found a model of your own, {spec.trunk}; expected a trunk of "
            "keras.applications; train that model further in Keras"
        )
    keras = load_keras()
    whole = load_application(spec)
    layers = name_layers(whole)
    for name in spec.layer:
        if name not in layers:
            raise TrunkError(f"{spec.trunk} without its top: {unknown_name('layer', name, layers)}")
    known = find_boundaries(whole)
    if layer not in known:
        raise TrunkError(_refusal(spec, layer, list(layers), known))
    digest = digest_weights(keras.Model(whole.inputs, [layers[name].output for name in spec.layer]))
    start = layers[layer].output
    maps = keras.Input(start.shape[1:], name=layer)
    above = keras.Model(start, whole.outputs[0], name=f"above_{layer}")
    pooled = keras.layers.GlobalAveragePooling2D()(above(maps, training=False))
    return UpperBlocks(keras.Model(maps, pooled, name="blocks"), digest)


def find_boundaries(model: Any) -> list[str]:
    """Name the layers that every path through a model passes and that have weights above them.

    In any order in which layers stand behind what they take, a path can pass by a layer exactly
    where an edge leads from in front of it to behind it. So one walk finds them all.

    Args:
        model: A trunk as ``load_application`` builds it.

    Returns:
        Names as ``name_layers`` has them, in order.
    """
    flatten = load_keras().tree.flatten
    names = {id(layer): name for name, layer in name_layers(model).items()}
    operations = model.operations
    maker: dict[int, int] = {}  # of a tensor
    reach = list(range(len(operations)))  # the last operation that takes what one makes
    for place, operation in enumerate(operations):
        for tensor in flatten(operation.input):
            if id(tensor) in maker:
                reach[maker[id(tensor)]] = place
        maker |= {id(tensor): place for tensor in flatten(operation.output)}
    weighted = [i for i, operation in enumerate(operations) if getattr(operation, "weights", [])]
    found, furthest = [], 0
    for place in range(1, weighted[-1]):
        furthest = max(furthest, reach[place - 1])
        if furthest == place and id(operations[place]) in names:
            found.append(names[id(operations[place])])
    return found


def _refusal(spec: TrunkSpec, layer: str, names: list[str], known: list[str]) -> str:
    """Say that nothing can be built above a layer, and name the nearest where it can."""
    nearest = min(known, key=lambda name: abs(names.index(name) - names.index(layer)))
    return (
        f"layer {layer}: what stands above it in {spec.trunk} takes more than its output, or has "
        f"nothing to train; the nearest layer that works is {nearest}: extract again with --layer "
        f"{nearest} --pooling none"
    )
