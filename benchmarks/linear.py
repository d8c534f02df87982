"""Logistic regression on wide features: a path of penalties in the span against GridSearchCV.

Usage: python -m benchmarks.linear MAPS.h5 [PENALTIES] [PEER_PENALTIES]

MAPS.h5 holds more features than rows, such as mixed7 maps. Both sides standardise inside each of
five folds and see the same folds. The peer may be timed on fewer penalties, its seconds being in
proportion to their number; their scores are compared for those.
"""

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import split_folds
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec

FOLDS = 5
# With scikit-learn's own 1e-4 weak penalties stop after ten steps, up to 0.6 points below.
_TOLERANCE = 1e-6


def ours(dataset: Dataset, penalties: NDArray[np.float64]) -> dict[float, float]:
    """Return the accuracy for each penalty."""
    specs = tuple(HeadSpec("logistic", C=float(C)) for C in penalties)
    result = run(dataset, TrainConfig(specs, FOLDS))
    return {entry.spec.C or 0.0: entry.scores["accuracy"] for entry in result.entries}


def theirs(dataset: Dataset, penalties: NDArray[np.float64]) -> dict[float, float]:
    """Return the accuracy for each penalty, of scikit-learn on the raw matrix."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splits = [(split.train, split.validation) for split in split_folds(dataset, FOLDS)]
    search: Any = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=_TOLERANCE)),
        {"logisticregression__C": penalties},
        cv=splits,
    )
    search.fit(dataset.X.reshape(len(dataset.X), -1), dataset.y)
    sizes = [len(judging) for _, judging in splits]
    parts = np.stack([search.cv_results_[f"split{fold}_test_score"] for fold in range(FOLDS)])
    return dict(zip(penalties.tolist(), np.average(parts, axis=0, weights=sizes), strict=True))


def main(words: list[str]) -> None:
    """Print both times and the largest difference of the scores."""
    dataset = load_dataset(words[0])
    count = int(words[1]) if len(words) > 1 else 20
    some = int(words[2]) if len(words) > 2 else count
    penalties = np.logspace(-5, 1, count)
    few = penalties[:: max(1, count // some)][:some]
    start = time.perf_counter()
    found = ours(dataset, penalties)
    ours_took = time.perf_counter() - start
    start = time.perf_counter()
    wanted = theirs(dataset, few)
    theirs_took = (time.perf_counter() - start) * (count * FOLDS + 1) / (some * FOLDS + 1)
    apart = max(abs(found[C] - wanted[C]) for C in wanted)
    print(f"{dataset.X.shape}: span {ours_took:.1f} s, GridSearchCV {theirs_took:.1f} s")
    print(f"ratio {theirs_took / ours_took:.1f}, largest difference in accuracy {apart:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
