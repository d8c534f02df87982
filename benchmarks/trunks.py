"""Time every trunk, or those named, at its native size and default cut, as a Markdown table.

    python benchmarks/trunks.py [TRUNK ...] [--seconds 10] [--batches 3]

The engine alone, in float32, as ``--engine auto`` chooses it, on pixels that are at hand: no
decoding, no store. Weights are random, which costs the same. Each trunk runs in a process of its
own, behind one batch as warm-up, for at least ``--batches`` batches and ``--seconds`` seconds.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import numpy as np

from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec


def measure(name: str, seconds: float, batches: int) -> dict[str, Any]:
    """Return images a second and the features' width of one trunk."""
    from extract.engines.select import open_engine

    spec = TrunkSpec(trunk=name, weights="none")
    engine = open_engine(spec)
    shape = (engine.batch_size, *spec.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    list(engine.run([(0, pixels)]))
    began = time.perf_counter()

    def enough() -> Any:
        number = 0
        while number < batches or time.perf_counter() - began < seconds:
            yield number, pixels
            number += 1

    done = sum(1 for _ in engine.run(enough()))
    rate = done * engine.batch_size / (time.perf_counter() - began)
    return {"rate": rate, "engine": engine.name, "features": engine.shapes[spec.layer[0]][0]}


def start(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Measure one trunk in a process of its own; None, with its error shown, if it fails."""
    command = [sys.executable, __file__, name, "--one"]
    command += ["--seconds", str(options.seconds), "--batches", str(options.batches)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        print(f"{name}: {child.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    print(f"{name}: {found['rate']:.1f}/s", file=sys.stderr)
    return found


def main() -> None:
    """Measure in turn and print the table, fastest first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("trunks", nargs="*", metavar="TRUNK", help="default: all of them")
    parser.add_argument("--seconds", type=float, default=10, help="how long each runs at least")
    parser.add_argument("--batches", type=int, default=3, help="batches of each at least")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.trunks[0], options.seconds, options.batches)))
        return
    names = options.trunks or list(TRUNKS)
    for name in names:
        TrunkSpec(trunk=name)  # a wrong name is said before anything runs
    results = {name: found for name in names if (found := start(name, options))}
    engines = ", ".join(sorted({found["engine"] for found in results.values()}))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {engines}, float32\n")
    print("| trunk | native size | cut | features | images/s |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in sorted(results.items(), key=lambda item: -item[1]["rate"]):
        known = TRUNKS[name]
        rate = f"{found['rate']:.0f}" if found["rate"] >= 10 else f"{found['rate']:.1f}"
        print(f"| `{name}` | {known.image_size} | `{known.cut}` | {found['features']:,} | {rate} |")


if __name__ == "__main__":
    main()
