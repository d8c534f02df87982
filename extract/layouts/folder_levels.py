"""The levels of folders -> split, class and group: which level means what.

The tree is read from the top. Folders that hold everything are passed over. Then come the splits,
if the folders have such names, or else classes whose own folders are splits. Of what is left, the
first level is the class, unless it is numbered like patients and each has the same names below it.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from extract.core.errors import SettingError, SourceError, listed, quoted
from extract.images.item import SPLIT_OF, SPLITS
from extract.layouts.split_folders import find_splits, split_in

Folder = tuple[str, ...]  # the names of the folders above an image
# Names before a number that are patients and the like, and those that are classes.
_GROUP_WORDS = "patient subject person participant user case site hospital scanner camera slide "
_GROUP_WORDS += "session plot specimen batch device location lab animal donor volunteer station"
_CLASS_WORDS = "class category label type grade stage level kind species score cluster"


class Place(NamedTuple):
    """The meaning of a folder: "" is no section, no label, no group."""

    section: str
    name: str
    group: str = ""
    split: int = 0


class Layout(NamedTuple):
    """The place of each folder, and the pattern of the levels, such as ``SPLIT/CLASS``.

    ``inside`` has the folders from the class on, unless a level was named or splits lie below it.
    """

    places: Mapping[Folder, Place]
    pattern: str
    inside: Mapping[Folder, Folder]


def read_levels(
    root: str, keys: Mapping[Folder, Sequence[str]], named: Mapping[str, str]
) -> Layout:
    """Derive split, class and group from the folders of images.

    Args:
        root: The source, for messages.
        keys: The images in each folder.
        named: The levels that the user has named, by role.

    Raises:
        SourceError: Two readings of the folders fit, or a named level does not.
        SettingError: A named level is no number.
    """
    if named:
        return _named_levels(root, keys, named)
    sizes = {folder: len(images) for folder, images in keys.items()}
    above = _count_wrappers(sizes)
    inner = {folder: folder[above:] for folder in sizes}
    wrappers = list(next(iter(sizes))[:above])
    split_of = _splits_at_the_top(root, sizes, inner)
    if not split_of and (places := _splits_below(root, inner)):
        pattern = "/".join([*wrappers, "CLASS", "SPLIT"])
        return Layout(places, pattern, dict.fromkeys(places, ()))
    sections = {folder: path[0] if split_of else "" for folder, path in inner.items()}
    rests = {folder: path[1:] if split_of else path for folder, path in inner.items()}
    passed = _pass_inner_wrappers(sections, rests) if split_of else 0
    _check_loose_images(root, keys, sections, rests)
    grouped = _has_groups(root, rests.values())
    places = {}
    for folder, rest in rests.items():
        group, name = (rest[0], rest[1]) if grouped else ("", rest[0] if rest else "")
        section = sections[folder]
        places[folder] = Place(section, name, group, split_of.get(section, 0))
    levels = ["SPLIT"] * bool(split_of) + ["..."] * bool(passed)
    levels += ["GROUP"] * grouped + ["CLASS"] * any(place.name for place in places.values())
    inside = {folder: rest[grouped:] for folder, rest in rests.items()}
    return Layout(places, "/".join([*wrappers, *levels]), inside)


def _named_levels(root: str, sizes: Iterable[Folder], named: Mapping[str, str]) -> Layout:
    levels = {}
    for role, text in named.items():
        if role == "path" or not re.fullmatch(r"[1-9]\d*", text):
            found = f"columns: has no effect on {quoted(root)} with {role}={text}"
            expected = "expected label, split or group and the level of its folders, as in label=2"
            raise SettingError(f"{found}; {expected}")
        levels[role] = int(text) - 1
    places = {}
    for folder in sizes:
        named_here = {r: folder[i] if i < len(folder) else "" for r, i in levels.items()}
        section, split = named_here.get("split", ""), 0
        if "split" in levels:
            dress = split_in(section)
            if dress is None:
                found = f"found {section!r} at level {levels['split'] + 1} of {'/'.join(folder)!r}"
                raise SourceError(f"{quoted(root)}: {found}; expected one of {', '.join(SPLIT_OF)}")
            split = dress.split
        places[folder] = Place(
            section, named_here.get("label", ""), named_here.get("group", ""), split
        )
    shown = sorted((i, role) for role, i in levels.items())
    pattern = ", ".join(f"{role} at level {i + 1}" for i, role in shown)
    return Layout(places, pattern, dict.fromkeys(places, ()))


def _count_wrappers(folders: Iterable[Folder]) -> int:
    """Return how many folders at the top hold everything and say nothing."""
    folders, count = list(folders), 0
    while all(len(folder) > count + 1 for folder in folders):
        names = {folder[count] for folder in folders}
        if len(names) > 1 or any(map(split_in, names)):
            break
        count += 1
    return count


def _splits_at_the_top(
    root: str, sizes: Mapping[Folder, int], inner: Mapping[Folder, Folder]
) -> dict[str, int]:
    """Return the split of each folder at the top, or nothing where these are no splits."""
    tops, below = Counter[str](), defaultdict[str, set[str]](set)
    for folder, path in inner.items():
        top, *rest = path or ("",)
        tops[top] += sizes[folder]
        below[top].update(rest[:1] if rest[:1] != [top] else rest[1:2])
    return find_splits(root, tops, {top: below[top] for top in tops})


def _splits_below(root: str, inner: Mapping[Folder, Folder]) -> dict[Folder, Place]:
    """Return the places where each class has folders of splits; nothing where it has none."""
    seconds = {path[1] if len(path) > 1 else "" for path in inner.values()}
    split_of = {name: SPLIT_OF[name.lower()] for name in seconds if name.lower() in SPLIT_OF}
    if len(set(split_of.values())) < 2:
        return {}
    if others := seconds - split_of.keys():
        problem = f"found {listed(split_of, 'split folder')} in folders of classes, beside "
        problem += listed((name or "images" for name in others), "other folder")
        expected = "expected only splits there, or --columns label=1 if they are no splits"
        raise SourceError(f"{quoted(root)}: {problem}; {expected}")
    return {
        folder: Place(SPLITS[split_of[path[1]]], path[0], "", split_of[path[1]])
        for folder, path in inner.items()
    }


def _pass_inner_wrappers(sections: Mapping[Folder, str], rests: dict[Folder, Folder]) -> int:
    """Remove folders that hold all of a split, as in ``train/train/CLASS``; return how many."""
    count = 0
    while single := _find_wrappers(sections, rests):
        for folder, rest in rests.items():
            if sections[folder] in single:
                rests[folder] = rest[1:]
        count += len(single)
    return count


def _find_wrappers(sections: Mapping[Folder, str], rests: Mapping[Folder, Folder]) -> set[str]:
    """Return the splits in which one folder holds everything and is no class."""
    inside = defaultdict[str, list[Folder]](list)
    for folder, rest in rests.items():
        inside[sections[folder]].append(rest)
    heads = {
        section: {rest[0] if rest else "" for rest in all_} for section, all_ in inside.items()
    }
    deep = {s for s, all_ in inside.items() if len(heads[s]) == 1 and all(len(r) > 1 for r in all_)}
    return {section for section in inside if _is_wrapper(section, inside, heads, deep)}


def _is_wrapper(
    section: str,
    inside: Mapping[str, Sequence[Folder]],
    heads: Mapping[str, set[str]],
    deep: set[str],
) -> bool:
    """Whether the only folder of a split is its name again, or lies over its classes."""
    name = next(iter(heads[section]))
    if len(heads[section]) > 1 or not name:
        return False
    if name.casefold() == section.casefold():
        return True
    if section not in deep:
        return False
    if deep == heads.keys() or split_in(name) == split_in(section):
        return True
    elsewhere = set[str]().union(*(heads[other] for other in heads if other != section))
    below = {rest[1] for rest in inside[section]}
    return bool(below & elsewhere) and name not in elsewhere


def _check_loose_images(
    root: str,
    keys: Mapping[Folder, Sequence[str]],
    sections: Mapping[Folder, str],
    rests: Mapping[Folder, Folder],
) -> None:
    """Raise SourceError where images lie beside folders with images."""
    loose, beside = {}, defaultdict[str, Counter[str]](Counter)
    for folder, rest in rests.items():
        if rest:
            beside[sections[folder]][rest[0]] += len(keys[folder])
        else:
            loose[sections[folder]] = folder
    for section, folder in sorted(loose.items()):
        if beside[section]:
            folders = [f"{name}: {count:,}" for name, count in beside[section].items()]
            found = f"found {listed(keys[folder], 'image')} beside {listed(folders, 'folder')}"
            expected = "expected only images or only folders; move the images into the folders"
            raise SourceError(f"{quoted(os.path.join(root, *folder))}: {found}; {expected}")


def _has_groups(root: str, rests: Iterable[Folder]) -> bool:
    """Whether the first level is groups, such as patients, and the second the classes.

    Raises:
        SourceError: The names on both levels may be classes.
    """
    seconds = defaultdict[str, set[str]](set)
    for rest in rests:
        if len(rest) < 2:
            return False
        seconds[rest[0]].add(rest[1])
    times = Counter(name for names in seconds.values() for name in names)
    again = [name for name, count in times.items() if count > 1]
    if len(seconds) < 2 or len(times) < 2 or 2 * len(again) < len(times):
        return False
    first, second = _are_numbered(seconds), _are_numbered(times)
    if first is not second:
        return first
    readings = f"{listed(seconds, 'name')} at level 1, {listed(times, 'name')} at level 2"
    remedy = "add --columns label=1, or label=2,group=1 where level 1 is patients or the like"
    raise SourceError(
        f"{quoted(root)}: found the same folders in each folder, {readings}; either may be the "
        f"classes; {remedy}"
    )


def _are_numbered(names: Iterable[str]) -> bool:
    """Whether names are numbers of things, such as P01 and P02, rather than kinds of things."""
    names = [name.casefold() for name in names]
    stems = {re.sub(r"\d+", "0", name) for name in names}
    words = {word for name in names for word in re.findall(r"[^\W\d_]+", name)[:1]}
    if words & set(_CLASS_WORDS.split()):
        return False
    numbered = len(stems) == 1 and "0" in "".join(stems)
    return numbered or (bool(words) and words <= set(_GROUP_WORDS.split()))


def unlabelled_sections(places: Sequence[Place]) -> set[str]:
    """Return the splits whose only class is in no split of several classes, if there are such."""
    names = defaultdict[str, set[str]](set)
    for place in places:
        names[place.section].add(place.name)
    classes = set[str]().union(*(own for own in names.values() if len(own) > 1)) - {""}
    single = {section for section, own in names.items() if len(own) == 1 and "" not in own}
    return {section for section in single if classes and not names[section] & classes}
