import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.core.errors import ImageError, SettingError, SourceError, StoreError
from extract.images.item import Source, read_item
from extract.limits import image_size as limits
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source, open_reader
from extract.store.open import open_store
from tests.conftest import QUICK

CASES = Path(__file__).parent / "cases"
FORMS = ("stored.zip", "deflated.zip", "a.tar", "a.tar.gz", "a.TGZ")


def pack(path: Path, contents: Mapping[str, bytes]) -> Path:
    """Write an archive of the form that the name says."""
    if path.suffix == ".zip":
        method = zipfile.ZIP_STORED if path.name == "stored.zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as packed:
            for name, content in contents.items():
                packed.writestr(name, content)
        return path
    mode: Any = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as file:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def contents_of(folder: Path) -> dict[str, bytes]:
    # Not sorted: an archive has the order in which it was packed.
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.png"), reverse=True)
    }


def placed(source: Source) -> dict[str, tuple[str, int, str]]:
    """Return class, split and group of each key."""
    names = (*source.class_names, "")
    return {item.key: (names[item.label], item.split, item.group) for item in source.items}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_the_folder_gives(images: Path, tmp_path: Path, form: str) -> None:
    source = list_source(pack(tmp_path / form, contents_of(images)))
    folder = list_source(images)
    assert placed(source) == placed(folder)
    assert [read_item(item) for item in source.items] == [read_item(i) for i in folder.items]
    assert [item.key for item in source.items] == [item.key for item in folder.items]
    assert open_reader(tmp_path / form)("train/cat/0.png") == read_item(folder.items[0])


@pytest.mark.parametrize("form", FORMS)
def test_threads_read_at_once(tmp_path: Path, form: str) -> None:
    generator = np.random.default_rng(0)
    contents = {f"{i:03d}.png": generator.bytes(1000 + 37 * i) for i in range(200)}
    items = list_source(pack(tmp_path / form, contents)).items * 3
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_item, items))
    assert all(content == contents[item.key] for item, content in zip(items, read, strict=True))


@pytest.mark.parametrize("form", ["deflated.zip", "a.tar.gz"])
def test_an_archive_makes_the_store_of_its_folder(images: Path, tmp_path: Path, form: str) -> None:
    path = pack(tmp_path / form, contents_of(images))
    before = set(tmp_path.iterdir())
    extract_features(path, tmp_path / "packed.h5", **QUICK)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "packed.h5"}
    extract_features(images, tmp_path / "folder.h5", **QUICK)
    with open_store(tmp_path / "packed.h5") as a, open_store(tmp_path / "folder.h5") as b:
        assert a.keys == b.keys
        np.testing.assert_array_equal(
            a.read("conv1_relu", slice(None)), b.read("conv1_relu", slice(None))
        )
    assert extract_features(path, tmp_path / "packed.h5").computed == 0
    contents = contents_of(images)
    contents["train/cat/0.png"] = contents["train/cat/1.png"]
    pack(path, contents)
    with pytest.raises(StoreError, match=r"1 image \(train/cat/0\.png\) changed"):
        extract_features(path, tmp_path / "packed.h5")


def test_one_folder_around_everything_is_no_class(tmp_path: Path) -> None:
    names = ["set/cats/a.png", "set/cats/b/c.png", "set/dogs/d.png", "__MACOSX/._a.png"]
    source = list_source(pack(tmp_path / "a.tar", dict.fromkeys(names, b"x")))
    assert placed(source) == {
        "set/cats/a.png": ("cats", 0, ""),
        "set/cats/b/c.png": ("cats", 0, ""),
        "set/dogs/d.png": ("dogs", 0, ""),
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["val/cats/a.png", "val/dogs/b.png"], [("cats", 1, ""), ("dogs", 1, "")]),
        (["s/train/c/a.png", "s/test/c/b.png"], [("c", 2, ""), ("c", 0, "")]),
        (["./b.png", "a.png"], [("", 0, ""), ("", 0, "")]),
        (["cats/a.png", "cats/b.png"], [("cats", 0, ""), ("cats", 0, "")]),
    ],
)
def test_folders_in_an_archive(
    tmp_path: Path, names: list[str], wanted: list[tuple[str, int, str]]
) -> None:
    source = list_source(pack(tmp_path / "a.zip", dict.fromkeys(names, b"x")))
    assert list(placed(source).values()) == wanted


