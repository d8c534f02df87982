"""Files that hold images row by row give what the folder of the same images gives."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from extract.core.errors import ImageError, SourceError
from extract.images.item import SPLIT_OF, Source, read_item
from extract.pipeline.run import run_extraction as extract_features
from extract.pixels.decode import decode
from extract.sources.listing import list_source, open_reader
from extract.sources.pixel_arrays import to_bitmap
from extract.store.open import open_store
from tests.conftest import QUICK

google_crc32c = pytest.importorskip("google_crc32c")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 21, 30, 3), dtype=np.uint8)
NAMES = [f"{i}.png" for i in (3, 1, 2, 0, 5, 4)]
LABELS = [0, 1, 1, 0, 1, 0]
CLASSES = ("cat", "dog")


def encoded(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CONTENTS = [encoded(pixels) for pixels in PIXELS]


# Arrow, as the library ``datasets`` writes it.


def table(rows: Sequence[int] = range(6), names: bool = True) -> pa.Table:
    """A table with the metadata that ``datasets`` puts beside an Image and a ClassLabel."""
    label = {"names": list(CLASSES), "_type": "ClassLabel"}
    described = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    found = [{"bytes": CONTENTS[i], "path": NAMES[i] if names else None} for i in rows]
    columns = {
        "image": pa.array(found, kind),
        "label": pa.array([LABELS[i] for i in rows], pa.int64()),
    }
    schema = pa.schema(
        {name: column.type for name, column in columns.items()},
        metadata={"huggingface": json.dumps(described)},
    )
    return pa.table(columns, schema)


def write_stream(path: Path, content: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
        stream.write_table(content, max_chunksize=2)
    return path


def write_arrow_file(path: Path, content: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, content.schema) as out:
        out.write_table(content)
    return path


def save_to_disk(folder: Path, content: pa.Table, shards: int = 1) -> Path:
    """Write what ``datasets.save_to_disk`` writes."""
    folder.mkdir(parents=True)
    step = -(-content.num_rows // shards)
    for shard in range(shards):
        part = content.slice(shard * step, step)
        write_stream(folder / f"data-{shard:05d}-of-{shards:05d}.arrow", part)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    return folder


# TFRecord.


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: Any) -> bytes:
    """Serialise a tf.train.Example, by hand: the product's own description is not asked."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            kind = field(1, field(1, value))
        else:
            kind = field(3, field(1, varint(value)))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, kind))
    return field(1, entries)


def write_tfrecord(path: Path, records: Sequence[bytes]) -> Path:
    def masked(content: bytes) -> bytes:
        check = google_crc32c.value(content)
        return struct.pack("<I", ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + masked(length) + record + masked(record))
    return path


def as_tensorflow_does(rows: Sequence[int] = range(6)) -> list[bytes]:
    return [
        example(
            image__encoded=CONTENTS[i],
            image__class__label=7 + LABELS[i],
            image__class__text=CLASSES[LABELS[i]].encode(),
            image__filename=NAMES[i].encode(),
        )
        for i in rows
    ]


def as_tfds_does(rows: Sequence[int] = range(6)) -> list[bytes]:
    return [example(image=CONTENTS[i], label=LABELS[i]) for i in rows]


# Arrays.


def write_hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("set/pixels", data=PIXELS, chunks=(4, 21, 30, 3), compression="gzip")
        file["labels"] = [CLASSES[label].encode() for label in LABELS]
        file["weights"] = np.zeros((6, 2))
    return path


def write_npz(path: Path) -> Path:
    np.savez(path, x=PIXELS, label=np.array(LABELS)[:, None])
    return path


def write_npy(path: Path) -> Path:
    np.save(path, PIXELS)
    return path


