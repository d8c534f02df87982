"""Matplotlib, imported late and without a backend, and figures that notebooks show."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

# Pixels per inch of a figure in a notebook, which shows it half as large.
_DPI = 144


def load_matplotlib() -> Any:
    """Import matplotlib, also where MPLBACKEND is no backend that it knows: none is needed."""
    named = os.environ.pop("MPLBACKEND", "")
    is_new = "matplotlib" not in sys.modules
    import matplotlib

    if named:
        os.environ["MPLBACKEND"] = named
        with suppress(ValueError):
            matplotlib.rcParams.update({"backend": named} if is_new else {})
    return matplotlib


@contextmanager
def quiet() -> Iterator[None]:
    """Let text in scripts pass that the font lacks: browsers have more fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def new_figure(size: Sequence[float]) -> Any:
    """Return an empty figure of Matplotlib, in inches, which a notebook shows without pyplot."""
    return _figure_class()(figsize=tuple(size), facecolor="white")


@cache
def _figure_class() -> Any:
    """Return the class of figures, as Matplotlib is imported late."""
    load_matplotlib()
    from matplotlib.figure import Figure  # pyplot would look for a screen

    class NotebookFigure(Figure):
        """A figure that notebooks show without pyplot."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            out = io.BytesIO()
            with quiet():
                self.savefig(out, format="png", dpi=_DPI)
            width, height = (round(72 * side) for side in self.get_size_inches())
            return out.getvalue(), {"width": width, "height": height}

    return NotebookFigure
