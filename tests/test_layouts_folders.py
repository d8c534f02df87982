"""Folders of every layout give the classes, splits and groups that their makers meant, or an error.

The layouts are those of public data sets and reports; the name of each says which.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest
from PIL import Image

from extract.core.errors import SettingError, SourceError
from extract.layouts.doubts import check_parts
from extract.layouts.overview import describe_source
from extract.layouts.split_folders import split_in
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source
from extract.store.open import open_store
from tests.conftest import QUICK
from tests.test_sources_listing import plant

TRAIN, VALIDATION, TEST = 0, 1, 2
Row = tuple[str, int, str]  # class, split, group


def rows_of(root: Path, columns: str = "") -> dict[str, Row]:
    """Return class, split and group of each key."""
    source = list_source(root, columns)
    names = (*source.class_names, "")
    return {item.key: (names[item.label], item.split, item.group) for item in source.items}


LAYOUTS: dict[str, dict[str, Row]] = {
    # https://github.com/huggingface/datasets/issues/7880
    "intel": {
        "seg_pred/seg_pred/0.jpg": ("", TEST, ""),
        "seg_test/seg_test/forest/0.jpg": ("forest", TEST, ""),
        "seg_test/seg_test/sea/0.jpg": ("sea", TEST, ""),
        "seg_train/seg_train/forest/0.jpg": ("forest", TRAIN, ""),
        "seg_train/seg_train/sea/0.jpg": ("sea", TRAIN, ""),
    },
    # https://github.com/fastai/fastai/issues/1552
    "coco": {
        "train2017/a/0.jpg": ("a", TRAIN, ""),
        "train2017/b/0.jpg": ("b", TRAIN, ""),
        "val2017/a/0.jpg": ("a", VALIDATION, ""),
        "val2017/b/0.jpg": ("b", VALIDATION, ""),
    },
    "images": {
        "test_images/a/0.jpg": ("a", TEST, ""),
        "test_images/b/0.jpg": ("b", TEST, ""),
        "train_images/a/0.jpg": ("a", TRAIN, ""),
        "train_images/b/0.jpg": ("b", TRAIN, ""),
    },
    "flat splits": {"test_images/0.jpg": ("", TEST, ""), "train_images/0.jpg": ("", TRAIN, "")},
    "dogs against cats": {"test1/1.jpg": ("", TEST, ""), "train/cat.0.jpg": ("", TRAIN, "")},
    "dogs against cats, unzipped twice": {
        "test1/test1/1.jpg": ("", TEST, ""),
        "train/train/cat.0.jpg": ("", TRAIN, ""),
    },
    "brain tumours": {
        "Testing/glioma/0.jpg": ("glioma", TEST, ""),
        "Testing/none/0.jpg": ("none", TEST, ""),
        "Training/glioma/0.jpg": ("glioma", TRAIN, ""),
        "Training/none/0.jpg": ("none", TRAIN, ""),
    },
    "development": {
        "dev/a/0.jpg": ("a", VALIDATION, ""),
        "dev/b/0.jpg": ("b", VALIDATION, ""),
        "train/a/0.jpg": ("a", TRAIN, ""),
        "train/b/0.jpg": ("b", TRAIN, ""),
    },
    "a class called dev": {"design/0.jpg": ("design", 0, ""), "dev/0.jpg": ("dev", 0, "")},
    "sets": {
        "TestSet/a/0.jpg": ("a", TEST, ""),
        "TestSet/b/0.jpg": ("b", TEST, ""),
        "TrainSet/a/0.jpg": ("a", TRAIN, ""),
        "TrainSet/b/0.jpg": ("b", TRAIN, ""),
        "val_set/a/0.jpg": ("a", VALIDATION, ""),
        "val_set/b/0.jpg": ("b", VALIDATION, ""),
    },
    "the same words in each name": {
        "leaf_test/a/0.jpg": ("a", TEST, ""),
        "leaf_train/a/0.jpg": ("a", TRAIN, ""),
        "leaf_train/b/0.jpg": ("b", TRAIN, ""),
    },
    "classes with the words of splits": {
        "bullet_train/0.jpg": ("bullet_train", 0, ""),
        "car/0.jpg": ("car", 0, ""),
        "test_tube/0.jpg": ("test_tube", 0, ""),
    },
    "experiments": {"test1/0.jpg": ("test1", 0, ""), "test2/0.jpg": ("test2", 0, "")},
    "splits below classes": {
        "cat/test/0.jpg": ("cat", TEST, ""),
        "cat/train/0.jpg": ("cat", TRAIN, ""),
        "dog/test/0.jpg": ("dog", TEST, ""),
        "dog/train/0.jpg": ("dog", TRAIN, ""),
    },
    # food-101.tar.gz
    "wrappers": {
        "food-101/images/pie/0.jpg": ("pie", 0, ""),
        "food-101/images/ramen/0.jpg": ("ramen", 0, ""),
    },
    "wrappers around splits": {
        "a/b/test/x/0.jpg": ("x", TEST, ""),
        "a/b/train/x/0.jpg": ("x", TRAIN, ""),
        "a/b/train/y/0.jpg": ("y", TRAIN, ""),
    },
    "images in each split": {
        "train/images/x/0.jpg": ("x", TRAIN, ""),
        "train/images/y/0.jpg": ("y", TRAIN, ""),
        "val/images/x/0.jpg": ("x", VALIDATION, ""),
        "val/images/y/0.jpg": ("y", VALIDATION, ""),
    },
    "images in one split": {
        "train/x/0.jpg": ("x", TRAIN, ""),
        "train/y/0.jpg": ("y", TRAIN, ""),
        "val/images/x/0.jpg": ("x", VALIDATION, ""),
        "val/images/y/0.jpg": ("y", VALIDATION, ""),
    },
    # Tiny ImageNet
    "a split without labels": {
        "test/images/0.jpg": ("", TEST, ""),
        "train/n01/images/0.jpg": ("n01", TRAIN, ""),
        "train/n02/images/0.jpg": ("n02", TRAIN, ""),
        "val/images/0.jpg": ("", VALIDATION, ""),
    },
    "unlabelled": {
        "test/unlabeled/0.jpg": ("", TEST, ""),
        "train/x/0.jpg": ("x", TRAIN, ""),
        "train/y/0.jpg": ("y", TRAIN, ""),
    },
    # https://github.com/ultralytics/ultralytics/issues/1445
    "yolo, images first": {
        "images/train/0.jpg": ("", TRAIN, ""),
        "images/val/1.jpg": ("", VALIDATION, ""),
    },
    "yolo, splits first": {
        "train/images/0.jpg": ("", TRAIN, ""),
        "valid/images/1.jpg": ("", VALIDATION, ""),
    },
    "patients": {
        "P01/normal/0.jpg": ("normal", 0, "P01"),
        "P01/tumour/0.jpg": ("tumour", 0, "P01"),
        "P02/normal/0.jpg": ("normal", 0, "P02"),
        "P03/tumour/a/0.jpg": ("tumour", 0, "P03"),
    },
    "patients in splits": {
        "test/site 3/normal/0.jpg": ("normal", TEST, "site 3"),
        "test/site 3/tumour/0.jpg": ("tumour", TEST, "site 3"),
        "train/site 1/normal/0.jpg": ("normal", TRAIN, "site 1"),
        "train/site 2/tumour/0.jpg": ("tumour", TRAIN, "site 2"),
    },
    "classes that begin with a word for groups": {
        "animal_cat/adult/0.jpg": ("animal_cat", 0, ""),
        "animal_cat/kitten/0.jpg": ("animal_cat", 0, ""),
        "animal_dog/adult/0.jpg": ("animal_dog", 0, ""),
        "animal_dog/puppy/0.jpg": ("animal_dog", 0, ""),
    },
    "sites over years": {
        "site0/2020/weed/0.jpg": ("weed", 0, "site0"),
        "site1/2020/wheat/0.jpg": ("wheat", 0, "site1"),
    },
    "images over the classes of one split": {
        "test/images/0.jpg": ("", TEST, ""),
        "train/images/cats/0.jpg": ("cats", TRAIN, ""),
        "train/images/dogs/0.jpg": ("dogs", TRAIN, ""),
    },
    "traffic signs": {
        "GTSRB/Final_Test/Images/0.ppm": ("", TEST, ""),
        "GTSRB/Final_Training/Images/00000/0.ppm": ("00000", TRAIN, ""),
        "GTSRB/Final_Training/Images/00001/0.ppm": ("00001", TRAIN, ""),
    },
    "traffic signs to train with": {
        "GTSRB/Final_Training/Images/00000/0.ppm": ("00000", TRAIN, ""),
        "GTSRB/Final_Training/Images/00001/0.ppm": ("00001", TRAIN, ""),
    },
    "split in a split": {
        "test_zip/test/0.jpg": ("", TEST, ""),
        "train_zip/train/cats/0.jpg": ("cats", TRAIN, ""),
        "train_zip/train/dogs/0.jpg": ("dogs", TRAIN, ""),
    },
    "signs of letters": {
        "asl_alphabet_train/asl_alphabet_train/A/0.jpg": ("A", TRAIN, ""),
        "asl_alphabet_train/asl_alphabet_train/B/0.jpg": ("B", TRAIN, ""),
    },
    "a wrapper with the word of a split": {
        "my_test_project/train/cats/0.jpg": ("cats", TRAIN, ""),
        "my_test_project/train/dogs/0.jpg": ("dogs", TRAIN, ""),
        "my_test_project/val/cats/0.jpg": ("cats", VALIDATION, ""),
        "my_test_project/val/dogs/0.jpg": ("dogs", VALIDATION, ""),
    },
    "years in classes": {
        "cats/2020/0.jpg": ("cats", 0, ""),
        "cats/2021/0.jpg": ("cats", 0, ""),
        "dogs/2020/0.jpg": ("dogs", 0, ""),
        "dogs/2021/0.jpg": ("dogs", 0, ""),
    },
    "numbered classes": {
        "class1/left/0.jpg": ("class1", 0, ""),
        "class2/left/0.jpg": ("class2", 0, ""),
    },
    "patients of one kind each": {
        "P01/tumour/0.jpg": ("tumour", 0, "P01"),
        "P02/normal/0.jpg": ("normal", 0, "P02"),
    },
    "patients with images inside": {
        "patient 1/images/normal/0.jpg": ("normal", 0, "patient 1"),
        "patient 2/images/tumour/0.jpg": ("tumour", 0, "patient 2"),
    },
    "waste": {
        "organic/0.jpg": ("organic", 0, ""),
        "recycled/0.jpg": ("recycled", 0, ""),
        "recycler/0.jpg": ("recycler", 0, ""),
    },
    "classes over splits written in other ways": {
        "cat/test_images/0.jpg": ("cat", TEST, ""),
        "dog/train_images/0.jpg": ("dog", TRAIN, ""),
    },
    # https://github.com/photoview/photoview/issues/430
    "folders of systems": {"cat/0.jpg": ("cat", 0, ""), "dog/0.jpg": ("dog", 0, "")},
}
CLUTTER = (
    *("cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old/1.jpg", "$RECYCLE.BIN/2.jpg"),
    *(".thumbnails/0.jpg", "cat/.ipynb_checkpoints/0-checkpoint.jpg", "lost+found/3.jpg"),
    *("__MACOSX/cat/._0.jpg", "System Volume Information/x.jpg", "@Recycle/0.jpg", "Thumbs.db"),
    *("#snapshot/cat/0.jpg", "dog/@__thumb/0.jpg", "dog/.@__thumb/0.jpg", "RECYCLER/S-1/0.jpg"),
    *(".Trash-1000/files/0.jpg", "Network Trash Folder/0.jpg", "cat/desktop.ini", ".git/0.jpg"),
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_have_one_reading(tmp_path: Path, name: str) -> None:
    expected = LAYOUTS[name]
    root = plant(tmp_path, [*expected, *(CLUTTER if name == "folders of systems" else ())])
    assert rows_of(root) == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["seg_train/a/0.jpg", "seg_test/a/0.jpg", "extra/a/0.jpg"], "1 other folder (extra: 1)"),
        (["train_images/a/0.jpg", "test_images/a/0.jpg", "cats/0.jpg"], "1 other folder (cats: 1)"),
        (["val/a/0.jpg", "dev/a/0.jpg", "train/a/0.jpg"], "(dev: 1, val: 1) that are all val"),
        (["train_1/a/0.jpg", "train_2/a/0.jpg"], "2 split folders (train_1: 1, train_2: 1)"),
        (
            [f"{top}/{name}/0.jpg" for top in ("cats", "dogs") for name in ("indoor", "outdoor")],
            "2 folders (cats, dogs) with 2 folders (indoor, outdoor) inside; either may be",
        ),
        (
            [f"{top}/{name}/0.jpg" for top in ("8863", "9022", "9023") for name in "01"],
            "3 folders (8863, 9022, 9023) with 2 folders (0, 1) inside; either may be",
        ),
        # https://github.com/bodokaiser/piwise/issues/22
        (["JPEGImages/0.jpg", "SegmentationClass/0.png"], "2 folders (JPEGImages, Segmentation"),
        (["images/0.jpg", "masks/0.png"], "2 folders (images, masks), which are parts of a data"),
        (["set_images_part_1/0.jpg", "set_images_part_2/1.jpg"], "2 folders (set_images_part_1"),
        (
            [f"{d}/{n}/0.jpg" for d in "0123" for n in ("original", "augmented")],
            "4 folders (0, 1, 2, ...) with 2 folders (augmented, original) inside",
        ),
        (
            [f"P0{d}/{n}/0.jpg" for d in "12" for n in ("left", "right")],
            "2 folders (P01, P02) with 2 folders (left, right) inside",
        ),
        (
            [f"{d}/images/{n}/0.jpg" for d in ("amazon", "webcam") for n in ("bike", "mug")],
            "2 folders (amazon, webcam) with 2 folders (bike, mug) inside",
        ),
        (
            [f"hospital_{a}/{b}/0.jpg" for a in ("north", "south") for b in ("ill", "well")],
            "2 folders (hospital_north, hospital_south) with 2 folders (ill, well) inside",
        ),
        (
            [f"{a}/{b}/0.jpg" for a in ("person", "animal") for b in ("day", "night")],
            "2 folders (animal, person) with 2 folders (day, night) inside",
        ),
        (
            ["P01/tumour/a.jpg", "P01/normal/b.jpg", "P02/tumour/c.jpg", "P02/overview.jpg"],
            "2 folders (P01, P02) with 2 folders (normal, tumour) inside",
        ),
        (
            [
                f"fold{k}/{s}/{c}/0.jpg"
                for k in "12"
                for s in ("train", "val")
                for c in ("cat", "dog")
            ],
            "splits at level 2, 2 folders (fold1, fold2) above and 2 folders (cat, dog) below",
        ),
    ],
)
def test_layouts_that_have_two_readings(tmp_path: Path, keys: list[str], words: str) -> None:
    with pytest.raises(SourceError) as caught:
        list_source(plant(tmp_path, keys))
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(tmp_path))
    assert "--columns label=1" in message
    # The advice works as printed.
    assert len(list_source(tmp_path, "label=1").class_names) > 1


def test_the_levels_of_advice_are_those_of_the_source(tmp_path: Path) -> None:
    keys = [f"PACS/{d}/{c}/0.jpg" for d in ("photo", "art") for c in ("dog", "elephant")]
    with pytest.raises(SourceError, match=r"add --columns label=2, or label=3,group=2 if"):
        list_source(plant(tmp_path / "a", keys))
    assert list_source(tmp_path / "a", "label=2").class_names == ("art", "photo")
    assert rows_of(tmp_path / "a", "label=3,group=2")[keys[0]] == ("dog", 0, "photo")
    keys = [f"{s}/{d}/{c}/0.jpg" for s in ("train", "val") for d in ("photo", "art") for c in "xy"]
    with pytest.raises(SourceError, match=r"add --columns label=2, or label=3,group=2 if"):
        list_source(plant(tmp_path / "b", keys))
    # Splits at the top are kept.
    assert rows_of(tmp_path / "b", "label=3,group=2")[keys[-1]] == ("y", VALIDATION, "art")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["cat/train/0.jpg", "dog/test/0.jpg", "cat/masks/0.jpg"], "1 other folder (masks)"),
        (
            [f"{a}/{b}/0.png" for a in ("COVID", "Normal") for b in ("images", "masks")],
            "2 folders (COVID, Normal) with 2 folders (images, masks) inside, which are parts",
        ),
    ],
)
def test_other_folders_among_images_are_refused(
    tmp_path: Path, keys: list[str], words: str
) -> None:
    with pytest.raises(SourceError) as caught:
        list_source(plant(tmp_path, keys))
    assert words in str(caught.value)
    assert "out of SOURCE" in str(caught.value)


def test_named_levels_do_not_merge_splits(tmp_path: Path) -> None:
    keys = [f"{place}/0.jpg" for place in ("train/a", "train/b", "test/a", "test/b", "extra/a")]
    with pytest.raises(SourceError, match=r"1 other folder \(extra: 1\)"):
        list_source(plant(tmp_path, keys), "label=2")


def test_a_set_inside_itself_is_refused(tmp_path: Path) -> None:
    keys = [f"{place}/0.jpg" for place in ("A", "B", "Village/A", "Village/B")]
    with pytest.raises(
        SourceError, match=r"found 2 folders \(A, B\) a second time, in Village; move"
    ):
        list_source(plant(tmp_path, keys))


def test_numbered_classes_are_no_parts() -> None:
    assert list(check_parts("x", [f"n{i:08d}" for i in range(1000)], 1)) == []
    with pytest.raises(SourceError, match="which are parts of a data set"):
        list(check_parts("x", [f"crop_part{i}" for i in range(3)], 1))


def test_levels_of_folders_are_named(tmp_path: Path) -> None:
    root = plant(
        tmp_path, [f"{top}/{n}/{i}.jpg" for top in ("8863", "9022") for n in "01" for i in "ab"]
    )
    by_class = rows_of(root, "label=1")
    assert {row[0] for row in by_class.values()} == {"8863", "9022"}
    by_patient = rows_of(root, "label=2,group=1")
    assert by_patient["8863/0/a.jpg"] == ("0", 0, "8863")
    assert by_patient["9022/1/b.jpg"] == ("1", 0, "9022")
    plant(tmp_path / "other", ["x/val_1/a/0.jpg", "y/train_1/b/0.jpg"])
    assert rows_of(tmp_path / "other", "split=2,label=3") == {
        "x/val_1/a/0.jpg": ("a", VALIDATION, ""),
        "y/train_1/b/0.jpg": ("b", TRAIN, ""),
    }
    with pytest.raises(SourceError, match=r"found 'x' at level 1 of 'x/val_1/a'; expected one of"):
        list_source(tmp_path / "other", "split=1")
    with pytest.raises(SourceError, match=r"found label=9, but 2 levels of folders; expected 1 t"):
        list_source(plant(tmp_path / "flat", ["a/b/0.jpg"]), "label=9")
    for columns in ("label=0", "label=species", "path=1"):
        with pytest.raises(SettingError, match=f"has no effect on .* with {columns}; expected"):
            list_source(root, columns)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", 0), ("Training", 0), ("trainset", 0), ("train2017", 0), ("trainA", 0)),
        *(("ILSVRC2012_img_val", 1), ("imagesVal", 1), ("X_train", 0), ("10_test", 2)),
        *(("validation-split", 1), ("dev", 1), ("test1", 2), ("seg_pred", 2)),
    ],
)
def test_names_of_splits(name: str, split: int) -> None:
    split_name = split_in(name)
    assert split_name is not None
    assert split_name.split == split


@pytest.mark.parametrize(
    "name", ["trains", "trainval", "train_test", "contest", "latest", "", "évaluer"]
)
def test_names_that_are_no_splits(name: str) -> None:
    assert split_in(name) is None


def warnings_of(root: Path) -> str:
    return " | ".join(list_source(root).warnings)


def test_names_in_two_forms_of_unicode_are_one_class(tmp_path: Path) -> None:
    """Source of the case: https://github.com/Garmelon/PFERD/pull/141."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    keys = [
        f"train/{composed}/0.jpg",
        f"val/{decomposed}/0.jpg",
        "train/the/0.jpg",
        "val/the/0.jpg",
    ]
    root = plant(tmp_path / "splits", keys)
    assert {row[0] for row in rows_of(root).values()} == {composed, "the"}
    assert list_source(root).class_names == (composed, "the")
    assert r"'cafe\u0301' and 'caf\xe9' differ only in their Unicode form" in warnings_of(root)
    root = plant(tmp_path / "flat", [f"{composed}/0.jpg", f"{decomposed}/1.jpg", "the/2.jpg"])
    assert [row[0] for row in rows_of(root).values()] == [composed, composed, "the"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("Cat", "cat"), "'Cat': 1, 'cat': 1"),
        (("cat", "cat "), "'cat ': 1, 'cat': 1"),
        (("a b", "a\u00a0b"), r"'a b': 1, 'a\xa0b': 1"),
        (("\ufb01sh", "fish"), r"'\ufb01sh': 1, 'fish': 1"),
        (("ab", "a\u200bb"), r"'a\u200bb': 1, 'ab': 1"),
        (("Stra\u00dfe", "STRASSE"), r"'STRASSE': 1, 'Stra\xdfe': 1"),
    ],
)
def test_classes_that_look_alike_are_shown(
    tmp_path: Path, names: tuple[str, str], shown: str
) -> None:
    root = plant(tmp_path, [f"{name}/0.jpg" for name in (*names, "other")])
    if len(list(root.iterdir())) < 3:
        pytest.skip("names that differ in case are one folder here")
    assert set(list_source(root).class_names) == {*names, "other"}
    assert f"found 2 class names ({shown}) that differ only by" in warnings_of(root)


