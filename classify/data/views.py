"""Augmented views of training rows: all of them as rows, or one of each row drawn an epoch.

Views only ever train. They follow their image: ``StoredViews.of`` gives those of the rows that
it is asked for, so no split or fold can part them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.out_of_core import join_layers
from extract.core.config import ViewSpec
from extract.core.errors import StoreError
from extract.store.open import open_store

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


class Views(NamedTuple):
    """Views of some rows.

    Attributes:
        features: (M, V, *shape) float32.
        owners: (M,) int64 positions of the rows that they are views of, increasing.
    """

    features: Rows
    owners: Labels


class StoredViews:
    """The views of a dataset's rows, read from the store when they are needed.

    Attributes:
        spec: How they came about.
    """

    def __init__(self, path: Path, layers: Sequence[str], rows: Labels, spec: ViewSpec) -> None:
        self.spec = spec
        self._path, self._layers, self._rows = path, list(layers), rows

    def of(self, positions: Labels) -> Views:
        """Read the views of some rows.

        Args:
            positions: Increasing positions in the dataset.

        Returns:
            Their views; an owner is a place in ``positions``.

        Raises:
            StoreError: The store cannot be read, or a feature is not a finite number.
        """
        rows = self._rows[positions]
        with open_store(self._path) as store:
            held = np.isin(rows, store.view_rows)
            parts = [store.read_views(layer, rows[held]) for layer in self._layers]
        joined = join_layers([part.reshape(-1, *part.shape[2:]) for part in parts])
        features = joined.reshape(*parts[0].shape[:2], *joined.shape[1:])
        if features.size and not (np.isfinite(features.min()) and np.isfinite(features.max())):
            raise StoreError(
                f"{self._path}: views that are not finite numbers; expected numbers that fit their "
                "type; extract again with --dtype float32"
            )
        return Views(features, np.flatnonzero(held))


def all_views(X: Rows, y: Labels, views: Views) -> tuple[Rows, Labels, Labels]:
    """Put every view beside the plain rows, as a row of its own.

    Args:
        X: (A, *shape) plain rows.
        y: (A,) their classes.
        views: Their views.

    Returns:
        (A + M * V, *shape) rows, their classes, and which of the An images each one shows.
    """
    count = views.features.shape[1]
    shows = np.concatenate([np.arange(len(X)), np.repeat(views.owners, count)])
    return np.concatenate([X, views.features.reshape(-1, *X.shape[1:])]), y[shows], shows


class RandomViews:
    """(A, *shape) rows that show themselves plain or in one of their views, drawn anew an epoch.

    Attributes:
        shape: (A, *shape).
        plain: The plain rows.
        views: Their views.
        shown: (A,) int64, the view that each row shows now; 0 is the plain one.
    """

    def __init__(self, plain: Rows, views: Views) -> None:
        self.shape, self.plain, self.views = plain.shape, plain, views
        self.shown = np.zeros(len(plain), np.int64)

    def __len__(self) -> int:
        return len(self.plain)

    def flat(self) -> "RandomViews":
        """Return feature maps as vectors."""
        features = self.views.features.reshape(*self.views.features.shape[:2], -1)
        return RandomViews(
            self.plain.reshape(len(self), -1), self.views._replace(features=features)
        )

    def draw(self, seed: int, epoch: int) -> None:
        """Let each row show the view that it shows in this epoch; 0 is the plain one."""
        count = self.views.features.shape[1]
        # The third number keeps this apart from the draw of the order.
        random = np.random.default_rng([seed, epoch, 1])
        self.shown[self.views.owners] = random.integers(0, 1 + count, len(self.views.owners))

    def __getitem__(self, rows: Labels) -> Rows:
        """Return rows as they show themselves, (len(rows), *shape)."""
        found, shown = self.plain[rows], self.shown[rows]
        places = np.searchsorted(self.views.owners, rows[shown > 0])
        found[shown > 0] = self.views.features[places, shown[shown > 0] - 1]
        return found
