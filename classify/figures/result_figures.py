"""Every figure of a result, by name: for the page, for paper and for notebooks."""

from collections.abc import Mapping, Sequence

import numpy as np

from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis
from classify.figures.confusion import draw_confusion
from classify.figures.curves import draw_calibration, draw_curves, draw_sizes
from classify.figures.drawing import BAD, MUTED, SERIES, Drawing, LegendItem
from classify.figures.feature_map import MARKERS, draw_map
from classify.figures.learning import draw_panels, list_panels
from classify.figures.sweeps import draw_candidates
from classify.scores.words import metric_name
from classify.search.leaderboard import Result

# More classes than fit have no style of their own on the map, except those with most mistakes.
_MOST_STYLES, _FEW_STYLES = 20, len(SERIES)


def draw_figures(dataset: Dataset, result: Result, analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of a finished run by name; nothing is drawn yet."""
    rates = "false positive rate", "true positive rate"
    labelled = "share of the images labelled", "accuracy"
    metric = metric_name(result.metric)
    styles = map_styles(dataset, analysis)
    drawings = [
        *draw_candidates(result, metric),
        *draw_panels(list_panels(result)),
        draw_confusion("confusion", analysis.confusion, dataset.class_names),
        draw_calibration("calibration", analysis.calibration),
        draw_curves("coverage", [analysis.coverage_curve], labelled),
    ]
    if analysis.roc:
        drawings.append(draw_curves("roc", analysis.roc, rates))
        precision = draw_curves(
            "precision_recall", analysis.precision_recall, ("recall", "precision")
        )
        drawings.append(precision)
    if analysis.fewer_images.sizes:
        drawings.append(draw_sizes("fewer_images", analysis.fewer_images.sizes, metric))
    for feature_map in analysis.maps:
        name, rows = map_name(feature_map.method), (result.validation_rows, analysis.wrong_rows)
        drawing = draw_map(name, feature_map, dataset.y, styles, *rows)
        drawings.append(drawing._replace(legend=_map_legend(dataset.class_names, styles)))
    return {drawing.name: drawing for drawing in drawings}


def _map_legend(class_names: Sequence[str], styles: Mapping[int, int]) -> tuple[LegendItem, ...]:
    """Return the colours and markers of classes, and those of splits and mistakes."""
    classes = (
        LegendItem(class_names[label], SERIES[i % len(SERIES)], MARKERS[i // len(SERIES)])
        for label, i in styles.items()
    )
    splits = (("training", True), ("validation", False))
    marks = (LegendItem(f"{name} image", MUTED, "o", hollow) for name, hollow in splits)
    return *classes, *marks, LegendItem("wrong prediction", BAD, "o", hollow=True)


def map_name(method: str) -> str:
    """Return the name of the figure of a map."""
    return f"map_{method.lower().replace('-', '')}"


def map_styles(dataset: Dataset, analysis: Analysis) -> dict[int, int]:
    """Return class -> number of its colour and marker on the map."""
    K = len(dataset.class_names)
    wrong = np.bincount(dataset.y[analysis.wrong_rows], minlength=K)
    worst = np.argsort(-wrong, kind="stable")[:_FEW_STYLES]
    classes = worst.tolist() if K > _MOST_STYLES else range(K)
    return {label: number for number, label in enumerate(classes)}
