"""The report of a run: one HTML file that says which head to use and where it is wrong.

The page loads nothing. Its only script and its only style sheet are allowed by their digests, so no
element has a style attribute. The template engine escapes every name that comes from the user.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.activation.explain import Explained
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.diagnosis.comparison import HeadPair
from classify.diagnosis.diagnostics import ClassMetrics, Mistake, confused_pairs
from classify.diagnosis.sweeps import find_sweeps
from classify.figures.candidates import name_heads
from classify.figures.confusion import cell_width, to_page
from classify.figures.drawing import Drawing, to_svg
from classify.figures.learning import list_panels
from classify.figures.result_figures import draw_figures
from classify.figures.sweeps import MOST_SWEEPS, kind_of
from classify.labelling.issues import LabelIssue
from classify.report.confusion_cells import CellImages
from classify.report.images import read_images
from classify.report.map_marks import map_content, map_places
from classify.report.mistakes import MOST_PAIRS, explained_mistakes, near_pairs
from classify.report.provenance import list_settings
from classify.report.summary import Name, summarise
from classify.scores.intervals import FEWEST_GROUPS
from classify.scores.words import metric_name, percent, percentage_points
from classify.search.evaluate import training_sample
from classify.search.leaderboard import Result
from classify.search.ranking import to_json
from classify.settings.config import METRICS
from extract.gallery.page import content_policy, open_templates
from extract.images.remote import hide_secrets

_PAGE = Path(__file__).with_name("page")
# Files of a folder that come before all others, and after them: rules for paper and telephones.
_FIRST, _LAST = ("base.css", "page.js", "images.js"), ("print_and_phone.css",)
# More thumbnails and lines of a table would make the page harder to read.
_MOST_IMAGES, _MOST_ISSUES, _MOST_CLASSES, _MOST_PAIRS, _MOST_KEY = 24, 12, 200, 200, 300
# The name of a group that its images have from no one: see ``group_by_digest``.
_DIGEST = re.compile("[0-9a-f]{32}")
_NO_VALUE = "\N{EN DASH}"


def write_report(
    path: Path,
    dataset: Dataset,
    result: Result,
    analysis: Analysis,
    store: str | Sequence[str],
    explained: Explained | None = None,
    described: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a finished run; the same result gives the same bytes.

    Two runs with the same seed differ in their seconds, date and command only.

    Args:
        path: The HTML file.
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
        store: The store or stores, as the user named them.
        explained: The mistakes that are shown; None shows them without explanation.
        described: From ``describe_run``; None shows no commands, dates and versions.

    Raises:
        OSError: The file cannot be written.
    """
    explained = explained or Explained.left_out(analysis.mistakes, "")
    template = _environment().get_template("report.html")
    text = template.render(
        **_page(),
        **_results(dataset, result, analysis, explained),
        settings=list_settings(dataset, result, described or {}),
        stores=[store] if isinstance(store, str) else store,
    )
    path.write_text(text.lstrip(), encoding="utf-8", newline="\n")


def _page() -> dict[str, Any]:
    """Return the style sheet and the script of the page, and the policy that allows only these."""
    style, script = map(_join_files, ("style", "scripts"))
    return {"style": style, "script": script, "policy": content_policy(style, script)}


def _join_files(folder: str) -> str:
    """Return the text of the files of a folder, one for each section."""
    others = {path.name for path in (_PAGE / folder).iterdir()} - {*_FIRST, *_LAST}
    names = [*_FIRST, *sorted(others), *_LAST]
    paths = [_PAGE / folder / name for name in names]
    return "".join(path.read_text(encoding="utf-8") for path in paths if path.exists())


def _results(
    dataset: Dataset, result: Result, analysis: Analysis, explained: Explained
) -> dict[str, Any]:
    """Return the content of the page by the names that its templates use."""
    cells = CellImages(analysis.confusion, dataset, result)
    wanted = _small_images(analysis, cells)
    images = read_images(dataset, result, analysis, _large_images(analysis, explained), wanted)
    (mistakes, issues), known = _listed(analysis), set(images.rows.tolist())
    compared = [_compared(pair, result) for pair in analysis.comparisons]
    return {
        **_numbers(dataset, result, analysis),
        **map_content(dataset, result, analysis, images),
        "images": images,
        "compared": compared,
        "mistakes": explained_mistakes(images, dataset, mistakes, explained),
        "explained": explained,
        "near_pairs": near_pairs(images, dataset, result, explained),
        "issues": images.show(issues),
        "page_data": {
            "images": images.to_page(dataset, result),
            "thresholds": analysis.thresholds._asdict(),
            "confusion": cells.to_page(),
            "comparison": compared,
            # Of the rows that are not among the images.
            "keys": {row: dataset.keys[row][:_MOST_KEY] for row in wanted if row not in known},
            "maps": map_places(dataset, analysis),
        },
    }


def _listed(analysis: Analysis) -> tuple[Sequence[Mistake], Sequence[LabelIssue]]:
    """Return the mistakes and the label issues that the page shows."""
    return analysis.mistakes[:_MOST_IMAGES], analysis.label_issues.issues[:_MOST_ISSUES]


