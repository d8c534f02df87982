"""The image files of rows, from the place where the features were computed."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from extract.core.errors import ImageError, SourceError, StoreError, quoted
from extract.gallery.thumbnails import Place, Wanted, candidates
from extract.images.digests import digest_bytes
from extract.images.remote import hide_secrets
from extract.sources.listing import open_reader

# Images that are tried in a place, spread over all: some may have been moved or removed since.
_TRIED = 50


class Originals:
    """Reads images of a file of features; only those that it was computed from.

    Args:
        place: Where the images are.
        wanted: The images that will be read.

    Raises:
        StoreError: They are nowhere.

    Attributes:
        folder: The folder of the images; empty of an archive, a table and the like.
    """

    def __init__(self, place: Place, wanted: Sequence[Wanted]) -> None:
        tried = wanted[:: -(-len(wanted) // _TRIED) or 1]
        for source, root in candidates(place):
            with suppress(SourceError):  # it may be gone, or on another machine
                self._read = open_reader(source, place.columns, root)
                self.folder = source if Path(source).is_dir() else ""
                if not wanted or any(map(self._has, tried)):
                    return
        remedy = f"say where they are with {place.flag}"
        if not (place.moved_to or place.source):
            found = f"{quoted(str(place.path))} does not say where its images are"
            raise StoreError(f"{found}; {remedy}")
        found = "does not hold the images that the features were computed from"
        raise StoreError(
            f"{quoted(hide_secrets(place.moved_to or place.source))}: {found}; {remedy}"
        )

    def _has(self, image: Wanted) -> bool:
        with suppress(ImageError):
            self.read(image)
            return True
        return False

    def read(self, image: Wanted) -> bytes:
        """Return the content of an image.

        Raises:
            ImageError: It cannot be read, or has changed since the extraction.
        """
        content = self._read(image.key)
        if digest_bytes(content) != image.digest:
            raise ImageError("changed since the extraction")
        return content
