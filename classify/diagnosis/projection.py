"""Projection of features to two dimensions: PCA and t-SNE."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from classify.data.preprocessing import Transform
from classify.stored.out_of_core import Features, iter_chunks

# t-SNE of a thousand rows takes about a second; more features look the same.
_MOST_ROWS, _MOST_FEATURES = 1000, 512
# t-SNE looks for about three times as many neighbours as its perplexity.
_TSNE_ROWS, _TSNE_FEATURES, _PERPLEXITY, _ITERATIONS = 30, 50, 30.0, 500


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
        rows: The rows to place. At most 1,000 rows and 512 features are used, evenly spaced.

    Returns:
        One map per method; none with fewer than three rows or two features.
    """
    return start_maps(X, rows)()


def start_maps(X: Features, rows: NDArray[np.int64]) -> Callable[[], list[FeatureMap]]:
    """Begin ``map_features``, and return a function that ends it: t-SNE runs in a thread."""
    rows = rows[_spaced(len(rows), _MOST_ROWS)]
    flat = np.concatenate([_vectors(part) for _, part in iter_chunks(X[rows])])
    if len(rows) < 3 or flat.shape[1] < 2:
        return list
    scaled = Transform(("standardise",)).fit_apply(flat)
    # The number of threads would change the last digits, and with these the map of t-SNE.
    with threadpool_limits(1):
        points, explained = _principal_components(scaled)
    plain = FeatureMap("PCA", rows, points[:, :2].round(4), explained.round(6).tolist())
    if len(rows) < _TSNE_ROWS:
        return lambda: [plain]
    # Here, since threads that import the same modules may see half of them.
    import sklearn.manifold  # noqa: F401

    thread = ThreadPoolExecutor(1)
    placed = thread.submit(_place_neighbours, points)
    thread.shutdown(wait=False)
    return lambda: [plain, FeatureMap("t-SNE", rows, placed.result().round(4))]


def _principal_components(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, 50) coordinates, and the first two shares of the variance, as PCA does."""
    # In float32 the fourth decimal depends on the number of threads.
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :_TSNE_FEATURES]
    # The largest entry of an axis is positive.
    axes = axes * np.sign(np.take_along_axis(axes, abs(axes).argmax(axis=0)[None], axis=0))
    total = values.clip(0).sum()
    shares = values[-2:][::-1].clip(0) / total if total > 0 else np.zeros(2)
    return centred @ axes, shares


def _place_neighbours(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, 2) coordinates of t-SNE, which begins with the principal components."""
    from sklearn.manifold import TSNE

    scale = rows[:, 0].std()
    first = (rows[:, :2] / (scale or 1) * 1e-4).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    method = TSNE(perplexity=perplexity, init=first, max_iter=_ITERATIONS, random_state=0, n_jobs=1)
    with threadpool_limits(1, "openmp"):  # of this thread
        return np.asarray(method.fit_transform(rows.astype(np.float32)), np.float64)


def _vectors(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows as vectors of at most ``_MOST_FEATURES`` features."""
    flat = X.mean(axis=(1, 2)) if X.ndim == 4 else X.reshape(len(X), -1)
    return flat[:, _spaced(flat.shape[1], _MOST_FEATURES)]


def _spaced(count: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
