"""Mutants of real files, read in a child that may not crash, hang or swell.

    python -m tests.fuzz decode --minutes 10
    python -m tests.fuzz bundle weights --tries 3000 --seed 1

What is found is kept, with the sound files that it was made from.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from extract.core.errors import HeadstartError

# What a mutant may take beyond what the sound files do: 134 million pixels, four times.
MEMORY = 2 << 30
HANG_SECONDS = 60.0
# What sizes, counts and offsets are wrong by.
ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**9,
    10**18,
    "",
    "\u202ex\n",
    [],
    {},
    [10**9],
    [[]],
)

Random = np.random.Generator


class Target(NamedTuple):
    """Something that reads files of strangers.

    Attributes:
        prepare: Writes sound files into a folder and returns those to mutate.
        read: Reads a file of these; what is wrong with it is a HeadstartError.
    """

    prepare: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]


class Found(NamedTuple):
    """What came of the mutants: ``outcomes`` counts, ``findings`` are numbers and what they did."""

    outcomes: Counter[str]
    findings: dict[int, str]


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _images(folder: Path) -> list[Path]:
    from tests.test_pixels_decode import ALL
    from tests.test_pixels_jpeg import SORTED
    from tests.test_pixels_tiff import CUT
    from tests.tiffs import make_samples, write_tiff

    deep = [write_tiff(cell, make_samples(cell)) for cell in CUT]
    return _write(
        folder, {f"{n}": content for n, content in enumerate([*ALL, *deep, *SORTED.values()])}
    )


def _decode(path: Path) -> None:
    from extract.pixels.decode import decode

    assert decode(path.read_bytes(), (5, 7)).shape == (5, 7, 3)


def _tables(folder: Path) -> list[Path]:
    from tests.test_sources_tables import FORMS, ROWS, write_table

    return [write_table(folder / f"table{form}", ROWS) for form in FORMS]


def _archives(folder: Path) -> list[Path]:
    from tests.test_sources_archives import pack

    files = {"a/1.png": b"one" * 9, "b/2.png": b"two" * 9, "b/3.json": b'{"label": "x"}'}
    return [pack(folder / f"images{form}", files) for form in (".zip", ".tar", ".tar.gz")]


def _records(folder: Path) -> list[Path]:
    from tests.test_sources_records import FORMS

    # Of folders there are tests of their own; HDF5's own code can loop for ever.
    names = [name for name in FORMS if name not in ("saved", "a.h5")]
    for name in names:
        FORMS[name][0](folder / name)
    return [folder / name for name in names]


def _list(path: Path) -> None:
    from extract.core.errors import ImageError
    from extract.images.item import read_item
    from extract.sources.listing import list_source

    for item in list_source(path).items:
        try:
            read_item(item)
        except ImageError:
            continue


def write_head(folder: Path, result: Any) -> None:
    """Write what predicting needs of a bundle."""
    from classify.inference.bundle import _identity
    from classify.inference.head_folder import BUNDLE
    from tests.test_inference_bundle import dataset

    folder.mkdir()
    result.head.save(folder)
    (folder / BUNDLE).write_text(json.dumps(_identity(dataset(), result)))


def _heads(folder: Path) -> list[Path]:
    from classify.settings.head_spec import HeadSpec
    from tests.test_inference_bundle import DENSE, run_of

    specs = [DENSE, *map(HeadSpec, ("logistic", "knn", "svm", "naive_bayes"))]
    specs += [HeadSpec(name, trees=3) for name in ("forest", "boosting")]
    for spec in specs:
        write_head(folder / spec.head, run_of(spec))
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


def _load_head(path: Path) -> None:
    from classify.inference.bundle import load_head

    bundle = load_head(path.parent)
    bundle.predict_proba(np.zeros((2, *bundle.shape), np.float32))


def _small_model() -> Any:
    from extract.trunks.backend import load_keras

    keras = load_keras()
    layers = [keras.layers.Conv2D(3, 3, name="map"), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2)])


def _weights(folder: Path) -> list[Path]:
    model = _small_model()
    names = ("legacy.h5", "new.weights.h5", "whole.keras")
    for name in names:
        (model.save_weights if "weights" in name else model.save)(folder / name)
    return [folder / name for name in names]


def _load_weights(path: Path) -> None:
    from extract.core.config import TrunkSpec
    from extract.trunks import weights

    # A real trunk takes a second to build.
    weights.build_application = lambda *_: _small_model()
    weights.load_application(TrunkSpec("mobilenet", weights=str(path)))


def _model_file(folder: Path) -> list[Path]:
    _small_model().save(folder / "own.keras")
    return [folder / "own.keras"]


def _load_trunk(path: Path) -> None:
    from extract.core.config import TrunkSpec
    from extract.trunks.trunk import build_trunk

    build_trunk(TrunkSpec(trunk=str(path)))


TARGETS = {
    "decode": Target(_images, _decode),
    "manifest": Target(_tables, _list),
    "archive": Target(_archives, _list),
    "records": Target(_records, _list),
    "bundle": Target(_heads, _load_head),
    "weights": Target(_weights, _load_weights),
    "trunk": Target(_model_file, _load_trunk),
}


def mutate(content: bytes, random: Random) -> bytes:
    """Change a file at a few places: in its bytes, or in a member or a value that it holds."""
    if content.startswith(b"PK") and random.random() < 0.8:
        return _mutate_zip(content, random)
    if content.startswith(b"{") and b"\n{" not in content and random.random() < 0.8:
        return _mutate_json(content, random)
    if content.startswith(b"\x93NUMPY") and random.random() < 0.5:
        return _mutate_array(content, random)
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at, size = int(random.integers(len(changed) + 1)), int(random.integers(1, 17))
        kind = random.integers(6)
        if kind == 0:
            del changed[at : at + size]
        elif kind == 1:
            changed[at:at] = changed[at : at + size] or b"\0"
        elif kind == 2:
            changed[at:at] = random.bytes(size)
        elif kind == 3:
            width, order = (1, 2, 4, 8)[random.integers(4)], ("little", "big")[random.integers(2)]
            value = ODD[random.integers(len(ODD))] % 256**width
            changed[at : at + width] = value.to_bytes(width, order)
        elif at < len(changed):
            changed[at] ^= 1 << int(random.integers(8)) if kind == 4 else random.integers(1, 256)
    return bytes(
        changed[: random.integers(len(changed) + 1)] if random.random() < 0.05 else changed
    )


def _mutate_array(content: bytes, random: Random) -> bytes:
    """Change how long or wide an array is, or a value of it, so that it is an array still."""
    array, stream = np.load(BytesIO(content)), BytesIO()
    kind = random.integers(4) if array.ndim and array.size else 3
    if kind == 0:
        array = array[: random.integers(len(array))]
    elif kind == 1:
        array = array[..., : random.integers(array.shape[-1])]
    elif kind == 2:
        array = np.concatenate([array] * 3)
    else:
        values, at = bytearray(array.tobytes()), int(random.integers(max(1, array.nbytes)))
        values[at : at + 8] = bytes([ODD[random.integers(len(ODD))] % 256]) * len(
            values[at : at + 8]
        )
        array = np.frombuffer(values, array.dtype).reshape(array.shape)
    np.save(stream, np.ascontiguousarray(array))
    return stream.getvalue()


def _mutate_zip(content: bytes, random: Random) -> bytes:
    """Mutate a member and pack it again, so that its checksum fits."""
    stream = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = names[random.integers(len(names))]
        for name in names:
            member = old.read(name)
            new.writestr(name, mutate(member, random) if name == chosen else member)
    return stream.getvalue()


def _mutate_json(content: bytes, random: Random) -> bytes:
    """Put another value in the place of one, or leave it out."""
    described = json.loads(content)
    place: Any = described
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return content[:-1]
        key = keys[random.integers(len(keys))]
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.1:
            break
        place = place[key]
    if random.random() < 0.2:
        del place[key]
    else:
        place[key] = ODD_VALUES[random.integers(len(ODD_VALUES))]
    return json.dumps(described).encode()


def make_mutant(files: Sequence[Path], seed: int, number: int) -> tuple[Path, bytes]:
    """Return which file is changed to what."""
    random = np.random.default_rng([seed, number])
    path = files[int(random.integers(len(files)))]
    return path, mutate(path.read_bytes(), random)


def read_mutant(target: Target, path: Path, content: bytes) -> str:
    """Say what comes of a mutant: ``read``, ``refused``, or what should not be."""
    sound = path.read_bytes()
    path.write_bytes(content)
    try:
        target.read(path)
    except HeadstartError as error:
        text = str(error)
        return "refused" if text.isprintable() and len(text) < 2000 else f"said {text[:200]!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {place.filename}:{place.lineno}: {error!s:.200}".replace(
            "\n", " "
        )
    finally:
        path.write_bytes(sound)
    return "read"


def _files(folder: Path) -> list[Path]:
    return [folder / line for line in (folder / "files").read_text().splitlines()]


def _child(name: str, folder: Path, seed: int, numbers: range, until: float) -> None:
    target = TARGETS[name]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff tells stderr what it meets
    files = _files(folder)
    for path in files:
        assert read_mutant(target, path, path.read_bytes()) == "read", path
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    with (folder / "notes").open("a", buffering=1) as notes:
        for number in numbers:
            if time.time() > until:
                break
            notes.write(f"{number} ")
            notes.flush()
            path, content = make_mutant(files, seed, number)
            notes.write(f"{read_mutant(target, path, content)}\n")


def _watch(child: Any, notes: Path) -> None:
    """Wait until a child has ended, or has worked too long on one mutant."""
    size, since = -1, 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        while child.is_alive():
            # Its own seconds: a busy machine makes nothing hang.
            spent = sum(psutil.Process(child.pid).cpu_times()[:2])
            if size < (size := notes.stat().st_size):
                since = spent
            elif spent - since > HANG_SECONDS:
                return
            child.join(1)


def fuzz(name: str, folder: Path, tries: int, seed: int = 0, minutes: float = 1e6) -> Found:
    """Read mutants until there were so many of them, or so many minutes are over.

    Args:
        name: One of ``TARGETS``.
        folder: An empty one.
        tries: How many mutants.
        seed: Of the mutants.
        minutes: When to stop.
    """
    files, notes = TARGETS[name].prepare(folder), folder / "notes"
    (folder / "files").write_text("".join(f"{path.relative_to(folder)}\n" for path in files))
    sound = {path: path.read_bytes() for path in files}
    notes.touch()
    until, done = time.time() + 60 * minutes, 0
    while done < tries and time.time() < until:
        for path, content in sound.items():  # a crash leaves a mutant behind
            path.write_bytes(content)
        arguments = (name, folder, seed, range(done, tries), until)
        child = multiprocessing.get_context("spawn").Process(target=_child, args=arguments)
        child.start()
        _watch(child, notes)
        ended = "hang" if child.is_alive() else f"crash {child.exitcode}"
        child.kill()
        child.join()
        text = notes.read_text()
        if text and not text.endswith("\n"):
            with notes.open("a") as file:
                file.write(f"{ended}\n")
        elif child.exitcode:
            raise AssertionError(f"{name}: the sound files cannot be read ({ended})")
        done = notes.read_text().count("\n")
    lines = [line.partition(" ") for line in notes.read_text().splitlines()]
    findings = {int(n): said for n, _, said in lines if said not in ("read", "refused")}
    return Found(Counter(said.partition(" ")[0] for _, _, said in lines), findings)


def main() -> None:
    """Fuzz by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--tries", type=int, default=sys.maxsize)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.targets:
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        found = fuzz(name, folder, arguments.tries, arguments.seed, arguments.minutes)
        print(name, dict(found.outcomes), flush=True)  # noqa: T201
        for number, said in found.findings.items():
            path, content = make_mutant(_files(folder), arguments.seed, number)
            mutant = folder / f"mutant-{number}-{path.name}"
            mutant.write_bytes(content)
            print(f"  {mutant} of {path}: {said}", flush=True)  # noqa: T201
        if not found.findings:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
