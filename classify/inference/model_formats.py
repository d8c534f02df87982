"""A trained head on its trunk as one Keras model, and the formats that it is written in.

Everything in the model is a layer or an operation of Keras itself, so that it loads in safe mode.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.preprocessing import Transform
from classify.heads.keras_head import DenseHead
from classify.inference.bundle import TrainedHead
from extract.trunks.keras_import import keras
from extract.trunks.trunk import Trunk

# The layer, the file or the metadata entry that holds the class names.
NAMES = "class_names"


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
    # No built-in layer holds strings. This one has no ``beta``, so its initial value is never used,
    # but is saved, loaded and available as ``beta_initializer.value``.
    names = keras.initializers.Constant(list(head.class_names))
    scores = _affine(scale=False, beta_initializer=names, name=NAMES)(scores)
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


def _write_keras(model: Any, class_names: Sequence[str], path: Path) -> None:
    model.save(path)


def _write_saved_model(model: Any, class_names: Sequence[str], folder: Path) -> None:
    model.export(folder, format="tf_saved_model", verbose=False)
    extra = folder / "assets.extra"  # TensorFlow reserves this folder for other programs
    extra.mkdir()
    text = json.dumps(list(class_names), ensure_ascii=False)
    (extra / f"{NAMES}.json").write_text(text + "\n", encoding="utf-8")


def _write_onnx(model: Any, class_names: Sequence[str], path: Path) -> None:
    import onnx

    model(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports only a called model
    with warnings.catch_warnings():
        # Keras uses a name that NumPy 2 has reserved.
        warnings.filterwarnings("ignore", ".*`np.object`", FutureWarning)
        model.export(path, format="onnx", verbose=False)
    written = onnx.load(path)
    written.metadata_props.add(key=NAMES, value=json.dumps(list(class_names), ensure_ascii=False))
    onnx.save(written, path)


# Ending -> function that writes a model and its class names.
WRITERS: Mapping[str, Callable[[Any, Sequence[str], Path], None]] = {
    ".keras": _write_keras,
    ".onnx": _write_onnx,
    "": _write_saved_model,
}
