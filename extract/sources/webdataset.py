"""The members of an archive, or of its shards, -> items: classes from folders or label files."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from extract.core.errors import SourceError, count_of, listed, quoted
from extract.core.flags import ROLES
from extract.images.entries import Entry, Kind, kind_by_ending
from extract.images.item import Source, reading
from extract.images.remote import is_url
from extract.layouts.image_folder import Named, arrange_folder
from extract.layouts.image_table import Said, arrange_rows, choose_columns, columns_error
from extract.limits.unpacked import check_bytes, most_bytes
from extract.sources.archives import Archive, is_archive, stem
from extract.sources.tables import parse_json

# Endings of label files, in order of preference.
_LABEL_ENDINGS = (".cls", ".json")
# Bytes of a label file.
_MOST_LABEL = 2**24
# Label files at a URL are read by several threads, because each costs a request.
_READERS = 16
_USUAL = {role: (role,) for role in ROLES[1:]}


def list_archive(root: str, named: Named) -> Source:
    """List the images of an archive, or of several.

    Their classes and splits are those of their folders, or stand beside each image in a file that
    ends in ``.cls`` (the class) or ``.json`` (an object with, say, a ``label``).

    Args:
        root: The archive, a URL, or a pattern of shards such as ``a-{00..12}.tar``.
        named: The names of label, split and group in JSON, where the user has named them.

    Returns:
        The images sorted by key, which is their name in the archive.

    Raises:
        SourceError: An archive cannot be read, names a member twice or one outside of itself, holds
            no images, or the layout of its classes has two meanings.
        SettingError: ``named`` has no effect.
    """
    archive = Archive(root)
    root = archive.root
    entries = [
        Entry(key, key, kind_by_ending(key) if member else Kind.UNREADABLE)
        for key, member in archive.members.items()
    ]
    images = [entry.key for entry in entries if entry.kind is Kind.IMAGE]
    inside = [key for key in archive.members if is_archive(key)]
    if inside and not images:
        problem = f"found {listed(inside, 'archive')} in it, and no images; unpack it"
        raise SourceError(f"{quoted(root)}: {problem}, and give one of them, or all as a pattern")
    if "path" not in named and (rows := _labelled(archive, images, named)):
        source = arrange_rows(root, rows, named, archive.read, Said(archive.notes, []))
    else:
        source = arrange_folder(root, entries, archive.read, len(archive.shards) > 1, named)
    doubts = tuple(f"{quoted(root)}: {warning}" for warning in archive.warnings)
    return source._replace(warnings=doubts + source.warnings)


def _labelled(archive: Archive, images: Sequence[str], named: Named) -> list[tuple[str, list[Any]]]:
    """Return key and cells of each image, where label files give its class."""
    members = [key for key, member in archive.members.items() if member]
    with ThreadPoolExecutor(_READERS if is_url(archive.shards[0]) else 1) as pool:
        for ending in _LABEL_ENDINGS:
            files = _pair(images, [key for key in members if key.lower().endswith(ending)])
            _check_size(archive, {key for keys in files.values() for key in keys})
            read = partial(_chosen_cells, archive, named)
            cells = list(pool.map(read, files, files.values()))
            if all(cell is None for row in cells for cell in row):
                continue  # no such files, or others such as captions
            rows = [(key, [key, *row]) for key, row in zip(files, cells, strict=True)]
            _group_samples(archive, files, rows)
            if len(rows) < len(images):
                problem = f"found {listed(set(images) - set(files), 'image')} without {ending}"
                raise SourceError(f"{quoted(archive.root)}: {problem}; expected all or none")
            archive.notes.append(f"labels of {ending} files beside the images")
            return rows
    return []


def _check_size(archive: Archive, keys: Set[str]) -> None:
    """Raise SourceError where label files are large, one alone or all beside the archive."""
    sizes = {key: member.size for key in keys if (member := archive.members[key])}
    large = max(sizes, key=sizes.__getitem__, default="")
    if large and sizes[large] > _MOST_LABEL:
        found = f"cannot be read: found {sizes[large]:,} bytes"
        raise SourceError(
            f"{quoted(f'{archive.root}: {large}')}: {found}; expected at most {_MOST_LABEL:,}"
        )
    packed = [m.info.compress_size if m.info else m.size for m in archive.members.values() if m]
    is_local = not is_url(archive.shards[0])
    size = sum(map(os.path.getsize, archive.shards)) if is_local else sum(packed)
    with reading(archive.root, "label files that are not larger than the archive"):
        check_bytes(sum(sizes.values()), size, most_bytes(size))


def _group_samples(
    archive: Archive, files: Mapping[str, Sequence[str]], rows: Sequence[tuple[str, list[Any]]]
) -> None:
    """Keep the images that share a label file in one group, and warn of them."""
    images_of: dict[tuple[str, ...], list[str]] = {}
    for image, label_files in files.items():
        images_of.setdefault(tuple(label_files), []).append(image)
    shared = {key: images for key, images in images_of.items() if len(images) > 1}
    for image, cells in rows:
        label_files = tuple(files[image])
        if label_files in shared and cells[3] is None:
            cells[3] = label_files[0]
    if shared:
        (label_file, *_), images = next(iter(shared.items()))
        found = f"found {count_of(len(shared), 'label file')} of several images"
        example = f"such as {quoted(label_file)} of {', '.join(map(quoted, images[:3]))}"
        archive.warnings.append(f"{found}, {example}; each image is read, and they are one group")


def _pair(images: Sequence[str], label_files: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return the label files that may belong to each image that has any; one, as a rule.

    An image has the label file of its own name, else that of the longest part of its name up to a
    full stop, unless that is the own of another image, else those that share the longest part with
    it, and share no longer one with another image.
    """
    label_of = {os.path.splitext(key)[0]: key for key in label_files}
    # The own label file of a.b.jpg is a.b.cls or a.b.jpg.cls.
    own = {key: label_of.get(os.path.splitext(key)[0], label_of.get(key)) for key in images}
    taken, sizes = set(own.values()), Counter(map(stem, label_files))
    image_parts = {part for key in images for part in _parts(key)}
    label_parts, nearest = set[str](), dict[str, list[str]]()
    for key in label_files:
        if key not in taken and stem(key) in image_parts:
            label_parts.update(_parts(key))
            best = next(part for part in _parts(key) if part in image_parts)
            nearest.setdefault(best, []).append(key)
    pairs: dict[str, Sequence[str]] = {}
    for key in images:
        shorter = [label_of[part] for part in _parts(key) if part in label_of]
        lone = sizes[stem(key)] == 1  # the label of all images of a sample
        found = [own[key] or next((one for one in shorter if lone or one not in taken), None)]
        shared = next((part for part in _parts(key) if part in label_parts), "")
        if candidates := list(filter(None, found)) or nearest.get(shared):
            pairs[key] = candidates
    return pairs


