"""A machine whose means are at an end: files, locks, memory, or a clock that goes back."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from classify.inference.bundle import load_head
from extract.core.errors import EngineError, HeadError, SourceError, StoreError
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source
from extract.store.open import open_store
from extract.store.verify import verify
from tests.conftest import QUICK, MakeStore
from tests.test_cli import QUICK_FLAGS
from tests.test_pipeline_run import assert_equal_stores
from tests.test_sources_archives import pack

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = """
import os, resource, sys
from pathlib import Path
from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract import cli, show_cli

source, folder, *flags = sys.argv[1:]
folder = Path(folder)
store = str(folder / "out.h5")

def extract(name, *more):
    return cli.main([source, str(folder / name), *flags, *more, "-q"])

"""
# Everything is loaded and the trunk converted before the limit comes.
FEW_FILES = """
assert extract("out.h5") == 0
assert train_head([store, "--head", "knn", "-q"]) == 0
free = os.dup(0)
os.close(free)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
seen = []
for left in (1, 3, 4, 5, 6, 7, 8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
    seen += [
        extract(f"{left}.h5"),
        show_cli.main([store, "--verify", "-q"]),
        train_head([store, "--head", "knn", "-q"]),
        predict_images([str(folder / "out_head"), source, "-q"]),
    ]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
# 4: no image could be opened; they are tried again.
assert seen[0] == 1 and 4 in seen and set(seen) <= {0, 1, 4}, seen
for left in (1, 3, 4, 5, 6, 7, 8):
    assert extract(f"{left}.h5") == 0
    assert show_cli.main([str(folder / f"{left}.h5"), "--verify", "-q"]) == 0
assert train_head([store, "--head", "knn", "-q"]) == 0
"""
LITTLE_MEMORY = """
assert extract("out.h5", "--batch-size", "1") == 0
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for spare in (48, 16, 4):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (spare << 20), hard))
    code = extract(f"{spare}.h5", "--batch-size", "256")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert code in (0, 1, 4), (spare, code)
    assert extract(f"{spare}.h5", "--batch-size", "1") == 0
    assert show_cli.main([str(folder / f"{spare}.h5"), "--verify", "-q"]) == 0
assert code
"""


def run_child(script: str, source: Path, folder: Path, *flags: str) -> str:
    places = [str(source), str(folder)]
    words = [sys.executable, "-c", COMMANDS + script, *places, *QUICK_FLAGS, *flags]
    child = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "Traceback" not in child.stderr
    return child.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_without_files_to_open_every_command_says_so(images: Path, tmp_path: Path) -> None:
    said = run_child(FEW_FILES, images, tmp_path)
    assert "(ulimit -n)" in said
    assert "train the head again" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_a_store_that_cannot_be_opened_is_not_called_damaged(make_store: MakeStore) -> None:
    import resource

    path = make_store(np.ones((4, 3), "f4"), [0, 1] * 2)
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(
            StoreError, match=r"Too many open files; raise .* \(ulimit -n\)"
        ) as found:
            open_store(path).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "remove" not in str(found.value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_memory_short_of_a_batch_ends_the_run_and_costs_no_row(
    images: Path, tmp_path: Path
) -> None:
    said = run_child(LITTLE_MEMORY, images, tmp_path, "--image-size", "400")
    assert "memory" in said


def test_a_batch_that_no_memory_holds_is_refused(images: Path, tmp_path: Path) -> None:
    refused = r"batch size 100000000: its images alone take .* GB of memory, .* --batch-size"
    with pytest.raises(EngineError, match=refused):
        extract_features(images, tmp_path / "out.h5", **QUICK, batch_size=10**8)
    assert not (tmp_path / "out.h5").exists()


def test_images_of_a_size_that_no_memory_holds_are_refused(images: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "image_size": (200_000, 200_000)}
    refused = r"200000 x 200000 pixels: one image alone takes .* GB of memory, .* --image-size"
    with pytest.raises(EngineError, match=refused):
        extract_features(images, tmp_path / "out.h5", **settings)
    assert not (tmp_path / "out.h5").exists()


def test_a_file_system_without_locks_is_named(images: Path, tmp_path: Path) -> None:
    if not shutil.which("strace") or subprocess.call(["strace", "-o", os.devnull, "true"]):
        pytest.skip("no call of the system can be made to fail here")
    out = tmp_path / "out.h5"
    extract_features(images, out, **QUICK)
    before = out.read_bytes()
    # What an NFS server without its lock daemon answers.
    inject = ["strace", "-f", "-q", "-o", os.devnull, "-e", "inject=flock:error=ENOLCK"]
    code = "import sys; from extract.{} import main; sys.exit(main())"
    for module, words in (
        ("show_cli", [out]),
        ("cli", [images, out]),
        ("cli", [images, tmp_path / "new.h5", *QUICK_FLAGS]),
    ):
        line = [*inject, sys.executable, "-c", code.format(module), *map(str, words)]
        child = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (child.returncode, child.stdout) == (1, ""), child.stderr
        assert "No locks available" in child.stderr
        assert "set HDF5_USE_FILE_LOCKING=FALSE" in child.stderr
        assert "Traceback" not in child.stderr
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["out.h5"]


def test_a_clock_that_goes_back_changes_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_features(images, tmp_path / "whole.h5", **QUICK)
    for path in images.rglob("*.png"):  # of tomorrow
        os.utime(path, (time.time() + 86400,) * 2)
    hours = iter(range(10**6))
    # The machine's clock is everybody's, so only this process sees it go back.
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(hours))
    out = tmp_path / "out.h5"
    summary = extract_features(images, out, **QUICK, batch_size=1)
    assert summary.seconds.start > 0
    os.utime(out, (0, 0))
    assert extract_features(images, out).computed == 0
    assert_equal_stores(out, tmp_path / "whole.h5")
    with open_store(out) as store:
        assert verify(store) == []


DEEP = b"[" * 100_000


def _table(folder: Path) -> None:
    (folder / "table.jsonl").write_bytes(b'{"path": ' + DEEP)
    list_source(folder / "table.jsonl")


def _beside(folder: Path) -> None:
    list_source(pack(folder / "a.tar", {"1.png": b"", "1.json": DEEP}))


def _bundle(folder: Path) -> None:
    (folder / "bundle.json").write_bytes(DEEP)
    load_head(folder)


@pytest.mark.parametrize("read", [_table, _beside, _bundle])
def test_json_deeper_than_the_stack_is_refused(
    read: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises((SourceError, HeadError)):
        read(tmp_path)


def test_folders_and_archives_in_archives_go_as_deep_as_they_like(tmp_path: Path) -> None:
    image, key = b"\x89PNG\r\n\x1a\n", "a/" * 2000 + "1.png"
    inner = pack(tmp_path / "inner.zip", {"x/1.png": image}).read_bytes()
    for name in ("outer.zip", "outer.tar"):
        path = pack(tmp_path / name, {key: image, "b/inner.zip": inner, "c/2.png": image})
        source = list_source(path)
        assert {item.key for item in source.items} == {key, "c/2.png"}
        assert any("inner.zip" in warning for warning in source.warnings)
