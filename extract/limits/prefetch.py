"""Do work in threads, ahead of its consumer and in order; abandon a thread that hangs.

Python cannot end a thread, and waits at its own end for the threads of an executor. These threads
are daemons: where one hangs, in a read or in a decoder, another takes its place, and the process
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
from typing import TypeAlias, TypeVar

from extract.core.errors import SourceError

# Well above the time of a remote read: three tries, each with a limit of a minute.
LIMIT_SECONDS = 300.0
# An abandoned thread keeps its memory, and its processor where it computes.
MOST_STUCK = 16
# Waits are cut into pieces: a signal that comes just before a wait, or to another thread, does not
# end the wait, and Python answers Ctrl-C only between two of them.
_ANSWER_SECONDS = 0.5
# Work under way when the consumer stops may end by itself within this time.
_GRACE_SECONDS = 1.0

T = TypeVar("T")
X = TypeVar("X")

_stuck: list[Thread] = []


class _Task(Future[T]):
    """Work, with the moment and the thread in which it began, None before that."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self.work = work
        self.began: tuple[float, Thread] | None = None


_Queue: TypeAlias = SimpleQueue[_Task[T] | None]


def map_in_threads(
    work: Callable[[X], T], things: Iterable[X], workers: int, window: int
) -> Generator[T | None, None, None]:
    """Apply a function in threads and yield the results in order.

    Args:
        work: The function; its exceptions are raised here.
        things: Its arguments.
        workers: Number of threads.
        window: Number of arguments under way at most.

    Yields:
        The results; None where one took longer than ``LIMIT_SECONDS``.

    Raises:
        SourceError: More than ``MOST_STUCK`` threads hang.
    """
    queue: _Queue[T] = SimpleQueue()
    threads = [_start(queue) for _ in range(workers)]
    under_way: deque[_Task[T]] = deque()
    try:
        for thing in things:
            under_way.append(_Task(partial(work, thing)))
            queue.put(under_way[-1])
            if len(under_way) >= window:
                yield _take(under_way.popleft(), queue, threads)
        while under_way:
            yield _take(under_way.popleft(), queue, threads)
    finally:
        until = time.monotonic() + _GRACE_SECONDS
        for task in under_way:
            task.cancel()
        for _ in threads:
            queue.put(None)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _start(queue: _Queue[T]) -> Thread:
    thread = Thread(target=_serve, args=(queue,), name="prefetch", daemon=True)
    thread.start()
    return thread


def _serve(queue: _Queue[T]) -> None:
    """Work until the queue ends, or until this thread was abandoned."""
    with suppress(InvalidStateError):  # another thread has taken the place of this one
        while task := queue.get():
            task.began = time.monotonic(), current_thread()
            if not task.set_running_or_notify_cancel():
                continue
            try:
                result = task.work()
            except BaseException as error:  # as in an executor: raised in the consumer
                task.set_exception(error)
            else:
                task.set_result(result)


def _take(task: _Task[T], queue: _Queue[T], threads: list[Thread]) -> T | None:
    """Wait for the oldest task; where it hangs, replace its thread and return None."""
    while not task.done():
        # The oldest task begins before all others: if it has not begun, it is about to.
        began, thread = task.began or (time.monotonic(), None)
        left = began + LIMIT_SECONDS - time.monotonic()
        if left > 0:
            wait([task], min(left, _ANSWER_SECONDS))
        elif thread:
            with suppress(InvalidStateError):  # it has just ended
                task.set_exception(TimeoutError())
                _abandon(thread)
                threads[threads.index(thread)] = _start(queue)
                return None
    return task.result()


def is_abandoned(thread: Thread) -> bool:
    """Whether a thread hangs, and another has taken its place."""
    return thread in _stuck


def _abandon(thread: Thread) -> None:
    _stuck[:] = [*filter(Thread.is_alive, _stuck), thread]
    if len(_stuck) > MOST_STUCK:
        found = (
            f"{len(_stuck)} images took longer than {LIMIT_SECONDS:g} s each and cannot be stopped"
        )
        remedy = "check the disk or network, remove the images named above"
        raise SourceError(f"{found}; {remedy}, and run the same command again")
