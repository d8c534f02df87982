"""Result -> one HTML file for people: what to use, how good it is, where it is wrong.

The page loads nothing. Its one script sorts tables and is allowed by its digest; all that a user
named is escaped by the template engine.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.report import figures
from classify.report.analysis import Analysis, Mistake
from classify.report.diagnostics import Share
from classify.report.svg import SERIES
from classify.search.leaderboard import Entry, Result
from classify.settings.config import METRICS
from classify.settings.sweep import label
from extract.core.errors import ImageError, SourceError
from extract.images.decode import decode
from extract.images.digests import digest_bytes
from extract.images.item import Read
from extract.sources.listing import open_reader

_PAGE = Path(__file__).with_name("page")
# Lines of the leaderboard, curves and thumbnails beyond which a page helps nobody.
_MOST_ENTRIES, _MOST_CURVES, _MOST_IMAGES = 200, 8, 24
_IMAGE_SIZE = (144, 144)
# Classes of a map that differ in colour and marker; of more, those with the most mistakes do.
_MOST_STYLES, _FEW_STYLES = 20, 10
_NOTHING = "\N{EN DASH}"
_METRIC_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "loss": "loss",
}


def write_report(
    path: Path, dataset: Dataset, result: Result, analysis: Analysis, store: str
) -> None:
    """Write the report of a finished run; the same run gives the same bytes.

    Args:
        path: The HTML file.
        dataset: What was trained on.
        result: What came of it.
        analysis: The best head, looked at closely.
        store: The store, as the user named it.

    Raises:
        OSError: The file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "share": _share}
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("report.html").render(
        script=script,
        script_digest=digest,
        style=(_PAGE / "report.css").read_text(encoding="utf-8"),
        store=store,
        dataset=dataset,
        result=result,
        analysis=analysis,
        words=_METRIC_WORDS,
        metrics=[result.metric, *(name for name in METRICS if name != result.metric)],
        lead=_lead(result),
        board=_board(result),
        more=max(0, len(result.entries) - _MOST_ENTRIES),
        learning=_learning(result),
        drawn=_drawn(dataset, analysis),
        maps=_maps(dataset, analysis),
        keys=_map_keys(dataset, analysis),
        mistakes=_with_images(dataset, analysis.mistakes[:_MOST_IMAGES]),
    )
    path.write_text(text.lstrip(), encoding="utf-8", newline="\n")


def _number(value: float | None, places: int = 3) -> str:
    return _NOTHING if value is None else f"{value:.{places}f}"


