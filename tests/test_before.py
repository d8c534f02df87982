"""Stores and heads of an earlier version open and give the same numbers."""

import csv
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from packaging.version import Version

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store

BEFORE = Path(__file__).parent / "before"
HEADS = sorted(path.name for path in (BEFORE / "heads").iterdir())


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, entered, as the stores name their source by a relative path."""
    copy = tmp_path / "before"
    shutil.copytree(BEFORE, copy)
    monkeypatch.chdir(copy)
    return copy


def stored(path: Path, layer: str) -> np.ndarray:
    """Features as h5py alone reads them; those of an index, shard by shard."""
    with h5py.File(path) as file:
        if "shards" in file:
            names = file["shards"].asstr()[:]
            return np.concatenate([stored(path.parent / name, layer) for name in names])
        features = file["features"]
        return np.asarray((features if isinstance(features, h5py.Dataset) else features[layer])[:])


@pytest.mark.parametrize("name", ["one.h5", "two_layers.h5", "index.h5"])
def test_a_store_opens_and_holds_what_it_held(name: str) -> None:
    with open_store(BEFORE / name) as store:
        assert store.complete
        assert len(store.keys) == 22
        assert store.keys[0] == "test/blue/0.png"
        assert store.class_names == ("blue", "red")
        for layer in store.shapes:
            features = store.read(layer, slice(None))
            np.testing.assert_array_equal(features, stored(BEFORE / name, layer))
        assert not len(store.find_changed(np.arange(22)))


@pytest.mark.parametrize("name", ["one.h5", "two_layers.h5", "index.h5"])
def test_the_same_command_goes_on_and_finds_nothing_to_do(name: str, before: Path) -> None:
    content = (before / name).read_bytes()
    assert extract_features("images", name).computed == 0
    assert (before / name).read_bytes() == content


@pytest.mark.parametrize("head", HEADS)
def test_a_head_gives_the_scores_that_it_gave(
    head: str, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "now.csv"
    made_by = json.loads((before / "heads" / head / "result.json").read_text())["versions"]
    if head == "boosting" and Version(version("scikit-learn")) < Version(made_by["scikit-learn"]):
        assert predict_images([f"heads/{head}", "images/test", "-o", str(out)]) == 1
        assert "cannot read; train the head again" in capsys.readouterr().err
        return
    assert predict_images([f"heads/{head}", "images/test", "--top", "2", "-o", str(out)]) == 0
    with out.open() as now, (before / "predictions" / f"{head}.csv").open() as then:
        rows, expected = list(csv.reader(now)), list(csv.reader(then))
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    scores, former = ([float(row[2]) for row in table[1:]] for table in (rows, expected))
    np.testing.assert_allclose(scores, former, atol=1e-4)


@pytest.mark.parametrize("head", ["logistic", "ridge", "lda", "knn"])
def test_a_head_trained_again_has_the_numbers_that_it_had(
    head: str, before: Path, tmp_path: Path
) -> None:
    former = json.loads((before / "heads" / head / "result.json").read_text())
    assert train_head(["one.h5", "--head", head, "-o", str(tmp_path / "head")]) == 0
    now = json.loads((tmp_path / "head" / "result.json").read_text())
    assert now["candidates"][0]["confusion"] == former["candidates"][0]["confusion"]
    scores = former["candidates"][0]["scores"]
    if head in ("ridge", "lda"):  # the scale of their scores has changed, and no answer
        scores.pop("loss")
    for name, value in scores.items():
        assert now["candidates"][0]["scores"][name] == pytest.approx(value, abs=1e-5)
    added = {"baseline", "best", "budget", "left_out", "notes", "summary", "sweeps"}
    added |= {"date", "command", "seed", "features", "figures"}
    assert now.keys() == former.keys() | added
