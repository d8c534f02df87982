"""Blocks of rows on their way from the trunk to a store, and the status of a row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# The status of a row in the file.
PENDING, DONE, FAILED = 0, 1, 2


class Failure(NamedTuple):
    """An image that could not be read: its row, the reason and the digest of the bytes read."""

    row: int
    reason: str
    digest: bytes


class Note(NamedTuple):
    """A doubt about an image that was read.

    ``text`` says what was found and what to do. Notes of one text become one line, which gives the
    largest ``most`` of them in the places ``{most}``, ``{bits}`` and ``{factor}``: the bits of such
    a value, in a usual number, and what brings them to 16.
    """

    text: str
    most: int = 0

    def __str__(self) -> str:
        bits = next((n for n in (8, 10, 12, 14) if self.most < 2**n), 16)
        return self.text.format(most=self.most, bits=bits, factor=2 ** (16 - bits))


class RowBlock(NamedTuple):
    """Some finished and failed rows, in any order; either part may be empty.

    ``rows`` is (b,) int64, ``features`` holds (b, *shape) by layer, ``digests`` is (b, 16) uint8.
    ``stamps`` is (b, 2) int64: size and modification time of each image file, zeros if unknown.
    ``views`` holds (v, V, *shape) by layer, for those of ``rows`` that have views, in their order.
    ``noted`` are the notes on rows that are finished or under way.
    """

    rows: np.ndarray
    features: Mapping[str, np.ndarray]
    digests: np.ndarray
    failed: list[Failure]
    views: Mapping[str, np.ndarray] = {}
    noted: Sequence[tuple[int, Note]] = ()
    stamps: np.ndarray | None = None

    def part(self, rows: range, has_views: np.ndarray) -> "RowBlock":
        """Return what lies in a range of rows, numbered from its start.

        Args:
            rows: The range.
            has_views: (b,) bool, which of the block's rows have views.
        """
        own = (self.rows >= rows.start) & (self.rows < rows.stop)
        return RowBlock(
            self.rows[own] - rows.start,
            {layer: values[own] for layer, values in self.features.items()},
            self.digests[own],
            [f._replace(row=f.row - rows.start) for f in self.failed if f.row in rows],
            {layer: values[own[has_views]] for layer, values in self.views.items()},
            stamps=None if self.stamps is None else self.stamps[own],
        )