def _percent(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return ("100" if value == 1 else f"{100 * value:.1f}") + "\N{NO-BREAK SPACE}%"


def _share(found: Share) -> str:
    """Return an interval; beside the share itself nothing is said twice where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{found.low:.2f}\N{EN DASH}{found.high:.2f}"


def _lead(result: Result) -> dict[str, Any]:
    """Return what stands at the top: the best head, who judged it, and on what it was trained."""
    best, first, folds = result.best, result.splits[0], len(result.splits)
    tuned, name = result.finetuned, label(best.spec)
    if tuned and tuned.best_epoch:
        name += f", fine-tuned above {tuned.layer}"
    everything = first.origin == "fold"
    return {
        "name": name,
        "score": tuned.score if tuned else best.scores[result.metric],
        "low": tuned.low if tuned else best.low,
        "high": tuned.high if tuned else best.high,
        "others": [label(entry.spec) for entry in result.entries[1:] if entry.as_good],
        "origin": first.origin,
        "folds": folds,
        "judging": len(result.validation_rows),
        "training": len(first.train) + len(first.validation) * everything,
    }


def _board(result: Result) -> list[dict[str, Any]]:
    """Return the lines of the leaderboard, each with its interval on a common scale."""
    entries = result.entries[:_MOST_ENTRIES]
    low, high = min(e.low for e in entries), max(e.high for e in entries)
    width = max(high - low, 1e-9)
    return [
        {
            "entry": entry,
            "name": label(entry.spec),
            "start": 100 * (entry.low - low) / width,
            "width": 100 * (entry.high - entry.low) / width,
            "at": 100 * (min(max(entry.scores[result.metric], low), high) - low) / width,
        }
        for entry in entries
    ]


def _learning(result: Result) -> list[dict[str, Any]]:
    """Draw curves: of fine-tuning, of a dropout sweep side by side, of the leading other heads."""
    with_epochs = [
        entry for entry in result.entries if len(entry.evaluation.history.get("loss", []))
    ]
    swept = _dropout_sweep(with_epochs)
    chosen = [*swept, *(entry for entry in with_epochs if entry not in swept)][:_MOST_CURVES]
    lines = [
        (label(e.spec), e.spec.dropout if e in swept else None, e.evaluation.history)
        for e in chosen
    ]
    if result.finetuned and result.finetuned.history["loss"]:
        tuned = result.finetuned
        lines.insert(0, (f"fine-tuning above {tuned.layer}", None, tuned.history))
    if not lines:
        return []
    histories = [history for _, _, history in lines]
    # A head that went astray would flatten all others.
    peaks = [max(*h["loss"], *h["val_loss"]) for h in histories]
    highest = min(max(peaks), 3 * float(np.median(peaks)))
    limits = min(min(*h["accuracy"], *h["val_accuracy"]) for h in histories), highest
    return [
        {
            "name": name,
            "dropout": dropout,
            "svg": figures.draw_learning(f"learning{i}", history, limits),
            "training": history["accuracy"][-1],
            "held": history["val_accuracy"][-1],
            "epochs": len(history["loss"]),
            "best": int(np.argmin(history["val_loss"])) + 1,
        }
        for i, (name, dropout, history) in enumerate(lines)
    ]


def _dropout_sweep(entries: Sequence[Entry]) -> list[Entry]:
    """Return the first heads that differ in nothing but their dropout, by dropout; or none."""
    families: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.spec.dropout is not None:
            families.setdefault(replace(entry.spec, dropout=0.0), []).append(entry)
    swept = next((family for family in families.values() if len(family) > 1), [])
    return sorted(swept[:_MOST_CURVES], key=lambda entry: entry.spec.dropout or 0.0)


def _drawn(dataset: Dataset, analysis: Analysis) -> dict[str, str]:
    """Draw the figures of the best head."""
    drawn = {
        "confusion": figures.draw_confusion("confusion", analysis.confusion, dataset.class_names),
        "calibration": figures.draw_calibration("calibration", analysis.calibration),
    }
    if analysis.sizes:
        drawn["sizes"] = figures.draw_sizes("sizes", analysis.sizes)
    if analysis.roc:
        rates = ("false positive rate", "true positive rate")
        drawn["roc"] = figures.draw_lines("roc", analysis.roc, rates)
        axes = ("recall", "precision")
        drawn["precision_recall"] = figures.draw_lines("pr", analysis.precision_recall, axes)
    return drawn


def _maps(dataset: Dataset, analysis: Analysis) -> list[dict[str, Any]]:
    """Draw the maps, all in the colours and markers of ``_styles``."""
    styles = _styles(dataset, analysis)
    drawn = []
    for i, found in enumerate(analysis.maps):
        style = [styles.get(label) for label in dataset.y[found.rows].tolist()]
        svg = figures.draw_map(f"map{i}", found, style, np.isin(found.rows, analysis.wrong))
        drawn.append({"map": found, "svg": svg})
    return drawn


def _styles(dataset: Dataset, analysis: Analysis) -> dict[int, int]:
    """Return class -> number of its colour and marker on the map."""
    K = len(dataset.class_names)
    if K <= _MOST_STYLES:
        return {label: label for label in range(K)}
    wrong = np.bincount(dataset.y[analysis.wrong], minlength=K)
    worst = np.argsort(-wrong, kind="stable")[:_FEW_STYLES]
    return {label: number for number, label in enumerate(worst.tolist())}


def _map_keys(dataset: Dataset, analysis: Analysis) -> list[dict[str, Any]]:
    """Return what the colours and markers of the map mean."""
    styles = _styles(dataset, analysis)
    return [
        {
            "name": dataset.class_names[label],
            "colour": number % len(SERIES),
            "marker": number // len(SERIES),
        }
        for label, number in styles.items()
    ]


def _with_images(dataset: Dataset, mistakes: Sequence[Mistake]) -> list[dict[str, Any]]:
    """Return mistakes with their images as data URIs, or with why there is none."""
    found, read = [], None
    with suppress(SourceError):  # an archive that is gone, or another machine
        read = open_reader(dataset.source, dataset.columns)
    for mistake in mistakes:
        try:
            image, reason = _image(dataset, read, mistake), ""
        except ImageError as error:
            image, reason = "", str(error)
        found.append({"mistake": mistake, "image": image, "reason": reason})
    return found


def _image(dataset: Dataset, read: Read | None, mistake: Mistake) -> str:
    """Return a small image as a data URI.

    Raises:
        ImageError: It is gone, is not the one that the features were made of, or unreadable.
    """
    from PIL import Image

    if read is None:
        raise ImageError("not at hand")
    try:
        content = read(mistake.key)
    except ImageError as error:
        raise ImageError("not where it was") from error
    known = None if dataset.digests is None else dataset.digests[mistake.row].tobytes()
    if not dataset.source or digest_bytes(content) != known:
        raise ImageError("changed since")
    pixels: NDArray[np.uint8] = decode(content, _IMAGE_SIZE, "pad")
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
