"""TrunkSpec -> Trunk: a frozen model from uint8 pixels to features, cut, weighted and pooled.

Cast, preprocessing, trunk and pooling are one Keras model, so what is cached, what predicts and
what is exported are the same function.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, unknown_name
from extract.trunks.backend import as_list, load_keras
from extract.trunks.model_file import (
    Cut,
    choose_layer,
    digest_model_file,
    find_cuts,
    load_model_file,
    resolve_size,
)
from extract.trunks.weights import build_application, digest_weights, load_application

# The name of a complete model's own output, whatever its last layer is called.
OUTPUT = "output"


@dataclass(frozen=True)
class Trunk:
    """A frozen trunk, ready to run.

    Attributes:
        spec: What was asked for, settled.
        model: A Keras model from (B, H, W, 3) uint8 pixels to float32 features, a list of them
            for several layers.
        shapes: Shape of one image's features, by layer.
        weights_sha256: SHA-256 over the values the model holds, whatever file they came from; for
            a model of one's own over its architecture too.
    """

    spec: TrunkSpec
    model: Any
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str


class ListedLayer(NamedTuple):
    """A layer that a trunk can be cut at: its shape has the batch first, as None."""

    number: int
    name: str
    shape: tuple[int | None, ...]


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
        TrunkError: The layer is unknown, the size wrong, or the weights do not fit.
    """
    keras = load_keras()
    if spec.is_file:
        spec, inputs, cuts = _open_file(keras, spec, precision)
    else:
        with _computing_in(keras, precision):
            whole = _load_whole(spec)
        inputs, cuts = whole.inputs, _application_cuts(whole)
    outputs = [_choose(spec, cuts, name).output() for name in spec.layer]
    cut = keras.Model(inputs, outputs, name="trunk" if spec.is_file else spec.trunk)
    cut.trainable = False
    pixels = keras.Input((*spec.image_size, 3), dtype="uint8", name="pixels")
    # Inference mode wherever this model is used for predicting. A model in training overrides it;
    # batch normalisation stays as it is even then, because the layers are frozen.
    prepared = _preprocess(keras, spec, keras.ops.cast(pixels, "float32"))
    maps = [keras.ops.cast(m, "float32") for m in as_list(cut(prepared, training=False))]
    spec = _settle_pooling(spec, [tuple(m.shape) for m in maps])
    features = [_pool(keras, spec.pooling, output) for output in maps]
    model = keras.Model(
        pixels, features if len(features) > 1 else features[0], name=f"{cut.name}_features"
    )
    shapes = {
        name: tuple(feature.shape[1:]) for name, feature in zip(spec.layer, features, strict=True)
    }
    digest = digest_weights(cut)
    if spec.is_file:
        digest = digest_model_file(Path(spec.trunk), digest)
    return Trunk(spec, model, shapes, digest)


def list_layers(spec: TrunkSpec) -> list[ListedLayer]:
    """List the layers a trunk can be cut at, in the order of Keras' ``model.layers``.

    Raises:
        TrunkError: The trunk cannot be built at this size.
    """
    if spec.is_file:
        cuts = _open_file(load_keras(), spec, "float32")[2]
    else:
        cuts = _application_cuts(build_application(spec, None))
    return [ListedLayer(i, name, cut.shape) for i, (name, cut) in enumerate(cuts.items())]


def list_top(spec: TrunkSpec, listed: list[ListedLayer]) -> list[ListedLayer]:
    """List the layers of the complete application that are not ``listed`` already."""
    known = {layer.name for layer in listed}
    cuts = _application_cuts(build_application(spec, None, top=True))
    found = [ListedLayer(i, name, cut.shape) for i, (name, cut) in enumerate(cuts.items())]
    return [layer for layer in found if layer.name not in known]


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


def _load_whole(spec: TrunkSpec) -> Any:
    """Load the application that has the layers: without its top, unless they are of that.

    Raises:
        TrunkError: A layer is in neither, or in the complete model and the size is another.
    """
    native = TRUNKS[spec.trunk]
    if spec.layer == (native.cut,):
        return load_application(spec)
    plain = build_application(spec, None)
    cuts = _application_cuts(plain)
    if cuts.keys() >= set(spec.layer):
        return load_application(spec, built=plain)
    complete = _application_cuts(build_application(spec, None, top=True))
    for name in spec.layer:
        if name not in complete:
            _choose(spec, cuts | complete, name)
    if spec.image_size != (native.image_size, native.image_size):
        height, width = spec.image_size
        raise TrunkError(
            f"layer {', '.join(spec.layer)}: in the complete {spec.trunk} only, which takes "
            f"{native.image_size} x {native.image_size} pixels, found {width} x {height}; leave "
            "--image-size out"
        )
    return load_application(spec, top=True)


def _application_cuts(model: Any) -> dict[str, Cut]:
    return {
        name: Cut(tuple(layer.output.shape), partial(getattr, layer, "output"))
        for name, layer in name_layers(model).items()
    }


def _open_file(
    keras: Any, spec: TrunkSpec, precision: str
) -> tuple[TrunkSpec, Any, dict[str, Cut]]:
    """Load a model of one's own and read from it what the spec leaves open."""
    model = load_model_file(Path(spec.trunk), precision)
    spec = replace(spec, image_size=resolve_size(spec, model))
    # Floats whatever the model says: preprocessing may come before it.
    entry = keras.Input((*spec.image_size, 3), dtype="float32")
    cuts = find_cuts(model, entry)
    if not cuts:
        raise TrunkError(f"{spec.trunk}: found no layer to cut at; expected a model with layers")
    return replace(spec, layer=spec.layer or (choose_layer(cuts),)), entry, cuts


def _choose(spec: TrunkSpec, cuts: dict[str, Cut], name: str) -> Cut:
    """Return the cut of that name; ``output`` is the last one, unless a layer is called so."""
    if name not in cuts and name != OUTPUT:
        raise TrunkError(
            f"{spec.trunk}: {unknown_name('layer', name, cuts)}"
            f"; see extract-features --list-layers --trunk {spec.trunk}"
        )
    return cuts[name] if name in cuts else cuts[list(cuts)[-1]]


def _preprocess(keras: Any, spec: TrunkSpec, pixels: Any) -> Any:
    """Bring float32 pixels in 0..255 to what the trunk was trained on."""
    if spec.preprocess == "rescale":
        return pixels / 255.0
    if spec.preprocess == "none":
        return pixels
    return getattr(keras.applications, TRUNKS[spec.trunk].module).preprocess_input(pixels)


def _settle_pooling(spec: TrunkSpec, shapes: list[tuple[int | None, ...]]) -> TrunkSpec:
    """Settle what was left open, and refuse a pooling that can have no effect."""
    is_map = any(len(shape) == 4 for shape in shapes)
    if spec.pooling not in ("", "none") and not is_map:
        found = ", ".join(
            f"{name} gives {shape[1:]}" for name, shape in zip(spec.layer, shapes, strict=True)
        )
        raise TrunkError(
            f"layer {found}, so pooling {spec.pooling} can have no effect; use --pooling none"
        )
    return replace(spec, pooling=spec.pooling or ("avg" if is_map else "none"))


def _pool(keras: Any, pooling: str, output: Any) -> Any:
    if pooling == "none" or len(output.shape) != 4:
        return output
    layer = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[pooling]
    return getattr(keras.layers, layer)()(output)
