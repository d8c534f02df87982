"""Export of a trained head and its trunk as one model, for programs without headstart."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import permutations
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from classify.data.dataset import Dataset
from classify.heads.registry import LINEAR_HEADS
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.head_folder import EXTRA, METADATA, PathLike, check_file
from classify.inference.trunk import reopen
from classify.search.leaderboard import Result
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from classify.settings.sweep import label
from classify.stored.parts import MadeBy, Part
from extract.core.atomic import atomic_write, check_writable
from extract.core.config import TrunkSpec
from extract.core.console import log, quiet_mode
from extract.core.errors import HeadError, SettingError
from extract.public import public
from extract.trunks.configuration import backend_name

EXPORTABLE = (*KERAS_HEADS, *LINEAR_HEADS)
_ANY = f"{', '.join(EXPORTABLE[:-1])} or {EXPORTABLE[-1]}"
_ENDINGS = (".keras", ".onnx", ".tflite", "")
_JOINED = "a head on joined layers of several files, and a model has one trunk"
_MARK = b"headstart_version"  # in the metadata of every model
_OTHER = "holds something else than a model of train-head; expected one, or none; name another"
_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", EXTRA}


@public()
def export_head(
    folder: PathLike, target: PathLike, *, weights: PathLike | None = None, quiet: bool = False
) -> Path:
    """Export a trained head and its trunk as one model from pixels to scores.

    The model takes (B, H, W, 3) uint8 RGB pixels and returns (B, K) float32 scores, 0 to 1.

    Args:
        folder: A folder made by train-head.
        target: A ``.keras``, ``.onnx`` or ``.tflite`` file, or a folder for a SavedModel; an
            earlier model there is replaced.
        weights: The place of the trunk's weights, if they have moved since training.
        quiet: Show warnings only.

    Returns:
        The path of the model.

    Raises:
        SettingError: The head cannot be exported, the ending of ``target`` is unknown, or it is in
            the folder of the head.
        HeadError: The head or the weights cannot be used, or ``target`` cannot be written.
        TrunkError: The trunk cannot be built.

    Example::

        export_head("out_head", "model.keras")
    """
    with quiet_mode(quiet):
        head = load_head(folder)
        check_targets([os.fspath(target)], [HeadSpec(head.name)], folder)
        if head.joined:
            raise HeadError(f"export: found {_JOINED}; use predict-images, or train on one file")
        check_trunk([os.fspath(target)], head)
        export(head, open_trunk(head, weights), os.fspath(target))
    return Path(target)


def open_trunk(made_by: Dataset | TrainedHead | MadeBy, weights: PathLike | None = None) -> Any:
    """Build the trunk of a dataset or a head, in float32; see ``trunk.open_engine``."""
    from extract.trunks import trunk

    if (made_by.precision, made_by.dtype) != ("float32", "float32"):
        features = (
            f"the features were computed in {made_by.precision} and stored as {made_by.dtype}"
        )
        log.warning(f"export: the model computes in float32; {features}, so its scores differ")
    return reopen(made_by, weights, trunk.build_trunk)


def makers_of(targets: Sequence[str], dataset: Dataset, specs: Sequence[HeadSpec]) -> list[MadeBy]:
    """Check, before anything is trained, the trunks of the heads that can be exported.

    Returns:
        The trunk of each store whose layers are tried alone; none without targets.

    Raises:
        SettingError: All heads are on joined layers of several stores.
        HeadError: A model would replace its parts, or has no trunk that loads.
    """
    if not targets:
        return []
    parts = [_parts(dataset, spec) for spec in specs]
    makers = list(dict.fromkeys(own[0].made_by for own in parts if len(own) == 1))
    if not makers:
        raise SettingError(f"export: found {_JOINED}; name a --layer of one file")
    for made_by in makers:
        check_trunk(targets, made_by)
    return makers


def _parts(dataset: Dataset, spec: HeadSpec) -> list[Part]:
    """Return the stores of a head's layers."""
    assert dataset.store is not None
    return dataset.store.choose("+".join(spec.layer) or dataset.layer).parts


def check_trunk(targets: Sequence[str], made_by: Dataset | TrainedHead | MadeBy) -> None:
    """Raise HeadError for a model that would replace its parts, or has no trunk that loads."""
    spec = made_by.trunk
    if targets and not spec.trunk:
        found = "found a head on features of another program; expected features of a trunk"
        raise HeadError(f"export: {found}; use predict-images or classify.load_head instead")
    if targets and spec.is_onnx:
        problem = f"found the trunk {spec.trunk}; expected a trunk of Keras"
        remedy = "use predict-images, or extract with --trunk NAME or FILE.keras"
        raise HeadError(f"export: {problem}; {remedy}")
    for target in targets:
        if spec.is_hub and _ending(target) == ".keras":
            problem = "KerasHub's layers do not load from a .keras file without KerasHub"
            raise HeadError(f"export: {target}: {problem}; use .onnx, .tflite or a folder instead")
        if _ending(target):
            check_file(Path(target), *filter(None, (spec.trunk, spec.weights)))


