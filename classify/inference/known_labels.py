"""The labels of the rows of a file of features: from tables, from those of a head, or its own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classify.data.label_tables import RowLabels, read_labels
from classify.data.table_rows import TableError, TableRecord
from classify.inference.bundle import TrainedHead
from classify.inference.head_folder import PathLike
from classify.settings.config import STORED
from classify.settings.prediction import ONLY, PredictConfig
from extract.core.console import log
from extract.core.errors import HeadstartError, ImageError, SourceError, quoted
from extract.images.item import read_file
from extract.images.remote import is_url
from extract.store.open import Store

_REMEDY = f"name the tables with --labels, or --labels {STORED} for the labels in the file"


def read_known(
    store: Store, model: TrainedHead | None, head: PathLike, config: PredictConfig, columns: str
) -> RowLabels:
    """Read the labels of rows.

    Tables that a head remembers are looked for where they were, beside its folder and beside the
    file of features. Where the labels do not decide which rows are chosen, those that are missing,
    have changed or know no row are left out.

    Args:
        store: The file of features, open.
        model: The head, if there is one.
        head: Its folder.
        config: ``labels`` are the tables; ``only`` and ``to_label`` need those of the head.
        columns: The columns of the tables, as the user named them.

    Raises:
        SettingError: ``columns`` cannot be used.
        SourceError: A table cannot be used.
    """
    if config.labels or not model or not model.labels:
        return read_labels(store, config.labels, columns)
    needed = bool(config.to_label) or config.only != ONLY[0]
    records, faults = _find_tables(model.labels, Path(head), store.path)
    while any(record.path != STORED for record in records) and not (needed and faults):
        try:
            known = read_labels(store, records, columns or model.columns)
        except TableError as error:
            records = [record for record in records if record != error.record]
            faults.append(f"{quoted(error.record.path)} knows no row of this file")
        except HeadstartError as error:
            if columns:
                raise
            faults.append(str(error).rpartition("; ")[0] or str(error))
            records = [record for record in records if record.path == STORED]
        else:
            _tell(faults)
            return known
    if needed and faults:
        found = f"{quoted(str(head))} was trained with tables of labels, but {'; '.join(faults)}"
        raise SourceError(f"{quoted(str(store.path))}: {found}; {_REMEDY}")
    _tell(faults)
    known = read_labels(store)
    return known if records else _without_labels(known)


def _tell(faults: Sequence[str]) -> None:
    if faults:
        found = f"left out labels that the head was trained with: {'; '.join(faults)}"
        log.info("%s; to compare the answers, %s", found, _REMEDY)


def _without_labels(known: RowLabels) -> RowLabels:
    empty = np.full(len(known.names), "", dtype=object)
    return RowLabels(empty, known.split, known.groups, ())


def _find_tables(
    recorded: Sequence[TableRecord], head: Path, store: Path
) -> tuple[list[TableRecord], list[str]]:
    """Return the recorded tables where they are now, and what is wrong with the others."""
    found, faults = list[TableRecord](), list[str]()
    for record in recorded:
        if record.path == STORED:
            found.append(record)
            continue
        known = [(place, _digest(place)) for place in _places(record.path, head, store)]
        same = [place for place, digest in known if digest == record.sha256]
        if same:
            found.append(record._replace(path=same[0]))
        else:
            changed = any(digest for _, digest in known)
            what = "has changed since then" if changed else "is not there"
            faults.append(f"{quoted(record.path)} {what}")
    return found, faults


def _places(path: str, head: Path, store: Path) -> list[str]:
    """Return where a table may be: as it was named, beside the head, and beside the features."""
    if is_url(path):
        return []
    beside = [folder.resolve().parent for folder in (head, store)]
    return [path, *(str(folder / name) for folder in beside for name in (path, Path(path).name))]


def _digest(path: str) -> str:
    """Return the digest of a file, empty where it cannot be read."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except (ImageError, OSError, ValueError):
        return ""


def tables_of(store: Store, known: RowLabels) -> list[str]:
    """Return what ``--labels`` must name so that all labels still count beside a further table."""
    tables = [record.path for record in known.tables]
    stored = store.labels >= 0
    # A table of splits or groups leaves the labels of the file.
    counts = not tables or np.array_equal(known.names != "", stored)
    return [STORED, *tables] if STORED not in tables and stored.any() and counts else tables
