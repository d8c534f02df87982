"""Figures of sweeps and of all candidates: their numbers, read back from the axes."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from classify.diagnosis.sweeps import CATEGORY, LINEAR, LOG, find_sweeps
from classify.figures.candidates import name_heads
from classify.figures.drawing import Drawing, to_svg
from classify.figures.sweeps import draw_candidates, kind_of
from classify.search.evaluate import Evaluation
from classify.search.leaderboard import Result
from classify.search.ranking import Baseline, Entry
from classify.settings.config import METRICS
from classify.settings.head_spec import HeadSpec
from classify.settings.sweep import label_all

NOTHING = np.zeros(0)


def entry(
    spec: HeadSpec, score: float, seconds: float, name: str, as_good: bool = True, **changes: Any
) -> Entry:
    evaluation = Evaluation(NOTHING.astype(int), NOTHING, NOTHING, 1.0, seconds, {})
    scores = dict.fromkeys(METRICS, score)
    made = Entry(spec, scores, score - 0.02, score + 0.03, as_good, evaluation, name)
    return made._replace(**changes)


def result_of(
    specs: Iterable[HeadSpec], score: Callable[[int], float] | None = None, **changes: Any
) -> Result:
    """A result whose candidates have scores that tell them apart, best first."""
    specs = list(specs)
    labels = label_all(specs)
    entries = [
        entry(spec, score(i) if score else 0.5 + i / 1000, 0.01 * (i + 1), labels[spec], i % 2 == 0)
        for i, spec in enumerate(specs)
    ]
    entries.sort(key=lambda entry: -entry.scores["accuracy"])
    baseline = Baseline("cat", dict.fromkeys(METRICS, 0.3), 0.2, 0.4, True)
    return Result([e._replace(**changes) for e in entries], "accuracy", [], baseline)


def axes_of(drawing: Drawing) -> Any:
    """The axes of a drawing, as Matplotlib has drawn them."""
    figure = Figure(figsize=drawing.size)
    drawing.draw(figure)
    return figure.axes[0]


def drawn(result: Result) -> dict[str, Drawing]:
    return {drawing.name: drawing for drawing in draw_candidates(result, "accuracy")}


C = (0.001, 0.01, 0.1, 1.0)


# Which settings vary.


@pytest.mark.parametrize(
    ("setting", "values", "scale", "order"),
    [
        ("C", (1.0, 0.01, 0.1), LOG, (0.01, 0.1, 1.0)),
        ("C", (1.0, 2.0, 5.0), LINEAR, (1.0, 2.0, 5.0)),
        ("dropout", (0.5, 0.0, 0.2), LINEAR, (0.0, 0.2, 0.5)),
        ("l2", (0.01, 0.0, 1e-5), CATEGORY, (0.0, 1e-5, 0.01)),
        ("batch_normalisation", (True, False), CATEGORY, (False, True)),
        ("units", ((512, 128), (64,), (512,)), CATEGORY, ((64,), (512,), (512, 128))),
        ("layer", (("b",), ("a", "b"), ("a",)), CATEGORY, (("a",), ("a", "b"), ("b",))),
        ("transform", ((), ("sqrt", "l2"), ("pca=9",)), CATEGORY, ((), ("pca=9",), ("sqrt", "l2"))),
        ("class_weight", ("balanced", None), CATEGORY, (None, "balanced")),
    ],
)
def test_the_axis_of_a_setting(setting: str, values: Any, scale: str, order: Any) -> None:
    head = "logistic" if setting == "C" else "dense"
    result = result_of([*(HeadSpec(head, **{setting: value}) for value in values), HeadSpec("lda")])
    (sweep,) = find_sweeps(result.entries)
    assert sweep.heads == (head,)
    assert sweep.axes == ((setting, order, scale),)
    assert [result.entries[place].spec.head for place in sweep.places] == [head] * len(values)
    shares = [sweep.axes[0].share(value) for value in order]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_heads_that_vary_one_setting_share_a_sweep_and_others_do_not() -> None:
    layers = [HeadSpec(head, layer=layer) for head in ("lda", "knn") for layer in (("a",), ("b",))]
    others = [HeadSpec("logistic", C=c, transform=t) for c in C for t in ((), ("l2",))]
    result = result_of([*layers, *others, HeadSpec("ridge")])
    sweeps = find_sweeps(result.entries)
    assert {(sweep.heads, *(axis.setting for axis in sweep.axes)) for sweep in sweeps} == {
        (("logistic",), "C", "transform"),
        (("knn", "lda"), "layer"),
    }
    ranks = [rank for sweep in sweeps for rank in sweep.to_dict()["ranks"]]
    assert sorted(ranks) == [i for i, e in enumerate(result.entries, 1) if e.spec.head != "ridge"]
    assert json.loads(json.dumps(sweeps[0].to_dict()))["settings"]["C"] == list(C)


def test_one_candidate_or_one_of_each_head_has_no_sweep() -> None:
    assert find_sweeps(result_of([HeadSpec("knn")]).entries) == []
    assert find_sweeps(result_of([HeadSpec("knn"), HeadSpec("lda")]).entries) == []
    assert list(drawn(result_of([HeadSpec("knn"), HeadSpec("lda")]))) == ["leaderboard"]


# What is drawn.


def test_one_setting_is_a_line_with_intervals() -> None:
    result = result_of(HeadSpec("logistic", C=c) for c in C)
    axes = axes_of(drawn(result)["sweep0"])
    assert axes.get_xscale() == "log"
    line, ring = axes.lines
    scores = {e.spec.C: e.scores["accuracy"] for e in result.entries}
    assert dict(zip(*line.get_data(), strict=True)) == scores
    assert [*map(float, np.ravel(ring.get_data()))] == [1.0, scores[1.0]]
    ends = [segment for whisker in axes.collections for segment in whisker.get_segments()]
    whiskers = {x: (low, high) for (x, low), (_, high) in ends}
    assert whiskers == {e.spec.C: (e.low, e.high) for e in result.entries}
    low, high = axes.get_ylim()
    assert low < min(e.low or 0 for e in result.entries)
    assert high > max(e.high or 0 for e in result.entries)


def test_each_head_has_a_line_and_a_line_of_the_legend() -> None:
    specs = [
        HeadSpec(h, layer=layer) for h in ("lda", "knn", "ridge") for layer in (("a",), ("b",))
    ]
    result = result_of(specs)
    drawing = drawn(result)["sweep0"]
    axes = axes_of(drawing)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b"]
    heads = [item.name for item in drawing.legend]
    assert sorted(heads) == ["knn", "lda", "ridge"]
    for head, line in zip(heads, axes.lines, strict=False):
        scores = {e.spec.layer: e.scores["accuracy"] for e in result.entries if e.spec.head == head}
        assert line.get_ydata().tolist() == [scores[("a",)], scores[("b",)]]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_two_settings_are_cells_with_numbers_and_a_frame(metric: str) -> None:
    pairs = list(itertools.product(C, (0.2, 0.5, 0.0)))
    result = result_of(HeadSpec("dense", learning_rate=c, dropout=d) for c, d in pairs[1:])
    result = Result(result.entries, metric, [])
    axes = axes_of(drawn(result)["sweep0"])
    numbers = {tuple(map(int, t.get_position())): t.get_text() for t in axes.texts}
    assert numbers == {
        (C.index(e.spec.learning_rate), (0.0, 0.2, 0.5).index(e.spec.dropout)): (
            f"{e.scores[metric]:.3f}".removeprefix("0")
        )
        for e in result.entries
    }
    *cells, frame = axes.patches
    assert len(cells) == len(pairs) - 1
    best = result.entries[0].spec
    place = C.index(best.learning_rate), (0.0, 0.2, 0.5).index(best.dropout)
    assert frame.get_xy() == (place[0] - 0.5, place[1] - 0.5)
    shade = {numbers[tuple(int(x + 0.5) for x in c.get_xy())]: c.get_alpha() for c in cells}
    ordered = [shade[text] for text in sorted(shade, reverse=metric == "loss")]
    assert ordered == sorted(ordered)
    assert ordered[0] < ordered[-1] <= 0.5  # numbers stay legible


def test_three_settings_are_parallel_axes() -> None:
    choices = itertools.product((0.0, 0.5), (1e-4, 1e-3), (1e-5, 1e-3, 1e-1))
    specs: list[Any] = [HeadSpec("dense", dropout=d, learning_rate=r, l2=w) for d, r, w in choices]
    result = result_of(specs)
    (sweep,) = find_sweeps(result.entries)
    assert [axis.setting for axis in sweep.axes] == ["l2", "dropout", "learning_rate"]
    axes = axes_of(drawn(result)["sweep0"])
    assert len(axes.lines) == len(specs)
    drawn_lines = sorted(line.get_ydata().tolist()[:3] for line in axes.lines)
    places = {1e-5: 0.0, 1e-3: 0.5, 1e-1: 1.0}
    assert np.allclose(
        drawn_lines,
        sorted([places[s.l2], s.dropout / 0.5, float(s.learning_rate > 5e-4)] for s in specs),
    )
    (first,) = [line for line in axes.lines if line.get_zorder() == 3]
    assert first.get_ydata()[-1] == max(line.get_ydata()[-1] for line in axes.lines)


def test_random_trials_of_two_settings_are_no_empty_heat_map() -> None:
    rates = np.geomspace(1e-5, 1e-2, 25)
    few = [HeadSpec("dense", dropout=i / 30, learning_rate=float(r)) for i, r in enumerate(rates)]
    assert kind_of(find_sweeps(result_of(few).entries)[0]) == "parallel"


def test_seconds_of_every_candidate_and_ranks_of_the_good_ones() -> None:
    result = result_of(HeadSpec("logistic", C=c) for c in np.geomspace(0.01, 1, 40).tolist())
    drawing = drawn(result)["seconds"]
    axes = axes_of(drawing)
    worse, good, _ = axes.lines
    for line, as_good in ((worse, False), (good, True)):
        points = {
            (e.evaluation.seconds, e.scores["accuracy"])
            for e in result.entries
            if e.as_good is as_good
        }
        assert set(zip(*line.get_data(), strict=True)) == points
    assert worse.get_markerfacecolor() == "none"  # not told apart by colour alone
    named = name_heads(result.entries)
    assert len(named) == 6
    assert {*map(int, (text.get_text() for text in axes.texts))} == {n + 1 for n in named}
    fastest = min((e for e in result.entries if e.as_good), key=lambda e: e.evaluation.seconds)
    assert result.entries.index(fastest) in named
    assert [item.name.split()[0] for item in drawing.legend] == [str(n + 1) for n in named]


def test_the_leaderboard_has_every_score_and_interval() -> None:
    result = result_of(HeadSpec("logistic", C=c) for c in C)
    axes = axes_of(drawn(result)["leaderboard"])
    dots = [line.get_data() for line in axes.lines]
    assert [float(x[0]) for x, _ in dots] == [e.scores["accuracy"] for e in result.entries]
    (whiskers,) = zip(*(c.get_segments() for c in axes.collections), strict=True)
    assert [tuple(s[:, 0]) for s in whiskers] == [(e.low, e.high) for e in result.entries]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [e.label for e in result.entries]
    # The baseline is far away: its score is said in words, so that heads are told apart.
    assert "most frequent class: 0.300" in axes.get_xlabel()


HOSTILE = (
    "$5 \\frac",
    "x" * 300,
    "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    "\U0001f63a",
    "a\nb",
    "<b>&",
)
EXTREME = {
    "one": [HeadSpec("knn")],
    "names": [HeadSpec("lda", layer=(name,)) for name in HOSTILE],
    "pairs": [HeadSpec("lda", layer=(n,), shrinkage=s) for n in HOSTILE for s in (0.1, 0.9)],
    "three": [
        HeadSpec("logistic", layer=(n,), C=c, class_weight=w)
        for n in HOSTILE
        for c in C
        for w in (None, "balanced")
    ],
    "many": [HeadSpec("logistic", C=c) for c in np.geomspace(1e-6, 1e6, 200).tolist()],
    "random": [
        HeadSpec("dense", dropout=i % 17 / 20, l2=1e-6 * 1.1**i, learning_rate=1e-4 * 1.02**i)
        for i in range(200)
    ],
}


@pytest.mark.parametrize("which", EXTREME)
@pytest.mark.parametrize("scores", ["usual", "no interval", "not a number", "equal"])
def test_extremes_are_drawn_without_a_warning(which: str, scores: str) -> None:
    changes: Any = {
        "usual": {},
        "no interval": {"low": None, "high": None},
        "not a number": {"low": None, "high": None, "scores": dict.fromkeys(METRICS, np.nan)},
        "equal": {"scores": dict.fromkeys(METRICS, 1.0), "low": 1.0, "high": 1.0},
    }[scores]
    result = result_of(EXTREME[which], **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawing in draw_candidates(result, "accuracy"):
            assert to_svg(drawing) == to_svg(drawing)
