"""Which functions of the engine's core a thread is in, looked at many times a second, by sampler.c."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from compiled import compiled

from pyengine import _core

__all__ = ["PERIOD", "Sampler"]

DEPTH = 16
PERIOD = 4_999_000
"""Nanoseconds between two looks; a prime number of microseconds, in step with nothing that the engine does."""


class Sampler:
    """Compiles sampler.c, and reads from the core's symbols which function lies where."""

    def __init__(self, most: int = 1 << 15) -> None:
        """`most`: samples of one stretch of time, five milliseconds each."""
        with tempfile.TemporaryDirectory() as folder:
            library = compiled("sampler.c", Path(folder), "-shared", "-fPIC", "-lrt")
            self._library = ctypes.CDLL(str(library))
        self._library.begin.argtypes = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64
        self._taken = ctypes.c_uint64.in_dll(self._library, "taken")
        self._mark = ctypes.c_uint64.in_dll(self._library, "mark")
        self._most = most
        self._starts, self._names = _functions()

    @contextmanager
    def mark(self, number: int) -> Iterator[None]:
        """Samples that are taken in a `with` block bear this number, others 0."""
        self._mark.value = number
        try:
            yield
        finally:
            self._mark.value = 0

    @contextmanager
    def samples(self) -> Iterator[list[tuple[int, list[str]]]]:
        """Those of this thread in a `with` block, after it: mark, and the core's functions, the innermost first."""
        room = np.zeros((self._most, 1 + DEPTH), np.uint64)
        found: list[tuple[int, list[str]]] = []
        if self._library.begin(room.ctypes.data, self._most, PERIOD) != 0:
            raise OSError("this system has no timer that signals a thread (timer_create, SIGEV_THREAD_ID)")
        try:
            yield found
        finally:
            self._library.end()
        for mark, *frames in room[: self._taken.value].tolist():
            found.append((mark, [name for address in frames if (name := self._name(address))]))

    def _name(self, address: int) -> str:
        """Of the function at this address; empty outside of the core."""
        place = bisect_right(self._starts, address) - 1
        return self._names[place] if place >= 0 else ""


def _functions() -> tuple[list[int], list[str]]:
    """Where the core's functions start in this process, ascending, and their names; its end has an empty name."""
    path = _core.__file__
    done = subprocess.run(["nm", "--numeric-sort", "--defined-only", path], check=True, capture_output=True, text=True)
    symbols = [line.split() for line in done.stdout.splitlines()]
    found = [(int(address, 16), name) for address, kind, name in symbols if kind in "tT"]
    if not any(name == "pe_session_step" for _, name in found):
        raise OSError(f"{path} has no symbols: it was stripped; build it in a checkout, pip install -e .")
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if path in line]
    first, last = int(ranges[0][0], 16), int(ranges[-1][1], 16)
    starts, names = zip(*found, strict=True)
    return [*(first + start for start in starts), last], [*names, ""]