BY_NAME = dict(zip(NAMES, range(6), strict=True))
BY_ROW = {f"{row:09d}": row for row in range(6)}
# What writes it, the keys it gives, the names of its classes.
FORMS: dict[str, tuple[Callable[[Path], Path], dict[str, int], tuple[str, ...]]] = {
    "a.arrow": (lambda path: write_stream(path, table()), BY_NAME, CLASSES),
    "b.arrow": (lambda path: write_arrow_file(path, table(names=False)), BY_ROW, CLASSES),
    "a.parquet": (
        lambda path: parquet.write_table(table(), path, row_group_size=4) or path,
        *(BY_ROW, CLASSES),
    ),
    "b.parquet": (
        lambda path: (
            parquet.write_table(pa.table({"image": CONTENTS, "label": LABELS}), path) or path
        ),
        *(BY_ROW, ("0", "1")),
    ),
    "saved": (lambda path: save_to_disk(path, table()), BY_NAME, CLASSES),
    "a.tfrecord": (lambda path: write_tfrecord(path, as_tensorflow_does()), BY_NAME, CLASSES),
    "a.tfrecord-00000-of-00001": (
        lambda path: write_tfrecord(path, as_tfds_does()),
        *(BY_ROW, ("0", "1")),
    ),
    "a.h5": (write_hdf5, BY_ROW, CLASSES),
    "a.npz": (write_npz, BY_ROW, ("0", "1")),
    "a.npy": (write_npy, BY_ROW, ()),
}


def pixels_of(content: bytes) -> np.ndarray:
    return decode(content, (21, 30))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_images_with_their_classes(tmp_path: Path, name: str) -> None:
    write, keys, class_names = FORMS[name]
    path = write(tmp_path / name)
    source, read = list_source(path), open_reader(path)
    assert source.class_names == class_names
    assert [item.key for item in source.items] == sorted(keys)
    for item in source.items:
        row = keys[item.key]
        assert item.label == (LABELS[row] if class_names else -1)
        np.testing.assert_array_equal(pixels_of(read_item(item)), PIXELS[row])
        assert read(item.key) == read_item(item)
    with pytest.raises(ImageError, match="is not among"):
        read("none")


def test_features_are_those_of_a_folder(tmp_path: Path) -> None:
    for name, label, content in zip(NAMES, LABELS, CONTENTS, strict=True):
        (tmp_path / "folder" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / CLASSES[label] / name).write_bytes(content)
    write_hdf5(tmp_path / "pixels.h5")
    write_stream(tmp_path / "a.arrow", table())
    found = {}
    for source in ("folder", "pixels.h5", "a.arrow"):
        out = tmp_path / f"{source}.out.h5"
        assert extract_features(tmp_path / source, out, **QUICK).failed == []
        assert extract_features(tmp_path / source, out).computed == 0
        with open_store(out) as store:
            rows = [(BY_NAME | BY_ROW)[Path(key).name] for key in store.keys]
            order = np.argsort(rows)
            found[source] = store.read("conv1_relu", slice(None))[order], store.digests()[order]
    np.testing.assert_array_equal(found["folder"][0], found["pixels.h5"][0])
    np.testing.assert_array_equal(found["folder"][0], found["a.arrow"][0])
    np.testing.assert_array_equal(found["folder"][1], found["a.arrow"][1])


def keys_and_splits(source: Source) -> list[tuple[str, int]]:
    return [(item.key, item.split) for item in source.items]


def test_saved_sets_have_splits_and_shards(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    save_to_disk(tmp_path / "set" / "train", table(range(4), names=False), 2)
    save_to_disk(tmp_path / "set" / "test", table(range(4, 6), names=False))
    shards = [f"train/data-0000{i}-of-00002.arrow/00000000{j}" for i in (0, 1) for j in (0, 1)]
    tests = [f"test/00000000{j}" for j in (0, 1)]
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "set" / "test" / "._data-00000-of-00001.arrow").write_text("left by macOS")
    assert keys_and_splits(list_source(tmp_path / "set")) == [
        *((key, 2) for key in tests),
        *((key, 0) for key in shards),
    ]
    (tmp_path / "set" / "test").rename(tmp_path / "set" / "unsupervised")
    with pytest.raises(
        SourceError, match=r"found 1 split \(unsupervised\); expected some of train"
    ):
        list_source(tmp_path / "set")


