"""The files in the folder of a trained head, and checks before something is written."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from classify.data.preprocessing import FILE as TRANSFORM
from classify.heads.keras_head import FILE as KERAS_FILE
from classify.heads.registry import FILES as HEAD_FILES
from classify.heads.sklearn_head import FILE as SKLEARN_FILE
from classify.search import checkpoint
from classify.settings.head_spec import KERAS_HEADS
from extract.core.atomic import check_writable
from extract.core.errors import HeadError, listed, quoted
from extract.images.digests import digest_bytes
from extract.limits.unpacked import read_json

BUNDLE, RESULT, TIMING = "bundle.json", "result.json", "timing.json"
TABLE, PREDICTIONS, REPORT = "result.csv", "predictions.csv", "report.html"
ISSUES = "label_issues.csv"
FIGURES = "figures"  # a folder
SEEN = "training_images.npy"
FILES = {BUNDLE, RESULT, TIMING, TABLE, PREDICTIONS, REPORT, TRANSFORM, SEEN, checkpoint.FILE}
FILES |= {ISSUES, FIGURES} | HEAD_FILES
# The metadata of an exported model; the folder of a SavedModel that is reserved for such files.
METADATA, EXTRA = "metadata.json", "assets.extra"
# A longer object of a JSON file has a line for each of its entries.
_LONGEST_LINE = 400
PathLike = str | os.PathLike[str]


def is_head_folder(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds a trained head, valid or not."""
    return os.path.isfile(Path(folder) / BUNDLE)  # False also for a name that no file can have


def check_file(path: Path, *inputs: PathLike) -> None:
    """Raise HeadError unless a file can be written there and would replace no input or folder."""
    if path.exists() and not path.is_file():
        raise HeadError(f"{path}: not a regular file; expected one or none; name another")
    for read in inputs:
        if path.exists() and os.path.exists(read) and os.path.samefile(path, read):
            raise HeadError(f"{path}: is read by this command; name another file for its result")
    check_writable(path, HeadError)


def check_inputs(targets: Iterable[PathLike], inputs: Iterable[PathLike]) -> None:
    """Raise HeadError where a result would replace a file that is read, or a folder above it."""
    places = {target: Path(os.path.realpath(target)) for target in targets}
    for read in filter(os.path.exists, inputs):
        for target, place in places.items():
            if Path(os.path.realpath(read)).is_relative_to(place):
                found = f"holds {quoted(os.fspath(read))}, which this command reads"
                raise HeadError(f"{target}: {found}; name another place for the result")


def check_target(folder: Path) -> None:
    """Raise HeadError unless a head can be written there and would replace nothing but a head."""
    check_writable(folder, HeadError)
    if os.path.islink(folder) and not folder.exists():
        found = f"found a link to {quoted(os.readlink(folder))}, which does not exist"
        raise HeadError(f"{folder}: {found}; expected a folder or nothing; name another with -o")
    if folder.exists() and not folder.is_dir():
        raise HeadError(f"{folder}: found a file; expected a folder or nothing; name another")
    names = {entry.name for entry in folder.glob("*")}
    if names and names != {checkpoint.FILE} and (BUNDLE not in names or names - FILES):
        found = ", ".join(sorted(names - FILES)[:3]) or "an unfinished head"
        expected = "a folder that is new, empty or only a trained head"
        raise HeadError(f"{folder}: found {found}; expected {expected}; name another with -o")
    _check_unedited(folder)
    _check_figures(folder)


def _check_figures(folder: Path) -> None:
    """Raise HeadError where the folder of figures, which would be replaced, holds other files."""
    names = {entry.name for entry in (folder / FIGURES).glob("*")}
    with suppress(OSError, ValueError, TypeError, KeyError):
        names -= set(read_json(folder / RESULT)["figures"])
    if names or (folder / FIGURES).is_file():
        found = ", ".join(map(quoted, sorted(names)[:3])) or "a file"
        expected = "expected only figures that train-head wrote"
        raise HeadError(
            f"{folder / FIGURES}: found {found}; {expected}; move it, or name another -o"
        )


