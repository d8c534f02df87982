import os
import random
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.core.errors import ImageError, SourceError
from extract.images.item import Item, read_file, read_item
from extract.images.kinds import IMAGE_ENDINGS, image_kind
from extract.sources.listing import list_source, open_reader

JPEG = b"\xff\xd8\xff\xe0" + bytes(28)
BMP = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little") + bytes(14)


def plant(root: Path, keys: Iterable[str]) -> Path:
    """Make an empty file for each key, or an empty folder where it ends with a slash."""
    for key in keys:
        path = root / key
        (path if key.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not key.endswith("/"):
            path.touch()
    return root


def placed(root: Path) -> dict[str, tuple[str, int]]:
    """Return the class and split of each key."""
    source = list_source(root)
    names = (*source.class_names, "")  # label -1 picks the last
    return {item.key: (names[item.label], item.split) for item in source.items}


LAYOUTS: dict[str, tuple[list[str], list[tuple[str, int]]]] = {
    "flat": (["b.jpg", "a.PNG"], [("", 0), ("", 0)]),
    "classes": (["dogs/a.jpg", "cats/b.jpg"], [("cats", 0), ("dogs", 0)]),
    "deep": (
        ["cats/2020/a.jpg", "cats/b.jpg", "dogs/x/y/c.jpg"],
        [("cats", 0)] * 2 + [("dogs", 0)],
    ),
    "splits": (
        ["train/cats/a.jpg", "validation/dogs/b.jpg", "test/cats/x/c.jpg"],
        [("cats", 2), ("cats", 0), ("dogs", 1)],
    ),
    "one split": (["val/cats/a.jpg", "val/dogs/a.jpg"], [("cats", 1), ("dogs", 1)]),
    "synonyms": (
        ["Training/c/a.jpg", "VALID/c/a.jpg", "testing/c/a.jpg"],
        [("c", 0), ("c", 1), ("c", 2)],
    ),
    "unlabelled test": (["train/cats/a.jpg", "test/a.jpg"], [("", 2), ("cats", 0)]),
    "split without images": (["train/c/a.jpg", "docs/a.txt", "val/", "valid/"], [("c", 0)]),
    "class called train, empty": (["cats/a.jpg", "train/"], [("cats", 0)]),
    "split further down": (["cats/train/a.jpg", "dogs/val/a.jpg"], [("cats", 0), ("dogs", 1)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_with_one_meaning(tmp_path: Path, name: str) -> None:
    keys, expected = LAYOUTS[name]
    found = placed(plant(tmp_path, keys))
    assert list(found.values()) == expected
    assert list(found) == sorted(k for k in keys if k.lower().endswith(IMAGE_ENDINGS))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], ["found no file; expected .jpg, .png or other images; name the folder"]),
        (["a.txt", "x/b.csv", "c/"], ["no image among 2 files (a.txt, x/b.csv)"]),
        (["a.jpg", "b.jpg", "cats/c.jpg"], ["2 images (a.jpg, b.jpg)", "1 folder (cats: 1)"]),
        (["a.jpg", "train/c/a.jpg"], ["1 image (a.jpg)", "1 folder (train: 1)"]),
        (
            ["val/c/a.jpg", "train/a.jpg", "train/c/a.jpg", "train/c/b.jpg"],
            ["train: found 1 image (train/a.jpg) beside 1 folder (c: 2)"],
        ),
        (
            ["train/c/a.jpg", *(f"{n}/a.jpg" for n in "abcd")],
            ["1 split folder (train: 1) and 4 other folders (a: 1, b: 1, c: 1, ...)"],
        ),
        (["val/c/a.jpg", "valid/c/b.jpg"], ["2 split folders (val: 1, valid: 1)", "merge"]),
        (["Train/c/a.jpg", "train/c/b.jpg"], ["2 split folders (Train: 1, train: 1)"]),
    ],
)
def test_layouts_with_two_meanings(tmp_path: Path, keys: list[str], words: list[str]) -> None:
    plant(tmp_path, keys)
    if "Train/c/a.jpg" in keys and len(os.listdir(tmp_path)) == 1:
        pytest.skip("names that differ in case are one folder here")
    with pytest.raises(SourceError) as caught:
        list_source(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path))
    assert "; expected " in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("keys", "warnings"),
    [
        (["a.jpg", "docs/"], []),
        (["cats/a.jpg", "dogs/a.jpg"], []),
        (["train/c/a.jpg", "train/d/a.jpg", "test/a.jpg"], []),
        (
            ["cats/a.jpg", "dogs/a.jpg", "birds/", "fish/x/"],
            ["found no images in 2 split or class folders (birds, fish);"],
        ),
        (
            ["train/c/a.jpg", "train/d/a.jpg", "train/e/", "val/", "test/c/"],
            ["found no images in 3 split or class folders (test, train/e, val);"],
        ),
        (
            ["train/c/a.jpg", "train/d/a.jpg", "val/c/a.jpg", "val/d/", "test/a.jpg"],
            ["found no images of 1 class name (d) in val;"],
        ),
        (
            ["train/c/a.jpg", "val/d/a.jpg"],
            [
                "found no images of 1 class name (d) in train;",
                "found no images of 1 class name (c) in val;",
            ],
        ),
        (["c/a.jpg", "c/b.jpg"], ["found one class, c; expected two or more"]),
        (["a.jpg", "README.md"], ["passed over 1 file (README.md): no images"]),
        (
            ["a.jpg", "d.py", "x.txt", "b.md", "c.md"],
            ["passed over 4 files (b.md, c.md, d.py, ...): no images"],
        ),
        (["new\nline/a.jpg", "a/a.jpg", "tab\t/"], ["found no images in 1 split or class folder"]),
    ],
)
def test_warnings(tmp_path: Path, keys: list[str], warnings: list[str]) -> None:
    found = list_source(plant(tmp_path, keys)).warnings
    assert len(found) == len(warnings)
    for text, expected in zip(found, warnings, strict=True):
        assert text.startswith(f"{tmp_path}: {expected}")
        assert text.isprintable()


