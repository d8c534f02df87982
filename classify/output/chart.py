"""The labels of one image as a bar chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

CREATOR = "headstart predict-images"  # in the metadata of a chart


class Label(Protocol):
    """A label of an image, and its score."""

    @property
    def label(self) -> str | None:
        """The class name."""

    @property
    def score(self) -> float | None:
        """The score, 0 to 1."""


def draw_chart(path: Path, key: str, labels: Sequence[Label]) -> None:
    """Draw a bar for each label of one image, the first on top; matplotlib is loaded before.

    Args:
        path: The file; its ending, one of ``CHART_ENDINGS``, is the format.
        key: The key of the image.
        labels: Its labels, best first.
    """
    from matplotlib.figure import Figure  # pyplot would look for a screen

    places, scores = range(len(labels)), [p.score or 0.0 for p in labels]
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(places, scores), [f"{score:.1%}" for score in scores], padding=3)
    # A dollar in a name would start a formula.
    axes.set_yticks(places, [str(p.label) for p in labels], parse_math=False)
    axes.set_title(key, parse_math=False)
    axes.set(xlabel="score", xlim=(0, 1.1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    form = path.suffix[1:].lower()
    creator = {"Software" if form == "png" else "Creator": CREATOR}
    figure.savefig(path, dpi=120, format=form, metadata=creator)