def _large_images(analysis: Analysis, explained: Explained) -> list[int]:
    """Return the rows that templates show, the most important ones first."""
    mistakes, issues = _listed(analysis)
    rows = [mistake.row for mistake in mistakes] + [issue.row for issue in issues]
    rows += [row for pair in explained.near[:MOST_PAIRS] for row in pair[:2]]
    return rows + [neighbour.row for nearest in explained.nearest for neighbour in nearest]


def _small_images(analysis: Analysis, cells: CellImages) -> list[int]:
    """Return the rows that scripts show, the most important ones first."""
    first, *others = [pair.rows for pair in analysis.comparisons] or [[]]
    return [*first, *cells.rows.tolist(), *(row for rows in others for row in rows)]


def _compared(pair: HeadPair, result: Result) -> dict[str, Any]:
    """Return two heads for the page, with their difference in words, also the other way round."""
    count = len(result.validation_rows)
    shares = [(pair.both_right + only) / count for only in (pair.only_first, pair.only_second)]
    p_value = "< 0.001" if pair.p_value < 0.001 else f"= {pair.p_value:.3f}"

    def words(first: float, second: float, sign: int) -> str:
        needed = f"{result.units} groups, {FEWEST_GROUPS} of like size are needed"
        interval = f"without an interval: {needed}"
        if pair.low is not None and pair.high is not None:
            ends = [percentage_points(end) for end in sorted((sign * pair.low, sign * pair.high))]
            interval = f"95\N{NO-BREAK SPACE}% confidence interval {' to '.join(ends)}"
        return (
            f"Accuracy {percent(first)} and {percent(second)}: a difference of "
            f"{percentage_points(sign * pair.difference)} percentage points, {interval}. "
            f"McNemar's exact test: p {p_value}."
        )

    turned = words(shares[1], shares[0], -1)
    return {**to_json(pair), "words": words(shares[0], shares[1], 1), "words_turned": turned}


def _numbers(dataset: Dataset, result: Result, analysis: Analysis) -> dict[str, Any]:
    """Return the content of the page without its images."""
    own = result.dataset or dataset
    figures = draw_figures(dataset, result, analysis)
    return {
        "makers": own.joined or [own],
        "dataset": dataset,
        "result": result,
        "analysis": analysis,
        "metrics": [result.metric, *(name for name in METRICS if name != result.metric)],
        "lead": _lead(result),
        "summary": summarise(dataset, result, analysis),
        "train_scored": training_sample(len(result.splits[0].train)),
        **dict(zip(("lowest", "highest"), result.score_range, strict=True)),
        "fewest_groups": FEWEST_GROUPS,
        "named_groups": [group for group in analysis.groups if not _DIGEST.fullmatch(group.name)],
        "learning": list_panels(result),
        "sweeps": [(kind_of(sweep), sweep) for sweep in find_sweeps(result.entries)[:MOST_SWEEPS]],
        "named_heads": name_heads(result.entries),
        "figures": figures,
        **_confusions(dataset, analysis, figures["confusion"]),
        "worst_classes": _worst_classes(analysis.classes),
    }


def _confusions(dataset: Dataset, analysis: Analysis, drawing: Drawing) -> dict[str, Any]:
    """Return the content of the section of confusions."""
    names, confusion = dataset.class_names, analysis.confusion
    return {
        "confusion_matrix": to_page(drawing),
        "cell_width": cell_width(len(names)),
        "confused": confused_pairs(confusion, names, _MOST_PAIRS),
        "wrong_cells": int(confusion.count_nonzero() - (confusion.diagonal() > 0).sum()),
    }


def _environment() -> Any:
    """Return the template engine with the filters of the report."""
    environment = open_templates(_PAGE)
    environment.filters |= {"number": _number, "percent": percent, "metric_name": metric_name}
    environment.filters |= {"svg": _svg, "breakable": _breakable, "without_secrets": hide_secrets}
    environment.tests["name"] = lambda text: isinstance(text, Name)
    return environment


def _number(value: float | None, places: int = 3) -> str:
    return _NO_VALUE if value is None or np.isnan(value) else f"{value:.{places}f}"


def _breakable(text: str) -> Any:
    """Return a name, escaped, that may break after a mark, as a path does."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[_/\\.-])(?=\w)", "<wbr>", str(escape(text))))


def _svg(drawing: Drawing, scale: float = 1.1) -> Any:
    """Return a figure as SVG, which the template does not escape."""
    from markupsafe import Markup

    return Markup(to_svg(drawing, scale))


def _lead(result: Result) -> dict[str, Any]:
    """Return the name and the score of the best head, and the number of its training images."""
    best, tuned = result.best, result.finetuned
    above = f", fine-tuned above {tuned.layer}" if tuned and tuned.best_epoch else ""
    return {
        "name": best.label + above,
        "score": result.score(result.metric),
        "low": (tuned or best).low,
        "high": (tuned or best).high,
        "training": len(result.splits[0].refit_rows),
    }


def _worst_classes(classes: Sequence[ClassMetrics]) -> Sequence[ClassMetrics]:
    """Return all classes in order or, of many, those with the lowest F1, lowest first."""
    if len(classes) <= _MOST_CLASSES:
        return classes
    known = [metrics for metrics in classes if metrics.f1.value is not None]
    return sorted(known, key=lambda of: (of.f1.value, -of.rows))[:_MOST_CLASSES]
