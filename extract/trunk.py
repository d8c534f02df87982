"""TrunkSpec -> Trunk: a frozen model from uint8 pixels to features, cut, weighted and pooled.

Cast, preprocessing, trunk and pooling are one Keras model, so what is cached, what predicts and
what is exported are the same function.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from extract.backend import as_list, load_keras
from extract.config import TRUNKS, TrunkSpec
from extract.errors import TrunkError, unknown_name
from extract.weights import build_application, digest_weights, load_application


@dataclass(frozen=True)
class Trunk:
    """A frozen trunk, ready to run.

    Attributes:
        spec: What was asked for.
        model: A Keras model from (B, H, W, 3) uint8 pixels to float32 features, a list of them
            for several layers.
        shapes: Shape of one picture's features, by layer.
        weights_sha256: SHA-256 over the values the model holds, whatever file they came from.
    """

    spec: TrunkSpec
    model: Any
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str


def build_trunk(spec: TrunkSpec, precision: str = "float32") -> Trunk:
    """Build the trunk, load its weights, cut it at the asked layers and freeze it.

    Args:
        spec: The trunk to build.
        precision: What its layers compute in: ``float32``, ``bfloat16`` or ``float16``. Weights and
            features stay float32.

    Returns:
        The trunk; building the same spec again gives the same function.

    Raises:
        WeightsUnavailableError: ImageNet weights are not to be had.
        TrunkError: The layer is unknown, the size too small, or the weights do not fit.
    """
    keras = load_keras()
    with _computing_in(keras, precision):
        whole = load_application(spec)
    layers = name_layers(whole)
    outputs = [_layer_output(spec, layers, name) for name in spec.layer]
    cut = keras.Model(whole.inputs, outputs, name=spec.trunk)
    cut.trainable = False
    pixels = keras.Input((*spec.image_size, 3), dtype="uint8", name="pixels")
    # training=False is baked in, so that dropout and batch normalisation stay in inference mode
    # wherever this model is used.
    prepared = _preprocess(keras, spec, keras.ops.cast(pixels, "float32"))
    maps = [keras.ops.cast(m, "float32") for m in as_list(cut(prepared, training=False))]
    features = [
        _pool(keras, spec, name, output) for name, output in zip(spec.layer, maps, strict=True)
    ]
    outputs = features if len(features) > 1 else features[0]
    model = keras.Model(pixels, outputs, name=f"{spec.trunk}_features")
    shapes = {
        name: tuple(int(side) for side in feature.shape[1:])
        for name, feature in zip(spec.layer, features, strict=True)
    }
    return Trunk(spec, model, shapes, digest_weights(cut))


def list_layers(spec: TrunkSpec) -> list[tuple[int, str, tuple[int | None, ...]]]:
    """List the layers a trunk can be cut at, in the order of Keras' ``model.layers``.

    Returns:
        Index, name and output shape (batch first, as None) of every layer.

    Raises:
        TrunkError: The trunk cannot be built at this size.
    """
    names = name_layers(build_application(spec, weights=None))
    return [(i, name, tuple(layer.output.shape)) for i, (name, layer) in enumerate(names.items())]


def name_layers(model: Any) -> dict[str, Any]:
    """Map stable names to a model's layers, in order.

    Keras numbers unnamed layers through the whole process: the first ``conv2d`` of a second model
    is ``conv2d_94``. Counted from the lowest number of its kind in this model, a name is the one
    that a fresh process would give.
    """
    automatic: dict[str, list[int]] = {}
    parts: list[tuple[str, int | None]] = []
    for layer in model.layers:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        kind = {"conv2_d": "conv2d"}.get(kind, kind).replace("2_d", "2d")
        number = int(match[2] or 0) if match and match[1] == kind else None
        parts.append((layer.name if number is None else kind, number))
        if number is not None:
            automatic.setdefault(kind, []).append(number)
    first = {kind: min(numbers) for kind, numbers in automatic.items()}
    names = [
        base if number is None or number == first[base] else f"{base}_{number - first[base]}"
        for base, number in parts
    ]
    return dict(zip(names, model.layers, strict=True))


@contextmanager
def _computing_in(keras: Any, precision: str) -> Iterator[None]:
    """Make layers that are built meanwhile compute in a precision, through Keras' own policies."""
    former = keras.config.dtype_policy()
    if precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def _layer_output(spec: TrunkSpec, layers: dict[str, Any], name: str) -> Any:
    if name not in layers:
        raise TrunkError(
            f"{spec.trunk}: {unknown_name('layer', name, layers)}"
            f"; see extract-features --list-layers --trunk {spec.trunk}"
        )
    return layers[name].output


def _preprocess(keras: Any, spec: TrunkSpec, pixels: Any) -> Any:
    """Bring float32 pixels in 0..255 to what the trunk was trained on."""
    if spec.preprocess == "rescale":
        return pixels / 255.0
    if spec.preprocess == "none":
        return pixels
    return getattr(keras.applications, TRUNKS[spec.trunk].module).preprocess_input(pixels)


def _pool(keras: Any, spec: TrunkSpec, name: str, output: Any) -> Any:
    if spec.pooling == "none":
        return output
    if len(output.shape) != 4:
        raise TrunkError(
            f"layer {name}: gives {tuple(output.shape[1:])}, so pooling {spec.pooling} can have no "
            "effect; use --pooling none"
        )
    layer = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[spec.pooling]
    return getattr(keras.layers, layer)()(output)
