"""What the page shows of mistakes, with overlays and neighbours, and of near-duplicates."""

from collections.abc import Sequence
from typing import Any

from classify.activation.explain import FOLD, Explained, sides_of
from classify.data.dataset import Dataset
from classify.diagnosis.diagnostics import Mistake
from classify.report.images import Images
from classify.search.leaderboard import Result

MOST_PAIRS = 12
_SIDES = "training", "validation", "test"


def explained_mistakes(
    images: Images, dataset: Dataset, mistakes: Sequence[Mistake], explained: Explained
) -> list[dict[str, Any]]:
    """Return mistakes with their images, overlays and neighbours, by the names of the template.

    Args:
        images: The images of the page, with those of the mistakes and of their neighbours.
        dataset: The rows that were trained on.
        mistakes: The mistakes that are shown.
        explained: The same ones, explained.
    """
    shown, rows = images.show(mistakes), {mistake.row for mistake in mistakes}
    for one, overlay, nearest in zip(shown, explained.overlays, explained.nearest, strict=True):
        one |= {"overlay": overlay, "nearest": []}
        for row, cosine in nearest:
            words = {"key": dataset.keys[row], "label": dataset.class_names[dataset.y[row]]}
            # Scripts look for one image of each row.
            words |= {"row": row, "cosine": cosine, "is_first": row not in rows}
            one["nearest"].append(words | images.thumbnails[row]._asdict())
            rows.add(row)
    return shown


def near_pairs(
    images: Images, dataset: Dataset, result: Result, explained: Explained
) -> list[dict[str, Any]]:
    """Return the most similar near-duplicates in two splits, with their images."""
    sides: Any = sides_of(result) if explained.near else ()

    def describe(row: int) -> dict[str, Any]:
        side = int(sides[row])
        where = f"fold {side - FOLD + 1}" if side >= FOLD else f"{_SIDES[side]} image"
        words = {"key": dataset.keys[row], "label": dataset.class_names[dataset.y[row]]}
        return words | {"side": where} | images.thumbnails[row]._asdict()

    return [
        {"cosine": cosine, "images": [describe(first), describe(second)]}
        for first, second, cosine in explained.near[:MOST_PAIRS]
    ]
