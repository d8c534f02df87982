"""Trunks converted to OpenVINO, in the user's cache folder.

A converted trunk is stored with everything that determines it and with digests of its files. If
any of these differs, the trunk is converted again. Whoever can write to it decides the features, so
one that another user has made or can change is believed only if its digest was named.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from extract.core.applications import TRUNKS
from extract.core.atomic import cache_write
from extract.core.config import BEFORE, IN_MODEL, PIXEL_SETTINGS, TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError, first_line
from extract.families.hub_presets import read_preset
from extract.trunks.backend import convert_to_openvino, load_openvino
from extract.trunks.configuration import installed_version

if TYPE_CHECKING:
    from extract.conversion.process import Conversion
    from extract.onnx.trunk import OnnxTrunk
    from extract.trunks.trunk import Trunk

FORMAT_VERSION = 1
# The right of the group and of all others to write.
_OTHERS_WRITE = 0o022
FILES = ("model.xml", "model.bin")
# The packages that determine the numbers of a converted model.
_PACKAGES = ("headstart", "keras", "tensorflow", "openvino")
# What reading a damaged JSON file of the cache can raise.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class CompiledTrunk:
    """A converted trunk on disk.

    Attributes:
        spec: The settings of the trunk.
        folder: The folder of ``model.xml`` and ``model.bin``.
        shapes: Shape of one image's features, by layer.
        weights_sha256: See ``Trunk``.
        calibration_sha256: Digest of the images that int8 was calibrated on; empty without int8.
        calibration_keys: Keys of those images, if they are at hand.
    """

    spec: TrunkSpec
    folder: Path
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str
    calibration_sha256: str = ""
    calibration_keys: tuple[str, ...] = ()


def find_compiled(spec: TrunkSpec, calibration_digest: str = "") -> CompiledTrunk | None:
    """Find a converted trunk in the cache, without loading Keras.

    Args:
        spec: The trunk.
        calibration_digest: Digest of the images that its int8 version was calibrated on; empty for
            the float32 version.

    Returns:
        The trunk; None if it is missing, damaged or was made from something else.
    """
    if not spec.is_complete:
        settled = _recall(spec)
        return find_compiled(settled, calibration_digest) if settled else None
    identity = _identity(spec, calibration_digest)
    for folder in _find_places(_name(identity)):
        if not folder.exists() or not _is_trusted(folder):
            continue
        with suppress(*_DAMAGED):
            stored = json.loads((folder / "trunk.json").read_bytes())
            if stored["identity"] == identity and stored["files"] == _digests(folder):
                shapes = {name: tuple(shape) for name, shape in stored["shapes"].items()}
                digest = stored["weights_sha256"]
                return CompiledTrunk(spec, folder, shapes, digest, calibration_digest)
        log.info("%s: damaged; converting the trunk again", folder)
    return None


def convert(trunk: "Trunk | OnnxTrunk", asked: TrunkSpec | None = None) -> CompiledTrunk:
    """Convert a trunk and save it in the cache.

    Args:
        trunk: A trunk in ONNX, or built on TensorFlow, the only backend whose models can be
            converted.
        asked: The spec that the trunk was built from, if that left settings open.

    Returns:
        The converted trunk.

    Raises:
        EngineError: OpenVINO cannot convert it.
    """
    try:
        model = trunk.model if trunk.spec.is_onnx else convert_to_openvino(trunk.model)
        # Some operations have the size of one batch in them.
        if trunk.spec.is_hub:
            model.clone().reshape([2, *trunk.spec.image_size, 3])
    except Exception as error:
        problem = f"OpenVINO cannot convert it ({first_line(error)})"
        raise EngineError(f"{trunk.spec.trunk}: {problem}; use --engine keras") from error
    return keep(model, trunk, asked)


def keep(
    model: Any, source: "Trunk | Conversion | OnnxTrunk", asked: TrunkSpec | None
) -> CompiledTrunk:
    """Save a converted trunk in the cache, and how the settings that it left open were settled.

    Arguments and errors are those of ``convert`` and ``save_compiled``.
    """
    if asked and not asked.is_complete:
        _remember(asked, source.spec)
    return save_compiled(model, source)


def save_compiled(
    model: Any,
    source: "Trunk | Conversion | OnnxTrunk | CompiledTrunk",
    calibration_digest: str = "",
) -> CompiledTrunk:
    """Save an OpenVINO model of a trunk in the cache, or in the temporary folder if that fails.

    Raises:
        EngineError: There is no room in either.
    """
    identity, digest = _identity(source.spec, calibration_digest), source.weights_sha256
    stored = {"identity": identity, "shapes": source.shapes, "weights_sha256": digest}
    problems = []
    for folder in _all_places(_name(identity)):
        try:
            with cache_write(folder) as temporary:
                _save(model, temporary, stored)
            if _is_own(folder):
                return CompiledTrunk(source.spec, folder, source.shapes, digest, calibration_digest)
            problems.append(f"{folder} belongs to another user")
        # OpenVINO says with a RuntimeError that a disk is full.
        except (OSError, RuntimeError) as error:
            problems.append(f"{folder}: {getattr(error, 'strerror', None) or first_line(error)}")
    remedy = "make room, name another folder with HEADSTART_CACHE, or use --engine keras"
    if source.spec.is_onnx:
        remedy = "make room, or name another folder with HEADSTART_CACHE"
    raise EngineError(f"the converted trunk cannot be saved ({'; '.join(problems)}); {remedy}")


def _save(model: Any, folder: Path, stored: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    load_openvino().save_model(model, folder / FILES[0], compress_to_fp16=False)
    text = json.dumps({**stored, "files": _digests(folder)})
    (folder / "trunk.json").write_text(text, encoding="utf-8", newline="\n")
    for path in (folder, *folder.iterdir()):
        _close(path)


def _close(path: Path) -> None:
    """Take the right to write from other users, whatever the umask gave them."""
    path.chmod(path.stat().st_mode & ~_OTHERS_WRITE)


def _find_places(name: str) -> list[Path]:
    """Return where an entry of the cache may be: others where it could not be in the first."""
    places = _all_places(name)
    if not places:
        return []
    first = places[0]
    with suppress(OSError):
        first.parent.mkdir(parents=True, exist_ok=True)
    can_write = first.parent.is_dir() and os.access(first.parent, os.W_OK)
    return places[:1] if can_write and (_is_own(first) or not first.exists()) else places


def _all_places(name: str) -> list[Path]:
    """Return where an entry may be saved: the cache, that of the user, the temporary folder."""
    own = f"headstart-{os.getuid()}" if hasattr(os, "getuid") else "headstart"
    roots = [cache_folder(), user_cache_path("headstart", appauthor=False)]
    temporary = Path(tempfile.gettempdir()) / own
    with suppress(OSError):
        temporary.mkdir(mode=0o700, exist_ok=True)
    roots += [temporary] if _is_own(temporary) else []
    # Without a home the path of its cache is relative.
    return [root / name for root in dict.fromkeys(roots) if root.is_absolute()]


def _is_own(path: Path) -> bool:
    """Return whether only this user, or root, can have written a file or folder."""
    if not hasattr(os, "getuid"):
        return True
    try:
        entry = path.lstat()
    except OSError:
        return False
    return entry.st_uid in (0, os.getuid()) and not entry.st_mode & _OTHERS_WRITE


def _is_trusted(folder: Path) -> bool:
    """Return whether a converted trunk is this user's or root's, or its digest was named."""
    if all(map(_is_own, (folder, *(folder / name for name in (*FILES, "trunk.json"))))):
        return True
    with suppress(OSError):
        digest = _digest(folder / "trunk.json")
        if digest in os.environ.get("HEADSTART_TRUST", "").split(","):
            return True
        found = "another user has made it or can change it"
        remedy = f"if you trust it, set HEADSTART_TRUST={digest}"
        log.warning("%s: %s; not used; %s", folder, found, remedy)
    return False


def cache_folder() -> Path:
    """Return the cache folder; everything in it can be deleted at any time."""
    named = os.environ.get("HEADSTART_CACHE")
    return Path(named).absolute() if named else user_cache_path("headstart", appauthor=False)


def _identity(spec: TrunkSpec, calibration_digest: str) -> dict[str, Any]:
    """Return everything that determines a converted trunk, as JSON can hold it."""
    given = spec.to_dict().items()
    settings = {k: v for k, v in given if k not in PIXEL_SETTINGS and BEFORE.get(k) != v}
    for name in ("trunk", "weights"):
        # A model of Keras has fixed files. Of a user's file only the content counts.
        file = Path(settings[name])
        if settings[name] not in (*TRUNKS, "imagenet", "none", IN_MODEL) and file.is_file():
            settings[name] = _digest(file)
    if spec.is_hub:
        settings["trunk"] = "".join(map(_digest, read_preset(spec.trunk).files))
    packages = (*_PACKAGES, *["nncf"] * bool(calibration_digest), *["keras-hub"] * spec.is_hub)
    versions = {name: installed_version(name) for name in packages}
    calibration = {"calibration": calibration_digest, "format_version": FORMAT_VERSION}
    return {**settings, **calibration, "made_by": versions}


def _name(identity: dict[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{Path(identity['trunk']).stem[:32]}-{key[:16]}"


def _remember(asked: TrunkSpec, settled: TrunkSpec) -> None:
    """Save how the open settings of a spec were settled, for the next run."""
    identity = _identity(asked, "")
    text = json.dumps({"identity": identity, "settled": settled.to_dict()})
    # If no folder can be written, the next run builds the trunk again.
    for place in _all_places(f"{_name(identity)}.json"):
        with suppress(OSError):
            with cache_write(place) as path:
                path.write_text(text, encoding="utf-8", newline="\n")
                _close(path)
            if _is_own(place):
                return


def _recall(asked: TrunkSpec) -> TrunkSpec | None:
    """Return a spec with its open settings as an earlier run settled them."""
    identity = _identity(asked, "")
    for place in _find_places(f"{_name(identity)}.json"):
        with suppress(*_DAMAGED):
            stored = json.loads(place.read_bytes()) if _is_own(place) else {}
            settled = TrunkSpec.from_dict(stored["settled"])
            if settled.is_complete and stored["identity"] == identity:
                size = settled.image_size
                return replace(asked, layer=settled.layer, pooling=settled.pooling, image_size=size)
    return None


def _digests(folder: Path) -> dict[str, str]:
    return {name: _digest(folder / name) for name in FILES}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
