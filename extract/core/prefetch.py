"""Work done in threads ahead of whoever needs it, in order; what hangs is left behind.

Python ends no thread from outside, and at its own end it waits for those of its executors. These
are daemons: where one is stuck, in a read or in a decoder, another takes its place, and the process
can end without it.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import TypeVar

from extract.core.errors import SourceError

# Well above what a remote read takes at most: three tries, each with a limit of a minute.
LIMIT_SECONDS = 300.0
# A thread that was left behind keeps its memory, and its processor where it computes.
MOST_STUCK = 16
# A wait is cut into pieces: a signal that comes just before one, or to another thread, does not end
# it, and Python answers Ctrl-C only between them.
_ANSWER_SECONDS = 0.5
# What is under way when nobody wants it any more may end in peace, if it does so soon.
_GRACE_SECONDS = 1.0

T = TypeVar("T")
X = TypeVar("X")

_stuck: list[Thread] = []


class _Piece(Future[T]):
    """Work that a thread began at a moment, or has not yet begun."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self.work = work
        self.began: tuple[float, Thread] | None = None


def map_in_threads(
    work: Callable[[X], T], things: Iterable[X], workers: int, window: int
) -> Generator[T | None, None, None]:
    """Do work in threads and give out what comes of it, in order.

    Args:
        work: What to do with each thing; what it raises is raised here.
        things: What is worked on.
        workers: Threads.
        window: How many things may be under way.

    Yields:
        What ``work`` returned; None where it took longer than ``LIMIT_SECONDS``.

    Raises:
        SourceError: More than ``MOST_STUCK`` threads hang.
    """
    waiting: SimpleQueue[_Piece[T] | None] = SimpleQueue()
    threads = [_start(waiting) for _ in range(workers)]
    under_way: deque[_Piece[T]] = deque()
    try:
        for thing in things:
            under_way.append(_Piece(partial(work, thing)))
            waiting.put(under_way[-1])
            if len(under_way) >= window:
                yield _take(under_way.popleft(), waiting, threads)
        while under_way:
            yield _take(under_way.popleft(), waiting, threads)
    finally:
        until = time.monotonic() + _GRACE_SECONDS
        for piece in under_way:
            piece.cancel()
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _start(waiting: SimpleQueue[_Piece[T] | None]) -> Thread:
    thread = Thread(target=_serve, args=(waiting,), name="ahead", daemon=True)
    thread.start()
    return thread


def _serve(waiting: SimpleQueue[_Piece[T] | None]) -> None:
    """Work until there is nothing more to do, or until somebody has given up on it."""
    with suppress(InvalidStateError):  # another thread is in this one's place
        while piece := waiting.get():
            piece.began = time.monotonic(), current_thread()
            if not piece.set_running_or_notify_cancel():
                continue
            try:
                made = piece.work()
            except BaseException as error:  # as in an executor: it is raised where it is waited for
                piece.set_exception(error)
            else:
                piece.set_result(made)


def _take(
    piece: _Piece[T], waiting: SimpleQueue[_Piece[T] | None], threads: list[Thread]
) -> T | None:
    """Wait for the oldest piece; where it hangs, put a thread in the place of its own."""
    while not piece.done():
        # The oldest is begun before all others: it is about to be if it is not yet.
        began, thread = piece.began or (time.monotonic(), None)
        left = began + LIMIT_SECONDS - time.monotonic()
        if left > 0:
            wait([piece], min(left, _ANSWER_SECONDS))
        elif thread:
            with suppress(InvalidStateError):  # it has come to its end just now
                piece.set_exception(TimeoutError())
                _leave(thread)
                threads[threads.index(thread)] = _start(waiting)
                return None
    return piece.result()


def _leave(thread: Thread) -> None:
    _stuck[:] = [*filter(Thread.is_alive, _stuck), thread]
    if len(_stuck) > MOST_STUCK:
        raise SourceError(
            f"{len(_stuck)} images: each took longer than {LIMIT_SECONDS:g} s, and none can be "
            "stopped; expected a disk or a network that answers, and few damaged images; look "
            "after it, take out those that were named, and run the same command again"
        )
