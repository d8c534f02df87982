"""Time an epoch of fine-tuning: blocks above cached maps against the full model from pixels.

Usage: python -m benchmarks.finetune MAPS.h5 PICTURES [EPOCHS] [BATCH_SIZE]

MAPS.h5 holds maps of PICTURES, such as mixed8 of InceptionV3 at 150 px. Both sides train the same
blocks and head on the same batches with SGD, as ``fit`` of one compiled Keras model; the full one
is given decoded pixels that lie in memory, and its lower part is frozen. The first epoch, in which
both are compiled, is left out; medians of the others, taken in turn. Beside the clock stands the
time of the processor, which other programs on the machine disturb less.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.config import FinetuneConfig, HeadSpec
from classify.dataset import Dataset, load_dataset
from classify.joint import batches, compiled
from classify.splits import divide
from extract.backend import load_keras
from extract.boundary import build_rest
from extract.decode import decode
from extract.item import read_item
from extract.source import list_source
from extract.trunk import build_trunk


def pixels_of(dataset: Dataset, source: str) -> Any:
    """Return (N, H, W, 3) uint8 pixels of a dataset's rows."""
    spec = dataset.trunk
    items = {item.key: item for item in list_source(source).items}
    how = spec.image_size, spec.resize, spec.interpolation
    return np.stack([decode(read_item(items[key]), *how) for key in dataset.keys])


def head_of(inputs: int, classes: int) -> Any:
    """Return the course's head, untrained."""
    keras = load_keras()
    keras.utils.set_random_seed(0)
    last = keras.layers.Dense(1, activation="sigmoid")
    if classes > 2:
        last = keras.layers.Dense(classes, activation="softmax")
    hidden = keras.layers.Dense(1024, activation="relu")
    return keras.Sequential([keras.Input((inputs,)), hidden, keras.layers.Dropout(0.2), last])


def sides(dataset: Dataset, source: str, spec: HeadSpec) -> dict[str, tuple[Any, Dataset]]:
    """Return what is trained, and on what, by name."""
    keras = load_keras()
    classes = len(dataset.class_names)
    made = {}
    for name in ("from maps", "from pixels"):
        rest = build_rest(dataset.trunk, dataset.layer).model
        rows, below = dataset, rest
        if name == "from pixels":
            trunk = build_trunk(dataset.trunk).model  # frozen
            below = keras.Model(trunk.inputs[0], rest(trunk.outputs[0], training=False))
            rows = replace(dataset, X=pixels_of(dataset, source))
        head = head_of(rest.output_shape[1], classes)
        made[name] = (compiled(below, head, spec, classes, FinetuneConfig()), rows)
    return made


def main(words: list[str]) -> None:
    """Print seconds an epoch of both, and their ratio."""
    dataset = load_dataset(Path(words[0]))
    epochs = int(words[2]) if len(words) > 2 else 3
    split = divide(dataset)
    took: dict[str, list[tuple[float, float]]] = {}
    losses: dict[str, list[float]] = {}
    spec = HeadSpec("dense", batch_size=int(words[3]) if len(words) > 3 else None)
    made = sides(dataset, words[1], spec)
    for _ in range(epochs + 1):
        for name, (model, rows) in made.items():
            order = batches(rows, split.train, spec, 0)
            start = time.perf_counter(), time.process_time()
            history = model.fit(order, shuffle=False, verbose=0).history
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            took.setdefault(name, []).append(spent)
            losses.setdefault(name, []).append(history["cost"][0])
    seconds = {
        name: [statistics.median(c) for c in zip(*t[1:], strict=True)] for name, t in took.items()
    }
    print(f"{len(split.train)} pictures, batches of {spec.batch_size}, maps {dataset.X.shape[1:]}")
    for name in made:
        shown = ", ".join(f"{loss:.4f}" for loss in losses[name])
        clock, processor = seconds[name]
        print(f"{name}: {clock:.2f} s an epoch, processor {processor:.2f} s; losses {shown}")
    ratios = [a / b for a, b in zip(seconds["from pixels"], seconds["from maps"], strict=True)]
    print(f"ratio {ratios[0]:.1f}, processor {ratios[1]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
