"""EfficientNet-Lite0 as a Keras model.

The network is EfficientNet-B0 (Tan and Le, 2019) for processors without floating point, as Google
published it in 2020: no squeeze-and-excitation, and ReLU6 in the place of swish. Layers have the
names of Keras' EfficientNet.
"""

from typing import Any, NamedTuple


class Stage(NamedTuple):
    """Blocks of one shape; ``stride`` is that of the first of them."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def build_model(keras: Any, size: tuple[int, int], top: bool) -> Any:
    """Build EfficientNet-Lite0 without weights.

    Args:
        keras: The ``keras`` module.
        size: Height and width of its input.
        top: Whether to include the classifier of ImageNet's 1,000 classes.

    Returns:
        A ``keras.Model`` from (B, H, W, 3) preprocessed pixels to maps or scores.
    """
    layers = keras.layers
    inputs = layers.Input((*size, 3))
    x = _convolve(layers, inputs, "stem", 32, 3, 2)
    for number, stage in enumerate(STAGES, 1):
        for i in range(stage.blocks):
            x = _add_block(layers, x, f"block{number}{'abcd'[i]}", stage, i == 0)
    x = _convolve(layers, x, "top", 1280)
    if top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def preprocess_input(pixels: Any) -> Any:
    """Scale pixels from 0..255 to about -1..1, as in training."""
    return (pixels - 127.0) / 128.0


def _add_block(layers: Any, x: Any, name: str, stage: Stage, is_first: bool) -> Any:
    """Add an inverted residual block: expand, filter each channel, project."""
    start, channels = x, x.shape[-1]
    stride = stage.stride if is_first else 1
    if stage.expansion > 1:
        x = _convolve(layers, x, f"{name}_expand", channels * stage.expansion)
    x = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_dwconv"
    )(x)
    x = _normalize(layers, x, name)
    x = layers.ReLU(6.0, name=f"{name}_activation")(x)
    x = layers.Conv2D(stage.channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalize(layers, x, f"{name}_project")
    return x if is_first else layers.Add(name=f"{name}_add")([x, start])


def _convolve(
    layers: Any, x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1
) -> Any:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(
        x
    )
    return layers.ReLU(6.0, name=f"{name}_activation")(_normalize(layers, x, name))


def _normalize(layers: Any, x: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
