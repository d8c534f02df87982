"""Questions about the images that their features answer, from Python."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from extract.core.console import quiet_mode
from extract.public import public

if TYPE_CHECKING:
    from extract.similarity.near_duplicates import NearDuplicates

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
