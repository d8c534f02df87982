"""A backbone of KerasHub as a Keras model of images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.families.hub_presets import EXPECTED, Preset, load_keras_hub


def build_backbone(preset: Preset, size: tuple[int, int]) -> Any:
    """Build a backbone without its weights, in the types of Keras' configuration.

    Args:
        preset: Its files, checked.
        size: Height and width of the images.

    Returns:
        The ``keras_hub.models.Backbone``, of images and texts if it is of both.

    Raises:
        TrunkError: KerasHub is not installed, or does not know the class. It raises other errors
            for settings that it does not take.
    """
    models = load_keras_hub(preset.trunk).models
    kind: Any = getattr(models, preset.kind, None)
    if kind is None or not issubclass(kind, models.Backbone):
        found = f"found {preset.kind}, which the installed KerasHub does not know"
        raise TrunkError(f"{preset.trunk}: {found}; {EXPECTED}; upgrade keras-hub")
    return kind.from_config(preset.with_size(size))


def image_part(trunk: str, backbone: Any) -> Any:
    """Return the model of images: the vision encoder of a backbone of images and texts.

    Raises:
        TrunkError: It takes something else than one image, such as a video.
    """
    model = getattr(backbone, "vision_encoder", backbone)
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if [(len(shape), shape[-1]) for shape in shapes] != [(4, 3)]:
        found = f"found a backbone that takes {', '.join(map(str, shapes)) or 'no image'}"
        raise TrunkError(f"{trunk}: {found}; expected one image, (None, height, width, 3)")
    return model


def name_outputs(keras: Any, model: Any, layers: dict[str, Any]) -> dict[str, Any]:
    """Map names to the tensors that a model of images can be cut at; its output is the last one.

    Args:
        keras: The ``keras`` module.
        model: The model.
        layers: Its layers by name, of which some give several tensors.

    Returns:
        Also the levels of a feature pyramid, such as ``stage6``, where no layer gives them.
    """
    tensors = {name: layer.output for name, layer in layers.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if hasattr(tensor, "shape")}
    known = {id(tensor) for tensor in tensors.values()}
    levels = getattr(model, "pyramid_outputs", {})
    tensors |= {name: level for name, level in levels.items() if id(level) not in known}
    last = next((n for n, tensor in tensors.items() if tensor is model.outputs[-1]), "features")
    tensors.pop(last, None)
    tensors[last] = model.outputs[-1]
    return tensors | _count_tokens(keras, model, tensors)


def _count_tokens(keras: Any, model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the sequences with as many tokens as they have: SigLIP's layers declare one more."""
    sequences = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) == 3}
    if not sequences:
        return {}
    black = np.zeros((1, *model.inputs[0].shape[1:]), "float32")
    arrays = keras.Model(model.inputs, list(sequences.values()))([black])
    counts = (array.shape[1] for array in keras.tree.flatten(arrays))
    pairs = zip(sequences.items(), counts, strict=True)
    return {name: tensor[:, :count] for (name, tensor), count in pairs if tensor.shape[1] != count}


def settle_pooling(
    spec: TrunkSpec, model: Any, shapes: Sequence[tuple[int | None, ...]]
) -> TrunkSpec:
    """Choose the pooling of tokens if the spec has none: the average.

    Args:
        spec: The trunk.
        model: The model of images.
        shapes: Shape of the output of each layer of the spec, batch first.

    Raises:
        TrunkError: The spec asks for a class token, and a layer has none.
    """
    is_sequence = [len(shape) == 3 for shape in shapes]
    for name, shape in zip(spec.layer, shapes, strict=True) if spec.pooling == "cls" else ():
        if len(shape) == 4 or (len(shape) == 3 and (shape[1] or 0) <= _count_patches(model)):
            problem = f"layer {name}: found {shape[1:]}, which has no class token"
            raise TrunkError(f"{spec.trunk}: {problem}; use --pooling avg, max or none")
    return replace(spec, pooling=spec.pooling or ("avg" if any(is_sequence) else ""))


def without_first_tokens(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return sequences without what comes before the patches: the class token, and registers."""
    patches = _count_patches(model)
    return {
        name: tensor[:, max(0, tensor.shape[1] - patches) :] if len(tensor.shape) == 3 else tensor
        for name, tensor in tensors.items()
    }


def _count_patches(model: Any) -> int:
    patch = getattr(model, "patch_size", 1)
    height, width = (patch, patch) if isinstance(patch, int) else patch
    shape = model.inputs[0].shape
    return int(shape[1] // height) * int(shape[2] // width)
