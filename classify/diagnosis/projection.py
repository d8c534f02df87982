"""Projection of features to two dimensions: PCA, and t-SNE where openTSNE is installed."""

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.preprocessing import Transform
from classify.stored.out_of_core import Features, iter_chunks

# A map of more rows or features looks the same and takes seconds.
_MOST_ROWS, _MOST_FEATURES = 3000, 512
# t-SNE looks for about three times as many neighbours as its perplexity.
_TSNE_ROWS, _TSNE_FEATURES, _PERPLEXITY = 30, 50, 30.0


class FeatureMap(NamedTuple):
    """The features in two dimensions.

    Attributes:
        method: ``PCA`` or ``t-SNE``.
        rows: (M,) int64 rows of the dataset.
        points: (M, 2) float64.
        explained: For PCA, the share of the variance of the standardised features along each axis;
            else None.
    """

    method: str
    rows: NDArray[np.int64]
    points: NDArray[np.float64]
    explained: list[float] | None = None


def map_features(X: Features, rows: NDArray[np.int64]) -> list[FeatureMap]:
    """Project standardised features to two dimensions.

    Args:
        X: (N, *shape) float32 features. Feature maps are averaged over their positions.
        rows: The rows to place. At most 3,000 rows and 512 features are used, evenly spaced.

    Returns:
        One map per method; none with fewer than three rows or two features.
    """
    rows = rows[_spaced(len(rows), _MOST_ROWS)]
    flat = np.concatenate([_vectors(part) for _, part in iter_chunks(X[rows])])
    if len(rows) < 3 or flat.shape[1] < 2:
        return []
    scaled = Transform(("standardise",)).fit_apply(flat)
    points, explained = _principal_components(scaled)
    maps = [FeatureMap("PCA", rows, points.round(4), explained.round(6).tolist())]
    if len(rows) >= _TSNE_ROWS and find_spec("openTSNE"):
        from openTSNE import TSNE

        width = min(_TSNE_FEATURES, scaled.shape[1], len(scaled) - 1)
        reduced = Transform((f"pca={width}",)).fit_apply(scaled)
        perplexity = min(_PERPLEXITY, (len(scaled) - 1) / 3)
        # One thread gives the same points each time.
        placed = TSNE(perplexity=perplexity, random_state=0, n_jobs=1).fit(reduced)
        maps.append(FeatureMap("t-SNE", rows, np.asarray(placed, float).round(4)))
    return maps


def _principal_components(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, 2) coordinates, and the shares of the variance, as scikit-learn's PCA does.

    Importing scikit-learn takes as long as all else in the report of a small file.
    """
    # In float32 the fourth decimal depends on the number of threads.
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, -2:][:, ::-1]
    # The largest entry of an axis is positive.
    axes = axes * np.sign(axes[abs(axes).argmax(axis=0), [0, 1]])
    total = values.clip(0).sum()
    shares = values[-2:][::-1].clip(0) / total if total > 0 else np.zeros(2)
    return centred @ axes, shares


def _vectors(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows as vectors of at most ``_MOST_FEATURES`` features."""
    flat = X.mean(axis=(1, 2)) if X.ndim == 4 else X.reshape(len(X), -1)
    return flat[:, _spaced(flat.shape[1], _MOST_FEATURES)]


def _spaced(count: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
