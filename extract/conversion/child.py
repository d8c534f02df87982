"""The process that converts a trunk; ``process`` starts it with ``KERAS_BACKEND=openvino``."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

from extract.core.config import TrunkSpec
from extract.core.errors import HeadstartError, first_line
from extract.trunks import configuration
from extract.trunks.backend import fuse_operations, load_keras, load_openvino

MODEL, ANSWER = "model.xml", "answer.json"
# Packages that Keras loads where they are installed, and that no trunk needs: two thirds of the
# time of its import. TensorFlow is among them so that nothing can load it.
_UNUSED = ("IPython", "cv2", "grain", "jax", "matplotlib", "pandas", "sklearn", "tensorflow")


def main() -> None:
    """Convert the trunk that the parent asks for."""
    serve(_answer)


def serve(work: Callable[[TrunkSpec, Path], dict[str, Any]]) -> None:
    """Read a folder and a spec from stdin, and write the answer of some work into the folder.

    The process ends here, or with its parent, whose folder it then removes.
    """
    if not (request := sys.stdin.readline()):
        return  # the parent has ended
    place, settings = json.loads(request)
    folder = Path(place)
    Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    answer = work(TrunkSpec.from_dict(settings), folder)
    written = folder / f"written_{ANSWER}"
    written.write_text(json.dumps(answer), encoding="utf-8", newline="\n")
    written.replace(folder / ANSWER)
    os._exit(0)


def _answer(spec: TrunkSpec, folder: Path) -> dict[str, Any]:
    try:
        return _convert(spec, folder / MODEL)
    except Exception as error:  # of versions that do not fit, Keras and OpenVINO raise anything
        return {"problem": f"{type(error).__name__}: {first_line(error)}"}


def _end_with_parent(folder: Path) -> None:
    """End, without leaving files, when the end of the parent closes stdin."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _convert(spec: TrunkSpec, path: Path) -> dict[str, Any]:
    """Convert a trunk, and return its facts, or the error that the user is to see."""
    _load_keras()
    from extract.trunks.trunk import build_trunk

    try:
        trunk = build_trunk(spec)
    except HeadstartError as error:
        return {"error": [type(error).__name__, str(error)]}
    _export(trunk.model, path)
    facts = {"spec": trunk.spec.to_dict(), "shapes": trunk.shapes}
    return {**facts, "weights_sha256": trunk.weights_sha256}


def _load_keras() -> None:
    sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]
    # Keras imports it for spectra only, which takes as long as all of Keras.
    sys.modules["scipy.signal"] = ModuleType("scipy.signal")
    load_openvino()
    configuration.BACKENDS = (*configuration.BACKENDS, "openvino")
    load_keras()


def _export(model: Any, path: Path) -> None:
    from extract.conversion.channels_first import put_channels_first

    openvino = load_openvino()
    exported = path.with_name(f"exported_{path.name}")
    put_channels_first(model).export(str(exported), format="openvino", verbose=False)
    converted = openvino.Core().read_model(exported)
    fuse_operations(converted)
    converted.set_rt_info("Keras on OpenVINO", ["headstart", "converter"])
    openvino.save_model(converted, path, compress_to_fp16=False)
