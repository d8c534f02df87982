"""A cache larger than memory: seconds an epoch against reading the file once, and the peak memory.

Run with ``python benchmarks/stream.py FOLDER``; FOLDER needs room for --gb and is left empty.

A store of random rows that can be learnt is made. Then, in a process of its own whose memory is
limited (RLIMIT_DATA, as ``ulimit -d`` does), the file is read once, block by block as an epoch
reads it, and heads are trained. --cold drops the file from the system's cache before each pass, as
a machine without the memory for that would have done. Only ratios are worth quoting.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from classify.data.dataset import Dataset, load_dataset
from classify.heads import parallel_fit
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.out_of_core import WINDOW_BYTES, read_ahead
from extract.core.config import TrunkSpec
from extract.core.row_block import RowBlock
from extract.images.item import Item
from extract.store.format import Layout, create_store
from extract.store.open import open_store

HEADS = {
    "linear": HeadSpec("linear", epochs=3, transform=()),
    "dense": HeadSpec("dense", units=(256,), epochs=3),
    "ridge": HeadSpec("ridge"),
    "lda": HeadSpec("lda"),
}


def make(path: Path, shape: tuple[int, ...], size: float) -> None:
    """Write a store of ``size`` GB: two classes, the last tenth of the rows to judge on."""
    wide = int(np.prod(shape))
    count = int(size * 1e9 / 4 / wide)
    spec = TrunkSpec("inception_v3", weights="none")
    attributes = {
        **spec.to_dict(),
        "class_names": ("cat", "dog"),
        "dtype": "float32",
        "precision": "float32",
        "calibration_sha256": "",
        "weights_sha256": "0" * 64,
    }
    labels = np.arange(count) * 10 % count * 2 // count
    items = [
        Item(f"{row:08d}.jpg", "", int(label), int(row >= 0.9 * count))
        for row, label in enumerate(labels)
    ]
    create_store(path, Layout(items, {spec.layer[0]: shape}, attributes))
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(1024, wide)).astype(np.float32)
    apart = 0.02 * generator.normal(size=(2, wide)).astype(np.float32)
    step = max(1, 2**25 // (4 * wide))
    with open_store(path, write=True) as store:
        for first in range(0, count, step):
            rows = np.arange(first, min(first + step, count))
            drawn = noise[generator.integers(0, 1024, len(rows))] + apart[labels[rows]]
            values = np.maximum(drawn, 0).reshape(-1, *shape)
            digests = generator.integers(0, 256, (len(rows), 16), dtype=np.uint8)
            store.write(RowBlock(rows, {spec.layer[0]: values}, digests, []))


def forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def read_once(dataset: Dataset) -> float:
    """Return the seconds of reading all rows in the order of an epoch."""
    start = time.perf_counter()
    windows = dataset.X.windows(WINDOW_BYTES, np.random.default_rng(0))
    for _ in read_ahead(dataset.X, windows):
        pass
    return time.perf_counter() - start


def train(path: Path, head: str, batch: int, cold: bool) -> dict[str, Any]:
    """Read and train; what a child process does."""
    dataset = load_dataset(path)
    found: dict[str, Any] = {"read": [], "epoch": []}
    for _ in range(2):
        if cold:
            forget(path)
        found["read"].append(read_once(dataset))
    begun: list[float] = []
    read, take = parallel_fit.read_epoch, parallel_fit.take_epoch

    def begin(X: Any, seed: Any = None) -> Any:
        if seed is not None:  # the training rows
            if cold:
                forget(path)
            begun.append(time.perf_counter())
        return read(X, seed)

    def end(*given: Any) -> None:
        found["epoch"].append(time.perf_counter() - begun[-1])
        take(*given)

    parallel_fit.read_epoch = begin
    parallel_fit.take_epoch = end  # type: ignore[assignment]
    spec = HEADS[head]
    if spec.batch_size:
        spec = HeadSpec(**{**spec.__dict__, "batch_size": batch})
    start = time.perf_counter()
    result = run(dataset, TrainConfig((spec,)))
    found["whole"] = time.perf_counter() - start
    found["accuracy"] = result.best.scores["accuracy"]
    # Not getrusage, whose peak begins with that of the process before.
    status = Path("/proc/self/status").read_text()
    found["peak"] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return found


def measure(path: Path, head: str, given: argparse.Namespace) -> str:
    """Train in a child with little memory, and lay out a line."""
    limit = int(given.memory * 1e9)
    words = [sys.executable, __file__, str(path), "--child", head, "--batch", str(given.batch)]
    done = subprocess.run(
        [*words, "--cold"] if given.cold else words,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    found = json.loads(done.stdout.splitlines()[-1])
    read = statistics.median(found["read"])
    # The first epoch compiles.
    epoch = statistics.median(found["epoch"][1:]) if found["epoch"] else found["whole"]
    what = "an epoch" if found["epoch"] else "all of it"
    return (
        f"{head}: reading once {read:.1f} s, {what} {epoch:.1f} s, ratio {epoch / read:.2f}; "
        f"peak {found['peak'] / 1e9:.2f} GB of {given.memory:g}, accuracy {found['accuracy']:.3f}"
    )


def main() -> None:
    """Make the file, measure each head, remove the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, default=6.0)
    parser.add_argument("--memory", type=float, default=2.0, help="GB")
    parser.add_argument("--shape", type=int, nargs="+", default=[5, 5, 768])
    parser.add_argument("--head", action="append", choices=HEADS)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(train(given.folder, given.child, given.batch, given.cold)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder, "large.h5")
        make(path, tuple(given.shape), given.gb)
        print(f"{path.stat().st_size / 1e9:.1f} GB of rows {tuple(given.shape)}", flush=True)
        for head in given.head or ["linear"]:
            print(measure(path, head, given), flush=True)


if __name__ == "__main__":
    main()
