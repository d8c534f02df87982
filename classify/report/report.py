"""The report of a run: one HTML file that says which head to use and where it is wrong.

The page loads nothing. Its only script sorts tables and is allowed by its digest. The template
engine escapes every name that comes from the user.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.report import figures
from classify.report.analysis import Analysis, Mistake
from classify.report.diagnostics import ClassMetrics
from classify.scores.intervals import FEWEST_GROUPS
from classify.search.evaluate import training_sample
from classify.search.leaderboard import Result
from classify.search.ranking import Entry
from classify.settings.config import METRICS
from classify.settings.sweep import label
from extract.core.console import log
from extract.core.errors import ImageError, SourceError, count_of, quoted
from extract.images.digests import digest_bytes
from extract.images.item import Read
from extract.images.remote import is_url
from extract.limits import prefetch
from extract.limits.image_size import under_way
from extract.pixels.decode import decode
from extract.sources.listing import open_reader

_PAGE = Path(__file__).with_name("page")
# More curves, thumbnails and lines of a table would make the page harder to read.
_MOST_CURVES, _MOST_IMAGES, _MOST_CLASSES = 8, 24, 200
_IMAGE_SIZE = (144, 144)
# More classes than fit have no style of their own on the map, except those with most mistakes.
_MOST_STYLES, _FEW_STYLES = 20, 10
_NO_VALUE = "\N{EN DASH}"


def write_report(
    path: Path, dataset: Dataset, result: Result, analysis: Analysis, store: str
) -> None:
    """Write the report of a finished run; the same run gives the same bytes.

    Args:
        path: The HTML file.
        dataset: The rows that were trained on.
        result: The result of the run.
        analysis: The analysis of the best head.
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
    lines: list[Any] = [*result.entries, *filter(None, [result.baseline])]
    ends = [end for one in lines for end in (one.low, one.high, one.scores[result.metric])]
    lowest, highest = (pick(end for end in ends if end is not None) for pick in (min, max))
    environment.filters |= {"number": _number, "percent": _percent}
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    text = environment.get_template("report.html").render(
        script=script,
        script_digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        label=label,
        store=store,
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
        mistakes=_thumbnails(dataset, analysis.mistakes[:_MOST_IMAGES]),
    )
    path.write_text(text.lstrip(), encoding="utf-8", newline="\n")


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
        "name": label(best.spec) + above,
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
        {"name": label(e.spec), "dropout": e.spec.dropout, "history": e.evaluation.history}
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


def _thumbnails(dataset: Dataset, mistakes: Sequence[Mistake]) -> list[dict[str, Any]]:
    """Return mistakes with their images as data URIs, or with the reason why there is none.

    A file of features from a stranger names the images, so reading those in one place, each a
    regular file of the recorded digest, takes limited time.
    """
    if not dataset.trunk.trunk:
        if dataset.moved_to:
            log.warning("source: has no effect on features of another program, without images")
        return [_shown(mistake, "", "features of another program") for mistake in mistakes]
    tried = list[list[dict[str, Any]]]()
    read = partial(_read_images, dataset, mistakes)
    late = f"took longer than {prefetch.LIMIT_SECONDS:g} s to read"
    with closing(prefetch.map_in_threads(read, _places(dataset), 1, 1)) as places:
        for found in places:
            tried.append(found or [_shown(mistake, "", late) for mistake in mistakes])
            if any(shown["image"] for shown in tried[-1]):
                return tried[-1]
    if mistakes:
        _explain_missing(dataset, len(mistakes))
    return tried[0]


def _places(dataset: Dataset) -> list[tuple[str, str]]:
    """Return where the images may be, each with the folder of a table's images."""
    if dataset.moved_to:
        return [(dataset.moved_to, "")]
    places = [(dataset.source, dataset.root)]
    if dataset.source and dataset.path and not is_url(dataset.source):
        # Older files have paths as they were named, perhaps from the folder of the file.
        home = dataset.path.absolute().parent
        root = str(home / dataset.root) if dataset.root else ""
        places.append((str(home / dataset.source), root))
    return list(dict.fromkeys(places))


def _explain_missing(dataset: Dataset, count: int) -> None:
    """Say why the report shows no image."""
    if dataset.moved_to:
        found = f"holds none of the {count_of(count, 'image')} that the report would show"
        expected = "expected what extract-features read, where it is now"
        log.warning("source: %s %s; %s", quoted(dataset.moved_to), found, expected)
    elif dataset.source and not is_url(dataset.source):
        found = f"no longer holds the images of the {count_of(count, 'mistake')} in the report"
        log.info("%s %s; say where they are with --source", quoted(dataset.source), found)


def _read_images(
    dataset: Dataset, mistakes: Sequence[Mistake], place: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return mistakes with their images in one place, or with the reason why there is none."""
    shown, read = [], None
    with suppress(SourceError):  # the archive may be gone, or on another machine
        read = open_reader(place[0], dataset.columns, place[1])
    for mistake in mistakes:
        try:
            with under_way():
                shown.append(_shown(mistake, _thumbnail(dataset, read, mistake), ""))
        except ImageError as error:
            shown.append(_shown(mistake, "", str(error)))
    return shown


def _shown(mistake: Mistake, image: str, reason: str) -> dict[str, Any]:
    return {"mistake": mistake, "image": image, "reason": reason}


def _thumbnail(dataset: Dataset, read: Read | None, mistake: Mistake) -> str:
    """Return a small image as a data URI.

    Raises:
        ImageError: It cannot be read, or is not the one that the features were made of.
    """
    from PIL import Image

    if read is None or not (dataset.source or dataset.moved_to):
        raise ImageError("source not available")
    try:
        content = read(mistake.key)
    except ImageError as error:
        raise ImageError("image not found") from error
    known = None if dataset.digests is None else dataset.digests[mistake.row].tobytes()
    if digest_bytes(content) != known:
        raise ImageError("image changed since extraction")
    out = BytesIO()
    Image.fromarray(decode(content, _IMAGE_SIZE, "pad", decoding="scaled")).save(
        out, "JPEG", quality=82
    )
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
