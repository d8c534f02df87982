"""Small images of rows, read where they were when the features were computed.

A file of features from a stranger names the images, so that only those in one place, each a
regular file of the recorded digest, are read, and for a limited time.
"""

import math
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.console import log
from extract.core.errors import ImageError, SourceError, count_of, quoted
from extract.images.digests import digest_bytes
from extract.images.item import Read
from extract.images.remote import hide_secrets, is_url
from extract.limits import prefetch
from extract.limits.image_size import under_way
from extract.pixels.decode import decode
from extract.sources.listing import open_reader
from extract.store.open import Store

_SIDE = 144
# Reads wait for disks and networks, and decoders leave other threads the interpreter.
_THREADS = 8


class Wanted(NamedTuple):
    """An image to show.

    Attributes:
        key: Its key.
        digest: The digest of its file, None where none is known.
        side: Width and height of its thumbnail in pixels.
        optional: Whether it may be left out to save time.
    """

    key: str
    digest: bytes | None
    side: int = _SIDE
    optional: bool = False


class Thumbnail(NamedTuple):
    """A small image as a data URI, or the reason why there is none."""

    image: str
    reason: str


class Place(NamedTuple):
    """Where the images of a file of features are.

    Attributes:
        path: The file of features, or None.
        source: The place of the images when it was made, as the user named it.
        columns: The columns of the source's table, as the user named them.
        root: The folder of the table's images, if it is not that of the table.
        moved_to: The place of the images now, if the user has named another one.
        flag: The option that names it, for messages.
    """

    path: Path | None
    source: str
    columns: str = ""
    root: str = ""
    moved_to: str = ""
    flag: str = "--source"


def place_of(store: Store, moved_to: str = "") -> Place:
    """Return where the images of an open file of features are."""
    named = {n: str(store.attributes.get(n, "")) for n in ("source", "columns", "root")}
    return Place(store.path, moved_to=moved_to, **named)


def read_thumbnails(
    wanted: Sequence[Wanted], place: Place, seconds: float = math.inf
) -> list[Thumbnail]:
    """Return a thumbnail of each image.

    Args:
        wanted: The images, the most important ones first.
        place: Where they are.
        seconds: No optional image is read after this time.
    """
    tried = list[list[Thumbnail]]()
    with closing(prefetch.map_in_threads(partial(_open, place), candidates(place), 1, 1)) as found:
        for opened in found:
            # A source that does not answer has none of them.
            tried.append(
                _read_images(wanted, *opened, seconds) if opened else [_late() for _ in wanted]
            )
            if any(thumbnail.image for thumbnail in tried[-1]):
                return tried[-1]
    if wanted:
        _explain_missing(place, len(wanted))
    return tried[0]


def candidates(place: Place) -> list[tuple[str, str]]:
    """Return where the images may be, each with the folder of a table's images."""
    if place.moved_to:
        return [(place.moved_to, "")]
    candidates = [(place.source, place.root)]
    if place.source and place.path and not is_url(place.source):
        # Older files have paths as they were named, perhaps from the folder of the file.
        home = place.path.absolute().parent
        root = str(home / place.root) if place.root else ""
        candidates.append((str(home / place.source), root))
    return list(dict.fromkeys(candidates))


def _explain_missing(place: Place, count: int) -> None:
    """Say why there is no thumbnail."""
    if place.moved_to:
        found = f"holds none of the {count_of(count, 'image')} to show"
        expected = "expected what extract-features read, where it is now"
        log.warning("source: %s %s; %s", quoted(hide_secrets(place.moved_to)), found, expected)
    elif place.source and not is_url(place.source):
        found = f"no longer holds the {count_of(count, 'image')} to show"
        where = f"no images: {quoted(place.source)} {found}"
        log.info("%s; say where they are with %s", where, place.flag)


def _open(place: Place, candidate: tuple[str, str]) -> tuple[Read | None]:
    """Open one place of the images."""
    if place.source or place.moved_to:
        with suppress(SourceError):  # the archive may be gone, or on another machine
            return (open_reader(candidate[0], place.columns, candidate[1]),)
    return (None,)


def _late() -> Thumbnail:
    return Thumbnail("", f"took longer than {prefetch.LIMIT_SECONDS:g} s to read")


def _read_images(wanted: Sequence[Wanted], read: Read | None, seconds: float) -> list[Thumbnail]:
    """Return the thumbnails of images in one place; one that hangs takes no other with it."""
    work, images = partial(_read_thumbnail, read, time.monotonic() + seconds), list[Thumbnail]()
    found = prefetch.map_in_threads(work, wanted, _THREADS, 2 * _THREADS)
    with closing(found), suppress(SourceError):  # too many hang
        images.extend(image or _late() for image in found)
    return images + [_late() for _ in wanted[len(images) :]]


def _read_thumbnail(read: Read | None, until: float, image: Wanted) -> Thumbnail:
    """Return a thumbnail, or the reason why there is none."""
    if image.optional and time.monotonic() > until:
        return Thumbnail("", "left out to save time")
    try:
        with under_way():
            return Thumbnail(_read_image(read, image), "")
    except ImageError as error:
        return Thumbnail("", str(error))


def _read_image(read: Read | None, image: Wanted) -> str:
    """Return a small image as a data URI.

    Raises:
        ImageError: It cannot be read, or is not the one that the features were made of.
    """
    if read is None:
        raise ImageError("source not available")
    try:
        content = read(image.key)
    except ImageError as error:
        raise ImageError("image not found") from error
    if digest_bytes(content) != image.digest:
        raise ImageError("image changed since extraction")
    return _encode(decode(content, (image.side, image.side), "pad", decoding="scaled"))


def _encode(pixels: Any) -> str:
    """Return pixels as a data URI: WebP, which takes half as many bytes as JPEG."""
    from PIL import Image, features

    kind = "webp" if features.check("webp") else "jpeg"
    # JPEG has no such method, and ignores it.
    Image.fromarray(pixels).save(out := BytesIO(), kind, quality=75, method=2)
    return f"data:image/{kind};base64,{b64encode(out.getvalue()).decode()}"
