"""A trained head on its trunk as one Keras model, and the formats that it is written in.

Everything in the model is a layer or an operation of Keras itself, so that it loads in safe mode.
"""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from classify.data.preprocessing import Transform
from classify.heads.keras_head import DenseHead
from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import EXTRA, METADATA
from extract.core.errors import HeadError
from extract.images.item import reason_of
from extract.trunks.backend import as_os_error, freeze, graph_of
from extract.trunks.keras_import import keras
from extract.trunks.trunk import Trunk

# The layer, the file or the metadata entry that holds the class names.
NAMES = "class_names"
# The formats whose files cannot be larger, because of the 32-bit offsets in them.
_MOST_BYTES = 2**31 - 2**20


def describe(head: TrainedHead) -> dict[str, Any]:
    """Return what a program that serves the model needs to know, as JSON can hold it.

    The values that are the same for every model describe ``extract.pixels.decode``.
    """
    spec = head.trunk
    return {
        NAMES: list(head.class_names),
        "image_size": list(spec.image_size),
        "resize": spec.resize,
        "interpolation": spec.interpolation,
        "decoding": spec.decoding,
        "antialias": spec.interpolation != "nearest",
        "colour_order": "RGB",
        "value_range": [0, 255],
        "orientation": "exif",
        "background": [255, 255, 255],
        "trunk": Path(spec.trunk).name if spec.is_file or spec.is_hub else spec.trunk,
        "layer": head.layer,
        "pooling": spec.pooling,
        "preprocess": spec.preprocess,
        "weights_sha256": head.weights_sha256,
        "head": head.name,
        "headstart_version": version("headstart"),
    }


def build_model(head: TrainedHead, trunk: Trunk) -> Any:
    """Put a head on its trunk.

    Args:
        head: The trained head.
        trunk: Its trunk.

    Returns:
        A ``keras.Model`` from (B, H, W, 3) uint8 RGB pixels to (B, K) float32 scores, 0 to 1, each
        row summing to 1.
    """
    x, *others = head.select(dict(zip(trunk.shapes, trunk.model.outputs, strict=True)))
    if others:
        x = keras.layers.Concatenate()([_flat(features) for features in (x, *others)])
    x, fitted = _transformed(head.head.transform, x), head.head.head
    if isinstance(fitted, DenseHead):
        scores = fitted.model(x)
        if scores.shape[1] == 1:
            scores = keras.ops.concatenate([1 - scores, scores], axis=-1)
    else:
        kernel, bias = fitted.softmax_weights()  # type: ignore[attr-defined]
        softmax = keras.layers.Dense(len(bias), activation="softmax")
        scores = _weighted(softmax, _flat(x), [kernel, bias])
    # No built-in layer holds strings. This one has no ``beta`` and no ``gamma``, so their initial
    # values are never used, but are saved, loaded and available as ``beta_initializer.value`` and
    # ``gamma_initializer.value``.
    names = keras.initializers.Constant(list(head.class_names))
    metadata = keras.initializers.Constant(describe(head))
    held = {"beta_initializer": names, "gamma_initializer": metadata}
    scores = _affine(scale=False, name=NAMES, **held)(scores)
    return keras.Model(trunk.model.inputs[0], scores, name="pixels_to_scores")


def _flat(x: Any) -> Any:
    return x if len(x.shape) == 2 else keras.layers.Flatten()(x)


def _weighted(layer: Any, x: Any, weights: Sequence[Any]) -> Any:
    """Call a layer and set its weights."""
    output = layer(x)
    layer.set_weights(weights)
    return output


def _affine(**settings: Any) -> Any:
    """Return a layer that computes (x - mean) * scale: its variance is 1, at first its mean 0."""
    return keras.layers.BatchNormalization(epsilon=0.0, center=False, trainable=False, **settings)


def _transformed(transform: Transform, x: Any) -> Any:
    """Apply the steps of a transform."""
    for step, learnt in transform.learnt():
        x = _flat(x)
        if step == "standardise":
            weights = [learnt["scale"], learnt["mean"], 0 * learnt["mean"] + 1]
            x = _weighted(_affine(), x, weights)
        elif step == "sqrt":
            x = keras.ops.sign(x) * keras.ops.sqrt(keras.ops.abs(x))
        elif step == "l2":
            x = keras.layers.UnitNormalization()(x)
        else:
            axes = learnt["axes"]
            x = _weighted(keras.layers.Dense(axes.shape[1]), x, [axes, -learnt["mean"] @ axes])
    return x


