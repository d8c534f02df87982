"""What a Ray cluster costs, and how much its one writer can take.

    python benchmarks/cluster.py IMAGES [--weights FILE.h5] [--runs 3] [--rows 200000]

First InceptionV3 to ``mixed7`` at 150 px over IMAGES, with ``--cluster local`` and without, in
turn, each in a process of its own: images a second from the first to the last, start-up apart,
and what the process that writes spends on an image in seconds of processor. Then that writer
alone: rows of 768 features in batches of 8, whose tasks come back in random order, and what the
plan of as many images takes of its memory.
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
from dataclasses import asdict
from pathlib import Path

import numpy as np

FEATURES = 768
BATCH = 8


def extract(images: Path, weights: str, cluster: str) -> dict[str, float]:
    """Run stage one here; the first run on a machine converts the trunk."""
    from extract.pipeline.run import run_extraction as extract_features

    with tempfile.TemporaryDirectory() as folder:
        settings = {"weights": weights, "layer": ("mixed7",), "image_size": (150, 150)}
        used = time.process_time()
        summary = extract_features(images, Path(folder) / "out.h5", cluster=cluster, **settings)
        used = time.process_time() - used
    spent = summary.seconds
    return {
        "rate": summary.images / (spent.wait + spent.trunk + spent.write),
        "start": spent.start,
        "used": used / summary.images,
    }


def compare(images: Path, weights: str, runs: int) -> None:
    """Run both in turn and print medians; the first round fills caches and is not counted."""
    found: dict[str, list[dict[str, float]]] = {"": [], "local": []}
    for run in range(runs + 1):
        for cluster, outcomes in found.items():
            words = [sys.executable, __file__, str(images), "--weights", weights]
            child = subprocess.run(
                [*words, "--child", cluster or "none"], capture_output=True, text=True, check=True
            )
            if run:
                outcomes.append(json.loads(child.stdout.splitlines()[-1]))
    print("| | images/s | start-up, s | the writer's processor, ms an image |")
    print("| --- | --- | --- | --- |")
    for cluster, outcomes in found.items():
        rates = [outcome["rate"] for outcome in outcomes]
        start, used = (statistics.median(o[name] for o in outcomes) for name in ("start", "used"))
        name, spread = cluster or "this process", f"{min(rates):.0f} to {max(rates):.0f}"
        rate = statistics.median(rates)
        print(f"| {name} | {rate:.0f} ({spread}) | {start:.1f} | {1000 * used:.2f} |")


def write_rows(count: int) -> None:
    """Plan and write a store of that many rows, and print what it took."""
    from extract.core.config import TrunkSpec
    from extract.core.row_block import RowBlock
    from extract.core.views import ViewSpec
    from extract.images.item import Item
    from extract.pipeline.cluster import TASK_BATCHES
    from extract.store.format import Layout, create_store
    from extract.store.open import open_store

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = [
        Item(
            f"train/class-{i % 100}/{i:09d}.jpg",
            f"/data/images/train/class-{i % 100}/{i:09d}.jpg",
            i % 100,
            0,
        )
        for i in range(count)
    ]
    planned = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    spec = TrunkSpec(weights="none", image_size=(150, 150))
    attributes = {
        **spec.to_dict(),
        **asdict(ViewSpec()),
        "class_names": tuple(f"class-{i}" for i in range(100)),
        "dtype": "float32",
        "precision": "float32",
        "calibration_sha256": "",
        "weights_sha256": "0" * 64,
    }
    features = np.random.default_rng(0).random((BATCH, FEATURES), np.float32)
    size = BATCH * TASK_BATCHES
    tasks = np.random.default_rng(0).permutation(count // size)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5"
        began, used = time.perf_counter(), time.process_time()
        create_store(out, Layout(items, {"mixed7": (FEATURES,)}, attributes))
        made = time.perf_counter() - began
        began = time.perf_counter()
        with open_store(out, write=True) as store:
            for task in tasks:
                for start in range(task * size, (task + 1) * size, BATCH):
                    rows = np.arange(start, start + BATCH)
                    digests = np.zeros((BATCH, 16), np.uint8)
                    store.write(RowBlock(rows, {"mixed7": features}, digests, []))
        seconds, used = time.perf_counter() - began, time.process_time() - used
        written = len(tasks) * size
        print(
            f"\n{written} rows of {FEATURES} features: {out.stat().st_size / count:.0f} bytes a "
            f"row in the file, made in {made:.1f} s, {written / seconds:.0f} rows/s written, "
            f"{1000 * used / written:.3f} ms of processor a row, {1024 * planned / count:.0f} "
            "bytes a row in memory for the plan"
        )


def main() -> None:
    """Compare, then write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("images", type=Path, help="class folders of images")
    parser.add_argument("--weights", default="none", help="InceptionV3 without top, as .h5")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, 0 for the writer alone")
    parser.add_argument("--rows", type=int, default=200_000, help="rows that are written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        cluster = "" if given.child == "none" else given.child
        print(json.dumps(extract(given.images, given.weights, cluster)))
        return
    print(f"{os.cpu_count()} cores, {given.runs} runs, medians (lowest to highest)\n")
    if given.runs:
        compare(given.images, given.weights, given.runs)
    write_rows(given.rows)


if __name__ == "__main__":
    main()
