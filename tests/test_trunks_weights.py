"""Weights lie in the file that is given: a file that points to another one is refused."""

import io
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks.backend import load_keras
from extract.trunks.trunk import build_trunk
from extract.trunks.weights import load_application
from tests.test_store_hostile import let_hdf5_loop

SHAPE = (3, 3, 3, 32)  # of MobileNet's first kernel, in which every value is 2
SPEC = TrunkSpec(trunk="mobilenet", weights="none", layer=("conv1_relu",), image_size=(32, 32))
Place = Callable[[h5py.File, str, Path], None]


def inside(file: h5py.File, name: str, folder: Path) -> None:
    file.create_dataset(name, data=np.full(SHAPE, 2, "f4"))


def external_storage(file: h5py.File, name: str, folder: Path) -> None:
    file.create_dataset(name, SHAPE, "f4", external=[(str(folder / "raw"), 0, 4 * 27 * 32)])


def external_link(file: h5py.File, name: str, folder: Path) -> None:
    file[name] = h5py.ExternalLink(str(folder / "other.h5"), "/kernel")


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "kernel", SHAPE)
    file.create_virtual_dataset(name, layout)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNet in every form that Keras writes, and the files that others point to."""
    folder = tmp_path_factory.mktemp("saved")
    load_keras()
    from keras.src.legacy.saving import legacy_h5_format

    model = load_application(SPEC)
    model.save(folder / "file.keras")
    model.save_weights(folder / "file.weights.h5")
    legacy_h5_format.save_model_to_hdf5(model, str(folder / "file.h5"))
    kernel = np.full(SHAPE, 2, "f4")
    (folder / "raw").write_bytes(kernel.tobytes())
    with h5py.File(folder / "other.h5", "w") as file:
        file["kernel"] = kernel
    return folder


def move_kernel(path: Path, place: Place, target: Path) -> None:
    """Write a copy of a file whose first kernel lies where ``place`` puts it."""
    change_weights(path, lambda content: changed(content, place, path), target)


def change_weights(path: Path, change: Callable[[bytes], bytes], target: Path) -> None:
    """Write a copy of a file, or of a ``.keras`` file, whose HDF5 file is changed."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, change(content) if name.endswith("h5") else content)
    else:
        target.write_bytes(change(path.read_bytes()))


def changed(content: bytes, place: Place, path: Path) -> bytes:
    names = []

    def visit(name: str, value: Any) -> None:
        if isinstance(value, h5py.Dataset) and value.shape == SHAPE:
            names.append(name)

    memory = io.BytesIO(content)
    with h5py.File(memory, "r+") as file:
        file.visititems(visit)
        assert len(names) == 1
        del file[names[0]]
        place(file, names[0], path.parent)
    return memory.getvalue()


USES = [
    ("trunk", "file.keras"),
    *(("weights", name) for name in ("file.keras", "file.weights.h5", "file.h5")),
]


def spec_of(use: str, path: Path) -> TrunkSpec:
    if use == "trunk":
        return replace(SPEC, trunk=str(path), weights="model", preprocess="none")
    return replace(SPEC, weights=str(path))


@pytest.mark.parametrize(("use", "name"), USES)
@pytest.mark.parametrize("place", [inside, external_storage, external_link, virtual])
def test_a_kernel_in_another_file_is_refused(
    saved: Path, place: Place, use: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    move_kernel(saved / name, place, path)
    spec = spec_of(use, path)
    if place is inside:
        assert (build_trunk(spec).model.get_weights()[0] == 2).all()
        return
    with pytest.raises(TrunkError, match=f"{name}: .*; expected"):
        build_trunk(spec)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits")
@pytest.mark.parametrize(("use", "name"), USES)
def test_weights_over_which_hdf5_loops_are_named(
    saved: Path, use: str, name: str, tmp_path: Path
) -> None:
    def loop(content: bytes) -> bytes:
        place = tmp_path / "loops.h5"
        place.write_bytes(content)
        with h5py.File(place, "r+") as file:
            file.attrs["keras_version"] = "3"
        let_hdf5_loop(place)
        return place.read_bytes()

    change_weights(saved / name, loop, tmp_path / name)
    with pytest.raises(TrunkError, match=f"{name}: HDF5 does not come to its end; expected"):
        build_trunk(spec_of(use, tmp_path / name))
