"""A short run of what ``python -m tests.fuzz`` does at length, and what that has found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.inference.bundle import load_head
from classify.settings.head_spec import HeadSpec
from extract.core.errors import HeadError, SourceError
from tests.fuzz import fuzz
from tests.fuzz_targets import TARGETS, write_head
from tests.test_inference_bundle import dataset, run_of

TRIES = {
    **{"decode": 600, "manifest": 300, "labels": 300, "archive": 300, "records": 300},
    **{"bundle": 120, "weights": 120, "trunk": 60},
    **{"store": 60, "shards": 40, "pixels": 200},
}


SLOW = {"shards": pytest.mark.slow}


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=SLOW.get(name, ())) for name in TARGETS]
)
def test_mutants_are_read_or_refused(target: str, tmp_path: Path) -> None:
    found = fuzz(target, tmp_path, TRIES[target], seed=1)
    assert found.findings == {}
    assert found.outcomes["read"] + found.outcomes["refused"] == TRIES[target]
    assert min(found.outcomes.values()) > TRIES[target] / 20


def test_what_a_library_says_does_not_break_the_line() -> None:
    # Of a damaged Parquet file; of a table whose heading holds a control character.
    error = SourceError("table: Invalid data\nDeserializing failed.\n; expected path\x08label")
    assert str(error) == "table: Invalid data Deserializing failed. ; expected path label"


def test_a_head_that_fails_only_when_it_scores_is_named(tmp_path: Path) -> None:
    result = run_of(HeadSpec("logistic"))
    assert result.head is not None
    kept: Any = result.head.head
    kept._model = kept._model._replace(intercept=np.array(["a"] * 1))
    write_head(tmp_path / "head", result)
    bundle = load_head(tmp_path / "head")
    with pytest.raises(HeadError, match=r"the head cannot score: .*; train the head again"):
        bundle.predict_proba(dataset().X)
