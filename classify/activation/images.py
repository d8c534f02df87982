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

_THREADS = 8


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
    place = Place(dataset.path, dataset.source, dataset.columns, dataset.root, dataset.moved_to)
    late = f"took longer than {prefetch.LIMIT_SECONDS:g} s to read"
    with closing(prefetch.map_in_threads(partial(_open, place), [wanted], 1, 1)) as done:
        originals = next(done) or late
    if isinstance(originals, str):
        return [originals] * len(wanted)
    read = partial(_read, originals, spec)
    with closing(prefetch.map_in_threads(read, wanted, _THREADS, 2 * _THREADS)) as found:
        return [late if pixels is None else pixels for pixels in found]


def _open(place: Place, wanted: Sequence[Wanted]) -> Originals | str:
    try:
        return Originals(place, wanted)
    except StoreError:
        return "image not found"


def _read(originals: Originals, spec: TrunkSpec, image: Wanted) -> Any:
    """Return the pixels of an image, or why it has none."""
    decoding = spec.decoding if HAS_SIMD else "scaled"
    how = spec.image_size, spec.resize, spec.interpolation, decoding
    try:
        with under_way():
            return decode(originals.read(image), *how)
    except ImageError as error:
        return str(error)
