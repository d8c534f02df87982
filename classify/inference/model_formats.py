"""File formats of exported models: .keras, SavedModel and ONNX."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from extract.core.errors import HeadError, SettingError
from extract.trunks.backend import load_keras

# The layer that holds the class names, and the file and the entry that do.
NAMES = "class_names"


def _check_place(target: str, place: Path) -> None:
    """Raise HeadError unless nothing but a model would be lost there."""
    if _writer(target) is not _write_saved_model:
        if place.exists() and not place.is_file():
            raise HeadError(f"{target}: found no regular file; expected one or none; name another")
    elif place.is_file() or (
        place.is_dir() and any(place.iterdir()) and not _is_saved_model(place)
    ):
        raise HeadError(
            f"{target}: found what is no SavedModel; expected nothing, an empty folder or a former "
            "model; name another"
        )


def _is_saved_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").is_file()


def _writer(target: str) -> Callable[[Any, Sequence[str], Path], None]:
    """Choose the form by the ending."""
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
    extra = folder / "assets.extra"  # what TensorFlow leaves to others
    extra.mkdir()
    text = json.dumps(list(class_names), ensure_ascii=False)
    (extra / f"{NAMES}.json").write_text(text + "\n", encoding="utf-8")


def _write_onnx(model: Any, class_names: Sequence[str], path: Path) -> None:
    import onnx

    model(load_keras().ops.zeros((1, *model.input_shape[1:]), "uint8"))  # Keras asks for a call
    with warnings.catch_warnings():
        # Keras looks for a name that NumPy 2 has reserved.
        warnings.filterwarnings("ignore", ".*`np.object`", FutureWarning)
        model.export(path, format="onnx", verbose=False)
    written = onnx.load(path)
    written.metadata_props.add(key=NAMES, value=json.dumps(list(class_names), ensure_ascii=False))
    onnx.save(written, path)


_WRITERS: Mapping[str, Callable[[Any, Sequence[str], Path], None]] = {
    ".keras": _write_keras,
    ".onnx": _write_onnx,
    "": _write_saved_model,
}
