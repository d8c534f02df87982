"""Checkpoint of the evaluated candidates, with which a stopped search continues."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from classify.data.dataset import Dataset
from classify.data.splits import Split
from classify.search.evaluate import Evaluation
from classify.settings.config import TrainConfig
from classify.settings.head_spec import KERAS_HEADS, HeadSpec, groups_of
from extract.trunks.configuration import backend_name, installed_version

FILE = "candidates.jsonl"
# The fields of a line beside the arrays.
_FIELDS = ("train_accuracy", "seconds", "history", "epochs", "failed")


class Checkpoint:
    """A file with one line of JSON per evaluated candidate, after a line that names the rows.

    A line of another kind has what a budget left out.

    Damaged and incomplete lines are skipped, and so are candidates of other versions of the
    libraries that train them. A file for other rows or splits is ignored.

    Args:
        folder: Folder of the file; None keeps no file.
        dataset: The rows.
        splits: Training and validation rows of the evaluations; also an attribute.
        config: The candidates. With halving their results depend on each other: candidates that
            train together are restored together or not at all.

    Attributes:
        evaluations: The evaluations of the candidates, restored or added.
    """

    def __init__(
        self, folder: Path | None, dataset: Dataset, splits: Sequence[Split], config: TrainConfig
    ) -> None:
        self.splits = splits
        rows = b"".join(s.train.tobytes() + b"|" + s.validation.tobytes() for s in splits)
        digest = hashlib.blake2b(rows, digest_size=16).hexdigest()
        halved = [spec.to_dict() for spec in config.candidates if config.halving]
        header = {"fingerprint": dataset.fingerprint, "splits": digest, "halving": halved}
        self._header, self._layer = json.dumps(header), dataset.layer
        self._positive = dataset.positive_label
        self._path = folder / FILE if folder else None
        heads = {spec.head for spec in config.candidates}
        self._versions = {head: library_versions([head]) for head in heads}
        self._choices: dict[str, dict[str, float]] = {}
        self._started = False  # whether the file is one of these rows
        stored = self._read()
        self._pending = ""  # a choice, which is written with the first candidate
        known = {spec: stored.get(self._key(spec)) for spec in config.candidates}
        for group in groups_of(config.candidates) if config.halving else []:
            rivals = [config.candidates[position] for position in group]
            if not all(known[spec] for spec in rivals):
                known |= dict.fromkeys(rivals)
        self.evaluations = {spec: found for spec, found in known.items() if found}

    def _read(self) -> dict[str, Evaluation]:
        """Read the file, and cut off an incomplete last line."""
        if not self._path or not self._path.is_file():
            return {}
        content = self._path.read_bytes()
        header, *lines = content.split(b"\n")
        if header != self._header.encode() or not lines:
            return {}
        self._started = True
        if incomplete := lines.pop():  # in place: a kill while rewriting would lose the file
            os.truncate(self._path, len(content) - len(incomplete))
        self._choices |= dict(filter(None, map(_parse_choice, lines)))
        return dict(filter(None, map(_parse, lines)))

    def choice(self, config: TrainConfig) -> dict[str, float] | None:
        """Return the candidates that a former run of this budget left out; None without one."""
        return self._choices.get(self._choice_key(config))

    def choose(self, config: TrainConfig, left_out: Mapping[str, float]) -> None:
        """Keep the candidates that the budget leaves out, by label, with their seconds."""
        self._pending = json.dumps([self._choice_key(config), {"left_out": left_out}]) + "\n"
        if self._started and self._path:
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(self._pending)
            self._pending = ""

    def _choice_key(self, config: TrainConfig) -> str:
        keys = sorted(map(self._key, config.candidates))
        digest = hashlib.blake2b(json.dumps(keys).encode(), digest_size=16).hexdigest()
        return f"budget {config.budget:g} {digest}"

    def _key(self, spec: HeadSpec) -> str:
        layer = "+".join(spec.layer) or self._layer
        decided_by = {"versions": self._versions[spec.head], "positive": self._positive}
        return json.dumps({**spec.to_dict(), "layer": layer, **decided_by}, sort_keys=True)

    def add(self, spec: HeadSpec, evaluation: Evaluation) -> None:
        """Write an evaluation; a failed one alone creates no file."""
        self.evaluations[spec] = replace(evaluation, scores=None)  # memory may not hold all scores
        if not self._path or (evaluation.failed and not self._started):
            return
        names = ("answers", "true_scores", "areas")
        arrays = {name: getattr(evaluation, name).tolist() for name in names}
        if not np.isfinite(evaluation.areas).all():
            arrays["areas"] = [[None] * len(evaluation.answers)] * 2  # JSON has no NaN
        values = {"judged": arrays} | {name: getattr(evaluation, name) for name in _FIELDS}
        self._path.parent.mkdir(exist_ok=True)
        mode = "a" if self._started else "w"
        with self._path.open(mode, encoding="utf-8", newline="\n") as file:
            file.write("" if self._started else self._header + "\n")
            file.write(self._pending)
            file.write(json.dumps([self._key(spec), values]) + "\n")
        self._started, self._pending = True, ""


def library_versions(heads: Iterable[str]) -> dict[str, str]:
    """Return the versions that decide the numbers of heads, without loading a library."""
    libraries = ["headstart", "numpy", "scikit-learn"]
    libraries += ["keras", backend_name()] if set(heads) & set(KERAS_HEADS) else []
    return {name: installed_version(name) for name in libraries}


def _parse(line: bytes) -> tuple[str, Evaluation] | None:
    """Parse a line; None where it is damaged."""
    try:
        key, values = json.loads(line)
        answers = np.array(values["judged"]["answers"], np.int64)
        true_scores = np.array(values["judged"]["true_scores"], np.float64)
        fields = {name: values[name] for name in _FIELDS if name in values}
        areas = np.array(values["judged"]["areas"], np.float64).reshape(2, len(answers))
        return str(key), Evaluation(answers, true_scores, areas, **fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _parse_choice(line: bytes) -> tuple[str, dict[str, float]] | None:
    """Parse what a budget left out; None of other lines."""
    try:
        key, values = json.loads(line)
        return str(key), {str(name): float(own) for name, own in values["left_out"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