def test_shards_may_repeat_their_names(tmp_path: Path) -> None:
    for shard in range(8, 12):
        contents = {f"set/{name}/0.png": b"%d" % shard for name in ("cat", "dog")}
        pack(tmp_path / f"s-{shard:04d}.tar", contents)
    source = list_source(tmp_path / "s-{0008..0011}.tar")
    assert len(source.items) == 8
    assert placed(source)["s-0011/set/dog/0.png"] == ("dog", 0, "")
    assert open_reader(tmp_path / "s-{0008..0011}.tar")("s-0010/set/cat/0.png") == b"10"
    with pytest.raises(SourceError, match=r"s-0012\.tar: cannot be read: No such file"):
        list_source(tmp_path / "s-{0008..0012}.tar")
    with pytest.raises(SourceError, match=r"counts down; expected \{0008\.\.0011\}"):
        list_source(tmp_path / "s-{0011..0008}.tar")
    for last in ("9" * 10, "9" * 5000):
        with pytest.raises(SourceError, match=r"found more than 1,000,000 shards; expected fewer"):
            list_source(f"{tmp_path}/s-{{0..{last}}}.tar")


def test_the_class_stands_beside_each_image(tmp_path: Path) -> None:
    for shard in range(2):
        contents: dict[str, bytes] = {}
        for i in range(2):
            contents |= {f"{shard}{i}.left.png": b"x", f"{shard}{i}.cls": b"%d\n" % (i * 7)}
        pack(tmp_path / f"s-{shard}.tar", contents)
    found = placed(list_source(tmp_path / "s-{0..1}.tar"))
    assert found["s-0/00.left.png"] == ("0", 0, "")
    assert found["s-1/11.left.png"] == ("7", 0, "")


def test_json_beside_each_image(tmp_path: Path) -> None:
    rows = [
        {"label": 3, "split": "val", "group": "x", "kind": "cat"},
        {"label": 4, "split": "train", "group": "y", "kind": "dog"},
    ]
    contents: dict[str, bytes] = {}
    for i, row in enumerate(rows):
        contents |= {f"a/{i}.png": b"x", f"a/{i}.json": json.dumps(row).encode()}
    path = pack(tmp_path / "a.zip", contents)
    wanted = {"a/0.png": ("3", 1, "x"), "a/1.png": ("4", 0, "y")}
    assert placed(list_source(path)) == wanted
    named = placed(list_source(path, "label=kind"))
    assert [kind for kind, _, _ in named.values()] == ["cat", "dog"]
    with pytest.raises(SourceError, match=r"0\.json: column 'species' is unknown"):
        list_source(path, "label=species")


def test_json_that_says_nothing_of_classes_is_passed_over(tmp_path: Path) -> None:
    contents = {"cat/0.png": b"x", "dog/1.png": b"x", "cat/0.json": b'{"caption": "a cat"}'}
    source = list_source(pack(tmp_path / "a.tar", contents))
    assert [name for name, _, _ in placed(source).values()] == ["cat", "dog"]
    assert any("passed over 1 file (cat/0.json)" in said for said in source.warnings)


WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "above": (
        {"../../x.png": b"x"},
        r"found a member '\.\./\.\./x\.png'; expected names that stay",
    ),
    "inside above": ({"a/../../x.png": b"x"}, "expected names that stay inside"),
    "absolute": ({"/etc/x.png": b"x"}, "expected names that stay inside"),
    "twice": ({"a.png": b"x", "./a.png": b"y"}, r"found a\.png twice"),
    "no image": ({"a.txt": b"x"}, "found no image among 1 file"),
    "nothing": ({}, "found no file; expected"),
    "some .cls": ({"a.png": b"x", "b.png": b"x", "a.cls": b"1"}, r"1 image \(b\.png\) without"),
    "bad .cls": ({"a.png": b"x", "a.cls": b"\xff"}, r"a\.cls: .*expected the name or number"),
    "bad .json": ({"a.png": b"x", "a.json": b"[1]"}, r"a\.json: .*expected a JSON object"),
    "bad split": (
        {"a.png": b"x", "a.json": b'{"split": "fold1"}'},
        r"member a\.png: found 'fold1'",
    ),
    "beside folders": ({"a.png": b"x", "cats/b.png": b"x"}, "found 1 image .* beside 1 folder"),
}


