"""TrunkSpec -> an ONNX model in OpenVINO, from uint8 pixels to pooled features.

Cast, preprocessing, model and pooling are one graph, as they are for a trunk of Keras.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, show_bytes
from extract.onnx.cuts import ImageModel, open_image_model, shape_of
from extract.onnx.pooling import describe_pooling, pool, settle_pooling
from extract.trunks.backend import load_openvino

ops = load_openvino().opset13

# Bytes that a value within a model may have for one image.
_MOST_BYTES = 2**31


class OnnxTrunk(NamedTuple):
    """An ONNX model as a trunk; the attributes are those of ``trunks.trunk.Trunk``.

    Attributes:
        spec: Its settings, all of them settled.
        model: An ``openvino.Model`` from (B, H, W, 3) uint8 pixels to float32 features.
        shapes: Shape of one image's features, by layer.
        weights_sha256: SHA-256 of the file.
        notes: What the user is to know of the pooling.
    """

    spec: TrunkSpec
    model: Any
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str
    notes: list[str]


def build_here(spec: TrunkSpec) -> OnnxTrunk:
    """Build a trunk in this process, which only ``build`` may do with the file of a stranger.

    Read an ONNX file, cut it at the chosen layers, and put pixels before it, pooling behind.

    Raises:
        TrunkError: The file or a layer cannot be used, see ``open_image_model``; features are no
            vector, map or tokens, depend on other images of the batch, or need too much memory.
    """
    image = open_image_model(spec)
    spec = replace(spec, image_size=image.image_size, layer=spec.layer or (image.first_output,))
    cuts = image.find_cuts()
    outputs = [image.choose(spec, cuts, name) for name in spec.layer]
    _check_sizes(spec, image)
    spec, kinds = settle_pooling(spec, outputs, image)
    notes = describe_pooling(spec, kinds, outputs)
    pixels = ops.parameter([image.batch or -1, *spec.image_size, 3], np.uint8, "pixels")
    _replace_input(spec, image, pixels)
    pooled = [pool(spec, kind, output) for kind, output in zip(kinds, outputs, strict=True)]
    results = [ops.result(ops.convert(output, np.float32)) for output in pooled]
    model = load_openvino().Model(results, [pixels], "trunk")
    shapes = {
        name: tuple(map(int, shape_of(result.output(0))[1:]))  # type: ignore[arg-type]
        for name, result in zip(spec.layer, results, strict=True)
    }
    _check_independence(spec, image, model)
    return OnnxTrunk(spec, model, shapes, image.sha256, notes)


def _replace_input(spec: TrunkSpec, image: ImageModel, pixels: Any) -> None:
    """Feed the prepared pixels to what the model's input has fed."""
    given = image.model.inputs[0]
    x = ops.convert(pixels, np.float32)
    if spec.preprocess != "none":
        x = ops.divide(x, np.float32(255))
    if spec.normalization:
        mean, std = np.array(spec.normalization, np.float32)
        x = ops.divide(ops.subtract(x, mean), std)
    if image.channels_first:
        x = ops.transpose(x, [0, 3, 1, 2])
    given.replace(ops.convert(x, given.element_type.to_dtype()).output(0))


def _check_sizes(spec: TrunkSpec, image: ImageModel) -> None:
    """Raise TrunkError unless the values of one image have fixed sizes, and fit into memory."""
    one = image.model.clone()
    one.reshape([image.batch or 1, *shape_of(image.model.inputs[0])[1:]])
    for node in one.get_ordered_ops():
        for output in node.outputs():
            shape = shape_of(output)
            where = f"{spec.trunk}: {node.friendly_name}"
            if None in shape or output.get_partial_shape().rank.is_dynamic:
                expected = "expected a size that does not depend on what is in an image"
                raise TrunkError(f"{where} has no fixed size; {expected}; export it otherwise")
            size = math.prod(map(int, shape)) * output.element_type.size  # type: ignore[arg-type]
            if size > _MOST_BYTES:
                problem = f"needs {show_bytes(size)} for an image; at most 2.1 GB are computed"
                raise TrunkError(f"{where} {problem}; use a smaller --image-size, or another model")


def _check_independence(spec: TrunkSpec, image: ImageModel, model: Any) -> None:
    """Raise TrunkError if the features of an image depend on the image next to it.

    Such features come from a batch normalization in training mode, or from a batch of one that the
    exporter has written into the model.
    """
    count = image.batch or 2
    pixels = np.random.default_rng(0).integers(0, 256, (2, count, *spec.image_size, 3), np.uint8)
    pixels[1, 0], pixels[1, 1:] = pixels[0, 0], 255  # beside noise, and beside white images
    fixed = model.clone()
    fixed.reshape([count, *spec.image_size, 3])
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = "expected a model for inference with a dynamic batch; export it again"
    try:
        run = load_openvino().Core().compile_model(fixed, "CPU", settings)
        answers = [[value[0].copy() for value in run([batch]).values()] for batch in pixels]
    except RuntimeError as error:
        raise TrunkError(f"{spec.trunk}: cannot run on {count} images; {expected}") from error
    for name, one, other in zip(spec.layer, *answers, strict=True):
        if not np.isfinite(one).all():
            problem = f"layer {name} gives values that are not finite"
            raise TrunkError(f"{spec.trunk}: {problem}; expected numbers; choose another layer")
        if np.abs(one - other).max() > 1e-3 * np.abs(one).max():
            problem = f"layer {name} of an image depends on the other images of its batch"
            raise TrunkError(f"{spec.trunk}: {problem}; {expected}")
