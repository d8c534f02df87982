"""Images sorted into class folders: every file once, whole, below the folder and nowhere else."""

import csv
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify import predict_images, train_heads
from classify.output import predictions
from classify.output.sorting import LIST, RECORD, Sorted, check_folder, sort_images
from classify.predict_cli import main as predict_command
from extract import extract_features
from extract.core.errors import HeadError, ImageError, SettingError, StoreError
from tests.conftest import QUICK


def sort(folder: Path, images: Sequence[tuple[str, str | None, bytes]], **how: bool) -> list[str]:
    """Sort images of any content, and return the files."""
    wanted = [Sorted(key, label, 0.5, partial(bytes, content)) for key, label, content in images]
    check_folder(folder)
    sort_images(folder, wanted, **how)
    return files_in(folder)


def files_in(folder: Path) -> list[str]:
    """The files of a folder, without the record of a sort."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return sorted(p.relative_to(folder).as_posix() for p in files)


@pytest.mark.parametrize(
    ("key", "label", "file"),
    [
        ("a/b/cat.jpg", "cat", "cat/cat.jpg"),
        ("cat.jpg", None, "unlabelled/cat.jpg"),
        ("cat.jpg", "unlabelled", "unlabelled-2/cat.jpg"),
        ("../../etc/x.jpg", "../../up", "_.._.._up/x.jpg"),
        ("a.jpg", "..", "_/a.jpg"),
        ("a.jpg", "/etc", "_etc/a.jpg"),
        ("a.jpg", "C:\\dir", "C__dir/a.jpg"),
        ("..", "cat", "cat/_"),
        ("dir/", "cat", "cat/_"),
        ("a\0b\x1b[2J.jpg", "x\n", "x_/a_b_[2J.jpg"),
        ("a.jpg", "nul", "_nul/a.jpg"),
        ("CON.jpg", "cat.", "cat/_CON.jpg"),
        (".hidden.png", "a", "a/_.hidden.png"),
        (f"{'k' * 300}.jpg", "ä" * 200, f"{'ä' * 100}/{'k' * 200}.jpg"),
        (LIST, "cat", f"cat/{LIST}"),
        ("a .jpg", "cat .", "cat/a.jpg"),
        ("conin$.jpg", "COM¹", "_COM¹/_conin$.jpg"),
        ("con .jpg", "lpt².x", "_lpt².x/_con.jpg"),
        ("a.jpg", "Sorted.CSV", "Sorted.CSV-2/a.jpg"),
        ("a.jpg", ".sorted", "_.sorted/a.jpg"),
        ("a\u202egpj.jpg", "cat", "cat/a_gpj.jpg"),
    ],
    ids=str,
)
def test_names_from_strangers_stay_below(
    tmp_path: Path, key: str, label: str | None, file: str
) -> None:
    folder = tmp_path / "in" / "sorted"
    folder.parent.mkdir()
    assert sort(folder, [(key, label, b"x")]) == sorted([file, LIST])
    assert files_in(tmp_path) == sorted(f"in/sorted/{name}" for name in (file, LIST))
    assert (folder / file).read_bytes() == b"x"
    # What a sort wrote, the next one replaces.
    assert sort(folder, [("b.jpg", "dog", b"y")]) == sorted(["dog/b.jpg", LIST])


def test_files_of_one_name_are_all_kept(tmp_path: Path) -> None:
    images = [
        *(("1/a.jpg", "cat", b"1"), ("2/a.jpg", "cat", b"2"), ("3/A.JPG", "cat", b"3")),
        *(("a-2.jpg", "cat", b"4"), ("a.jpg", "Cat", b"5"), ("e\u0301.png", "dog", b"6")),
        ("\u00e9.png", "dog", b"7"),
    ]
    found = sort(tmp_path / "out", images)
    assert len(found) == 8
    with (tmp_path / "out" / LIST).open(newline="") as file:
        rows = list(csv.DictReader(file))
    contents = [(tmp_path / "out" / row["file"]).read_bytes() for row in rows]
    assert contents == [content for _, _, content in images]
    assert [(row["key"], row["label"]) for row in rows] == [image[:2] for image in images]
    assert len({name.split("/")[0].casefold() for name in found}) == 4


def test_what_somebody_changed_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    images = [("a.jpg", "cat", b"1"), ("b.jpg", "dog", b"2")]
    changes: list[Callable[[], object]] = [
        lambda: (folder / "cat/a.jpg").rename(folder / "dog/a.jpg"),  # a person corrects a label
        (folder / "notes.txt").touch,
        (folder / "cat/a.jpg").unlink,
        lambda: (folder / LIST).write_text("mine\n"),
        lambda: (folder / LIST).write_text((folder / LIST).read_text().replace(",cat,", ",cow,")),
        lambda: (folder / "cat/a.jpg").write_bytes(b"22"),
        lambda: os.utime(folder / "cat/a.jpg", ns=(1, 1)),
        lambda: (folder / "more").symlink_to(tmp_path),
        (folder / "cow").mkdir,
    ]
    for change in changes:
        shutil.rmtree(folder, ignore_errors=True)
        sort(folder, images)
        change()
        before = files_in(folder)
        with pytest.raises(HeadError, match="expected a new folder, or one that --sort wrote and"):
            check_folder(folder)
        assert files_in(folder) == before
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.jpg").touch()
    for name in ("file", "full"):
        with pytest.raises(HeadError, match=r"(not a folder|holds no sorted.csv); expected a new"):
            check_folder(tmp_path / name)
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")


def test_a_change_during_the_run_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    sort(folder, [("a.jpg", "cat", b"1")])

    def change() -> bytes:
        (folder / "notes.txt").write_text("mine")
        return b"2"

    with pytest.raises(HeadError, match=r"1 file \(notes.txt\) that --sort did not"):
        sort_images(folder, [Sorted("b.jpg", "dog", 1, change)])
    assert files_in(folder) == ["cat/a.jpg", "notes.txt", LIST]


def test_the_images_and_the_folder_lie_apart(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for folder in (source, source / "sorted", tmp_path):
        with pytest.raises(HeadError, match="one folder lies in the other; name a folder elsewh"):
            check_folder(folder, str(source))
    check_folder(tmp_path / "photos2", str(source))


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    sort(folder, [("a.jpg", "cat", b"1")])

    def fail() -> bytes:
        raise RuntimeError("stopped")

    images = [Sorted("b.jpg", "dog", 1, partial(bytes, b"2")), Sorted("c", "dog", 1, fail)]
    with pytest.raises(RuntimeError, match="stopped"):
        sort_images(folder, images)
    assert files_in(tmp_path) == ["out/cat/a.jpg", f"out/{LIST}"]


def test_an_unreadable_image_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> bytes:
        raise ImageError("is gone")

    images = [Sorted("a.jpg", "cat", 1, gone), Sorted("b.jpg", "cat", 1, partial(bytes, b"2"))]
    sort_images(tmp_path / "out", images)
    assert "1 image not sorted, first a.jpg: is gone" in caplog.text
    assert files_in(tmp_path / "out") == ["cat/b.jpg", LIST]


def draw(folder: Path) -> None:
    """Twelve bright and twelve dark images."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(24):
        pixels = random.integers(0, 60, (30, 30, 3)) + (0, 190)[i % 2]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in a folder and in an archive, their features, and a head."""
    root = tmp_path_factory.mktemp("made")
    draw(root / "photos")
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(root / "photos", "photos")
    labels = "".join(f"{i:02d}.png,{('dark', 'bright')[i % 2]}\n" for i in range(0, 24, 1))
    (root / "labels.csv").write_text(f"key,label\n{labels}")
    extract_features(root / "photos", root / "out.h5", quiet=True, **QUICK)  # type: ignore[arg-type]
    extract_features(root / "photos.tar", root / "tar.h5", quiet=True, **QUICK)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"labels": root / "labels.csv", "quiet": True, "C": 10.0}
    train_heads(root / "out.h5", output=root / "head", head="logistic", **settings)
    return root


@pytest.mark.parametrize("source", ["photos", "photos.tar", "out.h5", "tar.h5"])
@pytest.mark.parametrize("link", [False, True])
def test_every_source_is_sorted(made: Path, tmp_path: Path, source: str, link: bool) -> None:
    settings: dict[str, Any] = {"sort": tmp_path / "out", "link": link or None, "quiet": True}
    found = predict_images(made / source, made / "head", output=tmp_path / "p.csv", **settings)
    names = {p.key: os.path.basename(p.key) for p in found}
    wanted = sorted([*(f"{p.label}/{names[p.key]}" for p in found), LIST])
    assert files_in(tmp_path / "out") == wanted
    assert {p.label for p in found} == {"bright", "dark"}
    for p in found:
        path = tmp_path / "out" / str(p.label) / names[p.key]
        original = made / "photos" / names[p.key]
        assert path.read_bytes() == original.read_bytes()
        assert path.samefile(original) == (link and "tar" not in source)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 25


def test_unsure_images_have_a_folder_of_their_own(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predict_images(made / "out.h5", made / "head", quiet=True)
    least = sorted(p.score or 0 for p in found)[12]
    words = [str(made / "head"), str(made / "out.h5"), "--sort", str(tmp_path / "out")]
    assert predict_command([*words, "--min-score", str(least)]) == 0
    unsure = sum((p.score or 0) < least for p in found)
    assert len(list((tmp_path / "out/unlabelled").iterdir())) == unsure > 0
    assert "24 images sorted by label, see sorted.csv" in capsys.readouterr().err


def test_images_of_a_store_are_those_of_the_extraction(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(made / "photos", moved)
    shutil.copy(moved / "00.png", moved / "02.png")
    (moved / "04.png").unlink()
    (moved / "06.png").unlink()
    (moved / "06.png").symlink_to(made / "head/bundle.json")
    settings: dict[str, Any] = {"sort": tmp_path / "out", "images": moved}
    predict_images(made / "out.h5", made / "head", **settings)
    assert len(files_in(tmp_path / "out")) == 22
    assert "3 images not sorted, first 02.png: changed since the extraction" in caplog.text
    (tmp_path / "none").mkdir()
    settings = {"sort": tmp_path / "out2", "images": tmp_path / "none"}
    with pytest.raises(StoreError, match="none: does not hold the images that the features were"):
        predict_images(made / "out.h5", made / "head", **settings)
    assert not (tmp_path / "out2").exists()


def test_the_first_images_may_be_gone(made: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(made / "photos", moved)
    for i in range(20):
        (moved / f"{i:02d}.png").unlink()
    predict_images(made / "out.h5", made / "head", sort=tmp_path / "out", images=moved)
    assert len(files_in(tmp_path / "out")) == 4 + 1


def test_what_does_not_go_together(made: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="link: has no effect without --sort"):
        predict_images(made / "out.h5", made / "head", link=True)
    with pytest.raises(SettingError, match="sort and to_label cannot be combined; choose one"):
        predict_images(made / "out.h5", made / "head", sort=tmp_path / "out", to_label=3)
    with pytest.raises(HeadError, match="one folder lies in the other"):
        predict_images(made / "photos", made / "head", sort=made / "photos/sorted")
    np.savez(tmp_path / "new.npz", X=np.zeros((3, 32), np.float32))
    with pytest.raises(SettingError, match=r"sort: has no effect on .*, which holds features and"):
        predict_images(tmp_path / "new.npz", made / "head", sort=tmp_path / "out")


@pytest.mark.parametrize("source", ["photos", "out.h5"])
def test_predictions_are_written_although_sorting_fails(
    made: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise HeadError("the disk is full")

    monkeypatch.setattr(predictions, "sort_images", fail)
    settings: dict[str, Any] = {"sort": tmp_path / "out", "output": tmp_path / "p.csv"}
    with pytest.raises(HeadError, match="the disk is full"):
        predict_images(made / source, made / "head", **settings)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 25


def test_a_result_in_the_folder_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    settings: dict[str, Any] = {"sort": folder, "quiet": True}
    for source in ("photos", "out.h5"):
        predict_images(made / source, made / "head", **settings)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(folder)
        for output in (folder / "x.csv", folder / "dark/x.csv", tmp_path / "link/x.csv"):
            with pytest.raises(HeadError, match=r"x.csv: lies in .*, the folder of sorted images"):
                predict_images(made / source, made / "head", output=output, **settings)
        with pytest.raises(HeadError, match="holds something else"):
            predict_images(made / source, made / "head", output=folder / LIST, **settings)
        assert not (folder / "x.csv").exists()
    with pytest.raises(HeadError, match=r"lies in .*, the folder of sorted images"):
        predict_images(made / "photos", made / "head", sort=tmp_path / "a", output=tmp_path / "a")


def test_the_disks_are_asked_once_for_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(os, "sync", lambda: asked.append("sync"))
    monkeypatch.setattr(os, "fsync", lambda _: asked.append("fsync"))
    sort(tmp_path / "out", [(f"{i}.jpg", "cat", b"x") for i in range(20)])
    assert asked == ["sync", "fsync"]  # the content, and the folder's name after it


def test_each_of_many_files_of_one_name_has_a_number(tmp_path: Path) -> None:
    names = ["a-3.jpg", *["a.jpg"] * 5, "A.jpg"]
    found = sort(tmp_path / "out", [(f"{i}/{n}", "cat", b"x") for i, n in enumerate(names)])
    numbered = ["A-7.jpg", *(f"a-{i}.jpg" for i in range(2, 7)), "a.jpg"]
    assert found == sorted([*(f"cat/{name}" for name in numbered), LIST])
