"""Intervals cover the truth and comparisons keep their level, in simulations of a known truth."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from classify.scores.areas import area_values
from classify.scores.intervals import Comparison, Interval, share_interval, units_of
from classify.scores.pseudo_values import pseudo_values

RUNS = 1000
Draw = tuple[NDArray[np.int64], NDArray[np.int64]]


def alone(count: int) -> NDArray[np.int64]:
    return np.arange(count)


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def covers(interval: Interval, truth: float, value: float) -> bool:
    """Say whether an interval holds the truth; it must hold the value that it is about."""
    low, high = ends(interval)
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high
    return low <= truth <= high


@pytest.mark.parametrize("count", [1, 5, 12, 36, 200])
def test_of_single_rows_it_is_the_exact_binomial_interval(count: int) -> None:
    for hits in range(count + 1):
        values = (np.arange(count) < hits).astype(float)
        exact = stats.binomtest(hits, count).proportion_ci(method="exact")
        found = share_interval(values, alone(count), np.ones(count))
        assert ends(found) == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize("count", [12, 36, 100, 400])
@pytest.mark.parametrize("truth", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_accuracy_of_few_images(count: int, truth: float) -> None:
    hits = np.arange(count + 1)
    held = [
        covers(
            share_interval((alone(count) < h).astype(float), alone(count), np.ones(count)),
            truth,
            h / count,
        )
        for h in hits
    ]
    assert stats.binom.pmf(hits, count, truth) @ held >= 0.95


def confused(y: NDArray[np.int64], recall: NDArray[np.floating], u: Any, random: Any) -> Any:
    """Answer the true class where ``u`` is below its recall, else any other one."""
    classes = len(recall)
    other = (y + random.integers(1, classes, len(y))) % classes
    return np.where(u < recall[y], y, other)


def truths(recall: NDArray[np.floating], prior: NDArray[np.floating]) -> dict[str, float]:
    """Work out the metrics of infinitely many rows."""
    classes = len(recall)
    joint = np.outer(prior * (1 - recall) / (classes - 1), np.ones(classes))
    np.fill_diagonal(joint, prior * recall)
    hits, true, answered = np.diag(joint), joint.sum(1), joint.sum(0)
    return {
        "accuracy": float(hits.sum()),
        "balanced_accuracy": float((hits / true).mean()),
        "macro_f1": float((2 * hits / (true + answered)).mean()),
    }


def coverage(draws: Iterator[Draw], groups: Any, known: dict[str, float]) -> dict[str, float]:
    """Return the share of the runs in which each metric's interval holds the truth."""
    held: dict[str, list[bool]] = {metric: [] for metric in known}
    for y, answers in draws:
        comparison = Comparison(y, int(y.max()) + 1, groups, 0)
        for metric, truth in known.items():
            values = pseudo_values(metric, y, int(y.max()) + 1, answers, np.ones(len(y)))
            held[metric].append(covers(comparison.interval(metric, values), truth, values.mean()))
    return {metric: float(np.mean(values)) for metric, values in held.items()}


@pytest.mark.slow
@pytest.mark.parametrize("recall", ["even", "rare classes worse", "rare classes better", "good"])
@pytest.mark.parametrize(
    ("classes", "count", "rare"),
    [
        *((2, 36, 1.0), (2, 100, 0.03), (2, 500, 0.03)),
        *((5, 36, 1.0), (5, 100, 0.03), (20, 100, 1.0), (20, 400, 0.1)),
    ],
)
def test_metrics_of_many_classes(classes: int, count: int, rare: float, recall: str) -> None:
    random = np.random.default_rng(0)
    prior = np.geomspace(1, rare, classes)
    prior /= prior.sum()
    recalls = {
        "even": np.full(classes, 0.9),
        "rare classes worse": np.linspace(0.98, 0.5, classes),
        "rare classes better": np.linspace(0.7, 0.95, classes),
        "good": np.full(classes, 0.99),
    }[recall]

    def draws() -> Iterator[Draw]:
        for _ in range(RUNS):
            y = random.choice(classes, count, p=prior)
            while len(np.unique(y)) < classes:
                y = random.choice(classes, count, p=prior)
            yield y, confused(y, recalls, random.random(count), random)

    known = truths(recalls, prior)
    found = coverage(draws(), alone(count), known)
    assert min(found.values()) >= 0.93, (found, known)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("truth", [0.7, 0.9, 0.99])
@pytest.mark.parametrize(
    ("classes", "groups", "mixed"), [(2, 20, True), (2, 50, False), (5, 25, False), (5, 50, True)]
)
def test_metrics_of_groups(
    classes: int, groups: int, mixed: bool, truth: float, alike: float, sizes: str
) -> None:
    random = np.random.default_rng(1)
    spread = np.full(groups, 6) if sizes == "equal" else np.geomspace(1, 12, groups).astype(int)
    recalls, prior = np.full(classes, truth), np.full(classes, 1 / classes)

    def draws() -> Iterator[Draw]:
        for _ in range(RUNS // 2):
            of_group = random.permutation(np.arange(groups) % classes)
            y = random.integers(0, classes, len(rows)) if mixed else of_group[rows]
            shared = random.random(len(rows)) < alike
            u = np.where(shared, random.random(groups)[rows], random.random(len(rows)))
            yield y, confused(y, recalls, u, random)

    rows = np.repeat(np.arange(groups), spread)
    known = truths(recalls, prior)
    if not mixed and sizes == "unequal":
        known.pop("accuracy")  # the classes are not equally frequent
        known.pop("macro_f1")
    found = coverage(draws(), rows, known)
    assert min(found.values()) >= 0.92, found


def test_fewer_than_ten_groups_have_no_interval() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 90)
    values = (random.random(90) < 0.8).astype(float)
    for metric in ("accuracy", "balanced_accuracy", "loss"):
        nine = Comparison(y, 2, np.arange(90) % 9, 0).interval(metric, values)
        ten = Comparison(y, 2, np.arange(90) % 10, 0).interval(metric, values)
        assert nine == (None, None)
        low, high = ends(ten)
        assert 0 <= low < values.mean() < high
    # One group of nearly all rows is as little.
    groups = np.where(np.arange(90) < 70, 0, np.arange(90))
    assert Comparison(y, 2, groups, 0).interval("accuracy", values) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("count", [40, 100, 400])
