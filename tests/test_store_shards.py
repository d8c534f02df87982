"""Several stores behind an index: in every respect the one file that they stand for."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify.cli import main as train_head
from classify.data.dataset import load_dataset
from extract.core.errors import SettingError, StoreError
from extract.core.row_block import DONE, FAILED, Failure, RowBlock
from extract.pipeline.run import Summary
from extract.pipeline.run import run_extraction as extract_features
from extract.show_cli import main as show_features
from extract.store import shards as index
from extract.store.describe import describe
from extract.store.open import open_store, read_features
from extract.store.single_file import StoreFile, open_store_file
from extract.store.verify import verify
from tests.conftest import QUICK, ROOT, run_on_small_disk
from tests.test_pipeline_run import interrupted_after

LAYERS = ("conv1_relu", "conv_pw_1_relu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.store.shards.SHARD_ROWS", 3)


def extract(source: Path, out: Path, **given: Any) -> Summary:
    return extract_features(source, out, **{**QUICK, "max_bad": "100%", **given})


def with_type(values: np.ndarray) -> tuple[str, Any]:
    return str(values.dtype), values.tolist()


def everything(path: Path) -> dict[str, Any]:
    """All that a store says, whatever it consists of."""
    with open_store(path) as store:
        assert verify(store) == []
        rows = np.arange(len(store.keys))
        said = describe(store)
        said["attributes"] = {k: v for k, v in said["attributes"].items() if k != "shards"}
        columns = [store.labels, store.split, store.status, store.view_rows, store.digests()]
        return {
            **{name: said[name] for name in said if name not in ("file", "bytes", "shards")},
            "keys": store.keys,
            "groups": store.groups,
            "failures": store.failures(),
            "columns": [column.tolist() for column in columns],
            "features": {n: with_type(store.read(n, rows)) for n in store.shapes},
            "views": {
                n: with_type(store.read_views(n, store.view_rows))
                for n in (store.shapes if store.view_spec.views else ())
            },
        }


def test_an_index_is_the_one_file_in_every_respect(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["extract-features"])  # the command is kept
    (images / "train/dog/bad.png").write_text("no image")
    extract(images, tmp_path / "one.h5", layer=LAYERS, views=2)
    made = extract(images, tmp_path / "out.h5", layer=LAYERS, views=2, shards=tmp_path / "parts")
    assert (made.images, made.computed, len(made.failed)) == (9, 9, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("images", "one.h5", "out.h5", "parts")
    ]
    assert [path.name for path in sorted((tmp_path / "parts").iterdir())] == [
        *("shard-00000.h5", "shard-00001.h5", "shard-00002.h5")
    ]
    assert repr(everything(tmp_path / "out.h5")) == repr(everything(tmp_path / "one.h5"))
    for part in (tmp_path / "parts").iterdir():
        with open_store(part) as store:
            assert store.complete
            assert len(store.keys) == 3
    assert extract_features(images, tmp_path / "out.h5", max_bad="1").computed == 1


def test_an_index_is_read_with_h5py_alone(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["format_version"] == 1
        parts = file["shards"].asstr()[:].tolist()
        assert file["rows"][:].tolist() == [3, 3, 2]
    keys: list[str] = []
    for part in parts:
        with h5py.File(tmp_path / part) as file:
            keys += file["keys"].asstr()[:].tolist()
    assert keys == sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))


def test_ranges_are_read_across_shards(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    with open_store(tmp_path / "out.h5") as store:
        every = store.read("conv1_relu", slice(None))
        assert every.dtype == np.float32
        some = np.array([0, 2, 3, 7])
        np.testing.assert_array_equal(store.read("conv1_relu", some), every[some])
        np.testing.assert_array_equal(store.read("conv1_relu", slice(2, 4)), every[2:4])
    ranges = [slice(0, 2), slice(2, 7), slice(7, 8), slice(1, 3), slice(0, 8)]
    found = list(read_features(tmp_path / "out.h5", ["conv1_relu"], ranges))
    for rows, (values,) in zip(ranges, found, strict=True):
        np.testing.assert_array_equal(values, every[rows])


def test_an_index_made_anew_is_read_anew(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5"
    for size, count in ((3, 8), (2, 7)):
        monkeypatch.setattr("extract.store.shards.SHARD_ROWS", size)
        extract(images, out, shards=tmp_path / "parts", overwrite=True)
        ((found,),) = read_features(out, ["conv1_relu"], [slice(1, count)])
        with open_store(out) as store:
            np.testing.assert_array_equal(found, store.read("conv1_relu", np.arange(1, count)))
        (images / "train/cat/0.png").unlink(missing_ok=True)


def test_groups_of_some_shards_are_those_of_the_whole(images: Path, tmp_path: Path) -> None:
    keys = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    table = images / "table.csv"
    rows = [f"{key},cat,{'g' * (row > 4)}" for row, key in enumerate(keys)]
    table.write_text("\n".join(["path,label,group", *rows]))
    extract(table, tmp_path / "one.h5")
    extract(table, tmp_path / "out.h5", shards=tmp_path / "parts")
    with open_store(tmp_path / "out.h5") as store, open_store(tmp_path / "one.h5") as one:
        assert store.groups == one.groups == [""] * 5 + ["g"] * 3


def test_heads_are_those_of_the_one_file(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "one.h5")
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    found = [load_dataset(tmp_path / name) for name in ("one.h5", "out.h5")]
    assert found[0].fingerprint == found[1].fingerprint
    # Read while training, too.
    streamed = load_dataset(tmp_path / "out.h5", memory=1e-6)
    np.testing.assert_array_equal(streamed.X.read(np.arange(8)), found[0].X)
    assert train_head([str(tmp_path / "out.h5"), "--head", "ridge", "--quiet"]) == 0


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_stopped_it_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["extract-features"])
    out = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(StoreFile, "write", interrupted_after(stop))
        with pytest.raises(KeyboardInterrupt, match=f"{stop} of 8 images are in"):
            extract(images, out, batch_size=1, shards=tmp_path / "parts")
    assert extract_features(images, out).computed == 8 - stop
    extract(images, tmp_path / "one.h5", batch_size=1)
    assert repr(everything(out)) == repr(everything(tmp_path / "one.h5"))


@pytest.mark.parametrize(
    ("step", "calls", "left"),
    [
        ("extract.store.format.Layout.write", 0, 8),
        ("extract.store.format.Layout.write", 2, 8),
        ("extract.store.shards._write_index", 0, 8),
        ("extract.store.shards.publish", 0, 8),
        ("extract.store.shards.publish", 1, 8),  # the folder is there, the index is not
        ("extract.store.single_file.StoreFile.commit", 0, 8),
        (
            "extract.store.single_file.StoreFile.commit",
            1,
            5,
        ),  # the first shard counts, the second does not
    ],
)
def test_killed_at_a_step_it_goes_on(
    images: Path, tmp_path: Path, step: str, calls: int, left: int
) -> None:
    out = tmp_path / "out.h5"
    assert run_killed(images, out, step, calls) == -9
    assert extract(images, out, shards=tmp_path / "parts").computed == left
    extract(images, tmp_path / "one.h5")
    with open_store(out) as store, open_store(tmp_path / "one.h5") as one:
        assert verify(store) == []
        every = slice(None)
        np.testing.assert_array_equal(
            store.read("conv1_relu", every), one.read("conv1_relu", every)
        )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def run_killed(source: Path, out: Path, step: str, calls: int, *more: str) -> int:
    """Run the command and kill it at a step, once that was called some times; return its code."""
    code = (
        "import os, signal, sys, extract.core.atomic\n"
        "import extract.store.shards, extract.store.single_file\n"
        "extract.store.shards.SHARD_ROWS = 3\n"
        f"was, left = {step}, [{calls}]\n"
        "def killed(*given):\n"
        "    left[0] -= 1\n"
        "    return was(*given) if left[0] >= 0 else os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{step} = killed\n"
        "from extract.cli import main as extract_features\n"
        "extract_features()"
    )
    command = [sys.executable, "-c", code, str(source), str(out), *flags(out), *more]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True).returncode


def flags(out: Path) -> list[str]:
    words = [*("--trunk", "mobilenet", "--weights", "none", "--layer", "conv1_relu")]
    return [*words, "--image-size", "32", "--shards", str(out.with_name("parts"))]


def test_what_is_not_sound_is_found_and_computed_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    with h5py.File(tmp_path / "parts/shard-00001.h5", "r+") as file:
        file["features"][1] += 1
    with open_store(out) as store:
        assert verify(store) == [f"not what was written: 1 finished row ({store.keys[4]})"]
    assert extract_features(images, out, repair=True).computed == 1
    with open_store(out) as store:
        assert verify(store) == []


def test_a_lost_shard_is_made_again_and_no_other(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["extract-features"])  # the command is kept
    out, folder = tmp_path / "out.h5", tmp_path / "parts"
    extract(images, out, shards=folder, layer=LAYERS, views=1)
    before = repr(everything(out))
    (folder / "shard-00000.h5").unlink()
    with pytest.raises(StoreError, match=r"shard-00000.h5: no such file; .*with --repair, "):
        extract_features(images, out)
    assert extract_features(images, out, repair=True).computed == 3
    assert f"{folder / 'shard-00000.h5'}: no such file; created again" in caplog.messages
    assert repr(everything(out)) == before
    shutil.copy(folder / "shard-00002.h5", folder / "shard-00001.h5")
    with pytest.raises(
        StoreError, match=r"is not the shard .*expected nothing in its place; move it"
    ):
        extract_features(images, out, repair=True)
    (folder / "shard-00001.h5").unlink()
    (images / "train/dog/1.png").rename(images / "train/dog/2.png")
    with pytest.raises(StoreError, match=r"rows 3 to 5 of the source, which has changed; restore"):
        extract_features(images, out, repair=True)
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match=r"none of its 3 shards is there; .*remove it and run"):
        extract_features(images, out, repair=True)


def remove(folder: Path) -> None:
    (folder / "shard-00001.h5").unlink()


def truncate(folder: Path) -> None:
    os.truncate(folder / "shard-00001.h5", 3000)


def swap(folder: Path) -> None:
    os.replace(folder / "shard-00000.h5", folder / "shard-00001.h5")
    shutil.copy(folder / "shard-00001.h5", folder / "shard-00000.h5")


def relabel(folder: Path) -> None:
    with h5py.File(folder / "shard-00001.h5", "r+") as file:
        file.attrs["weights_sha256"] = "0" * 64


def link(folder: Path) -> None:
    os.replace(folder, folder.parents[1] / "elsewhere")
    folder.symlink_to(folder.parents[1] / "elsewhere")


def link_one(folder: Path) -> None:
    os.replace(folder / "shard-00001.h5", folder / "moved.h5")
    (folder / "shard-00001.h5").symlink_to("moved.h5")


def loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def forge(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    """Change a shard and have the index say that it is what was made."""

    def forged(folder: Path) -> None:
        with h5py.File(folder / "shard-00001.h5", "r+") as file:
            change(file)
        with open_store_file(folder / "shard-00001.h5") as store:
            identity = index.identify(store.keys, store.attributes)
        with h5py.File(folder.parent / "out.h5", "r+") as file:
            file["identity"][1] = np.frombuffer(identity, np.uint8)

    return forged


def other_weights(file: h5py.File) -> None:
    file.attrs["weights_sha256"] = "0" * 64


def other_shape(file: h5py.File) -> None:
    del file["features"]
    file["features"] = np.zeros((3, 5), "f4")


def other_keys(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("shard-00000.h5")) as first:
        file["keys"][:] = first["keys"][:]


def rename(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder.parent / "out.h5", "r+") as file:
            names = file["shards"].asstr()[:].tolist()
            file["shards"][:] = [name.format(folder=folder), *names[1:]]

    return change


def edit(values: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder.parent / "out.h5", "r+") as file:
            values(file)

    return change


def fewer_rows(file: h5py.File) -> None:
    file["rows"][:] = [3, 3, 1]


def without_rows(file: h5py.File) -> None:
    del file["rows"]


def newer(file: h5py.File) -> None:
    file.attrs["format_version"] = 9


def counts(*rows: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["rows"]
        file["rows"] = np.array(rows)

    return change


def fewer_identities(file: h5py.File) -> None:
    identities = file["identity"][:2]
    del file["identity"]
    file["identity"] = identities


def with_a_null(file: h5py.File) -> None:
    del file["shards"]
    file["shards"] = np.array([b"parts/\0x", b"parts/1", b"parts/2"])


def without_shards(file: h5py.File) -> None:
    for name in ("shards", "rows", "identity"):
        values = file[name][:0]
        del file[name]
        file[name] = values


def elsewhere(file: h5py.File) -> None:
    del file["rows"]
    file["rows"] = h5py.ExternalLink("/nowhere.h5", "rows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"shard-00001.h5: no such file; expected the one of rows 3 to 5; restore it"),
        (truncate, r"shard-00001.h5: truncated; expected a file"),
        (swap, r"shard-00001.h5: is not the shard that the index"),
        (relabel, r"shard-00001.h5: is not the shard that the index"),
        (link, r"out.h5: names .*shard-00000.h5, outside of its folder"),
        (link_one, r"out.h5: names .*shard-00001.h5, outside of its folder"),
        (loop, r"out.h5: (damaged|names)"),
        (forge(other_weights), r"00001.h5: has another weights_sha256 than the first shard"),
        (forge(other_shape), r"00001.h5: has another shape of features than the first shard"),
        (forge(other_keys), r"out.h5: its shards share keys"),
        (rename("/etc/passwd"), r"out.h5: names /etc/passwd, outside of its folder"),
        (rename("../other.h5"), r"out.h5: names .*other.h5, outside of its folder"),
        (rename("parts/shard-00001.h5"), r"out.h5: lists no shard, one twice, or one without"),
        (rename("parts/no"), r"parts/no: no such file; expected the one of rows"),
        (edit(fewer_rows), r"shard-00002.h5: is not the shard that"),
        (edit(without_rows), r"out.h5: damaged"),
        (edit(counts(3, 0, 5)), r"out.h5: lists no shard, one twice, or one without rows"),
        (edit(counts(3, -3, 8)), r"out.h5: lists no shard, one twice, or one without rows"),
        (edit(counts(3.0, 3.0, 2.0)), r"out.h5: damaged"),
        (edit(counts(3, 3)), r"out.h5: damaged"),
        (edit(fewer_identities), r"out.h5: damaged"),
        (edit(without_shards), r"out.h5: "),
        (edit(with_a_null), r"parts/.x00x': no such file; expected the one"),
        (rename("parts/" + "x" * 300), r"out.h5: damaged"),
        (rename("parts/.."), r"out.h5: names .*, outside of its folder"),
        (edit(newer), r"out.h5: format 9; expected 3 or lower; upgrade headstart"),
        (edit(elsewhere), r"out.h5: rows is a link to somewhere else"),
    ],
)
def test_an_index_that_is_not_what_was_made_is_refused(
    images: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "here/parts"
    folder.parent.mkdir()
    out = folder.parent / "out.h5"
    extract(images, out, shards=folder)
    change(folder)
    for read in (open_store, lambda path: contextlib.nullcontext(load_dataset(path))):
        with pytest.raises(StoreError, match=message), read(out):
            pass


def test_a_folder_that_holds_something_else_is_left_alone(images: Path, tmp_path: Path) -> None:
    before = sorted(images.rglob("*"))
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"images: found train; expected a folder for sha"):
            extract(images, tmp_path / "out.h5", shards=images, overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: found file; expected a folder"):
        extract(images, tmp_path / "out.h5", shards=tmp_path / "file")
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    with pytest.raises(StoreError, match=r"parts: shard-00000.h5 has finished rows; expected"):
        extract(images, tmp_path / "new.h5", shards=tmp_path / "parts")
    assert sorted(images.rglob("*")) == before
    assert verify_file(tmp_path / "out.h5") == []


def verify_file(path: Path) -> list[str]:
    with open_store(path) as store:
        return verify(store)


def test_what_differs_is_refused_and_overwrite_replaces(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    with pytest.raises(
        StoreError, match=r"out.h5 was made with --shards parts, not other; drop the flag to"
    ):
        extract(images, out, shards=tmp_path / "other")
    (images / "train/cat/0.png").unlink()
    with pytest.raises(
        StoreError, match=r"has changed: 1 image \(train/cat/0.png\) missing; restore what"
    ):
        extract(images, out)
    with pytest.raises(SettingError, match=r"--update cannot change shards"):
        extract(images, out, update=True)
    assert extract(images, out, overwrite=True).computed == 7
    assert verify_file(out) == []
    assert len(list((tmp_path / "parts").iterdir())) == 3


@pytest.mark.parametrize("folder", ["..", ".", "../parts", "/parts"])
def test_shards_lie_below_their_index(images: Path, tmp_path: Path, folder: str) -> None:
    with pytest.raises(SettingError, match=r"shards: found .*; expected a folder below"):
        extract(images, tmp_path / "out.h5", shards=os.path.join(tmp_path, folder))


def test_an_index_moves_with_its_folder(images: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    extract(images, tmp_path / "here/out.h5", shards=tmp_path / "here/parts")
    (tmp_path / "here").rename(tmp_path / "there")
    assert verify_file(tmp_path / "there/out.h5") == []
    assert extract_features(images, tmp_path / "there/out.h5").computed == 0


def test_a_second_writer_is_refused_at_once(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    code = (
        "import sys; from extract.store.open import open_store\n"
        "with open_store(sys.argv[1], write=True): pass"
    )
    with open_store(out, write=True):
        second = subprocess.run(
            [sys.executable, "-c", code, str(out)],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert "out.h5: another process has it open" in second.stderr


def test_it_is_shown_like_one_file(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    assert show_features([str(tmp_path / "out.h5"), "--verify"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out.h5'}: 8 images in 3 shards" in said
    with open_store(tmp_path / "out.h5") as store:
        assert (store.status == DONE).all()
        size = describe(store)["bytes"]
        assert size > sum(path.stat().st_size for path in (tmp_path / "parts").iterdir())


def test_what_is_finished_counts_once_another_shard_is_written_to(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    begin(images, out)
    with open_store(out, write=True) as store:
        for row in range(4):
            features = {"conv1_relu": np.ones((1, *store.shapes["conv1_relu"]), "f4")}
            store.write(RowBlock(np.array([row]), features, np.ones((1, 16), np.uint8), []))
        # What a kill would leave now.
        shutil.copy(tmp_path / "parts/shard-00000.h5", tmp_path / "copy.h5")
        with open_store(tmp_path / "copy.h5") as copy:
            assert copy.status.tolist() == [DONE] * 3


def test_an_error_leaves_no_shard_open(images: Path, tmp_path: Path) -> None:
    begin(images, tmp_path / "out.h5")
    opened = []

    def fail() -> None:
        with open_store(tmp_path / "out.h5", write=True) as store:
            opened.append(store)
            features = {"conv1_relu": np.ones((1, *store.shapes["conv1_relu"]), "f4")}
            store.write(RowBlock(np.array([4]), features, np.ones((1, 16), np.uint8), []))
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        fail()
    assert opened[0].worker_shards
    assert opened[0]._current
    assert not opened[0]._current[1]._file  # an h5py file that is closed
    assert extract_features(images, tmp_path / "out.h5").computed == 8


def test_what_other_processes_wrote_is_counted(images: Path, tmp_path: Path) -> None:
    begin(images, tmp_path / "out.h5")
    with open_store(tmp_path / "out.h5") as store:
        assert len(store.worker_shards) == 3
        digests = np.arange(32, dtype=np.uint8).reshape(2, 16)
        store.note(RowBlock(np.array([3, 4]), {}, digests, [Failure(5, "is empty", b"\1" * 16)]))
        assert store.status.tolist() == [0, 0, 0, DONE, DONE, FAILED, 0, 0]
        np.testing.assert_array_equal(store.digests()[3:6], [*digests, np.ones(16)])


def test_a_shard_is_known_by_each_key_and_how_it_was_made() -> None:
    made = {"trunk": "vgg16", "layer": ["a", "b"], "complete": 0}
    known = index.identify(["ab", "c"], made)
    assert index.identify(["ab", "c"], {**made, "complete": 1}) == known
    assert index.identify(["a", "bc"], made) != known
    assert index.identify(["ab"], made) != known
    assert index.identify(["ab", "c"], {**made, "trunk": "vgg19"}) != known


def begin(source: Path, out: Path, **given: Any) -> None:
    """Make an index and its shards without any row."""

    def stop(store: StoreFile, block: RowBlock) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreFile, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(source, out, shards=out.with_name("parts"), **given)


def test_overwrite_takes_no_shards_of_another_index(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "other.h5", shards=tmp_path / "parts")
    extract(images, tmp_path / "out.h5")
    with pytest.raises(StoreError, match=r"parts: shard-00000.h5 has finished rows; expected"):
        extract(
            *(images, tmp_path / "out.h5"), shards=tmp_path / "parts", pooling="max", overwrite=True
        )
    assert verify_file(tmp_path / "other.h5") == []
    assert verify_file(tmp_path / "out.h5") == []


@pytest.mark.parametrize("to", ["other", ""])
def test_shards_that_overwrite_leaves_are_named(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, to: str
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    extract(images, out, shards=tmp_path / to if to else "", overwrite=True)
    assert f"{tmp_path / 'parts'}: 3 shards that {out} no longer names" in caplog.text
    assert verify_file(out) == []
    caplog.clear()
    extract(images, out, shards=tmp_path / "again", overwrite=True)
    assert (f"{tmp_path / 'other'}: 3 shards" in caplog.text) == (to == "other")


def test_overwrite_makes_anew_what_lacks_a_shard(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    (tmp_path / "parts/shard-00001.h5").unlink()
    caplog.set_level("INFO", "headstart")
    with pytest.raises(StoreError, match=r"shard-00001.h5: no such file; .* with --overwrite"):
        extract(images, out, shards=tmp_path / "parts")
    made = extract(images, out, shards=tmp_path / "parts", overwrite=True)
    assert made.computed == 8
    assert "shard-00001.h5: no such file" in caplog.text
    assert verify_file(out) == []


@pytest.mark.parametrize(
    "step", ["extract.core.atomic.Path.replace", "extract.store.shards.move_into_place"]
)
def test_overwrite_that_was_killed_goes_on(images: Path, tmp_path: Path, step: str) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, shards=tmp_path / "parts")
    (images / "train/cat/0.png").unlink()
    # Between the two names of the folder, and between the folder's and the index's.
    calls = 0 if step.endswith("replace") else 1
    assert run_killed(images, out, step, calls, "--overwrite") == -9
    with pytest.raises(StoreError, match=r"with --overwrite"):
        extract(images, out, shards=tmp_path / "parts")
    assert extract(images, out, shards=tmp_path / "parts", overwrite=True).computed == 7
    assert verify_file(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.h5", "parts"]


@pytest.mark.parametrize(
    ("name", "folder", "taken"), [("first.h5", "parts", "parts"), ("out.h5", "other", "out.h5")]
)
def test_two_runs_at_once_share_neither_folder_nor_index(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    folder: str,
    taken: str,
) -> None:
    code = "import sys; from extract.cli import main as m; sys.exit(m())"
    first, write_index = tmp_path / name, index._write_index

    def overtaken(*given: Any) -> None:
        words = [sys.executable, "-c", code, str(images), str(first), *flags(first)]
        subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
        write_index(*given)

    monkeypatch.setattr("extract.store.shards._write_index", overtaken)
    with pytest.raises(StoreError, match=f"{taken}: another run has just made it"):
        extract(images, tmp_path / "out.h5", shards=tmp_path / folder)
    assert verify_file(first) == []
    assert (tmp_path / "out.h5").exists() == (name == "out.h5")


def test_shards_made_anew_in_between_are_not_written_to(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["extract-features"])
    begin(images, tmp_path / "out.h5")
    begin(images, tmp_path / "other.h5", pooling="max")
    with pytest.raises(StoreError, match=r"shard-00000.h5: is not the shard that"):
        extract(images, tmp_path / "out.h5")


def test_an_index_is_found_through_a_link(images: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    extract(images, tmp_path / "here/out.h5", shards=tmp_path / "here/parts")
    (tmp_path / "there/link.h5").symlink_to("../here/out.h5")
    link = tmp_path / "there/link.h5"
    assert verify_file(link) == []
    assert extract(images, link, shards=tmp_path / "here/parts").computed == 0
    (images / "train/cat/0.png").unlink()
    assert extract(images, link, overwrite=True).computed == 7
    assert link.is_symlink()
    assert verify_file(tmp_path / "here/out.h5") == []
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["link.h5"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.h5", r"out.h5; expected a folder below"),
        (os.fsdecode(b"parts\xff"), r"expected a name in UTF-8"),
        ("loop", r"loop, a link to itself; expected a folder"),
    ],
)
def test_a_name_that_no_folder_of_shards_can_have(
    images: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SettingError, match=message):
        extract(images, tmp_path / "out.h5", shards=tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "loop"]


@pytest.mark.parametrize("name", ["größe & ' maße", "a/b\nc", "-x"])
def test_odd_names_of_folders_are_names(images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    extract(images, tmp_path / "out.h5", shards=f"{tmp_path / name}/")
    assert verify_file(tmp_path / "out.h5") == []
    assert extract(images, tmp_path / "out.h5", shards=tmp_path / name).computed == 0


def test_complete_is_said_of_the_whole(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "out.h5", shards=tmp_path / "parts")
    with open_store(tmp_path / "out.h5", write=True) as store:
        assert store.attributes["complete"] == 1
        store.forget(np.array([7]))
    with open_store(tmp_path / "out.h5") as store:
        assert not store.complete
        assert store.attributes["complete"] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/parts", r"no: no such folder; expected one to write parts into"),
        ("x" * 256, r"cannot be written: .*File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(
    images: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        extract(images, tmp_path / "out.h5", shards=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
import extract.store.shards
from extract.cli import main as extract_features

source, disk, flags = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
extract.store.shards.SHARD_ROWS = 3
for leave in (4096, 8192, 12288, 20480, 28672, 36864):
    for more in ([], ["--shards", str(disk / "parts")]):
        space = os.statvfs(disk)
        size = space.f_bavail * space.f_frsize - (leave if more else min(leave, 12288))
        (disk / "ballast").write_bytes(bytes(size))
        assert extract_features([source, str(disk / "out.h5"), *flags, *more]) == 1
        assert [path.name for path in disk.iterdir()] == ["ballast"]
        (disk / "ballast").unlink()
"""


@pytest.mark.slow
def test_a_disk_without_room_for_the_files_is_named(images: Path, tmp_path: Path) -> None:
    given = flags(tmp_path / "out.h5")[:-2]
    logged = run_on_small_disk(FULL_DISK, images, tmp_path / "disk", *given)
    assert logged.count(" of free disk space; expected ") == 12
