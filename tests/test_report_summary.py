"""What the report says first: every number of it, and when it says that it cannot tell."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis, analyse
from classify.diagnosis.shift import Shift
from classify.diagnosis.training_sizes import Gain
from classify.report.summary import Name, Summary, in_words, summarise
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract.core.config import TrunkSpec


def dataset(y: np.ndarray, X: np.ndarray, names: tuple[str, ...]) -> Dataset:
    split = (np.arange(len(y)) % 2).astype(np.int8)
    keys = [f"{row}.png" for row in range(len(y))]
    spec = TrunkSpec("mobilenet", weights="none", image_size=(32, 32))
    return Dataset(X.astype(np.float32), y, keys, None, split, names, "a", spec, "", "float32")


def finished(
    y: np.ndarray, X: np.ndarray, names: tuple[str, ...], **settings: Any
) -> tuple[Dataset, Result, Analysis]:
    made = dataset(y, X, names)
    result = run(made, TrainConfig((HeadSpec("lda"), HeadSpec("logistic")), **settings))
    return made, result, analyse(made, result)


@cache
def animals() -> tuple[Dataset, Result, Analysis]:
    """Cats are told apart, dogs and wolves often are not."""
    generator = np.random.default_rng(0)
    y = np.arange(240) // 2 % 3
    X = generator.normal(size=(240, 6)) + 6 * (y == 0)[:, None]
    X[y == 1, 0] += 1.5
    return finished(y, X, ("cat", "dog", "<wolf>"))


def said(summary: Summary, start: str) -> str:
    """The one sentence that begins so."""
    (line,) = [line for line in summary.to_list() if line.startswith(start)]
    return line.replace("\N{NO-BREAK SPACE}", " ")


def titles(summary: Summary) -> list[str]:
    return [title for title, _ in summary.watch]


def test_the_score_is_counted() -> None:
    made, result, analysis = animals()
    assert result.scores is not None
    rows = result.validation_rows
    share = (result.scores.argmax(axis=1) == made.y[rows]).mean()
    assert said(summarise(made, result, analysis), "The head") == (
        f"The head recognises {100 * share:.1f} % of 120 images of 3 classes that it was not "
        f"trained on: {in_words(share)}."
    )


def test_another_metric_has_the_interval_of_the_accuracy_beside_it() -> None:
    made, _, _ = animals()
    result = run(made, TrainConfig((HeadSpec("lda"),), metric="macro_f1"))
    summary = summarise(made, result, analyse(made, result))
    assert "(95 % confidence interval" in said(summary, "The head")
    assert "the difference in macro F1" in said(summary, "Always")


def test_the_weakest_class_is_named_with_what_it_is_taken_for() -> None:
    made, result, analysis = animals()
    assert result.scores is not None
    y, answers = made.y[result.validation_rows], result.scores.argmax(axis=1)
    recalls = [(answers[y == label] == label).mean() for label in range(3)]
    worst = int(np.argmin(recalls))
    wrong = answers[(y == worst) & (answers != worst)]
    other = made.class_names[np.bincount(wrong).argmax()]
    line = said(summarise(made, result, analysis), "The weakest")
    assert line.startswith(f"The weakest class is {made.class_names[worst]}: ")
    assert f"{100 * recalls[worst]:.1f} % (" in line
    assert "of its 40 images are recognised" in line
    assert line.endswith(f"taken for {other}.")
    assert str(np.bincount(wrong).max()) in line
    parts = next(p for p in summarise(made, result, analysis).result if p[0].startswith("The weak"))
    assert [part for part in parts if isinstance(part, Name)] == [made.class_names[worst], other]


def test_guessing_is_beaten_or_may_be_chance() -> None:
    made, result, analysis = animals()
    line = said(summarise(made, result, analysis), "Always guessing")
    assert "would be right for 33.3 %; the difference is more than chance." in line
    generator = np.random.default_rng(0)
    nothing = finished(np.arange(60) // 2 % 2, generator.normal(size=(60, 3)), ("a", "b"))
    assert "may be chance" in said(summarise(*nothing), "Always guessing")


@pytest.mark.parametrize(
    ("metric", "gain", "start"),
    [
        ("accuracy", (0.021, 0.008, 0.034), "More images are likely to help"),
        ("accuracy", (0.021, -0.008, 0.05), "Whether more images would help cannot be told"),
        ("accuracy", (0.001, -0.004, 0.006), "More images like these would hardly help"),
        ("accuracy", (0.021, None, None), "Whether more images would help cannot be told"),
        ("loss", (-0.2, -0.3, -0.1), "More images are likely to help"),
        ("loss", (0.2, 0.1, 0.3), "More images like these would hardly help"),
        ("loss", (-0.2, -0.5, 0.1), "Whether more images would help cannot be told"),
    ],
)
def test_more_images(metric: str, gain: tuple[Any, ...], start: str) -> None:
    made, result, analysis = animals()
    sizes = analysis.fewer_images._replace(gain=Gain(400, 800, *gain))
    changed = replace(analysis, fewer_images=sizes)
    line = said(summarise(made, replace(result, metric=metric), changed), start)
    assert f"training on 800 in place of 400 changed the {metric} by" in line
    value = f"{gain[0]:+.3f}" if metric == "loss" else f"{100 * gain[0]:+.1f} percentage points"
    assert value.replace("-", "\N{MINUS SIGN}") in line
    nothing = replace(analysis, fewer_images=sizes._replace(gain=None))
    assert "More" not in "".join(summarise(made, result, nothing).to_list())


def test_the_gain_is_the_difference_of_the_last_two_sizes() -> None:
    _, _, analysis = animals()
    sizes, gain = analysis.fewer_images.sizes, analysis.fewer_images.gain
    assert gain is not None
    assert (gain.fewer, gain.rows) == (sizes[-2].rows, sizes[-1].rows)
    last, former = sizes[-1].score.value, sizes[-2].score.value
    assert last is not None
    assert former is not None
    assert gain.value == pytest.approx(last - former)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.value < gain.high


def test_the_gain_of_a_loss_may_exceed_1() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(120) // 2 % 6
    X = generator.normal(size=(120, 20)) + 3 * np.eye(6, 20)[y]
    made = dataset(y, X, tuple("abcdef"))
    result = run(made, TrainConfig((HeadSpec("logistic", C=1e6),), metric="loss"))
    gain = analyse(made, result).fewer_images.gain
    assert gain is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.value < gain.high
    assert gain.high - gain.value == pytest.approx(gain.value - gain.low)
    assert gain.low < -1


def test_only_what_is_there_is_to_be_watched() -> None:
    made, result, analysis = animals()
    clean = replace(
        analysis,
        label_issues=replace(analysis.label_issues, clear=0),
        calibration_error=0.01,
        leaks=[],
        shift=None,
    )
    assert titles(summarise(made, result, clean)) == []
    alike = replace(clean, shift=Shift(0.55, 0.6, 60, 60))
    assert titles(summarise(made, result, alike)) == []
    other = replace(
        clean,
        shift=Shift(0.97, 0.58, 60, 60),
        leaks=["found near-duplicates in two splits: 2 images (a ~ b, cosine 0.990)"],
        label_issues=replace(analysis.label_issues, clear=3),
    )
    summary = summarise(made, result, other)
    assert titles(summary) == [
        "Training and validation images look different",
        "Copies",
        "Doubtful labels",
    ]
    assert "ROC area of 0.97" in said(summary, "Training and validation")
    assert said(summary, "Copies").endswith("cosine 0.990); the score may be too high.")
    assert f"3 of {clean.label_issues.scored} look wrong" in said(summary, "Doubtful")


def test_uneven_classes_say_how_the_small_ones_fare() -> None:
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [240, 20, 12])
    X = generator.normal(size=(272, 4))
    X[np.arange(272), y] += 2
    made, result, analysis = finished(y, X, ("ox", "yak", "elk"))
    assert result.scores is not None
    held, answers = made.y[result.validation_rows], result.scores.argmax(axis=1)
    hits = int((answers[held > 0] == held[held > 0]).sum())
    assert said(summarise(made, result, analysis), "Uneven") == (
        "Uneven classes: ox has 120 training images, elk 6; of the 2 small ones, "
        f"{hits} of 16 validation images are recognised."
    )


def test_scores_that_are_no_shares() -> None:
    made, result, analysis = animals()
    assert result.scores is not None
    sure = np.eye(3)[result.scores.argmax(axis=1)] * 0.99 + 0.01 / 3
    bad = summarise(made, replace(result, scores=sure), replace(analysis, calibration_error=0.2))
    right = (sure.argmax(axis=1) == made.y[result.validation_rows]).mean()
    assert said(bad, "Scores are too high") == (
        f"Scores are too high: 0.99 on average, where {right:.2f} of the answers are right."
    )


def test_few_validation_images_leave_much_open() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(40) // 2 % 2
    X = generator.normal(size=(40, 3)) + 3 * y[:, None]
    summary = summarise(*finished(y, X, ("a", "b")))
    assert "with 20, the true share may lie anywhere from" in said(summary, "Few validation")


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "none of them"),
        (1, "all of them"),
        (0.95, "about 19 in 20"),
        (0.9, "about 9 in 10"),
        (0.5, "about half"),
        (0.985, "about 98 in 100"),
        (0.98, "about 49 in 50"),
        (0.997, "more than 99 in 100"),
        (0.003, "less than 1 in 100"),
        (0.25, "about 1 in 4"),
    ],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert in_words(share) == words


def test_words_are_near_the_share() -> None:
    for share in np.linspace(0.01, 0.99, 199):
        words = in_words(share).removeprefix("about ").replace("half", "1 in 2")
        part, whole = map(int, words.split(" in "))
        assert abs(part / whole - share) <= 0.3 * min(share, 1 - share) + 0.005
