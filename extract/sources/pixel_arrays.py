"""Images as arrays of pixels, in HDF5 and NumPy files, handed on as bitmaps."""

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from extract.core.errors import SourceError, quoted, show_bytes
from extract.images.item import SPLIT_OF, SPLITS, reading
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Records, Said, choose_columns, explain_columns
from extract.limits.hdf5 import find_trap
from extract.limits.image_size import PIXELS, claim_bytes
from extract.limits.unpacked import read_arrays

_USUAL = {"label": ("label", "labels"), "split": ("split",), "group": ("group", "groups")}
# The words for images and for their labels in the names of arrays, as in x_train and y_train.
_IMAGE_WORDS = {"x", "image", "images", "img", "imgs", "data", "pixels", "features"}
_LABEL_WORDS = ("y", "Y", "label", "labels", "target", "targets", "class", "classes")
# The cache keeps chunks of several images in memory for the next image.
_CHUNK_CACHE = 2**26
# Attributes and groups of HDF5 files that hold no images.
_NO_PIXELS = {
    "weights_sha256": "features of extract-features; give them to train-head, or, "
    "for other commands: show-features OUT.h5 --export OUT.npz",
    "model_weights": "the weights of a Keras model; give it to --trunk or --weights",
    "layer_names": "the weights of a Keras model; give it to --weights",
}
# Plain drawings and masks are compressed to less than a hundredth.
NPZ_TIMES = 256
# Labels and chunks of images that are in memory at once.
_MOST_BYTES = 2**30
# Images whose values show the range of all.
_SAMPLE = 64


def open_arrays(path: str, named: Named) -> Records:
    """Open a file of pixels: uint8, (N, H, W, 3) RGB, or (N, H, W) or (N, H, W, 1) grey.

    Args:
        path: An HDF5 file, or a file of ``numpy.save`` or ``numpy.savez``. The arrays of an
            ``.npz`` are read into memory; the others stay on the disk.
        named: The arrays that the user has named, by role.

    Returns:
        Its images, without names. Arrays such as ``x_train`` and ``x_test`` are splits.

    Raises:
        SourceError: The file cannot be read, several of its arrays may be the images, or these are
            no pixels in that form.
    """
    with reading(path, "arrays of pixels"):
        arrays = _open(path)
        rows, said = list[tuple[Any, ...]](), Said([], [])
        places = list[tuple[Any, int]]()
        images = _image_arrays(path, arrays, named)
        for name in images:
            check_size(path, name, arrays[name])
            pixels, split = arrays[name], split_in_name(name) if len(images) > 1 else None
            usual = {**_USUAL, "label": (*_partners(name), *_USUAL["label"])}
            chosen = choose_columns(quoted(path), arrays, named, usual, "array")
            cells = [_cells(path, arrays, each, len(pixels), said) for each in (None, *chosen)]
            if split and chosen[1] is None:
                cells[2] = [split] * len(pixels)
            rows += zip(*cells, strict=True)
            places += [(pixels, row) for row in range(len(pixels))]
            others = [_partners(each) for each in images if each != name]
            elsewhere = {*images, *(partner for each in others for partner in each)} - {name}
            known = [each for each in arrays if each not in elsewhere or each in chosen]
            explained = explain_columns(known, [name, *chosen])
            said.notes.extend(explained.notes)
            said.warnings.extend(explained.warnings)

    def read(row: int) -> bytes:
        pixels, place = places[row]
        claim_bytes(3 * math.prod(pixels.shape[1:3]))
        return to_bitmap(np.asarray(pixels[place]))

    return Records(rows, read, said)


def _open(path: str) -> dict[str, Any]:
    """Return each array of a file by its name."""
    ending = path.lower().rpartition(".")[2]
    if ending == "npy":
        return {"image": np.load(path, mmap_mode="r")}
    if ending == "npz":
        return {**read_arrays(path, NPZ_TIMES)}
    return open_datasets(path)


