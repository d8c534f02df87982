"""One image of a source: its key, where it is, what it belongs to and how its bytes are read."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from extract.core.errors import ImageError

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = ("train training", "validation val valid", "test testing")
SPLIT_OF = {word: split for split, words in enumerate(_SPLIT_WORDS) for word in words.split()}

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
    *(".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
)
# A BMP is known by the size of its second header: two letters start many a text.
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<BMP>BM.{12}[\x0c(48@l|]\0\0\0)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<WebP>RIFF.{4}WEBPVP8[ LX])|(?P<TIFF>II[*+]\0|MM\0[*+])",
    re.DOTALL,
)
IMAGE_KINDS = tuple(_SIGNATURE.groupindex)

# Left behind by Windows, macOS and Python: nobody wants to hear of them.
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx", "__pycache__")

Read = Callable[[str], bytes]


def read_file(path: str) -> bytes:
    """Return the whole file at ``path``.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: such a name no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"cannot be opened: {reason}") from error


def read_below(folder: str, path: str) -> bytes:
    """Return the whole file at ``path``, relative to ``folder`` or absolute.

    Raises:
        ImageError: It cannot be read.
    """
    return read_file(os.path.join(folder, path))


class Item(NamedTuple):
    """One image: ``label`` indexes the class names (-1: none), ``split`` indexes ``SPLITS``.

    ``read`` gives the bytes at ``path``; it may be called from several threads at once.
    """

    key: str
    path: str
    label: int
    split: int
    group: str = ""
    read: Read = read_file


class Records(NamedTuple):
    """The images that lie in one file, row after row.

    ``names`` are those that the file has for them, None where it has none; ``cells`` are label,
    split and group of each; ``read`` gives the bytes of a row and may be called from threads.
    """

    names: Sequence[str | None]
    cells: Sequence[Sequence[Any]]
    read: Callable[[int], bytes]


@dataclass(frozen=True)
class Source:
    """What SOURCE holds: items sorted by key, their classes, and what is odd about it."""

    items: tuple[Item, ...]
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]
    root: str


def read_item(item: Item) -> bytes:
    """Return the bytes of the image's file.

    Raises:
        ImageError: They cannot be read.
    """
    return item.read(item.path)


def image_kind(head: bytes) -> str | None:
    """Name the kind of image that a file's first 32 bytes begin, one of ``IMAGE_KINDS``."""
    match = _SIGNATURE.match(head)
    return match.lastgroup if match else None


def is_system_file(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left behind by some system."""
    return name.startswith(".") or name.lower() in _CLUTTER