@pytest.mark.parametrize("form", ["a.zip", "a.tar"])
@pytest.mark.parametrize("name", WRONG)
def test_an_archive_that_makes_no_sense_is_refused(tmp_path: Path, name: str, form: str) -> None:
    contents, message = WRONG[name]
    with pytest.raises(SourceError, match=message):
        list_source(pack(tmp_path / form, contents))


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"?.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"?.png", b"\0.png"))  # a name ends there
    with pytest.raises(SourceError, match="found a member ''; expected names that stay inside"):
        list_source(path)


@pytest.mark.parametrize(
    ("contents", "columns"),
    [
        ({"a/0.png": b"x", "b/1.png": b"x"}, "label=kind"),
        ({"0.png": b"x", "0.cls": b"1"}, "label=kind"),
        ({"0.png": b"x", "0.json": b'{"label": 1}'}, "path=file"),
    ],
)
def test_columns_without_effect_are_refused(
    tmp_path: Path, contents: dict[str, bytes], columns: str
) -> None:
    with pytest.raises(SettingError, match="no effect"):
        list_source(pack(tmp_path / "a.tar", contents), columns)


@pytest.mark.parametrize("form", FORMS)
def test_half_an_archive_is_refused(tmp_path: Path, form: str) -> None:
    contents = {f"{i}.png": np.random.default_rng(i).bytes(9000) for i in range(9)}
    path = pack(tmp_path / form, contents)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SourceError, match="cannot be read"):
        list_source(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(SourceError, match="cannot be read"):
        list_source(path)
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        list_source(path)


def reasons(path: Path) -> dict[str, str]:
    """Return why each image cannot be read."""
    found = {}
    for item in list_source(path).items:
        with pytest.raises(ImageError) as caught:
            read_item(item)
        found[item.key] = str(caught.value)
    return found


def test_a_member_that_cannot_be_read_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deflated.zip"
    pack(path, {"big.png": bytes(5000), "bad.png": b"abcd" * 100, "good.png": b"good"})
    content = bytearray(path.read_bytes())
    content[content.index(b"bad.png") + len(b"bad.png") + 2] ^= 0x5A
    path.write_bytes(content)
    monkeypatch.setattr(limits.BYTES, "most", 4000)
    by_key = {item.key: item for item in list_source(path).items}
    assert read_item(by_key["good.png"]) == b"good"
    for key, reason in (("big.png", "is 5,000 bytes; at most 4,000"), ("bad.png", "archive")):
        with pytest.raises(ImageError, match=reason):
            read_item(by_key[key])


def test_a_bomb_unpacks_to_its_declared_size_and_no_further(tmp_path: Path) -> None:
    path = pack(tmp_path / "deflated.zip", {"bomb.png": bytes(10**7)})
    content = path.read_bytes()
    directory = content.rindex(b"PK\x01\x02")
    assert content[directory + 24 : directory + 28] == (10**7).to_bytes(4, "little")
    lie = content[: directory + 24] + (100).to_bytes(4, "little") + content[directory + 28 :]
    path.write_bytes(lie)
    assert reasons(path) == {"bomb.png": "is damaged in its archive"}


def test_encrypted_and_oddly_packed_members_fail(tmp_path: Path) -> None:
    path = pack(tmp_path / "stored.zip", {"a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert reasons(path) == {"a.png": "is encrypted"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a.png", b"x")
    assert reasons(path)["a.png"].startswith("is packed by method 12; expected none or deflate")


def test_an_archive_that_has_changed_since_it_was_listed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.png": bytes(5000)})
    item = list_source(path).items[0]
    os.truncate(path, 1000)
    with pytest.raises(ImageError, match="cut off"):
        read_item(item)
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        read_item(item)


def test_links_are_named_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("a.png"))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    source = list_source(path)
    assert [item.key for item in source.items] == ["a.png"]
    assert any("(b.png): they cannot be opened" in said for said in source.warnings)


def zip_of(path: Path, names: Mapping[bytes, bytes], host: int, flags: int = 0) -> Path:
    """Write a zip byte by byte: raw name -> extra field, made on a system, with flags.

    Source: APPNOTE.TXT 4.3.7, 4.3.12 and 4.3.16.
    """
    local, central = b"", b""
    for name, extra in names.items():
        offset, check = len(local), zlib.crc32(b"x")
        shape = struct.pack("<5H3L2H", 20, flags, 0, 0, 0, check, 1, 1, len(name), len(extra))
        local += b"PK\3\4" + shape + name + extra + b"x"
        rest = struct.pack("<3H2L", 0, 0, 0, 0, offset)
        central += b"PK\1\2" + bytes([63, host]) + shape + rest + name + extra
    count = len(names)
    sizes = struct.pack("<4H2LH", 0, 0, count, count, len(central), len(local), 0)
    path.write_bytes(local + central + b"PK\5\6" + sizes)
    return path


WITH_BACKSLASHES = (b"train\\cat\\0.jpg", b"train\\dog\\1.jpg", b"val\\dog\\2.jpg", b"val\\dog\\")
SPLIT_NAMES = {
    "train/cat/0.jpg": ("cat", 0, ""),
    "train/dog/1.jpg": ("dog", 0, ""),
    "val/dog/2.jpg": ("dog", 1, ""),
}


@pytest.mark.parametrize("host", [0, 3, 10, 11, 14])  # FAT, Unix, NTFS, NTFS of Info-ZIP, VFAT
def test_backslashes_are_folders(tmp_path: Path, host: int) -> None:
    source = list_source(zip_of(tmp_path / "a.zip", dict.fromkeys(WITH_BACKSLASHES, b""), host))
    assert placed(source) == SPLIT_NAMES
    assert "found 4 names with backslashes, read as / between folders" in source.warnings[0]
    assert read_item(source.items[0]) == b"x"
    assert open_reader(tmp_path / "a.zip")("val/dog/2.jpg") == b"x"


def test_backslashes_in_a_folder_of_windows_are_folders_too(tmp_path: Path) -> None:
    names = [b"set/" + name for name in WITH_BACKSLASHES]
    source = list_source(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b""), 0))
    assert placed(source) == {f"set/{key}": place for key, place in SPLIT_NAMES.items()}


