"""Images as arrays of pixels, in HDF5 and NumPy files, handed on as bitmaps."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from extract.core.errors import SourceError, quoted
from extract.images.item import reading
from extract.layouts.image_table import Named, Records, choose_columns

_USUAL = {"label": ("label", "labels"), "split": ("split",), "group": ("group", "groups")}
# The cache keeps chunks of several images in memory for the next image.
_CHUNK_CACHE = 2**26


def open_arrays(path: str, named: Named) -> Records:
    """Open a file of pixels: uint8, (N, H, W, 3) RGB, or (N, H, W) or (N, H, W, 1) grey.

    Args:
        path: An HDF5 file, or a file of ``numpy.save`` or ``numpy.savez``. The arrays of an
            ``.npz`` are read into memory; the others stay on the disk.
        named: The arrays that the user has named, by role.

    Returns:
        Its images, without names.

    Raises:
        SourceError: The file cannot be read, or several of its arrays may be the images.
    """
    with reading(path, "arrays of pixels"):
        arrays = _open(path)
        pixels = arrays[_image_array(path, arrays, named)]
        names = choose_columns(quoted(path), arrays, named, _USUAL, "array")
        cells = [_cells(path, arrays, name, len(pixels)) for name in (None, *names)]
    rows = list(zip(*cells, strict=True))
    return Records(rows, lambda row: to_bitmap(np.asarray(pixels[row])))


def _open(path: str) -> dict[str, Any]:
    """Return each array of a file by its name."""
    ending = path.lower().rpartition(".")[2]
    if ending == "npy":
        return {"image": np.load(path, mmap_mode="r")}
    if ending == "npz":
        with open(path, "rb") as opened, np.load(opened) as file:
            return dict(file)
    import h5py

    arrays: dict[str, Any] = {}
    h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE).visititems(arrays.__setitem__)
    arrays = {name: array for name, array in arrays.items() if isinstance(array, h5py.Dataset)}
    for name, array in arrays.items():
        if array.is_virtual or array.external:
            problem = f"found {name}, whose pixels lie in another file; copy them into this file"
            raise SourceError(f"{quoted(path)}: {problem}")
    return arrays


def _image_array(path: str, arrays: Mapping[str, Any], named: Named) -> str:
    """Return the named array of images, or the only one."""
    fits = [name for name, array in arrays.items() if _is_pixels(array)]
    name = named.get("path") or (fits[0] if len(fits) == 1 else "")
    if name in fits:
        return name
    known = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
    expected = "expected uint8 of (N, H, W, 3) or (N, H, W); say which with --columns path=NAME"
    raise SourceError(f"{quoted(path)}: found {known[:300] or 'no arrays'}; {expected}")


def _is_pixels(array: Any) -> bool:
    fits = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    return array.dtype == np.uint8 and fits and all(array.shape[1:])


def _cells(path: str, arrays: Mapping[str, Any], name: str | None, count: int) -> list[Any]:
    """Return the value of an array for each image, None without an array."""
    values = np.full(count, None) if name is None else np.asarray(arrays[name][()])
    if values.shape not in ((count,), (count, 1)):
        problem = f"found array {name} of shape {values.shape} beside {count} images"
        raise SourceError(f"{quoted(path)}: {problem}; expected one value for each; see --columns")
    return list(values.reshape(-1).tolist())


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
