"""What the report and ``result.json`` say of the best head beyond its place on the leaderboard."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.data.out_of_core import Features, StoredRows
from classify.data.splits import TEST, group_names
from classify.heads.registry import needs_memory
from classify.report.diagnostics import (
    Bin,
    ClassQuality,
    Curve,
    Pair,
    Share,
    calibration,
    class_curves,
    class_qualities,
    confident_mistakes,
    confused_pairs,
    share,
)
from classify.report.projection import FeatureMap, map_features
from classify.search.evaluate import evaluate
from classify.search.leaderboard import Result
from classify.search.metrics import confusion_matrix
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from classify.settings.sweep import label
from extract.core.console import log, muted, progress
from extract.core.errors import HeadError

MISTAKES, PAIRS = 100, 12
_WORST_CLASSES = 3
_SIZES = (1 / 8, 1 / 4, 1 / 2)


class Mistake(NamedTuple):
    """An image that the head is sure of and wrong about.

    Attributes:
        row: Its row in the dataset.
        key: Its key.
        truth: Its class in the store.
        answer: The class that the head answers.
        score: The score of that answer, 0 to 1.
    """

    row: int
    key: str
    truth: str
    answer: str
    score: float


class Size(NamedTuple):
    """What a candidate does when trained on ``rows`` of the first split's training rows."""

    rows: int
    accuracy: Share


@dataclass(frozen=True)
class Analysis:
    """The best head, looked at closely, on the rows that judged it.

    Attributes:
        confusion: (K, K) int64 counts, truth on the first axis.
        classes: One a class.
        pairs: Classes that are taken for each other most often.
        roc: Curves of true against false positive rate; see ``quality.class_curves``.
        precision_recall: Curves of precision against recall.
        calibration: Scores against accuracy.
        calibration_error: Mean distance between the two, 0 to 1.
        mistakes: The most confident ones.
        wrong: (E,) int64 rows of the dataset with a wrong answer.
        sized: The candidate that ``sizes`` is about: the best one without epochs, else logistic
            regression; None of a fine-tuned head, and where it needs features in memory.
        sizes: Its accuracy by number of training rows of the first split, fewest first; a size at
            which it cannot be trained is missing.
        maps: The features in two dimensions; empty where they have fewer.
    """

    confusion: NDArray[np.int64]
    classes: list[ClassQuality]
    pairs: list[Pair]
    roc: list[Curve]
    precision_recall: list[Curve]
    calibration: list[Bin]
    calibration_error: float
    mistakes: list[Mistake]
    wrong: NDArray[np.int64]
    sized: str | None
    sizes: list[Size]
    maps: list[FeatureMap]

    def to_dict(self, keys: list[str]) -> dict[str, Any]:
        """Return every number, as JSON can hold it; rows by their keys."""
        found = {
            name: _plain(getattr(self, name))
            for name in ("classes", "pairs", "roc", "precision_recall", "calibration")
        }
        mistakes = [{k: v for k, v in _plain(m).items() if k != "row"} for m in self.mistakes]
        return {
            **found,
            "calibration_error": self.calibration_error,
            "mistakes": {"count": len(self.wrong), "most_confident": mistakes},
            "sized": self.sized,
            "sizes": _plain(self.sizes),
            "maps": [
                {
                    "method": found.method,
                    "keys": [keys[row] for row in found.rows],
                    "x": found.points[:, 0].tolist(),
                    "y": found.points[:, 1].tolist(),
                    "explained": found.explained,
                }
                for found in self.maps
            ],
        }


