"""Keys as a table writes them -> rows of a store.

A key matches as it is written. What is left then matches in the ways in which extract-features
finds the files of a table: other separators, ``./``, another Unicode form or case, no ending, a
folder in front. A way counts only where it leads to one row.
"""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from os.path import splitext
from typing import NamedTuple

from extract.core.errors import count_of, quoted
from extract.display.tables import from_csv_text
from extract.images.kinds import IMAGE_ENDINGS
from extract.images.remote import hide_secrets, is_url
from extract.layouts.class_names import to_nfc
from extract.layouts.split_folders import split_in

# Keys that are tried to find the folder in front of them all.
_MOST_TRIED = 100_000

_Form = Callable[[str], str]


class Matches(NamedTuple):
    """The rows of keys, what was understood, and what was not.

    Attributes:
        rows: The row of each key, -1 without one.
        notes: How keys match that are written otherwise.
        ambiguous: The first two rows of each key that fits several.
    """

    rows: list[int]
    notes: list[str]
    ambiguous: dict[str, list[int]]


def match_keys(written: Sequence[str], keys: Sequence[str], folder: str = "") -> Matches:
    """Find the row of each key of a table.

    Args:
        written: The keys as the table has them.
        keys: The keys of the store, all different.
        folder: The name of the folder that was extracted, "" where it is not known.

    Example:
        >>> match_keys(["cat/1.jpg", "images/cat/2"], ["cat/1.jpg", "cat/2.jpg"]).rows
        [0, 1]
    """
    row_of = {key: row for row, key in enumerate(keys)}
    matches = Matches([row_of.get(key, -1) for key in written], [], {})
    missing = {place: written[place] for place, row in enumerate(matches.rows) if row < 0}
    forms_of = cache(lambda of_store: [of_store(key) for key in keys])
    form_of = dict[_Form, dict[int, str]]()
    for find in (_find_whole, _find_below_folder, _find_ends):
        for how, of_table, of_store in _FORMS:
            if not missing:
                return matches
            if of_table not in form_of:
                form_of[of_table] = {place: of_table(key) for place, key in missing.items()}
            forms = form_of[of_table]
            wanted = {place: forms[place] for place in missing if forms[place]}
            found = find(wanted, forms_of(of_store), folder)
            _take(found, written, keys, _HOW[find] or how, matches)
            if found:
                missing = {place: key for place, key in missing.items() if place not in found}
    return matches


def _take(
    found: Mapping[int, list[int]],
    written: Sequence[str],
    keys: Sequence[str],
    how: str,
    matches: Matches,
) -> None:
    """Keep what one way has found, and say it."""
    single = {place: rows[0] for place, rows in found.items() if len(rows) == 1}
    for place, row in single.items():
        matches.rows[place] = row
    matches.ambiguous.update(
        {written[place]: rows[:2] for place, rows in found.items() if len(rows) > 1}
    )
    if single:
        place, row = next(iter(single.items()))
        example = f"{quoted(written[place])} is {quoted(keys[row])}"
        matches.notes.append(f"matched {count_of(len(single), 'key')} {how} ({example})")


def _find_whole(
    wanted: Mapping[int, str], forms: Sequence[str], _folder: str
) -> dict[int, list[int]]:
    """Return the rows whose whole key has the form of a wanted one."""
    return _collect(wanted, enumerate(forms))


def _find_ends(
    wanted: Mapping[int, str], forms: Sequence[str], _folder: str
) -> dict[int, list[int]]:
    """Return the rows whose key ends with a wanted one, after a folder."""
    depths = {form.count("/") for form in wanted.values()}
    return _collect(wanted, chain.from_iterable(_ends_of(forms, depth) for depth in depths))


def _ends_of(forms: Sequence[str], depth: int) -> Iterator[tuple[int, str]]:
    """Yield each row whose form has a folder more than so many, and the end without it."""
    for row, form in enumerate(forms):
        parts = form.rsplit("/", depth + 1)
        if len(parts) == depth + 2:
            yield row, "/".join(parts[1:]) if depth else parts[1]


def _find_below_folder(
    wanted: Mapping[int, str], forms: Sequence[str], folder: str
) -> dict[int, list[int]]:
    """Return the rows of wanted keys without the folder that they have in front."""
    known = set(forms)
    fronts = Counter[str]()
    for form in islice(wanted.values(), 0, None, 1 + len(wanted) // _MOST_TRIED):
        if end := next((end for end in _ends(form) if end in known), ""):  # the longest
            front = form.removesuffix(end)
            fronts[front] += _is_safe(front, end, folder)
    safe = [front for front, count in fronts.items() if count]
    if len(safe) > 1:
        safe = [front for front in safe if _name_of(front) == folder.casefold()]
    if len(safe) != 1:
        return {}
    start = safe[0]
    below = {p: form.removeprefix(start) for p, form in wanted.items() if form.startswith(start)}
    return _collect(below, enumerate(forms))


def _collect(wanted: Mapping[int, str], forms: Iterable[tuple[int, str]]) -> dict[int, list[int]]:
    """Return the rows that have each wanted form."""
    places = defaultdict[str, list[int]](list)
    for place, form in wanted.items():
        places[form].append(place)
    found = defaultdict[int, list[int]](list)
    for row, form in forms:
        for place in places.get(form, ()):
            found[place].append(row)
    return found


def _ends(form: str) -> Iterator[str]:
    """Yield a path without its first folder, without its first two, and so on."""
    slash = form.find("/")
    while slash >= 0:
        if end := form[slash + 1 :]:
            yield end
        slash = form.find("/", slash + 1)


def _is_safe(front: str, end: str, folder: str) -> bool:
    """Whether an end that fits is likely to be meant: it has a folder, or the one that is known.

    An image of one split is none of another.
    """
    name = _name_of(front)
    return name == folder.casefold() or ("/" in end and split_in(name) is None)


def _name_of(front: str) -> str:
    return posixpath.basename(front.rstrip("/")).casefold()


def _plain(path: str) -> str:
    """Return a path with ``/``, without ``./`` and outer space, in one Unicode form."""
    path = path.strip()
    if is_url(path):
        return hide_secrets(path)
    path = path.replace("\\", "/")
    if "//" in path or "/." in path or path[:1] == "." or path[-1:] == "/":
        path = posixpath.normpath(path)
    return to_nfc(path)


def _folded(path: str) -> str:
    return _plain(path).casefold()


def _stem(key: str) -> str:
    """Return a key without its ending."""
    stem, ending = splitext(_folded(key))
    return stem if ending in IMAGE_ENDINGS else ""


def _without_ending(path: str) -> str:
    """Return a path that has no ending; "" for another one, which is that of another file."""
    folded = _folded(path)
    return "" if folded.endswith(tuple(IMAGE_ENDINGS)) else folded


def _without_apostrophe(path: str) -> str:
    """Return a key that has an apostrophe in front against spreadsheets; "" for another one."""
    return text if (text := from_csv_text(path)) != path else ""


# How keys differ, the form of a key in the table, and that of a key in the store.
_FORMS: Sequence[tuple[str, _Form, _Form]] = (
    ("without the apostrophe", _without_apostrophe, str),
    ("in another form", _plain, _plain),
    ("in another case", _folded, _folded),
    ("without an ending", _without_ending, _stem),
)
_HOW = {_find_whole: "", _find_below_folder: "below a folder", _find_ends: "without a folder"}
