"""Trunks converted to OpenVINO in a process of their own.

Keras runs on one backend in a process. On TensorFlow its import and the conversion take most of the
time before the first image. So where this process has not loaded Keras yet, another one loads it
on OpenVINO, builds the trunk with the same code and exports it. The graphs are as fast as those
from TensorFlow, and features differ by rounding.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from extract.conversion.child import ANSWER, MODEL
from extract.core import errors
from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.trunks.backend import has_gpu, load_openvino
from extract.trunks.configuration import backend_name, installed_version

# Modules of ``TRUNKS`` whose graphs have no more operations than from TensorFlow, but for one of
# the pixels, are as fast within 3 %, and give features within 1e-5 of their size.
FAMILIES = (
    *("densenet", "efficientnet_lite", "inception_resnet_v2", "inception_v3", "mobilenet"),
    *("mobilenet_v2", "nasnet", "resnet", "resnet_v2", "vgg16", "vgg19", "xception"),
)
# Depthwise convolutions of Keras 3.14 on OpenVINO need the channels last.
HAS_OLD_KERAS = installed_version("keras").startswith("3.14.")
_START = "from extract.conversion.child import main; main()"


class Conversion(NamedTuple):
    """A converted trunk; see ``Trunk`` for spec, shapes and digest, ``model`` is OpenVINO's."""

    spec: TrunkSpec
    model: Any
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str


@contextmanager
def convert_apart(spec: TrunkSpec) -> Iterator[Conversion | None]:
    """Convert a trunk without loading Keras in this process.

    Args:
        spec: The trunk.

    Yields:
        The converted trunk, whose files live until the end of the block. None if it must be
        converted from TensorFlow.

    Raises:
        TrunkError: See ``build_trunk``.
    """
    if not _is_worth_it(spec):
        yield None
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Only a terminal gets the report of a download.
        stderr = None if sys.stderr.isatty() else subprocess.DEVNULL
        answer = ask(_START, spec, Path(folder), stderr, KERAS_BACKEND="openvino")
        if "error" in answer:
            kind, message = answer["error"]
            raise getattr(errors, kind)(message)
        if "problem" in answer:
            reason = answer["problem"]
            log.debug("%s: not converted by Keras (%s); using TensorFlow", spec.trunk, reason)
            yield None
            return
        model = load_openvino().Core().read_model(Path(folder, MODEL))
        shapes = {name: tuple(shape) for name, shape in answer["shapes"].items()}
        settled = TrunkSpec.from_dict(answer["spec"])
        yield Conversion(settled, model, shapes, answer["weights_sha256"])


def _is_worth_it(spec: TrunkSpec) -> bool:
    """Return whether Keras is not loaded here, and would be loaded on TensorFlow to convert."""
    is_known = spec.trunk in TRUNKS and TRUNKS[spec.trunk].module in FAMILIES
    is_free = "keras" not in sys.modules and not HAS_OLD_KERAS
    return is_known and is_free and backend_name() == "tensorflow" and not has_gpu()


def ask(
    start: str, spec: TrunkSpec, folder: Path, stderr: Any, **environment: str
) -> dict[str, Any]:
    """Run a process of ``child.serve``, which ends with this one, and return its answer.

    Args:
        start: Its code.
        spec: The trunk.
        folder: Where it may write.
        stderr: Where its stderr goes, see ``subprocess``.
        environment: What is different in its environment.

    Returns:
        The answer; without one, the ``problem`` and the code with which the process ``ended``.
    """
    code = f"import sys; sys.path[:] = {list(map(str, sys.path))}; {start}"
    words = [sys.executable, "-P", "-W", "ignore", "-c", code]
    # Ctrl-C is for this process, which ends the other.
    settings: dict[str, Any] = {"start_new_session": True, "encoding": "utf-8"}
    settings |= {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": stderr}
    child: Any = None
    try:
        with subprocess.Popen(words, env={**os.environ, **environment}, **settings) as child:
            _wait(child, json.dumps([str(folder), spec.to_dict()]))
        answer: dict[str, Any] = json.loads((folder / ANSWER).read_bytes())
    except (OSError, ValueError) as error:  # it could not start, or was killed
        return {"problem": f"{error}", "ended": getattr(child, "returncode", None)}
    return answer


def _wait(child: "subprocess.Popen[str]", request: str) -> None:
    """Wait until a process has ended, or end it where this one is interrupted."""
    try:
        if child.stdin:
            child.stdin.write(f"{request}\n")
            child.stdin.flush()
        child.wait()
    except BaseException:
        child.kill()
        raise
