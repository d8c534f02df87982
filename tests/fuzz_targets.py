"""What reads files of strangers, and sound files for each."""

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import h5py
import numpy as np
from PIL import Image

from extract.core.errors import HeadstartError
from extract.engines.base import Engine


class Target(NamedTuple):
    """Something that reads files of strangers.

    Attributes:
        prepare: Writes sound files into a folder and returns those to mutate.
        read: Reads a file of these; what is wrong with it is a HeadstartError.
    """

    prepare: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _images(folder: Path) -> list[Path]:
    from tests.test_pixels_decode import ALL
    from tests.test_pixels_jpeg import SORTED
    from tests.test_pixels_tiff import CUT
    from tests.tiffs import make_samples, write_tiff

    deep = [write_tiff(cell, make_samples(cell)) for cell in CUT]
    return _write(
        folder, {f"{n}": content for n, content in enumerate([*ALL, *deep, *SORTED.values()])}
    )


def _decode(path: Path) -> None:
    from extract.core.config import TrunkSpec
    from extract.pixels.decode import decode

    pixels = decode(path.read_bytes(), (5, 7), decoding=TrunkSpec().decoding)
    assert pixels.shape == (5, 7, 3)


def _tables(folder: Path) -> list[Path]:
    from tests.test_sources_tables import FORMS, ROWS, write_table

    return [write_table(folder / f"table{form}", ROWS) for form in FORMS]


def _label_tables(folder: Path) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"path": f"{name}/{n}.png", "label": name, "split": "val", "group": str(n)}
        for name in ("cat", "dog")
        for n in range(3)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "labels.parquet")
    texts = [",".join(row.values()) for row in ({key: key for key in rows[0]}, *rows)]
    files = {
        "labels.csv": "\n".join(texts),
        "labels.tsv": "\n".join(texts).replace(",", "\t"),
        "labels.jsonl": "\n".join(map(json.dumps, rows)),
    }
    written = _write(folder, {name: text.encode() for name, text in files.items()})
    return [*written, folder / "labels.parquet"]


def _read_labels(path: Path) -> None:
    from classify.data.label_tables import read_labels

    keys = [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)]
    store: Any = SimpleNamespace(
        keys=keys,
        labels=np.repeat([0, 1], 4),
        split=np.zeros(8, np.int8),
        groups=None,
        class_names=("cat", "dog"),
        status=np.ones(8, np.uint8),
        attributes={},
        path=Path("out.h5"),
    )
    known = read_labels(store, ["stored", path])
    assert len(known.names) == len(known.labels) == len(known.split) == 8
    assert {known.class_names[label] for label in known.labels} == set(known.names)


def _archives(folder: Path) -> list[Path]:
    from tests.test_sources_archives import pack

    files = {"a/1.png": b"one" * 9, "b/2.png": b"two" * 9, "b/3.json": b'{"label": "x"}'}
    return [pack(folder / f"images{form}", files) for form in (".zip", ".tar", ".tar.gz")]


def _records(folder: Path) -> list[Path]:
    from tests.test_sources_records import FORMS

    # Of folders there are tests of their own; HDF5 is another target.
    names = [name for name in FORMS if name not in ("saved", "a.h5")]
    for name in names:
        FORMS[name][0](folder / name)
    return [folder / name for name in names]


def _list(path: Path) -> None:
    from extract.core.errors import ImageError
    from extract.images.item import read_item
    from extract.sources.listing import list_source

    for item in list_source(path).items:
        try:
            read_item(item)
        except ImageError:
            continue


def write_head(folder: Path, result: Any) -> None:
    """Write what predicting needs of a bundle."""
    from classify.inference.bundle import _identity
    from classify.inference.head_folder import BUNDLE
    from tests.test_inference_bundle import dataset

    folder.mkdir()
    result.head.save(folder)
    (folder / BUNDLE).write_text(json.dumps(_identity(dataset(), result)))


