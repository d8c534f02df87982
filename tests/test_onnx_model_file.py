"""ONNX files that are damaged, hostile or something else: one line each, and nothing is run."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from extract.api import list_layers
from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.engines.select import open_engine
from extract.onnx.model_file import read_model
from extract.onnx.trunk import build_here
from tests.conftest import child_of
from tests.test_onnx_trunk import FIRST, network, node, save

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Change = Callable[[Any], None]


def elsewhere(place: str) -> Change:
    """Say that the weights lie in another file."""

    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return change


def elsewhere_in_a_branch(model: Any) -> None:
    """Say so of a constant in a graph in a node in a graph."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32))
    tensor.external_data.add(key="location", value="../../etc/passwd")
    inner = helper.make_graph([node("Constant", "", "inner", value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["pixels"], ["chosen"], then_branch=inner))


def of_another_program(model: Any) -> None:
    model.graph.node[1].domain = "com.evil"


def in_a_function(model: Any) -> None:
    model.functions.add(name="again", domain="own").node.add(op_type="again", domain="own")


def without_end(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("Loop", ["pixels"], ["looped"], body=inner))


def huge_weights(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [10**6, 10**6, 3, 3]


def negative_weights(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [-5, -3, 3, 3]


def huge_values(model: Any) -> None:
    """Repeat a map until it takes terabytes."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 10**4, 10**4]), "many"))
    model.graph.node[1].input[0] = "tiled"
    model.graph.node.insert(1, node("Tile", "convolved many", "tiled"))


def huge_constant(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**5, 10**5, 100]), "size"))
    nodes = [node("ConstantOfShape", "size", "zeros"), node("ReduceMax", "zeros", "zero")]
    nodes.append(node("Reshape", "zero one", "none"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.node[1].input[0] = "sum"
    for place, each in enumerate([*nodes, node("Add", "convolved none", "sum")]):
        model.graph.node.insert(1 + place, each)


def depending_on_values(model: Any) -> None:
    """Give as many rows as the image has values that are not 0."""
    nodes = [
        node("NonZero", "convolved", "places"),
        node("Cast", "places", "floats", to=TensorProto.FLOAT),
        node("ReduceMax", "floats", "most", keepdims=0),
        node("Add", "convolved most", "sum"),
    ]
    for place, each in enumerate(nodes):
        model.graph.node.insert(1 + place, each)
    model.graph.node[5].input[0] = "sum"


def unknown_operator(model: Any) -> None:
    model.graph.node[1].op_type = "Rectify"


def two_images(model: Any) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "other"
    model.graph.node[1].input[0] = "both"
    model.graph.node.insert(1, node("ReduceMax", "other", "most", keepdims=1))
    model.graph.node.insert(2, node("Add", "convolved most", "both"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            elsewhere("/etc/passwd"),
            "found weights in another file, /etc/passwd, which is not read;",
        ),
        (
            elsewhere("../../etc/passwd"),
            r"in another file, ../../etc/passwd, which is not read; join",
        ),
        (
            elsewhere("model.onnx.data"),
            r"onnx.save\(onnx.load\(FILE\), NEW\), or export with external_",
        ),
        (
            elsewhere_in_a_branch,
            "found weights in another file, ../../etc/passwd, which is not read",
        ),
        (
            of_another_program,
            "found the operator com.evil.Relu of another program, which is not run",
        ),
        (in_a_function, "found the function again; write its functions into its graph with onnx"),
        (without_end, "found a loop, Loop, which is not run; expected a model in ONNX with one"),
        (huge_weights, "found 36,000,000,000,128 bytes in a file of 1,016; at most 268,45"),
        (
            negative_weights,
            r"found weights of the shape \(-5, -3, 3, 3\); expected a model in ONNX",
        ),
        (huge_values, "tiled needs 192.0 GB for an image; at most 2.1 GB are computed; use a"),
        (huge_constant, "zeros needs 4000.0 GB for an image; at most 2.1 GB are computed; use a"),
        (depending_on_values, "has no fixed size; expected a size that does not depend on what is"),
        (unknown_operator, "OpenVINO cannot convert these operators, or their inputs: Rectify"),
        (
            two_images,
            r"its input is pixels \(any, 3, 16, 24\), other \(any, 3, 16, 24\); expected one",
        ),
    ],
)
def test_a_hostile_model_is_refused_in_one_line(
    tmp_path: Path, change: Change, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "model.onnx")
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrunkError, match=problem) as caught:
        build_here(TrunkSpec("model.onnx", preprocess="clip"))
    assert str(caught.value).startswith("model.onnx: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "found no graph, so it is damaged or no ONNX; expected a model in ONNX"),
        (b"PK\x03\x04 a zip", "damaged, truncated or no ONNX; expected a model in ONNX"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "damaged, truncated or no ONNX; expected"),
        (b"version https://git-lfs.github.com/spec/v1\n", "damaged, truncated or no ONNX; exp"),
    ],
)
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(TrunkError, match=problem):
        read_model(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx")
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(TrunkError, match=r"expected .*(ONNX|one image|a vector)"):
            build_here(TrunkSpec(str(path), preprocess="clip"))


def test_a_model_that_crashes_openvino_costs_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx")
    model = onnx.load(path)
    pool = next(each for each in model.graph.node if each.op_type == "GlobalAveragePool")
    pool.ClearField("input")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TrunkError, match=r"model.onnx: OpenVINO c.*; expected a model in ONNX"):
        open_engine(TrunkSpec(str(path), preprocess="clip"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_kill_is_not_called_a_crash(tmp_path: Path, temporary: Path) -> None:
    killer = threading.Thread(target=lambda: child_of(psutil.Process(), "extract.onnx").kill())
    killer.start()
    problem = r"model.onnx: the process that reads it is killed \(signal 9\); expected memory for"
    with pytest.raises(TrunkError, match=problem):
        list_layers(save(tmp_path / "model.onnx"))
    killer.join()
    assert list(temporary.iterdir()) == []


def test_a_failure_of_python_is_not_called_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('another json')", newline="\n")
    monkeypatch.syspath_prepend(tmp_path)
    problem = r"reads it fails \(ImportError: another json\); expected it to start as this one did"
    with pytest.raises(TrunkError, match=problem):
        list_layers(save(tmp_path / "model.onnx"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_no_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to("/proc/self/mem")
    with pytest.raises(TrunkError, match=r"cannot be read \(Input/output error\); expected a"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_after_its_command(
    number: signal.Signals, tmp_path: Path, temporary: Path
) -> None:
    path = save(tmp_path / "model.onnx")
    code = "import sys; from extract.cli import main; sys.exit(main())"
    command = subprocess.Popen(
        [sys.executable, "-c", code, "--list-layers", "--trunk", path],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child = child_of(psutil.Process(command.pid), "extract.onnx")
    time.sleep(0.3)  # it has been asked
    command.send_signal(number)
    command.communicate()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert list(temporary.glob("tmp*")) == []


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name in ("none.onnx", "folder.onnx"):
        with pytest.raises(TrunkError, match=f"{name}: no such file; expected a model in ONNX"):
            read_model(tmp_path / name)
    with pytest.raises(TrunkError, match="a URL; expected a path on this machine; fetch the file"):
        read_model(Path("https://example.org/model.onnx"))


def test_without_the_package_onnx_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(TrunkError, match=r'needs onnx; pip install "headstart\[onnx\]"'):
        read_model(save(tmp_path / "model.onnx"))


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", network, FIRST)
    assert read_model(path)[1] == hashlib.sha256(path.read_bytes()).hexdigest()
