"""The report of a run: one HTML file that says which head to use and where it is wrong.

The page loads nothing. Its only script is allowed by its digest. The template
engine escapes every name that comes from the user.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.activation.explain import Explained
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.diagnosis.diagnostics import ClassMetrics
from classify.figures.confusion import cell_width
from classify.figures.drawing import SERIES, Drawing, to_svg
from classify.figures.learning import list_panels
from classify.figures.result_figures import draw_figures, map_name, map_styles
from classify.report.images import Images, read_images
from classify.scores.intervals import FEWEST_GROUPS
from classify.search.evaluate import training_sample
from classify.search.leaderboard import Result
from classify.settings.config import METRICS
from extract.gallery.page import open_templates

_PAGE = Path(__file__).with_name("page")
# In the order of the page; rules for paper and telephones come last.
_STYLES = ("style/base.css", "style/images.css", "style/mistakes.css", "style/print_and_phone.css")
_SCRIPTS = ("scripts/page.js", "scripts/tables.js", "scripts/images.js", "scripts/mistakes.js")
# More thumbnails and lines of a table would make the page harder to read.
_MOST_IMAGES, _MOST_ISSUES, _MOST_CLASSES = 24, 12, 200
_NO_VALUE = "\N{EN DASH}"


def write_report(
    path: Path,
    dataset: Dataset,
    result: Result,
    analysis: Analysis,
    store: str | Sequence[str],
    explained: Explained | None = None,
) -> None:
    """Write the report of a finished run; the same run gives the same bytes.

    Args:
        path: The HTML file.
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
        store: The store or stores, as the user named them.
        explained: The mistakes that are shown; None shows them without explanation.

    Raises:
        OSError: The file cannot be written.
    """
    explained = explained or Explained.left_out(analysis.mistakes, "")
    template = _environment().get_template("report.html")
    text = template.render(
        **_page(),
        **_results(dataset, result, analysis, explained),
        stores=[store] if isinstance(store, str) else store,
    )
    path.write_text(text.lstrip(), encoding="utf-8", newline="\n")


def _page() -> dict[str, Any]:
    """Return the style and the script of the page, and the digest that allows the script."""
    script = "".join((_PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"styles": _STYLES, "script": script, "script_digest": digest}


def _results(
    dataset: Dataset, result: Result, analysis: Analysis, explained: Explained
) -> dict[str, Any]:
    """Return the content of the page by the names that its templates use."""
    listed = analysis.mistakes[:_MOST_IMAGES], analysis.label_issues.issues[:_MOST_ISSUES]
    wanted: list[int] = []  # rows whose small images scripts show, the most important ones first
    large = [one.row for part in listed for one in part]
    large += [neighbour.row for nearest in explained.nearest for neighbour in nearest]
    images = read_images(dataset, result, analysis, large, wanted)
    own = result.dataset or dataset
    lowest, highest = _range(result)
    return {
        "makers": own.joined or [own],
        "dataset": dataset,
        "result": result,
        "analysis": analysis,
        "metrics": [result.metric, *(name for name in METRICS if name != result.metric)],
        "lead": _lead(result),
        "train_scored": training_sample(len(result.splits[0].train)),
        "lowest": lowest,
        "highest": highest,
        "fewest_groups": FEWEST_GROUPS,
        "learning": list_panels(result),
        "figures": draw_figures(dataset, result, analysis),
        "map_name": map_name,
        "map_styles": map_styles(dataset, analysis),
        "colours": len(SERIES),
        "cell_width": cell_width(len(dataset.class_names)),
        "worst_classes": _worst_classes(analysis.classes),
        "images": images,
        "mistakes": _with_explanations(images, dataset, images.show(listed[0]), explained),
        "explained": explained,
        "issues": images.show(listed[1]),
        "page_data": {"images": images.to_page(dataset, result)},
    }


def _environment() -> Any:
    """Return the template engine with the filters of the report."""
    environment = open_templates(_PAGE)
    environment.filters |= {"number": _number, "percent": _percent, "svg": _svg}
    return environment


def _range(result: Result) -> tuple[float, float]:
    """Return the ends of the leaderboard's intervals."""
    lines: list[Any] = [*result.entries, *filter(None, [result.baseline])]
    ends = [end for one in lines for end in (one.low, one.high, one.scores[result.metric])]
    known = [end for end in ends if end is not None]
    return min(known), max(known)


def _number(value: float | None, places: int = 3) -> str:
    return _NO_VALUE if value is None or np.isnan(value) else f"{value:.{places}f}"


def _svg(drawing: Drawing) -> Any:
    """Return a figure as SVG, which the template does not escape."""
    from markupsafe import Markup

    return Markup(to_svg(drawing))


def _percent(value: float | None) -> str:
    if value is None:
        return _NO_VALUE
    return ("100" if value == 1 else f"{100 * value:.1f}") + "\N{NO-BREAK SPACE}%"


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


def _with_explanations(
    images: Images, dataset: Dataset, mistakes: list[dict[str, Any]], explained: Explained
) -> list[dict[str, Any]]:
    """Return mistakes with their overlays and the images of their neighbours."""
    shown = {mistake["mistake"].row for mistake in mistakes}
    for mistake, overlay, nearest in zip(
        mistakes, explained.overlays, explained.nearest, strict=True
    ):
        mistake |= {"overlay": overlay, "nearest": []}
        for row, cosine in nearest:
            words = {"key": dataset.keys[row], "label": dataset.class_names[dataset.y[row]]}
            words |= {"row": row, "cosine": cosine, "is_first": row not in shown}
            mistake["nearest"].append(words | images.thumbnails[row]._asdict())
            shown.add(row)
    return mistakes