def open_datasets(path: str) -> dict[str, Any]:
    """Return each dataset of an HDF5 file by its name; all of them lie in this file.

    Raises:
        SourceError: HDF5 crashes on the file, or it has another meaning.
    """
    import h5py

    if trap := find_trap(path):
        raise SourceError(f"{quoted(path)}: {trap}; expected arrays of pixels; write it again")
    arrays: dict[str, Any] = {}
    file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    own = {"reason": _NO_PIXELS["weights_sha256"]} if "digest" in file else {}  # without a trunk
    for name, what in {**_NO_PIXELS, **own}.items():
        if name in file.attrs or name in file:
            raise SourceError(f"{quoted(path)}: found {what}; expected arrays of pixels")
    file.visititems(arrays.__setitem__)
    arrays = {name: array for name, array in arrays.items() if isinstance(array, h5py.Dataset)}
    for name, array in arrays.items():
        if array.is_virtual or array.external:
            problem = f"found {name}, whose pixels lie in another file; copy them into this file"
            raise SourceError(f"{quoted(path)}: {problem}")
    return arrays


def _image_arrays(path: str, arrays: Mapping[str, Any], named: Named) -> list[str]:
    """Return the named array of images, or the only one, or one for each split."""
    flaws = {name: find_flaw(name, array) for name, array in arrays.items()}
    if "path" in named:
        flaws = {name: flaw for name, flaw in flaws.items() if name == named["path"]}
    fits = [name for name, flaw in flaws.items() if flaw is None]
    usual = [name for name in fits if _IMAGE_WORDS & {*_words(name)}]
    for chosen in (fits, usual):
        splits = [split_in_name(name) for name in chosen]
        if len(chosen) > 1 and None not in splits and len({*splits}) == len(splits):
            return chosen
    if len(fits) == 1:
        return fits
    known = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
    expected = "expected uint8 of (N, H, W, 3) or (N, H, W); "
    said = [] if fits else [flaw for flaw in flaws.values() if flaw]
    expected += "; ".join(said[:3]) or "say which with --columns path=NAME"
    raise SourceError(f"{quoted(path)}: found {known[:300] or 'no arrays'}; {expected}")


def check_size(path: str, name: str, images: Any) -> None:
    """Raise SourceError if a few bytes of an HDF5 file look like terabytes of images."""
    problem = ""
    if (stored := getattr(images, "id", None)) and len(images) > stored.get_storage_size():
        problem = f"{len(images):,} images in {stored.get_storage_size():,} bytes; expected more"
    elif _chunk_bytes(images) > _MOST_BYTES:
        size = show_bytes(_chunk_bytes(images))
        problem = f"chunks of {size}; expected at most 1 GB; write it with smaller chunks"
    if problem:
        raise SourceError(f"{quoted(path)}: found {name} with {problem}")


def _chunk_bytes(array: Any) -> int:
    return int(math.prod(getattr(array, "chunks", None) or [0]) * array.dtype.itemsize)


def find_flaw(name: str, array: Any) -> str | None:
    """Return why an array cannot be the images and what to do, "" if it has nothing to do with it.

    None is for an array that fits.
    """
    shape = array.shape
    if len(shape) not in (3, 4) or not all(shape[1:]) or array.dtype.kind not in "buif":
        return ""
    if "MATLAB_class" in getattr(array, "attrs", {}):
        axes = (0, *range(len(shape) - 1, 0, -1))
        return f"{name} has MATLAB's order of axes; store {name}[()].transpose{axes}"
    if (pixels := math.prod(shape[1:3])) > PIXELS.most:
        return f"{name} has images of {pixels:,} pixels, more than {PIXELS.most:,}"
    return _wrong_axes(name, shape) or _wrong_values(name, array)


def _wrong_axes(name: str, shape: tuple[int, ...]) -> str | None:
    last, flaw = shape[-1], None
    if len(shape) == 3 and last in (1, 3, 4):
        flaw = f"looks like one image; if it is, store {name}[None]"
    elif len(shape) == 3 and shape[0] == shape[1] != last:
        flaw = f"looks like images on its last axis; store {name}.transpose(2, 0, 1), "
        flaw += f"or {name}[..., None] if they are on the first"
    elif len(shape) == 4 and last not in (1, 3):
        flaw = f"has {last} channels"
        if shape[1] in (1, 3):
            flaw = f"has its channels first; store {name}.transpose(0, 2, 3, 1)"
        elif shape[2] in (1, 3):
            flaw = f"has its images last; store {name}.transpose(3, 0, 1, 2)"
        elif last == 4:
            flaw += f"; store {name}[..., :3]"
    return flaw and f"{name} {flaw}"


