"""Vectors, maps and tokens that a layer of an ONNX model gives, and how they are pooled.

Tokens of a vision transformer are the patches of the image in rows, behind a class token and
registers where the model has them: as many tokens as there are more than patches.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.onnx.cuts import ImageModel, show
from extract.trunks.backend import load_openvino

ops = load_openvino().opset13

# Class token and registers in front of the patches.
_MOST_EXTRA = 16


class Kind(NamedTuple):
    """What the output of a layer is.

    Attributes:
        name: ``vector``, ``map`` or ``tokens``.
        channels_first: Whether a map is (B, C, h, w) and not (B, h, w, C).
        extra: How many tokens are in front of those of the patches; None if that is not known.
    """

    name: str
    channels_first: bool = False
    extra: int | None = None


def settle_pooling(
    spec: TrunkSpec, shapes: list[tuple[int | None, ...]], image: ImageModel
) -> tuple[TrunkSpec, list[Kind]]:
    """Choose the pooling if the spec has none; refuse one that has no effect or no meaning.

    Args:
        spec: The trunk.
        shapes: Shape of each layer's output, the batch first.
        image: The model.

    Returns:
        The spec with its pooling, and the kind of each layer's output.

    Raises:
        TrunkError: A layer gives something else, or cannot be pooled in that way.
    """
    kinds = []
    for name, shape in zip(spec.layer, shapes, strict=True):
        where = f"{spec.trunk}: layer {name}"
        if shape[:1] != (image.batch,):
            problem = f"gives {show(shape)} for {image.batch or 'any number of'} images"
            remedy = "export the model again with a dynamic batch, or choose another layer"
            raise TrunkError(f"{where} {problem}; {remedy}")
        if None in shape[1:] or not 2 <= len(shape) <= 4:
            expected = "expected a vector, a map or tokens of a fixed size"
            raise TrunkError(f"{where} gives {show(shape)}; {expected}; see --list-layers")
        kinds.append(_find_kind(spec, shape, image))
    pooled = [kind for kind in kinds if kind.name != "vector"]
    if spec.pooling not in ("", "none") and not pooled:
        found = ", ".join(f"{n} gives {s[1:]}" for n, s in zip(spec.layer, shapes, strict=True))
        problem = f"layer {found}, so pooling {spec.pooling} can have no effect"
        raise TrunkError(f"{spec.trunk}: {problem}; use --pooling none")
    spec = replace(spec, pooling=spec.pooling or ("avg" if pooled else "none"))
    for name, kind, shape in zip(spec.layer, kinds, shapes, strict=True):
        _check_pooling(spec, name, kind, shape)
    return spec, kinds


def _find_kind(spec: TrunkSpec, shape: tuple[Any, ...], image: ImageModel) -> Kind:
    if len(shape) == 2:
        return Kind("vector")
    if len(shape) == 3:
        return Kind("tokens", extra=_count_extra(spec.image_size, shape[1]))
    # Of the three sides those of a map are as high and wide as the image; in doubt the channels
    # are where those of the image are.
    height, width = spec.image_size
    first, last = (
        abs(h * width - w * height) for h, w in ((shape[2], shape[3]), (shape[1], shape[2]))
    )
    return Kind("map", image.channels_first if first == last else first < last)


def _count_extra(image_size: tuple[int, int], count: int) -> int | None:
    """Return how many of ``count`` tokens are no patches; None if no size of patches fits."""
    height, width = image_size
    sides = (side for side in range(1, min(image_size) + 1) if not height % side + width % side)
    grids = ((height // side) * (width // side) for side in sides)
    extra = min((count - patches for patches in grids if patches <= count), default=count)
    return extra if extra <= _MOST_EXTRA else None


def _check_pooling(spec: TrunkSpec, name: str, kind: Kind, shape: tuple[Any, ...]) -> None:
    """Raise TrunkError for a pooling that this output does not have."""
    where = f"{spec.trunk}: layer {name}"
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
