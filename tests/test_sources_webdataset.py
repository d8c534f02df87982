"""Label files next to the images of an archive, as the library ``webdataset`` writes them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extract.core.errors import SourceError
from extract.sources.listing import list_source
from tests.test_sources_archives import pack, placed

CASES = Path(__file__).parent / "cases"

# Names of images -> classes: names with dates, several images of a sample, several full stops.
SAMPLES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "dates": (
        {f"IMG_2024.05.{day}.cls": name for day, name in (("01", "cat"), ("02", "dog"))},
        {"IMG_2024.05.01.jpg": "cat", "IMG_2024.05.02.jpg": "dog"},
    ),
    "one label file for a sample": (
        {"0.cls": "cat", "1.cls": "dog"},
        {"0.left.png": "cat", "0.right.png": "cat", "1.left.png": "dog", "1.png": "dog"},
    ),
    "another name in the sample": (
        {"000.label.cls": "cat", "001.label.cls": "dog"},
        {"000.image.jpg": "cat", "001.image.jpg": "dog", "001.more.jpg": "dog"},
    ),
    "other names and dates": (
        {"a.05.01.label.cls": "cat", "a.05.02.label.cls": "dog"},
        {"a.05.01.image.jpg": "cat", "a.05.02.image.jpg": "dog"},
    ),
    "the whole name": (
        {"a.1.jpg.cls": "cat", "a.2.jpg.cls": "dog"},
        {"a.1.jpg": "cat", "a.2.jpg": "dog"},
    ),
    "own before shared": ({"a.cls": "cat", "a.1.cls": "dog"}, {"a.jpg": "cat", "a.1.jpg": "dog"}),
    "shorter": (
        {"a.05.cls": "cat", "a.06.cls": "dog"},
        {"a.05.1.jpg": "cat", "a.05.2.jpg": "cat", "a.06.x.y.jpg": "dog"},
    ),
    "folders with full stops": (
        {"v1.0/a.cls": "cat", "v1.1/a.cls": "dog"},
        {"v1.0/a.jpg": "cat", "v1.1/a.jpg": "dog"},
    ),
}


@pytest.mark.parametrize("ending", [".cls", ".json"])
@pytest.mark.parametrize("name", SAMPLES)
def test_each_image_has_the_label_file_of_its_own_name(
    tmp_path: Path, name: str, ending: str
) -> None:
    labels, wanted = SAMPLES[name]
    contents = dict.fromkeys(wanted, b"x")
    for key, label in labels.items():
        content = label if ending == ".cls" else json.dumps({"label": label})
        contents[key.replace(".cls", ending)] = content.encode()
    found = placed(list_source(pack(tmp_path / "a.tar", contents)))
    assert {key: name for key, (name, _, _) in found.items()} == wanted


UNCLEAR: dict[str, tuple[Mapping[str, str], str]] = {
    "of two other names": (
        {"0.image.jpg": "x", "0.kind.cls": "cat", "0.colour.cls": "red"},
        r"found 2 label files \(0\.colour\.cls, 0\.kind\.cls\) for 0\.image\.jpg",
    ),
    "the own of another image": (
        {"a.01.jpg": "x", "a.02.jpg": "x", "a.01.cls": "cat"},
        r"found 1 image \(a\.02\.jpg\) without \.cls",
    ),
    "of another image, by another name": (
        {"a.01.image.jpg": "x", "a.02.image.jpg": "x", "a.01.label.cls": "cat"},
        r"found 1 image \(a\.02\.image\.jpg\) without \.cls",
    ),
    "the shorter one is another image's": (
        {"a.jpg": "x", "a.1.jpg": "x", "a.2.jpg": "x", "a.cls": "cat", "a.1.cls": "dog"},
        r"found 1 image \(a\.2\.jpg\) without \.cls",
    ),
    "two labels in JSON": (
        {"0.image.jpg": "x", "0.a.json": '{"label": 1}', "0.b.json": '{"label": 2}'},
        r"found 2 label files \(0\.a\.json, 0\.b\.json\) for 0\.image\.jpg",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_label_file_of_no_sure_image_is_refused(tmp_path: Path, name: str) -> None:
    contents, message = UNCLEAR[name]
    path = pack(tmp_path / "a.tar", {key: text.encode() for key, text in contents.items()})
    with pytest.raises(SourceError, match=message):
        list_source(path)


def test_json_about_something_else_is_no_second_label_file(tmp_path: Path) -> None:
    contents = {"0.image.jpg": b"x", "0.boxes.json": b"[1, 2]", "0.meta.json": b'{"label": "cat"}'}
    contents |= {"1.image.jpg": b"x", "1.boxes.json": b"[]", "1.meta.json": b'{"label": "dog"}'}
    found = placed(list_source(pack(tmp_path / "a.tar", contents)))
    assert [name for name, _, _ in found.values()] == ["cat", "dog"]


def test_a_label_file_of_windows_has_a_mark_in_front(tmp_path: Path) -> None:
    contents = {"0.jpg": b"x", "0.cls": b"\xef\xbb\xbfcat\r\n", "1.jpg": b"x", "1.cls": b"dog\r\n"}
    source = list_source(pack(tmp_path / "a.tar", contents))
    assert source.class_names == ("cat", "dog")


def test_many_names_with_one_beginning_take_no_time(tmp_path: Path) -> None:
    from extract.sources.webdataset import _pair

    images = [f"run.{i:06d}.image.jpg" for i in range(50_000)]
    files = [f"run.{i:06d}.label.cls" for i in range(50_000)]
    pairs = _pair(images, files)
    assert [pairs[key] for key in images] == [[file] for file in files]


_WRITE = """
import sys, webdataset
with webdataset.ShardWriter(sys.argv[1] + "/s-%04d.tar", maxcount=3, verbose=0) as shards:
    for i in range(6):
        key = f"{'train' if i < 4 else 'val'}/2024.05.{i:02d}"
        label = {"label": ["cat", "dog"][i % 2], "split": "train" if i < 4 else "val"}
        labels = {"cls": i % 2} if sys.argv[2] == "cls" else {"json": label}
        shards.write({"__key__": key, "jpg": b"image %d" % i, **labels})
