"""Say what was understood of a source: the images of each class in each split."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from extract.core.console import log
from extract.core.errors import SourceError, count_of, quoted
from extract.display.width import cells, pad, shorten
from extract.images.item import SPLITS, Source

NO_LABEL = "(no label)"
_MOST_CLASSES = 10
# With three splits of 12 cells and the indent of a source a line has 79 cells.
_LONGEST_NAME = 41


def count_images(
    class_names: Sequence[str], rows: Iterable[tuple[int, int]]
) -> dict[str, dict[str, int]]:
    """Return the number of images by split and class.

    Args:
        class_names: The classes, in order.
        rows: Split and label of each image.
    """
    names = [*class_names, NO_LABEL]  # rows without a label have -1, the last name
    sizes = Counter(rows)
    return {
        SPLITS[split]: {
            name: sizes[split, label]
            for label, name in zip((*range(len(class_names)), -1), names, strict=True)
            if sizes[split, label]
        }
        for split in sorted({split for split, _ in sizes})
    }


def format_counts(
    counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str], most: int | None = None
) -> list[str]:
    """Format a table of classes by splits.

    Args:
        counts: The number of images by split and class.
        class_names: The classes, in order.
        most: Classes that are shown, all by default.
    """
    splits = list(counts.values())
    names = [name for name in (*class_names, NO_LABEL) if any(name in split for split in splits)]
    shown = names if most is None or len(names) <= most + 1 else names[:most]
    numbers = [[split.get(name, 0) for split in splits] for name in shown]
    rows: list[tuple[str, list[Any]]] = [("", list(counts))]
    rows += zip(map(_shorten, shown), numbers, strict=True)
    if rest := names[len(shown) :]:
        left = [sum(split.get(name, 0) for name in rest) for split in splits]
        rows.append((f"and {len(rest):,} more", left))
    rows.append(("all", [sum(split.values()) for split in splits]))
    width = max(cells(name) for name, _ in rows)
    return [pad(name, width) + "".join(f"{n:>12}" for n in numbers) for name, numbers in rows]


def _shorten(name: str) -> str:
    return shorten(quoted(name), _LONGEST_NAME)


def describe_source(source: Source, rows: str = "image") -> str:
    """Return what was understood of a source, in a few lines; ``rows`` is the word for its rows."""
    counts = count_images(source.class_names, ((item.split, item.label) for item in source.items))
    classes = len(source.class_names)
    noun = count_of(classes, "class") if classes else "no labels"
    groups = len({item.group for item in source.items} - {""})
    within = f" in {count_of(groups, 'group')}" if groups else ""
    lines = [f"{quoted(source.root)}: {count_of(len(source.items), rows)}{within}, {noun}"]
    lines += [f"  {line}" for line in format_counts(counts, source.class_names, _MOST_CLASSES)]
    return "\n".join([*lines, *(f"  {note}" for note in source.notes)])


def check_source(source: Source, only_warn: bool = False) -> None:
    """Log the warnings of a source, and refuse one of which most images cannot be read.

    Args:
        source: The source.
        only_warn: Make a refusal a warning, because nothing is to be run.

    Raises:
        SourceError: There are no files for most of the images.
    """
    for warning in source.warnings:
        log.warning("%s", warning)
    if source.problem and not only_warn:
        raise SourceError(source.problem)
    if source.problem:
        log.warning("%s; a run would stop here", source.problem)
