"""The first paragraph of the report: what the numbers say, in sentences for a hurried reader.

Every sentence is made of measured numbers, and says so where they do not tell.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.diagnosis.diagnostics import ClassMetrics
from classify.scores.intervals import Proportion, proportion
from classify.scores.words import metric_name, percent, percent_range, share_in_words
from classify.search.leaderboard import Result
from extract.core.errors import count_of

# A class of fewer validation images says little of itself.
_FEWEST = 5
# Classes are uneven where one has this many times the training images of another.
_UNEVEN = 3
# Fewer validation images leave much open; a gain below a point is hardly one.
_FEW_IMAGES, _POINT = 100, 0.01
# A smaller calibration error is also that of few images.
_BADLY_CALIBRATED = 0.05
# Of a head that disagrees with more labels than this, most doubts are its own mistakes.
_MOST_DOUBTS = 0.2


class Name(str):
    """A name that a user chose, which the page sets apart from its own words."""

    __slots__ = ()


Sentence = tuple[str, ...]


class Summary(NamedTuple):
    """What the report says first.

    Attributes:
        result: Sentences about the score, guessing, the weakest class and more images.
        watch: What may be wrong with the images or the score; each a short title and a sentence.
    """

    result: list[Sentence]
    watch: list[tuple[str, Sentence]]

    def to_list(self) -> list[str]:
        """Return the sentences as plain text, for ``result.json``."""
        watch = ["".join((title, ": ", *sentence)) for title, sentence in self.watch]
        return [*("".join(sentence) for sentence in self.result), *watch]


def summarise(dataset: Dataset, result: Result, analysis: Analysis) -> Summary:
    """Say in plain sentences what a run found.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run, with scores.
        analysis: The analysis of the best head.
    """
    right = _right(dataset, result)
    said = [
        _score(dataset, result, right),
        _guessing(result),
        _weakest(analysis),
        _more_images(dataset, result, analysis),
    ]
    watch = [
        *_looks(analysis),
        *_copies(analysis),
        *_few_images(result, right),
        *_uneven(dataset, result, analysis),
        *_calibration(dataset, result, analysis, right),
        *_labels(analysis),
    ]
    return Summary([sentence for sentence in said if sentence], watch)


def _right(dataset: Dataset, result: Result) -> Proportion:
    """Return the share of right answers, and its interval."""
    rows, scores = result.validation_rows, result.scores
    assert scores is not None
    hits = scores[: len(rows)].argmax(axis=1) == dataset.y[rows]
    return proportion(hits, dataset.grouping.numbers[rows])


def _score(dataset: Dataset, result: Result, right: Proportion) -> Sentence:
    rows, K = len(result.validation_rows), len(dataset.class_names)
    share = right.value or 0.0
    interval = ""
    # The accuracy stands above this sentence, with its interval.
    if result.metric != "accuracy" and right.low is not None and right.high is not None:
        interval = (
            f" (95\N{NO-BREAK SPACE}% confidence interval {percent_range(right.low, right.high)})"
        )
    words = share_in_words(share)
    return (
        f"The head was tested on {count_of(rows, 'image')} that it was not trained on, of {K:,} "
        f"classes, and recognises {percent(share)} of them{interval}{words and ': '}{words}.",
    )


def _guessing(result: Result) -> Sentence:
    """Compare with the most frequent class."""
    line = result.baseline
    if line is None:
        return ()
    of = "" if result.metric == "accuracy" else f" in {metric_name(result.metric)}"
    if result.finetuned and result.finetuned.best_epoch:
        of += " before fine-tuning"
    if line.beaten:
        end = f"; the difference{of} is more than chance."
    elif result.best.low is None:
        end = f"; the groups are too few to tell whether the difference{of} is more than chance."
    else:
        end = f"; the difference{of} may be chance, so the head is not known to be better."
    always = percent(line.scores["accuracy"])
    return ("Always guessing ", Name(line.answer), f" would be right for {always}{end}")


def _weakest(analysis: Analysis) -> Sentence:
    """Name the class with the lowest recall, and the class that it is most often taken for."""
    known = [of for of in analysis.classes if of.rows >= _FEWEST]
    known = known or [of for of in analysis.classes if of.rows]
    worst = min(known, key=lambda of: (of.recall.value, -of.rows), default=None)
    share = worst.recall.value if worst else None
    if worst is None or share is None:
        return ()
    if not len(analysis.wrong_rows):
        return ("No image was taken for another class.",)
    low, high = worst.recall.low, worst.recall.high
    interval = f" ({percent_range(low, high)})" if low is not None and high is not None else ""
    if share == 1:
        return ()
    said = f": {percent(share)}{interval} of its {count_of(worst.rows, 'image')} are recognised"
    other, count = _taken_for(analysis, worst)
    wrong = worst.rows - round(share * worst.rows)
    begin = "The weakest class is ", Name(worst.name), said
    return (*begin, "; ", *_wrong_ones(count, wrong, other, wrong == worst.rows))


def _wrong_ones(count: int, wrong: int, other: Name, is_all: bool) -> Sentence:
    """Say what the wrong images of a class are taken for, most often ``count`` of them."""
    if count == 1 < wrong:
        which = "they" if is_all else f"the other {wrong}"
        return (f"{which} are taken for as many classes.",)
    if wrong == 1:
        which = "it is" if is_all else "the other one is"
    elif count == wrong:
        which = "all are" if is_all else f"the other {wrong} are"
    else:
        which = f"{count} of {'them' if is_all else f'the other {wrong}'} are"
    return f"{which} taken for ", other, "."


def _taken_for(analysis: Analysis, of: ClassMetrics) -> tuple[Name, int]:
    """Return the most frequent wrong answer to the images of a class, and its images."""
    names = [each.name for each in analysis.classes]
    label = names.index(of.name)
    counts = np.asarray(analysis.confusion[[label], :].todense()).ravel()
    counts[label] = 0
    return Name(names[int(counts.argmax())]), int(counts.max())


def _more_images(dataset: Dataset, result: Result, analysis: Analysis) -> Sentence:
    """Say what the last training images gained, if that can be told."""
    gain = analysis.fewer_images.gain
    if gain is None:
        return ()
    metric, of = metric_name(result.metric), f"{gain.rows:,} in place of {gain.fewer:,}"
    loss, scale = result.metric == "loss", 1 if result.metric == "loss" else 100
    unit, places = ("", 3) if loss else (" percentage points", 1)
    interval = ""
    if gain.low is not None and gain.high is not None:
        ends = (f"{scale * end:+.{places}f}" for end in (gain.low, gain.high))
        interval = f" (95\N{NO-BREAK SPACE}% confidence interval {' to '.join(ends)})"
    change = f"{scale * gain.value:+.{places}f}{unit}{interval}"
    head = analysis.fewer_images.head or ""
    own = () if head == result.best.label else (" ", Name(head))
    said = f" on {of} changed the {metric} by {change}.".replace("-", "\N{MINUS SIGN}")
    tested = ": training", *own, said
    low, high = (gain.low, gain.high) if not loss else (_minus(gain.high), _minus(gain.low))
    if high is not None and high < (0 if loss else _POINT):
        like = "of these groups" if dataset.groups else "like these"
        return (f"More images {like} would hardly help", *tested)
    if low is not None and low > 0:
        return ("More images are likely to help", *tested)
    return ("Whether more images would help cannot be told", *tested)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _looks(analysis: Analysis) -> Iterator[tuple[str, Sentence]]:
    shift = analysis.shift
    if shift and shift.is_notable:
        yield (
            "Training and validation images look different",
            (
                "a simple test tells them apart within a class with a ROC area of "
                f"{shift.area:.2f}, where 0.5 is a coin toss and chance rarely exceeds "
                f"{shift.chance:.2f}. Find out what differs, such as the camera, the place or the "
                "date: the score is one for images like the validation images.",
            ),
        )


def _copies(analysis: Analysis) -> Iterator[tuple[str, Sentence]]:
    for line in analysis.leaks:
        yield "Copies", (Name(line), "; scores on these images may be too high.")


def _few_images(result: Result, right: Proportion) -> Iterator[tuple[str, Sentence]]:
    count = len(result.validation_rows)
    if right.low is None or right.high is None:
        yield (
            "Few groups",
            (
                f"{result.units} groups of images are too few to say how far chance moved the "
                "score.",
            ),
        )
    elif count < _FEW_IMAGES:
        yield (
            "Few validation images",
            (
                f"with {count}, the true share may lie anywhere from "
                f"{percent_range(right.low, right.high)}.",
            ),
        )


def _uneven(dataset: Dataset, result: Result, analysis: Analysis) -> Iterator[tuple[str, Sentence]]:
    """Say how small classes fare where classes are uneven."""
    names = dataset.class_names
    counts = np.bincount(dataset.y[result.splits[0].refit_rows], minlength=len(names))
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] < _UNEVEN * counts[smallest]:
        return
    small = [
        of for of, n in zip(analysis.classes, counts, strict=True) if _UNEVEN * n <= counts[largest]
    ]
    rows = sum(of.rows for of in small)
    hits = sum(round((of.recall.value or 0) * of.rows) for of in small)
    fare = "there are no validation images to test the small ones on"
    if rows:
        which = "the small one" if len(small) == 1 else f"the {len(small)} small ones"
        fare = f"of {which}, {hits} of {count_of(rows, 'validation image')} are recognised"
    most, least = (
        f" has {count_of(int(counts[largest]), 'training image')}, ",
        f" {counts[smallest]}",
    )
    yield "Uneven classes", (Name(names[largest]), most, Name(names[smallest]), f"{least}; {fare}.")


def _calibration(
    dataset: Dataset, result: Result, analysis: Analysis, right: Proportion
) -> Iterator[tuple[str, Sentence]]:
    """Compare scores with shares where they differ by more than chance."""
    rows, scores = result.validation_rows, result.scores
    assert scores is not None
    sure = float(scores[: len(rows)].max(axis=1).mean())
    if analysis.calibration_error <= _BADLY_CALIBRATED or right.low is None or right.high is None:
        return
    if right.low <= sure <= right.high:
        return
    kind = "high" if sure > (right.value or 0) else "low"
    yield (
        f"Scores are too {kind}",
        (f"{sure:.2f} on average, where {right.value:.2f} of the answers are right.",),
    )


def _labels(analysis: Analysis) -> Iterator[tuple[str, Sentence]]:
    found = analysis.label_issues
    if found.clear and found.count <= _MOST_DOUBTS * found.scored:
        labels = f"{found.clear:,} of {count_of(found.scored, 'label')}"
        said = f"an lda head clearly disagrees with {labels}; see Label issues."
        yield "Doubtful labels", (said,)
