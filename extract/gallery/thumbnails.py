"""Small images of rows, read where they were when the features were computed.

A file of features from a stranger names the images, so that only those in one place, each a
regular file of the recorded digest, are read, and for a limited time.
"""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from extract.core.console import log
from extract.core.errors import ImageError, SourceError, count_of, quoted
from extract.images.digests import digest_bytes
from extract.images.item import Read
from extract.images.remote import is_url
from extract.limits import prefetch
from extract.limits.image_size import under_way
from extract.pixels.decode import decode
from extract.sources.listing import open_reader
from extract.store.open import Store

SIZE = (144, 144)


class Wanted(NamedTuple):
    """An image to show: its key, and the digest of its file, None where none is known."""

    key: str
    digest: bytes | None


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


def read_thumbnails(wanted: Sequence[Wanted], place: Place) -> list[Thumbnail]:
    """Return a thumbnail of each image."""
    tried = list[list[Thumbnail]]()
    read = partial(_read_images, wanted, place)
    late = Thumbnail("", f"took longer than {prefetch.LIMIT_SECONDS:g} s to read")
    with closing(prefetch.map_in_threads(read, candidates(place), 1, 1)) as tries:
        for found in tries:
            tried.append(found or [late for _ in wanted])
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
        log.warning("source: %s %s; %s", quoted(place.moved_to), found, expected)
    elif place.source and not is_url(place.source):
        found = f"no longer holds the {count_of(count, 'image')} to show"
        where = f"no images: {quoted(place.source)} {found}"
        log.info("%s; say where they are with %s", where, place.flag)


def _read_images(
    wanted: Sequence[Wanted], place: Place, candidate: tuple[str, str]
) -> list[Thumbnail]:
    """Return the thumbnails of images in one place."""
    shown, read = [], None
    with suppress(SourceError):  # the archive may be gone, or on another machine
        read = open_reader(candidate[0], place.columns, candidate[1])
    known = bool(place.source or place.moved_to)
    for image in wanted:
        try:
            with under_way():
                shown.append(Thumbnail(_read_image(read if known else None, image), ""))
        except ImageError as error:
            shown.append(Thumbnail("", str(error)))
    return shown


def _read_image(read: Read | None, image: Wanted) -> str:
    """Return a small image as a data URI.

    Raises:
        ImageError: It cannot be read, or is not the one that the features were made of.
    """
    from PIL import Image

    if read is None:
        raise ImageError("source not available")
    try:
        content = read(image.key)
    except ImageError as error:
        raise ImageError("image not found") from error
    if digest_bytes(content) != image.digest:
        raise ImageError("image changed since extraction")
    out = BytesIO()
    Image.fromarray(decode(content, SIZE, "pad", decoding="scaled")).save(out, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
