"""Names in folders -> classes and splits; whatever could be read in two ways is an error."""

import os
from collections.abc import Iterator, Mapping
from itertools import pairwise

from extract.core.errors import SourceError, listed, quoted
from extract.images.item import SPLIT_OF, Item, Read, Source, read_file

_Place = tuple[str, str]  # (split folder or "" where there are none, class or "" for no label)
Groups = Mapping[_Place, list[str]]  # the keys of the images at each place
Named = list[tuple[str, str]]  # (key, path) of each; a folder's key ends with a slash


def arrange(root: str, found: Mapping[str, Named], read: Read = read_file, skip: int = 0) -> Source:
    """Tell classes and splits from the names of what was found.

    Args:
        root: Where it was found, for messages.
        found: Key and path of each ``image`` and ``folder``; of ``other`` and ``closed`` (cannot
            be opened), which are passed over with a warning.
        read: What reads an image's path.
        skip: Folders at the top of every image's key that say nothing.

    Returns:
        The images, sorted by key.

    Raises:
        SourceError: There are no images, their layout has two meanings, or two have one key.
    """
    images = _sorted_unique(root, found["image"])
    if not images:
        others = [key for key, _ in [*found["other"], *found["closed"]]]
        raise SourceError(
            f"{quoted(root)}: found no image among {listed(others, 'file')}; expected .jpg, .png "
            "and the like, alone or in a folder for each class"
        )
    folders = _sorted_unique(root, found["folder"])
    split_of = _split_folders(root, _group(images, {}, skip))
    groups = _group(images, split_of, skip)
    _check_alone(root, groups)
    class_names = tuple(sorted({name for _, name in groups if name}))
    label_of = {"": -1} | {name: label for label, name in enumerate(class_names)}
    items = []
    for key, path in images:
        section, name = _place(key, split_of, skip)
        items.append(Item(key, path, label_of[name], split_of.get(section, 0), "", read))
    oddities = list(about_classes(folders, split_of, groups))
    for kind, why in (("other", "no images"), ("closed", "they cannot be opened")):
        if found[kind]:
            oddities.append(f"passed over {listed((k for k, _ in found[kind]), 'file')}: {why}")
    warnings = tuple(f"{quoted(root)}: {oddity}" for oddity in oddities)
    return Source(tuple(items), class_names, warnings, root)


def _sorted_unique(root: str, named: Named) -> Named:
    named = sorted(named)
    for (key, path), (next_key, next_path) in pairwise(named):
        if key == next_key:
            raise SourceError(
                f"{quoted(root)}: found {path!r} and {next_path!r}, which are both "
                f"{quoted(key)} in UTF-8; expected names that stay apart; rename one"
            )
    return named


def _place(key: str, split_of: Mapping[str, int], skip: int = 0) -> _Place:
    """Return the place of an image's key, or of a folder's where that ends with a slash."""
    key = key.split("/", skip)[-1]
    section, _, rest = key.partition("/") if split_of else ("", "", key)
    name, slash, _ = rest.partition("/")
    return section, name if slash else ""


def _group(named: Named, split_of: Mapping[str, int], skip: int) -> Groups:
    groups: dict[_Place, list[str]] = {}
    for key, _ in named:
        groups.setdefault(_place(key, split_of, skip), []).append(key)
    return groups


def _split_folders(root: str, groups: Groups) -> dict[str, int]:
    """Return the split of each top-level folder, or nothing where they are classes."""
    sizes = {top: f"{top}: {len(keys):,}" for (_, top), keys in groups.items()}
    split_of = {top: SPLIT_OF[top.lower()] for top in sizes if top.lower() in SPLIT_OF}
    if not split_of or "" in sizes:  # loose images are _check_alone's business
        return {}
    splits = [sizes[top] for top in split_of]
    others = [size for top, size in sizes.items() if top not in split_of]
    if others or len(set(split_of.values())) < len(splits):
        raise SourceError(
            f"{quoted(root)}: found {listed(splits, 'split folder', 7)} and "
            f"{listed(others, 'other folder')} with images; expected one folder for each split "
            "and no others, or only classes; merge them, move them or rename the class"
        )
    return split_of


def _check_alone(root: str, groups: Groups) -> None:
    """Raise SourceError where images lie beside folders with images."""
    for section in sorted({at for at, name in groups if not name}):
        sizes = [f"{n}: {len(keys):,}" for (at, n), keys in groups.items() if n and at == section]
        if sizes:
            loose = listed(groups[section, ""], "image")
            raise SourceError(
                f"{quoted(os.path.join(root, section))}: found {loose} beside "
                f"{listed(sizes, 'folder')} with images; expected only the one or the other; "
                "move those images into the folders, or away"
            )


def about_classes(folders: Named, split_of: Mapping[str, int], groups: Groups) -> Iterator[str]:
    """Say what is odd about splits and classes, though it has one meaning."""
    names_at: dict[str, set[str]] = {}
    for section, name in groups:
        if name:  # a split without labels lacks no class
            names_at.setdefault(section, set()).add(name)
    class_names = set().union(*names_at.values())
    places = {_place(key, split_of) for key, _ in folders}
    empty = {at for at, _ in places if at not in split_of and at.lower() in SPLIT_OF}
    known = {"", *class_names}
    empty |= {f"{at}/{name}" for at, name in places if at in names_at and name not in known}
    if empty:
        named = listed((key.lstrip("/") for key in empty), "split or class folder", 10)
        yield f"found no images in {named}; expected some, or no such folder"
    for section, names in sorted(names_at.items()):
        if names != class_names:
            lacking = listed(class_names - names, "class name", 10)
            yield f"found no images of {lacking} in {section}; expected each class in each split"
    if len(class_names) == 1:
        yield (
            f"found one class, {quoted(*class_names)}; expected two or more; SOURCE should be the "
            "folder right above the class folders"
        )
