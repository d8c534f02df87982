import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from extract.core.errors import SettingError, StoreError
from extract.core.row_block import RowBlock
from extract.pipeline.run import Summary
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from extract.store.verify import verify
from tests.conftest import QUICK

# The sets of these tests are small: two images are more than a tenth.
UPDATE: dict[str, Any] = {"update": True, "max_removed": "100%"}


def extract(source: Path, out: Path, **settings: Any) -> Summary:
    return extract_features(source, out, **{**QUICK, **settings})


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (25, 30, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def change(images: Path) -> None:
    """One image of each kind: new, of a new class, changed, missing, in another split."""
    draw(images / "train" / "cat" / "00.png", 5)
    draw(images / "train" / "bear" / "0.png", 6)
    draw(images / "train" / "dog" / "1.png", 7)
    (images / "train" / "cat" / "1.png").unlink()
    os.rename(images / "validation" / "dog" / "0.png", images / "train" / "dog" / "5.png")


def contents(path: Path) -> dict[str, Any]:
    """Return all that a store says of its images."""
    with open_store(path) as store:
        assert verify(store) == []
        views = store.view_spec.views
        return {
            "keys": store.keys,
            "class_names": store.class_names,
            "labels": store.labels.tolist(),
            "split": store.split.tolist(),
            "status": store.status.tolist(),
            "digests": store.digests().tolist(),
            "features": store.read("conv1_relu", slice(None)).tolist(),
            "views": store.read_views("conv1_relu", store.view_rows).tolist() if views else [],
        }


@pytest.mark.parametrize("views", [0, 2])
def test_an_updated_store_is_that_of_a_first_run(images: Path, tmp_path: Path, views: int) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, views=views)
    change(images)
    summary = extract(images, out, views=views, **UPDATE)
    # Of four new files one was moved; if it has no views, it is run again with them.
    assert (summary.images, summary.computed) == (9, 4 if views else 3)
    extract(images, tmp_path / "fresh.h5", views=views)
    found, wanted = contents(out), contents(tmp_path / "fresh.h5")
    for name in ("features", "views"):
        np.testing.assert_allclose(found.pop(name), wanted.pop(name), atol=1e-5)
    assert found == wanted
    assert extract_features(images, out, **UPDATE).computed == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.h5", "images", "out.h5"]


