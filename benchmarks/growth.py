"""How seconds and memory grow with the number of images and of rows, as tables for the docs.

    python benchmarks/growth.py images FOLDER [--count 1000 10000 100000]
    python benchmarks/growth.py rows FOLDER [--count 2000 20000 100000] [--head NAME]
    python benchmarks/growth.py costs FOLDER [--count 2000 20000] [--head NAME]
    python benchmarks/growth.py file FOLDER [--count 10000000] [--features 256]

``images`` runs ``extract-features`` on bitmaps of 16 x 16 pixels, which are hard links, with a
trunk that only averages them. ``rows`` runs ``train-head``, with no flags unless heads are named,
on synthetic rows of easy classes. ``costs`` compares the estimated seconds of each head with
measured ones, for the constants in ``classify/search/costs.py``. ``file`` writes, verifies and
opens one large file, and trains heads on it out of core. Each step is a process of its own, so that
its memory is measured alone. FOLDER needs room for the largest file, and is left empty.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COUNTS = {"images": [1000, 10_000, 100_000], "rows": [2000, 20_000, 100_000]}
COUNTS |= {"costs": [2000, 20_000], "file": [10_000_000]}
# A file has no more names than this on ext4.
MOST_LINKS = 60_000
COMMAND = "import sys; from {0} import main; sys.exit(main())"


class Spent(NamedTuple):
    """What a process took: seconds, of the processors and of the clock, and its peak memory."""

    seconds: float
    processor: float
    memory: float
    text: str

    def cells(self) -> str:
        """Return the cells of a table."""
        return f"{self.seconds:.1f} | {self.processor:.1f} | {self.memory / 1e9:.2f}"


def spend(*words: str, code: str = "") -> Spent:
    """Run Python in a process of its own, with a module of a command or with this file."""
    program = ["-c", COMMAND.format(code)] if code else [__file__]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout
    text = child.stdout.read()
    # This process is small: the peak of a child begins with that of its parent.
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(text)
    return Spent(seconds, used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss, text)


def make_images(folder: Path, count: int, classes: int) -> None:
    """Make ``count`` bitmaps in folders of classes."""
    import numpy as np
    from PIL import Image

    generator, image = np.random.default_rng(0), folder
    for number in range(count):
        if number % MOST_LINKS == 0:
            image = folder.with_name(f"{folder.name}_{number}.bmp")
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image)
        place = folder / f"class {number % classes:04d}"
        if number < classes:
            place.mkdir(parents=True)
        os.link(image, place / f"{number:08d}.bmp")


def make_trunk(path: Path) -> None:
    """Save a trunk that averages its image."""
    import keras

    image = keras.Input((16, 16, 3))
    keras.Model(image, keras.layers.AveragePooling2D(4, name="pooled")(image)).save(path)


def make_rows(path: Path, count: int, features: int, classes: int) -> None:
    """Write float16 rows of classes that are easy to tell apart, as the pipeline writes them."""
    import numpy as np

    from extract.core.config import TrunkSpec
    from extract.core.row_block import RowBlock
    from extract.images.item import Item
    from extract.store.format import Layout, create_store
    from extract.store.open import open_store

    spec, start = TrunkSpec("inception_v3", weights="none"), time.perf_counter()
    attributes = {
        **spec.to_dict(),
        "class_names": tuple(f"class {label:04d}" for label in range(classes)),
        "dtype": "float16",
        "precision": "float32",
        "calibration_sha256": "",
        "weights_sha256": "0" * 64,
    }
    items = [
        Item(f"class {row % classes:04d}/{row:08d}.jpg", "", row % classes, 0)
        for row in range(count)
    ]
    (layer,) = spec.layer
    create_store(path, Layout(items, {layer: (features,)}, attributes))
    del items
    print(f"plan {time.perf_counter() - start:.1f} s", end=", ")
    generator, step = np.random.default_rng(0), 1 << 14
    means = 0.25 * generator.normal(size=(classes, features)).astype(np.float32)
    noise = generator.normal(size=(4 * step, features)).astype(np.float32)
    start = time.perf_counter()
    with open_store(path, write=True) as store:
        print(f"open {time.perf_counter() - start:.1f} s", end=", ")
        for first in range(0, count, step):
            rows = np.arange(first, min(first + step, count))
            drawn = noise[generator.integers(0, len(noise), len(rows))] + means[rows % classes]
            digests = generator.integers(0, 256, (len(rows), 16), dtype=np.uint8)
            features16 = np.maximum(drawn, 0).astype(np.float16)
            store.write(RowBlock(rows, {layer: features16}, digests, []))
    print(f"write {time.perf_counter() - start:.1f} s")


def measure_costs(path: Path, heads: Sequence[str]) -> None:
    """Print estimated and measured seconds of each head, with its transform and its scores."""
    from classify.data.dataset import load_dataset
    from classify.data.splits import choose_splits
    from classify.search.costs import measure_machine
    from classify.search.evaluate import evaluate
    from classify.search.feasibility import estimate
    from classify.settings.config import TrainConfig
    from classify.settings.head_spec import USUAL_HEADS, HeadSpec

    dataset = load_dataset(path)
    config = TrainConfig(tuple(map(HeadSpec, heads or USUAL_HEADS)), batch_size_given=False)
    config = config.for_images(len(dataset.y))
    specs, splits = config.candidates, choose_splits(dataset, config)
    machine = measure_machine()
    estimated = estimate(dataset, specs, splits, machine)
    speed = f"{machine.flops / 1e9:.0f} GFLOP/s, {machine.streamed / 1e9:.1f} GB/s"
    print(f"\n{path.stem}: {speed}\n\n| head | estimated, s | measured, s | ratio |")
    print("| --- | --- | --- | --- |")
    for spec in specs:
        start = time.perf_counter()
        for _ in evaluate(dataset, [spec], splits):
            pass
        spent, cost = time.perf_counter() - start, estimated[spec]
        print(f"| {spec.head} | {cost:.1f} | {spent:.1f} | {spent / cost:.2f} |", flush=True)


def verify_rows(path: Path) -> None:
    """Verify a file."""
    from extract.store.open import open_store
    from extract.store.verify import verify

    with open_store(path) as store:
        print(verify(store) or "sound")


def open_rows(path: Path) -> None:
    """Load a file as the data of heads, with its features in the file."""
    from classify.data.dataset import load_dataset

    print(load_dataset(path, memory=0.1))


def times_of(spent: Spent) -> str:
    """Return the times of the steps of ``train-head``."""
    (line,) = [line for line in spent.text.splitlines() if ", report " in line]
    return line.rpartition("; ")[2]


def tabulate(heading: str) -> None:
    """Print the heading of a table."""
    print(f"\n| {heading} | seconds | of processors | peak GB |  |\n|{' --- |' * 5}", flush=True)


def grow_images(folder: Path, given: argparse.Namespace) -> None:
    """Print the table of stage one."""
    trunk = folder / "null.keras"
    spend("--child", "trunk", str(trunk))
    tabulate("images")
    for count in given.count:
        images, out = folder / f"images{count}", folder / f"{count}.h5"
        spend("--child", "images", str(images), str(count), str(given.classes))
        flags = ["--trunk", str(trunk), "--image-size", "16"]
        spent = spend(str(images), str(out), *flags, code="extract.cli")
        (line,) = [line for line in spent.text.splitlines() if " new in " in line]
        print(f"| {count:,} | {spent.cells()} | {line.partition(' new in ')[2]} |", flush=True)
        out.unlink()


def grow_rows(folder: Path, given: argparse.Namespace) -> None:
    """Print the table of stage two."""
    flags = [word for head in given.head for word in ("--head", head)]
    flags += ["--memory", str(given.memory)] if given.memory else []
    tabulate(f"rows of {given.features} features, {given.classes} classes")
    for count in given.count:
        path = folder / f"{count}.h5"
        spend("--child", "rows", str(path), *map(str, (count, given.features, given.classes)))
        spent = spend(str(path), *flags, code="classify.cli")
        lines = [line for line in spent.text.splitlines() if line.startswith("left out by")]
        note = "; ".join([*lines, times_of(spent)])
        print(f"| {count:,} | {spent.cells()} | {note} |", flush=True)
        path.unlink()


def grow_costs(folder: Path, given: argparse.Namespace) -> None:
    """Print a table of each number of rows."""
    for count in given.count:
        path = folder / f"{count}.h5"
        spend("--child", "rows", str(path), *map(str, (count, given.features, given.classes)))
        print(spend("--child", "costs", str(path), *given.head).text, flush=True)
        path.unlink()


def grow_file(folder: Path, given: argparse.Namespace) -> None:
    """Print what one large file takes, step by step."""
    memory = ["--memory", str(given.memory or 2)]
    for count in given.count:
        path = str(folder / f"{count}.h5")
        tabulate(f"{count:,} rows of {given.features} features")
        for step in ("rows", "verify", "open"):
            sizes = (count, given.features, given.classes) if step == "rows" else ()
            spent = spend("--child", step, path, *map(str, sizes))
            print(f"| {step} | {spent.cells()} | {spent.text.splitlines()[0]} |", flush=True)
        for head in given.head or ["ridge", "linear"]:
            epochs = ["--epochs", "1", "--batch-size", "1024"] if head == "linear" else []
            spent = spend(path, "--head", head, *memory, *epochs, code="classify.cli")
            print(f"| {head} | {spent.cells()} | {times_of(spent)} |", flush=True)
        Path(path).unlink()


def run_child(step: str, *words: str) -> None:
    """Run a step in this process."""
    path, numbers = Path(words[0]), [int(word) for word in words[1:] if word.isdecimal()]
    steps: dict[str, Callable[..., Any]] = {
        "trunk": make_trunk,
        "images": make_images,
        "rows": make_rows,
        "verify": verify_rows,
        "open": open_rows,
    }
    if step == "costs":
        measure_costs(path, words[1:])
    else:
        steps[step](path, *numbers)


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--child"]:
        run_child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=COUNTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, nargs="+", help=json.dumps(COUNTS))
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--head", nargs="+", default=[], help="default: the default heads")
    parser.add_argument("--memory", type=float, help="GB, for train-head")
    given = parser.parse_args()
    given.count = given.count or COUNTS[given.what]
    versions = f"Python {platform.python_version()}, {platform.machine()}"
    print(f"{versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    grow = {"images": grow_images, "rows": grow_rows, "costs": grow_costs, "file": grow_file}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        grow[given.what](Path(folder), given)


if __name__ == "__main__":
    main()
