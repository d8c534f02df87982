"""Names of folders -> splits: ``train``, and the same in other dress, such as ``seg_train``."""

import re
from collections import defaultdict
from collections.abc import Mapping, Set
from typing import NamedTuple

from extract.core.errors import SourceError, listed, quoted
from extract.images.item import SPLIT_OF

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


class Dress(NamedTuple):
    """The split in the name of a folder, the other words of the name, and whether it is weak."""

    split: int
    others: tuple[str, ...]
    weak: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the other words say nothing of a class."""
        return all(w in _FILLERS.split() or w.isdigit() or len(w) == 1 for w in self.others)


def split_in(name: str) -> Dress | None:
    """Return the split in the words of a name, None where there is none or more than one."""
    words = [word.lower() for word in _WORDS.findall(name)]
    strong = {w: SPLIT_OF[match[1]] for w in words if (match := _SPLIT_WORD.fullmatch(w))}
    found = strong or {word: _WEAK_WORDS[word] for word in words if word in _WEAK_WORDS}
    if len(found) != 1:
        return None
    (word, split), *_ = found.items()
    return Dress(split, tuple(w for w in words if w != word), not strong)


def find_splits(
    root: str, tops: Mapping[str, int], classes: Mapping[str, Set[str]]
) -> dict[str, int]:
    """Return the split of each top-level folder, or nothing where these folders are classes.

    Args:
        root: The source, for messages.
        tops: The number of images in each folder.
        classes: The names of the folders with images in each folder.

    Raises:
        SourceError: The folders may be splits or classes.
    """
    dresses = {top: dress for top in tops if (dress := split_in(top))}
    exact = {top for top in tops if top.lower() in SPLIT_OF}
    if "" in tops or all(dress.weak for dress in dresses.values()):
        return {}  # images at the top are refused elsewhere
    alike = len({dress.others for dress in dresses.values()}) == 1 < len(dresses)
    sure = {top for top, dress in dresses.items() if alike or dress.is_plain or top in exact}
    shared = len(tops) > 1 and bool(set.intersection(*(set(classes[top]) for top in tops)))
    if dresses.keys() == tops.keys() and shared:
        sure = set(dresses)
    split_of = {top: dresses[top].split for top in sure}
    several = len(set(split_of.values())) > 1
    if exact or several or (sure == tops.keys() and (shared or len(tops) == 1)):
        return _checked(root, tops, split_of, tops.keys() - sure, classes)
    return {}


def _checked(
    root: str,
    tops: Mapping[str, int],
    split_of: dict[str, int],
    others: Set[str],
    classes: Mapping[str, Set[str]],
) -> dict[str, int]:
    """Raise SourceError where other folders lie beside splits, or two are one split."""
    labelled = defaultdict[int, list[str]](list)
    for top, split in split_of.items():
        labelled[split] += [top] * bool(classes[top])
    flat = [s for s in set(split_of.values()) if not labelled[s]]
    twice = any(len(names) > 1 for names in labelled.values())
    twice |= any(list(split_of.values()).count(split) > 1 for split in flat)
    if not others and not twice:
        return split_of
    splits = [f"{top}: {tops[top]:,}" for top in split_of]
    folders = [f"{top}: {tops[top]:,}" for top in others]
    found = f"found {listed(splits, 'split folder', 7)} and {listed(folders, 'other folder')}"
    expected = "expected one folder for each split and no others; merge or move them"
    remedy = "or, if they are classes, say so with --columns label=1"
    raise SourceError(f"{quoted(root)}: {found} with images; {expected}, {remedy}")
