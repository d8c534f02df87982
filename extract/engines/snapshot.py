"""A snapshot of an open engine, from which another machine opens the same engine.

The snapshot contains the trunk as the engine runs it, with its weights, so the other machine needs
neither the weights file nor a cache. Versions and images there are compared with those here.
"""

import os
import platform
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.config import TrunkSpec
from extract.core.errors import EngineError, quoted
from extract.engines.base import Engine
from extract.engines.openvino_cache import CompiledTrunk
from extract.engines.openvino_engine import OpenVinoEngine, check_instructions
from extract.images.digests import read_digests
from extract.images.item import Item
from extract.trunks.configuration import backend_name, installed_version

# The attributes of an engine that, with the files of its trunk, determine it.
_FIELDS = ("name", "spec", "dtype", "precision", "batch_size", "shapes", "weights_sha256")


class Snapshot(NamedTuple):
    """An engine, ready to be sent.

    Attributes:
        engine: The engine's attributes by name.
        files: Content of the trunk's files by name.
        backend: Keras' backend.
        versions: Names and versions of the packages that determine the numbers.
        folder: The working directory, to which paths are relative.
        reference: An image and the digest of its file.
    """

    engine: dict[str, Any]
    files: dict[str, bytes]
    backend: str
    versions: str
    folder: str
    reference: tuple[Item, bytes]


def take_snapshot(engine: Engine, reference: Item) -> Snapshot:
    """Take a snapshot of an engine.

    Args:
        engine: The open engine.
        reference: An image that the other machine must read with the same content.

    Returns:
        The snapshot, for ``open_snapshot``.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    attributes = {name: getattr(engine, name) for name in _FIELDS}
    versions = _versions(engine.name, backend_name(), engine.spec)
    image = (reference, next(read_digests([reference])))
    return Snapshot(attributes, files, backend_name(), versions, os.getcwd(), image)


def open_snapshot(snapshot: Snapshot, threads: int) -> Engine:
    """Open the engine of a snapshot, in a process that does nothing else.

    Args:
        snapshot: The snapshot of the engine.
        threads: How many threads it may use on a processor.

    Returns:
        The engine, ready to run.

    Raises:
        EngineError: This machine has other versions, cannot read the images, or lacks the
            instructions for the precision.
    """
    versions = _versions(snapshot.engine["name"], snapshot.backend, snapshot.engine["spec"])
    if versions != snapshot.versions:
        problem = f"found {versions}; expected {snapshot.versions}"
        raise EngineError(f"{platform.node()}: {problem}; install the same versions")
    with suppress(OSError):  # it matters only for relative paths
        os.chdir(snapshot.folder)
    item, digest = snapshot.reference
    if next(read_digests([item])) != digest:
        problem = f"{quoted(item.key)} differs from the image on the machine of the store"
        raise EngineError(f"{platform.node()}: {problem}; use a shared folder or URLs")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, content in snapshot.files.items():
            Path(folder, name).write_bytes(content)
        name, spec, dtype, precision, batch_size, shapes, digest = snapshot.engine.values()
        if name == "openvino":
            check_instructions(precision)
            compiled = CompiledTrunk(spec, Path(folder), shapes, digest)
            return OpenVinoEngine(compiled, dtype, batch_size, precision, threads)
        os.environ["KERAS_BACKEND"] = snapshot.backend
        from extract.engines.keras_engine import KERAS_FILE, KerasEngine
        from extract.trunks.keras_import import keras
        from extract.trunks.trunk import Trunk

        model = keras.models.load_model(Path(folder, KERAS_FILE), compile=False)
        return KerasEngine(Trunk(spec, model, shapes, digest), dtype, batch_size, precision)


def _versions(engine: str, backend: str, spec: TrunkSpec) -> str:
    """Return the versions that decide the pixels and the features."""
    runner = ("openvino",) if engine == "openvino" else ("keras", backend)
    decoder = ("pillow", "simplejpeg", *["cykooz.resizer"] * (spec.decoding == "fast"))
    names = ("headstart", "numpy", *decoder, *runner)
    return ", ".join(f"{name} {installed_version(name)}" for name in names)
