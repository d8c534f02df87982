"""Where labels say nothing of the images no head knows better than chance: nothing leaks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from classify import load_dataset, sweep
from classify.settings.head_spec import DEFAULTS
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from tests.conftest import QUICK
from tests.test_sources_archives import contents_of, pack
from tests.test_sources_tables import write_table

COUNT = 120
FORMS = ("folder", "table.csv", "images.zip")


def draw(folder: Path, labels: Sequence[str]) -> Path:
    """Draw images in class folders, each two that follow each other nearly alike."""
    random = np.random.default_rng(0)
    for number in range(0, COUNT, 2):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        for twin in (0, 1):
            path = folder / labels[number + twin] / f"{number + twin:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels ^ np.uint8(twin)).save(path)
    return folder


def source(form: str, folder: Path) -> tuple[Path, int]:
    """Return images with random labels, and how many independent witnesses they are.

    In the table twins have one label and are a group, so that a fold which parts them is told.
    Without groups each twin has a label of its own.
    """
    random = np.random.default_rng(5)
    grouped = form == "table.csv"
    drawn = random.integers(0, 2, COUNT // 2 if grouped else COUNT).repeat(2 if grouped else 1)
    images = draw(folder / "images", [f"class{label}" for label in drawn])
    if form == "images.zip":
        return pack(folder / form, contents_of(images)), COUNT
    if not grouped:
        return images, COUNT
    keys = sorted(str(path.relative_to(folder)) for path in images.rglob("*.png"))
    rows = [
        {"path": key, "label": key.split("/")[1], "group": int(Path(key).stem) // 2} for key in keys
    ]
    return write_table(folder / form, rows), COUNT // 2


@pytest.mark.parametrize("form", FORMS)
def test_shuffled_labels_are_learnt_by_no_head(form: str, tmp_path: Path) -> None:
    images, witnesses = source(form, tmp_path)
    extract_features(images, tmp_path / "out.h5", **QUICK, views=2)
    with open_store(tmp_path / "out.h5") as store:
        largest = np.bincount(store.labels).max() / COUNT
    result = sweep(
        load_dataset(tmp_path / "out.h5"),
        head=list(DEFAULTS),
        folds=4,
        units=(16,),
        epochs=5,
        trees=10,
    )
    assert {entry.spec.head for entry in result.entries} == set(DEFAULTS)
    assert {entry.spec.views for entry in result.entries} == {"random", "all"}
    # A head that knows nothing may still name the larger class.
    low = binom.ppf(1e-4, witnesses, 1 - largest) / witnesses
    high = binom.ppf(1 - 1e-4, witnesses, largest) / witnesses
    found = {entry.spec.head: entry.scores["accuracy"] for entry in result.entries}
    assert all(low <= accuracy <= high for accuracy in found.values()), (low, high, found)


def test_twins_that_are_parted_would_be_told(tmp_path: Path) -> None:
    table, witnesses = source("table.csv", tmp_path)
    table.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()))
    extract_features(table, tmp_path / "out.h5", **QUICK, views=2)
    result = sweep(load_dataset(tmp_path / "out.h5"), head="knn", neighbours=1, folds=4)
    assert result.accuracy > binom.ppf(1 - 1e-4, witnesses, 0.6) / witnesses