def test_a_class_of_another_case_in_another_split(tmp_path: Path) -> None:
    keys = [f"{split}/{name}/0.jpg" for split in ("train", "val") for name in ("cat", "dog")]
    keys[2:] = [key.title().replace("Val", "val").replace("Jpg", "jpg") for key in keys[2:]]
    said = warnings_of(plant(tmp_path, keys))
    assert "'Cat': 1, 'cat': 1" in said
    assert "'Dog': 1, 'dog': 1" in said


def test_whole_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    plant(tmp_path / "numbers", [f"{i}/0.jpg" for i in range(12)])
    source = list_source(tmp_path / "numbers")
    assert source.class_names == tuple(map(str, range(12)))
    assert {item.key: item.label for item in source.items} == {f"{i}/0.jpg": i for i in range(12)}
    plant(tmp_path / "mixed", [f"{name}/0.jpg" for name in ("10", "9", "x")])
    assert list_source(tmp_path / "mixed").class_names == ("10", "9", "x")


UNREAD = {
    "Photoshop": (b"8BPS\0\1" + bytes(26), "IMG.psd"),
    "camera raw": (b"II*\0" + bytes(28), "IMG.NEF"),
    "JPEG XL": (b"\xff\x0a" + bytes(30), "IMG.jxl"),
    "DICOM": (bytes(128) + b"DICM", "IMG.dcm"),
    "SVG": (b"<svg xmlns='x'/>" + bytes(20), "IMG.svg"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_images_of_kinds_that_are_not_read_are_named(tmp_path: Path, kind: str) -> None:
    content, name = UNREAD[kind]
    root = plant(tmp_path, ["apple/0.jpg", "pear/0.jpg"])
    (root / "pear" / name).write_bytes(content)
    assert [*rows_of(root)] == ["apple/0.jpg", "pear/0.jpg"]
    found = f"passed over 1 {kind} image (pear/{name}), a kind that is not read; convert them"
    assert found in warnings_of(root)
    (root / "pear" / "0.jpg").unlink()
    with pytest.raises(SourceError, match=rf"1 class \(pear\) would vanish: found only 1 {kind}"):
        list_source(root)
    shutil.rmtree(root / "apple")
    with pytest.raises(SourceError, match=rf"no image that can be read, but 1 {kind} image"):
        list_source(root)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        # https://github.com/FengheTan9/CMUNeXt/issues/11
        (
            ["a/x (1).png", "a/x (1)_mask.png", "b/y.png"],
            "1 image (a/x (1)_mask.png) with the name",
        ),
        (["cat/0.jpg", "dog/0.jpg", "masks/0.png"], "found 1 class (masks) with the name of masks"),
        (["x/a.png", "x/mask_a.png", "y/b.png"], "1 image (x/mask_a.png) with the name of a mask"),
        (["yes/0.jpg", "no/0.jpg", "pred/0.jpg"], "1 class (pred) with the name of images to pr"),
        (["img_align/0.jpg", "list.csv"], "found no labels, but 1 table (list.csv)"),
        ([f"{i}_{w}.png" for w in ("cat", "dog") for i in "123"], "or end with 2 words (cat, dog)"),
        (
            [*(f"train/train/{w}.{i}.jpg" for w in ("cat", "dog") for i in "123"), "test1/1.jpg"],
            "or end with 2 words (cat, dog)",
        ),
        # https://github.com/pytorch/vision/issues/2605
        (["a/alley/0.jpg", "a/attic/0.jpg", "b/bakery/0.jpg"], "3 folders (alley, attic, bakery)"),
        # https://github.com/huggingface/datasets/pull/4311
        (["0.jpg", "1.jpg", "metadata.csv"], "but 1 table (metadata.csv); give the one that"),
        (["images/0.jpg", "labels/0.txt"], "1 file (labels/0.txt) with the names of images"),
        # https://practical-engineer.ai/recognizing-cats-and-dogs-with-tensorflow
        (
            [f"{word}.{i}.jpg" for word in ("cat", "dog") for i in range(3)],
            "names of images begin or end with 2 words (cat, dog)",
        ),
    ],
)
def test_doubts_are_told(tmp_path: Path, keys: Sequence[str], words: str) -> None:
    assert words in warnings_of(plant(tmp_path, keys))


