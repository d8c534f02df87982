"""The folder of a trained head: the files that predict, and the files that describe the run.

Predicting needs ``bundle.json``, ``transform.npz`` and one of ``head.npz``, ``head.keras`` and
``head.skops``; ``report.html``, ``result.json`` (settings, versions, every number), ``result.csv``
(the leaderboard), ``predictions.csv`` (every scored image), ``label_issues.csv`` and
``timing.json`` are for people. Two runs of the same heads with the same seed write the same files
byte for byte, as measurements are rounded to digits that do not depend on the threads; but training
seconds differ, in ``timing.json``, ``candidates.jsonl``, the report and its figures, and which
default heads fit into a budget depends on the machine. The head is saved before it is analysed: an
interruption then loses the report only.
"""

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.activation.explain import Explained
from classify.data.dataset import Dataset
from classify.data.table_rows import TableRecord, records_from_json, records_to_json
from classify.diagnosis.analysis import Analysis
from classify.figures.result_figures import draw_figures
from classify.heads.registry import FittedHead
from classify.inference.head_folder import (
    BUNDLE,
    FIGURES,
    ISSUES,
    PREDICTIONS,
    REPORT,
    RESULT,
    TABLE,
    TIMING,
    PathLike,
    check_target,
    library_of,
    link_file,
    other_version,
    write_json,
)
from classify.inference.training_images import save_training_images
from classify.output.figure_files import write_figures
from classify.output.scored_images import write_scored_images
from classify.report.report import write_report
from classify.report.run_record import describe_analysis, describe_run, describe_timing
from classify.search import checkpoint
from classify.search.leaderboard import Result
from classify.stored.out_of_core import join_layers
from classify.stored.parts import MadeBy
from extract.core.atomic import atomic_write
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, TrunkError, nearest_path, quoted
from extract.images.item import reason_of
from extract.images.remote import check_local
from extract.limits.unpacked import read_json
from extract.store.format import read_trunk

FORMAT = "headstart head"
# The latter two of features of another program, and of joined layers of several stores.
FORMAT_VERSION, FOREIGN_VERSION, JOINED_VERSION = 1, 2, 3
_EXPECTED = "expected a folder that train-head wrote; train the head again"
# Fields of a dataset that are recorded for its heads as they are.
_RECORDED = ("weights_sha256", "dtype", "precision", "calibration_sha256")