def _wrong_values(name: str, array: Any) -> str | None:
    if array.dtype == np.uint8:
        return None
    low, high = _range_of(array)
    flaw = f"{name} has values of {low:g} to {high:g}; store "
    if array.dtype.kind == "f" and 0 <= low <= high <= 1:
        return f"{flaw}({name} * 255).round().astype('uint8'), of 0 to 255"
    if array.dtype.kind in "ui" and low >= 0 and high > 255:
        return f"{flaw}({name} >> 8).astype('uint8') if they have 16 bits"
    if low >= 0 and 128 <= high <= 255:
        return f"{flaw}{name}.astype('uint8'), of 0 to 255"
    return f"{flaw}them as uint8 of 0 to 255, as they were before they were scaled"


def _range_of(array: Any) -> tuple[float, float]:
    """Return the lowest and highest value of the first images."""
    count = max(1, min(_SAMPLE, _MOST_BYTES * len(array) // max(1, _bytes_of(array))))
    some = np.asarray(array[:: max(1, -(-len(array) // count))])
    return (float(some.min()), float(some.max())) if some.size else (0.0, 0.0)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def split_in_name(name: str) -> str | None:
    """Return the split in the name of an array, such as ``x_train`` and ``test/images``."""
    splits = {SPLITS[SPLIT_OF[word]] for word in _words(name) if word in SPLIT_OF}
    return splits.pop() if len(splits) == 1 else None


def _partners(name: str) -> list[str]:
    """Return the names that the labels of an array of images may have, as y_train for x_train."""
    found = []
    for word in re.finditer(r"[A-Za-z]+", name):
        if word[0].lower() in _IMAGE_WORDS:
            found += [name[: word.start()] + label + name[word.end() :] for label in _LABEL_WORDS]
    return found


def _cells(
    path: str, arrays: Mapping[str, Any], name: str | None, count: int, said: Said
) -> list[Any]:
    """Return the value of an array for each image, None without an array."""
    if name and max(_bytes_of(arrays[name]), _chunk_bytes(arrays[name])) > _MOST_BYTES:
        problem = f"found array {name} of {arrays[name].shape} {arrays[name].dtype}"
        raise SourceError(
            f"{quoted(path)}: {problem}; expected at most 1 GB, a value for each image"
        )
    values = np.full(count, None) if name is None else np.asarray(arrays[name][()])
    if (
        values.ndim == 2
        and values.shape[0] == count
        and values.shape[1] > 1
        and _is_one_hot(values)
    ):
        said.warnings.append(f"found a 1 in each row of {name}, which is read as its column")
        values = values.argmax(1)
    if values.size != count or max(values.shape, default=0) != count:
        problem = f"found array {name} of shape {values.shape} beside {count} images"
        raise SourceError(f"{quoted(path)}: {problem}; expected one value for each; see --columns")
    return list(values.reshape(-1).tolist())


def _bytes_of(array: Any) -> int:
    return int(math.prod(array.shape or ()) * array.dtype.itemsize)


def _is_one_hot(values: np.ndarray) -> bool:
    if values.dtype.kind not in "buif":
        return False
    return bool(np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all())


def to_bitmap(pixels: np.ndarray) -> bytes:
    """Return pixels as a lossless image file.

    So an array is treated as every other image, also in digests and in the report. No library
    writes the header, because a digest must not change with a version.

    Args:
        pixels: (H, W, 3) RGB, or (H, W) or (H, W, 1) grey, uint8.

    Returns:
        A BMP of 24 bits a pixel. Source: BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    height, width = pixels.shape[:2]
    rgb = np.broadcast_to(pixels.reshape(height, width, -1), (height, width, 3))
    lines = rgb[::-1, :, ::-1].reshape(height, -1)  # bottom row first; BGR
    lines = np.pad(lines, ((0, 0), (0, -3 * width % 4)))  # lines of a multiple of four bytes
    file = struct.pack("<2sIHHI", b"BM", 54 + lines.size, 0, 0, 54)
    image = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, lines.size, 0, 0, 0, 0)
    return file + image + lines.tobytes()
