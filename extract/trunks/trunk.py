"""TrunkSpec -> Trunk: a frozen model from uint8 pixels to pooled features of the chosen layers.

Cast, preprocessing, trunk and pooling are one Keras model, so extraction, prediction and export
use the same function.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from extract.core.applications import TRUNKS, ListedLayer
from extract.core.config import OUTPUT, TrunkSpec
from extract.core.errors import TrunkError, unknown_name
from extract.families import efficientnet_lite, hub_backbone, hub_presets
from extract.limits.unpacked import check_weights, least_bytes
from extract.trunks.keras_import import keras
from extract.trunks.model_file import (
    Cut,
    bounded_weights,
    check_names,
    computing_in,
    digest_model_file,
    open_model_file,
    set_precision,
)
from extract.trunks.weights import build_application, digest_weights, fill_weights, load_application


class Trunk(NamedTuple):
    """A frozen trunk, ready to run.

    Attributes:
        spec: Its settings, all of them settled.
        model: A Keras model from (B, H, W, 3) uint8 pixels to float32 features, a list of them
            for several layers.
        shapes: Shape of one image's features, by layer.
        weights_sha256: SHA-256 of the weights' values, independent of the file format; for a model
            file also of its architecture.
    """

    spec: TrunkSpec
    model: Any
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str


def build_trunk(spec: TrunkSpec, precision: str = "float32") -> Trunk:
    """Build the trunk, load its weights, cut it at the chosen layers and freeze it.

    Args:
        spec: The trunk to build.
        precision: Precision of the layers' computation: ``float32``, ``bfloat16`` or ``float16``.
            Weights and features stay float32.

    Returns:
        The trunk; building the same spec again gives the same function.

    Raises:
        WeightsUnavailableError: ImageNet weights are not available.
        TrunkError: The layer is unknown, the size is wrong, or the weights do not fit.
    """
    spec, inputs, cuts = _opener(spec)(spec, precision)
    outputs = [choose(spec, cuts, name).output() for name in spec.layer]
    cut = keras.Model(inputs, outputs, name=spec.trunk if spec.trunk in TRUNKS else "trunk")
    check_names(spec, cut)
    cut.trainable = False
    pixels = keras.Input((*spec.image_size, 3), dtype="uint8", name="pixels")
    # Inference mode for every prediction with this model. Training a model that contains it
    # overrides the mode, but batch normalization does not change, because its layers are frozen.
    prepared = _preprocess(spec, keras.ops.cast(pixels, "float32"))
    results = keras.tree.flatten(cut(prepared, training=False))
    maps = [keras.ops.cast(result, "float32") for result in results]
    spec = _settle_pooling(spec, [tuple(m.shape) for m in maps])
    features = [_pool(spec.pooling, m) for m in maps]
    output = features if len(features) > 1 else features[0]
    model = keras.Model(pixels, output, name=f"{cut.name}_features")
    shapes = [tuple(feature.shape[1:]) for feature in features]
    digest = digest_weights(cut)
    if spec.is_hub:
        digest = hub_presets.digest_preset(spec, digest)
    elif spec.is_file:
        digest = digest_model_file(spec.trunk, digest)
    return Trunk(spec, model, dict(zip(spec.layer, shapes, strict=True)), digest)


def list_layers(spec: TrunkSpec) -> list[ListedLayer]:
    """List the layers that a trunk can be cut at, in the order of Keras' ``model.layers``.

    Raises:
        TrunkError: The trunk cannot be built at this size.
    """
    if spec.is_hub:  # the layers of a preset are known without its preprocessing
        spec = replace(spec, preprocess="none", interpolation="bilinear", pooling="none")
    if spec.is_file or spec.is_hub:
        return _number(_opener(spec)(spec, "float32")[2])
    return _number(_cuts(name_layers(build_application(spec, None))))


def list_top(spec: TrunkSpec, listed: list[ListedLayer]) -> list[ListedLayer]:
    """List the layers of the complete application that are not in ``listed``."""
    complete = name_layers(build_application(spec, None, top=True))
    names = {layer.name for layer in listed}
    return [layer for layer in _number(_cuts(complete)) if layer.name not in names]


def _number(cuts: Mapping[str, Cut]) -> list[ListedLayer]:
    return [ListedLayer(i, name, cut.shape) for i, (name, cut) in enumerate(cuts.items())]


def name_layers(model: Any) -> dict[str, Any]:
    """Map stable names to a model's layers, in order.

    Keras numbers unnamed layers through the process: the first ``conv2d`` of a second model is
    ``conv2d_94``. Here numbers start at the lowest of their kind in the model, so that a name is
    the one that a fresh process would give.
    """
    parts: list[tuple[str, int | None]] = []
    for layer in model.layers:
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        kind = {"conv2_d": "conv2d"}.get(kind, kind).replace("2_d", "2d")
        automatic = re.fullmatch(rf"{kind}(?:_(\d+))?", layer.name)
        parts.append((kind, int(automatic[1] or 0)) if automatic else (layer.name, None))
    # Sorted so that the lowest number of a kind comes last, which a dict keeps.
    first = dict(sorted(((k, n) for k, n in parts if n is not None), reverse=True))
    names = [k if n in (None, first.get(k)) else f"{k}_{n - first[k]}" for k, n in parts]
    return dict(zip(names, model.layers, strict=True))


def _opener(spec: TrunkSpec) -> Callable[[TrunkSpec, str], tuple[TrunkSpec, Any, dict[str, Cut]]]:
    """Return the function that builds a trunk of this family, see ``open_model_file``."""
    if spec.is_hub:
        return _open_preset
    return open_model_file if spec.is_file else _open_application


def _open_preset(spec: TrunkSpec, precision: str) -> tuple[TrunkSpec, Any, dict[str, Cut]]:
    """Load a backbone of KerasHub and find its cuts."""
    preset, spec = hub_presets.read_preset(spec.trunk), hub_presets.settle(spec)
    weights = preset.files[-1]
    try:
        check_weights(weights)
        with bounded_weights(weights, least=least_bytes(weights)), computing_in(precision):
            backbone = hub_backbone.build_backbone(preset, spec.image_size)
        model = hub_backbone.image_part(spec.trunk, backbone)
        fill_weights(backbone, weights)
        return _cut_backbone(spec, model)
    except TrunkError:
        raise
    except Exception as error:  # a wrong file can make Keras and h5py raise anything
        size = f"at {spec.image_size[1]} x {spec.image_size[0]} pixels"
        problem = f"{preset.kind} {size}: {' '.join(str(error).split())[:300]}"
        remedy = "give --image-size only to one that takes any size"
        raise TrunkError(f"{spec.trunk}: {problem}; {hub_presets.EXPECTED}; {remedy}") from error


def _cut_backbone(spec: TrunkSpec, model: Any) -> tuple[TrunkSpec, Any, dict[str, Cut]]:
    """Find the cuts of a backbone, and settle its layer and pooling."""
    tensors = hub_backbone.name_outputs(keras, model, name_layers(model))
    spec = replace(spec, layer=spec.layer or (list(tensors)[-1],))
    shapes = [tuple(choose(spec, tensors, name).shape) for name in spec.layer]
    spec = hub_backbone.settle_pooling(spec, model, shapes)
    if spec.pooling in ("avg", "max"):
        tensors = hub_backbone.without_first_tokens(model, tensors)
    cuts = {k: Cut(tuple(v.shape), partial(lambda v: v, v)) for k, v in tensors.items()}
    return spec, model.inputs, cuts


def _open_application(spec: TrunkSpec, precision: str) -> tuple[TrunkSpec, Any, dict[str, Cut]]:
    """Load an application and find its cuts."""
    loaded = _load_application(spec)
    model = set_precision(loaded, precision)
    # The layers of a copy have the same order, but the name of its input differs.
    layers = dict(zip(name_layers(loaded), model.layers, strict=True))
    return spec, model.inputs, _cuts(layers)


def _load_application(spec: TrunkSpec) -> Any:
    """Load the application without its top, or with it if a layer is in the top only.

    Raises:
        TrunkError: A layer is unknown, or is in the top, which needs another image size.
    """
    native = TRUNKS[spec.trunk]
    if spec.layer == (native.cut,):
        return load_application(spec)
    plain = build_application(spec, None)
    layers = name_layers(plain)
    if layers.keys() >= set(spec.layer):
        return load_application(spec, built=plain)
    layers |= name_layers(build_application(spec, None, top=True))
    for name in spec.layer:
        choose(spec, layers, name)
    side, (height, width) = native.image_size, spec.image_size
    if (height, width) != (side, side):
        raise TrunkError(
            f"layer {', '.join(spec.layer)}: in the complete {spec.trunk} only, which takes "
            f"{side} x {side} pixels, found {width} x {height}; leave --image-size out"
        )
    return load_application(spec, top=True)


def _cuts(layers: Mapping[str, Any]) -> dict[str, Cut]:
    return {
        name: Cut(tuple(layer.output.shape), partial(getattr, layer, "output"))
        for name, layer in layers.items()
    }


def choose(spec: TrunkSpec, layers: Mapping[str, Any], name: str) -> Any:
    """Return the entry of that name; ``output`` is the last one unless a layer has that name."""
    if name not in layers and name != OUTPUT:
        problem = unknown_name("layer", name, layers)
        raise TrunkError(f"{spec.trunk}: {problem}; see --list-layers --trunk {spec.trunk}")
    return layers[name] if name in layers else layers[list(layers)[-1]]


def _preprocess(spec: TrunkSpec, pixels: Any) -> Any:
    """Convert float32 pixels in 0..255 to the range that the trunk was trained on."""
    if spec.preprocess == "auto":
        if spec.is_hub:
            rescaling = hub_presets.rescaling(spec)
            return keras.layers.Rescaling(**rescaling, dtype="float32")(pixels)
        known = TRUNKS[spec.trunk]
        module = getattr(keras.applications, known.module) if known.in_keras else efficientnet_lite
        return module.preprocess_input(pixels)
    if spec.preprocess == "none":
        return pixels
    if not spec.normalization:
        return pixels / 255.0
    mean, std = np.array(spec.normalization, np.float32)
    return (pixels / 255.0 - mean) / std


def _settle_pooling(spec: TrunkSpec, shapes: list[tuple[int | None, ...]]) -> TrunkSpec:
    """Choose the pooling if the spec has none; refuse one that can have no effect."""
    axes = {len(shape) for shape in shapes}
    if spec.pooling not in ("", "none") and not axes & {3, 4}:
        found = ", ".join(f"{n} gives {s[1:]}" for n, s in zip(spec.layer, shapes, strict=True))
        problem = f"{found}, so pooling {spec.pooling} can have no effect"
        raise TrunkError(f"layer {problem}; use --pooling none")
    return replace(spec, pooling=spec.pooling or ("avg" if 4 in axes else "none"))


def _pool(pooling: str, output: Any) -> Any:
    """Pool a map over its positions, and a sequence over its tokens."""
    axes = len(output.shape) - 2
    if pooling == "none" or axes not in (1, 2):
        return output
    if pooling == "cls":
        return output[:, 0]
    kind = "Average" if pooling == "avg" else "Max"
    return getattr(keras.layers, f"Global{kind}Pooling{axes}D")()(output)
