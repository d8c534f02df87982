"""Build a trunk from an ONNX file, or list its layers, in a process of its own.

OpenVINO crashes on some damaged models. What comes back has been read, cut and run there once, and
is in OpenVINO's own format.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.conversion.child import MODEL, serve
from extract.conversion.process import ask
from extract.core.applications import ListedLayer
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import TrunkError, first_line
from extract.onnx.cuts import list_cuts
from extract.onnx.trunk import OnnxTrunk, build_here
from extract.trunks.backend import load_openvino

# ImageNet has as many classes.
_CLASSES = (1000,)
_STDERR = "stderr.txt"
# Linux ends the process that takes most of the memory with the first, and a container may with the
# second.
_KILLED = (-9, -15)


def build_onnx_trunk(spec: TrunkSpec) -> OnnxTrunk:
    """Read an ONNX file, cut it at the chosen layers, and put pixels before it, pooling behind.

    Raises:
        TrunkError: See ``trunk.build_here``; or OpenVINO crashes on the file.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settled, shapes, digest, notes = _run("build", spec, Path(folder))
        # From memory, so that no file in the folder stays open.
        weights = Path(folder, MODEL).with_suffix(".bin").read_bytes()
        model = load_openvino().Core().read_model(Path(folder, MODEL).read_bytes(), weights)
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
    start = f"from extract.onnx.build import serve_task; serve_task({task!r})"
    with (folder / _STDERR).open("wb") as stderr:
        answer = ask(start, spec, folder, stderr)
    if "problem" in answer:
        said = (folder / _STDERR).read_text(errors="replace").strip().splitlines()
        raise TrunkError(f"{spec.trunk}: {_explain(answer['ended'], said, answer['problem'])}")
    if answer["error"]:
        raise TrunkError(answer["error"])
    return answer["found"]


def _explain(ended: int | None, said: list[str], problem: str) -> str:
    """Say why a process has given no answer."""
    if ended in (None, 0, 1):  # it could not start, or Python ended it
        reason = said[-1] if said else problem
        expected = "expected it to start as this one did; check the installation"
        return f"the process that reads it fails ({reason[:200]}); {expected}"
    if ended in _KILLED:
        expected = "expected memory for the model; close other programs, or use a smaller model"
        return f"the process that reads it is killed (signal {-ended}); {expected}"
    expected = "expected a model in ONNX; export it again"
    return f"OpenVINO crashes on it (it ends with {ended}); {expected}"


def _build(spec: TrunkSpec, folder: Path) -> Any:
    built = build_here(spec)
    load_openvino().save_model(built.model, folder / MODEL, compress_to_fp16=False)
    return built.spec.to_dict(), built.shapes, built.weights_sha256, built.notes


def _list(spec: TrunkSpec, _: Path) -> Any:
    return list_cuts(spec)


_TASKS: dict[str, Callable[[TrunkSpec, Path], Any]] = {"build": _build, "list": _list}


def serve_task(task: str) -> None:
    """Do a task in the process that ``ask`` has started."""

    def work(spec: TrunkSpec, folder: Path) -> dict[str, Any]:
        error, found = "", None
        try:
            found = _TASKS[task](spec, folder)
        except TrunkError as problem:
            error = str(problem)
        except (MemoryError, RuntimeError) as problem:  # OpenVINO's, over what nobody thought of
            error = f"{spec.trunk}: OpenVINO cannot run it ({first_line(problem)[:200]})"
        return {"error": error, "found": found}

    serve(work)
