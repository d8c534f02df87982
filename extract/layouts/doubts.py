"""Signs that the folders, files or names of a source mean something else than classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from posixpath import basename, splitext

from extract.core.errors import SourceError, listed, quoted

# Folders of data sets for detection and segmentation, without case, underscores and hyphens.
_MASKS = {
    *("mask", "masks", "groundtruth", "gt", "segmentationclass", "segmentationobject"),
    *("segmentation", "segmentations", "segmentationmasks", "annotationmasks", "trimaps", "msk"),
}
_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "unlabeled"}
PARTS = _MASKS | _IMAGES | {"labels", "annotations"}
_MASK_WORD = "(?:mask|masks|seg|segmentation|gt|groundtruth)"
_MASK_NAME = re.compile(
    rf"(.*/)?(?:{_MASK_WORD}[ _.-](.+)|(.+?)[ _.-]{_MASK_WORD}[ _.-]?\d*)", re.I
)
_PART_NAME = re.compile(
    r"[ _.-]*(?:part|images|imgs|img|batch|chunk|shard|crop)[ _.-]*(?:part)?", re.I
)
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# How many images, and how many different words, make the first words of names look like classes.
_FEWEST_NAMES, _MOST_WORDS = 4, 50


def is_no_class(name: str) -> bool:
    """Whether the only folder with a name of its own says that it holds images, and no more."""
    return _bare(name).replace("unlabelled", "unlabeled") in _IMAGES


def check_parts(root: str, class_names: Collection[str], level: int) -> Iterator[str]:
    """Warn of classes with the names of masks, or of images to predict.

    Args:
        root: The source, for messages.
        class_names: The classes.
        level: The level of their folders.

    Raises:
        SourceError: All classes have the names of parts of a data set.
    """
    # Names that differ only in a number may say that they are parts of a set of images.
    stems = {re.sub(r"\d+", "", name).casefold() for name in class_names}
    numbered = len(stems) == 1 and _PART_NAME.search(next(iter(stems))) is not None
    parts = [name for name in class_names if numbered or _bare(name) in PARTS]
    masks = [name for name in class_names if _bare(name) in _MASKS]
    if len(parts) == len(class_names) > 1:
        found = f"found {listed(parts, 'folder')}, which are parts of a data set, or classes"
        remedy = "give the folder of images, or a table of their labels, as SOURCE"
        classes = f"or add --columns label={level} if they are classes"
        raise SourceError(f"{quoted(root)}: {found}; {remedy}, {classes}")
    odd = {name for name in class_names if _bare(name) in ("pred", "predict", "unlabeled", "test")}
    for names, what in ((masks, "masks"), (odd, "images to predict")):
        if names:
            found = f"found {listed(names, 'class')} with the name of {what}"
            yield f"{found}; if they are no classes, move them out of SOURCE"


def check_nested(root: str, paths: Iterable[Sequence[str]]) -> None:
    """Raise SourceError where a class folder holds the other classes once more.

    Args:
        root: The source, for messages.
        paths: The folders of each image, from that of its class.
    """
    inside = defaultdict[str, set[str]](set)
    for path in paths:
        inside[path[0] if path else ""].update(path[1:2])
    for name, below in inside.items():
        if len(below) > 1 and below <= inside.keys() - {name}:
            found = f"found {listed(below, 'folder')} a second time, in {quoted(name)}"
            raise SourceError(
                f"{quoted(root)}: {found}; move it out of SOURCE, or give it as SOURCE"
            )


def warn_of_masks(keys: Sequence[str]) -> Iterator[str]:
    """Warn of images that are named as masks of other images."""
    stems = {splitext(key)[0] for key in keys}
    masks = []
    for key in keys:
        match = _MASK_NAME.fullmatch(splitext(key)[0])
        if match and (match[1] or "") + (match[2] or match[3]) in stems:
            masks.append(key)
    if masks:
        found = f"found {listed(masks, 'image')} with the name of a mask of another image"
        yield f"{found}; move them out of SOURCE if they are masks"


def warn_of_labels_elsewhere(keys: Sequence[str], others: Iterable[str]) -> Iterator[str]:
    """Say where the labels of unlabelled images may be.

    Args:
        keys: The images.
        others: The files that are no images.
    """
    others = list(others)
    tables = [key for key in others if key.lower().endswith(_TABLES)]
    if tables := [key for key in tables if "submission" not in key.lower()]:
        found = f"found no labels, but {listed(tables, 'table')}"
        yield f"{found}; give the one that names the images as SOURCE"
        return
    stems = {basename(splitext(key)[0]) for key in keys}
    beside = [key for key in others if basename(splitext(key)[0]) in stems]
    if beside:
        found = f"found no labels, but {listed(beside, 'file')} with the names of images"
        remedy = "write a table with the columns path and label"
        if beside[0].lower().endswith(".json"):
            remedy = f"add --columns label=NAME, or {remedy}"
        yield f"{found}; to use labels in them, {remedy}"
    elif words := _first_words(keys):
        found = f"found no labels, but names of images begin or end with {listed(words, 'word', 5)}"
        yield f"{found}; if these are the classes, make a folder for each, or write a table"


def _first_words(keys: Sequence[str]) -> list[str]:
    """Return the first or last words of the names of images, if they could be classes."""
    names = [splitext(basename(key))[0] for key in keys]
    for pattern in (r"([^\W\d_]{2,})[\W\d_].*", r".*[\W\d_]([^\W\d_]{2,})"):
        matches = [re.fullmatch(pattern, name) for name in names]
        sizes = Counter(match[1] for match in matches if match)
        few = 1 < len(sizes) <= _MOST_WORDS and min(sizes.values()) > 1
        if few and 2 * sizes.total() >= len(keys) >= _FEWEST_NAMES:
            return list(sizes)
    return []


def warn_of_subfolders(paths: Iterable[Sequence[str]], level: int) -> Iterator[str]:
    """Warn of classes with folders inside that may be the classes.

    Args:
        paths: The folders of each image, from that of its class.
        level: The level of the class.
    """
    inside = defaultdict[str, set[str]](set)
    for path in paths:
        if len(path) > 1:
            inside[path[0]].add(path[1])
    names = set[str]().union(*inside.values())
    words = {name for name in names if not re.search(r"\d", name)}
    if len(words) > len(inside) and len(words) == len(names):
        found = f"found {listed(names, 'folder')} in {listed(inside, 'class')}"
        yield f"{found}; if these are the classes, add --columns label={level + 1}"


def _bare(name: str) -> str:
    return re.sub(r"[ _-]", "", name).casefold()
