"""The progress of a long step: one bar at a time, or a plain line from time to time."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from extract.core.console import log

# Without a terminal a line says from time to time how far a long step is.
LINE_SECONDS = 30.0
# How often a bar shows that time passes.
_TICK_SECONDS = 1.0
# A bar of fixed length, so that the words after it have room.
_BAR = "{l_bar}{bar:10}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"

# What is under way, the step within another one last.
_open: list[Any] = []


@contextmanager
def progress(total: int, unit: str, done: int = 0, label: str = "") -> Iterator[Any]:
    """Show a tqdm bar with the remaining time; without a terminal a line every 30 s.

    While a step within a step is under way, its bar is in the place of the outer one.

    Args:
        total: Steps in all.
        unit: The name of the steps, as in ``images``.
        done: Steps that an earlier run has finished.
        label: The name of the work.

    Yields:
        The bar: ``update(n)`` and ``set_postfix_str(text)``.
    """
    quiet = log.level > logging.INFO
    if quiet or "ipykernel" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a text bar
            from tqdm.auto import tqdm
        with tqdm(total=total, initial=done, unit=unit, desc=label or None, disable=quiet) as bar:
            yield bar
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _one_bar(total, unit, done, label) as bar:
            yield bar
    else:
        with _lines(_Lines(total, unit, done, label)) as bar:
            yield bar


@contextmanager
def step(label: str) -> Iterator[None]:
    """Say that something long begins, and from time to time that it still goes on."""
    began = time.monotonic()
    log.info("%s ...", label)

    def say() -> None:
        log.info("still %s: %.0f s", label, time.monotonic() - began)

    with _every(LINE_SECONDS, say):
        yield


@contextmanager
def _one_bar(total: int, unit: str, done: int, label: str) -> Iterator[Any]:
    from tqdm import tqdm

    outer = _open[-1] if _open else None
    if outer is not None:
        label = f"{outer.desc.removesuffix(': ')} {outer.n}/{outer.total}, {label}"
        outer.clear()
        outer.disable = True  # nothing draws it meanwhile
    bar = tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=label or None,
        bar_format=_BAR,
        smoothing=0.1,
        miniters=1,
        position=0,
        leave=outer is None,
        dynamic_ncols=True,
    )
    _open.append(bar)
    try:
        with bar, _every(_TICK_SECONDS, bar.refresh):
            yield bar
    finally:
        _open.remove(bar)
        if outer is not None:
            outer.disable = False
            outer.refresh()


class _Lines:
    """The progress bar where stderr is no terminal."""

    def __init__(self, total: int, unit: str, done: int, label: str) -> None:
        self._total, self._unit, self._done, self._first = total, unit, done, done
        self._label, self._began = label, time.monotonic()

    def update(self, steps: int) -> None:
        """Count steps."""
        self._done += steps

    def set_postfix_str(self, text: str) -> None:
        """Ignore a text that a bar would show."""

    def __str__(self) -> str:
        label = f"{self._label}: " * bool(self._label)
        text = f"{label}{self._done:,} of {self._total:,} {self._unit}"
        if steps := self._done - self._first:
            left = (self._total - self._done) * (time.monotonic() - self._began) / steps
            text += f", about {left:.0f} s left"
        return text


@contextmanager
def _lines(lines: _Lines) -> Iterator[_Lines]:
    def say() -> None:
        # Whatever mutes the notes of the work within it.
        text = "; ".join(map(str, _open))
        log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None))

    _open.append(lines)
    try:
        if len(_open) > 1:  # the outer one says both
            yield lines
        else:
            with _every(LINE_SECONDS, say):
                yield lines
    finally:
        _open.remove(lines)


@contextmanager
def _every(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Call a function again and again in a thread, until the end of the block."""
    stop = threading.Event()

    def repeat() -> None:
        with suppress(OSError, ValueError):  # the terminal is gone
            while not stop.wait(seconds):
                action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
