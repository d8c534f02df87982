"""TFRecord files as TensorFlow writes them: their names, compression, classes."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from extract.core.errors import ImageError, SourceError
from extract.images.item import Source, read_item
from extract.sources.listing import list_source
from tests.test_sources_records import CONTENTS, write_tfrecord

pytest.importorskip("google_crc32c")

CASES = Path(__file__).parent / "cases"
TEXT, NUMBER = "image/class/text", "image/class/label"


def record(**features: Any) -> bytes:
    """Return an example of TensorFlow's own; lists are features of several values."""
    kinds = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(each, bytes | str) for each in values):
            texts = [each.encode() if isinstance(each, str) else each for each in values]
            kind = tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        elif any(isinstance(each, float) for each in values):
            kind = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            kind = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        kinds[name.replace("__", "/")] = kind
    return bytes(tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString())


def write(path: Path, records: Sequence[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as file:
        for each in records:
            file.write(each)
    return path


def labelled(*labels: Any) -> list[bytes]:
    return [record(image=CONTENTS[0], label=label) for label in labels]


def as_imagenet(*classes: tuple[Any, Any]) -> list[bytes]:
    return [
        record(image__encoded=CONTENTS[0], image__class__label=number, image__class__text=text)
        for number, text in classes
    ]


def classes_of(source: Source) -> list[str]:
    names = (*source.class_names, "")
    return [names[item.label] for item in source.items]


NAMES = (
    *("train-00000-of-00002", "train.record", "00-224x224-798.tfrec", "pets.record-00000-of-00010"),
    *("set-train.tfrecord-00000-of-00001", "a.TFRECORDS", "images", "a.bin"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "set" / name, labelled(3, 5))
    for source in (list_source(path), list_source(path.parent)):
        assert classes_of(source) == ["3", "5"]
        assert read_item(source.items[1]) == CONTENTS[0]


def test_logs_of_training_are_no_images(tmp_path: Path) -> None:
    write(tmp_path / "events.out.tfevents.1700000000.host", [b"log"])
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(CONTENTS[0])
    assert list_source(tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tfrecord", "GZIP"),
        ("a.tfrecord", "ZLIB"),
        ("train-00000-of-00001", "GZIP"),
        ("train-00000-of-00001", "ZLIB"),
        ("it's.tfrecord.gz", "GZIP"),
    ],
)
def test_compressed_files_are_refused_with_a_command_that_works(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = write(tmp_path / "set" / name, labelled(3, 5), kind)
    message = f"compressed with {kind.lower()}; unpack it|packed with gzip; unpack it"
    for source in (path.parent, path):
        with pytest.raises(SourceError, match=message) as caught:
            list_source(source)
    command = str(caught.value).partition("unpack it with: ")[2]
    subprocess.run(command, shell=True, check=True, executable="/bin/bash")
    unpacked = [each for each in path.parent.iterdir() if each != path]
    assert classes_of(list_source(unpacked[0])) == ["3", "5"]


CLASSES: dict[str, tuple[list[tuple[Any, Any]], list[str]]] = {
    "texts": ([(7, "cat"), (8, "dog")], ["cat", "dog"]),
    "two numbers of one text": (
        [(135, "crane"), (518, "crane"), (3, "tench")],
        ["crane (135)", "crane (518)", "tench"],
    ),
    "forms and space": ([(1, "caf\u00e9"), (2, "cafe\u0301 ")], ["caf\u00e9 (1)", "caf\u00e9 (2)"]),
    "no text": ([(7, ""), (8, ""), (10, "")], ["7", "8", "10"]),
    "some texts": ([(7, "cat"), (8, ""), (7, "")], ["cat", "8", "cat"]),
    "a text that is a number": ([(1, "2"), (2, "")], ["2 (1)", "2 (2)"]),
    "no label": ([(-1, ""), (-1, "none"), (0, "cat"), (1, "dog")], ["", "", "cat", "dog"]),
    "binary": ([(-1, ""), (1, "")], ["-1", "1"]),
    "lists of one": ([([7], ["cat"]), ([8], ["dog"])], ["cat", "dog"]),
    "empty lists": ([([], []), (8, "dog"), (9, "cat")], ["", "dog", "cat"]),
    "floats": ([(7.0, "cat"), (8.0, "dog")], ["cat", "dog"]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_numbers_and_texts_of_classes(tmp_path: Path, name: str) -> None:
    classes, wanted = CLASSES[name]
    path = write(tmp_path / "a.tfrecord", as_imagenet(*classes))
    assert classes_of(list_source(path)) == wanted


def test_classes_are_named_over_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a-train.tfrecord", as_imagenet((135, "crane"), (3, "")))
    write(tmp_path / "a-test.tfrecord", as_imagenet((518, "crane"), (3, "tench")))
    source = list_source(tmp_path)
    assert source.class_names == ("crane (135)", "crane (518)", "tench")


REFUSED: dict[str, tuple[list[bytes], str]] = {
    "two texts": (
        as_imagenet((7, "cat"), (7, "dog")),
        r"class 7 is called 'cat' and 'dog'; expected one name",
    ),
    "a text without a number": (
        [
            *as_imagenet((1, "crane"), (2, "crane")),
            record(image__encoded=CONTENTS[0], image__class__text="crane"),
        ],
        r"found the name 'crane' without a number, beside classes of this name",
    ),
    "several labels": (labelled([1, 2]), r"record 0: feature label holds 2 values; expected one"),
    "several texts": (labelled(["a", "b"]), r"record 0: feature label holds 2 values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_with_two_meanings_are_refused(tmp_path: Path, name: str) -> None:
    records, message = REFUSED[name]
    with pytest.raises(SourceError, match=message):
        list_source(write(tmp_path / "a.tfrecord", records))


def test_the_user_may_name_the_number_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", as_imagenet((7, "cat"), (7, "dog"), (9, "cat")))
    assert classes_of(list_source(path, f"label={NUMBER}")) == ["7", "7", "9"]
    assert classes_of(list_source(path, f"label={TEXT}")) == ["cat", "dog", "cat"]


@pytest.mark.parametrize(
    ("feature", "name"), [("label", "label.labels.txt"), (NUMBER, "image.class.label.labels.txt")]
)
def test_tensorflow_datasets_writes_the_names_of_classes(
    tmp_path: Path, feature: str, name: str
) -> None:
    (tmp_path / name).write_text("rock\npaper\nscissors\n")
    (tmp_path / "features.json").write_text(json.dumps({}))
    path = tmp_path / "set-train.tfrecord-00000-of-00001"
    key = "image" if feature == "label" else "image__encoded"
    label = feature.replace("/", "__")
    write(path, [record(**{key: CONTENTS[0], label: each}) for each in (2, 0, -1, 2)])
    for source in (path, tmp_path):
        assert classes_of(list_source(source)) == ["scissors", "rock", "", "scissors"]
    (tmp_path / name).write_text("rock\npaper\n")
    with pytest.raises(SourceError, match=r"record 0: found label 2; expected less than 2"):
        list_source(tmp_path)


def test_objects_in_an_image_are_no_label_of_it(tmp_path: Path) -> None:
    """As the object detection API of TensorFlow writes them."""
    objects = {"image__object__class__label": [1, 2], "image__object__class__text": ["cat", "dog"]}
    path = write(tmp_path / "a.record", [record(image__encoded=CONTENTS[0], **objects)])
    source = list_source(path)
    assert classes_of(source) == [""]
    assert "found no labels" in source.warnings[0]
    assert "(image/object/class/label, image/object/class/text)" in source.warnings[0]


def test_several_images_in_a_record_fail(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [record(image=[CONTENTS[0], CONTENTS[1]], label=1)])
    with pytest.raises(ImageError, match="its record holds 2 images; expected one"):
        read_item(list_source(path).items[0])


def test_the_last_word_of_a_name_is_its_split(tmp_path: Path) -> None:
    write(tmp_path / "test_of_skin-train.tfrecord-00000-of-00001", labelled(0, 1))
    write(tmp_path / "test_of_skin-validation.tfrecord-00000-of-00001", labelled(0, 1))
    assert [item.split for item in list_source(tmp_path).items] == [0, 0, 1, 1]


def test_a_part_of_the_files_is_named(tmp_path: Path) -> None:
    for shard in (0, 2):
        write(tmp_path / f"train-{shard:05d}-of-00003", labelled(0, 1))
    said = list_source(tmp_path).warnings
    assert any("found 2 of the 3 files train-*-of-00003; expected all" in each for each in said)


def test_zeros_are_no_tfrecord(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(1000))
    with pytest.raises(SourceError, match="found a file that is not an image"):
        list_source(tmp_path / "a.bin")
    write_tfrecord(tmp_path / "b.bin", [b"x" * 20])
    (tmp_path / "b.bin").write_bytes((tmp_path / "b.bin").read_bytes()[:11])
    with pytest.raises(SourceError, match="found a file that is not an image"):
        list_source(tmp_path / "b.bin")


@pytest.mark.parametrize("name", ["train-00000-of-00002", "train.record", "00-224x224-4.tfrec"])
def test_names_of_files_from_issues(tmp_path: Path, name: str) -> None:
    content = (CASES / "tfrecord-endings" / "train-00000-of-00002").read_bytes()
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path, tmp_path / name):
        listed = list_source(source)
        assert len(listed.items) == 8
        assert set(classes_of(listed)) == {"crane (135)", "crane (518)"}


def test_two_classes_of_one_text_from_an_issue() -> None:
    source = list_source(CASES / "tfrecord-two-classes-one-text" / "train.tfrecord")
    assert source.class_names == (
        *("crane (135)", "crane (518)", "maillot", "maillot, tank suit", "tench"),
    )
    assert len(source.items) == 20
    assert all(classes_of(source).count(name) == 4 for name in source.class_names)
