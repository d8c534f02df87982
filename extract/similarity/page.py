"""Pages of the images that were found, read from where they were extracted."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extract.core.errors import SettingError
from extract.gallery.page import Card, Section, check_page, write_gallery
from extract.gallery.thumbnails import Wanted, place_of, read_thumbnails
from extract.store.open import Store

PathLike = str | os.PathLike[str]
# A page of more images takes minutes to make, and seconds to open.
MOST_IMAGES = 600


class Shown(NamedTuple):
    """A section of a page: its title, the rows of its images, and the lines about each."""

    title: str
    rows: Sequence[int]
    lines: Sequence[Sequence[str]]


def check_target(store: Store, page: PathLike | None, source: PathLike) -> None:
    """Raise an error where no page can be written, before anything is computed.

    Raises:
        SettingError: The store has no images, or a source has no effect.
        StoreError: The page would replace something else.
    """
    if page is None:
        if source:
            raise SettingError("source: has no effect without a page")
        return
    if not store.spec.trunk:
        found = f"{store.path} holds features of another program, without images"
        raise SettingError(f"page: {found}; leave it out")
    check_page(Path(page))


def write_page(
    store: Store, page: PathLike, source: PathLike, texts: tuple[str, str], shown: Sequence[Shown]
) -> None:
    """Write a page of images in sections; of more than ``MOST_IMAGES`` the first ones.

    Args:
        store: The open store.
        page: The HTML file.
        source: Where the images are now, if they have moved.
        texts: The title, and a sentence about all images.
        shown: The sections.
    """
    kept, total = list[Shown](), 0
    for section in shown:
        part = section.rows[: MOST_IMAGES - total]
        if part:
            kept.append(section._replace(rows=part))
        total += len(part)
    digests = store.digests()
    wanted = [
        Wanted(store.keys[row], digests[row].tobytes()) for section in kept for row in section.rows
    ]
    small = iter(read_thumbnails(wanted, place_of(store, os.fspath(source))))
    sections = [
        Section(
            section.title,
            [
                Card(store.keys[row], next(small), lines)
                for row, lines in zip(section.rows, section.lines, strict=False)
            ],
        )
        for section in kept
    ]
    title, lead = texts
    if total < sum(len(section.rows) for section in shown):
        lead += f" The first {MOST_IMAGES} images are shown."
    write_gallery(Path(page), title, lead, sections)
