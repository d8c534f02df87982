"""A trained head on disk: a folder that predicts by itself and says how it came about.

``bundle.json``, ``transform.npz`` and ``head.npz``, ``head.keras`` or ``head.skops`` are what
predicting needs; ``report.html``, ``result.json`` (settings, versions, every number),
``result.csv`` (the leaderboard) and ``timing.json`` are for people. Two runs with the same seed
write the same report and ``result.json`` byte for byte, so seconds live in a file of their own.
The head is there before it is looked at closely: a stop meanwhile costs the report alone.
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data import preprocessing
from classify.data.dataset import Dataset
from classify.heads import registry
from classify.heads.registry import FittedHead
from classify.report.analysis import Analysis
from classify.report.report import write_report
from classify.report.result_json import describe_run
from classify.search import checkpoint
from classify.search.leaderboard import Result
from extract.core.atomic import atomic_write, check_writable
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, SettingError

FORMAT = "headstart head"
FORMAT_VERSION = 1
BUNDLE, RESULT, TIMING = "bundle.json", "result.json", "timing.json"
TABLE, REPORT = "result.csv", "report.html"
FILES = {
    BUNDLE,
    RESULT,
    TABLE,
    TIMING,
    REPORT,
    preprocessing.FILE,
    checkpoint.FILE,
    *registry.FILES,
}


@dataclass(frozen=True)
class TrainedHead:
    """A trained head and all that decides the features it must be given.

    Attributes:
        head: The head.
        class_names: K names, in the order of its scores.
        trunk: The trunk it was trained on.
        weights_sha256: Digest of that trunk's weights.
        dtype: Type the features were stored in.
        precision: What the trunk computed in.
        calibration_sha256: Digest of the images that int8 was calibrated on, else empty.
        layer: The layer whose features it takes; several have ``+`` between them.
        shape: Shape of one image's features.
    """

    head: FittedHead
    class_names: tuple[str, ...]
    trunk: TrunkSpec
    weights_sha256: str
    dtype: str
    precision: str
    calibration_sha256: str
    layer: str
    shape: tuple[int, ...]

    def predict_proba(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Score each class for each row, (N, K).

        Args:
            X: (N, *shape) features.

        Raises:
            HeadError: The head is damaged: some of what is wrong with it shows first here.
        """
        try:
            return self.head.predict_proba(X)
        except MemoryError:
            raise
        except Exception as error:  # scikit-learn raises whatever a damaged head makes it meet
            raise HeadError(
                f"the head cannot score: {type(error).__name__}: {str(error)[:200]}; expected "
                "what train-head wrote; train the head again"
            ) from error


