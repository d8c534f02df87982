"""A bar chart of the best classes of one image."""

from collections.abc import Sequence
from pathlib import Path

from extract.core.atomic import atomic_write
from extract.core.errors import HeadError


def save_chart(path: Path, title: str, labels: Sequence[str], scores: Sequence[float]) -> None:
    """Draw a bar for each label of one image, the first on top, with an atomic write.

    Args:
        path: The file; its ending, one of ``CHART_ENDINGS``, is the format.
        title: The name of the image.
        labels: Class names, best first.
        scores: Their scores, 0 to 1.

    Raises:
        HeadError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # pyplot would look for a screen

    figure = Figure(figsize=(8, 1.2 + 0.35 * len(labels)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(labels)), scores)
    axes.bar_label(bars, [f"{score:.1%}" for score in scores], padding=3)
    # A dollar in a name would start a formula.
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="score", xlim=(0, 1.1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    with atomic_write(path, HeadError) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:].lower())
