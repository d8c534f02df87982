"""The best classes of one image as a bar chart."""

from collections.abc import Sequence
from pathlib import Path

from classify.inference.predict import Prediction
from extract.core.atomic import atomic_write
from extract.core.errors import HeadError


def save_chart(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw a bar for each label of one image, best on top.

    Args:
        predictions: The labels of one image, best first.
        path: The file, which has its name only once it is whole; its ending, one of
            ``CHART_ENDINGS``, says what is drawn.

    Raises:
        HeadError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: that would look for a screen

    figure = Figure(figsize=(8, 1.2 + 0.35 * len(predictions)), layout="constrained")
    axes = figure.subplots()
    places = range(len(predictions))
    scores = [prediction.score or 0.0 for prediction in predictions]
    bars = axes.barh(places, scores)
    axes.bar_label(bars, [f"{score:.1%}" for score in scores], padding=3)
    # A name may hold a dollar, which would start a formula.
    axes.set_yticks(places, [str(p.label) for p in predictions], parse_math=False)
    axes.set_title(predictions[0].key, parse_math=False)
    axes.set(xlabel="score", xlim=(0, 1.1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    with atomic_write(path, HeadError) as beside:
        figure.savefig(beside, dpi=120, format=path.suffix[1:].lower())
