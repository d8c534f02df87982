"""The head that gave an answer, and the rows that it was trained on; with folds, one of several."""

from typing import NamedTuple

import numpy as np

from classify.heads.registry import FittedHead
from classify.search.evaluate import fit_batch, prepare_fold
from classify.search.leaderboard import Result
from classify.stored.out_of_core import Labels

# Seconds that all folds took, above which the heads of folds are not trained again.
MOST_SECONDS = 10.0
# The largest difference between the scores of a head that was trained again and the reported ones.
_SAME_SCORES = 1e-3


class ScoredBy(NamedTuple):
    """Rows that one head scored.

    Attributes:
        places: (n,) their places among the rows that were asked for.
        trained: (A,) the rows that it was trained on.
        fold: Number of its split.
    """

    places: Labels
    trained: Labels
    fold: int


def group_by_head(result: Result, rows: Labels) -> list[ScoredBy]:
    """Divide validation rows by the head that scored them."""
    parts = []
    for fold, split in enumerate(result.splits):
        places = np.flatnonzero(np.isin(rows, split.validation))
        if not split.repeat and len(places):
            parts.append(ScoredBy(places, split.train, fold))
    return parts


def open_head(result: Result, fold: int, rows: Labels) -> FittedHead | str:
    """Return the head that scored some validation rows, or the reason why it is not known.

    Heads of folds are not kept: they are trained again, and must give the scores of the report.

    Args:
        result: The result of the run.
        fold: Number of the split.
        rows: (n,) some of its validation rows.
    """
    assert result.head
    if len(result.splits) == 1:
        return result.head
    evaluation, own = result.best.evaluation, result.dataset
    assert own is not None
    assert result.scores is not None
    if evaluation.seconds > MOST_SECONDS:
        return "the heads of the folds are not kept"
    spec = result.best.spec
    with_views = spec.views in ("random", "all")
    transform, prepared = prepare_fold(own, result.splits, fold, spec.transform or (), with_views)
    head = fit_batch([spec], prepared, transform)[0]
    known = result.scores[np.searchsorted(result.validation_rows, rows)]
    order = np.argsort(rows)
    scores = np.empty_like(known)
    scores[order] = head.predict_proba(own.X[rows[order]])
    if np.abs(scores - known).max() > _SAME_SCORES:
        return "the head of the fold is not kept, and training it again gives another one"
    return head
