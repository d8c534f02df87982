"""Near-duplicates: planted copies that are found, and pairs of other images that are.

Usage: python -m benchmarks.near_duplicates SOURCE [TRUNK] [WEIGHTS] [SIZE]

SOURCE is a folder of images. Copies of 100 of them (half of fewer than 200) are made in each of the
ways below, and features extracted. Then each kind of copy is looked for alone among all images, and
all of them at once. Pairs of other images are images of SOURCE that the threshold calls near: look
at them, they may be.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from extract import extract_features, open_store
from extract.similarity.directions import Directions
from extract.similarity.near_duplicates import group_near
from extract.similarity.threshold import choose_threshold

_COPIES = 100


def _shift(image: Image.Image) -> Image.Image:
    shifted = image.copy()
    shifted.paste(image, (max(2, image.width // 60), max(2, image.height // 60)))
    return shifted


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


def _resize(image: Image.Image) -> Image.Image:
    return image.resize((int(image.width * 0.6), int(image.height * 0.6)))


# A copy is saved as JPEG, with this quality.
KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "JPEG of quality 70": (lambda image: image, 70),
    "brightness + 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 92),
    "brightness - 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(0.9), 92),
    "shift by a 60th": (_shift, 92),
    "size of 60 %": (_resize, 92),
    "flip": (ImageOps.mirror, 92),
    "crop of 90 %": (_crop, 92),
}


def plant(source: Path, folder: Path) -> None:
    """Write the images of a folder, and copies of each kind, into folders named after them."""
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    random = np.random.default_rng(0)
    for number, path in enumerate(files):
        (folder / f"{number:06d}").mkdir(parents=True)
        (folder / f"{number:06d}" / f"image{path.suffix}").write_bytes(path.read_bytes())
    for kind, (change, quality) in KINDS.items():
        chosen = random.choice(len(files), min(_COPIES, len(files) // 2), replace=False)
        for number in chosen.tolist():
            changed = change(Image.open(files[number]).convert("RGB"))
            changed.save(folder / f"{number:06d}" / f"{kind}.jpg", quality=quality)


def measure(X: NDArray[np.float32], origins: NDArray[np.int64]) -> tuple[float, float, int]:
    """Return the threshold, the share of copies that are found, and pairs of other images."""
    directions = Directions(lambda rows: X[rows], np.arange(len(X)), X[0].nbytes)
    threshold = choose_threshold(directions)
    parts, pairs = group_near(directions, threshold.cosine)
    copies = np.flatnonzero(np.r_[False, origins[1:] == origins[:-1]])
    first = np.searchsorted(origins, origins[copies])
    recall = (parts[copies] == parts[first]).mean() if len(copies) else float("nan")
    others = origins[pairs.first] != origins[pairs.second]
    return threshold.cosine, float(recall), int(others.sum())


def main() -> None:
    """Print a row for each kind of copy."""
    source, *options = sys.argv[1:]
    settings = dict(zip(("trunk", "weights", "image_size"), options, strict=False))
    size = {"image_size": int(settings.pop("image_size"))} if "image_size" in settings else {}
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(source), Path(folder) / "images")
        out = Path(folder) / "out.h5"
        extract_features(Path(folder) / "images", out, quiet=True, **settings, **size)  # type: ignore[arg-type]
        with open_store(out) as store:
            X = store.read(next(iter(store.shapes)), slice(None)).astype(np.float32)
            keys = [key.split("/")[-2:] for key in store.keys]
    origins = np.array([int(number) for number, _ in keys])
    kinds = np.array([Path(name).stem for _, name in keys], dtype=object)
    # The image comes before its copies.
    order = np.lexsort((kinds != "image", origins))
    X, origins, kinds = X[order], origins[order], kinds[order]
    print("copies | X | found | pairs of other images")
    for label, wanted in [("none", []), *((kind, [kind]) for kind in KINDS), ("all", list(KINDS))]:
        rows = np.isin(kinds, ["image", *wanted])
        cosine, recall, others = measure(X[rows], origins[rows])
        print(f"{label} | {cosine:.4f} | {recall:.2f} | {others}", flush=True)


if __name__ == "__main__":
    main()
