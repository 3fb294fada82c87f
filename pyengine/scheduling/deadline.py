"""A time limit that long calls look at between steps, and while they wait for their turn."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyengine.errors import DeadlineError

__all__ = ["Deadline"]


class Deadline:
    """`seconds` from now; None: never."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def cancel(self) -> None:
        """It is over."""
        self._seconds, self._end = 0.0, -math.inf

    def check(self) -> None:
        """DeadlineError once the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            message = f"timeout: the call was not done after {self._seconds:g} seconds"
            raise DeadlineError(message, keywords=("timeout",))

    @property
    def left(self) -> float | None:
        """Seconds left, as long as a lock can wait at most; None: any number of them."""
        if self._end is None:
            return None
        return min(max(self._end - time.monotonic(), 0.0), threading.TIMEOUT_MAX)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The time that passes inside the block does not count."""
        start = time.monotonic()
        try:
            yield
        finally:
            if self._end is not None:
                self._end += time.monotonic() - start
