"""Stage one from Python: what ``extract`` exports beside settings, stores and errors."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from extract.core.applications import TRUNKS, Application
from extract.core.config import TrunkSpec
from extract.core.console import quiet_mode
from extract.core.flags import check_keywords

if TYPE_CHECKING:
    from extract.pipeline.run import Summary
    from extract.trunks.trunk import ListedLayer


@check_keywords
def extract_features(  # noqa: PLR0913
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    trunk: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    preprocess: str | None = None,
    layer: str | Sequence[str] | None = None,
    pooling: str | None = None,
    resize: str | None = None,
    interpolation: str | None = None,
    views: int | None = None,
    seed: int | None = None,
    rotation: float | None = None,
    shift: float | None = None,
    shear: float | None = None,
    zoom: float | None = None,
    flip: bool | None = None,
    columns: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    dtype: str | None = None,
    shards: str | os.PathLike[str] | None = None,
    max_bad: str | int | None = None,
    overwrite: bool | None = None,
    update: bool | None = None,
    dry_run: bool | None = None,
    repair: bool | None = None,
    quiet: bool = False,
) -> "Summary":
    """Run a frozen trunk once over a set of images and keep the features in one HDF5 file.

    An existing file is continued if settings and source are the same. Settings that are left out
    take the values of that file, otherwise their defaults.

    Args:
        source: A folder of images, an archive, a table, records, one image, or a URL of these.
        out: The HDF5 file.
        trunk: See ``TrunkSpec``, also for ``weights`` to ``interpolation``.
        weights: ``imagenet``, ``none`` or a file.
        image_size: Height and width in pixels, or one number for both.
        preprocess: ``auto``, ``rescale`` or ``none``.
        layer: Name of the layer whose output is kept, or several names.
        pooling: ``avg``, ``max`` or ``none``.
        resize: ``stretch``, ``crop`` or ``pad``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        views: Augmented views of each training image; see ``ViewSpec``, also for ``seed`` to
            ``flip``.
        seed: Seed of the views.
        rotation: Largest turn in degrees.
        shift: Largest shift as a share of width and height.
        shear: Largest slant as a share.
        zoom: Largest change of width and of height as a share.
        flip: Whether one view in two is mirrored.
        columns: See ``ExtractConfig``, also for ``engine`` to ``repair``.
        engine: ``auto``, ``keras`` or ``openvino``.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        batch_size: Images in one call of the trunk.
        workers: Threads that read and decode.
        cluster: Address of a Ray cluster.
        dtype: ``float32`` or ``float16``, the type of the stored features.
        shards: Folder for the features in several files.
        max_bad: Unreadable images that are tolerated, as a number or a share such as ``1%``.
        overwrite: Replace a file whose settings or source differ.
        update: Bring the file up to date with a source that has changed.
        dry_run: Log what the run would do, and stop.
        repair: Compute again the rows that fail verification.
        quiet: Show no progress bar and log no notes.

    Returns:
        Number of images, failures, classes and shapes of the features; with ``dry_run``, nothing
        was computed.

    Raises:
        SettingError: A setting is unknown, out of range or has no effect.
        SourceError: The images cannot be listed.
        TrunkError: The trunk or its weights are not available.
        EngineError: The trunk cannot be run, or its features do not fit the type.
        StoreError: The file differs, is damaged, in use, or the disk is full.

    Example:
        >>> from extract import extract_features
        >>> extract_features("data/", "out.h5", trunk="vgg16", image_size=150)  # doctest: +SKIP
    """
    settings = {k: v for k, v in locals().items() if k not in ("source", "out", "quiet")}
    from extract.pipeline.run import extract_features as run_extraction

    with quiet_mode(quiet):
        return run_extraction(source, out, **settings)


def list_trunks() -> dict[str, Application]:
    """Return every trunk of ``keras.applications`` by name, with its size, cut and features."""
    return dict(TRUNKS)


@check_keywords
def list_layers(
    trunk: str = "inception_v3",
    *,
    image_size: int | tuple[int, int] | None = None,
    top: bool = False,
) -> "list[ListedLayer]":
    """List the layers that a trunk can be cut at.

    Args:
        trunk: A name of ``list_trunks``, or the path of your own ``.keras`` model.
        image_size: Height and width in pixels; the native size by default.
        top: List the layers that only the complete model has, instead.

    Returns:
        Number, name and shape of each layer, in Keras' order; the batch comes first, as None.

    Raises:
        SettingError: The trunk is unknown.
        TrunkError: The trunk cannot be built at this size.
    """
    from extract.trunks import trunk as module

    spec = TrunkSpec(trunk, image_size=image_size or (0, 0))  # type: ignore[arg-type]
    layers = module.list_layers(spec)
    if not top:
        return layers
    return [] if spec.is_file else module.list_top(spec, layers)
