"""Stage one on a Ray cluster: the store of one machine, whoever dies on the way."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from extract.core.config import TrunkSpec
from extract.core.errors import EngineError
from extract.core.row_block import DONE
from extract.engines.select import open_engine
from extract.engines.snapshot import open_snapshot, take_snapshot
from extract.images.item import Item
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from extract.store.verify import verify
from tests.conftest import QUICK
from tests.test_pipeline_run import content

ROOT = Path(__file__).resolve().parents[1]
# Of a hundred rows, shards are quick to fill.
EXTRACT = (
    "import sys, extract.store.shards as index; index.SHARD_ROWS = 100\n"
    "from extract.cli import main as m; sys.exit(m())"
)
# Slow enough to be killed in the middle.
SLOW_FLAGS = ["--trunk", "mobilenet_v3_small", "--weights", "none", "--image-size", "96"]
FLAGS = ["--trunk", "mobilenet", "--weights", "none", "--image-size", "32"]


def start_extract(*words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", EXTRACT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    stdout, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert stdout == ""
    return stderr


def count_done(out: Path) -> int:
    """Rows that count, of a file that another process is writing to, or of shards."""
    with contextlib.suppress(OSError), h5py.File(out, locking=False) as file:
        if "shards" in file:
            return sum(count_done(out.parent / name) for name in file["shards"].asstr()[:])
        return int((file["status"][:] != 0).sum())
    return 0


def wait_for_rows(process: subprocess.Popen[str], out: Path, rows: int) -> None:
    while count_done(out) < rows:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def joined(out: Path) -> dict[str, Any]:
    """The content of a store; of its shards, one behind the other."""
    with open_store(out) as store:
        parts = [content(shard.path) for shard in store.shards]
    whole = parts[0]
    for part in parts[1:]:
        for name, values in part.items():
            whole[name] += values  # bytes of numbers, lists of texts
    return whole


def make_images(root: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for i in range(count):
        file = root / ("train", "test")[i % 2] / ("cat", "dog")[i // 2 % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file)
    (root / "train/cat/0.png").write_text("no image")


Node = subprocess.Popen[bytes]


@pytest.fixture
def start_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Start Ray by hand, a group of processes a node, with a token of its own."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    nodes: list[Node] = []

    def start(*words: str) -> Node:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", "1", *words]
        log = tmp_path / f"node-{len(nodes)}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(
                [*command, "--block"], stdout=file, stderr=file, start_new_session=True
            )
        nodes.append(node)
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            time.sleep(0.2)
        return node

    yield start
    for node in nodes:
        kill(node)


def kill(node: Node) -> None:
    """Pull the plug."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("shards", [[], ["--shards", "parts"]])
def test_a_driver_and_a_node_die_and_the_store_is_that_of_one_machine(
    tmp_path: Path, start_node: Callable[..., Node], shards: list[str]
) -> None:
    pytest.importorskip("ray")
    make_images(tmp_path / "images", 2000)
    words = [tmp_path / "images", "--quiet", *SLOW_FLAGS]
    finish(start_extract(*words, tmp_path / "one.h5"))
    words += [tmp_path / word if word == "parts" else word for word in shards]
    address = f"127.0.0.1:{free_port()}"
    start_node("--head", "--port", address.partition(":")[2], "--include-dashboard", "false")
    node = start_node("--address", address)
    out = tmp_path / "out.h5"
    driver = start_extract(*words, out, "--cluster", address)
    wait_for_rows(driver, out, 1)
    driver.kill()
    driver.communicate()
    kept = count_done(out)
    assert 0 < kept < 2000
    driver = start_extract(*words, out, "--cluster", address)
    wait_for_rows(driver, out, kept + 1)
    before = count_done(out)
    kill(node)
    assert kept < before < 2000
    finish(driver)
    assert joined(out) == content(tmp_path / "one.h5")
    with open_store(out) as store:
        assert store.complete
        assert verify(store) == []
        assert [store.keys[failure.row] for failure in store.failures()] == ["train/cat/0.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--views", "2", "--layer", "conv1_relu", "--layer", "conv_pw_13_relu"],
        ["--engine", "keras", "--dtype", "float16"],
        ["--views", "1", "--shards", "parts"],
    ],
)
def test_a_cluster_of_this_machine_gives_the_same_store(
    images: Path, tmp_path: Path, flags: list[str]
) -> None:
    pytest.importorskip("ray")
    (images / "train/cat/bad.png").write_text("no image")
    (images / "train/cat/0.png").rename(images / os.fsdecode(b"train/cat/\xff.png"))
    words = [images, *FLAGS, *flags, "--max-bad", "1"]
    finish(
        start_extract(*[w for w in words if w not in ("--shards", "parts")], tmp_path / "one.h5")
    )
    words = [tmp_path / word if word == "parts" else word for word in words]
    said = finish(start_extract(*words, tmp_path / "out.h5", "--cluster", "local"))
    assert joined(tmp_path / "out.h5") == content(tmp_path / "one.h5")
    # Ray itself says nothing.
    overview = (f"{images}: 9 images", "  ")
    ours = (
        "9 images",
        "warning: ",
        "building ",
        "loading ",
        f"{tmp_path / 'out.h5'}: 9 images",
        "next: ",
        *overview,
    )
    assert [line for line in said.splitlines() if not line.startswith(ours)] == []


