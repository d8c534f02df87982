"""The members of an archive, or of its shards, -> items: classes from folders or label files."""

from collections.abc import Sequence
from typing import Any

from extract.core.errors import SourceError, listed, quoted
from extract.core.flags import ROLES
from extract.images.item import SPLIT_OF, Source, reading
from extract.layouts.entries import Entry, Kind, kind_by_ending
from extract.layouts.image_folder import arrange_folder
from extract.layouts.image_table import Named, arrange_rows, choose_columns, columns_error
from extract.sources.archives import Archive, stem
from extract.sources.tables import parse_json

# Endings of label files, in order of preference.
_LABEL_ENDINGS = (".cls", ".json")
_USUAL = {role: (role,) for role in ROLES[1:]}


def list_archive(root: str, named: Named) -> Source:
    """List the images of an archive, or of several.

    Their classes and splits are those of their folders, or stand beside each image in a file of the
    same name that ends in ``.cls`` (the class) or ``.json`` (an object with, say, a ``label``).

    Args:
        root: The archive, or a pattern of shards such as ``a-{00..12}.tar``.
        named: The names of label, split and group in JSON, where the user has named them.

    Returns:
        The images sorted by key, which is their name in the archive.

    Raises:
        SourceError: An archive cannot be read, names a member twice or one outside of itself, holds
            no images, or the layout of its classes has two meanings.
        SettingError: ``named`` has no effect.
    """
    archive = Archive(root)
    entries = [
        Entry(key, key, kind_by_ending(key) if member else Kind.UNREADABLE)
        for key, member in archive.members.items()
    ]
    images = [entry.key for entry in entries if entry.kind is Kind.IMAGE]
    if "path" not in named and (rows := _labelled(archive, images, named)):
        return arrange_rows(root, rows, named, archive.read)
    if named:
        raise columns_error(root)
    sharded = len(archive.shards) > 1
    parts = [key.split("/")[sharded:] for key in images]
    tops = {names[0] for names in parts}
    # Folders that were packed together lie below one folder, which is no split.
    packed = len(tops) == 1 and not tops & set(SPLIT_OF) and all(len(names) > 2 for names in parts)
    return arrange_folder(root, entries, archive.read, sharded + packed)


def _labelled(archive: Archive, images: Sequence[str], named: Named) -> list[tuple[str, list[Any]]]:
    """Return key and cells of each image, where label files give its class."""
    for ending in _LABEL_ENDINGS:
        members = [key for key, member in archive.members.items() if member]
        label_files = {stem(key): key for key in members if key.lower().endswith(ending)}
        labelled = [key for key in images if stem(key) in label_files]
        rows = [(key, [key, *_cells(archive, label_files[stem(key)], named)]) for key in labelled]
        if all(cell is None for _, cells in rows for cell in cells[1:]):
            continue  # no such files, or others such as captions
        if len(labelled) < len(images):
            problem = f"found {listed(set(images) - set(labelled), 'image')} without {ending}"
            raise SourceError(f"{quoted(archive.root)}: {problem}; expected all or none")
        return rows
    return []


def _cells(archive: Archive, key: str, named: Named) -> list[Any]:
    """Return label, split and group from a label file."""
    where, is_class = quoted(f"{archive.root}: {key}"), key.lower().endswith(".cls")
    if is_class and named:
        raise columns_error(archive.root)
    with reading(where, "the name or number of a class" if is_class else "a JSON object"):
        text = archive.read(key).decode()
    if is_class:
        return [text, None, None]
    row = parse_json(where, text)
    return [row.get(column) for column in choose_columns(where, row, named, _USUAL)]