def check_targets(
    targets: Sequence[str], specs: Sequence[HeadSpec], folder: PathLike | None = None
) -> None:
    """Check, before anything is trained, that models can be written.

    Args:
        targets: Files or folders, as given to ``--export``.
        specs: The heads that will be tried.
        folder: The folder of the head.

    Raises:
        SettingError: An ending is unknown, a target is or contains another target or the head, or
            no head can be exported.
        HeadError: A target cannot be written or holds something else, or a library is missing.
    """
    heads = dict.fromkeys(spec.head for spec in specs)
    if not heads.keys() & set(EXPORTABLE):
        raise SettingError(f"export: {', '.join(heads)} cannot be exported; expected {_ANY}")
    for one, other in permutations([*targets, *([] if folder is None else [folder])], 2):
        place, around = Path(os.path.realpath(one)), Path(os.path.realpath(other))
        if place == around:
            raise SettingError(f"export: found {one} twice; expected each place once")
        if str(place).casefold() == str(around).casefold():
            problem = f"found {one} and {other}, which are one place on Windows and macOS"
            raise SettingError(f"export: {problem}; expected names that differ in more than case")
        if around in place.parents:
            problem = f"found {one} inside {other}, which is replaced as a whole"
            raise SettingError(f"export: {problem}; name a place outside it")
    for target in targets:
        ending, place = _ending(target), Path(target).absolute()
        _check_libraries(target, ending)
        if ending:
            _check_model_file(place, ending)
        else:
            _check_folder(place)


def _check_libraries(target: str, ending: str) -> None:
    """Raise HeadError unless what writes this format is installed and in use."""
    if ending == ".onnx" and not (find_spec("tf2onnx") and find_spec("onnx")):
        raise HeadError(f'{target}: needs tf2onnx and onnx; pip install "headstart[onnx]"')
    backend = backend_name()
    if ending in (".onnx", ".tflite") and backend != "tensorflow":
        problem = f"found Keras on {backend}; expected TensorFlow"
        raise HeadError(f"{target}: {problem}; unset KERAS_BACKEND, or export to .keras")


def _check_model_file(place: Path, ending: str) -> None:
    """Raise HeadError unless a model would replace nothing but a model that was exported."""
    check_file(place)
    if place.exists() and place.stat().st_size and not _is_export(place, ending):
        raise HeadError(f"{place}: {_OTHER}")


def _is_export(path: Path, ending: str) -> bool:
    """Say whether a file is a model that was exported, by its metadata."""
    try:
        if ending == ".onnx":
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                return content.find(_MARK) >= 0
        with ZipFile(path) as archive:
            return _MARK in archive.read("config.json" if ending == ".keras" else METADATA)
    except Exception:  # no model, or a zip that is damaged, encrypted or of a later version
        return False


def _check_folder(place: Path) -> None:
    """Raise HeadError unless a SavedModel would replace nothing but one that was exported."""
    check_writable(place, HeadError)
    names, metadata = {entry.name for entry in place.glob("*")}, place / EXTRA / METADATA
    exported = metadata.is_file() and _MARK in metadata.read_bytes()
    if place.is_file() or names - _SAVED_MODEL or (names and not exported):
        raise HeadError(f"{place}: {_OTHER}")


def _ending(target: str) -> str:
    """Return the ending, which chooses the format; empty for a folder."""
    ending = "" if target.endswith(("/", os.sep)) else Path(target).suffix
    if ending not in _ENDINGS:
        files = "expected .keras, .onnx, .tflite"
        expected = f"{files}, or a folder (no ending, or / at its end) for a SavedModel"
        raise SettingError(f"export: found the ending {ending!r} in {target}; {expected}")
    return ending


def check_head(result: Result) -> None:
    """Raise HeadError unless the best head can be exported; name the best one that can be."""
    best, dataset = result.best.spec, result.dataset
    assert dataset is not None
    if _is_exportable(dataset, best):
        return
    remedy, expected = "train others with --head", f"expected {_ANY}"
    for other in result.entries:
        if _is_exportable(dataset, other.spec):
            layer = f" --layer {'+'.join(other.spec.layer)}" if dataset.joined else ""
            score = f"{label(other.spec)} ({result.metric} {other.scores[result.metric]:.4f})"
            remedy = f"the best of those here is {score}; train it alone with --head"
            remedy += f" {other.spec.head}{layer}"
            break
    if dataset.joined:
        raise HeadError(f"export: {label(best)} is {_JOINED}; {remedy}")
    raise HeadError(f"export: {best.head} cannot be exported; {expected}; {remedy}")


def _is_exportable(dataset: Dataset, spec: HeadSpec) -> bool:
    return spec.head in EXPORTABLE and len(_parts(dataset, spec)) == 1


def export_best(
    folder: Path, result: Result, trunks: Mapping[TrunkSpec, Any], targets: Sequence[str]
) -> None:
    """Export the best head of a run, saved in ``folder``, to each target, unless it cannot be.

    Raises:
        HeadError: A model cannot be written.
    """
    own = result.dataset
    if own and _is_exportable(own, result.best.spec):
        head = load_head(folder)
        for target in targets:
            export(head, trunks[own.trunk], target)


def export(head: TrainedHead, trunk: Any, target: str) -> None:
    """Write one model from pixels to scores with an atomic write.

    Args:
        head: The trained head.
        trunk: Its trunk.
        target: A ``.keras``, ``.onnx`` or ``.tflite`` file, or a folder for a SavedModel.

    Raises:
        HeadError: It cannot be written.
    """
    from classify.export import model_formats

    write = model_formats.WRITERS[_ending(target)]
    with atomic_write(Path(target), HeadError) as temporary:
        model = model_formats.build_model(head, trunk)
        write(model, model_formats.describe(head), temporary)
    log.info("%s: from pixels to scores of %s", target, ", ".join(head.class_names))
