"""Labels, splits and groups of the rows of a store, from tables: corrections or another question.

Tables follow each other: a later one wins, image by image. A column that a table lacks, and an
empty cell, leave what was there before. That is the splits and groups of the file and, for labels,
nothing or, where the word ``stored`` stands in the place of a table, the labels of the file.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from classify.data.table_rows import (
    Headings,
    LabelTable,
    TableError,
    TableRecord,
    label_columns,
    read_label_table,
)
from classify.settings.config import STORED
from classify.stored.match_keys import match_keys
from extract.core.console import log
from extract.core.errors import SettingError, StoreError, count_of, listed, quoted, unknown_name
from extract.core.row_block import DONE, PENDING
from extract.images.item import SPLITS
from extract.images.remote import is_url
from extract.layouts.class_names import (
    describe_forms,
    merge_numbers,
    order_names,
    to_nfc,
    warn_of_lookalikes,
)
from extract.layouts.image_folder import check_classes
from extract.sources.tables import TABLE_ENDINGS, ending_of
from extract.store.open import Store

Tables = str | os.PathLike[str] | Sequence["str | os.PathLike[str] | TableRecord"]


@dataclass(frozen=True, repr=False)
class RowLabels:
    """What is known of the N rows of a store.

    Attributes:
        names: (N,) the class of each row as text, "" without a label; an array of objects.
        split: (N,) int8: 0 train, 1 validation, 2 test.
        groups: N names of groups, "" for none, or None where no row has one.
        class_names: K names in the order of the classes.
        tables: The tables that this comes from; none where it is what the file has.
        columns: Their columns, as the user named them.
    """

    names: NDArray[np.object_]
    split: NDArray[np.int8]
    groups: list[str] | None
    class_names: tuple[str, ...]
    tables: tuple[TableRecord, ...] = ()
    columns: str = ""

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64, an index into ``class_names``, -1 without a label."""
        number_of = {name: label for label, name in enumerate(self.class_names)}
        return np.array([number_of.get(name, -1) for name in self.names], np.int64)


def stored_labels(store: Store) -> RowLabels:
    """Return what the file has."""
    names = np.array([*store.class_names, ""], dtype=object)[store.labels]
    return RowLabels(names, store.split, store.groups, store.class_names)


def read_labels(store: Store, labels: Tables = (), columns: str = "") -> RowLabels:
    """Return the labels, splits and groups of a store's rows after tables; see the module.

    Args:
        store: An open store.
        labels: Tables (CSV, TSV, Parquet or JSON lines), or ``stored`` for the labels in the file;
            none is ``stored`` alone. One of a ``TableRecord`` must have the recorded digest.
        columns: The columns of the key (``path``), ``label``, ``split`` and ``group``, see
            ``parse_columns``; by default those of these names, and ``key`` or ``file_name``.

    Raises:
        SettingError: ``columns`` cannot be used.
        SourceError: A table cannot be read, is not the recorded one, lacks a column, has no key of
            the store, or says two things of one image.

    Example:
        >>> with open_store("out.h5") as store:  # doctest: +SKIP
        ...     names = read_labels(store, ["stored", "corrections.csv"]).names
    """
    records = _as_records(labels)
    named = label_columns(columns)
    count = sum(record.path != STORED for record in records)
    if not count:
        if columns:
            raise SettingError("columns: has no effect without --labels TABLE; drop --columns")
        return stored_labels(store)
    heads = Headings(named, lenient=count > 1)
    tables = [None if r.path == STORED else read_label_table(r, heads) for r in records]
    heads.check_used()
    for read in filter(None, tables):
        read.check_roles()
    rows = _Rows(store, tables)
    for table in tables:
        rows.apply(table)
    used = [TableRecord(STORED) if table is None else table.record for table in tables]
    return rows.finish(tuple(used), columns)


