"""A power cut: of what was written since the last fsync any sectors may be on the disk, or none."""

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.core.row_block import DONE, FAILED
from extract.pipeline.run import Summary
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import Store, open_store
from tests.conftest import QUICK
from tests.test_pipeline_run import assert_equal_stores
from tests.test_store_update import UPDATE, change

SECTOR = 512
STATES = 12  # of each pause between two fsyncs
LAYER = "conv1_relu"


class Disk:
    """What is on a disk for certain: each file's content at every fsync, by the file's number.

    ``named`` holds the content that a file had when it got a name.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.synced: dict[int, list[bytes]] = {}
        self.named: list[tuple[str, int, bytes]] = []
        self._folder = folder
        for name, record in (("fsync", self._sync), ("link", self._name), ("replace", self._name)):
            patch.setattr(os, name, self._after(getattr(os, name), record))

    def _after(self, call: Callable[..., Any], record: Callable[..., None]) -> Callable[..., Any]:
        def recorded(*words: Any) -> None:
            call(*words)
            record(*words)

        return recorded

    def _sync(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        for path in self._folder.glob("*.h5"):
            if path.stat().st_ino == number:
                self.synced.setdefault(number, []).append(path.read_bytes())

    def _name(self, _: Any, place: Any) -> None:
        path = Path(place)
        self.named.append((path.name, path.stat().st_ino, path.read_bytes()))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr("extract.store.single_file.COMMIT_SECONDS", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        yield Disk(tmp_path, patch)


def extract(source: Path, out: Path, **given: Any) -> Summary:
    return extract_features(source, out, **{**QUICK, "batch_size": 1, "views": 1, **given})


def cut_states(before: bytes, after: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """Yield what may be on the disk when the power fails between two fsyncs."""
    assert len(before) == len(after), "a file grows or shrinks while rows are written"
    sectors = np.flatnonzero(
        [
            before[at : at + SECTOR] != after[at : at + SECTOR]
            for at in range(0, len(before), SECTOR)
        ]
    )
    for _ in range(STATES):
        share = random.choice([0.1, 0.5, 0.9])
        content = bytearray(before)
        for sector in sectors[random.random(len(sectors)) < share]:
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            content[place] = after[place]
        yield bytes(content)


def contents_of(store: Store, row: int) -> tuple[bytes, ...]:
    """Return what is stored of a finished row."""
    one = np.array([row])
    views = store.read_views(LAYER, one) if row in store.view_rows else np.empty(0)
    assert not store.find_changed(one).size
    return store.read(LAYER, one).tobytes(), views.tobytes(), store.digests()[row].tobytes()


def check(path: Path, wanted: dict[str, tuple[bytes, ...]]) -> int:
    """Make sure that whatever counts as finished is right; return how many rows do."""
    with h5py.File(path) as file:
        said = bool(file.attrs["complete"])
    with open_store(path) as store:
        assert said <= store.complete
        assert {failure.reason for failure in store.failures()} <= {"is empty"}
        for row in np.flatnonzero(store.status == FAILED):
            assert np.isnan(store.read(LAYER, np.array([row]))).all()
        done = np.flatnonzero(store.status == DONE)
        for row in done:
            assert contents_of(store, int(row)) == wanted[store.keys[row]]
        return len(done)


def test_whatever_a_power_cut_leaves_what_is_finished_is_right(
    images: Path, tmp_path: Path, disk: Disk
) -> None:
    out, cut = tmp_path / "out.h5", tmp_path / "cut.h5"
    (images / "train/cat/empty.png").touch()
    extract(images, out)
    with open_store(out) as store:
        done = np.flatnonzero(store.status != FAILED)
        wanted = {store.keys[row]: contents_of(store, int(row)) for row in done}
    # Again, so that what counted counts no longer: everything is computed a second time.
    with open_store(out, write=True) as store:
        store.forget(np.arange(3))
    extract(images, out)
    states = [*disk.synced[out.stat().st_ino], out.read_bytes()]
    random, finished = np.random.default_rng(0), []
    for number, (before, after) in enumerate(pairwise(states)):
        for content in cut_states(before, after, random):
            cut.write_bytes(content)
            finished.append(check(cut, wanted))
        if number % 7 == 0:
            extract(images, cut)
            assert_equal_stores(cut, out)
    assert set(finished) == set(range(9))


@pytest.mark.parametrize("form", ["created", "updated", "replaced"])
def test_a_name_is_given_to_what_is_on_the_disk(
    images: Path, tmp_path: Path, disk: Disk, form: str
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    if form != "created":
        change(images)
        extract(images, out, **{"updated": UPDATE, "replaced": {"overwrite": True}}[form])
    name, number, content = [entry for entry in disk.named if entry[0] == "out.h5"][-1]
    assert (name, number) == ("out.h5", out.stat().st_ino)
    assert content in disk.synced[number]
