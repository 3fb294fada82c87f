"""A time limit that long calls look at between steps."""

from __future__ import annotations

import time

from pyengine.errors import DeadlineError

__all__ = ["Deadline"]


class Deadline:
    """`seconds` from now; None: never."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """DeadlineError once the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            raise DeadlineError(f"timeout: the call was not done after {self._seconds:g} seconds")