def _as_records(labels: Tables) -> list[TableRecord]:
    """Return each table that is named, without a digest where none is known."""
    several = (labels,) if isinstance(labels, str | os.PathLike) else labels
    return [
        each if isinstance(each, TableRecord) else TableRecord(os.fspath(each))
        for each in several
        if each
    ]


class _Rows:
    """The rows of a store, to which tables are applied one after another."""

    def __init__(self, store: Store, tables: Sequence[LabelTable | None]) -> None:
        self.store, self.stored = store, stored_labels(store)
        self.split = store.split.copy()
        self.groups = list(store.groups or [""] * len(store.keys))
        self.lone = None not in tables and any(t is not None and "label" in t.roles for t in tables)
        empty = np.full(len(store.keys), "", dtype=object)
        no_labels = self.lone or None in tables
        self.names = empty if no_labels else self.stored.names.copy()
        self.seen = np.zeros(len(store.keys), bool)

    def apply(self, table: LabelTable | None) -> None:
        """Apply a table, or the labels of the file, to the rows."""
        if table is None:
            self.names = np.where(self.store.labels >= 0, self.stored.names, self.names)
            return
        before = self.names.copy()
        rows = self._match(table)
        values = zip(rows, table.labels, table.splits, table.groups, strict=True)
        for row, label, split, group in values:
            if row < 0:
                continue
            self.seen[row] |= "label" in table.roles
            if label:
                self.names[row] = label
            if split >= 0:
                self.split[row] = split
            if group:
                self.groups[row] = group
        self._tell(table, rows, before)

    def _match(self, table: LabelTable) -> list[int]:
        """Return the row of the store of each row of a table, -1 for none."""
        keys = self.store.keys
        rows, notes, ambiguous = match_keys(table.keys, keys, _folder_of(self.store))
        lost = [key for key, row in zip(table.keys, rows, strict=True) if row < 0]
        several = [
            f"{quoted(key)} fits {quoted(keys[first])} and {quoted(keys[second])}"
            for key, (first, second) in ambiguous.items()
        ]
        if len(lost) == len(rows):
            found = f"no key is that of an image in {quoted(str(self.store.path))}"
            example = f"found {quoted(lost[0])}, and {quoted(keys[0])} there"
            remedy = "name the column of the keys with --columns path=NAME, or write them alike"
            problem = f"{found}: {(several or [example])[0]}; {remedy}"
            raise TableError(f"{table.where}: {problem}", table.record)
        for note in notes:
            log.info("%s: %s", table.where, note)
        if several:
            found = f"left out {count_of(len(several), 'key')} of more than one image"
            log.warning("%s: %s (%s); write the whole keys", table.where, found, several[0])
        if unknown := [key for key in lost if key not in ambiguous]:
            found = f"found no image for {listed(unknown, 'key')}; correct or remove them"
            log.warning("%s: %s", table.where, found)
        table.check_agree(rows, keys)
        return rows

    def _tell(self, table: LabelTable, rows: Sequence[int], before: NDArray[np.object_]) -> None:
        """Say what a table has changed."""
        count = len({row for row in rows if row >= 0})
        text = f"{count_of(count, 'row')} of {count_of(len(self.names), 'image')}"
        changed = (before != "") & (before != self.names)
        if "label" in table.roles and (before != "").any():
            added = int(((before == "") & (self.names != "")).sum())
            text += f"; {count_of(int(changed.sum()), 'label')} changed, {added:,} added"
        log.info("%s: %s", table.where, text)

    def finish(self, records: tuple[TableRecord, ...], columns: str) -> RowLabels:
        """Return the rows with classes in order; say which of them have no row."""
        if self.lone and not self.seen.all():
            missing = [self.store.keys[row] for row in np.flatnonzero(~self.seen)]
            remedy = "they have no label"
            if (self.store.labels >= 0).any():
                remedy += f"; to keep the labels of the file for them, add --labels {STORED} first"
            found = f"found no row for {listed(missing, 'image')}"
            log.info("labels: %s: %s", found, remedy)
        names = _merge(self.names)
        groups = _merge(np.array(self.groups, dtype=object)).tolist()
        labelled = names[(self.store.status == DONE) & (names != "")]
        sizes = Counter(labelled.tolist())
        sections = [SPLITS[split] for split in self.split.tolist()]
        for warning in _warnings(sizes, zip(sections, names.tolist(), strict=True)):
            log.warning("labels: %s", warning)
        names = np.array([to_nfc(name) for name in names], dtype=object)
        class_names = _order(self.store.class_names, {to_nfc(name) for name in sizes})
        return RowLabels(
            names, self.split, groups if any(groups) else None, class_names, records, columns
        )


