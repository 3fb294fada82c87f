"""Lines of a file descriptor, in batches of what has arrived."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from pyengine.errors import InputError

__all__ = ["LineReader"]

CHUNK = 1 << 16

PATIENCE = 0.01
"""Seconds without input after which a batch ends."""


class LineReader:
    """Reads lines of UTF-8 that end in a line feed, the last one perhaps not.

    A program on the other side of a pipe may wait for the answer to its line before it writes another. So a
    batch ends when no further line has arrived, and the reader blocks only between batches. A file is one
    batch.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._searched = 0  # no line feed before here
        self._ended = False
        self._number = 0

    def batches(self) -> Iterator[Iterator[str]]:
        """Each batch has to be read to its end before the next. InputError names a line of invalid UTF-8."""
        while (first := self._line(block=True)) is not None:
            yield self._batch(first)

    def _batch(self, first: bytes) -> Iterator[str]:
        line: bytes | None = first
        while line is not None:
            self._number += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"standard input, line {self._number}: invalid UTF-8 at byte {error.start + 1}: "
                    f"0x{line[error.start]:02x}"
                ) from None
            yield text
            line = self._line(block=False)

    def _line(self, block: bool) -> bytes | None:
        """The next line without its line feed; None at the end, or if none has arrived, unless `block`."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return line
            self._searched = len(self._buffer)
            if self._ended:
                line, self._buffer, self._searched = bytes(self._buffer), bytearray(), 0
                return line or None
            if not block and not select.select([self._descriptor], [], [], PATIENCE)[0]:
                return None
            chunk = os.read(self._descriptor, CHUNK)
            self._ended = not chunk
            self._buffer += chunk
