"""The image files of rows, from the place where the features were computed."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from extract.core.errors import ImageError, SourceError, StoreError, quoted
from extract.gallery.thumbnails import Place, Wanted, candidates
from extract.images.digests import digest_bytes
from extract.sources.listing import open_reader

# Images that are tried in a place.
_TRIED = 5


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
        for source, root in candidates(place):
            with suppress(SourceError):  # it may be gone, or on another machine
                self._read = open_reader(source, place.columns, root)
                self.folder = source if Path(source).is_dir() else ""
                if not wanted or any(self._has(image) for image in islice(wanted, _TRIED)):
                    return
        where = (
            quoted(place.moved_to or place.source) or "the place of the images, which is unknown"
        )
        found = "does not hold the images that the features were computed from"
        raise StoreError(f"{where}: {found}; say where they are with --images")

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