def _folder_of(store: Store) -> str:
    """Return the name of the folder that the keys of a store start below, "" if not known."""
    source = str(store.attributes.get("source", ""))
    if root := store.attributes.get("root", ""):
        source = str(root)
    elif ending_of(source) in TABLE_ENDINGS:
        source = os.path.dirname(source)
    return os.path.basename(os.path.abspath(source)) if source and not is_url(source) else ""


def _merge(names: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return names in which ``1.0`` of one table is the 1 of another."""
    name_of = merge_numbers(names.tolist())
    if all(name == merged for name, merged in name_of.items()):
        return names
    return np.array([name_of[name] for name in names], dtype=object)


def _warnings(sizes: Mapping[str, int], places: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield warnings about the classes of all tables together."""
    totals = Counter[str]()
    for name, size in sizes.items():
        totals[to_nfc(name)] += size
    yield from describe_forms(sizes)
    yield from warn_of_lookalikes(totals)
    yield from check_classes(places)


def _order(stored: Sequence[str], names: set[str]) -> tuple[str, ...]:
    """Return names in order; those of the file stay in an order of their own, if they have one."""
    kept = tuple(name for name in stored if name in names)
    if kept == order_names(kept):
        return order_names(names)
    return (*kept, *order_names(names.difference(kept)))


def check_left_out(class_names: Sequence[str], given: str | Sequence[str]) -> Sequence[str]:
    """Return the names; raise SettingError unless they are classes, and two others remain."""
    names = [given] if isinstance(given, str) else given
    if unknown := [name for name in names if name not in class_names]:
        raise SettingError(f"leave_out: {unknown_name('class', unknown[0], class_names)}")
    remaining = [name for name in class_names if name not in names]
    if names and len(remaining) < 2:
        found = quoted(remaining[0]) if remaining else "no class"
        raise SettingError(f"leave_out: leaves {found}; expected two classes or more; name fewer")
    return names


def usable_rows(store: Store, known: RowLabels, left_out: Sequence[str]) -> NDArray[np.int64]:
    """Return the increasing labelled rows with features; log the number of the others."""
    if missing := int((store.status == PENDING).sum()):
        found = f"{missing} of {len(store.keys)} images have no features yet"
        raise StoreError(f"{store.path}: {found}; run the same extract-features command again")
    done, labelled = store.status == DONE, known.labels >= 0
    named = np.isin(known.labels, [known.class_names.index(name) for name in left_out])
    rows = np.flatnonzero(done & labelled & ~named)
    noun, remedy = "image", "extract features from class folders"
    if not store.spec.trunk:
        noun, remedy = "row", "name them: extract-features --overwrite --columns label=NAME"
    if not len(rows):
        found = f"none of {count_of(len(done), noun)} has features and a label"
        remedy = f"give labels with --labels TABLE, or {remedy}"
        if known.tables:
            remedy = "fill the column of labels in the table"
        raise StoreError(f"{store.path}: {found}; expected {noun}s of two classes; {remedy}")
    reasons = {"that could not be read": ~done, "without a label": done & ~labelled}
    if left_out:
        reasons[f"of {', '.join(map(quoted, left_out))}"] = done & named
    for reason, unused in reasons.items():
        if unused.any():
            log.info("left out: %s %s", count_of(int(unused.sum()), noun), reason)
    return rows
