"""A store that is opened again and again and must stay the same: rows are known by their position.

``extract-features --update`` and ``--overwrite`` put another file in the place of a store, even
while heads are trained on it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.core.errors import StoreError
from extract.store.open import Store, open_store


class SameStore:
    """The files of a store and the rows that are used, as they were when they were first read.

    Args:
        path: The store, which is opened after this.

    Attributes:
        content: Digest of the rows and of the settings that they were made with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = {path: _look(path)}
        self.content, self._rows = "", np.empty(0, np.int64)

    def remember(self, store: Store, rows: NDArray[np.int64]) -> None:
        """Remember the content of the open store; only these of its rows are used."""
        shards = {shard.path for shard in store.shards} - self._files.keys()
        self._files |= {path: _look(path) for path in shards}
        self.content, self._rows = _describe(store, rows), rows

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read the store in the block.

        Raises:
            StoreError: At the end of the block the files are no longer those of the first time.
        """
        try:
            yield
        except Exception:
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        files = {path: _look(path) for path in self._files}
        if files == self._files:
            return
        # The same command of extract-features touches a file and changes nothing.
        with open_store(self.path) as store:
            content = _describe(store, self._rows)
        if content != self.content:
            found = "changed while it was read; expected the same file all the time"
            raise StoreError(f"{self.path}: {found}; run the same command again")
        self._files = files


def _look(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from another one in its place; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _describe(store: Store, rows: NDArray[np.int64]) -> str:
    """Return a digest of some rows, their positions, and the settings that they were made with."""
    if len(rows) and rows.max() >= len(store.keys):
        return ""
    settings = {name: value for name, value in store.attributes.items() if name != "complete"}
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    digest.update(rows.tobytes())
    for column in (store.labels, store.status, store.digests(), store.checksums):
        digest.update(column[rows].tobytes())
    return digest.hexdigest()
