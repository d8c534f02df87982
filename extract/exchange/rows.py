"""The rows of a table of features -> items: keys, classes, splits and groups."""

import os
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from extract.core.errors import SourceError, count_of, quoted
from extract.core.flags import ROLES
from extract.exchange.feature_table import FeatureTable
from extract.images.item import SPLITS, Item, Source
from extract.layouts.class_names import clean_labels, merge_numbers
from extract.layouts.image_folder import check_classes, number_classes
from extract.layouts.image_table import Said, parse_cells


def arrange(table: FeatureTable) -> Source:
    """Return the rows of a table as items, in the order of the file, with classes and splits.

    A row without a key has its number as key.

    Raises:
        SourceError: There is no row, a key is missing or there twice, or a cell has no meaning.
    """
    if not table.count:
        raise SourceError(f"{table.where}: found no rows; expected one for each vector")
    for role, values in table.columns.items():
        if len(values) != table.count:
            problem = f"found {len(values):,} values of {role} beside {table.count:,} rows"
            raise SourceError(f"{table.where}: {problem}; expected one for each row")
    rows = [_parse(table, row, cells) for row, cells in enumerate(_cells(table))]
    _check_keys(table, [item.key for item, _ in rows])
    splits = table.columns.get("split", ())
    if 0 < (given := sum(split is not None for split in splits)) < table.count:
        problem = f"found a split for {given:,} of {table.count:,} rows"
        raise SourceError(f"{table.where}: {problem}; expected one for all or none")
    said = table.said or Said([], [])
    items, labels = [item for item, _ in rows], [label for _, label in rows]
    if table.class_names is not None:
        return _index_labels(table, items, labels, said)
    names, warnings = clean_labels(labels)
    group_of = merge_numbers(item.group for item in items)
    items = [item._replace(group=group_of[item.group]) for item in items]
    named = list(zip(items, names, strict=True))
    warnings += check_classes((SPLITS[item.split], name) for item, name in named)
    return number_classes(table.path, named, [*said.warnings, *warnings], said.notes)


def _cells(table: FeatureTable) -> Iterable[tuple[Any, ...]]:
    """Return the cells of each row: key, label, split and group."""
    none = [None] * table.count
    keys = table.columns.get("key") or [f"{row:09d}" for row in range(table.count)]
    others = (table.columns.get(role, none) for role in ("label", "split", "group"))
    return zip(keys, *others, strict=True)


def _parse(table: FeatureTable, row: int, cells: tuple[Any, ...]) -> tuple[Item, str]:
    named, where = {**(table.named or {})}, f"{table.where}: row {row + 1}"
    if cells[0] in (None, "", b"") or isinstance(cells[0], float):
        column = named.get("key", "key")
        raise SourceError(f"{where}: found {cells[0]!r} in {column}; expected the key of a row")
    named[ROLES[0]] = named.get("key", "key")
    if cells[2] is None:
        named.pop("split", None)
    key, label, split, group = parse_cells(where, cells, named)
    if table.class_names is not None and isinstance(cells[1], str):
        label = cells[1]  # with outer space, as in class_names
    return Item(key, key, -1, split, group), label


def _check_keys(table: FeatureTable, keys: Sequence[str]) -> None:
    if len(set(keys)) == len(keys):
        return
    first: dict[str, int] = {}
    for row, key in enumerate(keys, 1):
        if key in first:
            remedy = "remove one"
            if os.path.exists(table.path):
                remedy += ", or name other keys with --columns key=NAME"
            rows = f"in row {first[key]} and {row}"
            raise SourceError(f"{table.where}: found the key {quoted(key)} {rows}; {remedy}")
        first[key] = row


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float | Decimal) and not isinstance(cell, bool)


def _index_labels(
    table: FeatureTable, items: Sequence[Item], labels: Sequence[str], said: Said
) -> Source:
    """Return items whose labels are names of known classes as text, or indices as numbers."""
    names = table.class_names or ()
    if len(set(names)) < len(names) or "" in names:
        found = "an empty name" if "" in names else "a name twice"
        raise SourceError(f"{table.where}: found {found} in class_names; rename it")
    known = {name: number for number, name in enumerate(names)} | {"": -1}
    numbers = {str(number): number for number in range(-1, len(names))} | {"": -1}
    cells, placed = table.columns.get("label", labels), list[Item]()
    for item, cell, label in zip(items, cells, labels, strict=True):
        if (place := (numbers if _is_number(cell) else known).get(label)) is None:
            expected = f"one of the {count_of(len(names), 'class')} in class_names as text"
            problem = f"found the label {quoted(label)}; expected {expected}, or its number, from 0"
            raise SourceError(f"{table.where}: {problem}")
        placed.append(item._replace(label=place))
    warnings = tuple(f"{table.where}: {warning}" for warning in said.warnings)
    return Source(tuple(placed), tuple(names), warnings, table.path, tuple(said.notes))
