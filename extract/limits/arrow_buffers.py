"""Compressed buffers in Arrow files and streams: how large they become, before they are unpacked.

Source: Message.fbs and File.fbs of Arrow's format, and FlatBuffers' "Internals".
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

_MAGIC, _CONTINUES = b"ARROW1", 0xFFFFFFFF
_DICTIONARY, _BATCH = 2, 3  # kinds of messages
_BLOCK = 24  # offset, bytes of the message, bytes of its body


class _Table(NamedTuple):
    """A table of FlatBuffers: its bytes, and where it starts."""

    content: Any
    start: int

    def number(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(f"<{kind}", self.content, place)[0])

    def find(self, field: int) -> int:
        """Return where a field is, 0 if it is absent."""
        names = self.start - self.number("i", self.start)
        if 4 + 2 * field >= self.number("H", names):
            return 0
        offset = self.number("H", names + 4 + 2 * field)
        return self.start + offset if offset else 0

    def follow(self, place: int) -> "_Table":
        """Return the table or the list that a place leads to."""
        return _Table(self.content, place + self.number("I", place))

    def items(self, field: int, size: int) -> Iterator[int]:
        """Yield where each structure of a list is."""
        if place := self.find(field):
            start = self.follow(place).start
            yield from (start + 4 + size * i for i in range(self.number("I", start)))


def unpacked_size(content: Any) -> int:
    """Return the bytes of all compressed buffers of an Arrow file or stream when unpacked.

    Args:
        content: The file, such as a ``pyarrow.Buffer`` that is mapped into memory.

    Raises:
        struct.error: The file is cut off or damaged.
    """
    file = _Table(content, 0)
    is_file = bytes(content[:6]) == _MAGIC
    messages = _messages_of_file(file, len(content)) if is_file else _messages_of_stream(file)
    return sum(_unpacked(message, body) for message, body in messages)


def _messages_of_stream(file: _Table) -> Iterator[tuple[_Table, int]]:
    place = 0
    while place < len(file.content):
        start = place + 4 * (file.number("I", place) == _CONTINUES)
        size = file.number("i", start)
        if size <= 0:
            return
        message, body = file.follow(start + 4), start + 4 + size
        yield message, body
        length = message.find(3)
        place = body + max(0, file.number("q", length) if length else 0)


def _messages_of_file(file: _Table, size: int) -> Iterator[tuple[_Table, int]]:
    end = size - len(_MAGIC) - 4
    footer = file.follow(end - file.number("i", end))
    for field in (2, 3):  # dictionaries, batches
        for block in footer.items(field, _BLOCK):
            place = file.number("q", block)
            start = place + 4 * (file.number("I", place) == _CONTINUES)
            yield file.follow(start + 4), place + file.number("i", block + 8)


def _unpacked(message: _Table, body: int) -> int:
    kind, header = message.find(1), message.find(2)
    if not header or message.number("B", kind) not in (_DICTIONARY, _BATCH):
        return 0
    batch = message.follow(header)
    if message.number("B", kind) == _DICTIONARY:
        batch = batch.follow(batch.find(1))
    total = 0
    for buffer in batch.items(2, 16) if batch.find(3) else ():
        offset, size = batch.number("q", buffer), batch.number("q", buffer + 8)
        if size > 8:
            total += max(0, batch.number("q", body + offset))
    return total
