"""Candidates that are finished, kept beside the head so that a stopped run can go on."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.splits import Split
from classify.search.bootstrap import Judged
from classify.search.evaluate import Outcome
from classify.settings.head_spec import HeadSpec

FILE = "candidates.jsonl"


class Checkpoint:
    """A line of JSON for each finished candidate, behind a line that says of which rows.

    A line that was cut off by a kill, or is damaged, is passed over; what is of other rows or
    splits is dropped.

    Args:
        folder: Where it lies; None keeps nothing.
        fingerprint: Of the dataset.
        splits: Who judges.
        halved: Candidates of which the worse half was stopped early: what one did depends on who
            the others were.
    """

    def __init__(
        self,
        folder: Path | None,
        fingerprint: str,
        splits: Sequence[Split],
        halved: Sequence[HeadSpec] = (),
    ) -> None:
        sides = hashlib.blake2b(digest_size=16)
        for split in splits:
            sides.update(split.train.tobytes() + b"|" + split.validation.tobytes())
        rivals = [spec.to_dict() for spec in halved]
        self._head = json.dumps(
            {"fingerprint": fingerprint, "splits": sides.hexdigest(), "halving": rivals}
        )
        self._path = folder / FILE if folder else None
        self.found: dict[str, Outcome] = {}
        if self._path and self._path.is_file():
            content = self._path.read_bytes()
            first, *lines = content.split(b"\n")
            if first == self._head.encode() and lines:
                cut = lines.pop()
                self.found = dict(filter(None, map(_read, lines)))
                if cut:  # not written anew: a kill in between would cost all of it
                    os.truncate(self._path, len(content) - len(cut))

    def get(self, spec: HeadSpec, layer: str) -> Outcome | None:
        """Return what a candidate did on a layer, if it is known."""
        return self.found.get(_key(spec, layer))

    def add(self, spec: HeadSpec, layer: str, outcome: Outcome) -> None:
        """Keep what a candidate did; one that is of no use makes no folder by itself."""
        if outcome.failed and not self.found:
            return
        key = _key(spec, layer)
        new = not self.found
        self.found[key] = outcome
        if not self._path:
            return
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("w" if new else "a", encoding="utf-8") as file:
            file.write(self._head + "\n" if new else "")
            file.write(json.dumps([key, _plain(outcome)]) + "\n")


def _key(spec: HeadSpec, layer: str) -> str:
    return json.dumps({**spec.to_dict(), "layer": layer}, sort_keys=True)


def _plain(outcome: Outcome) -> dict[str, Any]:
    judged = {name: values.tolist() for name, values in outcome.judged._asdict().items()}
    return {**outcome._asdict(), "judged": judged}


def _read(line: bytes) -> tuple[str, Outcome] | None:
    """Return a candidate and what it did, or None where the line is damaged."""
    try:
        key, values = json.loads(line)
        judged = values["judged"]
        values["judged"] = Judged(
            np.array(judged["answers"], np.int64), np.array(judged["true_scores"], np.float64)
        )
        return str(key), Outcome(**values)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
