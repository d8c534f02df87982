"""The rows of a table of labels: the key, label, split and group of an image."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from classify.settings.config import STORED
from extract.core.console import log
from extract.core.errors import ImageError, SettingError, SourceError, quoted, unknown_name
from extract.core.flags import ROLES, parse_columns
from extract.display.tables import from_csv_text
from extract.exchange.feature_table import is_heading
from extract.images.item import SPLITS, read_file
from extract.images.remote import is_url
from extract.layouts.class_names import clean_labels, is_missing
from extract.layouts.image_table import USUAL, choose_columns, parse_cells
from extract.sources.tables import TABLE_ENDINGS, ending_of, read_table

_KEYS = (*USUAL["path"], "key")  # the last one is that of predictions and of features
_USUAL = {**USUAL, "path": _KEYS}
# Longer texts are no names.
_LONGEST_NAME = 1000


class TableRecord(NamedTuple):
    """A table as a trained head remembers it.

    Attributes:
        path: The table, as the user named it, or ``stored`` for the labels in the file.
        sha256: The digest of its bytes; empty for ``stored``.
    """

    path: str
    sha256: str = ""


class TableError(SourceError):
    """A table does not match the images: it has none of their keys, or two rows disagree."""

    def __init__(self, message: str, record: TableRecord) -> None:
        super().__init__(message)
        self.record = record


def label_columns(columns: str) -> dict[str, str]:
    """Return the column of each role; the key may be called ``key`` or ``path``."""
    named = parse_columns(columns)
    if "features" in named:
        raise SettingError("columns: features has no effect on a table of labels; drop it")
    if "key" in named:
        if "path" in named:
            raise SettingError("columns: found path and key, which are one; drop one of them")
        named["path"] = named.pop("key")
    return named


def records_to_json(records: Sequence[TableRecord], columns: str) -> dict[str, Any]:
    """Return tables and their columns as ``bundle.json`` has them, empty without tables."""
    tables = [record._asdict() for record in records]
    return {"labels": tables, "columns": columns} if tables else {}


def records_from_json(described: Mapping[str, Any]) -> tuple[TableRecord, ...]:
    """Return the tables in ``bundle.json``; raise TypeError or ValueError for anything else."""
    records = tuple(TableRecord(**record) for record in described.get("labels", ()))
    if not all(isinstance(text, str) for record in records for text in record):
        raise ValueError("found a table of labels without path and digest")
    return records


class Headings:
    """Chooses the columns of tables. Of several tables one has each column that the user named.

    Attributes:
        roles: The roles of the table that was read last.
    """

    def __init__(self, named: Mapping[str, str], lenient: bool) -> None:
        self.named, self.roles = named, set[str]()
        self._lenient, self._used, self._known = lenient, set[str](), list[str]()

    def __call__(self, where: str, known: Iterable[str]) -> list[str | None]:
        """Return the column of each role; see ``choose_columns``."""
        known = list(known)
        folded = {name.strip().casefold() for name in known}
        own = {
            role: name
            for role, name in self.named.items()
            if not self._lenient or name.strip().casefold() in folded
        }
        chosen = choose_columns(where, known, own, _USUAL)
        self._used |= own.keys()
        self._known += known
        self.roles |= {role for role, name in zip(ROLES, chosen, strict=True) if name is not None}
        return chosen

    def check_used(self) -> None:
        """Raise SettingError where the user has named a column that no table has."""
        for role, name in self.named.items():
            if role not in self._used:
                unknown = unknown_name("column", name, dict.fromkeys(self._known))
                raise SettingError(f"columns: {unknown}; no table has it for the {role}")


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table: their numbers, keys and values; "" and -1 for none."""

    record: TableRecord
    roles: set[str]
    numbers: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The table, for messages."""
        return quoted(self.record.path)

    def check_roles(self) -> None:
        """Raise SourceError where there is a key alone."""
        if self.roles == {"path"}:
            found = "found no column for label, split or group"
            raise SourceError(f"{self.where}: {found}; name one with --columns label=NAME")

    def check_agree(self, rows: Sequence[int], keys: Sequence[str]) -> None:
        """Raise SourceError where two rows say different things of one image.

        Args:
            rows: The row of the store of each row, -1 for none.
            keys: The keys of the store.
        """
        if len(set(rows) - {-1}) == sum(row >= 0 for row in rows):
            return
        splits = [SPLITS[split] if split >= 0 else "" for split in self.splits]
        for role, values in (("label", self.labels), ("split", splits), ("group", self.groups)):
            first: dict[int, int] = {}
            for place, (row, value) in enumerate(zip(rows, values, strict=True)):
                if row < 0 or not value:
                    continue
                other = first.setdefault(row, place)
                if values[other] != value:
                    both = f"row {self.numbers[other]} and {self.numbers[place]}"
                    found = f"the {role} {quoted(values[other])} and {quoted(value)}"
                    problem = f"{both} give {quoted(keys[row])} {found}"
                    raise TableError(f"{self.where}: {problem}; remove one", self.record)


def read_label_table(record: TableRecord, heads: Headings) -> LabelTable:
    """Read a table, and say what was understood.

    Args:
        record: The table; with a digest, it must be that of its bytes.
        heads: Chooses the columns.

    Raises:
        SourceError: The table cannot be read, is another one, lacks a column or has a cell without
            a meaning.
    """
    path, where = record.path, quoted(record.path)
    content = _read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    if record.sha256 and digest != record.sha256:
        found = f"has SHA-256 {digest[:12]}; expected {record.sha256[:12]}, as in training"
        raise SourceError(f"{where}: {found}; restore it, or name the tables with --labels")
    heads.roles = set()
    if is_heading(content.partition(b"\n")[0].rstrip(b"\r")):
        found = "holds the answers of a head, which are taken as labels here"
        log.warning("%s: %s; correct them first, or leave the table out", where, found)
    rows, said = read_table(path, content, heads)
    if not rows:
        raise SourceError(f"{where}: found no rows; expected one for each image")
    table = LabelTable(TableRecord(path, digest), heads.roles)
    for number, cells in rows:
        _add_row(table, number, cells, heads.named)
    cleaned, warnings = clean_labels(table.labels)
    table.labels[:] = cleaned
    for note in said.notes:
        log.info("%s: %s", where, note)
    for warning in [*said.warnings, *warnings]:
        log.warning("%s: %s", where, warning)
    return table


def _read_bytes(path: str) -> bytes:
    """Return the bytes of a table on this machine."""
    endings = ", ".join(TABLE_ENDINGS)
    if is_url(path):
        raise SourceError(f"{quoted(path)}: a URL; expected a path; fetch the file first")
    if ending_of(path) not in TABLE_ENDINGS:
        raise SourceError(
            f"{quoted(path)}: no table of labels; expected {endings}, or {STORED} for the labels "
            "in the file"
        )
    try:
        return read_file(path)
    except ImageError as error:
        raise SourceError(f"{quoted(path)}: {error}; expected a table ({endings})") from None


def _add_row(
    table: LabelTable, number: int, cells: Sequence[Any], named: Mapping[str, str]
) -> None:
    """Check a row, and add it to a table."""
    where = f"{table.where}: row {number}"
    has_split = not _is_empty(cells[2])
    if not has_split:
        named = {role: name for role, name in named.items() if role != "split"}
        cells = [cells[0], cells[1], None, cells[3]]
    key, label, split, group = parse_cells(where, cells, named)
    label, group = from_csv_text(label), from_csv_text(group)
    if len(label) > _LONGEST_NAME:
        found = f"found a label of {len(label):,} characters"
        raise SourceError(f"{where}: {found}; expected a name of at most {_LONGEST_NAME:,}")
    table.numbers.append(number)
    table.keys.append(key)
    table.labels.append(label)
    table.splits.append(split if has_split else -1)
    table.groups.append(group)


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and is_missing(cell.strip()))
