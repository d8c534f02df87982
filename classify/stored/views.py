"""Augmented views of training rows: all of them as rows, or a random one per row and epoch.

Views are only trained on. ``StoredViews.of`` returns the views of the rows that it is given, so no
split or fold separates views from their image.
"""

from typing import Any, NamedTuple

import numpy as np

from classify.stored.out_of_core import Labels, Member, Rows, all_finite, join_layers
from extract.core.errors import StoreError
from extract.core.views import ViewSpec
from extract.store.open import open_store


class Views(NamedTuple):
    """Views of some rows.

    Attributes:
        features: (M, V, *shape) float32.
        owners: (M,) int64 increasing positions of the rows that they are views of.
    """

    features: Rows
    owners: Labels


class FoldData(NamedTuple):
    """The training and validation rows of one split, (A, *shape) and (B, *shape) float32.

    Attributes:
        X: Training features: an array, ``StoredRows`` or ``RandomViews``.
        y: (A,) classes, each with a row.
        X_validation: Validation features: an array or ``StoredRows``.
        y_validation: (B,) classes.
        views: Augmented views of the training rows; None where the heads use none.
        groups: (A,) numbers of the training rows' groups; None where no group can be left out.
    """

    X: Any
    y: Labels
    X_validation: Any
    y_validation: Labels
    views: Views | None = None
    groups: Labels | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.y.max()) + 1

    def __repr__(self) -> str:
        return f"FoldData({len(self.y)} training rows, {len(self.y_validation)} validation rows)"


class StoredViews:
    """The views of a dataset's rows, read from the store when they are needed.

    Attributes:
        spec: How the views were made.
    """

    def __init__(self, member: Member, spec: ViewSpec) -> None:
        self.spec, self._member = spec, member

    def select(self, positions: Labels) -> "StoredViews":
        """Return the views of a part of the rows; ``positions`` increase."""
        rows = self._member.rows[positions]
        return StoredViews(self._member._replace(rows=rows), self.spec)

    def of(self, positions: Labels) -> Views:
        """Read the views of some rows.

        Args:
            positions: Increasing positions in the dataset.

        Returns:
            Their views; an owner is an index into ``positions``.

        Raises:
            StoreError: The store cannot be read, has changed, or a feature is not a finite number.
        """
        same, rows = self._member.same, self._member.rows[positions]
        with same.unchanged(), open_store(same.path) as store:
            has_views = np.isin(rows, store.view_rows)
            # A store whose rows were matched can have them in another order.
            own, places = np.unique(rows[has_views], return_inverse=True)
            parts = [store.read_views(layer, own) for layer in self._member.layers]
        if len(own) < len(places) or (np.diff(places) < 0).any():
            parts = [part[places] for part in parts]
        joined = join_layers([part.reshape(-1, *part.shape[2:]) for part in parts])
        if joined.size and not all_finite(joined):
            found = "found views with numbers that are not finite"
            raise StoreError(f"{same.path}: {found}; extract again with --dtype float32")
        features = joined.reshape(*parts[0].shape[:2], *joined.shape[1:])
        return Views(features, np.flatnonzero(has_views))


def all_views(X: Rows, y: Labels, views: Views) -> tuple[Rows, Labels, Labels]:
    """Append every view to the plain rows as a row of its own.

    Args:
        X: (A, *shape) plain rows.
        y: (A,) their classes.
        views: Their views.

    Returns:
        (A + M * V, *shape) rows, their classes, and the image, 0 to A - 1, that each row shows.
    """
    images = np.append(np.arange(len(X)), np.repeat(views.owners, views.features.shape[1]))
    return np.concatenate([X, views.features.reshape(-1, *X.shape[1:])]), y[images], images


class RandomViews:
    """(A, *shape) rows; in each epoch a row is plain or one of its views, at random.

    Attributes:
        shape: (A, *shape).
        plain: The plain rows.
        views: Their views.
        shown: (A,) int64, the view that each row shows now; 0 is the plain row.
    """

    def __init__(self, plain: Rows, views: Views) -> None:
        self.shape, self.plain, self.views = plain.shape, plain, views
        self.shown = np.zeros(len(plain), np.int64)

    def __len__(self) -> int:
        return len(self.plain)

    def flat(self) -> "RandomViews":
        """Return feature maps as vectors."""
        features = self.views.features.reshape(*self.views.features.shape[:2], -1)
        views = self.views._replace(features=features)
        return RandomViews(self.plain.reshape(len(self), -1), views)

    def draw(self, seed: int, epoch: int) -> None:
        """Choose the view that each row shows in this epoch."""
        count = self.views.features.shape[1]
        # The third number makes this draw independent of the order of the rows.
        random = np.random.default_rng([seed, epoch, 1])
        self.shown[self.views.owners] = random.integers(0, 1 + count, len(self.views.owners))

    def __getitem__(self, positions: Labels) -> Rows:
        """Return rows in the views that they show now, (len(positions), *shape)."""
        rows, shown = self.plain[positions], self.shown[positions]
        owners = np.searchsorted(self.views.owners, positions[shown > 0])
        rows[shown > 0] = self.views.features[owners, shown[shown > 0] - 1]
        return rows