def test_a_folder_of_tfrecords_has_splits_in_its_names(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "set-train.tfrecord-00000-of-00001", as_tensorflow_does(range(4)))
    write_tfrecord(tmp_path / "set-test.tfrecord-00000-of-00001", as_tensorflow_does([4, 5]))
    (tmp_path / "features.json").write_text("{}")
    assert keys_and_splits(list_source(tmp_path)) == [
        (name, 2 if BY_NAME[name] > 3 else 0) for name in sorted(NAMES)
    ]
    write_tfrecord(tmp_path / "more.tfrecord", as_tensorflow_does([0]))
    with pytest.raises(SourceError, match=r"1 file \(more.tfrecord\) without a split in the name"):
        list_source(tmp_path)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_folder_of_columnar_files_has_splits_in_its_names(tmp_path: Path, ending: str) -> None:
    """As data sets of Hugging Face lie in their repositories, and in the cache of its library."""
    write = parquet.write_table if ending == "parquet" else lambda t, path: write_stream(path, t)
    for split, rows in (("train", range(4)), ("validation", range(4, 6))):
        write(table(rows, names=False), tmp_path / f"{split}-00000-of-00001.{ending}")
    (tmp_path / "README.md").write_text("of the set")
    (tmp_path / f"._train-00000-of-00001.{ending}").write_text("left by macOS")
    found = list_source(tmp_path)
    assert found.class_names == CLASSES
    assert [item.label for item in found.items] == LABELS
    assert keys_and_splits(found) == [
        *((f"train-00000-of-00001.{ending}/{row:09d}", 0) for row in range(4)),
        *((f"validation-00000-of-00001.{ending}/{row:09d}", 1) for row in range(2)),
    ]
    assert [read_item(item) for item in found.items] == CONTENTS


@pytest.mark.parametrize("ending", ["arrow", "tfrecord"])
def test_what_a_system_leaves_behind_is_no_records(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"._train.{ending}").write_text("left by macOS")
    with pytest.raises(SourceError, match=r"found no file; expected"):
        list_source(tmp_path)


def test_a_table_beside_images_makes_no_records_of_them(tmp_path: Path) -> None:
    parquet.write_table(table(), tmp_path / "metadata.parquet")
    (tmp_path / "b.png").write_bytes(CONTENTS[0])
    assert keys_and_splits(list_source(tmp_path)) == [("b.png", 0)]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
def test_files_in_folders_of_splits(tmp_path: Path, names: Sequence[str]) -> None:
    """As sets lie on Kaggle: ``tfrecords-jpeg-224x224/train/00-224x224-798.tfrec``."""
    for split, name in enumerate(names):
        folder = tmp_path / "tfrecords-jpeg-224x224" / name
        folder.mkdir(parents=True)
        write_tfrecord(folder / "00-224x224-2.tfrec", as_tfds_does([2 * split, 2 * split + 1]))
    for source in (tmp_path, tmp_path / "tfrecords-jpeg-224x224"):
        found = list_source(source)
        assert sorted(item.split for item in found.items) == [0, 0, 1, 1, 2, 2]
        assert all(item.split == SPLIT_OF[item.key.split("/")[-3].lower()] for item in found.items)
        assert open_reader(source)(found.items[0].key) == read_item(found.items[0])
    write_tfrecord(tmp_path / "more.tfrec", as_tfds_does([0]))
    with pytest.raises(SourceError, match=r"beside TFRecord files; move them apart"):
        list_source(tmp_path)


def test_folders_as_spark_writes_them(tmp_path: Path) -> None:
    for name, rows in (("train.parquet", range(4)), ("val.parquet", range(4, 6))):
        (tmp_path / name).mkdir()
        for part in (0, 1):
            half = table(rows[part::2], names=False)
            parquet.write_table(half, tmp_path / name / f"part-0000{part}-1a2b.snappy.parquet")
        (tmp_path / name / "_SUCCESS").touch()
    assert [item.split for item in list_source(tmp_path).items] == [0] * 4 + [1] * 2
    assert {item.split for item in list_source(tmp_path / "val.parquet").items} == {0}


