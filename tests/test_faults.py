"""Full disks, read-only folders, images that go, two processes at once, code that fails."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extract.core.errors import StoreError
from extract.images.item import Source, read_item
from extract.pipeline import run
from extract.pixels.decode import decode
from extract.sources.listing import list_source
from extract.store.open import open_store
from extract.store.verify import verify
from tests.conftest import QUICK, ROOT, MakeStore, run_on_small_disk
from tests.test_cli import QUICK_FLAGS


def extract(source: Path, out: Path, **given: Any) -> run.Summary:
    return run.run_extraction(source, out, **{**QUICK, **given})


def sound(out: Path) -> bool:
    with open_store(out) as store:
        return store.complete and verify(store) == []


SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from classify.cli import main as train_head
from extract import cli, show_cli
from extract.store.single_file import StoreFile

source, disk = Path(sys.argv[1]), Path(sys.argv[2])
flags = [*sys.argv[3:], "--pooling", "none", "--batch-size", "1"]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
out, ballast = disk / "out.h5", disk / "ballast"

def fill(leave):
    ballast.unlink(missing_ok=True)
    space = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - leave)))

def extract(expected):
    code = cli.main([str(source), str(out), *flags])
    assert code == expected, (code, expected)

def stop(store, block):
    raise KeyboardInterrupt

fill(leave=12288)
extract(1)
assert [entry.name for entry in disk.iterdir()] == ["ballast"]
ballast.unlink()
write, StoreFile.write = StoreFile.write, stop
extract(130)
StoreFile.write = write
for leave in (0, 40960, 122880):
    fill(leave)
    extract(1)
ballast.unlink()
extract(0)
assert show_cli.main([str(out), "--verify"]) == 0
fill(leave=0)
extract(0)
assert train_head([str(out), "--head", "knn"]) == 1
ballast.unlink()
assert train_head([str(out), "--head", "knn"]) == 0
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
assert show_cli.main([str(out), "--verify"]) == 0
assert cli.main([str(source), str(disk / "other.h5"), *flags]) == 1
extract(1)
assert train_head([str(out), "--head", "knn"]) == 1
"""


@pytest.mark.slow
def test_a_full_disk_and_a_read_only_one_lose_nothing(images: Path, tmp_path: Path) -> None:
    logged = run_on_small_disk(SMALL_DISK, images, tmp_path / "disk", *QUICK_FLAGS)
    assert logged.count("the disk is full; make room") == 3
    assert logged.count("the disk is full; expected room for a few results") == 1
    assert logged.count("cannot be written: Read-only file system; look after the disk") >= 1
    assert logged.count("Read-only file system") >= 2


def test_an_image_that_goes_after_it_was_listed_is_a_failed_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, other = images / "train/cat/0.png", images / "train/dog/0.png"

    def listed(source: Path, *settings: str) -> Source:
        found = list_source(source, *settings)
        gone.unlink()
        other.write_bytes((images / "train/dog/1.png").read_bytes())
        return found

    monkeypatch.setattr(run, "list_source", listed)
    summary = extract(images, tmp_path / "out.h5")
    monkeypatch.undo()
    assert summary.failed == [("train/cat/0.png", "cannot be opened: No such file or directory")]
    with open_store(tmp_path / "out.h5") as store:
        assert verify(store) == []
        # What was changed in time is stored as what it has become, not as what it was.
        same = [store.keys.index(f"train/dog/{i}.png") for i in (0, 1)]
        assert np.array_equal(*store.digests()[same])
        assert np.array_equal(*store.read("conv1_relu", np.array(same)))
    with pytest.raises(StoreError, match=r"1 image \(train/cat/0.png\) missing"):
        extract(images, tmp_path / "out.h5")


HANGING = """
import ctypes, os, signal, sys, threading, time
from extract import cli
from extract.pipeline import run, stream
from extract.limits import prefetch
from extract.pixels.decode import decode
from extract.sources.listing import list_source

hung, limit, most = (int(word) for word in sys.argv[2:5])
prefetch.LIMIT_SECONDS, prefetch.MOST_STUCK = float(limit), most

def listed(source, *settings):
    found = list_source(source, *settings)
    for item in found.items[:hung]:
        open(item.path, "w").write("hang")
        if sys.argv[1] == "reading":  # whoever opens one waits for ever
            os.unlink(item.path)
            os.mkfifo(item.path)
    if sys.argv[1] == "reading":  # without the check that refuses a pipe
        items = [item._replace(read=lambda path: open(path, "rb").read()) for item in found.items]
        found = found._replace(items=tuple(items))
    return found

def decoded(content, *words, **named):  # C code that does not come back
    if content != b"hang":
        return decode(content, *words, **named)
    if sys.argv[1] == "interrupted":  # as if the signal had come just before the wait for this
        time.sleep(1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    ctypes.CDLL(None).pause()

run.list_source, stream.decode = listed, decoded
sys.exit(cli.main(sys.argv[5:]))
"""


