"""Names of folders -> splits: ``train``, and other ways to write it, such as ``seg_train``."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from typing import NamedTuple

from extract.core.errors import SourceError, listed, quoted
from extract.images.item import SPLIT_OF, SPLITS
from extract.layouts.doubts import is_no_class

Folder = tuple[str, ...]  # the names of the folders above an image
# A split in one word of a name, such as trainset; dev is a word of tables and folders of text.
_SPLIT_WORD = re.compile(
    r"(train|training|val|valid|validation|test|testing)(?:set|data|images|imgs|img)?"
)
_VALIDATION, _TEST = SPLIT_OF["validation"], SPLIT_OF["test"]
# Words that are splits beside a training split only; images to predict have no labels.
_WEAK_WORDS = {"dev": _VALIDATION, "eval": _VALIDATION, "evaluation": _VALIDATION} | dict.fromkeys(
    ("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsupervised"), _TEST
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")
# Words beside the split that say nothing of a class; so do numbers and single letters.
_FILLERS = (
    "image images img imgs set sets data dataset photo photos picture pictures pic pics split "
    "folder dir seg raw resized cropped full small large labeled labelled original class classes "
    "sample samples subset partition part ilsvrc imagenet coco cifar mnist"
)


class SplitName(NamedTuple):
    """The split in the name of a folder, the other words of the name, and whether it is weak."""

    split: int
    others: tuple[str, ...]
    weak: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the other words say nothing of a class."""
        return all(w in _FILLERS.split() or w.isdigit() or len(w) == 1 for w in self.others)


def split_in(name: str) -> SplitName | None:
    """Return the split in the words of a name, None where there is none or more than one."""
    words = [word.lower() for word in _WORDS.findall(name)]
    strong = {w: SPLIT_OF[match[1]] for w in words if (match := _SPLIT_WORD.fullmatch(w))}
    found = strong or {word: _WEAK_WORDS[word] for word in words if word in _WEAK_WORDS}
    if len(found) != 1:
        return None
    (word, split), *_ = found.items()
    return SplitName(split, tuple(w for w in words if w != word), not strong)


def find_splits(
    root: str, tops: Mapping[str, int], classes: Mapping[str, Set[str]], level: int = 1
) -> dict[str, int]:
    """Return the split of each top-level folder, or nothing where these folders are classes.

    Args:
        root: The source, for messages.
        tops: The number of images in each folder.
        classes: The names of the folders with images in each folder.
        level: The level of the folders, for messages.

    Raises:
        SourceError: The folders may be splits or classes.
    """
    split_names = {top: split_name for top in tops if (split_name := split_in(top))}
    exact = {top for top in tops if top.lower() in SPLIT_OF}
    if "" in tops or all(split_name.weak for split_name in split_names.values()):
        return {}  # images at the top are refused elsewhere
    alike = len({split_name.others for split_name in split_names.values()}) == 1 < len(split_names)
    sure = {
        top
        for top, split_name in split_names.items()
        if alike or split_name.is_plain or top in exact
    }
    shared = len(tops) > 1 and bool(set.intersection(*(set(classes[top]) for top in tops)))
    lone = len(tops) == 1 and any(classes.values())  # a folder of several is no class
    if split_names.keys() == tops.keys() and (shared or lone):
        sure = set(split_names)
    split_of = {top: split_names[top].split for top in sure}
    several = len(set(split_of.values())) > 1
    if exact or several or (sure == tops.keys() and (shared or len(tops) == 1)):
        return _checked(f"{quoted(root)}", tops, split_of, classes, level)
    return {}


def _checked(
    where: str,
    tops: Mapping[str, int],
    split_of: dict[str, int],
    classes: Mapping[str, Set[str]],
    level: int,
) -> dict[str, int]:
    """Raise SourceError where other folders lie beside splits, or two are one split."""
    remedy = f"or, if they are classes, say so with --columns label={level}"
    if others := tops.keys() - split_of.keys():
        splits = [f"{top}: {tops[top]:,}" for top in split_of]
        folders = [f"{top}: {tops[top]:,}" for top in others]
        found = f"found {listed(splits, 'split folder', 7)} and {listed(folders, 'other folder')}"
        expected = "expected one folder for each split and no others; merge or move them"
        raise SourceError(f"{where}: {found} with images; {expected}, {remedy}")
    for split in set(split_of.values()):
        same = [top for top in split_of if split_of[top] == split]
        # Images to predict may lie beside those of a test split.
        labelled = [top for top in same if classes[top]]
        if len(same) > 1 and len(labelled) != 1:
            shown = listed((f"{top}: {tops[top]:,}" for top in same), "split folder", 7)
            found = f"found {shown} that are all {SPLITS[split]}"
            raise SourceError(f"{where}: {found}; expected one; merge them, {remedy}")
    return split_of


def splits_at_the_top(
    root: str, sizes: Mapping[Folder, int], inner: Mapping[Folder, Folder], above: int
) -> dict[str, int]:
    """Return the split of each folder at the top, or nothing where these are no splits.

    Args:
        root: The source, for messages.
        sizes: The number of images in each folder.
        inner: The same folders without those around everything.
        above: The number of folders around everything.
    """
    tops, below = Counter[str](), defaultdict[str, set[str]](set)
    for folder, path in inner.items():
        top, *rest = path or ("",)
        tops[top] += sizes[folder]
        below[top].update(rest[:1] if rest[:1] != [top] else rest[1:2])
    return find_splits(root, tops, {top: below[top] for top in tops}, above + 1)


def splits_below(root: str, paths: Collection[Folder], above: int) -> dict[str, int]:
    """Return the split of each folder on the second level, where all of them are splits.

    Args:
        root: The source, for messages.
        paths: The folders of images, without those around everything.
        above: The number of folders around everything.

    Raises:
        SourceError: Other folders lie beside the splits, or the classes may lie below them.
    """
    seconds = {path[1] if len(path) > 1 else "" for path in paths}
    split_names = {
        name: split_name
        for name in seconds
        if (split_name := split_in(name)) and split_name.is_plain
    }
    split_of = {
        name: split_name.split for name, split_name in split_names.items() if not split_name.weak
    }
    if len(set(split_of.values())) < 2:
        return {}
    first, second, third = (above + level for level in (1, 2, 3))
    if others := seconds - split_of.keys():
        found = f"found {listed(split_of, 'split folder')} inside other folders, beside "
        found += listed((name or "none, but images" for name in others), "other folder")
        expected = "expected only splits there; move the others out of SOURCE"
        raise SourceError(f"{quoted(root)}: {found}; {expected}")
    times = Counter(name for path in {path[:3] for path in paths} for name in path[2:3])
    tops = {path[0] for path in paths}
    if len({path[2] for path in paths if len(path) > 2}) > 1 and max(times.values()) > 1:
        found = f"found splits at level {second}, {listed(tops, 'folder')} above and "
        found += f"{listed(times, 'folder')} below; either may be the classes"
        remedy = f"--columns label={first},split={second}, or "
        remedy += f"label={third},split={second},group={first}"
        raise SourceError(f"{quoted(root)}: {found}; add {remedy}")
    return split_of


def pass_inner_wrappers(sections: Mapping[Folder, str], rests: dict[Folder, Folder]) -> int:
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
    own, outer = split_in(name), split_in(section)
    again = own is not None and outer is not None and own.split == outer.split
    if deep == heads.keys() or again or is_no_class(name):
        return True
    elsewhere = set[str]().union(*(heads[other] for other in heads if other != section))
    below = {rest[1] for rest in inside[section]}
    return bool(below & elsewhere) and name not in elsewhere
