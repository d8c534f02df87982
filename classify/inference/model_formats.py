"""File formats of exported models: .keras, SavedModel and ONNX."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from extract.core.atomic import check_writable
from extract.core.errors import HeadError, SettingError

# The layer, the file or the metadata entry that holds the class names.
NAMES = "class_names"

Writer = Callable[[Any, Sequence[str], Path], None]


def check_target(target: str) -> None:
    """Raise unless a model can be written there and would replace nothing but a model.

    Raises:
        SettingError: The ending is unknown.
        HeadError: The place cannot be written or holds something else.
    """
    place = Path(target)
    check_writable(place, HeadError)
    if find_writer(target) is not _write_saved_model:
        if place.exists() and not place.is_file():
            raise HeadError(f"{target}: found no regular file; expected one or none; name another")
        return
    is_model = (place / "saved_model.pb").is_file()
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not is_model):
        raise HeadError(
            f"{target}: holds something else than a SavedModel; expected an earlier model, an "
            "empty folder or nothing; name another"
        )


def find_writer(target: str) -> Writer:
    """Choose the format by the ending."""
    ending = "" if target.endswith(("/", os.sep)) else Path(target).suffix
    if ending not in _WRITERS:
        raise SettingError(
            f"export: found the ending {ending!r} in {target}; expected .keras, .onnx, or a folder "
            "(no ending, or / at its end) for a SavedModel"
        )
    return _WRITERS[ending]


def _write_keras(model: Any, class_names: Sequence[str], path: Path) -> None:
    model.save(path)


def _write_saved_model(model: Any, class_names: Sequence[str], folder: Path) -> None:
    model.export(folder, format="tf_saved_model", verbose=False)
    extra = folder / "assets.extra"  # TensorFlow reserves this folder for other programs
    extra.mkdir()
    text = json.dumps(list(class_names), ensure_ascii=False)
    (extra / f"{NAMES}.json").write_text(text + "\n", encoding="utf-8")


def _write_onnx(model: Any, class_names: Sequence[str], path: Path) -> None:
    import onnx

    model(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports only a called model
    with warnings.catch_warnings():
        # Keras uses a name that NumPy 2 has reserved.
        warnings.filterwarnings("ignore", ".*`np.object`", FutureWarning)
        model.export(path, format="onnx", verbose=False)
    written = onnx.load(path)
    written.metadata_props.add(key=NAMES, value=json.dumps(list(class_names), ensure_ascii=False))
    onnx.save(written, path)


_WRITERS: Mapping[str, Writer] = {
    ".keras": _write_keras,
    ".onnx": _write_onnx,
    "": _write_saved_model,
}


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names in an exported ``.keras`` file; none of any other model."""
    try:
        with ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        (holder,) = [layer["config"] for layer in layers if layer["config"]["name"] == NAMES]
        names = holder["beta_initializer"]["config"]["value"]
        "".join(names).encode()  # raises where a name is not valid text
    except (KeyError, TypeError, ValueError):  # a model from elsewhere
        return ()
    return tuple(names) if isinstance(names, list) else ()
