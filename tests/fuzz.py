"""Mutants of real files, read in a child that may not crash, hang or swell.

    python -m tests.fuzz decode --minutes 10
    python -m tests.fuzz bundle weights --tries 3000 --seed 1

What is found is kept, with the sound files that it was made from.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from extract.core.errors import HeadstartError
from tests.fuzz_targets import TARGETS, Target
from tests.mutants import make_mutant

# What a mutant may take beyond what the sound files do: 134 million pixels, four times.
MEMORY = 2 << 30
HANG_SECONDS, WAIT_SECONDS = 60.0, 1200.0


class Found(NamedTuple):
    """What came of the mutants: ``outcomes`` counts, ``findings`` are numbers and what they did."""

    outcomes: Counter[str]
    findings: dict[int, str]


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
    size, since, began = -1, 0.0, 0.0
    while child.is_alive():
        # Its own seconds, with those of its children: a busy machine makes nothing hang.
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(child.pid)
            spent = sum(process.cpu_times()[:4])
            spent += sum(sum(each.cpu_times()[:2]) for each in process.children(recursive=True))
            if size < (size := notes.stat().st_size):
                since, began = spent, time.monotonic()
            elif spent - since > HANG_SECONDS or time.monotonic() - began > WAIT_SECONDS:
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
