"""Build a trunk from an ONNX file, or list its layers, in a process of its own.

OpenVINO crashes on some damaged models. What comes back has been read, cut and run there once, and
is in OpenVINO's own format.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.core.applications import ListedLayer
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import TrunkError, first_line
from extract.onnx.cuts import list_cuts
from extract.onnx.trunk import OnnxTrunk, build_here
from extract.trunks.backend import load_openvino

# ImageNet has as many classes.
_CLASSES = (1000,)
_MODEL, _SPEC, _ANSWER = "model.xml", "spec.json", "answer.json"


def build_onnx_trunk(spec: TrunkSpec) -> OnnxTrunk:
    """Read an ONNX file, cut it at the chosen layers, and put pixels before it, pooling behind.

    Raises:
        TrunkError: See ``trunk.build_here``; or OpenVINO crashes on the file.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settled, shapes, digest, notes = _run("build", spec, Path(folder))
        # From memory, so that no file in the folder stays open.
        weights = Path(folder, _MODEL).with_suffix(".bin").read_bytes()
        model = load_openvino().Core().read_model(Path(folder, _MODEL).read_bytes(), weights)
    for note in notes:
        log.info("%s: %s", spec.trunk, note)
    built = TrunkSpec.from_dict(settled)
    features = {name: tuple(shape) for name, shape in shapes.items()}
    if not spec.layer and [*features.values()] == [_CLASSES]:
        found = (
            f"its output {built.layer[0]} gives 1,000 values, perhaps scores of ImageNet's classes"
        )
        log.warning("%s: %s; --list-layers shows the layers below", spec.trunk, found)
    return OnnxTrunk(built, model, features, digest, notes)


def list_layers(spec: TrunkSpec) -> list[ListedLayer]:
    """List the outputs that an ONNX model can be cut at; see ``trunk.list_layers`` of Keras."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        layers = _run("list", spec, Path(folder))
    return [ListedLayer(number, name, tuple(shape)) for number, name, shape in layers]


def _run(task: str, spec: TrunkSpec, folder: Path) -> Any:
    """Do a task in another process and return its answer."""
    (folder / _SPEC).write_bytes(json.dumps([task, spec.to_dict()]).encode())
    # -P: import nothing from the folder of the stranger's file.
    words = [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(folder)]
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    child = subprocess.run(words, capture_output=True, env=environment, check=False)
    try:
        error, answer = json.loads((folder / _ANSWER).read_bytes())
    except FileNotFoundError:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said and child.returncode > 0 else f"it ends with {child.returncode}"
        problem = f"OpenVINO crashes on it ({reason[:200]}); expected a model in ONNX"
        raise TrunkError(f"{spec.trunk}: {problem}; export it again") from None
    if error:
        raise TrunkError(error)
    return answer


def _build(spec: TrunkSpec, folder: Path) -> Any:
    built = build_here(spec)
    load_openvino().save_model(built.model, folder / _MODEL, compress_to_fp16=False)
    return built.spec.to_dict(), built.shapes, built.weights_sha256, built.notes


def _list(spec: TrunkSpec, _: Path) -> Any:
    return list_cuts(spec)


_TASKS: dict[str, Callable[[TrunkSpec, Path], Any]] = {"build": _build, "list": _list}


def _serve(folder: Path) -> None:
    """Do the task in a folder, and leave the answer there."""
    task, values = json.loads((folder / _SPEC).read_bytes())
    spec, error, answer = TrunkSpec.from_dict(values), "", None
    try:
        answer = _TASKS[task](spec, folder)
    except TrunkError as problem:
        error = str(problem)
    except (MemoryError, RuntimeError) as problem:  # OpenVINO's, over what nobody thought of
        error = f"{spec.trunk}: OpenVINO cannot run it ({first_line(problem)[:200]})"
    (folder / _ANSWER).write_bytes(json.dumps([error, answer]).encode())


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
