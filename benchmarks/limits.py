"""What this machine can do at most, measured by limits.c: bytes read and operations done a second."""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from compiled import compiled

from pyengine import _core
from pyengine.cpus import usable_cpus
from pyengine.pages import HUGE_PAGE

__all__ = ["CACHED", "MEMORY", "SECOND_LEVEL", "Limits", "best", "compared", "measure", "operations_a_cycle", "stream"]

SECOND_LEVEL = 1_000_000
CACHED = 52_000_000
"""About the weights that a decoding step of the base-size model reads; in a large shared cache or in memory."""
MEMORY = 1 << 30
"""Larger than the caches of the machines that these benchmarks ran on."""


class Limits:
    """The figures of limits.c."""

    def __init__(self, figures: dict[str, float]) -> None:
        self.figures = figures

    @property
    def clock(self) -> float:
        """Cycles a second."""
        return self.figures["clock"]

    def read(self, size: int, *, every: bool = True, huge: bool | None = None) -> float:
        """Bytes a second from a buffer of so many bytes; `every` thread or one; pages of a kind, or the best."""
        kinds = ("small", "huge") if huge is None else ("huge",) if huge else ("small",)
        return max(self.figures[f"read {size} {kind} pages {_team(every)}"] for kind in kinds)

    def int8(self, isa: str, *, every: bool = True) -> float:
        """int8 operations a second, a multiplication and an addition being two; 0 where it is not measured."""
        return self.figures.get(f"int8 {isa} {_team(every)}", 0.0)

    def float32(self, *, every: bool = True) -> float:
        return self.figures.get(f"float32 {_team(every)}", 0.0)


def measure(*sizes: int, threads: int | None = None, rounds: int = 1) -> Limits:
    """Run limits.c: a quarter of a second for each figure, which is the best of the rounds.

    `threads`: all, by default every usable CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = compiled("limits.c", Path(folder), "-fopenmp")
        command = [str(program), str(threads or usable_cpus()), *map(str, sizes)]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
    return best([Limits(json.loads(run)) for run in runs])


def best(found: list[Limits]) -> Limits:
    """The highest of each figure: other tenants slow a machine down, nothing speeds it up."""
    return Limits({name: max(each.figures[name] for each in found) for name in found[0].figures})


def stream(size: int, threads: int) -> float:
    """Bytes a second that the C library's memcmp reads, in small and in huge pages: the best pass of all.

    It shares nothing with limits.c: the library's own vector code compares two halves that are equal.
    """
    return max(max(compared(size, threads, huge=huge)) for huge in (False, True))


def compared(size: int, threads: int, *, huge: bool) -> list[float]:
    """Bytes a second of each pass of memcmp over a buffer, for a quarter of a second."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.restype, memcmp.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    rates, part = list[float](), size // threads // 2 * 2
    room = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    values = np.frombuffer(room, np.uint8)
    values[:] = 1
    start = values.ctypes.data + -values.ctypes.data % HUGE_PAGE

    def compare(i: int) -> int:
        return memcmp(start + i * part, start + i * part + part // 2, part // 2)

    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + 0.25
        while (begun := time.perf_counter()) < end:
            assert not any(pool.map(compare, range(threads)))
            rates.append(part * threads / (time.perf_counter() - begun))
    return rates


def operations_a_cycle(cpu: dict[str, str]) -> int | None:
    """int8 operations a cycle of one core by its maker's documents, with the best instruction set here.

    Intel's server cores run two vpdpbusd of 64 products a cycle. AMD's Zen 4 runs the 512 bits in two halves, one
    a cycle; Zen 5 runs two whole ones. None: not known.
    """
    if _core.available_isas()[-1] != "avx512vnni":
        return None
    if cpu.get("vendor_id") == "GenuineIntel":
        return 256
    return {"25": 128, "26": 256}.get(cpu.get("cpu family", ""))


def _team(every: bool) -> str:
    return "all" if every else "one"