@pytest.mark.parametrize("beside", ["train/cat/0.png", "assets/deep/logo.png"])
def test_files_beside_folders_of_images_have_two_meanings(tmp_path: Path, beside: str) -> None:
    (tmp_path / "data").mkdir()
    parquet.write_table(table(), tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").touch()
    assert len(list_source(tmp_path).items) == 6
    path = tmp_path / beside
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENTS[0])
    message = r"1 folder \(data\) of files of records beside 1 folder \((assets|train)\) of images"
    with pytest.raises(SourceError, match=message):
        list_source(tmp_path)


def test_tables_of_paths_beside_folders_of_images_are_no_records(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "0.png").write_bytes(CONTENTS[0])
    (tmp_path / "tables").mkdir()
    parquet.write_table(pa.table({"path": ["a.png"]}), tmp_path / "tables" / "a.parquet")
    assert list_source(tmp_path).class_names == CLASSES


def test_a_name_and_a_folder_with_two_splits(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    parquet.write_table(table(), tmp_path / "train" / "test-00000-of-00001.parquet")
    with pytest.raises(
        SourceError, match=r"train/test-00000-of-00001\.parquet, which names two spl"
    ):
        list_source(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    "name",
    [
        *("a.parquet", "a.arrow", "a.tfrecord", "train-00000-of-00001", "a.npz", "a.h5"),
        *("data/train-00000-of-00001.parquet", "data/train/0.arrow", "big/a.tfrec"),
    ],
)
def test_pointers_of_git_lfs_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "clone" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(POINTER)
    for source in [path] + [tmp_path / "clone"] * (path.suffix not in (".npz", ".h5")):
        with pytest.raises(SourceError, match=r"is a pointer of Git LFS, .* with: git lfs pull"):
            list_source(source)


def test_columns_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["masks"], file["kind"] = PIXELS, PIXELS[..., 0], LABELS
    with pytest.raises(SourceError, match=r"masks \(6, 21, 30\) uint8.*say which with --columns"):
        list_source(tmp_path / "a.h5")
    source = list_source(tmp_path / "a.h5", "path=x,label=kind")
    assert [item.label for item in source.items] == LABELS
    read = open_reader(tmp_path / "a.h5", "path=x,label=kind")
    np.testing.assert_array_equal(pixels_of(read("000000002")), PIXELS[2])
    renamed = table().rename_columns(["photo_of_it", "species"])
    renamed = renamed.append_column("mask_of_it", renamed["photo_of_it"])
    parquet.write_table(renamed, tmp_path / "a.parquet")
    source = list_source(tmp_path / "a.parquet", "path=photo_of_it,label=species")
    assert [item.label for item in source.items] == LABELS
    assert source.class_names == ("0", "1")
    read = open_reader(tmp_path / "a.parquet", "path=photo_of_it,label=species")
    assert read(source.items[2].key) == read_item(source.items[2])


def test_grey_pixels_are_images_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", image=PIXELS[..., 0], other=PIXELS[..., 0].astype(float))
    item = list_source(tmp_path / "grey.npz").items[1]
    np.testing.assert_array_equal(
        pixels_of(read_item(item)), np.repeat(PIXELS[1, :, :, :1], 3, axis=2)
    )


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 3, 3), (4, 4, 3), (7, 2, 3), (3, 5), (3, 6, 1)])
def test_a_bitmap_has_the_pixels_it_was_made_of(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = decode(to_bitmap(pixels), shape[:2])  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        found, np.broadcast_to(pixels.reshape(*shape[:2], -1), found.shape)
    )


def test_names_that_are_not_all_there_or_twice_give_way_to_rows(tmp_path: Path) -> None:
    rows = [0, 1, 1]
    assert keys_and_splits(list_source(write_stream(tmp_path / "a.arrow", table(rows)))) == [
        (f"{row:09d}", 0) for row in range(3)
    ]