def test_backslashes_of_a_tar(tmp_path: Path) -> None:
    contents = {name.decode(): b"x" for name in WITH_BACKSLASHES[:3]}
    assert placed(list_source(pack(tmp_path / "a.tar", contents))) == SPLIT_NAMES


def test_a_backslash_on_unix_is_part_of_a_name(tmp_path: Path) -> None:
    names = [b"cat/a\\b.jpg", b"dog/c.jpg"]
    source = list_source(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b""), 3))
    assert list(placed(source)) == ["cat/a\\b.jpg", "dog/c.jpg"]
    assert any("found 1 name with a backslash, read as a part of it" in w for w in source.warnings)


def test_backslashes_lead_nowhere_else(tmp_path: Path) -> None:
    for name in (b"..\\..\\x.jpg", b"\\x.jpg"):
        path = zip_of(tmp_path / "a.zip", {name: b"", b"cat\\b.jpg": b""}, 0)
        with pytest.raises(SourceError, match="expected names that stay inside"):
            list_source(path)


@pytest.mark.parametrize("flags", [0, 0x800])
def test_names_in_utf8_with_and_without_their_flag(tmp_path: Path, flags: int) -> None:
    """Finder and the zip of Linux write UTF-8 without the flag."""
    names = [f"{name}/0.jpg".encode() for name in ("caf\u00e9", "\u732b", "cat")]
    source = list_source(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b""), 3, flags))
    assert source.class_names == ("caf\u00e9", "cat", "\u732b")
    assert not any("code page" in warning for warning in source.warnings)


def test_names_in_a_field_of_their_own(tmp_path: Path) -> None:
    """WinZip and Info-ZIP write the name in UTF-8 next to that in the code page."""
    names = {}
    for name in ("\u00d3sk/0.jpg", "hiver/1.jpg"):
        raw = name.encode("cp850")
        content = b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
        names[raw] = b"UT\1\0\0" + struct.pack("<2H", 0x7075, len(content)) + content
    source = list_source(zip_of(tmp_path / "a.zip", names, 0))
    assert source.class_names == ("hiver", "\u00d3sk")
    assert read_item(source.items[0]) == b"x"