def _parts(key: str) -> Iterator[str]:
    """Yield the name without its ending, then shorter ones, down to the first full stop."""
    part, first = os.path.splitext(key)[0], stem(key)
    yield part
    while len(part) > len(first):
        part = part[: part.rindex(".")]
        yield part


def _chosen_cells(archive: Archive, named: Named, image: str, files: Sequence[str]) -> list[Any]:
    """Return label, split and group of an image from the only file that has any of them."""
    if len(files) == 1:
        return _cells(archive, files[0], named)
    cells = {}
    for key in files:
        with suppress(SourceError):  # JSON about something else
            cells[key] = _cells(archive, key, named)
    useful = [key for key, row in cells.items() if any(cell is not None for cell in row)]
    if len(useful) > 1:
        problem = f"found {listed(useful, 'label file')} for {quoted(image)}, none of its name"
        expected = f"expected {quoted(os.path.splitext(image)[0])}{os.path.splitext(useful[0])[1]}"
        raise SourceError(f"{quoted(archive.root)}: {problem}; {expected}")
    return cells[useful[0]] if useful else [None] * len(_USUAL)


def _cells(archive: Archive, key: str, named: Named) -> list[Any]:
    """Return label, split and group from a label file."""
    where, is_class = quoted(f"{archive.root}: {key}"), key.lower().endswith(".cls")
    if is_class and named:
        raise columns_error(archive.root)
    with reading(where, "the name or number of a class" if is_class else "a JSON object"):
        text = archive.read(key).decode("utf-8-sig")
    if is_class:
        return [text, None, None]
    row = parse_json(where, text)
    return [row.get(column) for column in choose_columns(where, row, named, _USUAL)]