@pytest.fixture
def hanging(images: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Extract in a child where the first images can never be read."""
    children = []

    def start(where: str, *numbers: int) -> "subprocess.Popen[str]":
        words = [where, *map(str, (*numbers, images, tmp_path / "out.h5")), *QUICK_FLAGS]
        command = [sys.executable, "-c", HANGING, *words, "--workers", "2"]
        children.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
@pytest.mark.parametrize("where", ["reading", "decoding"])
def test_images_that_hang_are_failed_rows(
    where: str, images: Path, tmp_path: Path, hanging: Callable[..., Any]
) -> None:
    out = tmp_path / "out.h5"
    child = hanging(where, 3, 2, 3)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 4, said
    assert said.count(".png: took longer than 2 s to read and decode") == 6  # now, and in the end
    with open_store(out) as store:
        assert store.status.tolist() == [2] * 3 + [1] * 5
        assert verify(store) == []
        reasons = {failure.reason for failure in store.failures()}
    assert reasons == {"took longer than 2 s to read and decode"}
    for number, name in enumerate(("cat/0", "cat/1", "dog/0")):
        path = images / "train" / f"{name}.png"
        path.unlink()
        Image.new("RGB", (30, 20), (number, 0, 0)).save(path)
    assert extract(images, out).computed == 3
    assert sound(out)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_source_where_everything_hangs_ends_the_run(hanging: Callable[..., Any]) -> None:
    child = hanging("reading", 8, 1, 3)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 1, said
    assert "4 images took longer than 1 s each and cannot be stopped" in said
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_stopped_while_an_image_hangs_the_command_answers(
    images: Path, hanging: Callable[..., Any]
) -> None:
    first = images / "train/cat/0.png"
    child = hanging("reading", 1, 3600, 1)
    while not first.is_fifo():
        time.sleep(0.1)
    with first.open("wb"):  # the reader is there, and waits for what is written
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=300)[1]
    assert child.returncode == 130, said
    assert "the same command goes on" in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_an_interrupt_that_does_not_end_a_wait_is_answered(hanging: Callable[..., Any]) -> None:
    child = hanging("interrupted", 1, 3600, 1)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 130, said
    assert "the same command goes on" in said


def test_a_reader_beside_a_writer_is_told_so(make_store: MakeStore) -> None:
    path = make_store(np.ones((4, 3), "f4"), [0, 1] * 2, split=[0, 0, 1, 1])
    code = "import sys; from extract.show_cli import main as m; sys.exit(m())"
    with open_store(path, write=True):
        child = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (child.returncode, child.stdout) == (1, "")
    assert "another process has it open; wait for it" in child.stderr


def test_a_fault_in_a_worker_ends_the_run_and_costs_no_finished_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(content: bytes, *words: Any, **named: Any) -> np.ndarray:
        if content == bad:
            raise RuntimeError("a fault of ours")
        return decode(content, *words, **named)

    out = tmp_path / "out.h5"
    bad = (images / "validation/dog/1.png").read_bytes()
    monkeypatch.setattr("extract.pipeline.stream.decode", failing)
    monkeypatch.setattr("extract.store.single_file.COMMIT_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        extract(images, out, batch_size=1, workers=1)
    monkeypatch.undo()
    with open_store(out) as store:
        kept = int((store.status == 1).sum())
    assert kept >= 4
    assert extract(images, out).computed == 8 - kept
    assert sound(out)


def test_an_image_larger_than_memory_is_a_failed_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(item: Any) -> bytes:
        return bytes(2**62) if item.key == "train/cat/0.png" else read_item(item)

    monkeypatch.setattr("extract.pipeline.stream.read_item", read)
    summary = extract(images, tmp_path / "out.h5")
    assert summary.failed == [("train/cat/0.png", "needs more memory than there is")]
    assert sound(tmp_path / "out.h5")
