"""SIGKILL at random moments of everything that writes: nothing is lost, nothing half is kept.

HEADSTART_KILLS=200 pytest tests/test_kills.py
"""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.inference.bundle import load_head
from extract import cli
from extract.core.row_block import DONE
from extract.store.open import open_store
from extract.store.verify import verify
from extract.trunks.backend import load_keras
from tests.conftest import MakeStore
from tests.test_pipeline_run import assert_equal_stores

KILLS = int(os.environ.get("HEADSTART_KILLS", "5"))
PIXELS = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)

# What is killed starts in no time, with its libraries loaded; so kills meet the work itself.
_FRESH = multiprocessing.get_context("forkserver")
_FRESH.set_forkserver_preload(
    [
        "keras",
        "tensorflow",
        "openvino",
        "sklearn.svm",
        "skops.io",
        "classify.search.search",
        __name__,
    ]
)

Command = Callable[[list[str]], int]


def _run(command: Command, words: list[str], log: Path) -> None:
    """Run a command in a child, its words in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os._exit(command(words))


class Killer:
    """Runs a command and kills it at seeded moments of the time that a whole run takes."""

    def __init__(self, command: Command, words: list[str], log: Path) -> None:
        self._arguments = command, words, log
        self._random = np.random.default_rng(0)
        self.kills = 0
        # The first process waits for the libraries: with that in the time, kills would be late.
        first = _FRESH.Process(target=os.getpid)
        first.start()
        first.join()
        began = time.monotonic()
        self.finish()
        self._seconds = time.monotonic() - began

    def _start(self) -> Any:
        process = _FRESH.Process(target=_run, args=self._arguments)
        process.start()
        return process

    def finish(self) -> None:
        """Let the command run to its end."""
        process = self._start()
        process.join()
        assert process.exitcode == 0, self._arguments[2].read_text()

    def strike(self) -> bool:
        """Run the command and kill it; says whether it came to its end before."""
        process = self._start()
        process.join(float(self._random.uniform(0, self._seconds)))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self._arguments[2].read_text()
        self.kills += process.exitcode != 0
        return bool(process.exitcode == 0)


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A trunk of one layer."""
    keras = load_keras()
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3, name="map")])
    model.save(tmp_path / "own.keras")
    return tmp_path / "own.keras"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Sixty images of two classes in two splits."""
    generator = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "many" / ("train", "validation")[i % 3 == 0] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128 + 64 * (i % 2), (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "many"


def left_beside(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def extraction(trunk: Path, source: Path, out: Path, *flags: str) -> list[str]:
    return [str(source), str(out), "--trunk", str(trunk), "--batch-size", "1", *flags]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_in_an_extraction(many: Path, trunk: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    # The trunk is converted once, which is not part of what is killed.
    Killer(cli.main, extraction(trunk, many, tmp_path / "first.h5"), tmp_path / "log")
    killer = Killer(cli.main, extraction(trunk, many, out), tmp_path / "log")
    out.rename(whole)
    done = np.zeros(60, bool)
    while killer.kills < KILLS:
        ended = killer.strike()
        if out.exists():
            with open_store(out) as store:
                now = store.status == DONE
                assert verify(store) == [] or not store.complete
            assert not (done & ~now).any(), "a finished row was lost"
            done = now
        if ended:
            assert_equal_stores(out, whole)
            out.unlink()
            done[:] = False
    killer.finish()
    assert_equal_stores(out, whole)
    assert left_beside(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_in_an_update(many: Path, trunk: Path, tmp_path: Path) -> None:
    out, whole, before = (tmp_path / name for name in ("out.h5", "whole.h5", "before.h5"))
    # Six images go, and six are replaced by copies of others.
    words = extraction(trunk, many, out, "--update", "--views", "1", "--max-removed", "20%")
    Killer(cli.main, words, tmp_path / "log")
    shutil.copy(out, before)
    for i in range(6):
        (many / "train" / "b" / f"{6 * i + 1}.png").unlink()
        shutil.copy(many / "train" / "a" / "2.png", many / "train" / "a" / f"new{i}.png")
        shutil.copy(many / "train" / "a" / "4.png", many / "validation" / "a" / f"{6 * i}.png")
    killer = Killer(cli.main, words, tmp_path / "log")
    out.rename(whole)
    with open_store(before) as old, open_store(whole) as new:
        images = [zip(s.keys, map(bytes, s.digests()), strict=True) for s in (old, new)]
        kept = {key for key, _ in set(images[0]) & set(images[1])}
    assert 0 < len(kept) < 50
    shutil.copy(before, out)
    while killer.kills < KILLS:
        ended = killer.strike()
        with open_store(out) as store:
            assert verify(store) == [] or not store.complete
            done = {store.keys[row] for row in np.flatnonzero(store.status == DONE)}
        assert kept <= done, "a finished row was lost"
        if ended:
            assert_equal_stores(out, whole)
            shutil.copy(before, out)
    killer.finish()
    assert_equal_stores(out, whole)
    assert left_beside(tmp_path) == []


def finished(folder: Path) -> set[str]:
    """Return the candidates of which a line is kept; a folder may be between two names."""
    for place in (folder, *folder.parent.glob(f".{folder.name}.*.old")):
        if (journal := place / "candidates.jsonl").exists():
            return {json.loads(line)[0] for line in journal.read_text().split("\n")[1:-1]}
    return set()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_in_a_sweep(make_store: MakeStore, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = generator.normal(size=(90, 8)).astype("f4") + np.eye(3, 8, dtype="f4")[y]
    store = make_store(X, y.tolist(), class_names="abc")
    folder, whole = tmp_path / "made_head", tmp_path / "whole"
    words = [str(store), "--folds", "3"]
    for head in ("naive_bayes", "knn", "svm", "forest"):
        words += ["--head", head]
    for sweep in ("knn.neighbours=1,3,5,7,9", "svm.C=0.1:10:5", "forest.trees=5,10,15"):
        words += ["--sweep", sweep]
    killer = Killer(train_head, words, tmp_path / "log")
    folder.rename(whole)
    done: set[str] = set()
    while killer.kills < KILLS:
        ended = killer.strike()
        now = finished(folder)
        assert done <= now, "a finished candidate was lost"
        done = now
        if ended:
            assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
            shutil.rmtree(folder)
            done = set()
    killer.finish()
    assert finished(folder) == finished(whole)
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert left_beside(tmp_path) == []


def scores_of(model: Path) -> np.ndarray:
    if model.is_file():
        return np.asarray(load_keras().models.load_model(model)(PIXELS))
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))  # its variables live as long as it does
    return np.asarray(loaded.serve(PIXELS))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_in_an_export(many: Path, trunk: Path, tmp_path: Path) -> None:
    out, targets = tmp_path / "out.h5", (tmp_path / "model.keras", tmp_path / "served")
    words = extraction(trunk, many, out)
    assert cli.main(words) == 0
    words = [str(out), "--head", "lda", *(w for t in targets for w in ("--export", str(t)))]
    killer = Killer(train_head, words, tmp_path / "log")
    wanted = scores_of(targets[0])
    seen: dict[Path, int] = {}
    while killer.kills < KILLS:
        there = [target.exists() for target in targets]
        ended = killer.strike()
        if ended and killer.kills % 2:  # else it is replaced
            targets[0].unlink()
            shutil.rmtree(targets[1])
            continue
        for target, was in zip(targets, there, strict=True):
            if target.exists() and seen.get(target) != target.stat().st_ino:
                np.testing.assert_allclose(scores_of(target), wanted, atol=1e-5)
                seen[target] = target.stat().st_ino
            former = any(tmp_path.glob(f".{target.stem}.*.old{target.suffix}"))
            assert target.exists() or former or not was, "a former export was lost"
        load_head(tmp_path / "out_head")
    killer.finish()
    for target in targets:
        np.testing.assert_allclose(scores_of(target), wanted, atol=1e-5)
    assert left_beside(tmp_path) == []
