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
    assert (summary.images, summary.computed) == (9, 4)
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
    assert extract(images, out, **UPDATE).computed == 4 + 1
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
    assert extract_features(images, out, **UPDATE).computed == 4
    extract_features(images, copy, **UPDATE)
    assert contents(out) == contents(copy)


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
