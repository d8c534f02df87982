"""The head that gave an answer, and the rows that it was trained on; with folds, one of several."""

from typing import NamedTuple

import numpy as np

from classify.heads.registry import FittedHead
from classify.search.costs import USUAL_MACHINE
from classify.search.evaluate import fit_batch, prepare_fold
from classify.search.feasibility import estimate
from classify.search.leaderboard import Result
from classify.stored.out_of_core import Labels

# Seconds for all folds on the usual machine, above which their heads are not trained again: what
# was measured would leave out overlays of one run and not of the next.
_MOST_SECONDS = 10.0
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
    own, spec = result.dataset, result.best.spec
    assert own is not None
    assert result.scores is not None
    folds = [split for split in result.splits if not split.repeat]
    if estimate(own, [spec], folds, USUAL_MACHINE)[spec] > _MOST_SECONDS:
        return "the heads of the folds are not kept, and training them again takes too long"
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
