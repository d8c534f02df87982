"""Below float32: calibrated on training images, compared with float32, remembered by the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.core.errors import EngineError, StoreError
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from tests.conftest import QUICK
from tests.test_engines_contract import capabilities

LAYERS = ("conv1_relu", "conv_pw_1_relu")
GIVEN = {**QUICK, "layer": LAYERS}
TRAINING = ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]


def features(path: Path) -> np.ndarray:
    """Return (N, D) float64 features of all layers, side by side."""
    with open_store(path) as store:
        found = [store.read(layer, slice(None)) for layer in LAYERS]
    flat = [values.reshape(len(values), -1).astype(np.float64) for values in found]
    return np.concatenate(flat, axis=1)


@pytest.mark.parametrize(
    ("engine", "precision", "most"), [("keras", "bfloat16", 0.03), ("openvino", "int8", 0.3)]
)
def test_the_difference_to_float32_is_measured_and_the_file_is_of_one_precision(
    images: Path, tmp_path: Path, engine: str, precision: str, most: float
) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
        if "INT8" not in capabilities():
            pytest.skip("this processor has no 8-bit instructions")
    out, exact = tmp_path / "out.h5", tmp_path / "exact.h5"
    given = {**GIVEN, "engine": engine, "precision": precision}
    error = extract_features(images, out, **given).error
    assert extract_features(images, exact, **GIVEN, engine=engine).error is None
    a, b = features(exact), features(out)
    assert error is not None
    assert error["images"] == 8
    assert error["relative"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-3)
    assert 1e-4 < error["relative"] < most
    assert 1 - most < error["cosine"] < 1
    with pytest.raises(StoreError, match=rf"was made with --precision {precision}, not float32;"):
        extract_features(images, out, **{**given, "precision": "float32"})
    assert extract_features(images, out, **given).computed == 0
    with open_store(out) as store:
        keys = store.attributes.get("calibration_keys")
        assert keys == (TRAINING if precision == "int8" else None)
    Image.new("RGB", (30, 20)).save(images / "train/cat/2.png")
    if precision == "int8":
        with pytest.raises(StoreError, match="the trunk was calibrated on, which have changed"):
            extract_features(images, out, **given, update=True)
    else:
        assert extract_features(images, out, **given, update=True).computed == 1


def test_int8_without_a_readable_training_image_is_refused(images: Path, tmp_path: Path) -> None:
    for path in (images / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(EngineError, match="no training image can be read to calibrate on"):
        extract_features(images, tmp_path / "out.h5", **GIVEN, precision="int8")
    assert not (tmp_path / "out.h5").exists()