def link_file(file: str, copy: str) -> None:
    """Copy a file, which may be large, as a hard link where the file system has them."""
    try:
        os.link(file, copy)
    except OSError:
        shutil.copyfile(file, copy)


def _check_unedited(folder: Path) -> None:
    """Raise HeadError where somebody has corrected labels in a file that would be replaced."""
    path = folder / ISSUES
    try:
        written = read_json(folder / RESULT)["best"]["label_issues"]["digest"]
        edited = digest_bytes(path.read_bytes()).hex() != written
    except (OSError, ValueError, TypeError, KeyError):
        return
    if edited:
        found = "found labels that were edited; expected the file of the head that is replaced"
        raise HeadError(f"{path}: {found}; move it to another folder, or name another with -o")


def check_question(folder: Path, class_names: Sequence[str]) -> None:
    """Raise HeadError where a folder has a head that answers another question: no class is common.

    Args:
        folder: The folder to write.
        class_names: The classes of the new head.
    """
    try:
        known = [str(name) for name in read_json(folder / BUNDLE)["class_names"]]
    except (OSError, ValueError, TypeError, KeyError):
        return
    if known and not {*known} & {*class_names}:
        found = f"found a head that knows {listed(known, 'class')}"
        expected = f"none of {listed(class_names, 'class')}"
        raise HeadError(f"{folder}: {found}, {expected}; name another folder with -o, or remove it")


def describe_head(folder: Path) -> str:
    """Name the head in a folder and its score; empty where there is none."""
    try:
        described = read_json(folder / RESULT)
        best, metric = described["candidates"][0], described["metric"]
        return f"{best['name']}, {metric} {best['scores'][metric]:.3f}"
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return ""


def read_checkpoint(folder: Path) -> bytes | None:
    """Return the content of the checkpoint in a folder; None where there is none."""
    path = folder / checkpoint.FILE
    return path.read_bytes() if path.is_file() else None


def reject(folder: Path, former: bytes | None) -> Path:
    """Return the folder of a rejected head, beside that of the former one, which stays as it was.

    Args:
        folder: The folder of the former head.
        former: The content of its checkpoint before this run; None without.

    Raises:
        HeadError: The folder of the rejected head cannot be written, or holds something else.
    """
    rejected, path = folder.with_name(f"{folder.name}.rejected"), folder / checkpoint.FILE
    check_target(rejected)
    if path.is_file():
        rejected.mkdir(exist_ok=True)
        shutil.copyfile(path, rejected / checkpoint.FILE)
        if former is not None:
            path.write_bytes(former)
        else:
            path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
    return rejected


def other_version(folder: Path, described: Mapping[str, Any]) -> str:
    """Say which version of its library trained a head, if another is installed; else ``""``."""
    try:
        library, file = library_of(described["settings"]["head"])
        with zipfile.ZipFile(folder / file):
            # Folders of an earlier headstart have it in ``result.json`` only.
            if not (found := described.get("versions", {}).get(library)):
                found = read_json(folder / RESULT)["versions"][library]
    except Exception:  # zipfile raises a dozen kinds over an odd zip
        return ""
    if not isinstance(found, str) or found == version(library):
        return ""
    return f"trained with {library} {found}, which {version(library)} cannot read"


def library_of(head: str) -> tuple[str, str]:
    """Return the library that trains a head of this name, and the file that only it can read."""
    return ("keras", KERAS_FILE) if head in KERAS_HEADS else ("scikit-learn", SKLEARN_FILE)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, in lines that people can read."""
    path.write_text(_format_json(values) + "\n", encoding="utf-8", newline="\n")


def _format_json(value: Any, indent: str = "\n") -> str:
    """Return JSON text, with one line for each list of plain values and for what is short."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    if isinstance(value, dict) and len(text) > _LONGEST_LINE:
        parts = [f"{json.dumps(name)}: {_format_json(part, inner)}" for name, part in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(part, dict | list) for part in value):
        parts = [_format_json(part, inner) for part in value]
    else:
        return text
    return text[0] + inner + f",{inner}".join(parts) + indent + text[-1]
