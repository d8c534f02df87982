"""Compare each engine and precision with Keras in float32, for every trunk, or those named.

    python benchmarks/parity.py [TRUNK ...] [--image-size 96] [--precision float32 ...]

Weights are random and pixels are noise, the same ones for every run; features are pooled at the
default cut. The figure is the largest difference of any feature of any image, relative to the
root mean square of the features. It is said for each trunk on stderr and printed for each family,
the worst of its trunks, as a Markdown table. int8 is calibrated on the images it is judged by.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec

IMAGES = 8
RUNS = {
    "float32": ("openvino",),
    "bfloat16": ("openvino", "keras"),
    "float16": ("openvino", "keras"),
    "int8": ("openvino",),
}
# With random weights the signals of these grow from block to block, and roundings with them, until
# Keras' own float32 is as far from float64 as OpenVINO's; their normalisations scale by less.
SCALES = {"efficientnet_v2": 0.7}


def differences(name: str, side: int, precisions: Sequence[str]) -> dict[str, float]:
    """Return the largest relative difference by engine and precision; less what cannot run."""
    from extract.core.errors import EngineError
    from extract.engines.base import Engine
    from extract.engines.keras_engine import KerasEngine
    from extract.engines.openvino_cache import convert
    from extract.engines.quantize import Calibration
    from extract.engines.select import open_engine
    from extract.trunks.trunk import build_trunk

    spec = TrunkSpec(trunk=name, weights="none", image_size=(side, side))
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    calibration = Calibration(tuple(map(str, range(IMAGES))), pixels)

    def features(engine: Engine) -> np.ndarray:
        ((_, found),) = engine.run([(None, pixels)])
        return next(iter(found.values())).astype(np.float64)

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = folder
        if scale := SCALES.get(TRUNKS[name].module):
            spec = replace(spec, weights=_scaled(spec, scale, Path(folder)))
        trunk = build_trunk(spec)
        wanted = features(KerasEngine(trunk, "float32", IMAGES))
        size = np.sqrt(np.square(wanted).mean())
        convert(trunk, spec)
        for precision in precisions:
            for engine in RUNS[precision]:
                try:
                    opened = open_engine(
                        spec, "float32", IMAGES, engine, precision, lambda _: calibration
                    )
                    difference = np.abs(features(opened) - wanted).max() / size
                except EngineError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                else:
                    found[f"{engine} {precision}"] = float(difference)
    return found


def _scaled(spec: TrunkSpec, scale: float, folder: Path) -> str:
    """Save random weights whose normalisations scale by this much."""
    from extract.trunks.backend import load_keras
    from extract.trunks.weights import load_application

    model = load_application(spec)
    for layer in model.layers:
        if isinstance(layer, load_keras().layers.BatchNormalization):
            layer.gamma.assign(np.full(layer.gamma.shape, scale, "f4"))
    model.save_weights(folder / "scaled.weights.h5")
    return str(folder / "scaled.weights.h5")


def every_trunk(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure each trunk in a process of its own, whose memory is free when it ends."""
    names = options.trunks or list(TRUNKS)
    one = partial(differences, side=options.image_size, precisions=options.precision)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, found in zip(names, pool.map(one, names), strict=True):
            said = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
            print(f"{name}: {said}", file=sys.stderr, flush=True)
            yield name, found


def main() -> None:
    """Measure in turn and print the table by family."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("trunks", nargs="*", metavar="TRUNK", help="default: all of them")
    parser.add_argument("--image-size", type=int, default=96, metavar="N", help="of all (96)")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=RUNS,
        default=["float32", "bfloat16"],
        help="float32 and bfloat16; int8 takes a minute a trunk",
    )
    options = parser.parse_args()
    for name in options.trunks:
        TrunkSpec(trunk=name)  # a wrong name is said before anything runs
    families: dict[str, list[dict[str, float]]] = {}
    for name, found in every_trunk(options):
        families.setdefault(TRUNKS[name].module, []).append(found)
    columns = [f"{engine} {p}" for p in options.precision for engine in RUNS[p]]
    print("| family | trunks |", *(f"{column} |" for column in columns))
    print("| --- | --- |" + " --- |" * len(columns))
    for family, members in sorted(families.items()):
        worst = [max((m[c] for m in members if c in m), default=None) for c in columns]
        cells = ["" if value is None else f"{value:.1g}" for value in worst]
        print(f"| {family} | {len(members)} |", *(f"{cell} |" for cell in cells))


if __name__ == "__main__":
    main()
