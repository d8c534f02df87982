"""Decoding that is faster than Pillow's, and a few grey levels off at most."""

import subprocess
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image, ImageOps

from extract.core.config import HAS_SIMD, TrunkSpec
from extract.core.errors import ImageError, StoreError
from extract.pipeline.run import run_extraction
from extract.pixels.decode import _shrink, decode
from tests.conftest import QUICK

FAST = ["scaled", *["fast"] * HAS_SIMD]
FILTERS = ("bilinear", "bicubic", "lanczos")


@cache
def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return an image with edges, gradients and noise, all larger than a pixel of the result."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    blocks = Image.fromarray(random.integers(0, 256, (7, 5, 3), dtype=np.uint8))
    edges = blocks.resize((width, height), Image.Resampling.NEAREST)
    noise = Image.fromarray(random.integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8))
    mixed = Image.blend(Image.blend(smooth, edges, 0.4), noise.resize((width, height)), 0.1)
    return mixed.convert(mode)


def to_jpeg(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = BytesIO()
    image.save(stream, "JPEG", quality=95, exif=exif, **options)
    return stream.getvalue()


def off(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(one.astype(int) - other))


@pytest.mark.parametrize("decoding", FAST)
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_shrunk_jpeg_gives_the_same_pixels(decoding: str, resize: str, orientation: int) -> None:
    # Eighths of these sides are no whole numbers.
    content = to_jpeg(photograph(851, 643), orientation)
    full = decode(content, (40, 36), resize)
    fast = decode(content, (40, 36), resize, decoding=decoding)
    assert off(full, fast).mean() < 0.5
    assert off(full, fast).max() <= 4


@pytest.mark.parametrize("decoding", FAST)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_filter_and_colour_is_that_of_pillow(
    decoding: str, interpolation: str, mode: str
) -> None:
    content = to_jpeg(photograph(400, 300, mode))
    full = decode(content, (32, 32), interpolation=interpolation)
    fast = decode(content, (32, 32), interpolation=interpolation, decoding=decoding)
    assert off(full, fast).mean() < 0.5
    assert off(full, fast).max() <= 4


@pytest.mark.skipif(not HAS_SIMD, reason="cykooz.resizer is not installed")
@pytest.mark.parametrize("size", [(20, 30), (150, 150), (299, 7), (1, 1), (400, 500)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_simd_is_within_two_levels_of_pillow(size: tuple[int, int], resize: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (211, 307, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    full = decode(stream.getvalue(), size, resize)
    fast = decode(stream.getvalue(), size, resize, decoding="fast")
    assert off(full, fast).max() <= 2
    assert off(full, fast).mean() < 0.5


@pytest.mark.parametrize("sides", [(211, 307), (300, 300), (400, 300), (150, 99), (1, 90)])
@pytest.mark.parametrize("size", [(20, 30), (150, 150), (299, 7), (400, 500)])
def test_full_is_pillow(sides: tuple[int, int], size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*sides, 3), dtype=np.uint8)
    stream, image = BytesIO(), Image.fromarray(noise)
    image.save(stream, "PNG")
    content, shape = stream.getvalue(), size[::-1]
    np.testing.assert_array_equal(decode(content, size), image.resize(shape, 2))
    np.testing.assert_array_equal(decode(content, size, "crop"), ImageOps.fit(image, shape, 2))


@pytest.mark.parametrize(
    ("side", "resize", "width", "height", "by"),
    [
        (150, "stretch", 4000, 3000, 8),
        (150, "stretch", 4000, 2399, 4),
        (150, "stretch", 4000, 2400, 8),
        (150, "crop", 1200, 5000, 4),
        (150, "stretch", 700, 600, 2),
        (150, "stretch", 700, 599, 1),
        (150, "pad", 2400, 10, 8),
        (224, "stretch", 100, 100, 1),
    ],
)
def test_twice_the_pixels_of_the_result_are_read(
    side: int, resize: str, width: int, height: int, by: int
) -> None:
    assert _shrink(side, resize, width, height) == by


def test_nearest_pixels_and_small_images_are_those_of_full() -> None:
    large, small = to_jpeg(photograph(640, 480)), to_jpeg(photograph(120, 90))
    for content, interpolation in ((large, "nearest"), (small, "bilinear")):
        for decoding in ("scaled", "fast") if interpolation == "nearest" else ("scaled",):
            np.testing.assert_array_equal(
                decode(content, (32, 32), interpolation=interpolation, decoding=decoding),
                decode(content, (32, 32), interpolation=interpolation),
            )


@pytest.mark.parametrize("progressive", [False, True])
def test_a_hole_is_found_at_every_size(progressive: bool) -> None:
    content = to_jpeg(photograph(851, 643), progressive=progressive)
    for end in (len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(ImageError, match=r"is truncated"):
            decode(content[:end], (40, 40), decoding="scaled")


def test_a_store_from_before_goes_on_as_it_began(images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.png"):
        photograph(400, 300).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    run_extraction(images, whole, **QUICK, decoding="full")
    run_extraction(images, out, **QUICK, decoding="full")
    with h5py.File(out, "r+") as file:
        del file.attrs["decoding"]
        file["status"][2:], file["features"][2:] = 0, 0
        file.attrs["complete"] = 0
    with pytest.raises(StoreError, match=r"was made with --decoding full, not scaled; drop the"):
        run_extraction(images, out, **QUICK, decoding="scaled")
    run_extraction(images, out, **QUICK)
    with h5py.File(out) as file, h5py.File(whole) as expected:
        np.testing.assert_array_equal(file["features"], expected["features"])
        assert file["status"][:].tolist() == [1] * 8


@pytest.mark.skipif(not HAS_SIMD, reason="cykooz.resizer is not installed")
def test_without_its_package_files_are_read_but_no_image_is(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    run_extraction(images, out, **QUICK)
    code = (
        "import sys; sys.modules['cykooz_resizer'] = None\n"
        "from classify.data.dataset import load_dataset\n"
        "from extract import TrunkSpec, extract_features\n"
        "print(TrunkSpec().decoding, load_dataset(sys.argv[1]).trunk.decoding)\n"
        "extract_features(sys.argv[2], 'new.h5', **eval(sys.argv[3]), decoding='fast')\n"
    )
    words = [sys.executable, "-c", code, str(out), str(images), repr(QUICK)]
    run = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout == "scaled fast\n"
    wanted = "decoding fast: needs cykooz.resizer; install it, or extract with --decoding scaled"
    assert wanted in run.stderr
    assert TrunkSpec().decoding == "fast"