def _heads(folder: Path) -> list[Path]:
    from classify.settings.head_spec import HeadSpec
    from tests.test_inference_bundle import DENSE, run_of

    specs = [DENSE, *map(HeadSpec, ("logistic", "knn", "svm", "naive_bayes"))]
    specs += [HeadSpec(name, trees=3) for name in ("forest", "boosting")]
    for spec in specs:
        write_head(folder / spec.head, run_of(spec))
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


def _load_head(path: Path) -> None:
    from classify.inference.bundle import load_head

    bundle = load_head(path.parent)
    bundle.predict_proba(np.zeros((2, *bundle.shape), np.float32))


def _small_model() -> Any:
    from extract.trunks.backend import load_keras

    keras = load_keras()
    layers = [keras.layers.Conv2D(3, 3, name="map"), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2)])


def _weights(folder: Path) -> list[Path]:
    model = _small_model()
    names = ("legacy.h5", "new.weights.h5", "whole.keras")
    for name in names:
        (model.save_weights if "weights" in name else model.save)(folder / name)
    return [folder / name for name in names]


def _load_weights(path: Path) -> None:
    from extract.core.config import TrunkSpec
    from extract.trunks import weights

    # A real trunk takes a second to build.
    weights.build_application = lambda *_: _small_model()
    weights.load_application(TrunkSpec("mobilenet", weights=str(path)))


def _model_file(folder: Path) -> list[Path]:
    _small_model().save(folder / "own.keras")
    return [folder / "own.keras"]


def _load_trunk(path: Path) -> None:
    from extract.core.config import TrunkSpec
    from extract.trunks.trunk import build_trunk

    build_trunk(TrunkSpec(trunk=str(path)))