def _plain(value: Any) -> Any:
    """Return named tuples as dictionaries, all the way down."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def analyse(dataset: Dataset, result: Result, seed: int = 0) -> Analysis:
    """Look closely at the best head of a finished run.

    Args:
        dataset: What was trained on.
        result: What came of it, with scores.
        seed: Decides which rows the smaller training sets have.

    Returns:
        All that the report shows of it. For ``sizes`` a quick head is trained on an eighth, a
        quarter and half of the first split's training rows, and on all if it was not a candidate.
    """
    own = result.dataset
    assert own is not None
    assert result.scores is not None
    judging, scores = result.validation_rows, result.scores
    y, names = dataset.y[judging], dataset.class_names
    units = group_names(dataset)
    witnesses = len({units[row] for row in judging}) / len(judging)
    confusion = confusion_matrix(y, scores.argmax(axis=1), len(names))
    classes = class_qualities(y, scores, names, witnesses)
    bins, error = calibration(y, scores, witnesses)
    sized = _sized(result, own.X)
    return Analysis(
        confusion=confusion,
        classes=classes,
        pairs=confused_pairs(confusion, names, PAIRS) if len(names) > 2 else [],
        roc=class_curves(y, scores, classes, "roc_area", _WORST_CLASSES),
        precision_recall=class_curves(y, scores, classes, "average_precision", _WORST_CLASSES),
        calibration=bins,
        calibration_error=error,
        mistakes=_mistakes(dataset, result),
        wrong=judging[scores.argmax(axis=1) != y],
        sized=label(sized) if sized else None,
        sizes=_sizes(own, sized, result, seed, witnesses) if sized else [],
        maps=map_features(own.X, np.flatnonzero(dataset.split != TEST)),
    )


def _mistakes(dataset: Dataset, result: Result) -> list[Mistake]:
    assert result.scores is not None
    judging, scores, names = result.validation_rows, result.scores, dataset.class_names
    return [
        Mistake(
            row=int(judging[place]),
            key=dataset.keys[judging[place]],
            truth=names[dataset.y[judging[place]]],
            answer=names[scores[place].argmax()],
            score=float(scores[place].max()),
        )
        for place in confident_mistakes(dataset.y[judging], scores, MISTAKES)
    ]


def _sized(result: Result, X: Features) -> HeadSpec | None:
    """Return the candidate to train on fewer rows: the best one without epochs, for it is quick."""
    best = result.best.spec
    same = [entry.spec for entry in result.entries if entry.spec.layer == best.layer]
    quick = [spec for spec in same if spec.head not in KERAS_HEADS]
    spec = quick[0] if quick else HeadSpec("logistic", layer=best.layer)
    lacking = isinstance(X, StoredRows) and needs_memory(spec, X.shape[1:])
    return None if result.finetuned or lacking else spec


def _sizes(
    dataset: Dataset, spec: HeadSpec, result: Result, seed: int, witnesses: float
) -> list[Size]:
    """Judge a candidate, trained on parts of the first split's training rows and on all of them."""
    split = result.splits[0]
    y = dataset.y[split.validation]
    here = np.isin(result.validation_rows, split.validation)
    # Trained on all of them it was judged already, if it is on the leaderboard.
    whole = [e.evaluation.answers[here] for e in result.entries if e.spec == spec]
    parts = subsets(dataset.y[split.train], seed)
    parts += [] if whole else [np.arange(len(split.train))]
    found = []
    with progress(len(parts), "fit", label="fewer images") as bar, muted():
        for part in parts:
            fewer = replace(split, train=split.train[part])
            try:
                ((_, evaluation),) = evaluate(dataset, [spec], [fewer])
            except HeadError as error:
                log.debug("not trained on %d images: %s", len(part), error)
                continue
            found.append((len(part), evaluation.answers))
            bar.update(1)
    found += [(len(split.train), answers) for answers in whole]
    return [
        Size(rows, share(int((answers == y).sum()), len(y), witnesses)) for rows, answers in found
    ]


def subsets(y: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Draw ever larger parts of the rows, each holding the one before it and every class.

    Args:
        y: (A,) classes.
        seed: Decides who is in them.

    Returns:
        Increasing places: about an eighth, a quarter and half of each class; those parts that have
        two rows a class on average.
    """
    generator = np.random.default_rng(seed)
    members = [generator.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    found: list[NDArray[np.int64]] = []
    for part in _SIZES:
        rows = [some[: max(1, round(part * len(some)))] for some in members]
        places = np.sort(np.concatenate(rows))
        fewest = max(2 * len(members), len(found[-1]) + 1 if found else 0)
        if fewest <= len(places) < len(y):
            found.append(places)
    return found