def _write_keras(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    model.save(path)


def _write_saved_model(model: Any, metadata: Mapping[str, Any], folder: Path) -> None:
    with as_os_error():
        model.export(folder, format="tf_saved_model", verbose=False)
    extra = folder / EXTRA
    extra.mkdir()
    for name, value in ((f"{NAMES}.json", metadata[NAMES]), (METADATA, metadata)):
        (extra / name).write_text(_to_json(value) + "\n", encoding="utf-8", newline="\n")


def _write_onnx(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    import onnx

    _check_size(model, path)
    written = _to_onnx(model)
    for node in written.graph.node:
        # Else ONNX Runtime takes zeros in front of it (ResNetV2) for padding, which is -infinity.
        if node.op_type == "MaxPool" and not {"pads", "auto_pad"} & {
            a.name for a in node.attribute
        }:
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "VALID"))
    for value in (*written.graph.input, *written.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for key, value in metadata.items():
        written.metadata_props.add(key=key, value=_to_json(value))
    try:
        onnx.checker.check_model(written)
    except onnx.checker.ValidationError as error:  # tf2onnx leaves in what it does not know
        raise HeadError(f"export: {reason_of(error)}; export to .keras or a folder") from error
    onnx.save(written, path)


def _to_onnx(model: Any) -> Any:
    """Convert a model as ``tf2onnx.convert`` does, which holds four times as many copies of it."""
    from tf2onnx import optimizer

    steps = optimizer._get_optimizers().items()
    collected = {name: partial(_collected, step) for name, step in steps}
    gc.collect()
    gc.freeze()  # what is there already is not looked at again, so that collecting is quick
    try:
        # No variable here holds the first graph, so that its memory is free for later ones.
        optimized = optimizer.optimize_graph(_to_graph(model), optimizers=collected)
    finally:
        gc.unfreeze()
    return optimized.make_model("headstart")


def _to_graph(model: Any) -> Any:
    """Convert a model to a graph of tf2onnx."""
    from tf2onnx import tf_loader, tfonnx

    # Keras' own export does not freeze: it takes constants of the preprocessing for inputs.
    definition, pixels, scores = freeze(model)
    gc.collect()
    optimize = partial(tf_loader.tf_optimize, [pixels], [scores])
    with graph_of(definition, optimize) as graph:
        del definition  # it has a copy of all weights
        return tfonnx.process_tf_graph(
            graph,
            input_names=[pixels],
            output_names=[scores],
            tensors_to_rename={pixels: "pixels", scores: "scores"},
            custom_op_handlers={"Erfc": (_erfc, [])},
        )


def _collected(step: Callable[[], Any]) -> Any:
    """Begin a step of optimisation without the copies of all weights that are left in cycles."""
    gc.collect()
    return step()


def _erfc(graph: Any, node: Any, *_: Any) -> None:
    """Write a complementary error function, which is in TensorFlow's GELU, for tf2onnx."""
    dtype, (output,) = graph.get_dtype(node.output[0]), node.output
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}_one", np.ones((), np.float32))
    erf = graph.make_node("Erf", node.input, dtypes=[dtype])
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=[output], dtypes=[dtype])


def _write_litert(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    _check_size(model, path)
    model.export(str(path), format="litert", verbose=False)  # Keras 3.14 takes no Path
    # As the format has it, files that belong to a model are a ZIP archive behind it.
    with ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in metadata[NAMES]))
        archive.writestr(METADATA, _to_json(metadata))


def _check_size(model: Any, path: Path) -> None:
    size = 4 * model.count_params()
    if size > _MOST_BYTES:
        problem = f"the weights are {size / 1e9:.1f} GB; such a file holds at most 2.1 GB"
        raise HeadError(f"export: {problem}; export to .keras or a folder instead of {path.suffix}")


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Ending -> function that writes a model and its metadata.
WRITERS: Mapping[str, Callable[[Any, Mapping[str, Any], Path], None]] = {
    ".keras": _write_keras,
    ".onnx": _write_onnx,
    ".tflite": _write_litert,
    "": _write_saved_model,
}