def test_kept_rows_are_copied_bit_for_bit(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with open_store(out, write=True) as store:
        written = np.broadcast_to(np.arange(8)[:, None], (8, *store.shapes["conv1_relu"]))
        rows = np.arange(8)
        store.write(RowBlock(rows, {"conv1_relu": written.astype("f4")}, store.digests(), []))
    change(images)
    extract(images, out, **UPDATE)
    with open_store(out) as store:
        kept = [store.keys.index(key) for key in ("train/cat/0.png", "validation/dog/1.png")]
        assert store.read("conv1_relu", np.array(kept))[:, 0].tolist() == [0, 7]


def test_a_row_that_is_not_what_was_written_is_not_kept(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with h5py.File(out, "r+") as file:
        file["features"][2] += 1
    change(images)
    assert extract(images, out, **UPDATE).computed == 3 + 1
    extract(images, tmp_path / "fresh.h5")
    np.testing.assert_allclose(
        contents(out)["features"], contents(tmp_path / "fresh.h5")["features"], atol=1e-5
    )


def test_an_image_that_trains_from_now_on_gets_views(images: Path, tmp_path: Path) -> None:
    table, out = images / "table.csv", tmp_path / "out.h5"
    keys = ["train/cat/0.png", "train/dog/0.png", "train/cat/1.png", "train/dog/1.png"]
    for splits in (["train", "train", "val", "val"], ["val", "train", "train", "val"]):
        rows = [f"{key},{key[6:9]},{split}" for key, split in zip(keys, splits, strict=True)]
        table.write_text("\n".join(["path,label,split", *rows]))
        summary = extract(table, out, views=1, **UPDATE)
    assert summary.computed == 1
    with open_store(out) as store:
        assert verify(store) == []
        assert [store.keys[row] for row in store.view_rows] == [
            "train/cat/1.png",
            "train/dog/0.png",
        ]


OPENS = """
import sys
from pathlib import Path
from extract.pipeline.run import run_extraction

opened = set()
def note(event, given):
    if event == "open" and str(given[0]).endswith(".png"):
        opened.add("/".join(Path(given[0]).parts[-3:]))

sys.addaudithook(note)
for check in ("modified", "content"):
    opened.clear()
    update = {"update": True, "max_removed": "100%", "check": check}
    print(run_extraction(sys.argv[1], sys.argv[2], **update).computed, *sorted(opened))
"""


def date(path: Path, seconds: float = 1e9) -> None:
    os.utime(path, (seconds, seconds))


def count_opens(source: Path, out: Path) -> list[str]:
    """Update, comparing times and then content, and return what was computed and opened."""
    words = [sys.executable, "-c", OPENS, str(source), str(out)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("is_table", [False, True])
def test_an_update_opens_only_what_changed(images: Path, tmp_path: Path, is_table: bool) -> None:
    keys = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    source, out = images, tmp_path / "out.h5"
    if is_table:
        source = images / "table.csv"
        source.write_text("\n".join(["path", *keys]))
    extract(source, out)
    draw(images / keys[0], 9)
    for key in keys[:2]:
        date(images / key, 1e9 + 1)
    assert count_opens(source, out) == [f"1 {keys[0]} {keys[1]}", " ".join(["0", *keys])]


def test_an_image_that_changes_within_a_tick_of_the_clock_is_read(
    images: Path, tmp_path: Path
) -> None:
    path, out = images / "train" / "cat" / "2.bmp", tmp_path / "out.h5"
    draw(path, 1)
    modified = path.stat().st_mtime_ns
    extract(images, out)
    draw(path, 2)
    os.utime(path, ns=(modified, modified))
    assert extract(images, out, **UPDATE).computed == 1


def test_a_store_without_stamps_gets_them_in_an_update(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with h5py.File(out, "r+") as file:
        del file["stamp"]
    before = out.read_bytes()
    assert extract(images, out, **UPDATE).computed == 0
    assert out.read_bytes() == before
    draw(images / "train" / "cat" / "2.png", 5)
    date(images / "train" / "cat" / "2.png")
    assert extract(images, out, **UPDATE).computed == 1
    with open_store(out) as store:
        sizes = [(images / key).stat().st_size for key in store.keys]
        assert store.stamps.tolist() == [[size, 10**18] for size in sizes]


def test_columns_may_change_with_the_table(images: Path, tmp_path: Path) -> None:
    table, out = images / "table.csv", tmp_path / "out.h5"
    table.write_text("path,label,kind\ntrain/cat/0.png,a,c\ntrain/dog/0.png,b,d\n")
    extract(table, out)
    with pytest.raises(StoreError, match="columns"):
        extract(table, out, columns="label=kind")
    assert extract(table, out, columns="label=kind", **UPDATE).computed == 0
    with open_store(out) as store:
        assert store.class_names == ("c", "d")
        assert store.attributes["columns"] == "label=kind"


def test_without_the_flag_a_changed_source_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    draw(images / "train" / "cat" / "2.png", 5)
    before = out.read_bytes()
    with pytest.raises(StoreError, match=r"1 image \(train/cat/2\.png\) new; use --update"):
        extract(images, out)
    with pytest.raises(StoreError, match="was made with --image-size 32, not 48; drop"):
        extract(images, out, image_size=(48, 48), **UPDATE)
    assert out.read_bytes() == before
    with pytest.raises(SettingError, match="--update and --overwrite cannot be combined"):
        extract(images, out, update=True, overwrite=True)


def test_a_file_that_is_being_written_is_not_updated(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    change(images)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(StoreError, match="another process"):
            extract(images, out, **UPDATE)
        writer.communicate(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_copy", "move_into_place"])
def test_killed_at_a_step_and_run_again(images: Path, tmp_path: Path, step: str) -> None:
    out, copy = tmp_path / "out.h5", tmp_path / "copy.h5"
    extract(images, out)
    change(images)
    shutil.copy(out, copy)
    before = out.read_bytes()
    code = (
        "import os, signal, sys\n"
        "from extract.pipeline import run; from extract.store import update\n"
        f"update.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.run_extraction(sys.argv[1], sys.argv[2], update=True, max_removed='100%')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(images), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    assert extract_features(images, out, **UPDATE).computed == 3
    extract_features(images, copy, **UPDATE)
    assert contents(out) == contents(copy)


def reread(images: Path, out: Path, fresh: Path, **settings: Any) -> tuple[int, float]:
    """Update, and return what was computed and how far features are from those of a first run."""
    computed = extract(images, out, update=True, **settings).computed
    extract(images, fresh, overwrite=True)
    found, wanted = contents(out), contents(fresh)
    distance = np.abs(np.subtract(found.pop("features"), wanted.pop("features"))).max()
    assert found == wanted
    return computed, float(distance)


def date_apart(images: Path) -> None:
    """Give each file a time of its own, as those of a camera have."""
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        date(path, 1e9 + number)


def move(folder: Path, *pairs: tuple[str, str]) -> None:
    """Rename files or folders below a folder, all at once."""
    for number, (old, _) in enumerate(pairs):
        (folder / old).rename(folder / f"moving{number}")
    for number, (_, new) in enumerate(pairs):
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"moving{number}").rename(folder / new)


@pytest.mark.parametrize("check", ["modified", "content"])
@pytest.mark.parametrize(
    ("pairs", "renamed", "classes"),
    [
        ([("train/cat", "train/lynx"), ("validation/cat", "validation/lynx")], 4, ("dog", "lynx")),
        ([("train/cat/0.png", "train/dog/9.png")], 1, ("cat", "dog")),
        ([("train/cat/0.png", "train/cat/a.png")], 1, ("cat", "dog")),
        ([("train", "validation"), ("validation", "train")], 8, ("cat", "dog")),
        ([("train/cat/0.png", "train/cat/1.png"), ("train/cat/1.png", "train/cat/0.png")], 2, None),
        (
            [("train/cat/1.png", "train/dog/1.png"), ("train/dog/1.png", "validation/dog/7.png")],
            2,
            None,
        ),
    ],
)
def test_a_renamed_file_keeps_its_row(
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    pairs: list[tuple[str, str]],
    renamed: int,
    classes: tuple[str, ...] | None,
    check: str,
) -> None:
    out = tmp_path / "out.h5"
    date_apart(images)
    extract(images, out)
    move(images, *pairs)
    with caplog.at_level("INFO", "headstart"):
        extract(images, out, update=True, dry_run=True, check=check)
        assert f"8 images of 2 classes, 8 done before, of them {renamed} under a" in caplog.text
        assert reread(images, out, tmp_path / "fresh.h5", check=check) == (0, 0)
    kept = f"8 rows kept, of them {renamed} under a new name, 0 new or changed, 0 dropped"
    assert kept in caplog.text
    with open_store(out) as store:
        assert store.class_names == (classes or ("cat", "dog"))


def test_rows_of_moved_files_are_copied_and_not_computed(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with open_store(out, write=True) as store:
        keys = store.keys
        written = np.broadcast_to(np.arange(8)[:, None], (8, *store.shapes["conv1_relu"]))
        rows = np.arange(8)
        store.write(RowBlock(rows, {"conv1_relu": written.astype("f4")}, store.digests(), []))
    move(images, ("train", "validation"), ("validation", "train"))
    extract(images, out, update=True, check="content")
    with open_store(out) as store:
        values = store.read("conv1_relu", slice(None))[:, 0].tolist()
        assert dict(zip(store.keys, values, strict=True)) == {
            key.replace(*words): row
            for row, key in enumerate(keys)
            for words in [("train", "validation"), ("validation", "train")]
            if key.startswith(words[0])
        }


def test_a_table_may_name_the_same_files_by_other_paths(images: Path, tmp_path: Path) -> None:
    table, out = images / "table.csv", tmp_path / "out.h5"
    keys = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    table.write_text("\n".join(["path", *keys]))
    extract(table, out)
    (tmp_path / "moved").mkdir()
    shutil.move(images, tmp_path / "moved" / "photos")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path", *(f"moved/photos/{key}" for key in keys)]))
    assert extract(table, out, update=True).computed == 0
    with open_store(out) as store:
        assert store.keys == [f"moved/photos/{key}" for key in keys]


def test_renamed_members_of_an_archive_keep_their_rows(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    shutil.make_archive(str(tmp_path / "photos"), "zip", images)
    extract(tmp_path / "photos.zip", out)
    move(images, ("train/dog", "train/wolf"), ("validation/dog", "validation/wolf"))
    shutil.make_archive(str(tmp_path / "photos"), "zip", images)
    assert extract(tmp_path / "photos.zip", out, update=True).computed == 0
    with open_store(out) as store:
        assert store.class_names == ("cat", "wolf")


def test_copies_of_an_image_take_its_row(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    for name in ("8.png", "9.png"):
        shutil.copy(images / "train" / "cat" / "0.png", images / "train" / "dog" / name)
    assert reread(images, out, tmp_path / "fresh.h5") == (0, 0)
    (images / "train" / "dog" / "8.png").unlink()
    (images / "train" / "dog" / "9.png").rename(images / "train" / "dog" / "7.png")
    assert reread(images, out, tmp_path / "fresh.h5", max_removed="1") == (0, 0)


def test_a_moved_image_keeps_its_views_if_it_has_them(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    date_apart(images)
    extract(images, out, views=2)
    before = contents(out)
    move(images, ("train/cat", "train/lynx"), ("validation/cat", "validation/lynx"))
    assert extract(images, out, views=2, update=True).computed == 0
    after = contents(out)
    order = [before["keys"].index(key.replace("lynx", "cat")) for key in after["keys"]]
    assert after["features"] == [before["features"][row] for row in order]
    # Training rows come first, and those of dogs before those of the class that was renamed.
    assert after["views"] == [before["views"][row] for row in (2, 3, 0, 1)]
    move(
        images, ("validation/dog/0.png", "train/dog/0.png"), ("train/dog/0.png", "train/dog/9.png")
    )
    assert extract(images, out, views=2, **UPDATE).computed == 1


def test_renamed_files_are_not_counted_as_removed(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    move(images, ("train/cat", "train/lynx"), ("validation/cat", "validation/lynx"))
    (images / "train" / "dog" / "0.png").unlink()
    with pytest.raises(StoreError, match=r"lacks 1 image \(train/dog/0.png\) of 8; expected at"):
        extract(images, out, update=True, max_removed="0")
    assert extract(images, out, update=True, max_removed="1").images == 7


def test_a_refusal_says_that_images_are_only_renamed(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    move(images, ("train/cat", "train/lynx"), ("validation/cat", "validation/lynx"))
    found = "4 images seem to be only renamed or moved; use --update, which keeps the rows"
    with pytest.raises(StoreError, match=found):
        extract(images, out)


def test_an_update_reads_only_new_names_and_files_that_changed(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    move(images, ("train/cat/0.png", "train/lynx/0.png"))
    draw(images / "train" / "cat" / "1.png", 3)
    wide = np.zeros((200, 300, 3), np.uint8)  # no row has a file of this size
    Image.fromarray(wide).save(images / "train" / "cat" / "wide.bmp")
    for path in images.rglob("*.*"):
        date(path)
    date(images / "train" / "cat" / "1.png", 1e9 + 1)
    # The new file of a size that no row has is read once, by the trunk.
    opened, _ = count_opens(images, out)
    assert opened == "2 train/cat/1.png train/lynx/0.png"


def test_no_trunk_is_built_where_nothing_is_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError(given)

    out = tmp_path / "out.h5"
    extract(images, out)
    with monkeypatch.context() as patch:
        patch.setattr("extract.pipeline.run.open_engine", refuse)
        move(images, ("train/cat", "train/lynx"), ("validation/cat", "validation/lynx"))
        assert extract_features(images, out, update=True, dry_run=True).computed == 0
        assert extract_features(images, out, update=True).computed == 0
        draw(images / "train" / "dog" / "8.png", 8)
        date(images / "train" / "dog" / "8.png")
        with pytest.raises(AssertionError):
            extract(images, out, update=True)
    assert extract(images, out, update=True).computed == 1


def test_an_update_drops_few_rows_unless_it_is_told_to(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    before = out.read_bytes()
    shutil.move(images / "validation", tmp_path / "not mounted")
    message = r"lacks 4 images \(validation/cat/0.png, .* of 8; expected at most {}; check that all"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "10%"),
        ({"dry_run": True}, "10%"),
        ({"max_removed": "49%"}, "49%"),
        ({"max_removed": "3"}, "3"),
    ]
    for settings, most in cases:
        with pytest.raises(StoreError, match=message.format(most)):
            extract(images, out, update=True, **settings)
    assert out.read_bytes() == before
    assert extract(images, out, update=True, max_removed="50%").images == 4
    with pytest.raises(SettingError, match="max_removed: has no effect without --update"):
        extract(images, out, max_removed="50%")


def test_a_dry_run_counts_the_rows_that_an_update_keeps(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    draw(images / "train" / "cat" / "2.png", 5)
    with caplog.at_level("INFO", "headstart"):
        extract(images, out, update=True, dry_run=True)
    assert "9 images of 2 classes, 8 done before" in caplog.text


def test_an_update_through_a_link_changes_its_target(images: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out, link = tmp_path / "disk" / "out.h5", tmp_path / "link.h5"
    extract(images, out)
    link.symlink_to(out)
    draw(images / "train" / "cat" / "2.png", 5)
    extract(images, link, update=True)
    assert link.is_symlink()
    with open_store(out) as store:
        assert len(store.keys) == 9
