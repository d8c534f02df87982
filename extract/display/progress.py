"""The progress of a long step: a bar, or a plain line from time to time."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from extract.core.console import log

# Without a terminal a line says from time to time how far a long step is.
LINE_SECONDS = 30.0


@contextmanager
def progress(total: int, unit: str, done: int = 0, label: str = "") -> Iterator[Any]:
    """Show a tqdm bar with rate and remaining time; without a terminal a line every 30 s.

    Args:
        total: Steps in all.
        unit: The name of one step.
        done: Steps that an earlier run has finished.
        label: The name of the work.

    Yields:
        The bar: ``update(n)`` and ``set_postfix_str(text)``.
    """
    quiet = log.level > logging.INFO
    notebook = "ipykernel" in sys.modules
    if quiet or notebook or sys.stderr.isatty():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a text bar
            from tqdm.auto import tqdm
        with tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=label or None,
            disable=quiet,
            smoothing=0.1,
            leave=None,  # a bar within another one goes when it is done
        ) as bar:
            yield bar
    else:
        yield _Lines(total, unit, done)


class _Lines:
    """The progress bar where stderr is no terminal: a plain line every ``LINE_SECONDS``."""

    def __init__(self, total: int, unit: str, done: int) -> None:
        self._total, self._unit, self._done, self._first = total, unit, done, done
        self._began = self._said = time.monotonic()

    def update(self, steps: int) -> None:
        """Count steps, and print a line if the last one is long ago."""
        self._done += steps
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS and self._done < self._total:
            rate = (self._done - self._first) / (now - self._began)
            left = (self._total - self._done) / max(rate, 1e-9)
            units = self._unit.removesuffix("s") + "s"
            log.info(f"{self._done} of {self._total} {units}, about {left:.0f} s left")
            self._said = now

    def set_postfix_str(self, text: str) -> None:
        """Ignore a text that a bar would show."""
