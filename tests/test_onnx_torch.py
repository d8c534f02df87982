"""Two tiny models that PyTorch exported: the features that PyTorch computes, on the same pixels.

``tests/files/make_torch_models.py`` has written the models and the features.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extract.api import list_layers
from extract.core.config import TrunkSpec
from extract.engines.select import open_engine

pytest.importorskip("onnx")

FILES = Path(__file__).parent / "files"
Expected = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("name", "pooled"),
    [
        (
            "transformer",
            {"cls": lambda x: x[:, 0], "avg": lambda x: x[:, 1:].mean(1), "none": lambda x: x},
        ),
        ("residual", {"avg": lambda x: x.mean((2, 3)), "none": lambda x: x.transpose(0, 2, 3, 1)}),
    ],
)
def test_features_are_those_of_pytorch(name: str, pooled: dict[str, Expected]) -> None:
    kept = np.load(FILES / "torch_features.npz")
    path = str(FILES / f"{name}.onnx")
    for pooling, expected in pooled.items():
        spec = TrunkSpec(path, pooling=pooling, preprocess="imagenet")
        engine = open_engine(spec, batch_size=2)
        parts = engine.run((i, kept["pixels"][i : i + 2]) for i in (0, 2))
        found = np.concatenate([features["features"] for _, features in parts])
        wanted = expected(kept[name])
        assert np.abs(found - wanted).max() < 1e-4 * np.sqrt(np.mean(wanted**2))


def test_layers_of_a_model_of_pytorch_have_its_names() -> None:
    layers = {layer.name: layer.shape for layer in list_layers(FILES / "transformer.onnx")}
    assert layers["conv2d"] == (None, 16, 4, 4)
    assert layers["scaled_dot_product_attention"] == (None, 2, 17, 8)
    assert layers["features"] == (None, 17, 16)
