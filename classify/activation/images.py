"""The pixels that the trunk saw, read again: the files must be those of the features."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from classify.data.dataset import Dataset
from extract.core.config import HAS_SIMD, TrunkSpec
from extract.core.errors import ImageError, StoreError
from extract.gallery.originals import Originals
from extract.gallery.thumbnails import Place, Wanted
from extract.limits import prefetch
from extract.limits.image_size import under_way
from extract.pixels.decode import decode


def read_pixels(dataset: Dataset, rows: Sequence[int], spec: TrunkSpec) -> list[Any]:
    """Return the (H, W, 3) uint8 pixels of rows, or the reason why an image has none.

    Args:
        dataset: The rows that were trained on.
        rows: Some of them.
        spec: The trunk: the size of its input, and how an image is brought to it.
    """
    known = dataset.digests
    wanted = [
        Wanted(dataset.keys[row], None if known is None else known[row].tobytes()) for row in rows
    ]
    read = partial(_read, dataset, wanted)
    late = [f"took longer than {prefetch.LIMIT_SECONDS:g} s to read"] * len(rows)
    with closing(prefetch.map_in_threads(read, [spec], 1, 1)) as done:
        return next(iter(done)) or late


def _read(dataset: Dataset, wanted: Sequence[Wanted], spec: TrunkSpec) -> list[Any]:
    place = dataset.source, dataset.columns, dataset.root, dataset.moved_to
    try:
        originals = Originals(Place(dataset.path, *place), wanted)
    except StoreError:
        return ["image not found"] * len(wanted)
    how = spec.resize, spec.interpolation
    decoding = spec.decoding if HAS_SIMD else "scaled"
    pixels = list[Any]()
    for image in wanted:
        try:
            with under_way():
                pixels.append(decode(originals.read(image), spec.image_size, *how, decoding))
        except ImageError as error:
            pixels.append(str(error))
    return pixels
