"""Stage one from Python: the functions that ``extract`` exports."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

from extract.core.applications import TRUNKS, Application
from extract.core.config import ExtractConfig, TrunkSpec, ViewSpec
from extract.core.console import quiet_mode
from extract.public import public

if TYPE_CHECKING:
    from extract.pipeline.run import Summary
    from extract.trunks.trunk import ListedLayer


class ExtractSettings(TypedDict, total=False):
    """The settings of stage one as keyword arguments."""

    trunk: str | os.PathLike[str] | None
    weights: str | os.PathLike[str] | None
    image_size: int | tuple[int, int] | None
    preprocess: str | None
    layer: str | Sequence[str] | None
    pooling: str | None
    resize: str | None
    interpolation: str | None
    decoding: str | None
    views: int | None
    seed: int | None
    rotation: float | None
    shift: float | None
    shear: float | None
    zoom: float | None
    flip: bool | None
    columns: str | None
    root: str | os.PathLike[str] | None
    engine: str | None
    precision: str | None
    batch_size: int | None
    workers: int | None
    max_image_bytes: int | None
    max_image_pixels: int | None
    cluster: str | None
    dtype: str | None
    shards: str | os.PathLike[str] | None
    max_bad: str | int | None
    overwrite: bool | None
    update: bool | None
    check: str | None
    max_removed: str | int | None
    dry_run: bool | None
    repair: bool | None


@public(TrunkSpec, ViewSpec, ExtractConfig)
def extract_features(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    quiet: bool = False,
    **settings: Unpack[ExtractSettings],
) -> "Summary":
    """Run a frozen trunk once over a set of images and keep the features in one HDF5 file.

    An existing file is continued if settings and source are the same. Settings that are left out
    take the values of that file, otherwise their defaults.

    Args:
        source: A folder of images, an archive, a table, records, one image, or a URL of these.
        out: The HDF5 file.
        quiet: Show no progress bar and log no notes.
        **settings: See below.

    Returns:
        The file, the number of images, failures, classes, the shapes of the features by layer and
        the time spent. With ``dry_run``, nothing was computed.

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
    from extract.pipeline.run import run_extraction

    with quiet_mode(quiet):
        return run_extraction(source, out, **settings)


def list_trunks() -> list[Application]:
    """List the models of ``keras.applications``: name, size, cut and features of each."""
    return list(TRUNKS.values())


@public()
def list_layers(
    trunk: str | os.PathLike[str] = "inception_v3",
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

    spec = TrunkSpec(os.fspath(trunk), image_size=image_size or (0, 0))  # type: ignore[arg-type]
    layers = module.list_layers(spec)
    if not top:
        return layers
    return [] if spec.is_file or spec.is_hub else module.list_top(spec, layers)
