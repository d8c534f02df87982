"""The report of a run: one HTML file that says which head to use and where it is wrong.

The page loads nothing. Its only script sorts tables and is allowed by its digest. The template
engine escapes every name that comes from the user.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.labelling.issues import LabelIssue
from classify.report import figures
from classify.report.analysis import Analysis
from classify.report.diagnostics import ClassMetrics, Mistake
from classify.scores.intervals import FEWEST_GROUPS
from classify.search.evaluate import training_sample
from classify.search.leaderboard import Result
from classify.search.ranking import Entry
from classify.settings.config import METRICS
from extract.core.console import log
from extract.gallery.page import open_templates
from extract.gallery.thumbnails import Place, Thumbnail, Wanted, read_thumbnails

_PAGE = Path(__file__).with_name("page")
# More curves, thumbnails and lines of a table would make the page harder to read.
_MOST_CURVES, _MOST_IMAGES, _MOST_ISSUES, _MOST_CLASSES = 8, 24, 12, 200
# More classes than fit have no style of their own on the map, except those with most mistakes.
_MOST_STYLES, _FEW_STYLES = 20, 10
_NO_VALUE = "\N{EN DASH}"


def write_report(
    path: Path, dataset: Dataset, result: Result, analysis: Analysis, store: str | Sequence[str]
) -> None:
    """Write the report of a finished run; the same run gives the same bytes.

    Args:
        path: The HTML file.
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
        store: The store or stores, as the user named them.

    Raises:
        OSError: The file cannot be written.
    """
    listed = analysis.mistakes[:_MOST_IMAGES], analysis.label_issues.issues[:_MOST_ISSUES]
    images, shown = _thumbnails(dataset, [*listed[0], *listed[1]]), len(listed[0])
    own = result.dataset or dataset
    lowest, highest = _range(result)
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    text = (
        _environment()
        .get_template("report.html")
        .render(
            script=script,
            script_digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            stores=[store] if isinstance(store, str) else store,
            makers=own.joined or [own],
            dataset=dataset,
            result=result,
            analysis=analysis,
            metrics=[result.metric, *(name for name in METRICS if name != result.metric)],
            lead=_lead(result),
            train_scored=training_sample(len(result.splits[0].train)),
            lowest=lowest,
            highest=highest,
            fewest_groups=FEWEST_GROUPS,
            learning=_learning(result),
            figures=figures,
            worst_classes=_worst_classes(analysis.classes),
            styles=_map_styles(dataset, analysis),
            mistakes=images[:shown],
            issues=images[shown:],
        )
    )
    path.write_text(text.lstrip(), encoding="utf-8", newline="\n")


def _environment() -> Any:
    """Return the template engine with the filters of the report."""
    environment = open_templates(_PAGE)
    environment.filters |= {"number": _number, "percent": _percent}
    return environment


def _range(result: Result) -> tuple[float, float]:
    """Return the ends of the leaderboard's intervals."""
    lines: list[Any] = [*result.entries, *filter(None, [result.baseline])]
    ends = [end for one in lines for end in (one.low, one.high, one.scores[result.metric])]
    known = [end for end in ends if end is not None]
    return min(known), max(known)


def _number(value: float | None, places: int = 3) -> str:
    return _NO_VALUE if value is None or np.isnan(value) else f"{value:.{places}f}"


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


def _learning(result: Result) -> list[dict[str, Any]]:
    """Draw the learning curves of fine-tuning, a dropout sweep and the best other heads."""
    with_epochs = [entry for entry in result.entries if entry.evaluation.history.get("loss")]
    sweep = _dropout_sweep(with_epochs)
    others = [entry for entry in with_epochs if entry not in sweep]
    panels: list[dict[str, Any]] = [
        {"name": e.label, "dropout": e.spec.dropout, "history": e.evaluation.history}
        for e in [*sweep, *others][:_MOST_CURVES]
    ]
    for panel in panels[len(sweep) :]:
        panel["dropout"] = None
    tuned = result.finetuned
    if tuned and tuned.history["loss"]:
        name = f"fine-tuning above {tuned.layer}"
        panels.insert(0, {"name": name, "dropout": None, "history": tuned.history})
    histories = [panel["history"] for panel in panels]
    # A head that diverged would flatten all other curves.
    peaks = [max(*h["loss"], *h["val_loss"]) for h in histories] or [0.0]
    lowest = min((min(*h["accuracy"], *h["val_accuracy"]) for h in histories), default=0.0)
    limits = lowest, min(max(peaks), 3 * float(np.median(peaks)))
    for i, panel in enumerate(panels):
        panel["svg"] = figures.draw_learning(f"learning{i}", panel["history"], limits)
    return panels


def _dropout_sweep(entries: Sequence[Entry]) -> list[Entry]:
    """Return the first heads that differ only in their dropout, by dropout; or none."""
    families: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.spec.dropout is not None:
            families.setdefault(replace(entry.spec, dropout=0.0), []).append(entry)
    sweep = next((family for family in families.values() if len(family) > 1), [])
    return sorted(sweep[:_MOST_CURVES], key=lambda entry: entry.spec.dropout or 0.0)


def _worst_classes(classes: Sequence[ClassMetrics]) -> Sequence[ClassMetrics]:
    """Return all classes in order or, of many, those with the lowest F1, lowest first."""
    if len(classes) <= _MOST_CLASSES:
        return classes
    known = [metrics for metrics in classes if metrics.f1.value is not None]
    return sorted(known, key=lambda of: (of.f1.value, -of.rows))[:_MOST_CLASSES]


def _map_styles(dataset: Dataset, analysis: Analysis) -> dict[int, int]:
    """Return class -> number of its colour and marker on the map."""
    K = len(dataset.class_names)
    wrong = np.bincount(dataset.y[analysis.wrong_rows], minlength=K)
    worst = np.argsort(-wrong, kind="stable")[:_FEW_STYLES]
    classes = worst.tolist() if K > _MOST_STYLES else range(K)
    return {label: number for number, label in enumerate(classes)}


def _thumbnails(dataset: Dataset, mistakes: Sequence[Mistake | LabelIssue]) -> list[dict[str, Any]]:
    """Return mistakes and label issues with their images, or the reason why there is none."""
    first = dataset.store.parts[0].made_by if dataset.store else dataset
    if not first.trunk.trunk:
        if dataset.moved_to:
            log.warning("source: has no effect on features of another program, without images")
        thumbnails = [Thumbnail("", "features of another program")] * len(mistakes)
    else:
        known = dataset.digests
        wanted = [
            Wanted(mistake.key, None if known is None else known[mistake.row].tobytes())
            for mistake in mistakes
        ]
        place = dataset.source, dataset.columns, dataset.root, dataset.moved_to
        thumbnails = read_thumbnails(wanted, Place(dataset.path, *place))
    return [
        {"mistake": mistake, **thumbnail._asdict()}
        for mistake, thumbnail in zip(mistakes, thumbnails, strict=True)
    ]