@pytest.mark.slow
@pytest.mark.parametrize("shards", [[], ["--shards", "parts"]])
def test_stopped_on_a_cluster_it_goes_on_without(tmp_path: Path, shards: list[str]) -> None:
    pytest.importorskip("ray")
    make_images(tmp_path / "images", 1000)
    words = [tmp_path / "images", *SLOW_FLAGS]
    words += [tmp_path / word if word == "parts" else word for word in shards]
    out = tmp_path / "out.h5"
    driver = start_extract(*words, out, "--cluster", "local")
    wait_for_rows(driver, out, 1)
    driver.send_signal(signal.SIGINT)
    said = finish(driver, 130)
    assert re.search(r"\d+ of 1000 images are in", said)
    assert ("at least" in said) == bool(shards)
    assert "Traceback" not in said
    kept = count_done(out)
    assert 0 < kept < 1000
    with open_store(out) as store:
        done = int((store.status == DONE).sum())  # the one that is no image is tried again
    assert f"1,000 images, {done} done before" in finish(start_extract(*words, out))
    finish(start_extract(tmp_path / "images", *SLOW_FLAGS, tmp_path / "one.h5"))
    assert joined(out) == content(tmp_path / "one.h5")


def test_a_cluster_that_is_not_there_is_named(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    driver = start_extract(images, tmp_path / "out.h5", *FLAGS, "--cluster", address)
    said = finish(driver, 1)
    assert f"cluster {address}: [Errno 111] Connection refused; expected a Ray that runs" in said
    assert "Traceback" not in said


def test_without_ray_its_extra_is_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    given: dict[str, Any] = {**QUICK, "cluster": "local"}
    with pytest.raises(EngineError, match=r'needs Ray; pip install "headstart\[ray\]"'):
        extract_features(images, tmp_path / "out.h5", **given)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("name", ["openvino", "keras"])
def test_an_engine_travels_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "one.png").write_bytes(b"any")
    witness = Item("one.png", str(tmp_path / "one.png"), -1, 0)
    engine = open_engine(TrunkSpec(**QUICK), engine=name, batch_size=3)  # type: ignore[arg-type]
    parcel = take_snapshot(engine, witness)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "other"))
    other = open_snapshot(parcel, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ((_, expected),) = engine.run([(None, pixels)])
    ((_, found),) = other.run([(None, pixels)])
    assert found["conv1_relu"].tobytes() == expected["conv1_relu"].tobytes()
    assert (other.shapes, other.weights_sha256) == (engine.shapes, engine.weights_sha256)


def test_a_machine_that_is_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"any")
    witness = Item("one.png", str(tmp_path / "one.png"), -1, 0)
    parcel = take_snapshot(open_engine(TrunkSpec(**QUICK)), witness)  # type: ignore[arg-type]
    other = parcel._replace(versions=re.sub(r"pillow [\d.]+", "pillow 1.0", parcel.versions))
    with pytest.raises(EngineError, match=r"expected .*pillow 1.0.*install the same versions"):
        open_snapshot(other, threads=1)
    (tmp_path / "one.png").unlink()
    with pytest.raises(EngineError, match=r"one.png differs from the image on the machine"):
        open_snapshot(parcel, threads=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs rights of users")
def test_only_this_user_can_open_the_folder_of_a_local_cluster() -> None:
    code = (
        "from extract.pipeline.cluster import _connected\n"
        "with _connected('local') as ray:\n"
        "    print(ray._private.worker._global_node.get_session_dir_path())\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stderr
    for line in process.stderr:
        if "/session_" in line:
            break
    folder = Path(line.strip()).parents[1]
    assert folder.stat().st_mode & 0o077 == 0
    process.communicate("\n")
    assert process.returncode == 0
    assert not folder.exists()