IMAGES = (
    *(JPEG, BMP, b"BM" + b"\n" * 12 + b"\x28\0\0\0"),
    *(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF87a\1\0\1\0", b"GIF89a\1\0\1\0"),
    *(b"RIFF\x24\0\0\0WEBPVP8 ", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"),
    *(b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"),
)
OTHERS = (
    *(b"", b"\xff\xd8", b"GIFTS for all of you", b"RIFF\x24\0\0\0WAVEfmt ", b"MMOs", b"II*"),
    *(b"BM", b"BMW is a maker of cars and bikes"),
    *(b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"),
)


@pytest.mark.parametrize("head", [*IMAGES, *OTHERS])
def test_signatures_decide_where_the_ending_does_not(tmp_path: Path, head: bytes) -> None:
    assert (image_kind(head) is not None) is (head in IMAGES)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "name").write_bytes(head)
    assert ("name" in placed(tmp_path)) is (head in IMAGES)


def test_endings_keep_a_bad_image_in_the_list(tmp_path: Path) -> None:
    endings = "jpg jpeg jpe jfif png bmp dib gif webp tif tiff mpo"
    keys = [f"a.{ending.upper()}" for ending in endings.split()] + ["b.jpg"]
    assert list(placed(plant(tmp_path, keys))) == sorted(keys)


def test_clutter_is_passed_over_silently(tmp_path: Path) -> None:
    clutter = ["Thumbs.db", "desktop.ini", "__MACOSX/a.jpg", ".x/a.jpg", "__pycache__/a.jpg"]
    clutter += [".DS_Store", "cats/._a.jpg", "cats/.hidden/a.jpg", "dogs/thumbs.db"]
    source = list_source(plant(tmp_path, ["cats/a.jpg", "dogs/b.jpg", *clutter]))
    assert [item.key for item in source.items] == ["cats/a.jpg", "dogs/b.jpg"]
    assert source.warnings == ()


def test_one_image_is_a_source(tmp_path: Path) -> None:
    for name, head in (("a.jpg", b""), (".hidden.PNG", b""), ("no-ending", JPEG)):
        path = tmp_path / name
        path.write_bytes(head)
        source = list_source(str(path))
        assert source.items == (Item(name, str(path), -1, 0),)
        assert (source.class_names, source.warnings, source.root) == ((), (), str(path))
        assert read_item(source.items[0]) == head


def test_an_image_is_read_by_its_key_alone(tmp_path: Path) -> None:
    plant(tmp_path, ["cats/a.jpg", "b.jpg"])
    (tmp_path / "cats" / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.jpg").write_bytes(BMP)
    assert open_reader(tmp_path)("cats/a.jpg") == JPEG
    assert open_reader(tmp_path / "b.jpg")("b.jpg") == BMP
    (tmp_path / "set.tar").mkdir()  # a folder, whatever it is called
    (tmp_path / "set.tar" / "c.jpg").write_bytes(JPEG)
    assert open_reader(tmp_path / "set.tar")("c.jpg") == JPEG
    with pytest.raises(ImageError, match="cannot be opened"):
        open_reader(tmp_path)("cats/none.jpg")


@pytest.mark.parametrize("name", ["absent", "absent.jpg", "notes.txt", "file/a.jpg"])
def test_other_sources_are_refused(tmp_path: Path, name: str) -> None:
    plant(tmp_path, ["notes.txt", "file"])
    reasons = {"notes.txt": "found a file that is not an image", "file/a.jpg": "cannot be opened"}
    reason = reasons.get(name, "no such file or folder")
    with pytest.raises(SourceError, match=f"{name}: {reason}.*; expected a folder of images"):
        list_source(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("a.parquet", "pyarrow", "tables"),
        ("a.arrow", "pyarrow", "tables"),
        ("a.tfrecord", "google_crc32c", "tfrecord"),
        ("a.tar.gz", "indexed_gzip", "gzip"),
        ("http://127.0.0.1:9/", "fsspec.core", "remote"),
        ("memory://a.parquet", "pyarrow", "tables"),
    ],
)
def test_the_extra_that_a_source_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    if "://" not in name:
        (tmp_path / name).write_bytes(bytes(20))
        name = str(tmp_path / name)
    elif name.startswith("memory"):
        import fsspec

        fsspec.filesystem("memory").pipe("a.parquet", bytes(20))
    with pytest.raises(SourceError, match=rf'pip install "headstart\[{extra}\]"'):
        list_source(name)


def test_links(tmp_path: Path) -> None:
    plant(tmp_path, ["source/cats/a.jpg", "away/x/b.jpg", "away/c.jpg"])
    root = tmp_path / "source"
    for link, target in {
        "dogs": "../away",  # followed, and twice is no loop
        "wolves": "../away",
        "cats/up": "..",  # loops
        "cats/here": ".",
        "../away/x/again": "..",
        "cats/self": "self",
        "cats/lost": "nowhere",  # broken
        "cats/lost.JPG": "nowhere",
        "cats/self.png": "self.png",
        "cats/linked": "a.jpg",  # a file
        "cats/linked.jpg": "a.jpg",
    }.items():
        (root / link).symlink_to(target)
    source = list_source(root)
    assert [item.key for item in source.items] == [
        *("cats/a.jpg", "cats/linked.jpg", "cats/lost.JPG", "cats/self.png"),
        *("dogs/c.jpg", "dogs/x/b.jpg", "wolves/c.jpg", "wolves/x/b.jpg"),
    ]
    assert [text.removeprefix(f"{root}: passed over ") for text in source.warnings] == [
        "1 file (cats/linked): no images",
        "2 files (cats/lost, cats/self): they cannot be opened",
    ]
    with pytest.raises(ImageError, match=r"^cannot be opened: No such file or directory$"):
        read_item(source.items[2])


@pytest.mark.timeout(60)
def test_links_that_fan_out_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, ["source/19/a.jpg", "folds/cat/a.jpg", "folds/dog/b.jpg"])
    root = tmp_path / "source"
    for level in range(19):
        (root / str(level)).mkdir()
        for link in "xyz":
            (root / str(level) / link).symlink_to(f"../{level + 1}")
    with pytest.raises(
        SourceError, match=r"/\d+: found more than 32 links to it; expected .* SOURCE"
    ):
        list_source(root)
    # The folds of a cross-validation, all of the same folders.
    for fold in range(10):
        (tmp_path / "linked" / f"fold{fold}").mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "linked" / f"fold{fold}" / name).symlink_to(tmp_path / "folds" / name)
    assert len(list_source(tmp_path / "linked", "group=1,label=2").items) == 20


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "key", ["../secret.jpg", "cats/../../secret.jpg", "{}/secret.jpg", "", "."]
)
def test_a_key_of_a_folder_leads_to_no_file_outside(tmp_path: Path, key: str) -> None:
    plant(tmp_path, ["set/cats/a.jpg", "secret.jpg"])
    with pytest.raises(ImageError, match="is not in the source"):
        open_reader(tmp_path / "set")(key.format(tmp_path))
    with pytest.raises(ImageError, match="is not in the source"):
        open_reader(tmp_path / "set" / "cats" / "a.jpg")(key.format(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_fifo_that_takes_the_place_of_an_image_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    look, answered = os.stat, list[str]()

    def swap(place: Any, **settings: Any) -> os.stat_result:
        entry = look(place, **settings)
        if place == str(path):
            path.unlink()
            os.mkfifo(path)
        return entry

    monkeypatch.setattr("os.stat", swap)

    def read() -> None:
        with pytest.raises(ImageError, match="is a named pipe, not a regular file"):
            read_file(str(path))
        answered.append("refused")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert answered == ["refused"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_key_that_leads_to_a_fifo_or_a_device_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, ["set/a.jpg", "table.csv"])
    os.mkfifo(tmp_path / "set" / "fifo.jpg")
    (tmp_path / "set" / "linked.jpg").symlink_to("fifo.jpg")
    (tmp_path / "set" / "device.jpg").symlink_to("/dev/null")
    for name in ("fifo.jpg", "linked.jpg", "device.jpg"):
        for source, key in ((tmp_path / "set", name), (tmp_path / "table.csv", f"set/{name}")):
            with pytest.raises(ImageError, match=r"is a (named pipe|device), not a regular file"):
                open_reader(source)(key)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.npy", "a.h5", "a.arrow", "a.csv", "b"])
def test_a_source_that_is_a_fifo_is_never_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (list_source, open_reader):
        with pytest.raises(SourceError, match="is a named pipe, not a regular file; expected"):
            read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_fifo_among_files_of_records_or_shards_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.arrow")
    os.mkfifo(tmp_path / "a-0.tar")
    for source in (tmp_path, tmp_path / "a-{0..0}.tar"):
        for read in (list_source, open_reader):
            with pytest.raises(SourceError, match="is a named pipe, not a regular file"):
                read(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_fifos_and_sockets_are_never_opened(tmp_path: Path) -> None:
    plant(tmp_path, ["a.jpg"])
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server, suppress(OSError):  # its path may be too long
        server.bind(str(tmp_path / "s.png"))
    assert list(placed(tmp_path)) == ["a.jpg"]
    with pytest.raises(SourceError, match="is a named pipe, not a regular file"):
        list_source(tmp_path / "fifo.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw, spelled = os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"
    plant(tmp_path, [f"a/{raw}", "a/caf\u00e9.jpg", "a/cafe\u0301.jpg", "b/new\nline.jpg"])
    items = list_source(tmp_path).items
    assert [item.key for item in items] == [
        *(f"a/{spelled}", "a/cafe\u0301.jpg", "a/caf\u00e9.jpg", "b/new\nline.jpg")
    ]
    assert [read_item(item) for item in items] == [b""] * 4
    plant(tmp_path, [f"a/{spelled}"])
    with pytest.raises(SourceError) as caught:
        list_source(tmp_path)
    assert repr(str(tmp_path / "a" / raw)) in str(caught.value)
    assert repr(str(tmp_path / "a" / spelled)) in str(caught.value)
    with pytest.raises(SourceError, match="both"):  # two classes would become one
        list_source(plant(tmp_path / "b", [os.fsdecode(b"\xe9/a.jpg"), "\\xe9/b.jpg"]))


@contextmanager
def denied(path: Path) -> Iterator[None]:
    """Take away all permission to ``path``; root, whom nothing is denied, becomes nobody."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs the permissions of POSIX")
    was_root = os.geteuid() == 0
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        if was_root:
            os.seteuid(65534)
        with suppress(OSError):
            os.listdir(path) if path.is_dir() else path.read_bytes()
            pytest.skip("nothing can be denied here")
        yield
    finally:
        if was_root:
            os.seteuid(0)
        path.chmod(mode)


def test_permissions() -> None:
    # tmp_path lies in a folder that only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        root = plant(Path(name), ["cats/a.jpg", "dogs/b.jpg", "dogs/c"])
        root.chmod(0o755)
        for folder in (root, root / "dogs"):
            with denied(folder), pytest.raises(SourceError) as caught:
                list_source(root)
            assert f"{folder}: cannot be read: Permission denied" in str(caught.value)
        with denied(root / "dogs" / "c"):
            assert list_source(root).warnings[0].endswith("(dogs/c): they cannot be opened")
        with denied(root / "dogs" / "b.jpg"):
            item = list_source(root).items[1]
            with pytest.raises(ImageError, match=r"^cannot be opened: Permission denied$"):
                read_item(item)


WORDS = st.text("abczB\u00e9\u4e2d -_\\", min_size=1, max_size=4)
TREES = st.dictionaries(
    WORDS,
    st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=5),
    min_size=2,
    max_size=4,
)


@settings(deadline=None, max_examples=50)
@given(tree=TREES, chance=st.randoms(use_true_random=False))
def test_any_tree_of_classes(tree: dict[str, list[list[str]]], chance: random.Random) -> None:
    # No folder inside a class comes again in another: those could be the classes.
    keys = [
        "/".join([name, *(f"{i} {part}" for part in inside), f"{stem}.jpg"])
        for i, (name, paths) in enumerate(tree.items())
        for *inside, stem in paths
    ]
    sources = []
    for _ in range(2):
        chance.shuffle(keys)
        with tempfile.TemporaryDirectory() as root:
            source = list_source(plant(Path(root), keys))
        rows = [item._replace(path=os.path.relpath(item.path, root)) for item in source.items]
        sources.append((rows, source.class_names))
    assert sources[0] == sources[1]
    rows, class_names = sources[0]
    assert class_names == tuple(sorted(tree))
    assert [row.key for row in rows] == sorted(set(keys))
    for row in rows:
        assert row.label == class_names.index(row.key.split("/")[0])
        assert (row.split, row.group, row.path) == (0, "", row.key)
