"""Arrays of pixels in NumPy and HDF5 files: splits, labels, and forms that are refused."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.core.errors import SourceError
from extract.images.item import Source, read_item
from extract.pixels.decode import decode
from extract.sources.listing import list_source, open_reader

GREY = np.random.default_rng(0).integers(0, 256, (6, 9, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
LABELS = np.array([5, 0, 4, 1, 9, 2], np.uint8)


def rows_of(source: Source) -> list[tuple[str, int]]:
    """Return class and split of each image."""
    names = (*source.class_names, "")
    return [(names[item.label], item.split) for item in source.items]


def write(path: Path, arrays: Mapping[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


# Names of the images and labels of a split: keras, MedMNIST, fast.ai, groups of HDF5.
NAMES = {
    "keras": ("x_{}", "y_{}", ("train", "test")),
    "capitals": ("X_{}", "Y_{}", ("train", "val", "test")),
    "MedMNIST": ("{}_images", "{}_labels", ("train", "val", "test")),
    "courses": ("{}_set_x", "{}_set_y", ("train", "test")),
    "groups": ("{}/images", "{}/labels", ("train", "validation")),
}


@pytest.mark.parametrize("ending", ["npz", "h5"])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_splits(tmp_path: Path, name: str, ending: str) -> None:
    images, labels, splits = NAMES[name]
    arrays = {}
    for number, split in enumerate(splits):
        arrays[images.format(split)] = GREY[: 6 - number]
        arrays[labels.format(split)] = LABELS[: 6 - number, None]
    if ending == "npz":
        arrays = {name.replace("/", "_"): array for name, array in arrays.items()}
    path = write(tmp_path / f"a.{ending}", arrays)
    source = list_source(path)
    numbers = {"train": 0, "val": 1, "validation": 1, "test": 2}
    wanted = sorted(
        (str(label), numbers[split])
        for number, split in enumerate(splits)
        for label in LABELS[: 6 - number]
    )
    assert sorted(rows_of(source)) == wanted
    for item in source.items:
        row = LABELS.tolist().index(int(source.class_names[item.label]))
        np.testing.assert_array_equal(decode(read_item(item), (9, 8))[..., 0], GREY[row])
        assert open_reader(path)(item.key) == read_item(item)


def test_one_split_of_a_file_is_for_training(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", {"x_test": GREY, "y_test": LABELS})
    assert {split for _, split in rows_of(list_source(path))} == {0}
    write(path, {"x_train": COLOUR, "y_train": LABELS, "x_test": COLOUR, "y_test": LABELS})
    source = list_source(path, "path=x_test,label=y_test")
    assert rows_of(source) == [(str(label), 0) for label in LABELS]


@pytest.mark.parametrize("names", [("X", "y"), ("images", "labels"), ("data", "target")])
def test_labels_that_go_with_the_name_of_the_images(tmp_path: Path, names: tuple[str, str]) -> None:
    path = write(tmp_path / "a.npz", {names[0]: COLOUR, names[1]: LABELS})
    assert [name for name, _ in rows_of(list_source(path))] == [str(label) for label in LABELS]


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(float), np.eye(10)[LABELS], np.eye(10, dtype=bool)[LABELS], LABELS[:, None]],
)
def test_labels_of_every_form(tmp_path: Path, labels: np.ndarray) -> None:
    source = list_source(write(tmp_path / "a.h5", {"x": GREY, "y": labels}))
    assert [name for name, _ in rows_of(source)] == [str(label) for label in LABELS]
    said = "found a 1 in each row of y, which is read as its column" in str(source.warnings)
    assert said is (labels.ndim == 2 and labels.shape[1] > 1)


def test_missing_labels(tmp_path: Path) -> None:
    labels = np.array([1, 0, np.nan, 1, 0, -1])
    source = list_source(write(tmp_path / "a.npz", {"x": GREY, "y": labels}))
    assert [name for name, _ in rows_of(source)] == ["1", "0", "", "1", "0", ""]


MANY = np.eye(10)[LABELS] + np.eye(10)[0]
REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "several labels": ({"x": GREY, "y": MANY}, r"found array y of shape \(6, 10\) beside 6 images"),
    "scores": ({"x": GREY, "y": np.eye(10)[LABELS] * 0.9}, r"array y of shape \(6, 10\) beside 6"),
    "channels first": (
        {"x": COLOUR.transpose(0, 3, 1, 2)},
        r"x has its channels first; store x\.transpose\(0, 2, 3, 1\)",
    ),
    "images last": (
        {"x": COLOUR.transpose(1, 2, 3, 0)},
        r"x has its images last; store x\.transpose\(3, 0, 1, 2\)",
    ),
    "fractions": (
        {"x": COLOUR / np.float32(255)},
        r"x has values of 0 to 1; store \(x \* 255\)\.round\(\)\.astype\('uint8'\), of 0 to 255",
    ),
    "floats": (
        {"x": COLOUR.astype(float)},
        r"x has values of 0 to 255; store x\.astype\('uint8'\)",
    ),
    "integers": (
        {"x": COLOUR.astype(int)},
        r"x has values of 0 to 255; store x\.astype\('uint8'\)",
    ),
    "transparent": (
        {"x": np.concatenate([COLOUR, COLOUR[..., :1]], 3)},
        r"x has 4 channels; store x\[\.\.\., :3\]",
    ),
    "many bands": ({"x": np.zeros((6, 9, 8, 13), np.uint8)}, "x has 13 channels"),
    "one image": ({"x": COLOUR[0]}, r"x looks like one image; if it is, store x\[None\]"),
    "rows": (
        {"x": GREY.reshape(6, -1)},
        r"found x \(6, 72\) uint8; expected uint8 of \(N, H, W, 3\)",
    ),
    "two of one split": ({"x_train": GREY, "masks_train": GREY}, "say which with --columns"),
    "one without a split": ({"x_train": GREY, "x": GREY}, "say which with --columns"),
}


@pytest.mark.parametrize("ending", ["npz", "h5"])
@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused_with_what_to_do(tmp_path: Path, name: str, ending: str) -> None:
    arrays, message = REFUSED[name]
    with pytest.raises(SourceError, match=message):
        list_source(write(tmp_path / f"a.{ending}", arrays))


def test_masks_beside_the_images_of_each_split(tmp_path: Path) -> None:
    arrays = {f"{kind}_{split}": GREY for kind in ("x", "masks") for split in ("train", "test")}
    source = list_source(write(tmp_path / "a.npz", arrays))
    assert [split for _, split in rows_of(source)].count(0) == 6
    assert len(source.items) == 12


@pytest.mark.parametrize(
    "name", ["channels first", "images last", "fractions", "floats", "one image"]
)
def test_what_is_to_be_stored_is_read(tmp_path: Path, name: str) -> None:
    arrays = REFUSED[name][0]
    with pytest.raises(SourceError, match="store") as caught:
        list_source(write(tmp_path / "a.npz", arrays))
    code = str(caught.value).partition("store ")[2].partition(", of 0")[0]
    stored = eval(code, {"x": arrays["x"]})
    item = list_source(write(tmp_path / "b.npz", {"x": stored})).items[0]
    np.testing.assert_array_equal(decode(read_item(item), (9, 8)), COLOUR[0])


def test_images_on_the_last_axis_are_refused(tmp_path: Path) -> None:
    """Source of the case: https://github.com/basveeling/pcam/issues/7."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 6), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(
        SourceError, match=r"images on its last axis; store image.transpose\(2, 0, 1"
    ):
        list_source(tmp_path / "a.npy")
    for stored, count in ((pixels.transpose(2, 0, 1), 6), (pixels[..., None], 32)):  # the advice
        np.save(tmp_path / "a.npy", stored)
        assert len(list_source(tmp_path / "a.npy").items) == count