@pytest.mark.parametrize("distance", [0.5, 1.5, 3.0])
def test_areas_under_curves(count: int, share: float, distance: float) -> None:
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(2)

    def draw(rows: int) -> tuple[Any, Any]:
        y = (random.random(rows) < share).astype(np.int64)
        return y, random.normal(size=rows) + distance * y

    many = [average_precision_score(*draw(200_000)) for _ in range(3)]
    known = {
        "roc_auc": stats.norm.cdf(distance / np.sqrt(2)),
        "average_precision": float(np.mean(many)),
    }
    held: dict[str, list[bool]] = {metric: [] for metric in known}
    for _ in range(RUNS // 2):
        y, score = draw(count)
        while not 2 <= y.sum() <= count - 2:
            y, score = draw(count)
        comparison = Comparison(y, 2, alone(count), 0, positive=1)
        areas = area_values(y, np.stack([-score, score], axis=1), 1)
        for (metric, truth), values in zip(known.items(), areas, strict=True):
            held[metric].append(covers(comparison.interval(metric, values), truth, values.mean()))
    assert min(np.mean(values) for values in held.values()) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 36, 100, 400])
@pytest.mark.parametrize("margin", [(8, 2.5), (4, 2), (1.5, 2), (6, 4), (0.3, 1)])
def test_the_loss(count: int, margin: tuple[float, float]) -> None:
    """Of good heads, most of the loss is that of rare mistakes, which few rows do not show."""
    random = np.random.default_rng(3)

    def losses(rows: int) -> NDArray[np.floating]:
        return np.minimum(np.logaddexp(0, -random.normal(*margin, rows)), 16.118)

    truth, y = losses(4_000_000).mean(), np.zeros(count, np.int64)
    comparison = Comparison(y, 2, alone(count), 0)
    runs = (losses(count) for _ in range(RUNS))
    held = [covers(comparison.interval("loss", values), truth, values.mean()) for values in runs]
    assert np.mean(held) >= 0.93


def marked(metric: str, y: Any, answers: Any, groups: Any, seed: int) -> NDArray[np.bool_]:
    values = [pseudo_values(metric, y, 3, own, np.ones(len(y))) for own in answers]
    best = int(np.argmax([own.mean() for own in values]))
    return Comparison(y, 3, groups, seed).not_worse(metric, values, best)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize(("count", "size"), [(30, 1), (200, 1), (120, 10), (40, 10)])
def test_of_equal_heads_none_is_called_worse(
    heads: int, metric: str, count: int, size: int
) -> None:
    random = np.random.default_rng(4)
    groups, wrong = alone(count) // size, []
    for run in range(300):
        y = random.integers(0, 3, count)
        y[:3] = [0, 1, 2]
        # Heads of one group err alike, and heads err on the same images more often than not.
        hard = random.random(count // size)[groups]
        own = [random.random(count // size)[groups] for _ in range(heads)]
        answers = [confused(y, np.full(3, 0.8), (hard + u) / 2, random) for u in own]
        wrong.append(not marked(metric, y, answers, groups, run).all())
    assert np.mean(wrong) <= 0.07  # three in a hundred above, by chance, of 300 runs


def test_a_clear_lead_is_seen_and_a_lead_by_chance_is_not() -> None:
    y = np.arange(120) % 3
    best = np.where(alone(120) < 6, (y + 1) % 3, y)
    close = np.where((alone(120) >= 2) & (alone(120) < 10), (y + 1) % 3, y)
    far = np.where(alone(120) < 40, (y + 1) % 3, y)
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert marked(metric, y, [best, close, far], alone(120), 0).tolist() == [True, True, False]
        assert marked(metric, y, [far, best, best], alone(120), 0).tolist() == [False, True, True]
    # The same lead is none where it is that of four groups.
    assert marked("accuracy", y, [best, far], alone(120) // 30, 0).all()


def test_as_the_exact_test_of_mcnemar() -> None:
    """Two heads that differ on ``b + c`` images: the two-sided sign test at a level of 0.05."""
    for b, c in [(5, 0), (6, 0), (7, 1), (8, 1), (9, 2), (20, 9), (20, 6)]:
        y = np.zeros(60, np.int64)
        first = np.where(alone(60) < b, 1, 0)
        second = np.where((alone(60) >= b) & (alone(60) < b + c), 1, 0)
        worse = not marked("accuracy", y, [first, second], alone(60), 0)[0]
        assert worse == (stats.binomtest(b, b + c).pvalue < 0.05), (b, c)


def test_many_units_are_merged_and_the_seed_decides_the_signs() -> None:
    y = np.zeros(5000, np.int64)
    first = np.where(alone(5000) < 60, 1, 0)
    second = np.where(alone(5000) < 100, 1, 0)
    assert marked("accuracy", y, [first, second], alone(5000), 0).tolist() == [True, False]
    assert units_of(["b", "a", "b"]).tolist() == [1, 0, 1]