def test_images_beside_tfrecords_have_two_meanings(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", as_tfds_does())
    (tmp_path / "b.png").write_bytes(CONTENTS[0])
    with pytest.raises(SourceError, match=r"1 image or folder \(b.png\) beside TFRecord"):
        list_source(tmp_path)


def test_records_at_a_url_are_refused() -> None:
    with pytest.raises(
        SourceError, match=r"a remote file of records; fetch it with: curl -LO http"
    ):
        list_source("http://127.0.0.1:9/a.tfrecord-00000-of-00001")


def test_parquet_with_images_at_a_url_is_refused() -> None:
    file = BytesIO()
    parquet.write_table(table(), file)
    pytest.importorskip("fsspec").filesystem("memory").pipe("set/a.parquet", file.getvalue())
    with pytest.raises(SourceError, match=r"contains the images; fetch it with: python -c"):
        list_source("memory://set/a.parquet")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def cut_in_the_first_head(path: Path) -> None:
    os.truncate(path, 11)


def flip_the_first_length(path: Path) -> None:
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


def rename(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"label", b"\xffabel"))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("a.tfrecord", cut, "record 5: cannot be read: is cut off"),
        ("a.tfrecord", cut_in_the_first_head, "record 0: cannot be read: is cut off"),
        ("a.tfrecord", flip_the_first_length, "the checksum of its size is wrong"),
        ("a.tfrecord", flip, "the checksum of its content is wrong"),
        ("a.h5", cut, "cannot be read: .*truncated"),
        ("a.npz", cut, "cannot be read"),
        ("a.npy", cut, "cannot be read"),
        ("b.arrow", cut, "cannot be read"),
        ("a.parquet", cut, "cannot be read"),
        ("b.parquet", rename, "cannot be read: 'utf-8' codec"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(FORMS[name][0](tmp_path / name))
    with pytest.raises(SourceError, match=message) as caught:
        list_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    write_stream(tmp_path / "a.arrow", pa.table({"label": LABELS}))
    np.save(tmp_path / "a.npy", PIXELS.astype(np.float32))
    np.savez(tmp_path / "a.npz", x=PIXELS, label=LABELS[:5])
    write_tfrecord(tmp_path / "a.tfrecord", [example(label=1)])
    write_tfrecord(tmp_path / "b.tfrecord", [b"no example"])
    for name, message in (
        ("a.arrow", "found no column of images among label int64"),
        ("a.npy", r"image \(6, 21, 30, 3\) float32; expected uint8"),
        ("a.npz", r"found array label of shape \(5,\) beside 6 images"),
        ("a.tfrecord", "record 0: feature 'image/encoded' is unknown.*known: label"),
        (
            "b.tfrecord",
            "record 0: cannot be read: Error parsing message with type 'tf.train.Example'",
        ),
    ):
        with pytest.raises(SourceError, match=message):
            list_source(tmp_path / name)
    with pytest.raises(SourceError, match="column 'kind' is unknown"):
        list_source(write_stream(tmp_path / "b.arrow", table()), "label=kind")


def test_a_record_without_an_image_fails_alone(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": None, "path": "elsewhere/a.png"}, {"bytes": CONTENTS[0], "path": "b.png"}]
    write_stream(tmp_path / "a.arrow", pa.table({"image": pa.array(rows, kind)}))
    whole, bare = list_source(tmp_path / "a.arrow").items
    with pytest.raises(ImageError, match="has no bytes"):
        read_item(bare)
    assert read_item(whole) == CONTENTS[0]


def test_a_record_that_changed_after_it_was_listed_fails_alone(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", [example(image=CONTENTS[0]), example(image=1)])
    item, number = list_source(path).items
    with pytest.raises(ImageError, match="its record holds numbers; expected the bytes"):
        read_item(number)
    path.write_bytes(path.read_bytes()[:12] + bytes(100))
    with pytest.raises(ImageError, match="cannot be read: Error parsing message with type"):
        read_item(item)


def test_a_tfrecord_is_read_without_tensorflow(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", as_tensorflow_does())
    code = (
        "import sys; from extract.sources.listing import list_source\n"
        "from extract.images.item import read_item\n"
        "items = list_source(sys.argv[1]).items; read_item(items[0])\n"
        "assert len(items) == 6 and 'tensorflow' not in sys.modules and 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize("how", ["virtual", "external"])
def test_arrays_that_lie_in_another_file_are_refused(how: str, tmp_path: Path) -> None:
    shape = (2, 4, 5, 3)
    (tmp_path / "secret").write_bytes(bytes(range(120)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros(shape, np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if how == "virtual":
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", shape)
            file.create_virtual_dataset("image", layout)
        else:
            outside = [(str(tmp_path / "secret"), 0, 120)]
            file.create_dataset("image", shape, np.uint8, external=outside)
    with pytest.raises(SourceError, match="found image, whose pixels lie in another file"):
        list_source(tmp_path / "a.h5")


def test_damaged_arrays_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "sound.h5", "w") as file:
        file["image"] = np.zeros((3, 4, 5, 3), np.uint8)
        file["label"] = ["cat", "dog", "cat"]
    sound = (tmp_path / "sound.h5").read_bytes()
    random = np.random.default_rng(0)
    said = []
    for _ in range(100):
        damaged = bytearray(sound)
        for at in random.integers(0, 2048, 8):
            damaged[at] ^= 1 << int(random.integers(8))
        (tmp_path / "a.h5").write_bytes(damaged)
        try:
            list_source(tmp_path / "a.h5")
        except SourceError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in message for message in said)


_READ_MUTANTS = """
import sys
from pathlib import Path
import numpy as np
from extract.core.errors import HeadstartError
from extract.sources.listing import list_source
sound = Path(sys.argv[1])
content, random, refused = sound.read_bytes(), np.random.default_rng(0), 0
for _ in range(200):
    damaged = bytearray(content)
    for at in random.integers(0, len(content), 4):
        damaged[at] ^= 1 << int(random.integers(8))
    mutant = sound.with_stem("mutant")
    mutant.write_bytes(damaged)
    try:
        list_source(mutant)
    except HeadstartError as error:
        assert chr(10) not in str(error)
        refused += 1
assert refused
"""


@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_damaged_columns_are_named_and_lead_nowhere(ending: str, tmp_path: Path) -> None:
    cells = [{"bytes": b"\xff\xd8\xff" + bytes(40), "path": f"{i}.jpg"} for i in range(6)]
    table = pa.table({"image": pa.array(cells), "label": ["cat", "dog"] * 3})
    path = tmp_path / f"sound{ending}"
    if ending == ".parquet":
        parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    # A process of its own: a wrong offset that is followed ends it.
    child = subprocess.run(
        [sys.executable, "-c", _READ_MUTANTS, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


def test_only_the_files_that_a_saved_set_names_are_read(tmp_path: Path) -> None:
    """Source of the case: https://github.com/allenai/open-instruct/pull/638."""
    folder = save_to_disk(tmp_path / "set", table())
    write_stream(folder / "cache-2d0a802b78a30b76.arrow", table(range(3)))
    listed = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed}))
    assert [item.key for item in list_source(folder).items] == sorted(NAMES)
    listed.append({"filename": "data-00001-of-00001.arrow"})
    (folder / "state.json").write_text(json.dumps({"_data_files": listed}))
    with pytest.raises(SourceError, match=r"found no 1 file \(data-00001.*state.json names; save"):
        list_source(folder)


def test_bytes_beside_paths_of_another_machine_are_the_images(tmp_path: Path) -> None:
    """Source of the case: https://github.com/Roblox/FAI-RL/pull/81."""
    content = {"path": [f"/data/{name}" for name in NAMES], "image": CONTENTS, "label": LABELS}
    parquet.write_table(pa.table(content), tmp_path / "a.parquet")
    source = list_source(tmp_path / "a.parquet")
    assert [read_item(item) for item in source.items] == CONTENTS
    assert [item.label for item in source.items] == LABELS


def test_features_beside_folders_of_images_are_no_images(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(CONTENTS[0])
    parquet.write_table(pa.table({"emb": [b"a"], "label": [1]}), tmp_path / "embeddings.parquet")
    assert keys_and_splits(list_source(tmp_path)) == [
        ("test/cat/0.png", 2),
        ("train/cat/0.png", 0),
        ("train/dog/0.png", 0),
    ]


def test_splits_in_names_of_files_as_in_names_of_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("train00-2071.tfrec", "train01-2071.tfrec", "test00-687.tfrec")):
        write_tfrecord(tmp_path / name, as_tensorflow_does([i]))
    assert keys_and_splits(list_source(tmp_path)) == [("1.png", 0), ("2.png", 2), ("3.png", 0)]
