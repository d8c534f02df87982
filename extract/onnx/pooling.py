"""Vectors, maps and tokens that a layer of an ONNX model gives, and how they are pooled.

Tokens of a vision transformer are the patches of the image in rows, behind a class token and
registers where the model has them: as many tokens as there are more than patches. Other values
with three or four sides, such as words, queries or heads of attention, differ in their sizes only.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.onnx.cuts import ImageModel, shape_of, show
from extract.trunks.backend import load_openvino

ops = load_openvino().opset13

# Sides of patches in pixels.
_SIDES = range(4, 33)
# Class token and registers in front of the patches: no more than these, and few beside the patches.
_MOST_EXTRA, _MOST_SHARE = 8, 1 / 6


class Kind(NamedTuple):
    """What the output of a layer is.

    Attributes:
        name: ``vector``, ``map``, ``tokens`` or ``other``.
        channels_first: Whether a map is (B, C, h, w) and not (B, h, w, C).
        extra: How many tokens are in front of those of the patches; None if that is not known.
    """

    name: str
    channels_first: bool = False
    extra: int | None = None


def settle_pooling(
    spec: TrunkSpec, outputs: list[Any], image: ImageModel
) -> tuple[TrunkSpec, list[Kind]]:
    """Choose the pooling if the spec has none; refuse one that has no effect or no meaning.

    Args:
        spec: The trunk.
        outputs: Output of each layer.
        image: The model.

    Returns:
        The spec with its pooling, and the kind of each layer's output.

    Raises:
        TrunkError: A layer gives something else, or cannot be pooled in that way.
    """
    kinds, shapes = [], [shape_of(output) for output in outputs]
    for name, output, shape in zip(spec.layer, outputs, shapes, strict=True):
        where = f"{spec.trunk}: layer {name}"
        if shape[:1] != (image.batch,):
            problem = f"gives {show(shape)} for {image.batch or 'any number of'} images"
            remedy = "export the model again with a dynamic batch, or choose another layer"
            raise TrunkError(f"{where} {problem}; {remedy}")
        if None in shape[1:] or not 2 <= len(shape) <= 4:
            expected = "expected a vector, a map or tokens of a fixed size"
            raise TrunkError(f"{where} gives {show(shape)}; {expected}; see --list-layers")
        kinds.append(_find_kind(output, image))
    pooled = [kind for kind in kinds if kind.name != "vector"]
    if spec.pooling not in ("", "none") and not pooled:
        found = ", ".join(f"{n} gives {s[1:]}" for n, s in zip(spec.layer, shapes, strict=True))
        problem = f"layer {found}, so pooling {spec.pooling} can have no effect"
        raise TrunkError(f"{spec.trunk}: {problem}; use --pooling none")
    spec = replace(spec, pooling=spec.pooling or ("avg" if pooled else "none"))
    for name, kind, shape in zip(spec.layer, kinds, shapes, strict=True):
        _check_pooling(spec, name, kind, shape)
    return spec, kinds


def _find_kind(output: Any, image: ImageModel) -> Kind:
    shape: tuple[Any, ...] = shape_of(output)
    if len(shape) == 2:
        return Kind("vector")
    if len(shape) == 3 and _is_flat_map(output, image):
        return Kind("other")
    if len(shape) == 3:
        return Kind("tokens", extra=_count_extra(image.image_size, shape[1]))
    # Of the three sides those of a map are as high and wide as the image; in doubt the channels
    # are where those of the image are.
    first, last = (_deviation(image, *grid) for grid in (shape[2:], shape[1:3]))
    height, width = image.image_size
    # Both sides are rounded; those of a square in the same way.
    if min(first, last) > (0 if height == width else height + width):
        return Kind("other")
    return Kind("map", image.channels_first if first == last else first < last)


def _deviation(image: ImageModel, h: int, w: int) -> int:
    """Return how far a grid is from being as high and wide as the image; 0 is not at all."""
    height, width = image.image_size
    return abs(h * width - w * height)


def _is_flat_map(output: Any, image: ImageModel) -> bool:
    """Return whether an output is (B, C, h * w), made of a map (B, C, h, w)."""
    node = output.get_node()
    source = shape_of(node.input_value(0)) if node.get_type_name() == "Reshape" else ()
    if len(source) != 4 or None in source[1:] or source[1] != shape_of(output)[1]:
        return False
    return _find_kind(node.input_value(0), image) == Kind("map", channels_first=True)


def _count_extra(image_size: tuple[int, int], count: int) -> int | None:
    """Return how many of ``count`` tokens are no patches; None if no size of patches fits."""
    height, width = image_size
    sides = (side for side in _SIDES if not height % side + width % side)
    grids = ((height // side) * (width // side) for side in sides)
    patches = max((grid for grid in grids if grid <= count), default=0)
    extra = count - patches
    return extra if extra <= min(_MOST_EXTRA, patches * _MOST_SHARE) else None


def describe_pooling(spec: TrunkSpec, kinds: list[Kind], outputs: list[Any]) -> list[str]:
    """Say for each layer of tokens which of them ``avg`` and ``max`` are over."""
    said = []
    for name, kind, output in zip(spec.layer, kinds, outputs, strict=True):
        if kind.extra is not None and spec.pooling in ("avg", "max"):
            count: Any = shape_of(output)[1]
            found = f"{count} tokens; {spec.pooling} is over {count - kind.extra} patches"
            left = f", without the first {kind.extra}" if kind.extra else ""
            said.append(f"layer {name} gives {found}{left}")
    return said


def _check_pooling(spec: TrunkSpec, name: str, kind: Kind, shape: tuple[Any, ...]) -> None:
    """Raise TrunkError for a pooling that this output does not have."""
    where = f"{spec.trunk}: layer {name}"
    if kind.name == "other" and spec.pooling != "none":
        problem = f"gives {shape[1:]}, which is no map of this image"
        raise TrunkError(f"{where} {problem}; use --pooling none")
    if kind.name == "map" and spec.pooling == "cls":
        problem = f"gives {shape[1:]}, a map without a class token"
        raise TrunkError(f"{where} {problem}; use --pooling avg, max or none")
    if kind.name == "tokens" and spec.pooling == "cls" and kind.extra == 0:
        problem = f"gives {shape[1]} tokens, all of them patches, and no class token"
        raise TrunkError(f"{where} {problem}; use --pooling avg, max or none")
    if kind.name == "tokens" and spec.pooling in ("avg", "max") and kind.extra is None:
        problem = f"gives {shape[1]} tokens, which are not the patches of this image"
        raise TrunkError(f"{where} {problem}; use --pooling cls (the first of them) or none")


def pool(spec: TrunkSpec, kind: Kind, output: Any) -> Any:
    """Pool the output of a layer; a map that is not pooled gets its channels last.

    Of tokens ``cls`` is the first one; ``avg`` and ``max`` are over the patches, without the class
    token and registers.
    """
    if kind.name == "vector":
        return output
    if spec.pooling == "none":
        is_turned = kind.name == "map" and kind.channels_first
        return ops.transpose(output, [0, 2, 3, 1]) if is_turned else output
    if spec.pooling == "cls":
        return ops.gather(output, np.int64(0), np.int64(1))
    axes = [1] if kind.name == "tokens" else [2, 3] if kind.channels_first else [1, 2]
    if kind.extra:
        output = ops.slice(output, [kind.extra], [2**31 - 1], [1], [1])
    reduce = ops.reduce_mean if spec.pooling == "avg" else ops.reduce_max
    return reduce(output, np.array(axes, np.int64), False)
