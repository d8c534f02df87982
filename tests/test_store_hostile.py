"""A store from a stranger, cut or damaged: refused by the name of what is wrong, never believed."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from classify.cli import main as train_head
from extract import cli, show_cli
from extract.core.errors import StoreError
from extract.store.open import open_store, read_features
from extract.store.verify import verify
from tests.conftest import ROOT, MakeStore

Change = Callable[[h5py.File], None]

X = np.arange(60, dtype="f4").reshape(20, 3)
VIEWS = np.ones((15, 2, 3), "f4")
SECRET = "secret.h5"


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    """A sound store with views; beside it a file that is nobody's business."""
    path = make_store(
        X, [0, 1] * 10, split=[0] * 15 + [1] * 5, groups=["a"] * 15 + ["b"] * 5, views=VIEWS
    )
    with h5py.File(path.with_name(SECRET), "w") as file:
        file["features"] = np.full((20, 3), 42, "f4")
        file["labels"] = np.zeros(20, np.int64)
    path.with_name("raw").write_bytes(b"\1" * 240)
    return path


def swap(name: str, made: object) -> Change:
    """Put something else in the place of an object."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = made

    return change


def soft_link(file: h5py.File) -> None:
    swap("labels", h5py.SoftLink("/views/row"))(file)


def external_link(file: h5py.File) -> None:
    swap("features", h5py.ExternalLink(SECRET, "/features"))(file)


def extra_external_link(file: h5py.File) -> None:
    file["views/extra"] = h5py.ExternalLink(SECRET, "/features")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((20, 3), "f4")
    layout[:] = h5py.VirtualSource(SECRET, "features", (20, 3))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def external_storage(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (20, 3), "f4", external=[("raw", 0, 240)])


def compressed(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", data=np.zeros(20, np.int64), compression="gzip")


def terabytes(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (20, 10**11), "f4", chunks=(1, 1000))


def other_bits(file: h5py.File) -> None:
    """Let the numbers have fewer digits: NumPy has no such type, and h5py names another."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 23, 8, 2, 21)
    del file["features"]
    h5py.h5d.create(file.id, b"features", kind, h5py.h5s.create_simple((20, 3)))
    file["features"][:] = X


def group(file: h5py.File) -> None:
    del file["labels"]
    file.create_group("labels")


def name_in_bytes(file: h5py.File) -> None:
    space, kind = h5py.h5s.create(h5py.h5s.SCALAR), h5py.h5t.NATIVE_INT64
    h5py.h5a.create(file.id, b"\xff", kind, space).write(np.array(1))


def set_attribute(name: str, value: object) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


def set_entry(name: str, value: object) -> Change:
    return lambda file: file[name].__setitem__(1, value)


def bytes_keys(keys: list[bytes]) -> object:
    return np.array(keys, h5py.string_dtype())