def test_labels_with_more_axes_and_the_order_of_matlab(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    for shape in ((6,), (6, 1), (6, 1, 1, 1), (1, 6)):
        np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(6).reshape(shape))
        assert [item.label for item in list_source(tmp_path / "a.npz").items] == list(range(6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = pixels.transpose(0, 3, 2, 1)
        file["x"].attrs["MATLAB_class"] = b"uint8"
    with pytest.raises(
        SourceError, match=r"MATLAB's order of axes; store x\[\(\)\].transpose\(0, 3, 2"
    ):
        list_source(tmp_path / "a.h5")


def test_late_values_show_the_range(tmp_path: Path) -> None:
    values = np.zeros((200, 8, 8, 3), np.uint16)
    values[150:] = 300
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(SourceError, match=r"values of 0 to 300; store \(image >> 8\)"):
        list_source(tmp_path / "a.npy")


def test_files_of_features_and_weights_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["weights_sha256"] = "0"
    with pytest.raises(
        SourceError, match=r"found features of extract-features; give them to train"
    ):
        list_source(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("model_weights")
    with pytest.raises(SourceError, match=r"found the weights of a Keras model"):
        list_source(tmp_path / "b.h5")


def many(file: h5py.File) -> None:
    file.create_dataset("x", (10**12, 8, 8, 3), np.uint8, chunks=(1, 8, 8, 3))


def large(file: h5py.File) -> None:
    shape = (4, 10**6, 10**6, 3)
    file.create_dataset("x", shape, np.float32, chunks=(1, 100, 100, 3), compression="gzip")


def large_chunks(file: h5py.File) -> None:
    shape = (1024, 1024, 1024, 3)
    images = file.create_dataset("x", shape, np.uint8, chunks=shape, compression="gzip")
    plain = zlib.compress(bytes(2**20), 9)
    images.id.write_direct_chunk((0, 0, 0, 0), plain)


def long_labels(file: h5py.File) -> None:
    file["x"] = np.zeros((4, 8, 8, 3), np.uint8)
    file.create_dataset("y", (4,), "S1000000000", chunks=(1,), compression="gzip")


def repeated_labels(file: h5py.File) -> None:
    file["x"] = np.zeros((20_000, 2, 2, 3), np.uint8)
    file["y"] = ["a" * 10**6, *["b"] * 19_999]


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (many, "x with 1,000,000,000,000 images in 0 bytes"),
        (large, "x has images of 1,000,000,000,000 pixels"),
        (large_chunks, "x with chunks of 3.2 GB; expected at most 1 GB"),
        (long_labels, r"array y of \(4,\) .*expected at most 1 GB"),
        (repeated_labels, "y has more text than the file has bytes"),
    ],
)
def test_few_bytes_cannot_become_terabytes(
    write: Callable[[h5py.File], None], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write(file)
        place = file["y"].id.get_offset() if write is repeated_labels else None
    if place:
        content = bytearray(path.read_bytes())
        content[place : place + 320_000] = content[place : place + 16] * 20_000
        path.write_bytes(content)
    with pytest.raises(SourceError, match=problem):
        list_source(path)
