"""The trunk as an OpenVINO model, converted once and kept in the user's cache folder.

A kept model carries everything that decided it and digests of its own files. Whatever does not
agree with them to the byte is made anew, never trusted.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from extract.core.applications import TRUNKS
from extract.core.atomic import remove
from extract.core.config import IN_MODEL, TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError
from extract.trunks.backend import load_openvino
from extract.trunks.trunk import Trunk

FORMAT_VERSION = 1
# Whatever has a hand in the numbers of a converted model.
_MAKERS = ("headstart", "keras", "tensorflow", "openvino")
FILES = ("model.xml", "model.bin")
# What the names of files begin with that are being made, and when they no longer are.
_NEW, _STALE_SECONDS = ".new-", 86400.0


@dataclass(frozen=True)
class CompiledTrunk:
    """A converted trunk on disk.

    Attributes:
        spec: What it was made from.
        folder: Where ``model.xml`` and ``model.bin`` are.
        shapes: Shape of one image's features, by layer.
        weights_sha256: See ``Trunk``.
    """

    spec: TrunkSpec
    folder: Path
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str


def find_compiled(spec: TrunkSpec, calibration_digest: str = "") -> CompiledTrunk | None:
    """Look a converted trunk up in the cache, without Keras.

    Args:
        spec: The trunk.
        calibration_digest: Which int8 version of it; empty for the plain one.

    Returns:
        The trunk; None where there is none, or one that is damaged or of another origin.
    """
    if not spec.is_complete:
        known = _recall(spec)
        return find_compiled(known, calibration_digest) if known else None
    identity = _identity(spec, calibration_digest)
    folder = _folder(identity)
    try:
        described = json.loads((folder / "trunk.json").read_bytes())
        sound = described["identity"] == identity and described["files"] == _digests(folder)
        shapes = {name: tuple(shape) for name, shape in described["shapes"].items()}
        found = CompiledTrunk(spec, folder, shapes, described["weights_sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        log.info("%s: damaged; making it anew", folder)
        return None
    return found


def convert(trunk: Trunk, asked: TrunkSpec | None = None) -> CompiledTrunk:
    """Convert a Keras trunk and keep it.

    Args:
        trunk: Built on TensorFlow, the one backend whose models are converted here.
        asked: The spec that it was built from, where that left open what the trunk's own settles.

    Returns:
        The converted trunk.

    Raises:
        EngineError: OpenVINO cannot convert it.
    """
    openvino = load_openvino()
    try:
        with warnings.catch_warnings():
            # Keras says that OpenVINO's tracer passes a tuple of one input.
            warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
            model = openvino.convert_model(trunk.model)
    except Exception as error:
        raise EngineError(
            f"{trunk.spec.trunk}: OpenVINO cannot convert it ({str(error).splitlines()[0]}); use "
            "--engine keras"
        ) from error
    if asked and not asked.is_complete:
        _remember(asked, trunk.spec)
    return _keep(model, _identity(trunk.spec, ""), trunk.spec, trunk.shapes, trunk.weights_sha256)


def cache_folder() -> Path:
    """Return the folder of converted trunks; whatever is in it can be removed at any time."""
    from platformdirs import user_cache_path

    named = os.environ.get("HEADSTART_CACHE")
    return Path(named) if named else user_cache_path("headstart", appauthor=False)


def _make_folder() -> Path:
    """Make the cache's folder, and clear in it what killed runs have left half.

    By age: machines that share a home know nothing of each other's processes.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):  # another run clears as well
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                remove(path)
    return folder


def _identity(spec: TrunkSpec, calibration_digest: str) -> dict[str, Any]:
    """Return all that decides a converted trunk, as JSON holds it."""
    described = {k: v for k, v in spec.to_dict().items() if k not in ("resize", "interpolation")}
    makers = (*_MAKERS, "nncf") if calibration_digest else _MAKERS
    for name in ("trunk", "weights"):
        # Keras pins its own files; of a user's file only the content counts.
        file = Path(described[name])
        if described[name] not in (*TRUNKS, "imagenet", "none", IN_MODEL) and file.is_file():
            described[name] = _digest(file)
    return {
        **described,
        "calibration": calibration_digest,
        "format_version": FORMAT_VERSION,
        "made_by": {name: _version(name) for name in makers},
    }


def _asked_file(asked: TrunkSpec) -> Path:
    """Return the file that remembers what a spec that leaves something open was settled to."""
    return _folder(_identity(asked, "")).with_suffix(".json")


def _remember(asked: TrunkSpec, settled: TrunkSpec) -> None:
    file = _asked_file(asked)
    described = {"identity": _identity(asked, ""), "settled": settled.to_dict()}
    with contextlib.suppress(OSError):  # a cache that cannot be written costs only time
        beside = Path(_make_folder(), f"{_NEW}{file.stem}-{os.getpid()}")
        beside.write_text(json.dumps(described, indent=2))
        beside.replace(file)


def _recall(asked: TrunkSpec) -> TrunkSpec | None:
    try:
        described = json.loads(_asked_file(asked).read_bytes())
        settled = TrunkSpec.from_dict(described["settled"])
        sound = settled.is_complete and described["identity"] == _identity(asked, "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # How images are resized, and where files are, is as it is asked now.
    kept = {name: getattr(settled, name) for name in ("layer", "pooling", "image_size")}
    return replace(asked, **kept) if sound else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _folder(identity: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{Path(identity['trunk']).stem[:32]}-{key[:16]}"


def _keep(
    model: Any,
    identity: dict[str, Any],
    spec: TrunkSpec,
    shapes: dict[str, tuple[int, ...]],
    weights_sha256: str,
) -> CompiledTrunk:
    """Write a model beside its place in the cache, then move it there as a whole."""
    openvino = load_openvino()
    folder = _folder(identity)
    try:
        beside = Path(tempfile.mkdtemp(dir=_make_folder(), prefix=_NEW))
    except OSError:
        # A home that cannot be written: this run works, the next one converts again.
        beside = folder = Path(tempfile.mkdtemp(prefix="headstart-"))
    openvino.save_model(model, beside / FILES[0], compress_to_fp16=False)
    described = {
        "identity": identity,
        "shapes": shapes,
        "weights_sha256": weights_sha256,
        "files": _digests(beside),
    }
    (beside / "trunk.json").write_text(json.dumps(described, indent=2))
    if beside != folder:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.rename(beside, folder)
        except OSError:  # another process was first, with the same model
            shutil.rmtree(beside, ignore_errors=True)
    return CompiledTrunk(spec, folder, shapes, weights_sha256)


def _digests(folder: Path) -> dict[str, str]:
    return {name: _digest(folder / name) for name in FILES}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
