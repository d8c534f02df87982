"""The members of an archive, or of its shards, -> items: classes from folders or files beside."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from extract.core.config import ROLES, parse_columns
from extract.core.errors import ImageError, SettingError, SourceError, listed, quoted
from extract.images.image_folder import Named, arrange
from extract.images.item import IMAGE_ENDINGS, SPLIT_OF, Source
from extract.sources.archives import Archive, stem
from extract.sources.tables import arrange_rows

_LABEL_ENDINGS = (".cls", ".json")


def list_archive(root: str, columns: str = "") -> Source:
    """List the images of an archive, or of several.

    Their classes and splits are those of their folders; or stand beside each image, in a file of
    its name that ends in ``.cls`` (the class) or ``.json`` (an object with, say, a ``label``).

    Args:
        root: The archive, or a pattern of shards such as ``a-{00..12}.tar``.
        columns: What label, split and group are called in JSON, see ``config.parse_columns``.

    Returns:
        The images sorted by key, which is their name in the archive.

    Raises:
        SourceError: An archive cannot be read, names a member twice or one outside of itself, holds
            no images, or what says their classes has two meanings.
        SettingError: ``columns`` have no effect.
    """
    archive = Archive(root)
    images = [key for key in archive.members if key.lower().endswith(IMAGE_ENDINGS)]
    named = parse_columns(columns)
    if "path" in named:
        raise SettingError(f"columns: path has no effect on {quoted(root)}; leave it out")
    if images and (rows := _rows_beside(archive, images, named)):
        return arrange_rows(root, rows, named, archive.read, "member")
    if columns:
        raise SettingError(
            f"columns: has no effect on {quoted(root)}, which holds no such JSON beside its images"
        )
    chosen = set(images)
    found: dict[str, Named] = {
        "image": [(key, key) for key in images],
        "folder": [],
        "other": [(key, key) for key in archive.members if key not in chosen],
        "closed": [(key, key) for key in archive.links],
    }
    sharded = len(archive.shards) > 1
    return arrange(root, found, archive.read, sharded + _has_shared_folder(images, sharded))


def _has_shared_folder(images: Sequence[str], sharded: bool) -> bool:
    """Whether all lies in the one folder that was packed, with other folders below it."""
    parts = [key.split("/")[sharded:] for key in images]
    tops = {names[0] for names in parts}
    return len(tops) == 1 and not tops & set(SPLIT_OF) and all(len(names) > 2 for names in parts)


def _rows_beside(
    archive: Archive, images: Sequence[str], named: Mapping[str, str]
) -> list[tuple[str, list[Any]]]:
    """Return key and cells of each image, where files beside them say its class."""
    for ending in _LABEL_ENDINGS:
        beside = {stem(key): key for key in archive.members if key.lower().endswith(ending)}
        having = [key for key in images if stem(key) in beside]
        rows = [(key, [key, *_cells(archive, beside[stem(key)], named)]) for key in having]
        if all(cell is None for _, cells in rows for cell in cells[1:]):
            continue  # no such files, or captions and the like, which say nothing of classes
        if len(having) < len(images):
            lacking = listed(set(images) - set(having), "image")
            raise SourceError(
                f"{quoted(archive.root)}: found {lacking} without {ending} beside; expected one "
                "beside each or none at all"
            )
        return rows
    return []


def _cells(archive: Archive, key: str, named: Mapping[str, str]) -> list[Any]:
    """Return label, split and group as a file beside an image says them."""
    columns = [named.get(role, role) for role in ROLES[1:]]
    is_class = key.lower().endswith(".cls")
    if is_class and named:
        raise SettingError(f"columns: has no effect on {quoted(archive.root)}, which holds .cls")
    try:
        text = archive.read(key).decode()
        said = {columns[0]: text} if is_class else json.loads(text)
        lacking = named.values() - said.keys()
    except (ImageError, ValueError, AttributeError, RecursionError) as error:
        expected = "the name or number of a class" if is_class else "a JSON object"
        raise SourceError(
            f"{quoted(archive.root)}: {quoted(key)}: {error}; expected {expected} in UTF-8"
        ) from error
    if lacking:
        raise SourceError(
            f"{quoted(archive.root)}: {quoted(key)}: lacks {', '.join(sorted(lacking))}; expected "
            "each that --columns names"
        )
    return [said.get(column) for column in columns]
