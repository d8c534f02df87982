"""What is doubtful about images that are read is told in one line for each kind of doubt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.inference.predict import label_images
from classify.settings.prediction import PredictConfig
from extract.core.config import TrunkSpec
from extract.core.row_block import Note
from extract.pipeline.run import run_extraction
from extract.pipeline.stream import Notes
from extract.sources.listing import list_source
from tests.conftest import QUICK

RANGE = "16-bit values reach only 4,000; if they have 12 bits, multiply them by 16 before"


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A folder with 5 images: 4 of 12 bits in 16, one of them in float, one without a doubt."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        grey = np.full((20, 20), 1000 * (number + 1), np.uint16)
        Image.fromarray(grey).save(folder / f"{number}.tif")
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(folder / "4.tif")
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(folder / "5.png")
    return folder


def test_a_run_tells_each_doubt_once(
    doubtful: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.h5"
    run_extraction(doubtful, out, **QUICK)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        f"{out}: 4 images (0.tif, 1.tif, 2.tif, ...): {RANGE}",
        f"{out}: 1 image (4.tif): float values between 0 and 1 are read as black to white",
    ]
    caplog.clear()
    run_extraction(doubtful, out, **QUICK)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


class Model:
    """A model of one class."""

    class_names = ("one",)

    def score(self, features: dict[str, np.ndarray]) -> np.ndarray:
        (values,) = features.values()
        return np.ones((len(values), 1))


def test_prediction_tells_it_too(doubtful: Path, caplog: pytest.LogCaptureFixture) -> None:
    from extract.engines.select import open_engine

    spec: dict[str, Any] = dict(QUICK)
    engine = open_engine(TrunkSpec(**spec), "float32", 2)
    items = list_source(doubtful).items
    model: Any = Model()
    labels = label_images(items, engine, model, PredictConfig()).predictions
    assert len(labels) == 6
    assert f"4 images (0.tif, 1.tif, 2.tif, ...): {RANGE}" in caplog.messages


def test_names_cannot_move_the_cursor(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    notes.add("a\x1b[2J", Note("odd"))
    notes.warn()
    assert caplog.messages == ["1 image ('a\\x1b[2J'): odd"]