def is_head_folder(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder is a trained head, sound or not."""
    return os.path.isfile(Path(folder) / BUNDLE)  # False, too, of a name that no file can have


def check_target(folder: Path) -> None:
    """Raise HeadError unless a bundle can be written there without losing anything but a bundle."""
    check_writable(folder, HeadError)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise HeadError(f"{folder}: found a file; expected a folder or nothing; name another")
    found = {entry.name for entry in folder.iterdir()}
    if found and found != {checkpoint.FILE} and (BUNDLE not in found or found - FILES):
        raise HeadError(
            f"{folder}: found {', '.join(sorted(found - FILES)[:3]) or 'an unfinished head'}; "
            "expected a folder that is new, empty or only a trained head; name another with -o"
        )


def save_head(folder: Path, dataset: Dataset, result: Result, store: str) -> None:
    """Write the chosen head and what is known of the run by now; all of it or nothing.

    Args:
        folder: Where to; a bundle that is there already is replaced.
        dataset: What was trained on.
        result: What came of it.
        store: The store, as the user named it.

    Raises:
        HeadError: The folder cannot be written, or holds something else.
    """
    check_target(folder)
    with atomic_write(folder, HeadError) as beside:
        beside.mkdir()
        assert result.head is not None
        result.head.save(beside)
        identity = _identity(dataset, result)
        _write_json(beside / BUNDLE, identity)
        _write_json(beside / RESULT, identity | describe_run(dataset, result, store))
        result.write_csv(beside / TABLE)
        if (folder / checkpoint.FILE).exists():
            shutil.copyfile(folder / checkpoint.FILE, beside / checkpoint.FILE)


def save_report(
    folder: Path,
    dataset: Dataset,
    result: Result,
    analysis: Analysis,
    store: str,
    timing: Mapping[str, float],
) -> None:
    """Put the report and every number of it beside a head; all of it or nothing.

    Args:
        folder: What ``save_head`` wrote.
        dataset: What was trained on.
        result: What came of it.
        analysis: The best head, looked at closely.
        store: The store, as the user named it.
        timing: Step -> seconds.

    Raises:
        HeadError: The folder cannot be written.
    """
    made_here = shutil.ignore_patterns(RESULT, TIMING, REPORT)
    with atomic_write(folder, HeadError) as beside:
        shutil.copytree(folder, beside, copy_function=_link, ignore=made_here)
        described = json.loads((folder / RESULT).read_bytes())
        _write_json(beside / RESULT, described | {"best": analysis.to_dict(dataset.keys)})
        _write_json(beside / TIMING, {name: round(spent, 3) for name, spent in timing.items()})
        write_report(beside / REPORT, dataset, result, analysis, store)


def _link(file: str, beside: str) -> None:
    """Let a large head have two names for a while, or copy it where files have one."""
    try:
        os.link(file, beside)
    except OSError:
        shutil.copyfile(file, beside)


def load_head(folder: Path) -> TrainedHead:
    """Read a bundle; nothing in it is run as code.

    Args:
        folder: What ``train-head`` wrote.

    Returns:
        The bundle, its parts checked against each other.

    Raises:
        HeadError: The folder is no bundle, a newer one, or damaged.
    """
    described = _read_identity(folder)
    try:
        "".join(described["class_names"]).encode()  # what is no text raises
        bundle = TrainedHead(
            head=FittedHead.load(folder, described["settings"]["head"]),
            class_names=tuple(described["class_names"]),
            trunk=TrunkSpec.from_dict(described["trunk"]),
            weights_sha256=described["weights_sha256"],
            dtype=described["dtype"],
            precision=described["precision"],
            calibration_sha256=described["calibration_sha256"],
            layer=described["layer"],
            shape=tuple(described["shape"]),
        )
        fits = bundle.head.fits(bundle.shape, len(bundle.class_names))
    except (KeyError, SettingError) as error:
        raise HeadError(f"{folder / BUNDLE}: damaged: {error}; train the head again") from error
    except Exception as error:  # Keras and skops raise whatever a damaged file makes them meet
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # of the machine, not of the head
        said = str(error).strip().splitlines() or [""]
        raise HeadError(
            f"{folder}: the head cannot be read: {type(error).__name__}: {said[0][:200]}; "
            "expected what train-head wrote; train the head again"
        ) from error
    if not fits:
        raise HeadError(
            f"{folder}: the head does not take {bundle.shape} and score "
            f"{len(bundle.class_names)} classes, as {BUNDLE} says; train the head again"
        )
    return bundle


def _read_identity(folder: Path) -> dict[str, Any]:
    """Read ``bundle.json`` and make sure that it is one."""
    expected = "expected a folder that train-head wrote"
    try:
        content = (folder / BUNDLE).read_bytes()
    except OSError as error:
        raise HeadError(f"{folder}: no readable {BUNDLE}; {expected}") from error
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{folder / BUNDLE}: not JSON; {expected}; train it again") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise HeadError(f"{folder / BUNDLE}: of another program; {expected}")
    if described.get("format_version") != FORMAT_VERSION:
        raise HeadError(
            f"{folder / BUNDLE}: format {described.get('format_version')}; expected "
            f"{FORMAT_VERSION}; upgrade headstart or train the head again"
        )
    return described


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _identity(dataset: Dataset, result: Result) -> dict[str, Any]:
    """Return what predicting needs to know, and what sets this head apart from others."""
    own = result.dataset
    assert own is not None
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": result.best.spec.to_dict(),
        "class_names": list(dataset.class_names),
        "trunk": dataset.trunk.to_dict(),
        "weights_sha256": dataset.weights_sha256,
        "dtype": dataset.dtype,
        "precision": dataset.precision,
        "calibration_sha256": dataset.calibration_sha256,
        "layer": own.layer,
        "shape": list(own.X.shape[1:]),
    }
