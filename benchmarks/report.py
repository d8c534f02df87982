"""The page of a report: its bytes, the seconds to make it, and the milliseconds to open it.

    python benchmarks/report.py --classes 3 60 1000 --images 100 10000 100000

Runs of 3 classes with each number of images, and of each number of classes with 10,000 images,
which are drawn here: a pattern of the class in noise, so that a head is often wrong. With another
checkout in PYTHONPATH, the same script measures that one; ``--scratch`` keeps images and features.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classify import train_heads
from extract import extract_features

QUICK: dict[str, Any] = {
    "trunk": "mobilenet",
    "weights": "none",
    "layer": "conv1_relu",
    "image_size": 32,
}
SIDE = 96
REPEATS = 5
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TIMES = """() => {
  const opened = performance.getEntriesByType("navigation")[0];
  return [opened.domContentLoadedEventEnd, opened.loadEventEnd];
}"""


def draw_images(folder: Path, classes: int, images: int) -> None:
    """Write the images into a folder for each class."""
    generator = np.random.default_rng(classes)
    patterns = generator.integers(60, 196, (classes, 4, 4, 3))
    for number in range(images):
        label = number % classes
        made = folder / f"class {label:04d}"
        made.mkdir(parents=True, exist_ok=True)
        small = patterns[label] + generator.normal(0, 40, (4, 4, 3))
        pixels = np.clip(small, 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(made / f"{number:06d}.jpg", quality=85)


def make_store(scratch: Path, classes: int, images: int) -> Path:
    """Return the file of features of such images; make it if it is not there."""
    store = scratch / f"{classes}-{images}.h5"
    if not store.exists():
        folder = scratch / f"{classes}-{images}"
        if not folder.exists():
            draw_images(folder, classes, images)
        extract_features(folder, store, quiet=True, **QUICK)
    return store


def make_report(store: Path, folder: Path) -> float:
    """Train a head with its report, and return the seconds that the report took."""
    trained: list[float] = []
    train_heads(
        store,
        output=folder,
        head="lda",
        quiet=True,
        on_result=lambda _: trained.append(time.perf_counter()),
    )
    return time.perf_counter() - trained[0]


def open_page(browser: Any, report: Path) -> list[float]:
    """Return the median milliseconds until the page is read, and until all of it is loaded."""
    times = []
    for _ in range(REPEATS):
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(report.as_uri(), wait_until="load")
        times.append(page.evaluate(TIMES))
        page.close()
    return [statistics.median(column) for column in zip(*times, strict=True)]


def measure(browser: Any, scratch: Path, classes: int, images: int) -> str:
    """Return a line of the table."""
    store = make_store(scratch, classes, images)
    with tempfile.TemporaryDirectory() as made:
        seconds = make_report(store, Path(made, "head"))
        report = Path(made, "head/report.html")
        read, loaded = open_page(browser, report)
        size = report.stat().st_size
    return f"| {classes:,} | {images:,} | {size:,} | {seconds:.1f} | {read:.0f} | {loaded:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 60, 1000])
    parser.add_argument("--images", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--scratch", type=Path, help="a folder that keeps images and features")
    given = parser.parse_args()
    runs = [(given.classes[0], images) for images in given.images]
    usual = given.images[len(given.images) // 2]
    runs += [(classes, usual) for classes in given.classes[1:]]
    program = next(filter(None, map(shutil.which, CHROMIUM)))
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        scratch = (given.scratch or Path(temporary)).resolve()
        print("| classes | images | bytes | seconds to make | DOM, ms | load, ms |")
        print("| --- | --- | --- | --- | --- | --- |")
        for classes, images in runs:
            print(measure(browser, scratch, classes, images), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
