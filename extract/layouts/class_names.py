"""The names of classes: numbers, missing labels, forms of Unicode, names that look alike."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from extract.core.errors import count_of, listed

_WHOLE = re.compile(r"[+-]?\d{1,18}")
_WHOLE_FLOAT = re.compile(r"([+-]?\d{1,18})\.0*")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|\.\d+)([eE][+-]?\d+)?")
# Texts that stand for a missing value in tables of R, pandas, Excel and SQL.
_MISSING = {"nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "nat"}
_MISSING_EXACT = {"", "None", "\\N"}


def is_whole(name: str) -> bool:
    """Whether a name is a whole number, such as ``7`` or ``007``."""
    return _WHOLE.fullmatch(name) is not None


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing value, such as ``NA`` and ``nan``."""
    return text in _MISSING_EXACT or text.lower() in _MISSING


def merge_numbers(texts: Iterable[str]) -> dict[str, str]:
    """Return a name for each text: ``1.0`` is 1 if all are numbers, or if there is a 1, too."""
    distinct = set(texts)
    numbers = all(map(_NUMBER.fullmatch, distinct - {""}))
    whole = {text: match[1] for text in distinct if (match := _WHOLE_FLOAT.fullmatch(text))}
    return {
        t: whole[t] if t in whole and (numbers or whole[t] in distinct) else t for t in distinct
    }


def clean_labels(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the class of each label, "" for none, and warnings of what was changed.

    ``1.0`` and 1 are one class, texts such as ``NA`` are no label, and neither is -1 beside 0 and
    other numbers.

    Args:
        texts: The label of each image as text, without outer space.
    """
    sizes, warnings = Counter(texts), list[str]()
    name_of = {text: "" if is_missing(text) else text for text in sizes}
    if missing := [text for text in sizes if text and not name_of[text]]:
        count = count_of(sum(sizes[text] for text in missing), "image")
        found = f"read {listed(missing, 'label')} of {count} as missing"
        warnings.append(f"{found}; if one is a class, give it another name")
    merged = merge_numbers(name for name in name_of.values() if name)
    name_of = {text: merged.get(name, name) for text, name in name_of.items()}
    names = {name for name in name_of.values() if name}
    if names and all(map(_NUMBER.fullmatch, names)):
        others = names - {"-1"}
        if "-1" in names and others - {"1", "+1"} and not any(n.startswith("-") for n in others):
            count = count_of(sum(sizes[t] for t in sizes if name_of[t] == "-1"), "image")
            found = f"read the label -1 of {count}, beside 0 and above, as missing"
            warnings.append(f"{found}; if it is a class, give it another name")
            name_of = {text: "" if name == "-1" else name for text, name in name_of.items()}
        warnings += _warn_of_quantity(others, len(texts))
    elif several := _several_in_one(names):
        found = f"found {listed(several, 'label')} that look like several labels in one cell"
        warnings.append(f"{found}; each is a class of its own")
    return [name_of[text] for text in texts], warnings


def _several_in_one(names: Iterable[str]) -> list[str]:
    """Return the names that are lists, or that join other names."""
    names = set(names)
    found = [name for name in names if name.startswith(("[", "{")) and name.endswith(("]", "}"))]
    for separator in "|;,":
        joined = {n: [part.strip() for part in n.split(separator)] for n in names if separator in n}
        times = Counter(part for parts in joined.values() for part in set(parts))
        check = all if separator == "," else any  # ImageNet has a class "maillot, tank suit"
        found += [
            name
            for name, parts in joined.items()
            if check(part in names or times[part] > 1 for part in parts)
        ]
    return found


def _warn_of_quantity(numbers: Iterable[str], rows: int) -> list[str]:
    """Warn where numbers are too many, or too exact, to be classes."""
    numbers = list(numbers)
    exact = any(not is_whole(number) for number in numbers)
    if exact or (len(numbers) > 50 and 4 * len(numbers) > rows):
        found = f"found {len(numbers):,} different numbers as labels of {count_of(rows, 'image')}"
        example = f", such as {min(n for n in numbers if not is_whole(n))}" if exact else ""
        what = "this looks like a quantity, but heads learn classes; put it in ranges"
        return [f"{found}{example}; {what}"]
    return []


def order_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes in order: whole numbers as numbers, all others as text."""
    names = sorted(set(names))
    return tuple(sorted(names, key=int) if all(map(is_whole, names)) else names)


def to_nfc(name: str) -> str:
    """Return a name in the Unicode form NFC, in which an accented letter is one character."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def describe_forms(names: Iterable[str]) -> Iterator[str]:
    """Yield a note on names that are one class because they differ only in their Unicode form."""
    forms = defaultdict[str, set[str]](set)
    for name in names:
        if not name.isascii():
            forms[to_nfc(name)].add(name)
    for name, spelled in forms.items():
        if len(spelled) > 1:
            both = " and ".join(map(ascii, sorted(spelled)))
            yield f"{both} differ only in their Unicode form and are one class, {name}"


def warn_of_lookalikes(sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield a warning of classes that differ only by case, space, zeros or what cannot be seen.

    Args:
        sizes: The number of images of each class.
    """
    alike = defaultdict[str, list[str]](list)
    for name in sizes:
        alike[_look(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = listed((f"{_shown(name)}: {sizes[name]:,}" for name in names), "class name", 10)
            differ = "differ only by case, space, leading zeros or form"
            yield f"found {shown} that {differ}; rename them if they are one class"


def _look(name: str) -> str:
    """Return what a reader sees of a name, without case and space."""
    if is_whole(name):
        return str(int(name))
    name = unicodedata.normalize("NFKC", name).casefold()
    shown = (c for c in name if unicodedata.category(c) not in ("Cf", "Zs", "Cc"))
    return "".join(c for c in shown if not "\ufe00" <= c <= "\ufe0f")  # which form of an emoji


def _shown(name: str) -> str:
    """Return a name with quotes, and escapes for what can look the same."""
    return repr(name) if name.isascii() else ascii(name)
