"""Compare ONNX trunks with PyTorch on the same pixels, for real architectures with random weights.

PyTorch and headstart need environments of their own. The first exports the models and keeps what
PyTorch computes, the second runs the exported files::

    python -m venv torch
    torch/bin/pip install torch torchvision timm transformers onnx onnxscript
    torch/bin/python benchmarks/onnx_parity.py export FOLDER
    python benchmarks/onnx_parity.py compare FOLDER

The difference is the largest one of any feature, over the root mean square of the features.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Name, image size, preprocessing, and the pooling of each of the two outputs.
MODELS = {
    "dinov2_vits14": (224, "imagenet", ("cls", "avg", "none"), ("none",)),
    "dinov2_vits14_518": (518, "imagenet", ("cls", "avg"), ("none",)),
    "convnext_tiny": (224, "imagenet", ("avg", "max", "none"), ("none",)),
    "resnet50": (224, "imagenet", ("avg", "max", "none"), ("none",)),
    "siglip_base": (224, "siglip", ("avg", "none"), ("none",)),
}
OUTPUTS = ("features", "pooled")
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def make_pixels(side: int) -> np.ndarray:
    """Return (3, side, side, 3) uint8 images of coarse and fine noise."""
    generator = np.random.default_rng(side)
    coarse = (
        generator.integers(0, 200, (3, 8, 8, 3)).repeat(side // 8 + 1, 1).repeat(side // 8 + 1, 2)
    )
    fine = generator.integers(0, 56, (3, side, side, 3))
    return (coarse[:, :side, :side] + fine).astype(np.uint8)


def build(name: str) -> Any:
    """Return a PyTorch module from pixels to a map or tokens, and a vector."""
    import timm
    import torch

    class Timm(torch.nn.Module):
        def __init__(self, kind: str, **how: Any) -> None:
            super().__init__()
            self.model = timm.create_model(kind, pretrained=False, num_classes=0, **how)

        def forward(self, pixels: Any) -> Any:
            features = self.model.forward_features(pixels)
            return features, self.model.forward_head(features)

    class Siglip(torch.nn.Module):
        def __init__(self) -> None:
            from transformers import SiglipVisionConfig, SiglipVisionModel

            super().__init__()
            self.model = SiglipVisionModel(SiglipVisionConfig())

        def forward(self, pixels: Any) -> Any:
            output = self.model(pixel_values=pixels)
            return output.last_hidden_state, output.pooler_output

    torch.manual_seed(0)
    if name == "siglip_base":
        module: Any = Siglip()
    elif name.startswith("dinov2"):
        module = Timm("vit_small_patch14_dinov2", img_size=MODELS[name][0])
    else:
        module = Timm(name)
    with torch.no_grad():  # norms, scales and biases that are not all one or zero
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            if value.ndim == 1 and value.dtype.is_floating_point:
                is_scale = key.endswith(("weight", "gamma", "running_var"))
                value.uniform_(0.5, 1.5) if is_scale else value.normal_(0, 0.1)
    return module.eval()


def export(folder: Path) -> None:
    """Write each model, what it computes for pixels, and those pixels."""
    import torch

    folder.mkdir(exist_ok=True)
    for name, (side, preprocess, *_) in MODELS.items():
        module, pixels = build(name), make_pixels(side)
        mean, std = map(torch.tensor, STATISTICS[preprocess])
        images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        how = {"input_names": ["pixels"], "output_names": list(OUTPUTS), "external_data": False}
        batch = {0: torch.export.Dim("batch")}
        torch.onnx.export(
            module, (images,), folder / f"{name}.onnx", dynamic_shapes=(batch,), **how
        )
        with torch.no_grad():
            features, pooled = (value.numpy() for value in module(images))
        np.savez(folder / f"{name}.npz", pixels=pixels, features=features, pooled=pooled)
        print(name, features.shape, pooled.shape, flush=True)


def expect(features: np.ndarray, pooling: str) -> Any:
    """Pool what PyTorch computes: maps (B, C, h, w), tokens (B, T, D) or vectors."""
    if features.ndim == 2:
        return features
    if features.ndim == 4:
        reduced = {"avg": features.mean((2, 3)), "max": features.max((2, 3))}
        return reduced.get(pooling, features.transpose(0, 2, 3, 1))
    classes = features.shape[1] % 2  # 257 and 1,370 tokens have one; SigLIP's 196 have none
    classes = 1 if features.shape[1] == 1370 else classes
    reduced = {"cls": features[:, 0], "avg": features[:, classes:].mean(1)}
    return reduced.get(pooling, features)


def compare(folder: Path) -> Iterator[str]:
    """Yield a row for each model, output and pooling."""
    from extract.core.config import TrunkSpec
    from extract.engines.select import open_engine

    for name, (_, preprocess, *poolings) in MODELS.items():
        path, kept = folder / f"{name}.onnx", np.load(folder / f"{name}.npz")
        for layer, ways in zip(OUTPUTS, poolings, strict=True):
            for pooling in ways:
                spec = TrunkSpec(str(path), "", (layer,), pooling, preprocess=preprocess)
                engine = open_engine(spec, batch_size=2)
                parts = engine.run((i, kept["pixels"][i : i + 2]) for i in (0, 2))
                found = np.concatenate([features[layer] for _, features in parts])
                wanted = expect(kept[layer], pooling)
                size = np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))
                error = np.abs(found - wanted).max() / size
                yield f"| {name} | {layer} | {pooling} | {found.shape[1:]} | {error:.1e} |"


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "export":
        export(place)
    else:
        print(
            "| model | output | pooling | features | difference |\n| --- | --- | --- | --- | --- |"
        )
        for row in compare(place):
            print(row, flush=True)
