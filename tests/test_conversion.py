"""Trunks that Keras converts on OpenVINO, in a process without TensorFlow."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from extract.conversion import process
from extract.conversion.process import convert_apart
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import TrunkError
from extract.engines.openvino_cache import FILES, CompiledTrunk, convert, find_compiled, keep
from extract.engines.openvino_engine import OpenVinoEngine
from extract.engines.select import open_engine
from extract.trunks.backend import has_gpu, load_openvino
from extract.trunks.trunk import Trunk, build_trunk
from tests.conftest import QUICK, child_of
from tests.test_cli import QUICK_FLAGS
from tests.test_trunks_trunk import NOBODY

SPEC = TrunkSpec.from_dict(QUICK)

pytestmark = pytest.mark.skipif(process.HAS_OLD_KERAS, reason="Keras 3.14 converts on TensorFlow")
on_processor = pytest.mark.skipif(has_gpu(), reason="a GPU runs the trunk in Keras")


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Convert in another process though this one has loaded Keras; the folder of its files."""
    monkeypatch.setattr(process, "_is_worth_it", lambda spec: True)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def run(trunk: CompiledTrunk) -> tuple[np.ndarray, Counter[str]]:
    """Return the features of two images, and how many operations of each kind there are."""
    shape = (2, *trunk.spec.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    engine = OpenVinoEngine(trunk, "float32", 2, "float32", 0)
    ((_, found),) = engine.run([(None, pixels)])
    model = load_openvino().Core().read_model(trunk.folder / FILES[0])
    return found[trunk.spec.layer[0]], Counter(node.get_type_name() for node in model.get_ops())


def assert_same_as_from_tensorflow(trunk: Trunk) -> None:
    with convert_apart(trunk.spec) as converted:
        assert converted
        assert converted.weights_sha256 == trunk.weights_sha256
        found, operations = run(keep(converted.model, converted, trunk.spec))
    expected, wanted = run(convert(trunk))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    for kind in ("Convolution", "GroupConvolution", "Multiply", "Add", "Relu", "Clamp", "Concat"):
        assert operations[kind] == wanted[kind], kind
    # Of VGG16 and ResNet one more, of the pixels: the mean is subtracted with the channels last.
    assert operations["Transpose"] <= wanted["Transpose"] + 1


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])
def test_keras_converts_to_what_tensorflow_is_converted_to(name: str, apart: Path) -> None:
    assert_same_as_from_tensorflow(
        build_trunk(TrunkSpec(trunk=name, weights="none", image_size=(32, 32)))
    )


def test_several_layers_and_vectors_are_converted(apart: Path) -> None:
    layers = "conv_pw_1_relu", "conv_dw_2"
    spec = TrunkSpec(
        trunk="mobilenet", weights="none", layer=layers, pooling="none", image_size=(32, 32)
    )
    assert_same_as_from_tensorflow(build_trunk(spec))
    with convert_apart(spec) as converted:
        assert converted
        assert converted.shapes == {"conv_pw_1_relu": (16, 16, 64), "conv_dw_2": (8, 8, 64)}


# Whoever imports this package leaves a file.
TENSORFLOW = "import os; open(os.environ['IMPORTED'], 'w'); raise ImportError('no TensorFlow')"