def _pixels(folder: Path) -> list[Path]:
    from tests.test_sources_pixel_arrays import COLOUR, GREY, LABELS, write
    from tests.test_sources_records import write_hdf5

    names = ["x_train", "y_train", "x_test", "y_test"]
    splits = dict(zip(names, (COLOUR, LABELS, COLOUR[:4], LABELS[:4]), strict=True))
    texts = {"train/images": GREY, "train/labels": list("abcabc"), "test/images": GREY[:3]}
    paths = [write(folder / name, splits) for name in ("splits.h5", "splits.npz")]
    with h5py.File(folder / "latest.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=COLOUR, chunks=(2, 9, 8, 3), compression="gzip")
        file.create_dataset("y", data=LABELS % 2, dtype=h5py.enum_dtype({"a": 0, "b": 1}))
        file["group"] = ["1", "1", "2", "2", "3", "3"]
    texts["test/labels"] = list("abc")
    return [
        *(*paths, folder / "latest.h5", write(folder / "groups.hdf5", texts)),
        write_hdf5(folder / "a.h5"),
    ]


def _decode_all(path: Path) -> None:
    from extract.core.errors import ImageError
    from extract.images.item import read_item
    from extract.pixels.decode import decode
    from extract.sources.listing import list_source

    for item in list_source(path).items:
        with suppress(ImageError):
            decode(read_item(item), (5, 7))


class _Means(Engine):
    """Means of the channels as features: a real trunk takes seconds to build."""

    name = "keras"

    def __init__(
        self, spec: Any, dtype: str, batch_size: int | None, _: str, precision: str, *__: Any
    ) -> None:
        shapes = dict.fromkeys(spec.layer, (3,))
        trunk = SimpleNamespace(spec=spec, shapes=shapes, weights_sha256="0" * 64)
        super().__init__(trunk, dtype, batch_size or 4, precision)

    def run(self, batches: Any) -> Any:
        for tag, pixels in batches:
            means = pixels.mean((1, 2)).astype(self.dtype)
            yield tag, {layer: means + at for at, layer in enumerate(self.shapes)}


@contextmanager
def _quick_runs() -> Iterator[Callable[..., Any]]:
    """Yield ``run_extraction`` with another engine, and shards of four images."""
    from extract.pipeline.run import run_extraction

    with (
        patch("extract.pipeline.run.open_engine", _Means),
        patch("extract.store.shards.SHARD_ROWS", 4),
    ):
        yield run_extraction


def _make_store(folder: Path, **settings: Any) -> Path:
    """Extract features of images with groups, some of which fail, in two layers with views."""
    images = folder / "images"
    images.mkdir()
    rows = []
    for number in range(10):
        path = images / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        split = "train" if number < 7 else "validation"
        rows.append(f"{path.name},{'ab'[number % 2]},{split},patient {number // 2}")
    (images / "4.png").write_bytes(b"no image")
    (images / "9.png").write_bytes(b"")
    table = images / "table.csv"
    table.write_text("\n".join(["path,label,split,group", *rows]))
    (folder / "store").mkdir()
    trunk: dict[str, Any] = {"trunk": "mobilenet", "weights": "none", "image_size": 32}
    trunk |= {"layer": ("conv1_relu", "conv_pw_1_relu"), "views": 2, "max_bad": "100%"}
    out = folder / "store" / "out.h5"
    with _quick_runs() as extract:
        extract(table, out, **trunk, **settings)
    return out


def _store(folder: Path) -> list[Path]:
    return [_make_store(folder)]


def _shards(folder: Path) -> list[Path]:
    out = _make_store(folder, shards=str(folder / "store" / "parts"))
    return [out, *sorted(out.parent.glob("parts/*"))]


def _use_store(path: Path) -> None:
    """Use a store as every command does that opens one; raise the first error at the end."""
    home = next(parent for parent in path.parents if parent.name == "store")
    modes = [mode for mode in _MODES if not ("update" in mode and (home / "parts").exists())]
    chosen = zlib.crc32(path.read_bytes())
    layers, memory = _PARTS[chosen % len(_PARTS)]
    load = partial(_load, layers, memory)
    errors = []
    for use in (_show, load, partial(_extract, modes[chosen % 1009 % len(modes)])):
        try:
            use(home / "out.h5")
        except HeadstartError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _show(out: Path) -> None:
    from extract.show_cli import _show_features, show_features_parser

    with redirect_stdout(StringIO()):
        _show_features(show_features_parser().parse_args([str(out), "--verify"]))


# Which layers are read: the first, all joined, the last; and whether they fit into memory.
_PARTS: tuple[tuple[slice, float | None], ...] = (
    (slice(1), None),
    (slice(None), None),
    (slice(-1, None), 1e-9),
)


def _load(layers: slice, memory: float | None, out: Path) -> None:
    """Read all that training reads, in memory or out of it."""
    from classify.data.dataset import load_dataset
    from classify.stored.out_of_core import StoredRows
    from extract.store.shards import read_layers

    dataset = load_dataset(out, "+".join(read_layers(out)[layers]), memory)
    if isinstance(dataset.X, StoredRows):
        dataset.X.read(np.arange(len(dataset.y)))
    repr(dataset.fingerprint)
    if dataset.views:
        dataset.views.of(np.flatnonzero(dataset.split == 0))


_MODES: tuple[dict[str, Any], ...] = (
    {},
    {"repair": True},
    {"update": True, "max_removed": "100%"},
    {"overwrite": True},
)


def _extract(settings: dict[str, Any], out: Path) -> None:
    """Continue a copy of a store; what was repaired is sound."""
    from extract.store.open import open_store
    from extract.store.verify import verify

    with TemporaryDirectory(dir=out.parents[1]) as folder, _quick_runs() as extract:
        copied = Path(shutil.copytree(out.parent, Path(folder) / "store")) / "out.h5"
        extract(out.parents[1] / "images" / "table.csv", copied, **settings)
        if "repair" in settings:
            with open_store(copied) as store:
                assert not (problems := verify(store)), problems


TARGETS = {
    "decode": Target(_images, _decode),
    "manifest": Target(_tables, _list),
    "labels": Target(_label_tables, _read_labels),
    "archive": Target(_archives, _list),
    "records": Target(_records, _list),
    "bundle": Target(_heads, _load_head),
    "weights": Target(_weights, _load_weights),
    "trunk": Target(_model_file, _load_trunk),
    "store": Target(_store, _use_store),
    "shards": Target(_shards, _use_store),
    "pixels": Target(_pixels, _decode_all),
}
