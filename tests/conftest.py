"""What many tests share: small images, stores written through the store, a quick trunk."""

import atexit
import logging
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.row_block import Failure, RowBlock
from extract.core.views import ViewSpec
from extract.images.item import Item
from extract.store.format import Layout, create_store
from extract.store.open import open_store
from tests.browser import chromium

# TensorFlow is imported by the tests, and is quiet if this stands before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Converted trunks of the tests are theirs alone, and those of one process another's too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["HEADSTART_CACHE"] = tempfile.mkdtemp(prefix="headstart-tests-")
    atexit.register(shutil.rmtree, os.environ["HEADSTART_CACHE"], ignore_errors=True)

# The date of a report: runs of the same seed are compared byte for byte.
os.environ.setdefault("SOURCE_DATE_EPOCH", "1700000000")

# A shell ignores SIGINT in what it starts in the background, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# One convolution of the smallest trunk: everything is real, and a batch takes milliseconds.
QUICK = {"trunk": "mobilenet", "weights": "none", "layer": ("conv1_relu",), "image_size": (32, 32)}

# Makes a process behave as on Windows, as far as code can: no fcntl and no resource, locks through
# msvcrt, and no file that is open can be removed, renamed or replaced.
WINDOWS = """
import fcntl, os, subprocess, sys, types

def locking(handle, mode, count, flock=fcntl.flock, flags=fcntl.LOCK_EX | fcntl.LOCK_NB):
    try:
        flock(handle, flags)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

def refuse(change):
    def changed(*paths, **named):
        opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        for path in map(os.path.realpath, paths if "dir_fd" not in named else ()):
            if any(f"{one}/".startswith(f"{path}/") for one in opened):
                raise PermissionError(13, "The process cannot access the file", path)
        return change(*paths, **named)
    return changed

os.unlink, os.remove = refuse(os.unlink), refuse(os.remove)
os.rename, os.replace = refuse(os.rename), refuse(os.replace)
sys.modules |= {"fcntl": None, "resource": None}
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
"""

MakeStore = Callable[..., Path]


@pytest.fixture(autouse=True)
def usual_logging() -> None:
    """Give each test the logging of a new process, whatever ran before it."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    log.handlers, log.propagate, log.disabled = [], True, False
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights; where it is lacking, tests that use it skip."""
    if not SHARED.is_dir():
        pytest.skip("the real images and weights are not here")
    return SHARED


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 2 classes in 2 splits: 8 small images of different sizes, of 2001."""
    generator = np.random.default_rng(0)
    root = tmp_path / "images"
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = generator.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
                os.utime(folder / f"{i}.png", (1e9, 1e9))  # files of just now have no stamp
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests of one file; where there is none, they skip."""
    with chromium() as started:
        yield started


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[None]:
    """Answer requests in a thread while the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        yield
        server.shutdown()
        thread.join()


def run_on_small_disk(script: str, images: Path, folder: Path, *flags: str) -> str:
    """Run a script, which mounts a disk on ``folder``, to its end, and return what it logs."""
    if sys.platform != "linux" or subprocess.call(["unshare", "-rm", "true"]):
        pytest.skip("no disk can be mounted here")
    folder.mkdir()
    words = ["unshare", "-rm", sys.executable, "-c", script, str(images), str(folder), *flags]
    child = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "Traceback" not in child.stderr
    return child.stderr


def items_of(keys: Sequence[str], labels: Sequence[int], split: Sequence[int]) -> list[Item]:
    return [Item(k, f"/nowhere/{k}", y, s) for k, y, s in zip(keys, labels, split, strict=True)]


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Write a complete store with the given features through the store's own functions.

    ``views`` are those of the training rows that have not failed, the same in every layer.
    """

    def make(
        features: np.ndarray | dict[str, np.ndarray],
        labels: Sequence[int],
        split: Sequence[int] | None = None,
        keys: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        class_names: Sequence[str] = ("cat", "dog"),
        failed: Sequence[int] = (),
        views: np.ndarray | None = None,
        name: str = "made.h5",
    ) -> Path:
        layers = features if isinstance(features, dict) else {"conv1_relu": features}
        count = len(labels)
        keys = keys or [f"{i:06d}.png" for i in range(count)]
        items = items_of(keys, labels, split if split is not None else [0] * count)
        if groups is not None:
            items = [item._replace(group=group) for item, group in zip(items, groups, strict=True)]
        settings = {**QUICK, "layer": tuple(layers), "pooling": "avg"}
        spec = TrunkSpec(**settings)  # type: ignore[arg-type]
        first = next(iter(layers.values()))
        attributes = {
            **spec.to_dict(),
            "class_names": tuple(class_names),
            "dtype": str(first.dtype),
            "precision": "float32",
            "calibration_sha256": "",
            **asdict(ViewSpec(0 if views is None else views.shape[1])),
            "weights_sha256": "0" * 64,
        }
        path = tmp_path / name
        create_store(path, Layout(items, {k: v.shape[1:] for k, v in layers.items()}, attributes))
        rows = np.array([i for i in range(count) if i not in failed], np.int64)
        block = RowBlock(
            rows,
            {layer: values[rows] for layer, values in layers.items()},
            np.stack([rows, rows + 1], 1).view(np.uint8),  # no two are the same image
            [Failure(row, "is empty", bytes(16)) for row in failed],
            {} if views is None else dict.fromkeys(layers, views),
        )
        with open_store(path, write=True) as store:
            store.write(block)
        return path

    return make


def child_of(process: psutil.Process, word: str, seconds: float = 60.0) -> psutil.Process:
    """Wait for the process that a process starts with a word in its command."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for child in process.children():
            with suppress(psutil.Error):  # it has ended
                if word in " ".join(child.cmdline()):
                    return child
        time.sleep(0.01)
    raise AssertionError("no such process")
