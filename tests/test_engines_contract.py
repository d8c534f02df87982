"""Every engine against Keras' own predict on the same trunk, on every backend at hand."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.core.config import TrunkSpec
from extract.core.errors import EngineError
from extract.engines.base import Engine
from extract.engines.keras_engine import KerasEngine
from extract.engines.openvino_cache import find_compiled
from extract.engines.openvino_engine import CAPABILITIES
from extract.engines.quantize import Calibration
from extract.engines.select import open_engine
from extract.trunks.backend import load_keras, on_gpu
from extract.trunks.trunk import Trunk, build_trunk

LAYERS = ("conv1_relu", "conv_pw_1_relu")
PIXELS = np.random.default_rng(0).integers(0, 256, (11, 40, 40, 3), dtype=np.uint8)


SPEC = TrunkSpec(trunk="mobilenet", weights="none", layer=LAYERS, image_size=(40, 40))


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return build_trunk(SPEC)


def run(engine: Engine, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Run the images in batches of these sizes; batches may come back in any order."""
    cuts = np.cumsum(sizes)[:-1]
    parts = zip(np.split(np.arange(len(PIXELS)), cuts), np.split(PIXELS, cuts), strict=True)
    found = {name: np.zeros((len(PIXELS), *shape)) for name, shape in engine.shapes.items()}
    for rows, features in engine.run(parts):
        for name, values in features.items():
            found[name][rows] = values
    return found


@pytest.mark.parametrize("kind", ["keras", "openvino"])
@pytest.mark.parametrize("sizes", [(4, 4, 3), (11,), (1,) * 11])
def test_engine_equals_predict(trunk: Trunk, kind: str, sizes: tuple[int, ...]) -> None:
    engine = open_engine(SPEC, batch_size=max(4, *sizes), engine=kind)
    assert (engine.name, engine.weights_sha256) == (kind, trunk.weights_sha256)
    found = run(engine, sizes)
    for layer, values in zip(LAYERS, trunk.model.predict(PIXELS, verbose=0), strict=True):
        np.testing.assert_allclose(found[layer], values, atol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "openvino"])
@pytest.mark.parametrize("images", [1, 3])
def test_no_batch_is_larger_than_there_are_images(trunk: Trunk, kind: str, images: int) -> None:
    engine = open_engine(SPEC, engine=kind, images=images)
    assert engine.batch_size == images
    assert open_engine(SPEC, batch_size=2, engine=kind, images=images).batch_size <= 2
    ((_, found),) = engine.run([(None, PIXELS[:images])])
    for layer, values in zip(LAYERS, trunk.model.predict(PIXELS[:images], verbose=0), strict=True):
        np.testing.assert_allclose(found[layer], values, atol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "openvino"])
def test_float16_is_cast_by_the_engine(kind: str) -> None:
    engine = open_engine(SPEC, "float16", 4, kind)
    (_, features), *_ = engine.run([(None, PIXELS[:4])])
    assert features["conv1_relu"].dtype == np.float16


def capabilities() -> list[str]:
    import openvino

    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@pytest.mark.parametrize("kind", ["keras", "openvino"])
def test_bfloat16_is_near_float32_and_not_equal(kind: str) -> None:
    if kind == "openvino" and "BF16" not in capabilities():
        pytest.skip("this processor has no bfloat16 instructions")
    exact = run(open_engine(SPEC, batch_size=11, engine=kind), (11,))
    engine = open_engine(SPEC, batch_size=11, engine=kind, precision="bfloat16")
    found = run(engine, (11,))
    for layer in LAYERS:
        error = np.linalg.norm(found[layer] - exact[layer]) / np.linalg.norm(exact[layer])
        assert 1e-5 < error < 0.03


def test_a_precision_without_instructions_is_refused() -> None:
    lacking = [name for name, word in CAPABILITIES.items() if word not in capabilities()]
    for precision in lacking:
        with pytest.raises(EngineError, match=f"precision {precision}: this processor has no"):
            open_engine(SPEC, precision=precision, engine="openvino")
    assert set(CAPABILITIES) - set(lacking), "no low precision at all: the test says nothing"


def test_int8_is_calibrated_and_kept() -> None:
    pytest.importorskip("nncf")
    calibration = Calibration(tuple("abcdefghijk"), PIXELS)
    exact = run(open_engine(SPEC, batch_size=11, engine="openvino"), (11,))
    for _ in range(2):
        engine = open_engine(
            SPEC, batch_size=11, precision="int8", calibrate=lambda spec: calibration
        )
        assert engine.calibration_keys == tuple("abcdefghijk")
        found = run(engine, (11,))
        for layer in LAYERS:
            error = np.linalg.norm(found[layer] - exact[layer]) / np.linalg.norm(exact[layer])
            assert 1e-4 < error < 0.2
    assert find_compiled(SPEC, calibration.digest)
    assert not find_compiled(SPEC, "0" * 64)


