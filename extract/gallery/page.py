"""A page of small images in sections. It loads nothing and has no script."""

import hashlib
from base64 import b64encode
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
    style = (_TEMPLATES / "gallery.css").read_text(encoding="utf-8")
    page = {"style": style, "policy": content_policy(style)}
    text = template.render(title=title, lead=lead, sections=sections, **page)
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


def content_policy(style: str, script: str = "") -> str:
    """Return the Content-Security-Policy of a page that loads nothing.

    Only this style sheet and this script count, by their digests; no markup becomes code. Who may
    frame the page cannot be said here: browsers read that in headers alone.
    """
    digests = {
        name: b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style-src", style), ("script-src", script))
        if text
    }
    allowed = [f"{name} 'sha256-{digest}'" for name, digest in digests.items()]
    rest = ["base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"]
    return "; ".join(["default-src 'none'", "img-src data:", *allowed, *rest])


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