N = np.zeros(20, "i8")
STRANGE: dict[str, tuple[Change, str]] = {
    "soft link": (soft_link, "labels is a link to somewhere else"),
    "external link": (external_link, "features is a link to somewhere else"),
    "extra external link": (extra_external_link, "views/extra is a link to somewhere else"),
    "virtual": (virtual, "features is kept in another file"),
    "external storage": (external_storage, "features is kept in another file"),
    "compressed": (compressed, "labels is compressed or filtered"),
    "terabytes": (terabytes, r"features has the shape \(20, 100000000000\), and 0 bytes"),
    "not UTF-8": (swap("keys", bytes_keys([b"\xff%d" % i for i in range(20)])), "damaged"),
    "class not UTF-8": (set_attribute("class_names", bytes_keys([b"a", b"\xff"])), "damaged"),
    "keys as numbers": (swap("keys", N), "keys is int64"),
    "short keys": (swap("keys", bytes_keys([b"a", b"b"])), r"labels is int64 \(20,\), expected"),
    "key twice": (set_entry("keys", "000000.png"), "keys has 1 names twice"),
    "labels float": (swap("labels", N.astype("f8")), "labels is float64"),
    "labels group": (group, "labels is not a dataset"),
    "labels short": (swap("labels", N[:19]), r"labels is int64 \(19,\)"),
    "labels deep": (swap("labels", N[:, None]), r"labels is int64 \(20, 1\)"),
    "labels scalar": (swap("labels", 1), r"labels is int64 \(\)"),
    "labels null": (swap("labels", h5py.Empty("i8")), "labels has the shape None"),
    "label range": (set_entry("labels", 2), "labels has 1 values outside -1 to 1"),
    "label low": (set_entry("labels", -2), "labels has 1 values outside -1 to 1"),
    "split type": (swap("split", N.astype("i1")), "split is int8"),
    "split range": (set_entry("split", 3), "split has 1 values outside 0 to 2"),
    "status type": (swap("status", N), "status is int64"),
    "status range": (set_entry("status", 9), "status has 1 values outside 0 to 2"),
    "reason": (swap("reason", N), "reason is int64"),
    "digest": (swap("digest", np.zeros((20, 8), "u1")), r"digest is uint8 \(20, 8\)"),
    "groups": (swap("groups", N), "groups is int64"),
    "features type": (swap("features", X.astype("f8")), "features is float64"),
    "features bits": (other_bits, "features has other bits than float32"),
    "features rank": (swap("features", X[:, 0].copy()), r"features has the shape \(20,\)"),
    "features short": (swap("features", X[:19]), r"features is float32 \(19, 3\)"),
    "features empty": (swap("features", X[:, :0]), r"features has the shape \(20, 0\)"),
    "views row": (set_entry("views/row", 0), "views are not those of the training split"),
    "views short": (swap("views/conv1_relu", VIEWS[:3]), "views/conv1_relu is"),
    "views count": (swap("views/conv1_relu", VIEWS[:, :1]), "views/conv1_relu is"),
    "views width": (swap("views/conv1_relu", VIEWS[:, :, :2]), "views/conv1_relu is"),
    "other program": (set_attribute("format", "other"), "of another program"),
    "newer": (set_attribute("format_version", 99), "format 99; expected 3 or lower; upgrade"),
    "version": (set_attribute("format_version", "x"), "damaged"),
    "dtype": (set_attribute("dtype", "float64"), "dtype 'float64' is unknown"),
    "trunk": (set_attribute("trunk", 5), "trunk is 5"),
    "trunk name": (set_attribute("trunk", "vgg17"), "trunk 'vgg17' is unknown"),
    "columns": (set_attribute("columns", 0.5), "columns is 0.5"),
    "complete": (set_attribute("complete", [0]), r"complete is \[0\]"),
    "complete text": (set_attribute("complete", "no"), "complete is 'no'"),
    "root": (set_attribute("root", 0.5), "root is 0.5"),
    "shards": (set_attribute("shards", ["a", "b"]), r"shards is \['a', 'b'\]"),
    "long name": (set_attribute("x" * 10**4, 1j), r"x{500}\.\.\.; expected a file"),
    "size": (set_attribute("image_size", [1, 2, 3]), r"image_size is \[1, 2, 3\]"),
    "size text": (set_attribute("image_size", "large"), "image_size is large"),
    "layer": (set_attribute("layer", "conv1_relu"), "lacks views/c, views/o, views/n"),
    "layers": (set_attribute("layer", ["a", "b"]), "lacks views/a, views/b"),
    "classes": (set_attribute("class_names", [1, 2]), r"class_names is \[1, 2\]"),
    "class twice": (set_attribute("class_names", ["a", "a"]), "class_names has a name twice"),
    "views many": (set_attribute("views", -1), "views/conv1_relu is float32"),
    "name not UTF-8": (name_in_bytes, "is not a UTF-8 name"),
    "empty": (set_attribute("extra", h5py.Empty("f4")), "extra is neither text nor a number"),
    "complex": (set_attribute("extra", 1j), "extra is neither text nor a number"),
}
NAMES = ("keys", "labels", "split", "status", "reason", "digest", "features", "views/row")