"""


@pytest.mark.parametrize(("kind", "names"), [("cls", ("0", "1")), ("json", ("cat", "dog"))])
def test_shards_of_the_library_webdataset(
    tmp_path: Path, kind: str, names: tuple[Any, ...]
) -> None:
    pytest.importorskip("webdataset")
    # A process of its own, because the library warns when it is imported.
    command = [sys.executable, "-c", _WRITE, str(tmp_path), kind]
    subprocess.run(command, check=True, capture_output=True)
    found = placed(list_source(tmp_path / "s-{0000..0001}.tar"))
    splits = [0, 0, 0, 0, 1, 1] if kind == "json" else [0] * 6
    assert list(found.values()) == [(names[i % 2], splits[i], "") for i in range(6)]


def test_names_with_dates_from_an_issue() -> None:
    found = placed(list_source(CASES / "webdataset-dotted-names" / "dates.tar"))
    assert {key: name for key, (name, _, _) in found.items()} == {
        "IMG_2024.05.01.jpg": "cat",
        "IMG_2024.05.02.jpg": "dog",
        "IMG_2024.05.03.jpg": "cat",
        "IMG_2025.01.01.jpg": "dog",
        "IMG_2025.01.02.jpg": "cat",
        "IMG_2025.01.03.jpg": "dog",
    }


def test_images_that_share_a_label_file_are_one_group(tmp_path: Path) -> None:
    """Source of the case: https://github.com/webdataset/webdataset/issues/20."""
    contents: dict[str, bytes] = {}
    for i, name in enumerate((b"cat", b"dog")):
        contents |= {f"{i}.left.png": b"l", f"{i}.right.png": b"r", f"{i}.cls": name}
    source = list_source(pack(tmp_path / "a.tar", contents))
    assert placed(source) == {
        "0.left.png": ("cat", 0, "0.cls"),
        "0.right.png": ("cat", 0, "0.cls"),
        "1.left.png": ("dog", 0, "1.cls"),
        "1.right.png": ("dog", 0, "1.cls"),
    }
    found = "found 2 label files of several images, such as 0.cls of 0.left.png, 0.right.png"
    assert any(found in said for said in source.warnings)
    assert source.notes == ("labels of .cls files beside the images",)


def test_json_with_a_label_of_another_name(tmp_path: Path) -> None:
    """Source of the case: https://github.com/mlfoundations/open_clip/issues/480."""
    contents = {f"{i}.png": b"x" for i in "01"} | {f"{i}.json": b'{"class": "a"}' for i in "01"}
    path = pack(tmp_path / "a.tar", contents)
    source = list_source(path)
    assert source.class_names == ()
    assert any("add --columns label=NAME" in said for said in source.warnings)
    assert list_source(path, "label=class").class_names == ("a",)
