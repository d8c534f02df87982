"""The pictures of README and docs: parts of finished reports, and commands in a terminal.

    python -m docs.gallery GALLERY && python -m docs.screenshots GALLERY

They are photographs of what the code of this checkout makes. Run both when the report or what the
commands print has changed; ``tests/test_docs.py`` checks that each picture is used, and small.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from docs.terminal import photograph, show_commands
from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
WIDTH, SCALE = 1120, 1.25
MOST_BYTES = 100_000


class Part(NamedTuple):
    """A part of a report: an element, or from the top of it to the end of another one."""

    report: str
    first: str
    last: str = ""
    scheme: str = "light"


PARTS = {
    "report": Part("twenty", "header", "#leaderboard"),
    "report-dark": Part("twenty", "header", "#leaderboard", "dark"),
    "report-sweeps": Part("twenty", "#sweeps"),
    "report-learning-curves": Part("sample", "#learning"),
    "report-confusions": Part("twenty", "#confusions"),
    "report-scores": Part("rare", "#scores", "#scores .figures"),
    "report-map": Part("twenty", "#map"),
    "report-mistakes": Part("sample", "#mistakes"),
}
COMMANDS = {
    "terminal": (
        "extract-features data/ out.h5 --trunk efficientnet_lite0",
        "train-head out.h5 --head dense --head logistic --sweep dropout=0,0.2,0.5 "
        "--sweep logistic.C=0.003,0.03,0.3",
    )
}


def photograph_part(browser: Any, gallery: Path, part: Part, path: Path) -> None:
    """Photograph a part of a report."""
    page = browser.new_page(
        viewport={"width": WIDTH, "height": 900},
        device_scale_factor=SCALE,
        color_scheme=part.scheme,
        reduced_motion="reduce",
    )
    page.goto((gallery / part.report / "report.html").as_uri())
    first = page.locator(part.first).first.bounding_box()
    last = page.locator(part.last or part.first).first.bounding_box()
    top, bottom = first["y"] - 16, last["y"] + last["height"] + 16
    clip = {"x": 0, "y": max(top, 0), "width": WIDTH, "height": bottom - top}
    page.screenshot(path=path, clip=clip, full_page=True)
    page.close()


def shrink(picture: Path, path: Path) -> None:
    """Write a picture as WebP: without loss or, where it has photographs, as far as it is small."""
    with Image.open(picture) as opened:
        pixels = opened.convert("RGB")
    for quality in (100, 90, 80, 70, 60):
        pixels.save(path, method=6, lossless=quality == 100, quality=quality)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise SystemExit(f"{path.name}: {path.stat().st_size:,} bytes; at most {MOST_BYTES:,}")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="made by docs.gallery")
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder of the pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = Path(temporary)
        shutil.copytree(ROOT / "data", folder / "data")
        for name, part in PARTS.items():
            photograph_part(browser, given.gallery.resolve(), part, folder / "part.png")
            shrink(folder / "part.png", given.out / f"{name}.webp")
        for name, commands in COMMANDS.items():
            photograph(browser, show_commands(*commands, folder=folder), folder / "screen.png")
            shrink(folder / "screen.png", given.out / f"{name}.webp")
    for name in (*PARTS, *COMMANDS):
        print(f"{name}.webp: {(given.out / f'{name}.webp').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
