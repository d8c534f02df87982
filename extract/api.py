"""Stage one from Python: the functions that ``extract`` exports."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from extract.core.applications import TRUNKS, Application, ListedLayer
from extract.core.config import ONNX_ENDING, ExtractConfig, TrunkSpec
from extract.core.console import log, quiet_mode
from extract.core.errors import count_of
from extract.core.views import ViewSpec
from extract.public import public

if TYPE_CHECKING:
    from extract.pipeline.run import Summary


class ExtractSettings(TypedDict, total=False):
    """The settings of stage one as keyword arguments."""

    trunk: str | os.PathLike[str] | None
    weights: str | os.PathLike[str] | None
    image_size: int | tuple[int, int] | None
    preprocess: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
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


class WriteSettings(TypedDict, total=False):
    """The settings of ``write_features`` as keyword arguments."""

    dtype: str | None
    max_bad: str | int | None
    overwrite: bool | None
    update: bool | None
    max_removed: str | int | None


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

    A file of features that another program made becomes such a file too, without a trunk.

    Args:
        source: A folder of images, an archive, a table, records, one image, or a URL of these; or
            a file of features (``.npz``, ``.npy``, ``.h5``, ``.parquet``, ``.arrow``, ``.csv``).
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
    from extract.exchange.open import import_features
    from extract.pipeline.run import run_extraction

    with quiet_mode(quiet):
        if summary := import_features(source, out, settings):
            return summary
        return run_extraction(source, out, **settings)


@public(ExtractConfig)
def write_features(  # noqa: PLR0913
    path: str | os.PathLike[str],
    X: Any,
    *,
    labels: Iterable[Any] | None = None,
    keys: Iterable[Any] | None = None,
    split: Iterable[Any] | None = None,
    groups: Iterable[Any] | None = None,
    class_names: Sequence[str] | None = None,
    quiet: bool = False,
    **settings: Unpack[WriteSettings],
) -> "Summary":
    """Keep features that another program made in an HDF5 file, which heads are trained on.

    The rows keep their order. One with NaN or infinity has failed and is left out of training.

    Args:
        path: The HDF5 file.
        X: (N, D) vectors or (N, h, w, C) maps of float16, float32 or float64; an array, or what
            has slices like one, such as a dataset of h5py, which is read block by block.
        labels: N names or numbers of classes; None, "" or NaN for a row without a label.
        keys: N different names of the rows; by default their numbers, ``000000000`` and so on.
        split: N times ``train``, ``validation`` or ``test``; by default all are ``train``.
        groups: N names of groups, whose rows stay together.
        class_names: K names in order; texts in ``labels`` are these, whole numbers their indices.
        quiet: Show no progress bar and log no notes.
        **settings: See below.

    Returns:
        The file, the number of rows, failures, classes and the shape of the features.

    Raises:
        SettingError: A setting is unknown or out of range.
        SourceError: ``X`` is of another type or shape, a key is there twice, or lengths differ.
        StoreError: The file differs, is damaged, in use, or the disk is full.

    Example:
        >>> import numpy as np
        >>> from extract import write_features
        >>> X = np.eye(3, 2, dtype="float32")
        >>> write_features("out.h5", X, labels=["cat", "dog", "cat"], quiet=True).class_names
        ('cat', 'dog')
    """
    from extract.exchange.feature_table import table_of_arrays
    from extract.exchange.write import write_table

    columns = {"key": keys, "label": labels, "split": split, "group": groups}
    given = {name: value for name, value in settings.items() if value is not None}
    with quiet_mode(quiet):
        return write_table(table_of_arrays(X, columns, class_names), Path(path), given)


@public()
def export_features(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layer: str | None = None,
    split: str | None = None,
    quiet: bool = False,
) -> Path:
    """Write a file of features for other programs: keys, labels as names, splits, groups, features.

    Rows that failed are left out. ``extract_features`` of the result gives the same store again.

    Args:
        store: The file of features.
        out: ``.parquet`` (a column of lists of a fixed size), ``.npz`` (plain arrays) or ``.csv``
            (a column for each feature). Of existing files only an earlier export is replaced.
        layer: The layer of the features; by default the only one.
        split: Only the rows of ``train``, ``validation`` or ``test``.
        quiet: Show no progress bar and log no notes.

    Returns:
        The path of the written file.

    Raises:
        SettingError: The ending of ``out``, the layer or the split is unknown.
        StoreError: The store is damaged or not complete, or ``out`` cannot be written.

    Example:
        >>> from extract import export_features
        >>> export_features("out.h5", "out.parquet")  # doctest: +SKIP
    """
    from extract.exchange.export import export_table

    with quiet_mode(quiet):
        rows, shape = export_table(Path(store), Path(out), layer, split)
        size = " x ".join(map(str, shape))
        log.info("%s: %s of %s features", out, count_of(rows, "row"), size)
    return Path(out)


def list_trunks() -> list[Application]:
    """List the trunks that have a name: size, cut and features of each."""
    return list(TRUNKS.values())


@public()
def list_layers(
    trunk: str | os.PathLike[str] = "inception_v3",
    *,
    image_size: int | tuple[int, int] | None = None,
    top: bool = False,
) -> list[ListedLayer]:
    """List the layers that a trunk can be cut at.

    Args:
        trunk: As for ``extract_features``: a name of ``list_trunks``, the path of your own
            ``FILE.keras`` or ``FILE.onnx``, or a backbone of KerasHub, ``hub:PRESET`` or
            ``hub:FOLDER``.
        image_size: Height and width in pixels; the native size by default.
        top: List the layers that only the complete model has, instead.

    Returns:
        Number, name and shape of each layer, in Keras' order, or for ONNX in the order of
        running; the batch comes first, as None.

    Raises:
        SettingError: The trunk is unknown.
        TrunkError: The trunk cannot be built at this size.
    """
    name = os.fspath(trunk)
    prepared = {"preprocess": "none"} if name.endswith(ONNX_ENDING) else {}
    spec = TrunkSpec(name, image_size=image_size or (0, 0), **prepared)  # type: ignore[arg-type]
    if top and (spec.is_file or spec.is_hub):
        return []
    if spec.is_onnx:
        from extract.onnx import build

        return build.list_layers(spec)
    from extract.trunks import trunk as module

    layers = module.list_layers(spec)
    return module.list_top(spec, layers) if top else layers