def test_the_overview_shows_ten_classes_and_counts_the_rest(tmp_path: Path) -> None:
    plant(tmp_path, [f"train/{i:03d}/{j}.jpg" for i in range(200) for j in range(2)])
    plant(tmp_path, [f"test/{i:03d}/0.jpg" for i in range(100)])
    lines = describe_source(list_source(tmp_path)).splitlines()
    assert lines[0] == f"{tmp_path}: 500 images, 200 classes"
    assert lines[1].split() == ["train", "test"]
    assert lines[2].split() == ["000", "2", "1"]
    assert lines[11].split() == ["009", "2", "1"]
    assert lines[12].split() == ["and", "190", "more", "380", "90"]
    assert lines[13].split() == ["all", "400", "100"]
    assert lines[14] == "  read as SPLIT/CLASS"
    assert len(lines) == 15


def test_a_file_from_before_keeps_its_order_of_numbers(tmp_path: Path) -> None:
    for i in range(11):
        (tmp_path / "set" / str(i)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "set" / str(i) / "0.png")
    out = tmp_path / "x.h5"
    extract_features(tmp_path / "set", out, **QUICK)
    before = sorted(map(str, range(11)))  # as text: 0, 1, 10, 2, ...
    with h5py.File(out, "r+") as file:
        labels = [before.index(key.decode().split("/")[0]) for key in file["keys"][()]]
        file["labels"][...] = labels
        file.attrs["class_names"] = before
    assert extract_features(tmp_path / "set", out).computed == 0
    with open_store(out) as store:
        assert store.class_names == tuple(before)
        assert store.labels.tolist() == labels


@pytest.mark.parametrize("listed", [True, False])
def test_sorted_images_without_a_label_are_no_class(tmp_path: Path, listed: bool) -> None:
    plant(tmp_path, ["cat/a.png", "dog/b.png", "unlabelled/c.png", *["sorted.csv"] * listed])
    source = list_source(tmp_path)
    assert source.class_names == (("cat", "dog") if listed else ("cat", "dog", "unlabelled"))
    assert [item.label for item in source.items] == [0, 1, -1 if listed else 2]
    said = "unlabelled is no class: predict-images --sort had no label for these images"
    assert any(warning.endswith(said) for warning in source.warnings) == listed
