"""A page of small images in sections. It loads nothing and has no script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.atomic import atomic_write
from extract.core.errors import StoreError
from extract.gallery.thumbnails import Thumbnail

_TEMPLATES = Path(__file__).with_name("page")
_CREATOR = '<meta name="generator" content="headstart'


class Card(NamedTuple):
    """An image of a page: its key, its thumbnail, and short lines about it."""

    key: str
    thumbnail: Thumbnail
    lines: Sequence[str] = ()


class Section(NamedTuple):
    """Some images with a title."""

    title: str
    cards: Sequence[Card]


def write_gallery(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page of images with an atomic write.

    Args:
        path: The HTML file; only an earlier page is replaced.
        title: The title.
        lead: A sentence about all images.
        sections: The images.

    Raises:
        StoreError: The file cannot be written, or holds something else.
    """
    check_page(path)
    template = open_templates(_TEMPLATES).get_template("gallery.html")
    text = template.render(title=title, lead=lead, sections=sections)
    with atomic_write(path, StoreError) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def open_templates(folder: Path) -> Any:
    """Return the template engine of pages, which escapes every name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def check_page(path: Path) -> None:
    """Raise StoreError where a page would replace a file that holds something else."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise StoreError(f"{path}: found the ending {path.suffix!r}; expected .html")
    if path.is_dir():
        raise StoreError(f"{path}: found a folder; expected a file or nothing; name another")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if _CREATOR.encode() not in file.read(2**12):
                found = "holds something else; expected a page of images, or a new file"
                raise StoreError(f"{path}: {found}; name another")
