"""Time an epoch of fine-tuning: blocks above cached maps against the full model from pixels.

Run with ``python -m benchmarks.finetune MAPS.h5 IMAGES``. MAPS.h5 holds maps of IMAGES, such as
mixed8 of InceptionV3 at 150 px. Both sides train the same blocks and head on the same batches with
SGD, as ``fit`` of one compiled Keras model, each in a process of its own; the full one is given
decoded pixels that lie in memory, and its lower part is frozen. The first epoch, in which both are
compiled, is left out; medians of the others. Beside the clock stands the time of the processor,
which other programs on the machine disturb less.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import split_rows
from classify.finetune.joint_model import MapBatches, compiled
from classify.settings.config import FinetuneConfig
from classify.settings.head_spec import HeadSpec
from extract.images.item import read_item
from extract.pixels.decode import decode
from extract.sources.listing import list_source
from extract.trunks.backend import keep_freed_memory, load_keras
from extract.trunks.trunk import build_trunk
from extract.trunks.upper_blocks import build_upper_blocks


def pixels_of(dataset: Dataset, source: str) -> Any:
    """Return (N, H, W, 3) uint8 pixels of a dataset's rows."""
    spec = dataset.trunk
    items = {item.key: item for item in list_source(source).items}
    how = spec.image_size, spec.resize, spec.interpolation, spec.decoding
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


def side(dataset: Dataset, source: str, spec: HeadSpec, name: str) -> tuple[Any, Dataset]:
    """Return what is trained, and on what."""
    keras = load_keras()
    classes = len(dataset.class_names)
    rest = build_upper_blocks(dataset.trunk, dataset.layer).model
    rows, below = dataset, rest
    if name == "pixels":
        trunk = build_trunk(dataset.trunk).model  # frozen
        below = keras.Model(trunk.inputs[0], rest(trunk.outputs[0], training=False))
        rows = replace(dataset, X=pixels_of(dataset, source))
    else:
        keep_freed_memory()  # as train-head does
    head = head_of(rest.output_shape[1], classes)
    return compiled(below, head, spec, classes, FinetuneConfig()), rows


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Train one side and say how long each epoch took; what a child process does."""
    dataset = load_dataset(given.maps)
    spec = HeadSpec("dense", batch_size=given.batch_size)
    model, rows = side(dataset, given.images, spec, given.side)
    order = MapBatches(rows, split_rows(dataset).train, spec, 0)
    found: dict[str, Any] = {"clock": [], "processor": [], "losses": []}
    for _ in range(given.epochs + 1):
        start = time.perf_counter(), time.process_time()
        history = model.fit(order, shuffle=False, verbose=0).history
        found["clock"].append(time.perf_counter() - start[0])
        found["processor"].append(time.process_time() - start[1])
        found["losses"].append(round(history["cross_entropy"][0], 4))
    return found


def main() -> None:
    """Print seconds an epoch of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("maps", type=Path)
    parser.add_argument("images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(train(given)))
        return
    medians = {}
    for name in ("maps", "pixels"):
        words = [sys.executable, "-m", "benchmarks.finetune", *sys.argv[1:], "--side", name]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        # The first epoch compiles.
        medians[name] = [statistics.median(found[c][1:]) for c in ("clock", "processor")]
        clock, processor = medians[name]
        print(f"{name}: {clock:.2f} s an epoch, processor {processor:.2f} s; {found['losses']}")
    ratios = [a / b for a, b in zip(medians["pixels"], medians["maps"], strict=True)]
    print(f"batches of {given.batch_size}: ratio {ratios[0]:.1f}, processor {ratios[1]:.1f}")


if __name__ == "__main__":
    main()
