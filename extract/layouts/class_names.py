"""The names of classes: numbers, missing labels, forms of Unicode, names that look alike."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from extract.core.errors import count_of, listed

_WHOLE = re.compile(r"[+-]?\d+")
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Texts that stand for a missing value in tables of R, pandas, Excel and SQL.
_MISSING = {"nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "nat"}
_MISSING_EXACT = {"", "None", "\\N"}


def is_whole(name: str) -> bool:
    """Whether a name is a whole number, such as ``7`` or ``007``."""
    return _WHOLE.fullmatch(name) is not None


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing value, such as ``NA`` and ``nan``."""
    return text in _MISSING_EXACT or text.lower() in _MISSING


def clean_labels(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the class of each label, "" for none, and warnings of what was changed.

    ``1.0`` is 1 if all labels are numbers, texts such as ``NA`` are no label, and neither is -1,
    unless 1 is the only other label.

    Args:
        texts: The label of each image as text, without outer space.
    """
    sizes, warnings = Counter(texts), list[str]()
    name_of = {text: "" if is_missing(text) else text for text in sizes}
    if missing := [text for text in sizes if text and not name_of[text]]:
        rows = count_of(sum(sizes[text] for text in missing), "image")
        found = f"found {listed(missing, 'label')} that stand for a missing value"
        warnings.append(f"{found}; {rows} are read as images without a label")
    names = {name for name in name_of.values() if name}
    if names and all(map(_NUMBER.fullmatch, names)):
        for text in names:
            whole = _WHOLE_FLOAT.fullmatch(text)
            name_of[text] = whole[1] if whole else text
        numbers = {name_of[text] for text in names}
        if "-1" in numbers and numbers - {"-1", "1", "+1"}:
            name_of |= {text: "" for text in names if name_of[text] == "-1"}
            count = sum(sizes[text] for text in names if not name_of[text])
            found = f"found the label -1 of {count_of(count, 'image')} beside other numbers"
            warnings.append(f"{found}; they are read as images without a label")
        warnings += _warn_of_quantity(numbers - {"-1"}, len(texts))
    return [name_of[text] for text in texts], warnings


def _warn_of_quantity(numbers: Iterable[str], rows: int) -> list[str]:
    """Warn where numbers are too many, or too exact, to be classes."""
    numbers = list(numbers)
    exact = any(not is_whole(number) for number in numbers)
    if len(numbers) > (10 if exact else 50) and (exact or 4 * len(numbers) > rows):
        found = f"found {len(numbers):,} different numbers as labels of {count_of(rows, 'image')}"
        return [f"{found}; this looks like a quantity, but heads learn classes; put it in ranges"]
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
    """Yield a warning of classes that differ only by case, space or invisible characters.

    Args:
        sizes: The number of images of each class.
    """
    alike = defaultdict[str, list[str]](list)
    for name in sizes:
        alike[_look(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = listed((f"{_shown(name)}: {sizes[name]:,}" for name in names), "class name", 10)
            differ = "differ only by case, space or form"
            yield f"found {shown} that {differ}; rename them if they are one class"


def _look(name: str) -> str:
    """Return what a reader sees of a name, without case and space."""
    name = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in name if unicodedata.category(c) not in ("Cf", "Zs", "Cc"))


def _shown(name: str) -> str:
    """Return a name with quotes, and escapes for what can look the same."""
    return repr(name) if name.isascii() else ascii(name)
