"""The most bytes and pixels of an image, and of all images that are under way at one time.

A few bytes can become many pixels, and a file or an answer may have no end. An image above a limit
is refused. Workers wait for each other, so that all of their images together stay below it, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Thread, current_thread

from extract.core.errors import ImageError
from extract.limits.prefetch import is_abandoned

# 134 million pixels, as in a panorama of 16,384 x 8,192; in 16 bits and RGB they are 805 MB.
MOST_BYTES, MOST_PIXELS = 2**30, 2**27
# How long a worker waits until it looks whether a thread in front of it was abandoned.
_LOOK_SECONDS = 1.0


class Limit:
    """The most of one thing, for an image and for all images under way.

    Attributes:
        flag: The flag that sets it.
        most: Its value.
    """

    def __init__(self, flag: str, most: int) -> None:
        self.flag, self.most = flag, most
        self._claims: dict[Thread, int] = {}
        self._changed = Condition()

    def claim(self, amount: int) -> None:
        """Wait until this thread may hold an amount, in the place of what it has claimed before.

        Outside of ``under_way`` a thread does not wait.
        """
        me = current_thread()
        with self._changed:
            if amount <= self._claims.get(me, amount):
                return
            self._claims[me] = 0  # who waits holds nothing, so no two wait for each other
            self._changed.notify_all()
            while (others := self._others()) and others + amount > self.most:
                self._changed.wait(_LOOK_SECONDS)
            self._claims[me] = amount

    def _others(self) -> int:
        return sum(n for thread, n in self._claims.items() if not is_abandoned(thread))

    def open(self) -> None:
        """Let this thread claim."""
        with self._changed:
            self._claims[current_thread()] = 0

    def close(self) -> None:
        """Give back what this thread has claimed."""
        with self._changed:
            self._claims.pop(current_thread(), None)
            self._changed.notify_all()


BYTES = Limit("--max-image-bytes", MOST_BYTES)
PIXELS = Limit("--max-image-pixels", MOST_PIXELS)


def set_limits(most_bytes: int, most_pixels: int) -> None:
    """Set both limits, for every thread of this process."""
    BYTES.most, PIXELS.most = most_bytes, most_pixels


@contextmanager
def under_way() -> Iterator[None]:
    """Count what this thread claims until the block ends."""
    limits = BYTES, PIXELS
    for limit in limits:
        limit.open()
    try:
        yield
    finally:
        for limit in limits:
            limit.close()


def claim_bytes(size: int) -> None:
    """Refuse an image file that is too large, or wait until it can be held in memory.

    Raises:
        ImageError: It is larger than ``--max-image-bytes``.
    """
    if size > BYTES.most:
        raise ImageError(f"is {size:,} bytes; at most {BYTES.most:,} are read; see {BYTES.flag}")
    BYTES.claim(size)