def changed(path: Path, change: Change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("write", [False, True])
def test_a_store_from_a_stranger_is_refused(store: Path, what: str, write: bool) -> None:
    change, message = STRANGE[what]
    changed(store, change)
    with pytest.raises(StoreError, match=message), open_store(store, write):
        pass


def test_rows_are_read_from_no_other_file(store: Path) -> None:
    changed(store, external_link)
    with pytest.raises(StoreError, match="features is a link"):
        list(read_features(store, ["conv1_relu"], [slice(0, 2)]))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_object_is_named(store: Path, name: str) -> None:
    changed(store, lambda file: file.__delitem__(name))
    with pytest.raises(StoreError, match=f"lacks {name}"), open_store(store):
        pass


def test_what_is_there_beside_is_left_alone(store: Path) -> None:
    changed(store, lambda file: file.create_dataset("notes", data=[1, 2]) and None)
    with open_store(store) as opened:
        assert verify(opened) == []


@pytest.mark.parametrize("name", ["resize", "interpolation", "preprocess", "pooling", "weights"])
def test_a_setting_that_is_missing_has_its_default(
    store: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(store, lambda file: file.attrs.__delitem__(name))
    assert show_cli.main([str(store)]) == 0
    with open_store(store) as opened:
        assert str(getattr(opened.spec, name)) in capsys.readouterr().out


@pytest.mark.parametrize("what", ["external link", "label range", "class not UTF-8", "terabytes"])
def test_commands_end_with_1(
    store: Path, what: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(store, STRANGE[what][0])
    for code in (
        show_cli.main([str(store)]),
        train_head([str(store), "--head", "knn"]),
        cli.main([str(images), str(store)]),
    ):
        assert code == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert len({line.partition(":")[2] for line in said}) == 1


def test_truncated_at_any_byte(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = store.read_bytes()
    for cut in np.linspace(0, len(content) - 1, 200, dtype=int):
        store.write_bytes(content[:cut])
        assert show_cli.main([str(store), "--verify"]) == 1, cut
        assert train_head([str(store), "--head", "knn"]) == 1, cut
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 400
    assert all("made.h5: " in line for line in said)


def test_within_a_limit_a_sound_store_is_shown(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert show_cli.main([str(store), "--verify", "--limit", "300", "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["images"] == 20
    assert "verified" in shown.err
    store.write_bytes(store.read_bytes()[:-1])
    assert show_cli.main([str(store), "--limit", "300"]) == 1
    assert capfd.readouterr().err.count("show-features: ") == 1
    with pytest.raises(SystemExit):
        show_cli.main([str(store), "--limit", "0"])


def let_hdf5_loop(path: Path) -> None:
    """Let what is free in the heap of names be 0 bytes long: HDF5 steps over it for ever."""
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 16
    while int.from_bytes(content[place : place + 2], "little"):  # 0 is what is free
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = bytes(8)
    path.write_bytes(content)


def repeat_a_text(path: Path, name: str, size: int) -> None:
    """Let every text of a dataset be the first one, which gets a size."""
    with h5py.File(path, "r+") as file:
        file[name][0] = "x" * size
        place, count = file[name].id.get_offset(), len(file[name])
    content = bytearray(path.read_bytes())
    content[place : place + 16 * count] = content[place : place + 16] * count
    path.write_bytes(content)


def repeat_names(path: Path) -> None:
    """Let every name of the classes, an attribute, be one of a million characters."""
    with h5py.File(path, "r+") as file:
        file.attrs["class_names"] = ["x" * 10**6, *(f"{i:04d}" for i in range(4000))]
    content = bytearray(path.read_bytes())
    place = content.index((10**6).to_bytes(4, "little"))
    content[place : place + 16 * 4001] = content[place : place + 16] * 4001
    path.write_bytes(content)


LITTLE_MEMORY = """
import importlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
sys.exit(importlib.import_module(sys.argv.pop(1)).main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
@pytest.mark.parametrize("name", ["keys", "groups", "class_names"])
def test_few_bytes_of_text_cannot_fill_the_memory(make_store: MakeStore, name: str) -> None:
    count = 20_000
    path = make_store(
        np.zeros((count, 1), "f4"), [0, 1] * (count // 2), groups=["a", "b"] * (count // 2)
    )
    repeat_names(path) if name == "class_names" else repeat_a_text(path, name, 10**6)
    for module in ("extract.show_cli", "classify.cli")[: 1 + (name == "keys")]:
        line = [sys.executable, "-c", LITTLE_MEMORY, module, str(path)]
        child = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert child.returncode == 1, child.stderr
        more = "needs far more memory" if name == "class_names" else "has more text"
        assert f"made.h5: {name} {more} than the file has bytes; expected" in child.stderr


def crash_reader() -> None:
    """Crash the process that reads a file first, once it has worked for a second."""
    while True:
        time.sleep(0.02)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                reads = any("limits/hdf5" in word for word in child.cmdline())
                if reads and child.cpu_times().user > 1:
                    child.send_signal(signal.SIGSEGV)
                    return


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits and SIGSEGV")
def test_a_file_over_which_hdf5_loops_or_crashes_is_named(
    store: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    let_hdf5_loop(store)
    out = store.with_name("new.h5")
    flags = ["--trunk", "mobilenet", "--weights", "none", "--layer", "conv1_relu"]
    for command, words in (
        (show_cli.main, [str(store)]),
        (train_head, [str(store), "--head", "knn"]),
        (cli.main, [str(images), str(store)]),
        (cli.main, [str(store), str(out), *flags]),
    ):
        assert command(words) == 1
        said = capfd.readouterr().err
        assert "made.h5: HDF5 does not come to its end; expected" in said
    assert not out.exists()
    with pytest.raises(StoreError, match="HDF5 does not come to its end"):
        list(read_features(store, ["conv1_relu"], [slice(0, 2)]))
    os.utime(store, (0, 0))
    thread = threading.Thread(target=crash_reader)
    thread.start()
    with pytest.raises(StoreError, match=r"made\.h5: HDF5 crashes on it; expected"):
        open_store(store).__enter__()
    thread.join()


def test_a_limit_on_time_ends_the_command(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    let_hdf5_loop(store)
    assert show_cli.main([str(store), "--limit", "1"]) == 1
    assert "made.h5: not read within 1 s; expected a valid file" in capfd.readouterr().err


def fuzz(path: str, first: int, count: int) -> None:
    """Open mutants one after the other and note what comes of each; to be run in a child."""
    sound = Path(path).read_bytes()
    mutant = Path(path).with_name("mutant.h5")
    with Path(path).with_name("fuzzed").open("a", buffering=1) as notes:
        for seed in range(first, count):
            notes.write(f"{seed}\n")
            generator = np.random.default_rng(seed)
            content = bytearray(sound)
            for place in generator.integers(0, len(content), generator.integers(1, 4)):
                content[place] ^= generator.integers(1, 256)
            mutant.write_bytes(content)
            words = [str(mutant), "-q"]
            codes = [show_cli.main([*words, "--verify", "--json"])]
            codes.append(train_head([*words, "--head", "naive_bayes"]) if not seed % 10 else 0)
            notes.write(f"{json.dumps(codes, separators=(',', ':'))}\n")


def fuzzed(path: Path, count: int, seconds: float) -> Counter[str]:
    """Return how many mutants gave which exit codes; ``crash`` and ``hang`` are HDF5's."""
    notes, first = path.with_name("fuzzed"), 0
    notes.touch()
    while first < count:
        child = multiprocessing.get_context("spawn").Process(
            target=fuzz, args=(str(path), first, count)
        )
        child.start()
        size = -1
        while child.is_alive() and size < (size := notes.stat().st_size):
            child.join(seconds)
        ended = "hang" if child.is_alive() else "crash"
        child.kill()
        child.join()
        lines = notes.read_text().splitlines()
        if lines[-1].isdigit():
            with notes.open("a") as file:
                file.write(f"{ended}\n")
        first = (len(lines) + 1) // 2
    return Counter(notes.read_text().splitlines()[1::2])


@pytest.mark.slow
def test_flipped_bytes_give_a_named_error_or_a_sound_store(store: Path) -> None:
    found = fuzzed(store, 500, seconds=20)
    assert sum(found.values()) == 500
    assert found["[0,0]"]
    assert set("".join(found)) <= set("[]01,"), found
