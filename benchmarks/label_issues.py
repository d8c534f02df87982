"""Planted wrong labels: how many are among the first images that ``find_label_issues`` names.

    python benchmarks/label_issues.py caltech.h5 horses.h5 --seeds 5

Five per cent of the labels are replaced, by another class at random or by the most similar class.
The table has the share of planted labels among the first N candidates, N their number (precision
and recall are equal there), among the first N/2 (precision), and of all candidates (recall), for
three ways to rank them: the ratio of the two scores, which is used, the score of the label alone,
and the margin of confident learning, whose thresholds choose its candidates.
"""

import argparse
from dataclasses import replace

import numpy as np

from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import FOLDS, development_rows, split_folds
from classify.labelling.issues import find_label_issues
from classify.search.evaluate import evaluate
from classify.settings.head_spec import HeadSpec

SHARE = 0.05


def plant(dataset: Dataset, kind: str, seed: int) -> tuple[Dataset, np.ndarray]:
    """Replace labels; return the dataset and which rows have a wrong one."""
    generator, K = np.random.default_rng(seed), len(dataset.class_names)
    rows = development_rows(dataset)
    chosen = generator.choice(rows, round(SHARE * len(rows)), replace=False)
    y = dataset.y.copy()
    if kind == "random":
        y[chosen] = (y[chosen] + generator.integers(1, K, len(chosen))) % K
    else:
        X = np.sqrt(np.maximum(dataset.X.reshape(len(y), -1), 0))
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        means = np.stack([X[dataset.y == label].mean(axis=0) for label in range(K)])
        distances = ((means[:, None] - means) ** 2).sum(axis=-1)
        np.fill_diagonal(distances, np.inf)
        y[chosen] = distances.argmin(axis=1)[y[chosen]]
    planted = np.zeros(len(y), bool)
    planted[chosen] = True
    return replace(dataset, y=y, split=np.zeros_like(dataset.split)), planted


def confident_learning(y: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Rank rows by the score of the label, and by the margin of confident learning."""
    rows, K = np.arange(len(y)), scores.shape[1]
    own, others = scores[rows, y], scores.copy()
    others[rows, y] = -1
    thresholds = np.array([own[y == label].mean() for label in range(K)])
    above = np.where(scores >= thresholds, scores, -1)
    candidates = (above.max(axis=1) >= 0) & (above.argmax(axis=1) != y)
    margin = own - others.max(axis=1)
    wrong = scores.argmax(axis=1) != y
    return {
        "score of the label": np.argsort(own, kind="stable")[: wrong.sum()],
        "confident learning": np.argsort(np.where(candidates, margin, 2))[: candidates.sum()],
    }


def measure(order: np.ndarray, planted: np.ndarray) -> list[float]:
    """Return the share of planted rows in the first N, in the first N/2, and found at all."""
    count, hits = int(planted.sum()), planted[order]
    return [hits[:count].sum() / count, hits[: count // 2].sum() / (count // 2), hits.sum() / count]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    print("| features | planted | ranked by | first N | first N/2 | found at all |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in given.stores:
        dataset = load_dataset(path)
        for kind in ("random", "similar"):
            found: dict[str, list[list[float]]] = {}
            for seed in range(given.seeds):
                changed, planted = plant(dataset, kind, seed)
                issues = find_label_issues(changed, seed=seed, quiet=True).issues
                order = np.array([issue.row for issue in issues])
                found.setdefault("ratio (used)", []).append(measure(order, planted))
                splits = split_folds(changed, FOLDS, seed)
                ((_, own),) = evaluate(changed, [HeadSpec("logistic")], splits)
                assert own.scores is not None
                orders = confident_learning(changed.y, own.scores.astype(float))
                for name, order in orders.items():
                    found.setdefault(f"{name}, logistic", []).append(measure(order, planted))
            for name, values in found.items():
                cells = " | ".join(f"{share:.2f}" for share in np.mean(values, axis=0))
                print(f"| {path} | {kind} class | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