def test_the_extra_that_int8_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    calibration = Calibration(("a",), PIXELS[:1])
    with pytest.raises(EngineError, match=r'pip install "headstart\[int8\]", or use bfloat16'):
        open_engine(SPEC, precision="int8", calibrate=lambda spec: calibration)


def test_auto_takes_keras_on_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine(SPEC).name == ("keras" if on_gpu() else "openvino")
    monkeypatch.setattr("extract.engines.select.backend_name", lambda: "jax")
    assert open_engine(SPEC).name == "keras"


def test_a_trunk_that_does_not_convert_runs_in_keras(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(model: Any) -> None:
        raise RuntimeError("no such operation\nand a long story")

    monkeypatch.setattr("openvino.convert_model", refuse)
    spec = TrunkSpec(trunk="mobilenet", weights="none", layer=("conv1",), image_size=(40, 40))
    with caplog.at_level("INFO", "headstart"):
        assert open_engine(spec).name == "keras"
    assert "OpenVINO cannot convert it (no such operation)" in caplog.text
    with pytest.raises(EngineError, match=r"cannot convert it .*use --engine keras"):
        open_engine(spec, engine="openvino")


class SmallDevice:
    """A device whose memory holds ``holds`` images; counts the calls that fitted."""

    def __init__(self, engine: KerasEngine, holds: int) -> None:
        self.engine, self.holds, self.calls = engine, holds, 0

    def compile(self, model: Any, dtype: str, batch_size: int) -> Any:
        import tensorflow as tf

        def call(pixels: np.ndarray) -> list[Any]:
            if batch_size > self.holds:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            self.calls += 1
            return [np.asarray(output) for output in model(pixels, training=False)]

        return call


@pytest.mark.parametrize(("holds", "sizes"), [(3, (8, 3)), (1, (8, 3))])
def test_batches_are_halved_when_memory_runs_out(
    trunk: Trunk, holds: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = KerasEngine(trunk, "float32", 8)
    device = SmallDevice(engine, holds)
    monkeypatch.setattr("extract.trunks.compiled.compile_model", device.compile)
    engine._call = device.compile(trunk.model, "float32", 8)
    expected = trunk.model.predict(PIXELS, verbose=0)
    found = run(engine, sizes)
    assert engine.batch_size <= holds
    for layer, values in zip(LAYERS, expected, strict=True):
        np.testing.assert_allclose(found[layer], values, atol=1e-5)


def test_an_image_that_fits_no_memory_is_an_error(
    trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = KerasEngine(trunk, "float32", 2)
    device = SmallDevice(engine, 0)
    monkeypatch.setattr("extract.trunks.compiled.compile_model", device.compile)
    engine._call = device.compile(trunk.model, "float32", 2)
    with pytest.raises(EngineError, match="does not hold one image"):
        run(engine, (2, 2, 2, 2, 2, 1))


def test_another_error_is_not_taken_for_memory(trunk: Trunk) -> None:
    engine = KerasEngine(trunk, "float32", 4)
    with pytest.raises(Exception, match=r"(?i)shape|signature"):
        list(engine.run([(None, PIXELS[:4, :20])]))
    assert engine.batch_size == 4


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_the_same_features(
    trunk: Trunk, tmp_path: Path, backend: str
) -> None:
    if backend == load_keras().backend.backend():
        pytest.skip("this process is that backend")
    pytest.importorskip("jax") if backend == "jax" else _skip_without_torch()
    code = (
        "import sys, numpy as np; from extract.core.config import TrunkSpec\n"
        "from extract.engines.select import open_engine\n"
        "pixels = np.load(sys.argv[1])\n"
        "spec = TrunkSpec(trunk='mobilenet', weights='none', image_size=(40, 40),\n"
        f"                 layer={LAYERS})\n"
        "engine = open_engine(spec, 'float32', 11)\n"
        "(_, features), = engine.run([(None, pixels)])\n"
        "np.savez(sys.argv[2], digest=engine.weights_sha256, **features)\n"
        "print(sorted({'tensorflow', 'jax', 'torch'} & set(sys.modules)))\n"
    )
    np.save(tmp_path / "pixels.npy", PIXELS)
    child = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "pixels.npy", tmp_path / "features.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert backend in child.stdout
    found = np.load(tmp_path / "features.npz")
    assert str(found["digest"]) == trunk.weights_sha256
    for layer, values in zip(LAYERS, trunk.model.predict(PIXELS, verbose=0), strict=True):
        np.testing.assert_allclose(found[layer], values, atol=1e-4)


def _skip_without_torch() -> None:
    # Looked for, not imported: beside TensorFlow in one process it can crash.
    from importlib.util import find_spec

    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")


def test_ctrl_c_is_not_swallowed_by_an_import() -> None:
    # In a process of its own: behind a test in int8 a signal was seen to crash the tests' process,
    # where pytest's handler of faults has given signals a stack of their own.
    code = """
import signal
from extract.trunks.backend import delay_interrupt

try:
    with delay_interrupt():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:  # as a library may do
            print("swallowed")
        print("loaded")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "loaded\ninterrupted True\n"
