"""Images as arrays of pixels, in HDF5 and NumPy files, handed on as bitmaps."""

import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from extract.core.config import ROLES
from extract.core.errors import ImageError, SourceError, quoted, unknown_name
from extract.images.item import Records

ARRAY_ENDINGS = (".h5", ".hdf5", ".npy", ".npz")
# What labels and the rest are called where nobody says.
_USUAL = {"label": ("label", "labels"), "split": ("split",), "group": ("group", "groups")}
# Of chunks that hold several images, those that are read next stay in memory.
_CHUNK_CACHE = 2**26


def open_arrays(path: str, named: Mapping[str, str]) -> Records:
    """Open a file of pixels: uint8, (N, H, W, 3) RGB, or (N, H, W) or (N, H, W, 1) grey.

    Args:
        path: An HDF5 file, or what ``numpy.save`` or ``numpy.savez`` has written; the arrays of an
            ``.npz`` are read into memory, the others stay on the disk.
        named: The datasets that have a name of their own, by role.

    Returns:
        Its images, without names.

    Raises:
        SourceError: It cannot be read, or it is not clear which of its arrays are the images.
    """
    try:
        arrays = _open(path)
        pixels = arrays[_image_array(path, arrays, named)]
        columns = [_values(path, arrays, role, named, len(pixels)) for role in ROLES[1:]]
    except SourceError:
        raise
    except Exception as error:  # h5py raises a dozen kinds over a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{quoted(path)}: cannot be read: {reason}; expected arrays of pixels"
        ) from error
    none = [None] * len(pixels)
    return Records(none, list(zip(*columns, strict=True)), partial(_read, pixels))


def _open(path: str) -> dict[str, Any]:
    """Return each array of a file by its name."""
    ending = path.lower().rpartition(".")[2]
    if ending == "npy":
        return {"image": np.load(path, mmap_mode="r")}
    if ending == "npz":
        with open(path, "rb") as opened, np.load(opened) as file:
            return dict(file)
    import h5py

    found: dict[str, Any] = {}
    h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE).visititems(
        lambda name, at: found.update({name: at} if isinstance(at, h5py.Dataset) else {})
    )
    for name, at in found.items():
        if at.is_virtual or at.external:
            raise SourceError(
                f"{quoted(path)}: found {name}, whose pixels lie in another file; expected arrays "
                "that are in this one; copy them into it"
            )
    return found


def _image_array(path: str, arrays: Mapping[str, Any], named: Mapping[str, str]) -> str:
    fits = [name for name, at in arrays.items() if _is_pixels(at)]
    name = named.get("path")
    if name in fits or (name is None and len(fits) == 1):
        return name or fits[0]
    known = [f"{name} {at.shape} {at.dtype}" for name, at in arrays.items()]
    raise SourceError(
        f"{quoted(path)}: found {', '.join(known)[:300] or 'no arrays'}; expected uint8 of (N, H, "
        "W, 3) or (N, H, W); say which with --columns path=NAME"
    )


def _is_pixels(array: Any) -> bool:
    shape = array.shape
    shaped = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    return array.dtype == np.uint8 and shaped and all(shape[1:])


def _values(
    path: str, arrays: Mapping[str, Any], role: str, named: Mapping[str, str], count: int
) -> list[Any]:
    """Return what an array says of each image, None where there is no such array."""
    usual = [name for name in _USUAL[role] if name in arrays]
    name = named.get(role) or next(iter(usual), None)
    if name is None:
        return [None] * count
    if name not in arrays:
        raise SourceError(f"{quoted(path)}: {unknown_name('array', name, arrays)}")
    values = np.asarray(arrays[name][()])
    if values.shape not in ((count,), (count, 1)):
        raise SourceError(
            f"{quoted(path)}: found {name} of shape {values.shape} beside {count} images; expected "
            f"one {role} for each; name another with --columns {role}=NAME"
        )
    plain = values.reshape(-1).tolist()
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in plain
    ]


def _read(pixels: Any, row: int) -> bytes:
    try:
        return to_bitmap(np.asarray(pixels[row]))
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"cannot be read: {' '.join(str(error).split())[:80]}") from error


def to_bitmap(pixels: np.ndarray) -> bytes:
    """Return pixels as a file that every reader of images takes, without loss.

    So an array goes the way of all images, digest and report included. The header is written
    here, not by a library, for a digest must not change with its version.

    Args:
        pixels: (H, W, 3) RGB, or (H, W) or (H, W, 1) grey, uint8.

    Returns:
        A BMP of 24 bits a pixel. Source: BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    height, width = pixels.shape[:2]
    rgb = np.broadcast_to(pixels.reshape(height, width, -1), (height, width, 3))
    lines = np.zeros((height, -(-3 * width // 4) * 4), np.uint8)  # a line ends at four bytes
    lines[:, : 3 * width] = rgb[::-1, :, ::-1].reshape(height, -1)  # from below; BGR
    file = struct.pack("<2sIHHI", b"BM", 54 + lines.size, 0, 0, 54)
    image = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, lines.size, 0, 0, 0, 0)
    return file + image + lines.tobytes()
