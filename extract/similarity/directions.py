"""Features as unit vectors, whose products are cosines; read in blocks, with bounded memory.

A feature map is averaged over its positions, so that a shift of the image changes little. Features
are not centred: with the mean subtracted, copies stood out no better from other images, and the
cosine of two images would depend on all others.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.core.console import log
from extract.core.errors import SettingError, count_of, unknown_name
from extract.core.row_block import DONE, PENDING
from extract.store.open import Store

Vectors = NDArray[np.float32]  # (n, D) unit vectors
Numbers = NDArray[np.int64]  # (n,) rows or positions
# Features that are read at once, and unit vectors that stay in memory.
_BLOCK_BYTES, _KEPT_BYTES = 2**26, 2**30


class Directions:
    """The unit vectors of some rows, without those that have no direction.

    Rows of zeros and rows with numbers that are not finite have none.

    Attributes:
        rows: (N,) int64 increasing numbers of the rows that have a direction.
        left_out: The number of rows without one.
        firsts: (N,) int64, for each position the first position with exactly the same vector.
    """

    def __init__(
        self, read: Callable[[Numbers], NDArray[np.floating]], rows: Numbers, row_bytes: int
    ) -> None:
        """Read all rows once.

        Args:
            read: Returns the (n, *shape) features of increasing rows.
            rows: Increasing numbers of rows.
            row_bytes: The bytes of one row's features.
        """
        self._read, self._step = read, max(1, _BLOCK_BYTES // max(1, row_bytes))
        self._kept: Vectors | None = None
        parts, kept, hashes = [rows[:0]], list[Vectors](), list[int]()
        for start in range(0, len(rows), self._step):
            part = rows[start : start + self._step]
            units = to_units(read(part))
            has_one = np.isfinite(units[:, 0])
            units = units if has_one.all() else units[has_one]
            parts.append(part[has_one])
            hashes += [hash(unit.tobytes()) for unit in units]
            if len(rows) * units.shape[1] * 4 <= _KEPT_BYTES:
                kept.append(units)
        self.rows = np.concatenate(parts)
        self.left_out = len(rows) - len(self.rows)
        places: dict[int, int] = {}
        firsts = (places.setdefault(value, place) for place, value in enumerate(hashes))
        self.firsts = np.fromiter(firsts, np.int64, len(hashes))
        if kept:
            self._kept = np.concatenate(kept)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_store(cls, store: Store, layer: str, rows: Numbers | None = None) -> "Directions":
        """Return those of the finished rows of an open store, or of some increasing rows."""
        chosen = np.flatnonzero(store.status == DONE) if rows is None else rows
        if rows is None and not store.complete:
            missing = count_of(int((store.status == PENDING).sum()), "image")
            log.warning("%s: %s still to do are left out", store.path, missing)
        row_bytes = 4 * int(np.prod(store.shapes[layer]))
        return cls(lambda part: store.read(layer, part), chosen, row_bytes)

    def warn_of_left_out(self) -> None:
        """Log the number of rows without a direction."""
        if self.left_out:
            reason = "whose features are all zero or not finite"
            log.warning("left out: %s %s", count_of(self.left_out, "image"), reason)

    def read(self, positions: Numbers) -> Vectors:
        """Return the (n, D) unit vectors at some positions, in any order."""
        if self._kept is not None:
            kept: Vectors = self._kept[positions]
            return kept
        distinct, places = np.unique(self.rows[positions], return_inverse=True)
        if not len(distinct):
            return np.empty((0, 1), np.float32)
        units: Vectors = to_units(self._read(distinct))[places]
        return units

    def blocks(self) -> Iterator[tuple[slice, Vectors]]:
        """Yield all unit vectors in blocks, with their positions."""
        for start in range(0, len(self), self._step):
            places = slice(start, min(start + self._step, len(self)))
            yield places, self.read(np.arange(places.start, places.stop))


def to_units(features: NDArray[np.floating]) -> Vectors:
    """Return features as unit vectors, with NaN for a row that has no direction.

    Args:
        features: (n, D), or (n, ..., C), which is averaged to C numbers.
    """
    values = features.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if values.ndim > 2:
            values = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
        largest = np.abs(values).max(axis=1, keepdims=True)
        values = values / largest  # no square overflows
        units: Vectors = values / np.linalg.norm(values, axis=1, keepdims=True)
    units[~np.isfinite(units).all(axis=1)] = np.nan
    return units


def choose_layer(path: Path, layers: list[str], layer: str | None) -> str:
    """Return a layer; None is the only one.

    Raises:
        SettingError: It is unknown, or none of several was named.
    """
    if layer is None and len(layers) > 1:
        raise SettingError(f"layer: {path} holds {', '.join(layers)}; name one")
    if layer is not None and layer not in layers:
        raise SettingError(unknown_name("layer", layer, layers))
    return layers[0] if layer is None else layer
