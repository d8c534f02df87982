"""Where a trunk can be parted, and that what stands above a cut continues it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks.backend import load_keras
from extract.trunks.trunk import build_trunk, name_layers
from extract.trunks.upper_blocks import build_upper_blocks, find_boundaries
from extract.trunks.weights import build_application

SPEC = TrunkSpec(
    "mobilenet", weights="none", layer=("conv_pw_11_relu",), pooling="none", image_size=(64, 64)
)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def random_model(seed: int) -> Any:
    """Return a model of 12 layers, each fed by one to three of those before it."""
    keras = load_keras()
    generator = np.random.default_rng(seed)
    outputs = [keras.Input((4,))]
    for place in range(12):
        count = int(generator.integers(1, 4))
        near = outputs[-4:]
        chosen = generator.choice(len(near), min(count, len(near)), replace=False)
        # The newest is always taken, so that every layer leads to the output.
        taken = {len(near) - 1, *chosen.tolist()}
        if generator.random() < 0.4:
            taken = {len(near) - 1}
        joined = [near[i] for i in taken]
        x = sum(joined[1:], joined[0])  # sums are operations without a layer
        outputs.append(keras.layers.Dense(4, name=f"layer{place}")(x))
    return keras.Model(outputs[0], outputs[-1])


def passed_by(model: Any, name: str) -> bool:
    """Say whether the output depends on the input where one layer gives nothing but noise."""
    keras = load_keras()
    reached = {id(model.inputs[0])}
    for operation in model.operations:
        taken = keras.tree.flatten(operation.input)
        if any(id(tensor) in reached for tensor in taken) and operation.name != name:
            reached |= {id(tensor) for tensor in keras.tree.flatten(operation.output)}
    return id(model.outputs[0]) in reached


@pytest.mark.parametrize("seed", range(10))
def test_a_boundary_is_what_no_path_passes_by(seed: int) -> None:
    model = random_model(seed)
    names = [f"layer{place}" for place in range(11)]  # above the last one stands nothing
    assert find_boundaries(model) == [name for name in names if not passed_by(model, name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "works", "does_not"),
    [
        (
            "inception_v3",
            [f"mixed{i}" for i in range(10)],
            ["mixed10", "mixed9_0", "mixed9_1", "conv2d_80", "input_layer"],
        ),
        ("vgg16", [f"block{i}_pool" for i in range(1, 5)], ["block5_pool", "block5_conv3"]),
        (
            "resnet50",
            ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block2_out"],
            ["conv5_block3_out", "conv4_block2_1_relu", "conv5_block3_add"],
        ),
        ("mobilenet_v3_small", ["expanded_conv_project_bn"], ["activation_17"]),
    ],
)
def test_the_boundaries_of_trunks(trunk: str, works: list[str], does_not: list[str]) -> None:
    whole = build_application(TrunkSpec(trunk, image_size=(128, 128)), weights=None)
    known = find_boundaries(whole)
    assert set(works) <= set(known)
    assert not set(does_not) & set(known)
    assert set(does_not) <= set(name_layers(whole))


def test_the_rest_continues_the_trunk() -> None:
    trunk, rest = build_trunk(SPEC), build_upper_blocks(SPEC, "conv_pw_11_relu")
    assert rest.weights_sha256 == trunk.weights_sha256
    last = build_trunk(replace(SPEC, layer=("conv_pw_13_relu",), pooling="avg"))
    found = rest.model(trunk.model(PIXELS), training=False)
    np.testing.assert_allclose(found, last.model(PIXELS), rtol=1e-5, atol=1e-6)
    assert rest.model.trainable_weights


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv_pw_13_relu", "have nothing to train; .* works is conv_pw_13:"),
        ("no_such", "'no_such' is unknown"),
    ],
)
def test_where_nothing_can_be_built(layer: str, message: str) -> None:
    with pytest.raises(TrunkError, match=message):
        build_upper_blocks(replace(SPEC, layer=(layer,)), layer)