def test_names_in_an_unknown_code_page_are_named(tmp_path: Path) -> None:
    names = [name.encode("cp932") for name in ("\u732b/0.jpg", "\u72ac/1.jpg")]
    source = list_source(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b""), 0))
    assert len(source.class_names) == 2
    assert "found 2 names in an unknown code page" in source.warnings[0]


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs zip")
def test_the_zip_of_this_system(tmp_path: Path) -> None:
    for name in ("caf\u00e9", "th\u00e9"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.jpg").write_bytes(os.urandom(200_000))
    subprocess.run(["zip", "-qr", "a.zip", "set"], cwd=tmp_path, check=True)
    assert list_source(tmp_path / "a.zip").class_names == ("caf\u00e9", "th\u00e9")
    subprocess.run(["zip", "-qr", "-s", "70k", "b.zip", "set"], cwd=tmp_path, check=True)
    for name in ("b.zip", "b.z01"):
        with pytest.raises(
            SourceError, match=r"is one part of a zip; .*: zip -s 0 \S*b\.zip --out"
        ):
            list_source(tmp_path / name)


PACKED = {
    "a.tar.zst": (b"\x28\xb5\x2f\xfd", r"is packed with zstandard; unpack it with: zstd -d \S*a"),
    "a.tar.xz": (b"\xfd7zXZ\0", r"is packed with xz; unpack it with: unxz \S*a\.tar\.xz"),
    "a.tbz2": (b"BZh9", r"is packed with bzip2; unpack it with: bunzip2 \S*a\.tbz2"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", r"is packed with 7-Zip; unpack it with: 7z x \S*a\.7z"),
    "a.rar": (b"Rar!\x1a\x07\1", r"is packed with RAR; unpack it with: unrar x \S*a\.rar"),
    "a.csv.gz": (b"\x1f\x8b", r"is packed with gzip; unpack it with: gunzip \S*a\.csv\.gz"),
    "a.tar": (b"\xfd7zXZ\0", r"with xz; .*: mv \S*a\.tar \S*a\.tar\.xz && unxz \S*a\.tar\.xz"),
    "a.zip": (b"Rar!\x1a\x07\1", r"is packed with RAR; .*&& unrar x \S*a\.zip\.rar"),
    "a.zip.001": (b"PK\3\4", r"is one part .*: cat \S*a\.zip\.\* > \S*a\.zip"),
    "a.tar.gz.partaa": (b"\x1f\x8b", r"is one part .*: cat \S*a\.tar\.gz\.\* > \S*a\.tar\.gz"),
    "b.zip": (b"version https://git-lfs.github.com/spec/v1", r"a pointer of Git LFS.*git lfs pull"),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_must_be_unpacked_is_refused_with_the_command(tmp_path: Path, name: str) -> None:
    head, message = PACKED[name]
    with pytest.raises(SourceError, match="No such file"):
        list_source(tmp_path / name)
    (tmp_path / name).write_bytes(head + bytes(100))
    with pytest.raises(SourceError, match=message):
        list_source(tmp_path / name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz", ".7z"])
def test_the_content_of_an_archive_decides_not_its_name(
    tmp_path: Path, form: str, ending: str
) -> None:
    path = pack(tmp_path / form, {"cat/0.png": b"x", "dog/1.png": b"y"})
    source = list_source(path.rename(tmp_path / f"renamed{ending}"))
    assert [read_item(item) for item in source.items] == [b"x", b"y"]


def test_archives_in_an_archive_are_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"train.zip": b"PK", "test.tar.gz": b"\x1f\x8b", "README": b""})
    message = r"found 2 archives \(test\.tar\.gz, train\.zip\) in it, and no images; unpack it"
    with pytest.raises(SourceError, match=message):
        list_source(path)


def test_two_folders_around_everything_are_no_classes() -> None:
    source = list_source(CASES / "two-wrappers-in-archive" / "wrap2.zip")
    assert {(item.key.split("/")[2], source.class_names[item.label]) for item in source.items} == {
        ("apple_pie", "apple_pie"),
        ("ramen", "ramen"),
    }


def test_backslashes_from_an_issue() -> None:
    source = list_source(CASES / "zip-with-backslashes" / "win_backslash.zip")
    assert placed(source) == {
        f"train/{name}/{i}.jpg": (name, 0, "") for name in ("cat", "dog") for i in range(3)
    }
    assert read_item(source.items[0])[:2] == b"\xff\xd8"


def tar_of(contents: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(None, "w", stream) as file:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


CATS = tar_of({"cat/0.png": b"c0", "cat/1.png": b"c1"})
DOGS = tar_of({"dog/0.png": b"d0", "dog/1.png": b"d1"})


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz"])
def test_joined_tars_are_read_to_the_end(tmp_path: Path, form: str) -> None:
    """Source of the case: https://github.com/plougher/squashfs-tools/issues/212."""
    content = CATS + DOGS
    if form.endswith("gz"):
        content = gzip.compress(CATS) + gzip.compress(DOGS)
    (tmp_path / form).write_bytes(content)
    source = list_source(tmp_path / form)
    assert [read_item(item) for item in source.items] == [b"c0", b"c1", b"d0", b"d1"]
    assert source.class_names == ("cat", "dog")
    second = subprocess.run(
        ["tar", "--ignore-zeros", "-tf", tmp_path / form],
        capture_output=True,
        text=True,
        check=True,
    )
    assert second.stdout.split() == [item.key for item in source.items]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CATS[:2048], "has no end at byte 2,048, so it may be cut off"),
        (CATS[:1024] + b"x" + CATS[1025:], "the header at byte 1,024 is damaged"),
        (CATS + DOGS[:1024] + b"x" + DOGS[1025:], "is damaged; make the archive again"),
    ],
)
def test_a_tar_that_ends_early_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Source of the case: https://github.com/python/cpython/issues/120740."""
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list_source(tmp_path / "a.tar")
    if "no end" in message:  # the advice helps
        (tmp_path / "a.tar").write_bytes(content + bytes(1024))
        assert len(list_source(tmp_path / "a.tar").items) == 2


