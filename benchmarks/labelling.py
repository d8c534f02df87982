"""Rules that choose the images to label next: accuracy by number of labels, against random choice.

Usage: python -m benchmarks.labelling OUT.h5 ... [--seeds 10] [--rounds 10] [--batch 30]

Each OUT.h5 has a label for every image, which stands for the person who labels. Per seed a third of
the images is held out and never chosen; each round adds a batch of labels, and a logistic
regression (C 0.03 on standardised features, as ``train-head`` has) is scored on the held-out
images. The difference to random choice is paired by seed; the interval is Student's t over seeds.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping

import h5py
import numpy as np
from numpy.typing import NDArray

from classify.labelling.choice import choose_different, least_sure, unit_rows

Rows = NDArray[np.float32]
Places = NDArray[np.int64]
Scores = NDArray[np.float64]
# Features and scores of the images without a label, their number, and random numbers.
Rule = Callable[[Rows, Scores, int, np.random.Generator], Places]


def margins_of(scores: Scores) -> Scores:
    """Best score minus second of each row."""
    ordered = np.sort(scores, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def by_chance(X: Rows, _: Scores, count: int, random: np.random.Generator) -> Places:
    """Any images."""
    return random.choice(len(X), count, replace=False)


def by_margin(_: Rows, scores: Scores, count: int, __: np.random.Generator) -> Places:
    """The least sure ones."""
    return np.argsort(margins_of(scores), kind="stable")[:count]


def by_badge(X: Rows, scores: Scores, count: int, random: np.random.Generator) -> Places:
    """Gradients of the last layer, drawn as k-means++ draws centres.

    Source: Ash et al., Deep batch active learning by diverse, uncertain gradient lower bounds, 2020
    """
    rows, parts = unit_rows(X), scores.copy()
    parts[np.arange(len(parts)), parts.argmax(axis=1)] -= 1
    squares = (parts**2).sum(axis=1)

    def distances(i: int) -> Scores:
        products = (parts @ parts[i]) * (rows @ rows[i])
        return np.asarray(np.maximum(0, squares + squares[i] - 2 * products))

    chosen = [int(squares.argmax())]
    nearest = distances(chosen[0])
    while len(chosen) < count:
        nearest[chosen] = 0
        chosen.append(int(random.choice(len(nearest), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, distances(chosen[-1]))
    return np.array(chosen)


def by_clusters(X: Rows, scores: Scores, count: int, random: np.random.Generator) -> Places:
    """As ``predict-images --to-label`` chooses."""
    margins = margins_of(scores)
    pool = least_sure(margins, count)
    return pool[choose_different(X[pool], count, margins[pool], int(random.integers(2**31)))]


# Name -> the rule, and whether the first round is chosen by clusters instead of by chance.
RULES: Mapping[str, tuple[Rule, bool]] = {
    "random": (by_chance, False),
    "clusters once, then random": (by_chance, True),
    "clusters once, then margin": (by_margin, True),
    "clusters once, then BADGE": (by_badge, True),
    "--to-label": (by_clusters, True),
}


def fit(X: Rows, y: Places, new: Rows) -> tuple[Places, Scores]:
    """Return the known classes, and the scores of new rows; in the row space, which is faster."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale[scale < 1e-6] = 1
    rows = (X - mean) / scale
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    model = LogisticRegression(C=0.03, max_iter=500).fit(rows @ basis.T, y)
    return model.classes_, model.predict_proba((new - mean) / scale @ basis.T)


def simulate(X: Rows, y: Places, rule: str, seed: int, rounds: int, batch: int) -> list[float]:
    """Return the accuracy on held-out images after each round."""
    order = np.random.default_rng(1000 + seed).permutation(len(y))
    held, pool = order[: len(y) // 3], order[len(y) // 3 :]
    choose, clusters = RULES[rule]
    random, accuracies = np.random.default_rng(seed), []
    first = choose_different(X[pool], batch, seed=seed) if clusters else np.arange(batch)
    labelled, pool = pool[first], np.delete(pool, first)
    while True:
        known, scores = fit(X[labelled], y[labelled], X[np.concatenate([held, pool])])
        answers = known[scores[: len(held)].argmax(axis=1)]
        accuracies.append(float((answers == y[held]).mean()))
        if len(accuracies) == rounds or len(pool) <= batch:
            return accuracies
        places = choose(X[pool], scores[len(held) :], batch, random)
        labelled, pool = np.concatenate([labelled, pool[places]]), np.delete(pool, places)


def interval(differences: Scores) -> str:
    """The mean of paired differences in points, with a 95 % interval."""
    from scipy.stats import t

    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return f"{100 * differences.mean():+.1f} ± {100 * half:.1f}"


def main() -> None:
    """Print a table for each file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+")
    for name, default in (("seeds", 10), ("rounds", 10), ("batch", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    # Of few labels more than half may be classes, which scikit-learn doubts.
    warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
    for path in given.files:
        with h5py.File(path) as file:
            X, y = file["features"][:].astype(np.float32), file["labels"][:]
        began, base = time.perf_counter(), None
        shown = [r for r in (1, 2, 3, 5, 10) if r <= given.rounds]
        heads = [f"{r * given.batch} labels" for r in shown]
        print(f"\n{path}: accuracy, and points above random choice\n")
        print(
            f"| rule | {' | '.join(heads)} | mean of all rounds |\n| {'--- | ' * (len(shown) + 2)}"
        )
        for rule in RULES:
            runs = [
                simulate(X, y, rule, seed, given.rounds, given.batch) for seed in range(given.seeds)
            ]
            values = np.array(runs)
            base = values if base is None else base
            cells = [f"{values[:, r - 1].mean():.3f}" for r in shown if r <= values.shape[1]]
            if values is not base:
                gains = (interval((values - base)[:, r - 1]) for r in shown if r <= values.shape[1])
                cells = [f"{cell} ({gain})" for cell, gain in zip(cells, gains, strict=True)]
            mean = f"{values.mean():.3f}"
            if values is not base:
                mean += f" ({interval((values - base).mean(axis=1))})"
            print(f"| {rule} | {' | '.join([*cells, mean])} |", flush=True)
        print(f"\n{given.seeds} seeds, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