@on_processor
def test_a_first_run_and_a_later_one_load_no_tensorflow(images: Path, tmp_path: Path) -> None:
    (tmp_path / "packages/tensorflow").mkdir(parents=True)
    (tmp_path / "packages/tensorflow/__init__.py").write_text(TENSORFLOW, newline="\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'packages')!r})\n"
        "from extract.cli import main as extract_features\n"
        "assert extract_features() == 0\n"
        "print(sorted({'keras', 'tensorflow', 'openvino'} & set(sys.modules)))"
    )
    imported, written = tmp_path / "imported", set()
    cache = {"HEADSTART_CACHE": str(tmp_path / "cache"), "IMPORTED": str(imported)}
    for name in ("cold.h5", "warm.h5"):
        ended = subprocess.run(
            [sys.executable, "-c", code, images, tmp_path / name, *QUICK_FLAGS, "-v"],
            env={**os.environ, **cache},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.stdout == "['openvino']\n", ended.stderr
        assert not imported.exists()
        (model,) = (tmp_path / "cache").glob("*/model.xml")
        assert "Keras on OpenVINO" in model.read_text()
        written.add(model.stat().st_mtime_ns)
    assert len(written) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"layer": ("conv1_rely",)},
        {"image_size": (16, 16)},
        {"weights": "none.h5"},
        {"weights": "damaged.h5"},
        {"weights": "imagenet", "image_size": (224, 224)},
    ],
)
def test_errors_are_those_of_building_it_here(
    change: dict[str, object], apart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    # Keras has read its home when it was loaded.
    monkeypatch.setenv("KERAS_HOME", str(Path("~/.keras").expanduser()))
    monkeypatch.setenv("https_proxy", NOBODY)
    monkeypatch.setattr("urllib.request._opener", None)  # it has read the variable before
    spec = TrunkSpec.from_dict({**QUICK, **change})
    with pytest.raises(TrunkError) as expected:
        build_trunk(spec)
    with pytest.raises(TrunkError) as found, convert_apart(spec):
        pass
    assert type(found.value) is type(expected.value)
    assert str(found.value) == str(expected.value)
    assert list(apart.iterdir()) == []


def test_a_conversion_that_is_killed_is_done_by_tensorflow(
    apart: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, log.name)
    killer = threading.Thread(
        target=lambda: child_of(psutil.Process(), "extract.conversion.child").kill()
    )
    killer.start()
    engine = open_engine(SPEC, engine="openvino")
    killer.join()
    assert engine.weights_sha256 == build_trunk(SPEC).weights_sha256
    compiled = find_compiled(SPEC)
    assert compiled
    assert "Keras on OpenVINO" not in (compiled.folder / FILES[0]).read_text()
    _building, message = caplog.messages
    assert message.startswith("mobilenet: not converted by Keras (")
    assert caplog.records[1].levelno == logging.DEBUG


def test_a_layer_that_is_not_known_is_left_to_tensorflow(apart: Path) -> None:
    spec = TrunkSpec(trunk="efficientnet_b0", weights="none", image_size=(32, 32))
    with convert_apart(spec) as converted:
        assert converted is None


@on_processor
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_after_its_command(
    number: signal.Signals, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "temporary").mkdir()
    folders = {"HEADSTART_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    code = "import sys; from extract.cli import main; sys.exit(main())"
    command = subprocess.Popen(
        [sys.executable, "-c", code, images, tmp_path / "out.h5", *QUICK_FLAGS],
        env={**os.environ, **folders},
        stderr=subprocess.PIPE,
        text=True,
    )
    child = child_of(psutil.Process(command.pid), "extract.conversion.child")
    time.sleep(0.3)  # it has read what to do, or not: either way
    command.send_signal(number)
    stderr = command.communicate()[1]
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    assert "Traceback" not in stderr
    assert command.returncode == (130 if number == signal.SIGINT else -number)
    until = time.monotonic() + 30
    while left := list((tmp_path / "temporary").glob("tmp*")):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_where_keras_is_loaded_or_runs_on_something_else_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(process, "has_gpu", lambda: False)
    assert process._is_worth_it(SPEC)
    assert not process._is_worth_it(TrunkSpec(trunk="convnext_tiny"))
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        assert not process._is_worth_it(SPEC)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "keras", object())
        patch.setattr(process, "backend_name", lambda: "tensorflow")
        assert not process._is_worth_it(SPEC)
    monkeypatch.setattr(process, "has_gpu", lambda: True)
    assert not process._is_worth_it(SPEC)