def test_hard_links_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    """Source of the case: https://github.com/mxmlnkn/ratarmount/issues/28."""
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "set/train" / name / "0.png").write_bytes(name.encode())
        os.link(tmp_path / "set/train" / name / "0.png", tmp_path / "set/test" / name / "0.png")
    words = ["tar", "-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "set"), "train", "test"]
    subprocess.run(words, check=True)
    source = list_source(tmp_path / "a.tar")
    assert placed(source) == placed(list_source(tmp_path / "set"))
    assert [read_item(item) for item in source.items] == [b"cat", b"dog", b"cat", b"dog"]


def test_joined_zips_are_refused(tmp_path: Path) -> None:
    first = pack(tmp_path / "1.zip", {"cat/0.png": b"c"}).read_bytes()
    second = pack(tmp_path / "2.zip", {"dog/0.png": b"d"}).read_bytes()
    (tmp_path / "12.zip").write_bytes(first + second)
    with pytest.raises(SourceError, match="another zip is joined to its front; pack both into one"):
        list_source(tmp_path / "12.zip")


def test_a_class_of_links_does_not_vanish(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in ("a/0.png", "b/1.png"):
            file.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("c/2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/0.png"
        file.addfile(link)
    with pytest.raises(
        SourceError, match=r"1 class \(c\) would vanish: found only 1 link \(c/2.png"
    ):
        list_source(tmp_path / "a.tar")


def test_times_that_gnu_tar_keeps_are_no_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(name.encode())
    words = ["tar", "--format=gnu", "--atime-preserve=system", "-g", str(tmp_path / "snar")]
    words += ["-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "set"), "cat", "dog"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs GNU tar")
    source = list_source(tmp_path / "a.tar")
    assert placed(source) == {"cat/0.png": ("cat", 0, ""), "dog/0.png": ("dog", 0, "")}


def test_names_in_another_encoding_are_told(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT
    ) as file:
        for name in ("caf\u00e9/0.png", "the/1.png"):
            file.addfile(tarfile.TarInfo(name))
    source = list_source(tmp_path / "a.tar")
    assert source.class_names == ("caf\\xe9", "the")
    assert any("found 1 name not in UTF-8, shown with escapes" in said for said in source.warnings)
