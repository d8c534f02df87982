"""Questions about the images that their features answer, from Python."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from extract.core.console import quiet_mode
from extract.public import public

if TYPE_CHECKING:
    from extract.similarity.near_duplicates import NearDuplicates
    from extract.similarity.similar import Outliers, SimilarImages

PathLike = str | os.PathLike[str]


@public()
def find_near_duplicates(
    store: PathLike,
    threshold: float | None = None,
    *,
    layer: str | None = None,
    page: PathLike | None = None,
    source: PathLike = "",
    quiet: bool = False,
) -> "NearDuplicates":
    """Find groups of images whose features are nearly the same.

    All pairs of images are compared, exactly. Images that could not be read, and those whose
    features are all zero or not finite, are left out.

    Args:
        store: The file of features.
        threshold: The least cosine of near-duplicates, above 0 and at most 1. By default it is that
            above which a tenth of a pair is expected among images that are no copies.
        layer: The layer of the features; by default the only one.
        page: An HTML file to write, with the images of each group; only such a page is replaced.
        source: The place of the images, for the page, if they have moved.
        quiet: Log no notes.

    Returns:
        The images that have near-duplicates, with their groups, and the threshold.

    Raises:
        SettingError: The layer or the threshold is unknown or out of range, or more than five
            million pairs reach it.
        StoreError: The store cannot be read, or the page cannot be written.

    Source: Grassberger and Procaccia, Measuring the strangeness of strange attractors, 1983, for
        the number of pairs as a power of their distance.

    Example:
        >>> import numpy as np
        >>> from extract import find_near_duplicates, write_features
        >>> X = np.random.default_rng(0).random((60, 8), "float32")
        >>> X[7] = X[2] + 1e-4
        >>> write_features("out.h5", X, labels=["cat"] * 60, quiet=True).images
        60
        >>> [image.key for image in find_near_duplicates("out.h5")]
        ['000000002', '000000007']
    """
    from extract.similarity.near_duplicates import find_near

    with quiet_mode(quiet):
        return find_near(Path(store), threshold, layer, page, source)


@public()
def find_similar(  # noqa: PLR0913
    store: PathLike,
    like: PathLike,
    top: int = 10,
    *,
    layer: str | None = None,
    weights: PathLike | None = None,
    page: PathLike | None = None,
    source: PathLike = "",
    quiet: bool = False,
) -> "SimilarImages":
    """Find the images most similar to an image of the file, or to a photo.

    The features of a photo that is not in the file are computed with the recorded trunk.

    Args:
        store: The file of features.
        like: A key of the file, or else the path of a photo.
        top: The number of images.
        layer: The layer of the features; by default the only one.
        weights: Where the weights of the trunk, or its own file, are now, if they have moved.
        page: An HTML file to write, with the images; only such a page is replaced.
        source: The place of the images, for the page, if they have moved.
        quiet: Log no notes.

    Returns:
        The images, the most similar first, each with the cosine of the features, -1 to 1. An image
        that is named by its key is not among them.

    Raises:
        SettingError: There is no such key or photo, or the layer is unknown.
        StoreError: The store cannot be read, the weights are not those that made the features, or
            the page cannot be written.
        TrunkError: The trunk cannot be built.

    Example:
        >>> import numpy as np
        >>> from extract import find_similar, write_features
        >>> X = np.array([[1, 0], [1, 1], [0, 1]], "float32")
        >>> write_features("out.h5", X, keys=["a", "b", "c"], quiet=True).images
        3
        >>> [(image.key, round(image.cosine, 3)) for image in find_similar("out.h5", "a")]
        [('b', 0.707), ('c', 0.0)]
    """
    from extract.similarity.similar import Question, find_like

    with quiet_mode(quiet):
        return find_like(Path(store), like, top, weights, Question(layer, page, source))


@public()
def find_outliers(
    store: PathLike,
    count: int = 10,
    *,
    layer: str | None = None,
    page: PathLike | None = None,
    source: PathLike = "",
    quiet: bool = False,
) -> "Outliers":
    """Find the images least like the others: with the lowest mean cosine to their neighbours.

    The neighbours are the ten nearest images; of more than 5,000 images those of a random sample.

    Args:
        store: The file of features.
        count: The number of images.
        layer: The layer of the features; by default the only one.
        page: An HTML file to write, with the images; only such a page is replaced.
        source: The place of the images, for the page, if they have moved.
        quiet: Log no notes.

    Returns:
        The images, the least similar first, each with the mean cosine.

    Raises:
        SettingError: The layer is unknown, or ``count`` is below 1.
        StoreError: The store cannot be read, or the page cannot be written.

    Source: Angiulli and Pizzuti, Fast outlier detection in high dimensional spaces, 2002; Sugiyama
        and Borgwardt, Rapid distance-based outlier detection via sampling, 2013.

    Example:
        >>> import numpy as np
        >>> from extract import find_outliers, write_features
        >>> X = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], "float32")
        >>> write_features("out.h5", X, keys=["a", "b", "c", "d"], quiet=True).images
        4
        >>> [image.key for image in find_outliers("out.h5", 1)]
        ['d']
    """
    from extract.similarity.similar import Question, find_lone

    with quiet_mode(quiet):
        return find_lone(Path(store), count, Question(layer, page, source))
