"""Write the two tiny models of PyTorch that ``tests/test_onnx_torch.py`` runs, with their features.

It needs PyTorch and onnxscript, and was run with PyTorch 2.13::

    python tests/files/make_torch_models.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

FOLDER = Path(__file__).parent
SIDE, MEAN, STD = 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Attention of two heads and a perceptron, each behind a norm and beside a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.qkv, self.projection = nn.Linear(16, 48), nn.Linear(16, 16)
        self.perceptron = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Any) -> Any:
        qkv = self.qkv(self.norms[0](x)).reshape(-1, x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norms[1](x))


class Transformer(nn.Module):
    """A vision transformer of two blocks: patches of 8 pixels, a class token, 16 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks, self.norm = nn.ModuleList([Block(), Block()]), nn.LayerNorm(16)

    def forward(self, pixels: Any) -> Any:
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = (
            torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1) + self.positions
        )
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class Residual(nn.Module):
    """A residual network of two convolutions with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )

    def forward(self, pixels: Any) -> Any:
        x = self.pool(self.stem(pixels))
        return x + self.block(x)


def write(name: str, module: nn.Module) -> dict[str, np.ndarray]:
    for key, value in module.named_buffers():
        if key.endswith("running_mean"):
            value.normal_()
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images = (torch.from_numpy(pixels) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    images = images.permute(0, 3, 1, 2).contiguous()
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        module.eval(),
        (images,),
        FOLDER / f"{name}.onnx",
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes=(batch,),
        external_data=False,
    )
    model = onnx.load(FOLDER / f"{name}.onnx")
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # places in the source
    onnx.save(model, FOLDER / f"{name}.onnx")
    with torch.no_grad():
        return {"pixels": pixels, name: module(images).numpy()}


if __name__ == "__main__":
    torch.manual_seed(0)
    arrays = write("transformer", Transformer()) | write("residual", Residual())
    np.savez_compressed(FOLDER / "torch_features.npz", allow_pickle=False, **arrays)