@dataclass(frozen=True, repr=False)
class TrainedHead:
    """A trained head and the settings of the features that it takes.

    Attributes:
        name: The kind of head, such as ``logistic``.
        head: The head.
        class_names: K names, in the order of its scores.
        trunk: The trunk that it was trained on; its name is empty without one, or of several.
        weights_sha256: Digest of that trunk's weights.
        dtype: Type that the features were stored in.
        precision: Type that the trunk computed in.
        calibration_sha256: Digest of the images that int8 was calibrated on, else empty.
        layer: The layer whose features it takes; several have ``+`` between them.
        shape: Shape of one image's features.
        labels: The tables that its labels came from, each with its digest; none where they are
            those of the file of features.
        columns: The columns of these tables, as the user named them.
        joined: The trunk of each store, where layers of several were joined; else empty.
    """

    name: str
    head: FittedHead
    class_names: tuple[str, ...]
    trunk: TrunkSpec
    weights_sha256: str
    dtype: str
    precision: str
    calibration_sha256: str
    layer: str
    shape: tuple[int, ...]
    labels: tuple[TableRecord, ...] = ()
    columns: str = ""
    joined: tuple[MadeBy, ...] = ()

    def __repr__(self) -> str:
        more = ", ..." if len(self.class_names) > 10 else ""
        names = ", ".join(map(quoted, self.class_names[:10])) + more
        classes = f"{len(self.class_names)} classes ({names})"
        trunks = [made.trunk.trunk for made in self.joined] or [self.trunk.trunk]
        trunk = " and ".join(f"trunk {quoted(name)}" if name else "no trunk" for name in trunks)
        made_by = f"{trunk}, layer {quoted(self.layer)}"
        return f"TrainedHead: {self.name}, {classes}, {made_by}"

    def select(self, features: Mapping[str, Any]) -> list[Any]:
        """Return the features of the head's layers; a single layer may have ``+`` in its name."""
        names = [self.layer] if self.layer in features else self.layer.split("+")
        return [features[name] for name in names]

    def score(self, features: Mapping[str, np.ndarray]) -> NDArray[np.floating]:
        """Score each class for (N, *shape) features by layer, (N, K)."""
        return self.predict_proba(join_layers(self.select(features)))

    def predict_proba(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Score each class for each row, (N, K).

        Args:
            X: (N, *shape) features.

        Raises:
            HeadError: The head is damaged; some damage shows only here.
        """
        try:
            return self.head.predict_proba(X)
        except MemoryError:
            raise
        except Exception as error:  # a damaged scikit-learn head can raise anything
            problem = f"the head cannot score: {type(error).__name__}: {reason_of(error)}"
            raise HeadError(f"{problem}; {_EXPECTED}") from error


def save_head(folder: Path, dataset: Dataset, result: Result, store: str | Sequence[str]) -> None:
    """Write the best head and the results of the run with an atomic write.

    Args:
        folder: The folder; an earlier head there is replaced.
        dataset: The rows that were trained on.
        result: The result of the run.
        store: The store or stores, as the user named them.

    Raises:
        HeadError: The folder cannot be written, or holds something else.
    """
    check_target(folder)
    with atomic_write(folder, HeadError) as temporary:
        temporary.mkdir()
        assert result.head
        result.head.save(temporary)
        identity = _identity(dataset, result)
        write_json(temporary / BUNDLE, identity)
        write_json(temporary / RESULT, identity | describe_run(dataset, result, store))
        result.write_csv(temporary / TABLE)
        write_scored_images(temporary / PREDICTIONS, dataset, result)
        save_training_images(temporary, dataset, result)
        if (folder / checkpoint.FILE).exists():
            shutil.copyfile(folder / checkpoint.FILE, temporary / checkpoint.FILE)


def save_report(
    folder: Path,
    dataset: Dataset,
    result: Result,
    analysis: Analysis,
    explained: Explained,
    timing: Mapping[str, float],
    figures: bool = False,
) -> None:
    """Add the report and all of its numbers to a saved head with an atomic write.

    Args:
        folder: The folder that ``save_head`` wrote.
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
        explained: The mistakes that the report shows.
        timing: Step -> seconds.
        figures: Whether to write figures for papers, too.

    Raises:
        HeadError: The folder cannot be written.
    """
    rest = shutil.ignore_patterns(RESULT, TIMING, REPORT, ISSUES)
    with atomic_write(folder, HeadError) as temporary:
        shutil.copytree(folder, temporary, copy_function=link_file, ignore=rest)
        described = json.loads((folder / RESULT).read_bytes())
        drawings = draw_figures(dataset, result, analysis).values() if figures else ()
        written = write_figures(temporary / FIGURES, drawings) if figures else []
        analysed = describe_analysis(dataset, result, analysis, explained)
        write_json(temporary / RESULT, described | analysed | {"figures": written})
        write_json(temporary / TIMING, describe_timing(result, timing))
        analysis.label_issues.write_csv(temporary / ISSUES)
        stores = described["store"]
        write_report(temporary / REPORT, dataset, result, analysis, stores, explained, described)


def load_head(folder: PathLike) -> TrainedHead:
    """Read a trained head; nothing in its folder is run as code.

    Args:
        folder: A folder made by train-head.

    Returns:
        The head, its parts checked against each other.

    Raises:
        HeadError: The folder is no trained head, has a newer format, or is damaged.
    """
    folder = Path(folder)
    described = _read_identity(folder)
    try:
        names, name = tuple(described["class_names"]), described["settings"]["head"]
        "".join(names).encode()  # raises where a name is not valid text
        head = TrainedHead(
            name,
            FittedHead.load(folder, name),
            names,
            trunk=read_trunk(described["trunk"] or {"layer": [described["layer"]]}),
            shape=tuple(described["shape"]),
            joined=_joined(described),
            labels=records_from_json(described),
            columns=str(described.get("columns", "")),
            **{field: described[field] for field in ("layer", *_RECORDED)},
        )
        fits = head.head.fits(head.shape, len(names))
    except TrunkError:  # the Keras of this machine cannot be loaded
        raise
    except Exception as error:  # Keras and skops can raise anything for a damaged file
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # a limit of the machine, not a damaged head
        if found := other_version(folder, described):
            raise HeadError(f"{folder}: {found}; train the head again") from error
        problem = f"damaged, the head cannot be read: {type(error).__name__}: {reason_of(error)}"
        raise HeadError(f"{folder}: {problem}; {_EXPECTED}") from error
    if not fits:
        problem = f"does not take {head.shape} and score {len(names)} classes, as {BUNDLE} says"
        raise HeadError(f"{folder}: the head {problem}; train the head again")
    return head


def _joined(described: Mapping[str, Any]) -> tuple[MadeBy, ...]:
    """Return the trunk of each store whose layers a head takes joined; none of another head."""
    joined = described["format_version"] == JOINED_VERSION
    return tuple(map(MadeBy.from_dict, described["joined"])) if joined else ()


def _read_identity(folder: Path) -> dict[str, Any]:
    """Read ``bundle.json`` and check its format."""
    check_local(folder, HeadError)
    path = folder / BUNDLE
    try:
        described = read_json(path)
    except (OSError, ValueError) as error:
        problem = f"no readable {BUNDLE}" if isinstance(error, OSError) else f"{BUNDLE}: {error}"
        if not folder.exists():
            found = f"no such folder{nearest_path(folder)}"
            raise HeadError(f"{folder}: {found}; expected one that train-head wrote") from error
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            problem = f"not JSON in {BUNDLE}"
        raise HeadError(f"{folder}: {problem}; {_EXPECTED}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise HeadError(f"{path}: from another program; {_EXPECTED}")
    if (version_of := described.get("format_version")) not in (1, 2, 3):
        remedy = "upgrade headstart or train again"
        raise HeadError(f"{path}: format {version_of}; expected 1 to 3; {remedy}")
    return described


def _identity(dataset: Dataset, result: Result) -> dict[str, Any]:
    """Return the content of ``bundle.json``: the fields of ``TrainedHead``, and who can read it."""
    own = result.dataset
    assert own is not None
    library, _ = library_of(result.best.spec.head)
    known = own.trunk.trunk and not own.joined
    version_of_format = FORMAT_VERSION if known else FOREIGN_VERSION
    joined = {"joined": [made_by.to_dict() for made_by in own.joined]} if own.joined else {}
    return {
        "format": FORMAT,
        "format_version": JOINED_VERSION if joined else version_of_format,
        "settings": result.best.spec.to_dict(),
        "class_names": list(dataset.class_names),
        "trunk": own.trunk.to_dict() if known else None,
        **{field: getattr(own, field) for field in _RECORDED},
        **joined,
        "layer": own.store.choose(own.layer).own_name if own.store else own.layer,
        "shape": list(own.X.shape[1:]),
        "versions": {library: version(library)},
        **records_to_json(dataset.labels, dataset.label_columns),
    }
