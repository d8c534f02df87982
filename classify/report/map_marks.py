"""What the page and its scripts know of the maps."""

from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.splits import TEST
from classify.diagnosis.analysis import Analysis
from classify.figures.drawing import SERIES
from classify.figures.result_figures import map_name, map_styles
from classify.report.images import Images
from classify.search.leaderboard import Result


def map_content(
    dataset: Dataset, result: Result, analysis: Analysis, images: Images
) -> dict[str, Any]:
    """Return the content of the section by the names that its template uses."""
    rows = analysis.maps[0].rows if analysis.maps else np.empty(0, np.int64)
    shown = [row for row, thumbnail in images.thumbnails.items() if thumbnail.image]
    return {
        "map_name": map_name,
        "map_styles": map_styles(dataset, analysis),
        "colours": len(SERIES),
        "mapped": {
            "rows": len(rows),
            "of": int((dataset.split != TEST).sum()),
            "validation": int(np.isin(rows, result.validation_rows).sum()),
            "wrong": int(np.isin(rows, analysis.wrong_rows).sum()),
            "images": int(np.isin(rows, shown).sum()),
        },
    }


def map_places(dataset: Dataset, analysis: Analysis) -> dict[str, Any] | None:
    """Return the rows of the maps, their places by the name of the map, and styles by class."""
    if not analysis.maps:
        return None
    return {
        "rows": analysis.maps[0].rows.tolist(),
        "places": {map_name(one.method): one.points.T.tolist() for one in analysis.maps},
        "styles": map_styles(dataset, analysis),
    }
