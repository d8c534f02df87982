"""What the report says first: every number of it, and when it says that it cannot tell."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis, analyse
from classify.diagnosis.shift import Shift
from classify.diagnosis.training_sizes import Gain
from classify.report.summary import Name, Summary, summarise
from classify.scores.intervals import proportion
from classify.scores.metrics import measure
from classify.scores.words import share_in_words
from classify.search.leaderboard import Result
from classify.search.ranking import Finetuned
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
        "The head was tested on 120 images that it was not trained on, of 3 classes, and "
        f"recognises {100 * share:.1f} % of them: {share_in_words(share)}."
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
        ("accuracy", (0.002, 0.001, 0.003), "More images like these would hardly help"),
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
    own = "" if sizes.head == result.best.label else f" {sizes.head}"
    assert f"training{own} on 800 in place of 400 changed the {metric} by" in line
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
    assert said(summary, "Copies").endswith(
        "cosine 0.990); scores on these images may be too high."
    )
    assert f"an lda head clearly disagrees with 3 of {clean.label_issues.scored} labels" in said(
        summary, "Doubtful"
    )


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


def test_a_head_on_fewer_images_that_is_not_the_best_is_named() -> None:
    made, result, analysis = animals()
    gain = Gain(400, 800, 0.02, 0.015, 0.03)
    for head, own in ((result.best.label, ""), ("<b>", " <b>")):
        sizes = analysis.fewer_images._replace(head=head, gain=gain)
        summary = summarise(made, result, replace(analysis, fewer_images=sizes))
        assert f"help: training{own} on 800" in said(summary, "More images")
    little = analysis.fewer_images._replace(gain=Gain(400, 800, 0.0, -0.004, 0.004))
    grouped = replace(made, groups=made.keys)
    summary = summarise(grouped, result, replace(analysis, fewer_images=little))
    assert said(summary, "More images of these groups would hardly help")


def test_a_baseline_of_the_head_before_fine_tuning_says_so() -> None:
    made, result, analysis = animals()
    assert result.scores is not None
    scores = measure(made.y[result.validation_rows], result.scores)
    tuned = Finetuned("a", 3, 2, scores, scores, result.best.scores, 0.8, 0.95, 1e-3, {})
    for kept, words in ((2, "difference before fine-tuning is"), (0, "difference is")):
        own = replace(result, finetuned=tuned._replace(best_epoch=kept))
        assert words in said(summarise(made, own, analysis), "Always guessing")


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ([1, 1], "0 % (0 to 84.2 %) of its 2 images are recognised; all are taken for b."),
        ([1, 2], "of its 2 images are recognised; they are taken for as many classes."),
        ([0, 1], "of its 2 images are recognised; the other one is taken for b."),
        ([1, 1, 2], "of its 3 images are recognised; 2 of them are taken for b."),
        ([0, 1, 2], "of its 3 images are recognised; the other 2 are taken for as many classes."),
        ([0, 1, 1], "of its 3 images are recognised; the other 2 are taken for b."),
        ([0, 1, 1, 2], "of its 4 images are recognised; 2 of the other 3 are taken for b."),
    ],
)
def test_the_wrong_images_of_the_weakest_class(answers: list[int], end: str) -> None:
    made, result, analysis = animals()
    rows, share = len(answers), proportion(np.array(answers) == 0, np.arange(len(answers)))
    names = "a", "b", "c"
    classes = [
        analysis.classes[0]._replace(name=name, rows=rows * (not place), recall=share)
        for place, name in enumerate(names)
    ]
    counts = csr_array(np.stack([np.bincount(answers, minlength=3), [0] * 3, [0] * 3]))
    changed = replace(analysis, classes=classes, confusion=counts)
    assert said(summarise(made, result, changed), "The weakest").endswith(end)


def test_doubts_of_a_poor_head_are_left_out() -> None:
    """Of twenty classes that overlap no label is wrong; of those that do not, six are."""
    generator = np.random.default_rng(0)
    y = np.arange(800) // 2 % 20
    found = {}
    for gap, wrong in ((2.5, 0), (8, 6)):
        X = generator.normal(size=(800, 20)) + gap * np.eye(20)[y]
        labels = y.copy()
        labels[:wrong] = (labels[:wrong] + 7) % 20
        names = tuple(f"c{number}" for number in range(20))
        found[gap] = summarise(*finished(labels, X, names))
    assert "Doubtful labels" not in titles(found[2.5])
    line = said(found[8], "Doubtful labels")
    assert line.endswith("an lda head clearly disagrees with 6 of 800 labels; see Label issues.")
