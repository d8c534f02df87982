"""The labels of one image as a bar chart."""

from collections.abc import Sequence
from pathlib import Path

from classify.report.evaluation import Answer
from classify.report.figures import load_matplotlib

CREATOR = "headstart predict-images"  # in the metadata of a chart


def draw_chart(path: Path, key: str, labels: Sequence[Answer]) -> None:
    """Draw a bar for each label of one image, the first on top.

    Args:
        path: The file; its ending, one of ``CHART_ENDINGS``, is the format.
        key: The key of the image.
        labels: Its labels, best first.
    """
    load_matplotlib()
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
