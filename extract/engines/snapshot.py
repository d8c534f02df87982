"""The engine that is open here, packed so that another machine can open the same one.

The trunk travels as it runs, weights and all: the other machine needs neither the weights' file
nor a cache. Whatever else decides the numbers there is compared, not assumed.
"""

import contextlib
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.errors import EngineError, quoted
from extract.engines.base import Engine
from extract.engines.keras_engine import KERAS_FILE, KerasEngine
from extract.engines.openvino_cache import CompiledTrunk
from extract.engines.openvino_engine import OpenVinoEngine, check_instructions
from extract.images.digests import read_digests
from extract.images.item import Item
from extract.trunks.backend import backend_name, load_keras
from extract.trunks.trunk import Trunk

# What an engine is made from, beside the files of its trunk.
_FIELDS = ("name", "spec", "dtype", "precision", "batch_size", "shapes", "weights_sha256")


class Snapshot(NamedTuple):
    """An engine, packed.

    Attributes:
        engine: Its attributes by name.
        files: Those of its trunk, by name.
        backend: That of Keras.
        versions: Of whatever has a hand in the numbers.
        folder: Where relative paths begin.
        witness: An image, and the digest of its file.
    """

    engine: dict[str, Any]
    files: dict[str, bytes]
    backend: str
    versions: dict[str, str]
    folder: str
    witness: tuple[Item, bytes]


def take_snapshot(engine: Engine, witness: Item) -> Snapshot:
    """Pack an engine.

    Args:
        engine: The engine that is open here.
        witness: An image that the other machine must see as it is seen here.

    Returns:
        All that ``open_snapshot`` needs.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    backend = backend_name()
    return Snapshot(
        {name: getattr(engine, name) for name in _FIELDS},
        files,
        backend,
        _versions(engine.name, backend),
        os.getcwd(),
        (witness, next(read_digests([witness]))),
    )


def open_snapshot(parcel: Snapshot, threads: int) -> Engine:
    """Open the engine on another machine, in a process that does nothing else.

    Args:
        parcel: The engine.
        threads: How many it may use on a processor.

    Returns:
        The engine, ready to run.

    Raises:
        EngineError: This machine has other versions, cannot read the images, or lacks the
            instructions for the precision.
    """
    here = _versions(parcel.engine["name"], parcel.backend)
    if here != parcel.versions:
        raise EngineError(
            f"{platform.node()}: found {_list(here)}; expected {_list(parcel.versions)}; install "
            "the same versions on every machine"
        )
    with contextlib.suppress(OSError):  # without relative paths it does not matter
        os.chdir(parcel.folder)
    item, digest = parcel.witness
    if next(read_digests([item])) != digest:
        raise EngineError(
            f"{platform.node()}: {quoted(item.key)} is not what it is where the store is; "
            "expected the same images under the same paths everywhere; use a shared folder or "
            "URLs"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, content in parcel.files.items():
            Path(folder, name).write_bytes(content)
        return _open(parcel, Path(folder), threads)


def _open(parcel: Snapshot, folder: Path, threads: int) -> Engine:
    """Open the engine whose files are in ``folder``; once it is open they can go."""
    name, spec, dtype, precision, batch_size, shapes, digest = (
        parcel.engine[field] for field in _FIELDS
    )
    if name == "openvino":
        check_instructions(precision)
        compiled = CompiledTrunk(spec, folder, shapes, digest)
        return OpenVinoEngine(compiled, dtype, batch_size, precision, threads=threads)
    os.environ["KERAS_BACKEND"] = parcel.backend
    model = load_keras().models.load_model(folder / KERAS_FILE, compile=False)
    return KerasEngine(Trunk(spec, model, shapes, digest), dtype, batch_size, precision)


def _versions(engine: str, backend: str) -> dict[str, str]:
    runner = ("openvino",) if engine == "openvino" else ("keras", backend)
    return {name: version(name) for name in ("headstart", "numpy", "pillow", *runner)}


def _list(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
