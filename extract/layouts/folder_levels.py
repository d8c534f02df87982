"""The levels of folders -> split, class and group: which level means what.

The tree is read from the top. Folders that hold everything are passed over. Then come the splits,
if the folders have such names, or else classes whose own folders are splits. Of what is left, the
first level is the class, unless its names are those of patients and the like.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from extract.core.errors import SettingError, SourceError, listed, quoted
from extract.images.item import SPLIT_OF, SPLITS
from extract.layouts.doubts import PARTS, is_no_class
from extract.layouts.split_folders import (
    Folder,
    pass_inner_wrappers,
    split_in,
    splits_at_the_top,
    splits_below,
)

# Names before a number, or beside a name, that are patients and the like.
_GROUP_WORDS = (
    "patient subject person participant user case site hospital scanner camera slide session plot "
    "specimen batch device location lab animal donor volunteer station p pt pat sub subj sbj"
)
# Second names that are views of one thing rather than classes.
_VIEW_WORDS = (
    "left right l r front back top bottom side day night original augmented full crop crops cc mlo "
    "before after raw processed"
)


class Place(NamedTuple):
    """The meaning of a folder: "" is no section, no label, no group."""

    section: str
    name: str
    group: str = ""
    split: int = 0


class Layout(NamedTuple):
    """The place of each folder, and the pattern of the levels, such as ``SPLIT/CLASS``.

    ``inside`` has the folders from the class on, unless a level was named or splits lie below it;
    ``level`` is that of the class, counted from 1.
    """

    places: Mapping[Folder, Place]
    pattern: str
    inside: Mapping[Folder, Folder]
    level: int = 0


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
    above = _count_wrappers(keys)
    inner = {folder: folder[above:] for folder in keys}
    sizes = {folder: len(images) for folder, images in keys.items()}
    if named:
        # A named level at the top decides what that is.
        at_top = str(above + 1) in named.values() or "split" in named
        split_of = {} if at_top else splits_at_the_top(root, sizes, inner, above)
        return _named_levels(root, keys, named, (above, split_of))
    wrappers = list(next(iter(sizes))[:above])
    split_of = splits_at_the_top(root, sizes, inner, above)
    if not split_of and (below := splits_below(root, inner.values(), above)):
        places = {
            folder: Place(SPLITS[below[path[1]]], path[0], "", below[path[1]])
            for folder, path in inner.items()
        }
        pattern = "/".join([*wrappers, "CLASS", "SPLIT"])
        return Layout(places, pattern, dict.fromkeys(places, ()), above + 1)
    sections = {folder: path[0] if split_of else "" for folder, path in inner.items()}
    rests = {folder: path[1:] if split_of else path for folder, path in inner.items()}
    passed = pass_inner_wrappers(sections, rests) if split_of else 0
    _check_loose_images(root, keys, sections, rests)
    level = above + bool(split_of) + bool(passed) + 1
    skipped, grouped = _read_groups(root, list(rests.values()), level)
    places = {}
    for folder, rest in rests.items():
        path = rest[:1] + rest[1 + skipped :] if grouped else rest
        group, name = (path[0], path[1]) if grouped else ("", path[0] if path else "")
        section = sections[folder]
        places[folder] = Place(section, name, group, split_of.get(section, 0))
    levels = ["SPLIT"] * bool(split_of) + ["..."] * bool(passed)
    levels += ["GROUP", *["..."] * bool(skipped)] * grouped + ["CLASS"]
    first = 1 + skipped if grouped else 0
    inside = {folder: rest[first:] for folder, rest in rests.items()}
    return Layout(places, "/".join([*wrappers, *levels]), inside, level + first)


def _named_levels(
    root: str,
    folders: Iterable[Folder],
    named: Mapping[str, str],
    known: tuple[int, Mapping[str, int]],
) -> Layout:
    """Return the places by named levels; splits at the top are kept, unless named otherwise."""
    levels = {role: _level(root, role, text) for role, text in named.items()}
    above, split_of = known
    if split_of and above not in levels.values():
        levels.setdefault("split", above)
    deepest = max(map(len, folders))
    if too_deep := [role for role, level in levels.items() if level >= deepest]:
        role = too_deep[0]
        found = f"found {role}={levels[role] + 1}, but {deepest} levels of folders"
        raise SourceError(f"{quoted(root)}: {found}; expected 1 to {deepest}")
    places = {}
    for folder in folders:
        here = {r: folder[i] if i < len(folder) else "" for r, i in levels.items()}
        split_name = split_in(here.get("split", ""))
        if "split" in levels and split_name is None:
            found = (
                f"found {here['split']!r} at level {levels['split'] + 1} of {'/'.join(folder)!r}"
            )
            raise SourceError(f"{quoted(root)}: {found}; expected one of {', '.join(SPLIT_OF)}")
        split = split_name.split if split_name else 0
        places[folder] = Place(
            here.get("split", ""), here.get("label", ""), here.get("group", ""), split
        )
    shown = sorted((i, role) for role, i in levels.items())
    pattern = ", ".join(f"{role} at level {i + 1}" for i, role in shown)
    return Layout(places, pattern, dict.fromkeys(places, ()))


def _level(root: str, role: str, text: str) -> int:
    """Return a named level, counted from 0."""
    if role == "path" or not re.fullmatch(r"[1-9]\d{0,3}", text):
        found = f"columns: has no effect on {quoted(root)} with {role}={text}"
        expected = "expected label, split or group and the level of its folders, as in label=2"
        raise SettingError(f"{found}; {expected}")
    return int(text) - 1


def _count_wrappers(folders: Iterable[Folder]) -> int:
    """Return how many folders at the top hold everything and say nothing."""
    folders, count = list(folders), 0
    while all(len(folder) > count + 1 for folder in folders):
        names = {folder[count] for folder in folders}
        below = {folder[count + 1] for folder in folders}
        if len(names) > 1 or (any(map(split_in, names)) and not all(map(split_in, below))):
            break
        count += 1
    return count


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
            expected = "expected only images or only folders; move the images into the folders, "
            expected += "or out of SOURCE"
            raise SourceError(f"{quoted(os.path.join(root, *folder))}: {found}; {expected}")


def _read_groups(root: str, rests: Sequence[Folder], level: int) -> tuple[int, bool]:
    """Return whether the first level is groups, such as patients, and the next one the classes.

    Args:
        root: The source, for messages.
        rests: The folders of images, without splits and folders around everything.
        level: The level that their first is on.

    Returns:
        How many folders between the two levels are the same everywhere, and whether there are
        groups.

    Raises:
        SourceError: The names on both levels may be classes.
    """
    deep, skipped = [rest for rest in rests if len(rest) > 1], 0
    while deep and len({rest[1 + skipped] for rest in deep}) == 1:
        if any(len(rest) < 3 + skipped for rest in deep):
            return 0, False  # each has one folder, and images in it
        skipped += 1
    tops = {rest[0] for rest in rests if rest}
    seconds = defaultdict[str, set[str]](set)
    for rest in deep:
        seconds[rest[0]].add(rest[1 + skipped])
    times = Counter(name for names in seconds.values() for name in names)
    again = sum(count > 1 for count in times.values())
    repeated = len(seconds) > 1 and len(times) > 1 and 2 * again >= len(times)
    groups = len(tops) > 1 and _are_groups(tops)
    views = {name.casefold() for name in times} <= set(_VIEW_WORDS.split())
    everywhere = len(deep) == len(rests) and len(times) > 1
    if groups and everywhere and not views and not _are_numbers(times):
        return skipped, True
    if repeated and (groups or not _are_numbers(times) or _are_numbers(tops)):
        raise _two_readings(root, tops, times, (level, level + skipped + 1))
    return 0, False


def _two_readings(
    root: str, tops: Iterable[str], inner: Iterable[str], levels: tuple[int, int]
) -> SourceError:
    """Return the error for two levels that may be the classes."""
    names = {re.sub(r"[ _-]", "", name).casefold() for name in inner}
    found = f"found {listed(tops, 'folder')} with {listed(inner, 'folder')} inside"
    if names <= PARTS:
        remedy = "move all but the images out of SOURCE"
        return SourceError(f"{quoted(root)}: {found}, which are parts of a data set; {remedy}")
    remedy = f"add --columns label={levels[0]}, or label={levels[1]},group={levels[0]} if the "
    remedy += "first are patients or the like"
    return SourceError(f"{quoted(root)}: {found}; either may be the classes; {remedy}")


def _are_groups(names: Iterable[str]) -> bool:
    """Whether all names are one word for patients and the like and a number, such as P01."""
    matches = [re.fullmatch(r"([^\W\d_]+)[\W_]*\d\w*", name.casefold()) for name in names]
    words = {match[1] if match else "" for match in matches}
    return len(words) == 1 and words <= set(_GROUP_WORDS.split())


def _are_numbers(names: Iterable[str]) -> bool:
    """Whether names differ only in their numbers, such as 2020 and 2021."""
    stems = {re.sub(r"\d+", "0", name.casefold()) for name in names}
    return len(stems) == 1 and "0" in "".join(stems)


def unlabelled_sections(places: Sequence[Place]) -> set[str]:
    """Return the splits without labels: their only folder names no class, or none of another."""
    names = defaultdict[str, set[str]](set)
    for place in places:
        names[place.section].add(place.name)
    classes = set[str]().union(*(own for own in names.values() if len(own) > 1)) - {""}
    single = {section for section, own in names.items() if len(own) == 1 and "" not in own}
    all_names = set[str]().union(*names.values())
    if len(all_names) == 1 and all(map(is_no_class, all_names)):
        return single
    return {section for section in single if classes and not names[section] & classes}
