"""A trunk with the channels first, the order in which OpenVINO computes.

Maps in Keras are (B, H, W, C), in OpenVINO (B, C, H, W). Let P reorder a map to the latter, and let
f be a layer. Keras on OpenVINO computes f as P⁻¹ g P, where g is the layer with the channels first,
and leaves a pair of transpositions around each layer, which nothing fuses across. Of a chain only
the outer ones are needed,

    (P⁻¹ g₂ P)(P⁻¹ g₁ P) = P⁻¹ (g₂ g₁) P,

and a layer that treats all elements alike, such as an activation or a sum, is its own g. For every
other layer here Keras has g under a setting, ``data_format`` or ``axis``, with the same weights. So
the model is copied with these settings, one P before it and one P⁻¹ behind each of its maps.
"""

from typing import Any

from extract.trunks.keras_import import keras

# Layers that are the same for any order of the axes. The last is that of inception_resnet_v2.
_ELEMENTWISE = ("Activation", "Add", "Dropout", "InputLayer", "ReLU", "CustomScaleLayer")
# Layers that the axis of the channels is given to.
_WITH_AXIS = ("BatchNormalization", "Concatenate")


def put_channels_first(model: Any) -> Any:
    """Return a copy of the model of a ``Trunk`` that computes its maps with the channels first.

    Raises:
        ValueError: A layer has no form of which it is known that it does the same.
    """

    def copy(layer: Any) -> Any:
        return _copy_trunk(layer) if isinstance(layer, keras.Model) else layer

    return keras.models.clone_model(model, clone_function=copy)


def _copy_trunk(trunk: Any) -> Any:
    """Return P⁻¹ g P of a trunk, from maps to maps with the channels last."""
    last = keras.Input(trunk.inputs[0].shape[1:])
    first = keras.ops.transpose(last, (0, 3, 1, 2))
    copied = keras.models.clone_model(trunk, [keras.Input(first.shape[1:])], _copy_layer)
    copied.set_weights(trunk.get_weights())
    outputs = [
        keras.ops.transpose(output, (0, 2, 3, 1)) if len(output.shape) == 4 else output
        for output in keras.tree.flatten(copied(first))
    ]
    return keras.Model(last, outputs if len(outputs) > 1 else outputs[0])


def _copy_layer(layer: Any) -> Any:
    """Return g of a layer, with weights to be set."""
    config, kind = layer.get_config(), type(layer).__name__
    is_map = len(keras.tree.flatten(layer.input)[0].shape) == 4
    if "data_format" in config:
        config["data_format"] = "channels_first"
    elif is_map and kind in _WITH_AXIS and config["axis"] in (-1, 3):
        config["axis"] = 1
    elif is_map and (kind not in _ELEMENTWISE or config.get("activation") == "softmax"):
        raise ValueError(f"the layer {layer.name}, {kind}, is not known with the channels first")
    return type(layer).from_config(config)
