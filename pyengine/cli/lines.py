"""Lines of a file descriptor, in batches of what has arrived."""

from __future__ import annotations

import codecs
import os
import select
import stat
from collections.abc import Iterator
from time import monotonic

from pyengine.errors import InputError

__all__ = ["LineReader"]

CHUNK = 1 << 16

PATIENCE, LONGEST_WAIT = 0.01, 0.05
"""Seconds without input after which a batch ends; and how long it may have waited in all."""
SIGNALS = 0.5
"""Seconds after which Python looks at signals: one that came just before a read began would not wake it."""


class LineReader:
    """Reads lines of UTF-8 that end in a line feed, the last one perhaps not.

    A program on the other side of a pipe may wait for the answer to its line before it writes another. So a
    batch ends when no further line has arrived, and the reader blocks only between batches. One that writes
    steadily gets answers, too: a batch also ends when its lines have been waited for so long in all. Input that
    is always there, such as a file, is one batch; all of a file is checked before its first line is given.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._searched = 0  # no line feed before here
        self._ended = False
        self._number = 0
        self._waited = 0.0

    def batches(self) -> Iterator[Iterator[str]]:
        """Each batch has to be read to its end before the next. InputError names a line of invalid UTF-8."""
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self._check_file()
        while (first := self._line(block=True)) is not None:
            yield self._batch(first)

    def _check_file(self) -> None:
        """InputError unless what is left of the file is UTF-8; the place in the file stays."""
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        decoder = codecs.getincrementaldecoder("utf-8")()
        number, line_start, read = 1, 0, 0  # line_start and read: bytes from `start`
        while True:
            chunk = os.read(self._descriptor, CHUNK)
            pending = len(decoder.getstate()[0])  # of a character that the last chunk cut
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                good = chunk[: max(0, error.start - pending)]
                number += good.count(b"\n")
                if b"\n" in good:
                    line_start = read + good.rindex(b"\n") + 1
                place = read - pending + error.start - line_start
                raise _invalid(number, place, error.object[error.start]) from None
            if not chunk:
                break
            number += chunk.count(b"\n")
            if b"\n" in chunk:
                line_start = read + chunk.rindex(b"\n") + 1
            read += len(chunk)
        os.lseek(self._descriptor, start, os.SEEK_SET)

    def _batch(self, first: bytes) -> Iterator[str]:
        line: bytes | None = first
        self._waited = 0.0
        while line is not None:
            self._number += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _invalid(self._number, error.start, line[error.start]) from None
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
            if block:
                while not select.select([self._descriptor], [], [], SIGNALS)[0]:
                    pass
            else:
                began = monotonic()
                arrived = select.select([self._descriptor], [], [], PATIENCE)[0]
                self._waited += monotonic() - began
                if not arrived or self._waited > LONGEST_WAIT:
                    return None
            chunk = os.read(self._descriptor, CHUNK)
            self._ended = not chunk
            self._buffer += chunk


def _invalid(number: int, place: int, byte: int) -> InputError:
    return InputError(f"standard input, line {number}: invalid UTF-8 at byte {place + 1}: 0x{byte:02x}")
